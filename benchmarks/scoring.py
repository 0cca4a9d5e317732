"""What scoring costs above the forward pass, what bfloat16 changes, what decoding ahead and knowing the data cost.

    python benchmarks/scoring.py [--models resnet20 efficientnet_lite0] [--threads 1 2] [--precision fp32 bf16]
                                 [--neighbors 48] [--repeats 3] [--no-compile] [--resnet20 FILE] [--pictures FOLDER]
                                 [--ants FOLDER] [--parts forward bf16 decoding identity] [--device auto] [--seed 0]

Four parts, one table each, all in benchmarks/scoring.csv (column `part`); rows of parts that are not run stay:

forward   Images x neighbours per second of `score_robustness` (`rate`) against two forward passes on the same number of
          rows, in batches of the same size, under inference mode and the same autocast: your model as it is, in
          evaluation mode and channels_last, its batch norms not folded (`forward_rate`, `ratio`), and the folded or
          compiled copy that the scorer works with (`folded_rate`, `ratio_folded`: what is below 1 there are the
          scorer's own costs). The goal is a ratio of 0.9. `drawing` is the share of the scorer's time that the noise
          takes, timed alone; `prepare_s` the seconds that folding or compiling takes, once and outside of the clock.
          All take turns, the best of the repeats counts. ResNet-20 has 32 px and fresh weights, EfficientNet-Lite0
          224 px and ImageNet's; pixels are random: neither changes the work. 48 neighbours fill the batches; the
          clean images are passed, and not counted. The compiled copy is timed with all threads.
bf16      Spearman's rank correlation of the scores in bf16 with those in fp32, and how many of the 100 weakest they
          share: 1,000 real CIFAR-10 training images, the published ResNet-20 (FILE, or the environment's WRNB_RESNET20;
          left out without), 50 neighbours, eps 0.05.
decoding  Seconds to score pictures that are decoded from files, with the next block decoded meanwhile (`seconds`) and
          without (`seconds_in_turn`): a small network on the Imagenette sample (FOLDER; left out if it does not exist),
          one thread, one neighbour, so that decoding is much of the work.
identity  Seconds that the identity of the data takes (`seconds`), as a share of those for scoring all images with 50
          neighbours (`share`; the goal is below 0.02): 50,000 random pictures of 32 px in memory with ResNet-20, and
          the training pictures of hymenoptera in files (FOLDER; left out if it does not exist) with EfficientNet-Lite0.
          A few images are scored, and their time is multiplied.

Run it on a machine that does nothing else; it takes some ten minutes on two cores. The table of ratios comes last.
"""
import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from common import DATA, add_options, best_seconds, cross_product, origin, parser, seconds, write_csv
from wrnb import image_sets
from wrnb.core import pick_device
from wrnb.data import data_hash
from wrnb.image_sets import ImageSet, subset
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.inference import PRECISIONS, InferenceModel
from wrnb.neighbors import neighbor_keys, neighbors
from wrnb.scoring import score_robustness

CASES = dict(
    resnet20=dict(size=32, n_classes=10, images=64, batch_size=512),
    efficientnet_lite0=dict(size=224, n_classes=1000, images=4, batch_size=32))


def random_images(n, size, n_classes):
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    return ImageSet(pixels, [0]*n, [str(i) for i in range(n_classes)], [str(i) for i in range(n)], "random")


