"""Milliseconds an image for each of the 15 corruptions at severity 3: the package's against imagecorruptions 1.1.2, on the CPU.

    python benchmarks/corruptions.py [--sizes 32 224] [--threads 1 2] [--n 16]

Both get the same images (two photographs, in turn), each in the form it takes: ours a batch of floats, imagecorruptions bytes, one after the other; to 2 of
them only where it needs more than half a second each (glass blur at 224 px). imagecorruptions has ImageNet-C's constants only, so ours gets imagenet-c at every
size, for the same work. Best of 3 to 20 rounds, taken in turn. Run it on a machine that does nothing else: with more processes than cores, two threads
wait for each other. On a GPU, where there is one, images a second are printed as well. Writes benchmarks/corruptions.csv; the table of ratios comes last."""
import argparse, sys, time, warnings
from pathlib import Path

import numpy as np, pandas as pd, torch
from PIL import Image
from sklearn.datasets import load_sample_image
from wrnb.runs import provenance
from wrnb.corruptions import CORRUPTIONS, corrupt

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent/"tests"))
warnings.filterwarnings("ignore")
NAMES = sum(CORRUPTIONS.values(), [])


def best(*fs, least=3, most=20, seconds=2):
    "Seconds of each function, the best of several rounds, taken in turn so that a busy moment hits all; the first round is for warming up"
    times, start = [[] for _ in fs], time.perf_counter()
    while len(times[0]) <= least or (len(times[0]) <= most and time.perf_counter() - start < seconds):
        for f, ts in zip(fs, times):
            begin = time.perf_counter(); f()
            if torch.cuda.is_available(): torch.cuda.synchronize()
            ts.append(time.perf_counter() - begin)
    return [min(ts[1:]) for ts in times]


def photos(size, n):
    two = [np.array(Image.fromarray(load_sample_image(f)).resize((size, size), Image.BICUBIC)) for f in ("china.jpg", "flower.jpg")]
    return [two[i % 2] for i in range(n)]


def pixels(images): return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float()/255


def measure(size, threads, n, theirs, seed=0):
    torch.set_num_threads(threads)
    import cv2
    cv2.setNumThreads(threads)
    images = photos(size, n)
    x = pixels(images)
    for name in NAMES:
        few = images[:2] if name == "glass_blur" and size > 64 else images
        row = dict(corruption=name, size=size, threads=threads, severity=3, n=n, n_imagecorruptions=len(few), seed=seed, device="cpu")
        ours, other = best(lambda: corrupt(x, name, 3, "imagenet-c", seed), lambda: [theirs.corrupt(a, severity=3, corruption_name=name) for a in few])
        row |= dict(ms=ours*1000/n, ms_imagecorruptions=other*1000/len(few))
        yield row


def measure_gpu(size, n=256):
    x = pixels(photos(size, n)).cuda()
    for name in NAMES:
        seconds = best(lambda: corrupt(x, name, 3, "imagenet-c"))[0]
        yield dict(corruption=name, size=size, threads=1, severity=3, n=n, seed=0, device=torch.cuda.get_device_name(), ms=seconds*1000/n)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="sides of the images, pixels")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads")
    p.add_argument("--n", type=int, default=16, help="images a batch at 224 px; eight times as many at 32 px")
    a = p.parse_args()
    from imagecorruptions_oracle import load
    theirs, rows = load()[0], []
    for size in a.sizes:
        for threads in a.threads: rows += list(measure(size, threads, a.n*(8 if size <= 64 else 1), theirs))
        if torch.cuda.is_available(): rows += list(measure_gpu(size))
    df = pd.DataFrame(rows)
    total = df.groupby(["size", "threads", "device"], as_index=False, sort=False).agg(severity=("severity", "first"), n=("n", "first"), n_imagecorruptions=("n_imagecorruptions", "max"), seed=("seed", "first"), ms=("ms", "sum"), ms_imagecorruptions=("ms_imagecorruptions", "sum"))
    df = pd.concat([df, total.assign(corruption="all 15")], ignore_index=True)
    df["ratio"] = df.ms_imagecorruptions/df.ms
    df["commit"] = provenance()["commit"]
    df.to_csv(here/"corruptions.csv", index=False, float_format="%.4g", lineterminator="\n")
    gpu = df[df.device != "cpu"]
    if len(gpu): print(gpu.assign(images_a_second=1000/gpu.ms).pivot_table(index="corruption", columns="size", values="images_a_second", sort=False).round(0).to_string(), "\n")
    print("imagecorruptions' time divided by ours")
    print(df[df.device == "cpu"].pivot_table(index="corruption", columns=["size", "threads"], values="ratio", sort=False).round(1).to_string())


if __name__ == "__main__": main()
