"""Images x neighbours a second of `score_robustness` against the bare forward pass of the same model, on the CPU or a GPU.

    python benchmarks/scoring.py [--model resnet20] [--size 32] [--images 512] [--neighbors 50] [--batch-size 512] [--threads 1 2]
                                 [--precision fp32] [--repeats 3] [--device auto]

Forward pass: the same model, fresh weights, in the same memory format (channels_last) and precision, on batches of as many rows of one
ready-made neighbour batch. Both go through the same number of rows in turn, and the best of the repeats counts. `neighbors` is the share of
the scorer's time that drawing neighbours takes, timed alone. A ratio of 1 is free scoring; the goal is 0.9. Weights and pixels are random:
neither changes the work. Run it on a machine that does nothing else. Writes benchmarks/scoring.csv; the table of ratios comes last.
"""
import argparse, time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from wrnb.core import pick_device, provenance
from wrnb.data import ImageSet
from wrnb.models import load_model
from wrnb.scoring import neighbor_keys, neighbors, score_robustness


def timed(f, device):
    if device.type == "cuda": torch.cuda.synchronize()
    start = time.perf_counter(); f()
    if device.type == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start


def best(fs, repeats, device):
    "Seconds of each function, the best of the repeats, taken in turn so that a busy moment hits all; a first round warms up"
    times = [[timed(f, device) for f in fs] for _ in range(repeats + 1)]
    return [min(t) for t in zip(*times[1:])]


def measure(a, threads, device):
    torch.set_num_threads(threads)
    torch.manual_seed(a.seed)
    pixels = torch.randint(0, 256, (a.images, 3, a.size, a.size), dtype=torch.uint8)
    ds = ImageSet(pixels, [0]*a.images, [str(i) for i in range(10)], [str(i) for i in range(a.images)], "random")
    net = load_model(a.model, 10).to(device, memory_format=torch.channels_last)
    rows = a.images*a.neighbors
    x = (pixels[torch.arange(a.batch_size) % a.images].float()/255).to(device).contiguous(memory_format=torch.channels_last)
    keys = neighbor_keys(x, 1, a.seed)[:, 0]
    sizes = [a.batch_size]*(rows//a.batch_size) + ([rows % a.batch_size] if rows % a.batch_size else [])
    cast = torch.autocast(device.type, dtype=torch.bfloat16) if a.precision == "bf16" else nullcontext()

    def forward():
        with torch.inference_mode(), cast:
            for n in sizes: net(x[:n])

    def draw():
        with torch.inference_mode():
            for n in sizes: neighbors(x[:n], keys[:n], a.eps)

    def score(): score_robustness(net, ds, a.eps, a.neighbors, seed=a.seed, batch_size=a.batch_size, device=str(device), precision=a.precision)

    seconds, plain, drawing = best([score, forward, draw], a.repeats, device)
    info = provenance(device)
    return dict(model=a.model, size=a.size, threads=threads, batch_size=a.batch_size, precision=a.precision, images=a.images, neighbors=a.neighbors,
                rate=round(rows/seconds, 1), forward_rate=round(rows/plain, 1), ratio=round(plain/seconds, 3), drawing=round(drawing/seconds, 3),
                seed=a.seed, commit=info["commit"], device=info["device"], torch=info["versions"]["torch"])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(model="resnet20", size=32, images=512, neighbors=50, batch_size=512, precision="fp32", repeats=3, eps=.05, seed=0, device="auto").items():
        p.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    a = p.parse_args()
    device = pick_device(a.device)
    df = pd.DataFrame([measure(a, t, device) for t in a.threads])
    df.drop(columns="drawing").to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    print(f"{df.device[0]}, torch {df.torch[0]}, commit {df.commit[0]}; ratio: scorer's rate to the forward pass's, goal 0.9")
    print(df[["model", "size", "threads", "batch_size", "precision", "images", "neighbors", "rate", "forward_rate", "drawing", "ratio"]].to_string(index=False))


if __name__ == "__main__": main()
