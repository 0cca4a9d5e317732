"""Neighbours per second of `wrnb score` by one process and by several, on the CPU of one machine.

    python benchmarks/scale.py --model resnet20@resnet20-cifar10.th [--data cifar10] [--images 2048] [--processes 1 2]
                               [--repeats 2]

Each case is the whole command, started by `accelerate launch` if there are several processes, one
thread each. It runs with few and with many neighbours: the difference of the two times is scoring
alone, what is left of the shorter one is the start. The best of the repeats counts. One process
with as many threads is measured for comparison. `ratio` is the rate over that of one process with
one thread. Run it on a machine that does nothing else. Writes benchmarks/scale.csv; the table of
ratios comes last.
"""
import os, subprocess, sys, tempfile, time
from pathlib import Path

import pandas as pd

from common import add_options, origin, parser, show, write_csv

FEW, MANY = 2, 22  # neighbours per image
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", 1, "--mixed_precision", "no",
          "--dynamo_backend", "no", "--num_processes"]


def seconds(a, processes, threads, neighbors):
    "Of one whole command"
    launch = [*LAUNCH, processes] if processes > 1 else []
    score = ["score", a.data, "--model", a.model, "--limit", a.images, "--test-limit", 1, "--n-neighbors", neighbors,
             "--seed", a.seed, "--device", "cpu", "--out"]
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as run:
        command = [str(c) for c in (sys.executable, *launch, "-m", "wrnb.cli", *score, run)]
        start = time.perf_counter()
        subprocess.run(command, env=env, check=True, capture_output=True)
        return time.perf_counter() - start


def measure(a, processes, threads):
    "One row"
    few, many = (min(seconds(a, processes, threads, n) for _ in range(a.repeats)) for n in (FEW, MANY))
    rate = a.images*(MANY - FEW)/(many - few)
    start = few - a.images*(FEW + 1)/rate
    return dict(model=a.model.partition("@")[0], data=a.data, processes=processes, threads=threads, images=a.images,
                n_neighbors=MANY, rate=round(rate, 1), seconds=round(many, 1), start=round(start, 1), seed=a.seed,
                **origin("commit", "device", "torch"))


def main():
    p = parser(__doc__)
    p.add_argument("--model", required=True)
    add_options(p, data="cifar10", images=2048, processes=[1, 2], repeats=2, seed=0)
    a, rows = p.parse_args(), []
    for processes, threads in sorted({(n, 1) for n in a.processes} | {(1, n) for n in a.processes}):
        rows.append(measure(a, processes, threads))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    one = table.rate[(table.processes == 1) & (table.threads == 1)].iloc[0]
    table.insert(7, "ratio", (table.rate/one).round(2))
    write_csv(table, Path(__file__).with_suffix(".csv"))
    show(table[["processes", "threads", "rate", "ratio", "seconds", "start"]])


if __name__ == "__main__": main()
