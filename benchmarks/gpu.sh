#!/usr/bin/env bash
# What wrnb does on one GPU, in three commands of ten minutes at most. Each may run on its own.
#
#   python benchmarks/gpu.py pack --out parts      on a machine that has CIFAR-10: three parts of 48 MiB at most
#   benchmarks/gpu.sh unpack parts                 there, once per part or for all
#   benchmarks/gpu.sh time OUT                     OUT/gpu.csv: scoring and corruptions, fp32 and bf16, compiled and not
#   benchmarks/gpu.sh train OUT                    OUT/*.csv, OUT/config.json: a ResNet-18 through the whole loop
#
# Smaller, to try it: IMAGES=64 NEIGHBORS=2 LIMIT=100 EPOCHS=1 MODEL=resnet20 benchmarks/gpu.sh ...
set -eu
step=${1:?unpack, time or train} place=${2:?a folder}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
model=${MODEL:-resnet18}

case $step in
unpack) "$python" "$here/gpu.py" unpack --parts "$place" ${DATA:+--dest "$DATA"} ;;
time)
    mkdir -p "$place"
    "$python" "$here/gpu.py" time --model "$model" --images "${IMAGES:-50000}" --neighbors "${NEIGHBORS:-50}" \
        --corrupted "${IMAGES:-10000}" --batch-size "${BATCH:-4096}" ${NO_COMPILE:+--no-compile} --csv "$place/gpu.csv" ;;
train)
    run=$(mktemp -d)
    mkdir -p "$place"
    timeout "${SECONDS_AT_MOST:-540}" "$python" -m wrnb.cli run "${DATASET:-cifar10}" --model "$model" --out "$run" \
        --precision bf16 --base-epochs "${EPOCHS:-10}" --epochs "${EPOCHS:-4}" ${LIMIT:+--limit "$LIMIT" --test-limit "$LIMIT"} || echo "stopped: rc $?"
    for file in config.json evaluation.csv validation.csv report.html; do
        if [ -f "$run/$file" ]; then cp "$run/$file" "$place/"; fi
    done
    rm -rf "$run" ;;
*) echo "gpu.sh: $step is neither unpack, time nor train" >&2; exit 2 ;;
esac
