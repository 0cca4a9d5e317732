"""What a GPU makes of scoring and of corrupting CIFAR-10, and how its images travel to a machine without a network.

    python benchmarks/gpu.py pack --out PARTS [--part-mib 48] [--limit N]    here: folders part-0, part-1, ...
    python benchmarks/gpu.py unpack --parts PARTS [--dest DATA]              there: fastai's folder cifar10
    python benchmarks/gpu.py time [--model resnet18] [--images 50000] [--neighbors 50] [--precision fp32 bf16]
                                  [--no-compile] [--device auto] [--csv gpu.csv]

`pack` writes the images as lossless WebP sheets of 500, so that all of CIFAR-10 has some 97 MB, in
folders of at most --part-mib each. `unpack` writes the very pixels as PNG files,
train/CLASS/NAME.png and test/CLASS/NAME.png.

`time` writes gpu.csv, a row per piece of work: `scoring` in every precision, through torch.compile
and not (goal: all of CIFAR-10 with 50 neighbours in 20 s on an H100; the seconds of compiling are
apart, `prepare_s`), `corruptions` (the 15 and the ten of C-bar, severity 3, in batches). Pixels
and weights are random: neither changes the work. The device's name is in the row.
benchmarks/gpu.sh does all of it, and a fine-tuning.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from common import DATA, add_options, cross_product, origin, parser, seconds, show, write_csv
from scoring import random_images
from wrnb.core import pick_device
from wrnb.corruptions import corrupt, corruptions
from wrnb.inference import PRECISIONS
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness

PER_SHEET = 500  # images, one below the other


# --- the way of the images -----------------------------------------------------------------------------

def sheets(folder, limit):
    "The files of train/ and test/, a list per sheet"
    for split in ("train", "test"):
        files = sorted((folder/split).rglob("*.png"))[:limit]
        for first in range(0, len(files), PER_SHEET): yield files[first:first + PER_SHEET]


def pack(args):
    "Write the sheets, and beside each the names of its images, a folder per part"
    folder, part, used = DATA/"cifar10", 0, 0
    for number, files in enumerate(sheets(folder, args.limit)):
        pixels = np.concatenate([np.asarray(Image.open(f).convert("RGB")) for f in files])
        place = args.out/"sheet"
        args.out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place, "webp", lossless=True, quality=60)
        size = place.stat().st_size
        if used + size > args.part_mib*2**20: part, used = part + 1, 0
        used += size
        home = args.out/f"part-{part}"
        home.mkdir(exist_ok=True)
        place.rename(home/f"{number:03}.webp")
        names = [f.relative_to(folder).as_posix() for f in files]
        (home/f"{number:03}.json").write_text(json.dumps(names))
    print(f"{args.out}: {part + 1} parts")


def unpack(args):
    "Write every image of the sheets that are there as a file of its own"
    for sheet in sorted(args.parts.rglob("*.webp")):
        names = json.loads(sheet.with_suffix(".json").read_text())
        pixels = np.asarray(Image.open(sheet).convert("RGB")).reshape(len(names), -1, 32, 3)
        for name, image in zip(names, pixels):
            path = args.dest/"cifar10"/name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    print(f"{args.dest}/cifar10: {len(list((args.dest/'cifar10').rglob('*.png')))} images")


# --- times -----------------------------------------------------------------------------------------------

def scoring_row(args, precision, compile, device):
    "Seconds to score so many images; the first run, which compiles, apart"
    ds, net = random_images(args.images, 32, 10), load_model(args.model, 10)
    few = random_images(min(args.images, args.batch_size), 32, 10)
    how = dict(seed=args.seed, batch_size=args.batch_size, device=str(device), precision=precision, compile=compile)
    prepare = seconds(lambda: score_robustness(net, few, .05, 2, **how))
    taken = seconds(lambda: score_robustness(net, ds, .05, args.neighbors, **how))
    return dict(part="scoring", what=args.model, precision=precision, compile="yes" if compile else "no",
                images=args.images, neighbors=args.neighbors, batch_size=args.batch_size, seconds=taken,
                rate=args.images*args.neighbors/taken, prepare_s=prepare)


def in_batches(f, x, size):
    for batch in x.split(size): f(batch)


def corruption_rows(args, device):
    "Seconds that each corruption takes for so many images"
    x = random_images(args.corrupted, 32, 10).pixels(range(args.corrupted)).to(device)
    for p in corruptions(severities=3) + corruptions(severities=3, bar=True):
        def way(batch): return corrupt(batch, p.name, 3, seed=args.seed)
        in_batches(way, x[:args.batch_size], args.batch_size)
        taken = seconds(lambda: in_batches(way, x, args.batch_size))
        yield dict(part="corruptions", what=p.name, precision="fp32", compile="no", images=len(x),
                   batch_size=args.batch_size, seconds=taken, rate=len(x)/taken)


def time_all(args):
    device = pick_device(args.device)
    cases = cross_product(precision=args.precision, compile=[False] if args.no_compile else [False, True])
    rows = [scoring_row(args, **case, device=device) for case in cases] + list(corruption_rows(args, device))
    where = dict(seed=args.seed, **origin("commit", "device", "torch", device=device))
    table = pd.DataFrame(rows).assign(**where)
    write_csv(table, args.csv, float_format="%.6g")
    show(table.drop(columns=list(where)))


def options():
    p = parser(__doc__)
    commands = p.add_subparsers(required=True)
    packing = commands.add_parser("pack")
    add_options(packing, out=Path("parts"), part_mib=48., limit=50000)
    packing.set_defaults(do=pack)
    unpacking = commands.add_parser("unpack")
    add_options(unpacking, parts=Path("parts"), dest=DATA)
    unpacking.set_defaults(do=unpack)
    timing = commands.add_parser("time")
    add_options(timing, model="resnet18", images=50000, neighbors=50, corrupted=10000, batch_size=4096,
                precision=list(PRECISIONS), device="auto", seed=0, csv=Path(__file__).with_suffix(".csv"))
    timing.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    timing.set_defaults(do=time_all)
    return p.parse_args()


if __name__ == "__main__":
    args = options()
    args.do(args)
