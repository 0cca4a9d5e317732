"""The package's corruptions against imagecorruptions 1.1.2 on real images: pixels, statistics, and what two classifiers make of them.

    WRNB_RESNET20=resnet20-cifar10.th python benchmarks/fidelity.py [--sizes 32 224] [--n 1000 100] [--draws 2] [--seed 0]

CIFAR-10 test images at 32 px with the published ResNet-20, Imagenette validation images at 224 px with EfficientNet-Lite0 (its 1,000 logits cut down to
Imagenette's ten classes). Both sides get the same images, ImageNet-C's constants at severity 3 (imagecorruptions has no others) and draw their own random
numbers, `--draws` times for each image. A row a corruption and size:

    within_one                share of pixels within one grey level, where nothing is random
    mean_gap, std_gap         ours less theirs: mean and contrast of an image, grey levels, with the standard error over the images
    spectrum_gap              the same for the natural logarithm of the power, in that of six bands of spatial frequency where the gap is largest
    error, low, high          the classifier's error under ours, with the 95 % interval of an error measured on n images
    error_theirs              its error under imagecorruptions; the claim is that it lies within low to high

Where imagecorruptions leaves ImageNet-C's definition (elastic_transform: another one; frost: pictures enlarged by 1.1), the row of that name compares with
ImageNet-C's, written with OpenCV and NumPy, and a row marked (imagecorruptions') compares with imagecorruptions when ours gets its constants or pictures.
imagecorruptions' impulse noise ignores NumPy's seed, so its row comes out a little different each time. Writes benchmarks/fidelity.csv; takes ten minutes."""
import argparse, os, sys, warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np, pandas as pd, torch
from wrnb.core import WrnbError, wilson
from wrnb.randomness import fold_in, image_keys
from wrnb.runs import provenance
from wrnb.corruptions import CONSTANTS, FAMILY, _MAKERS, _STILL, _truncate, corrupt
from wrnb.data import folder_set, limited
from wrnb.models import logits_of
from wrnb.pretrained import load_model

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent/"tests"))
from imagecorruptions_oracle import agreement, imagenet_elastic, imagenet_frost, load, measures, theirs_elastic, theirs_frost_pictures

DATA = Path(os.environ.get("FASTAI_HOME", "~/.fastai")).expanduser()/"data"
NAMES = [*CONSTANTS, "elastic_transform (imagecorruptions')", "frost (imagecorruptions')"]
SEVERITY = 3


def setting(size, n, seed=0):
    "Images and classifier for a size: (dataset of n images, model, the model's name)"
    if size == 32:
        if "WRNB_RESNET20" not in os.environ: raise WrnbError("WRNB_RESNET20 is not set: it must name the published checkpoint of ResNet-20 for CIFAR-10")
        return limited(folder_set(DATA/"cifar10", "test"), n, seed), load_model(f"resnet20@{os.environ['WRNB_RESNET20']}", 10), "resnet20"
    if size == 224:
        ds = limited(folder_set(DATA/"imagenette-sample", "val", 224), n, seed)
        return ds, load_model("efficientnet_lite0", 10, classes=ds.classes), "efficientnet_lite0"
    raise WrnbError(f"--sizes {size}: give 32 (CIFAR-10, ResNet-20) or 224 (Imagenette, EfficientNet-Lite0)")


def ours(x, name, seed):
    if name in CONSTANTS: return corrupt(x, name, SEVERITY, "imagenet-c", seed)
    if name.startswith("frost"):
        with patch("wrnb.corruptions._frost_pictures", theirs_frost_pictures): return corrupt(x, "frost", SEVERITY, "imagenet-c", seed)
    return torch.cat([_truncate(_MAKERS["elastic_transform"](b, theirs_elastic(SEVERITY, x.shape[3]), fold_in(image_keys(b, seed), name))) for b in x.split(16)])


def theirs(images, name, package):
    "imagecorruptions on uint8 images [N, h, w, 3], with the global random state; ImageNet-C's own elastic transformation and frost"
    draw, c = np.random.uniform, CONSTANTS[name.split()[0]]["imagenet-c"][SEVERITY-1]
    if name == "elastic_transform": return np.stack([imagenet_elastic(a, *c, draw(-1, 1, (3, 2)), draw(-1, 1, (2, *a.shape[:2]))) for a in images])
    if name == "frost": return np.stack([imagenet_frost(a, *c, *draw(0, 1, 3)) for a in images])
    return np.stack([package.corrupt(a, severity=SEVERITY, corruption_name=name.split()[0]) for a in images])


def bytes_of(x): return (x*255).round().byte().permute(0, 2, 3, 1).numpy()
def pixels_of(a): return torch.from_numpy(a).permute(0, 3, 1, 2).float()/255


def wrong(model, x, labels): return (logits_of(model, list(zip(x, labels)), 50).argmax(1).numpy() != labels).mean()


def compare(name, x, labels, model, package, draws=2, seed=0):
    "One row: how far ours and theirs are apart on these images"
    np.random.seed(seed)
    still, images, n = name in _STILL, bytes_of(x), len(x)
    pairs = [(bytes_of(ours(x, name, seed + d)), theirs(images, name, package)) for d in range(1 if still else draws)]
    gaps = np.mean([[measures(a) - measures(b) for a, b in zip(*p)] for p in pairs], 0)
    gap, se = gaps.mean(0), gaps.std(0, ddof=1)/n**.5
    worst = 2 + abs(gap[2:]).argmax()
    error, other = (np.mean([wrong(model, pixels_of(p[i]), labels) for p in pairs]) for i in (0, 1))
    low, high = wilson(error, n)
    row = dict(corruption=name, family=FAMILY[name.split()[0]], size=x.shape[3], severity=SEVERITY, n=n, draws=len(pairs), within_one=agreement(*pairs[0]) if still else np.nan)
    for k, i in dict(mean=0, std=1, spectrum=worst).items(): row |= {f"{k}_gap": gap[i], f"{k}_se": se[i]}
    return row | dict(error=error, low=float(low), high=float(high), error_theirs=other)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="32 (CIFAR-10) and 224 px (Imagenette)")
    p.add_argument("--n", type=int, nargs="+", default=[1000, 100], help="images for each size")
    p.add_argument("--draws", type=int, default=2, help="times each image is corrupted, where that is random")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    warnings.filterwarnings("ignore", "preset imagenet-c does not fit")
    package, info, rows = load()[0], provenance(), []
    for size, n in zip(a.sizes, a.n):
        ds, model, classifier = setting(size, n, a.seed)
        x, labels = ds.pixels(range(len(ds))), ds.labels
        clean = wrong(model, x, labels)
        for name in NAMES:
            rows.append(compare(name, x, labels, model, package, a.draws, a.seed) | dict(classifier=classifier, clean_error=clean, seed=a.seed, commit=info["commit"], device=info["device"]))
            print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()), flush=True)
    df = pd.DataFrame(rows)
    df.to_csv(here/"fidelity.csv", index=False, float_format="%.4g", lineterminator="\n")
    inside = (df.error_theirs >= df.low) & (df.error_theirs <= df.high)
    print(f"{inside.sum()} of {len(df)} errors under imagecorruptions lie within the 95 % interval of the error under ours")


if __name__ == "__main__": main()
