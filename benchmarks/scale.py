"""Neighbours a second of `wrnb score` by one process and by several, on the CPU of one machine.

    python benchmarks/scale.py --model resnet20@resnet20-cifar10.th [--data cifar10] [--images 2048] [--processes 1 2] [--repeats 2]

Each case is the whole command, started by `accelerate launch` where there are several processes, one thread each. It runs with few and
with many neighbours: the difference of the two times is scoring alone, what is left of the shorter one is the start. The best of the
repeats counts. One process with as many threads is measured beside it. `ratio` is the rate over that of one process with one
thread. Run it on a machine that does nothing else. Writes benchmarks/scale.csv; the table of ratios comes last.
"""
import argparse, os, subprocess, sys, tempfile, time
from pathlib import Path

import pandas as pd

from wrnb.runs import provenance

FEW, MANY = 2, 22  # neighbours an image


def seconds(a, processes, threads, neighbors):
    "Of one whole command"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, *launch, "-m", "wrnb.cli", "score", a.data, "--model", a.model, "--limit", a.images, "--test-limit", 1, "--n-neighbors", neighbors, "--seed", a.seed, "--device", "cpu", "--out", run]
        start = time.perf_counter()
        subprocess.run([str(c) for c in command], env=dict(os.environ, OMP_NUM_THREADS=str(threads)), check=True, capture_output=True)
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    rows, info = [], provenance()
    for processes, threads in sorted({(p, 1) for p in a.processes} | {(1, p) for p in a.processes}):
        few, many = (min(seconds(a, processes, threads, n) for _ in range(a.repeats)) for n in (FEW, MANY))
        rate = a.images*(MANY - FEW)/(many - few)
        rows.append(dict(model=a.model.partition("@")[0], data=a.data, processes=processes, threads=threads, images=a.images, n_neighbors=MANY, rate=round(rate, 1),
                         seconds=round(many, 1), start=round(few - a.images*(FEW + 1)/rate, 1), seed=a.seed, commit=info["commit"], device=info["device"], torch=info["versions"]["torch"]))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.insert(7, "ratio", (table.rate/table.rate[(table.processes == 1) & (table.threads == 1)].iloc[0]).round(2))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table[["processes", "threads", "rate", "ratio", "seconds", "start"]].to_string(index=False))


if __name__ == "__main__": main()
