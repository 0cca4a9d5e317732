"""Milliseconds per image for each of the 15 corruptions at severity 3: ours against imagecorruptions 1.1.2, on the CPU.

    python benchmarks/corruptions.py [--sizes 32 224] [--threads 1 2] [--n 16]

Both get the same images (two photographs, in turn), each in the form it takes: ours a batch of floats,
imagecorruptions bytes, one after the other; only 2 of them if it needs more than half a second each (glass blur at
224 px). imagecorruptions has ImageNet-C's constants only, so ours gets imagenet-c at every size, for the same work.
Best of 3 to 20 rounds, taken in turn. Run it on a machine that does nothing else: with more processes than cores,
two threads wait for each other. If there is a GPU, images per second are printed as well. `ms_floor` is what the one
step takes that cannot be left out, alone and in the same rounds: libjpeg's coding and decoding for jpeg_compression,
the convolution with a disk for defocus_blur, reading and writing every pixel three times (to grey levels, to boxes,
back) for pixelate. Writes benchmarks/corruptions.csv; the table of ratios comes last.
"""
import importlib, sys, time, warnings

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from common import HERE, add_options, origin, parser, seconds, write_csv
from wrnb.corruptions import CORRUPTIONS, _constants, _disk, _filter, _jpeg, corrupt

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


def coding(x):
    "JPEG alone, as `corrupt` has it coded and decoded"
    return _jpeg((x*255).round_(), _constants("jpeg_compression", "imagenet-c")[2])


def convolution(x):
    "One convolution with the disk alone"
    return _filter(x, _disk(*_constants("defocus_blur", "imagenet-c")[2]), "reflect")


def copies(x):
    "Every pixel read and written three times"
    for _ in range(3): x = x*2
    return x


FLOORS = dict(jpeg_compression=coding, defocus_blur=convolution, pixelate=copies)


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
        pieces, alone = x.split(max(1, 2**18//size**2)), FLOORS.get(name)
        floor = [lambda: [alone(piece) for piece in pieces]] if alone else []
        own, others, *least = best(ours, other, *floor)
        yield dict(corruption=name, size=size, threads=threads, severity=3, n=n, n_imagecorruptions=len(few), seed=seed,
                   device="cpu", ms=own*1000/n, ms_imagecorruptions=others*1000/len(few),
                   ms_floor=least[0]*1000/n if least else np.nan)


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
    floors = cpu.dropna(subset="ms_floor").assign(most=lambda t: t.ms_imagecorruptions/t.ms_floor)
    floors = floors.pivot_table(index="corruption", columns=["size", "threads"], values="most", sort=False)
    print(f"the most that the ratio could be, by the floor\n{floors.round(1).to_string()}\n")
    print(f"imagecorruptions' time divided by ours\n{ratio.round(1).to_string()}")


if __name__ == "__main__": main()
