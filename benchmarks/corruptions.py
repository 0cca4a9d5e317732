"""Milliseconds per image for each of the 15 corruptions at severity 3: ours against imagecorruptions 1.1.2, on the CPU.

    python benchmarks/corruptions.py [--sizes 32 224] [--threads 1 2] [--n 16]

Both get the same images (two photographs, in turn), each in the form it takes: ours a batch of
floats, imagecorruptions bytes, one after the other; only 2 of them if it needs more than half a
second each (glass blur at 224 px). imagecorruptions has ImageNet-C's constants only, so ours gets
imagenet-c at every size, for the same work. Best of 3 to 20 rounds, taken in turn. Run it on a
machine that does nothing else: with more processes than cores, two threads wait for each other. If
there is a GPU, images per second are printed as well. Writes benchmarks/corruptions.csv; the table
of ratios comes last.
"""
import importlib, sys, time, warnings

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from common import HERE, add_options, origin, parser, seconds, write_csv
from wrnb.corruptions import CORRUPTIONS, corrupt

sys.path.insert(0, str(HERE.parent/"tests"))
warnings.filterwarnings("ignore")
NAMES = sum(CORRUPTIONS.values(), [])


def best(*fs, least=3, most=20, limit=2):
    """Seconds of each function, the best of several rounds, taken in turn so that a busy moment hits all; the first
    round warms up"""
    rounds, start = [], time.perf_counter()
    while len(rounds) <= least or (len(rounds) <= most and time.perf_counter() - start < limit):
        rounds.append([seconds(f) for f in fs])
    return [min(times) for times in zip(*rounds[1:])]


def photos(size, n):
    "n pictures, two photographs in turn"
    files = [Image.fromarray(load_sample_image(f)) for f in ("china.jpg", "flower.jpg")]
    two = [np.array(f.resize((size, size), Image.BICUBIC)) for f in files]
    return [two[i % 2] for i in range(n)]


def pixels(images): return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float()/255


def measure(size, threads, n, theirs, seed=0):
    "One row per corruption"
    torch.set_num_threads(threads)
    importlib.import_module("cv2").setNumThreads(threads)
    images = photos(size, n)
    x = pixels(images)
    for name in NAMES:
        few = images[:2] if name == "glass_blur" and size > 64 else images
        def ours(): corrupt(x, name, 3, "imagenet-c", seed)
        def other():
            for a in few: theirs.corrupt(a, severity=3, corruption_name=name)
        own, others = best(ours, other)
        yield dict(corruption=name, size=size, threads=threads, severity=3, n=n, n_imagecorruptions=len(few), seed=seed,
                   device="cpu", ms=own*1000/n, ms_imagecorruptions=others*1000/len(few))


def measure_gpu(size, n=256):
    "One row per corruption"
    x, device = pixels(photos(size, n)).cuda(), torch.cuda.get_device_name()
    for name in NAMES:
        own, = best(lambda: corrupt(x, name, 3, "imagenet-c"))
        yield dict(corruption=name, size=size, threads=1, severity=3, n=n, seed=0, device=device, ms=own*1000/n)


def with_totals(df):
    "The table, and below it a row for all 15 together"
    total = df.groupby(["size", "threads", "device"], as_index=False, sort=False).agg(
        severity=("severity", "first"), n=("n", "first"), n_imagecorruptions=("n_imagecorruptions", "max"),
        seed=("seed", "first"), ms=("ms", "sum"), ms_imagecorruptions=("ms_imagecorruptions", "sum"))
    df = pd.concat([df, total.assign(corruption="all 15")], ignore_index=True)
    return df.assign(ratio=df.ms_imagecorruptions/df.ms, **origin("commit"))


def main():
    p = parser(__doc__)
    add_options(p, sizes=[32, 224], threads=[1, 2], n=16)
    a = p.parse_args()
    theirs, rows = importlib.import_module("imagecorruptions_oracle").load()[0], []
    for size in a.sizes:
        n = a.n*(8 if size <= 64 else 1)
        for threads in a.threads: rows += list(measure(size, threads, n, theirs))
        if torch.cuda.is_available(): rows += list(measure_gpu(size))
    df = with_totals(pd.DataFrame(rows))
    write_csv(df, HERE/"corruptions.csv", float_format="%.4g")
    gpu, cpu = df[df.device != "cpu"], df[df.device == "cpu"]
    if len(gpu):
        rate = gpu.assign(images_per_second=1000/gpu.ms)
        rate = rate.pivot_table(index="corruption", columns="size", values="images_per_second", sort=False)
        print(rate.round(0).to_string(), "\n")
    ratio = cpu.pivot_table(index="corruption", columns=["size", "threads"], values="ratio", sort=False)
    print(f"imagecorruptions' time divided by ours\n{ratio.round(1).to_string()}")


if __name__ == "__main__": main()
