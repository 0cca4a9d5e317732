"""Peak memory of `wrnb score` on a folder of 5,000 and of 50,000 pictures, neither of which is kept in memory.

    python benchmarks/memory.py [--data FOLDER] [--n 5000 50000] [--neighbors 1] [--threads 1] [--seed 0]

FOLDER has train/ and val/ (default: the Imagenette sample in fastai's data folder, 224 px). Its
training pictures are linked under new names until there are n of them, so that files, names and
decoding are real and the disk stays empty; a set above half a gigabyte is decoded block by block.
A small network (digits_net, fresh weights) scores them with few neighbours, each n in a process of
its own, whose peak resident memory the system reports. `loaded` is the peak when the list of
images stands and none is scored yet. A ratio of 1 means that memory does not grow with the number
of images; the goal is 1.1. Takes some ten minutes. Writes benchmarks/memory.csv; the table of
ratios comes last.
"""
import argparse, os, resource, shutil, subprocess, sys, tempfile
from pathlib import Path

import pandas as pd
import torch

from common import DATA, add_options, origin, parser, show, write_csv
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness

PICTURES = (".jpeg", ".jpg", ".png")


def link(source, out, n):
    "A folder data set of `n` training pictures, all links to those of `source`, and its validation pictures"
    for split, wanted in (("train", n), ("val", 0)):
        files = sorted(f for f in (source/split).rglob("*") if f.suffix.lower() in PICTURES)
        for i in range(wanted or len(files)):
            file = files[i % len(files)]
            to = out/split/file.parent.name/f"{i:07d}{file.suffix}"
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, to)


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024  # Linux counts in KiB


def score(folder, neighbors, threads, seed):
    "Runs in a process of its own: prints peak after loading and at the end"
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    ds = load_data(folder)[0]
    loaded = peak()
    net = load_model("digits_net", len(ds.classes))
    score_robustness(net, ds, .05, neighbors, seed=seed, out=f"{folder}-run", device="cpu")
    print(loaded, peak())


def measure(a, n, home):
    "One row, of n pictures"
    link(a.data, home/str(n), n)
    options = ["--neighbors", a.neighbors, "--threads", a.threads, "--seed", a.seed]
    command = [sys.executable, __file__, "--one", home/str(n), *options]
    env = dict(os.environ, OMP_NUM_THREADS=str(a.threads))
    out = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    loaded, top = map(float, out.split()[-2:])
    return dict(n=n, loaded_mib=round(loaded, 1), peak_mib=round(top, 1))


def main():
    p = parser(__doc__)
    add_options(p, n=[5000, 50000], neighbors=1, threads=1, seed=0, csv=Path(__file__).with_suffix(".csv"))
    p.add_argument("--data", type=Path, default=DATA/"imagenette-sample",
                   help="a folder with train/ and val/, pictures of one size")
    p.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one: return score(a.one, a.neighbors, a.threads, a.seed)
    home = Path(tempfile.mkdtemp(dir=a.data.parent, prefix=".memory"))  # links need the same file system
    try: df = pd.DataFrame([measure(a, n, home) for n in a.n])
    finally: shutil.rmtree(home)
    ratio = (df.peak_mib/df.peak_mib[0]).round(3)
    df = df.assign(ratio=ratio, neighbors=a.neighbors, threads=a.threads, seed=a.seed,
                   **origin("commit", "device", "torch"))
    write_csv(df, a.csv)
    print(f"{df.device[0]}, torch {df.torch[0]}, commit {df.commit[0]}; "
          "ratio: peak memory to that of the first row, goal 1.1")
    show(df[["n", "loaded_mib", "peak_mib", "ratio"]])


if __name__ == "__main__": main()