class Forward:
    "A model, its copy, and batches; a method per way of passing them"
    def __init__(self, a, name, precision, compile, device):
        self.a, self.precision, self.device, case = a, PRECISIONS[precision], device, CASES[name]
        self.batch_size = case["batch_size"]
        self.ds = random_images(case["images"], case["size"], case["n_classes"])
        self.net = load_model(name, case["n_classes"]).to(device, memory_format=torch.channels_last)
        self.fast = InferenceModel(self.net, device, precision, compile)
        self.x = self.ds.pixels(torch.arange(self.batch_size) % len(self.ds)).to(device)
        self.keys = neighbor_keys(self.x, 1, a.seed)[:, 0]
        self.rows = len(self.ds)*a.neighbors
        self.sizes = [min(self.batch_size, self.rows - n) for n in range(0, self.rows, self.batch_size)]

    def prepare(self):
        for n in {len(self.ds), *self.sizes}: self.fast(self.x[:n])

    def plain(self):
        x = self.x.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(self.device.type, self.precision, self.precision is not None)
        with torch.inference_mode(), autocast:
            for n in self.sizes: self.net(x[:n])

    def folded(self):
        for n in self.sizes: self.fast(self.x[:n])

    def draw(self):
        with torch.inference_mode():
            for n in self.sizes: neighbors(self.x[:n], self.keys[:n], .05)

    def score(self):
        with patch("wrnb.scoring.InferenceModel", lambda *args, **kwargs: self.fast):
            score_robustness(self.net, self.ds, .05, self.a.neighbors, seed=self.a.seed, batch_size=self.batch_size,
                             device=str(self.device))


def setting(part, model, size, threads, batch_size, precision, compile, images, neighbors):
    "The first columns of each row"
    return dict(part=part, model=model, size=size, threads=threads, batch_size=batch_size, precision=precision,
                compile="yes" if compile else "no", images=images, neighbors=neighbors)


def forward(a, model, precision, threads, compile, device):
    "A row of the first part"
    torch.set_num_threads(threads)
    torch.manual_seed(a.seed)
    case, ways = CASES[model], Forward(a, model, precision, compile, device)
    prepare = seconds(ways.prepare)
    score, plain, folded, draw = best_seconds([ways.score, ways.plain, ways.folded, ways.draw], a.repeats)
    about = setting("forward", model, size=case["size"], threads=threads, batch_size=case["batch_size"],
                    precision=precision, compile=compile, images=case["images"], neighbors=a.neighbors)
    return about | dict(
        rate=round(ways.rows/score, 1), forward_rate=round(ways.rows/plain, 1), ratio=round(plain/score, 3),
        folded_rate=round(ways.rows/folded, 1), ratio_folded=round(folded/score, 3),
        drawing=round(draw/score, 3), prepare_s=round(prepare, 1))


def bf16(a, threads, device, n=1000, n_neighbors=50):
    "The row of the second part"
    torch.set_num_threads(threads)
    ds, model = load_data("cifar10", limit=n, test_limit=1)[0], load_model(f"resnet20@{a.resnet20}", 10)
    def scores(precision):
        how = dict(seed=a.seed, device=str(device), precision=precision)
        return score_robustness(model, ds, .05, n_neighbors, **how).table.score
    exact, rounded = (scores(p) for p in ("fp32", "bf16"))
    weakest = [set(s.sort_values(ascending=False, kind="stable").index[:100]) for s in (exact, rounded)]
    about = setting("bf16", "resnet20, published", size=32, threads=threads, batch_size=512, precision="bf16",
                    compile=False, images=n, neighbors=n_neighbors)
    return about | dict(spearman=round(exact.corr(rounded, method="spearman"), 5),
                        shared_of_100=len(weakest[0] & weakest[1]))


def pictures_of(folder, n, seed):
    "n pictures that are decoded when they are asked for"
    files = sorted((folder/"train").rglob("*.JPEG"))
    files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[:n]]
    return ImageSet(files, [0]*len(files), ["picture"]*10, [str(f) for f in files], "pictures", 224)


def decoding(a, device, n=768):
    "The row of the third part"
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    ds, model = pictures_of(a.pictures, n, a.seed), load_model("digits_net", 10)
    def ahead(): score_robustness(model, ds, .05, 1, seed=a.seed, batch_size=32, device=str(device))
    def in_turn():
        with patch("wrnb.neighbors.batches", image_sets._checked_batches): ahead()
    ahead_s, in_turn_s = best_seconds([ahead, in_turn], a.repeats)
    about = setting("decoding", "digits_net", size=224, threads=1, batch_size=32, precision="fp32", compile=False,
                    images=len(ds), neighbors=1)
    return about | dict(seconds=round(ahead_s, 2), seconds_in_turn=round(in_turn_s, 2),
                        speedup=round(in_turn_s/ahead_s, 3))


