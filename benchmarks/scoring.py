"""What scoring costs beside the forward pass of the same model, what bfloat16 changes, and what decoding ahead saves.

    python benchmarks/scoring.py [--models resnet20 efficientnet_lite0] [--threads 1 2] [--precision fp32 bf16] [--neighbors 48]
                                 [--repeats 3] [--no-compile] [--resnet20 FILE] [--pictures FOLDER] [--device auto] [--seed 0]

Three parts, one table each, all in benchmarks/scoring.csv (column `part`):

forward   Images x neighbours a second of `score_robustness` (`rate`) against two forward passes on as many rows, in batches of the same size,
          under inference mode and the same autocast: the user's model as it is, in evaluation mode and channels_last, its batch norms not
          folded (`forward_rate`, `ratio`), and the folded or compiled copy that the scorer works with (`folded_rate`, `ratio_folded`: what is
          below 1 there are the scorer's own costs). The goal is a ratio of 0.9. `drawing` is the share of the scorer's time that the noise
          takes, timed alone; `prepare_s` the seconds that folding or compiling takes, once and outside of the clock. All take turns, the best of
          the repeats counts. ResNet-20 has 32 px and fresh weights, EfficientNet-Lite0 224 px and ImageNet's; pixels are random: neither changes
          the work. 48 neighbours fill the batches; the clean images are passed, and not counted. The compiled copy is timed with all threads.
bf16      Spearman's rank correlation of the scores in bf16 with those in fp32, and how many of the 100 weakest they share: 1,000 real CIFAR-10
          training images, the published ResNet-20 (FILE, or the environment's WRNB_RESNET20; left out without), 50 neighbours, eps 0.05.
decoding  Seconds to score pictures that are decoded from files, with the next block decoded meanwhile (`seconds`) and without (`seconds_in_turn`):
          a small network on the Imagenette sample (FOLDER; left out where it is not there), one thread, one neighbour, so that decoding is much of the work.

Run it on a machine that does nothing else; it takes some ten minutes on two cores. The table of ratios comes last.
"""
import argparse, os, time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from wrnb.core import pick_device

from wrnb.runs import provenance
from wrnb.data import ImageSet, load_data
from wrnb.image_sets import _checked_batches
from wrnb.pretrained import load_model
from wrnb.inference import PRECISIONS, InferenceModel
from wrnb.scoring import neighbor_keys, neighbors, score_robustness

CASES = dict(resnet20=dict(size=32, n_classes=10, images=64, batch_size=512), efficientnet_lite0=dict(size=224, n_classes=1000, images=4, batch_size=32))


def timed(f, device):
    if device.type == "cuda": torch.cuda.synchronize()
    start = time.perf_counter(); f()
    if device.type == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start


def best(fs, repeats, device):
    "Seconds of each function, the best of the repeats, taken in turn so that a busy moment hits all; a first round warms up"
    times = [[timed(f, device) for f in fs] for _ in range(repeats + 1)]
    return [min(t) for t in zip(*times[1:])]


def forward(a, name, precision, threads, compile, device):
    "A row of the first part"
    torch.set_num_threads(threads); torch.manual_seed(a.seed)
    c = CASES[name]; images, size, rows = c["images"], c["size"], c["images"]*a.neighbors
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    ds = ImageSet(pixels, [0]*images, [str(i) for i in range(c["n_classes"])], [str(i) for i in range(images)], "random")
    net = load_model(name, c["n_classes"]).to(device, memory_format=torch.channels_last)
    fast = InferenceModel(net, device, precision, compile)
    x = ds.pixels(torch.arange(c["batch_size"]) % images).to(device)
    keys, channels_last = neighbor_keys(x, 1, a.seed)[:, 0], x.contiguous(memory_format=torch.channels_last)
    sizes = [min(c["batch_size"], rows - n) for n in range(0, rows, c["batch_size"])]

    def plain():
        with torch.inference_mode(), torch.autocast(device.type, PRECISIONS[precision], PRECISIONS[precision] is not None):
            for n in sizes: net(channels_last[:n])

    def folded():
        for n in sizes: fast(x[:n])

    def draw():
        with torch.inference_mode():
            for n in sizes: neighbors(x[:n], keys[:n], .05)

    def score():
        with patch("wrnb.scoring.InferenceModel", lambda *args: fast):
            score_robustness(net, ds, .05, a.neighbors, seed=a.seed, batch_size=c["batch_size"], device=str(device))

    prepare = timed(lambda: [fast(x[:n]) for n in {images, *sizes}], device)
    seconds, bare, own, drawing = best([score, plain, folded, draw], a.repeats, device)
    return dict(part="forward", model=name, size=size, threads=threads, batch_size=c["batch_size"], precision=precision, compile="yes" if compile else "no", images=images, neighbors=a.neighbors,
                rate=round(rows/seconds, 1), forward_rate=round(rows/bare, 1), ratio=round(bare/seconds, 3), folded_rate=round(rows/own, 1), ratio_folded=round(own/seconds, 3),
                drawing=round(drawing/seconds, 3), prepare_s=round(prepare, 1))


