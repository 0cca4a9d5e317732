"""Milliseconds per image for each of the 15 corruptions at severity 3: ours against imagecorruptions 1.1.2, on the CPU.

    python benchmarks/corruptions.py [--sizes 32 224] [--threads 1 2] [--n 16]

Both get the same images (two photographs, in turn), each in the form it takes: ours a batch of floats,
imagecorruptions bytes, one after the other; only 2 of them if it needs more than half a second each (glass blur at
224 px). imagecorruptions has ImageNet-C's constants only, so ours gets imagenet-c at every size, for the same work.
Best of 3 to 20 rounds, taken in turn. With one thread the clock is the processor's, which stands still while other
programs run; two threads need a machine that does nothing else, since they wait for each other. If there is a GPU,
images per second are printed as well. `ms_floor` is what the one step takes that cannot be left out, alone and in the
same rounds: libjpeg's coding and decoding for jpeg_compression, the convolution with a disk for defocus_blur, the
plasma fractals for fog, keys and random numbers for gaussian_noise and impulse_noise, and for pixelate reading and
writing every pixel three times (to grey levels, to boxes, back). Writes benchmarks/corruptions.csv, in which rows of
other sizes and threads stay as they are; the table of ratios comes last.
"""
import importlib, sys, time, warnings

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from common import HERE, add_options, origin, parser, seconds, write_csv
from wrnb.corruptions import CORRUPTIONS, _at_once, _constants, _disk, _filter, _jpeg, _plasma, corrupt
from wrnb.randomness import image_keys, normal, uniform

sys.path.insert(0, str(HERE.parent/"tests"))
warnings.filterwarnings("ignore")
NAMES = sum(CORRUPTIONS.values(), [])


def best(*fs, clock=time.perf_counter, least=3, most=20, limit=2):
    """Seconds of each function, the best of several rounds, taken in turn so that a busy moment hits all; the first
    round warms up"""
    rounds = []
    while len(rounds) <= least or (len(rounds) <= most and np.sum(rounds) < limit):
        rounds.append([seconds(f, clock) for f in fs])
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


def fractals(x):
    "Fog's plasma fractals alone"
    return _plasma(image_keys(x), 2**(x.shape[3]-1).bit_length(), _constants("fog", "imagenet-c")[2][1])


FLOORS = dict(jpeg_compression=coding, defocus_blur=convolution, pixelate=copies, fog=fractals,
              gaussian_noise=lambda x: normal(image_keys(x), x.shape[1:]),
              impulse_noise=lambda x: uniform(image_keys(x), x.shape[1:]))


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
        pieces, alone = x.split(max(1, _at_once(name, x.device)//size**2)), FLOORS.get(name)
        floor = [lambda: [alone(piece) for piece in pieces]] if alone else []
        clock = time.process_time if threads == 1 else time.perf_counter
        own, others, *least = best(ours, other, *floor, clock=clock)
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
    "The new rows, and below them one for all 15 together"
    total = df.groupby(["size", "threads", "device"], as_index=False, sort=False).agg(
        severity=("severity", "first"), n=("n", "first"), n_imagecorruptions=("n_imagecorruptions", "max"),
        seed=("seed", "first"), ms=("ms", "sum"), ms_imagecorruptions=("ms_imagecorruptions", "sum"))
    df = pd.concat([df, total.assign(corruption="all 15")], ignore_index=True)
    return df.assign(ratio=df.ms_imagecorruptions/df.ms, **origin("commit"))


def with_older(df, file):
    "The new rows, and those of other sizes and threads that the table had before"
    older = pd.read_csv(file) if file.is_file() else df[:0]
    ours = ["size", "threads", "device"]
    kept = older[~older.set_index(ours).index.isin(df.set_index(ours).index)]
    table = pd.concat([df, kept]) if len(kept) else df
    last = table.corruption == "all 15"
    return pd.concat([t.sort_values(ours[:2], kind="stable") for t in (table[~last], table[last])], ignore_index=True)


def main():
    p = parser(__doc__)
    add_options(p, sizes=[32, 224], threads=[1, 2], n=16, csv=HERE/"corruptions.csv")
    a = p.parse_args()
    theirs, rows = importlib.import_module("imagecorruptions_oracle").load()[0], []
    for size in a.sizes:
        n = a.n*(8 if size <= 64 else 1)
        for threads in a.threads: rows += list(measure(size, threads, n, theirs))
        if torch.cuda.is_available(): rows += list(measure_gpu(size))
    df = with_older(with_totals(pd.DataFrame(rows)), a.csv)
    write_csv(df, a.csv, float_format="%.4g")
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