def identity(a, model, size, ds, few, device, n_neighbors=50):
    "A row of the fourth part: `few` of the images are scored"
    torch.set_num_threads(1)
    net, part = load_model(model, len(ds.classes)), subset(ds, range(few))
    def score(): score_robustness(net, part, .05, n_neighbors, seed=a.seed, device=str(device))
    identity_s, score_s = best_seconds([partial(data_hash, ds), score], a.repeats)
    about = setting("identity", model, size=size, threads=1, batch_size=512, precision="fp32", compile=False,
                    images=len(ds), neighbors=n_neighbors)
    return about | dict(seconds=round(identity_s, 4), share=round(identity_s/(score_s*len(ds)/few), 8))


def identities(a, device):
    "The rows of the fourth part"
    rows = [identity(a, "resnet20", 32, random_images(50_000, 32, 10), 32, device)]
    if not (a.ants/"train").is_dir(): return rows
    files = sorted((a.ants/"train").glob("*/*.jpg"))
    in_files = ImageSet(files, [0]*len(files), ["ants", "bees"], [str(f) for f in files], "hymenoptera", 224)
    return [*rows, identity(a, "efficientnet_lite0", 224, in_files, 2, device)]


TABLE = Path(__file__).with_suffix(".csv")
PARTS = "forward", "bf16", "decoding", "identity"


def options():
    p = parser(__doc__)
    p.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="which to run")
    p.add_argument("--ants", type=Path, metavar="FOLDER", default=DATA/"hymenoptera",
                   help="with train/CLASS/*.jpg (default: hymenoptera in fastai's data folder)")
    p.add_argument("--models", nargs="*", default=list(CASES), choices=CASES,
                   help="of the first part; give the option with no names for none")
    p.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    p.add_argument("--resnet20", metavar="FILE", default=os.environ.get("WRNB_RESNET20"),
                   help="checkpoint of a CIFAR-10 ResNet-20 (default: the environment's WRNB_RESNET20)")
    p.add_argument("--pictures", type=Path, metavar="FOLDER", default=DATA/"imagenette-sample",
                   help="with train/CLASS/*.JPEG (default: the Imagenette sample in fastai's data folder)")
    add_options(p, threads=[1, 2], neighbors=48, repeats=3, device="auto", seed=0)
    return p.parse_args()


def with_earlier(df):
    "The rows, and those of the parts that were not run"
    if not TABLE.is_file() or set(df.part) == set(PARTS): return df
    earlier = pd.read_csv(TABLE)
    return pd.concat([earlier[~earlier.part.isin(df.part)], df])


def main():
    a = options()
    device, most = pick_device(a.device), a.threads[-1]  # what is measured once has the most threads
    cases = cross_product(model=a.models, precision=a.precision, threads=a.threads, compile=[False])
    if not a.no_compile: cases += cross_product(model=a.models, precision=a.precision, threads=[most], compile=[True])
    rows = [forward(a, device=device, **case) for case in cases if "forward" in a.parts]
    if a.resnet20 and "bf16" in a.parts: rows.append(bf16(a, most, device))
    if (a.pictures/"train").is_dir() and "decoding" in a.parts: rows.append(decoding(a, device))
    if "identity" in a.parts: rows += identities(a, device)
    where = dict(seed=a.seed, **origin("commit", "device", "torch", device=device))
    df = pd.DataFrame(rows).assign(**where).convert_dtypes()
    write_csv(with_earlier(df), TABLE)
    print(f"{df.device[0]}, torch {df.torch[0]}, commit {df.commit[0]}")
    for part in ("bf16", "decoding", "identity", "forward"):
        own = df[df.part == part]
        if not len(own): continue
        t = own.dropna(axis=1, how="all").drop(columns=["part", *where])
        print(f"\n{part}\n{t.to_string(index=False)}")
    print("ratio: scorer's rate to the plain forward pass's, goal 0.9; ratio_folded: to that of the copy it works with")


if __name__ == "__main__": main()