def bf16(a, threads, device, n=1000, n_neighbors=50):
    "The row of the second part"
    torch.set_num_threads(threads)
    ds, model = load_data("cifar10", limit=n, test_limit=1)[0], load_model(f"resnet20@{a.resnet20}", 10)
    scores = {p: score_robustness(model, ds, .05, n_neighbors, seed=a.seed, device=str(device), precision=p).table.score for p in PRECISIONS}
    weakest = [set(s.sort_values(ascending=False, kind="stable").index[:100]) for s in scores.values()]
    return dict(part="bf16", model="resnet20, published", size=32, threads=threads, batch_size=512, precision="bf16", compile="no", images=n, neighbors=n_neighbors,
                spearman=round(scores["fp32"].corr(scores["bf16"], method="spearman"), 5), shared_of_100=len(weakest[0] & weakest[1]))


def decoding(a, device, n=768):
    "The row of the third part"
    torch.set_num_threads(1); torch.manual_seed(a.seed)
    files = sorted((a.pictures/"train").rglob("*.JPEG")); files = [files[i] for i in np.random.default_rng(a.seed).permutation(len(files))[:n]]
    ds = ImageSet(files, [0]*len(files), ["picture"]*10, [str(f) for f in files], "pictures", 224)
    model = load_model("digits_net", 10)
    def ahead(): score_robustness(model, ds, .05, 1, seed=a.seed, batch_size=32, device=str(device))
    def in_turn():
        with patch("wrnb.scoring.batches", _checked_batches): ahead()
    seconds, turn = best([ahead, in_turn], a.repeats, device)
    return dict(part="decoding", model="digits_net", size=224, threads=1, batch_size=32, precision="fp32", compile="no", images=len(files), neighbors=1,
                seconds=round(seconds, 2), seconds_in_turn=round(turn, 2), speedup=round(turn/seconds, 3))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--models", nargs="*", default=list(CASES), choices=CASES, help="of the first part; without names: none")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the processor; the last is used for all that is measured once")
    p.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    p.add_argument("--neighbors", type=int, default=48, help="an image, in the first part (default 48)")
    p.add_argument("--repeats", type=int, default=3, help="after one to warm up (default 3)")
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    p.add_argument("--resnet20", metavar="FILE", default=os.environ.get("WRNB_RESNET20"), help="checkpoint of a CIFAR-10 ResNet-20 (default: the environment's WRNB_RESNET20)")
    p.add_argument("--pictures", type=Path, metavar="FOLDER", default=Path.home()/".fastai/data/imagenette-sample", help="with train/CLASS/*.JPEG (default: the Imagenette sample in fastai's data folder)")
    p.add_argument("--device", default="auto"); p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    device = pick_device(a.device)
    cases = [(name, precision, t, False) for name in a.models for precision in a.precision for t in a.threads]
    if not a.no_compile: cases += [(name, precision, a.threads[-1], True) for name in a.models for precision in a.precision]
    rows = [forward(a, *case, device) for case in cases]
    if a.resnet20: rows.append(bf16(a, a.threads[-1], device))
    if (a.pictures/"train").is_dir(): rows.append(decoding(a, device))
    info = provenance(device)
    df = pd.DataFrame(rows).assign(seed=a.seed, commit=info["commit"], device=info["device"], torch=info["versions"]["torch"]).convert_dtypes()
    df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    tables = {part: t.dropna(axis=1, how="all").drop(columns=["part", "seed", "commit", "device", "torch"]) for part, t in df.groupby("part", sort=False)}
    print(f"{df.device[0]}, torch {df.torch[0]}, commit {df.commit[0]}")
    for part in ("bf16", "decoding", "forward"):
        if part in tables: print(f"\n{part}\n{tables[part].to_string(index=False)}")
    print("ratio: scorer's rate to the plain forward pass's, goal 0.9; ratio_folded: to that of the copy it works with")


if __name__ == "__main__": main()
