"""The package's corruptions against imagecorruptions 1.1.2 on real images: pixels, statistics, two classifiers' errors.

    WRNB_RESNET20=resnet20-cifar10.th python benchmarks/fidelity.py [--sizes 32 224] [--n 1000 100] [--draws 2]
                                                                    [--seed 0]

CIFAR-10 test images at 32 px with the published ResNet-20, Imagenette validation images at 224 px
with EfficientNet-Lite0 (its 1,000 logits cut down to Imagenette's ten classes). Both sides get the
same images, ImageNet-C's constants at severity 3 (imagecorruptions has no others) and draw their
own random numbers, `--draws` times for each image. One row per corruption and size:

    within_one                share of pixels within one grey level, if nothing is random
    mean_gap, std_gap         ours less theirs: mean and contrast of an image, grey levels, with the standard error over
                              the images
    spectrum_gap              the same for the natural logarithm of the power, in that of six bands of spatial frequency
                              in which the gap is largest
    error, low, high          the classifier's error under ours, with the 95 % interval of an error measured on n images
    error_theirs              its error under imagecorruptions; the claim is that it is within low to high

If imagecorruptions leaves ImageNet-C's definition (elastic_transform: another one; frost: pictures
enlarged by 1.1), the row of that name compares with ImageNet-C's, written with OpenCV and NumPy,
and a row marked (imagecorruptions') compares with imagecorruptions when ours gets its constants or
pictures. imagecorruptions' impulse noise ignores NumPy's seed, so its row comes out a little
different each time. Writes benchmarks/fidelity.csv; takes ten minutes.
"""
import os, sys, warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from common import DATA, HERE, add_options, origin, parser, write_csv
from wrnb.core import WrnbError, wilson
from wrnb.randomness import fold_in, image_keys
from wrnb.corruptions import CONSTANTS, FAMILY, _MAKERS, _STILL, _truncate, corrupt
from wrnb.image_sets import limited
from wrnb.folders import folder_set
from wrnb.inference import logits_of
from wrnb.pretrained import load_model

sys.path.insert(0, str(HERE.parent/"tests"))
from imagecorruptions_oracle import (
    agreement, imagenet_elastic, imagenet_frost, load, measures, theirs_elastic, theirs_frost_pictures)

NAMES = [*CONSTANTS, "elastic_transform (imagecorruptions')", "frost (imagecorruptions')"]
SEVERITY = 3


def setting(size, n, seed=0):
    "Images and classifier for a size: (dataset of n images, model, the model's name)"
    if size == 32:
        file = os.environ.get("WRNB_RESNET20")
        if not file: raise WrnbError("WRNB_RESNET20 is not set: give the path of the published ResNet-20 for CIFAR-10")
        return limited(folder_set(DATA/"cifar10", "test"), n, seed), load_model(f"resnet20@{file}", 10), "resnet20"
    if size == 224:
        ds = limited(folder_set(DATA/"imagenette-sample", "val", 224), n, seed)
        return ds, load_model("efficientnet_lite0", 10, classes=ds.classes), "efficientnet_lite0"
    raise WrnbError(f"--sizes {size}: give 32 (CIFAR-10, ResNet-20) or 224 (Imagenette, EfficientNet-Lite0)")


def ours(x, name, seed):
    "Our corruption; for the two marked names with imagecorruptions' pictures or constants"
    if name in CONSTANTS: return corrupt(x, name, SEVERITY, "imagenet-c", seed)
    if name.startswith("frost"):
        with patch("wrnb.corruptions._frost_pictures", theirs_frost_pictures):
            return corrupt(x, "frost", SEVERITY, "imagenet-c", seed)
    make, constants = _MAKERS["elastic_transform"], theirs_elastic(SEVERITY, x.shape[3])
    return torch.cat([_truncate(make(b, constants, fold_in(image_keys(b, seed), name))) for b in x.split(16)])


def theirs(images, name, package):
    """imagecorruptions on uint8 images [N, h, w, 3], with the global random state; ImageNet-C's own elastic
    transformation and frost"""
    draw, corruption = np.random.uniform, name.split()[0]
    constants = CONSTANTS[corruption]["imagenet-c"][SEVERITY-1]
    def one(a):
        if name == "elastic_transform":
            points, field = draw(-1, 1, (3, 2)), draw(-1, 1, (2, *a.shape[:2]))
            return imagenet_elastic(a, *constants, points, field)
        if name == "frost": return imagenet_frost(a, *constants, *draw(0, 1, 3))
        return package.corrupt(a, severity=SEVERITY, corruption_name=corruption)
    return np.stack([one(a) for a in images])


def bytes_of(x): return (x*255).round().byte().permute(0, 2, 3, 1).numpy()
def pixels_of(a): return torch.from_numpy(a).permute(0, 3, 1, 2).float()/255


def wrong(model, x, labels):
    "The classifier's error"
    return (logits_of(model, list(zip(x, labels)), 50).argmax(1).numpy() != labels).mean()


def gaps_of(pairs):
    "The mean gap of each measure over the images, with its standard error"
    gaps = np.mean([[measures(a) - measures(b) for a, b in zip(*pair)] for pair in pairs], 0)
    return gaps.mean(0), gaps.std(0, ddof=1)/len(gaps)**.5


def compare(name, x, labels, model, package, draws=2, seed=0):
    "One row: how far ours and theirs are apart on these images"
    np.random.seed(seed)
    still, images, n = name in _STILL, bytes_of(x), len(x)
    rounds = range(1 if still else draws)
    pairs = [(bytes_of(ours(x, name, seed + d)), theirs(images, name, package)) for d in rounds]
    gap, se = gaps_of(pairs)
    worst = 2 + abs(gap[2:]).argmax()  # the band of the spectrum with the largest gap
    error, error_theirs = (np.mean([wrong(model, pixels_of(p[i]), labels) for p in pairs]) for i in (0, 1))
    low, high = (float(v) for v in wilson(error, n))
    row = dict(corruption=name, family=FAMILY[name.split()[0]], size=x.shape[3], severity=SEVERITY, n=n,
               draws=len(pairs), within_one=agreement(*pairs[0]) if still else np.nan)
    for k, i in dict(mean=0, std=1, spectrum=worst).items(): row |= {f"{k}_gap": gap[i], f"{k}_se": se[i]}
    return row | dict(error=error, low=low, high=high, error_theirs=error_theirs)


def in_words(row): return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items())


def main():
    p = parser(__doc__)
    add_options(p, sizes=[32, 224], n=[1000, 100], draws=2, seed=0)
    a = p.parse_args()
    warnings.filterwarnings("ignore", "preset imagenet-c does not fit")
    package, where, rows = load()[0], origin("commit", "device"), []
    for size, n in zip(a.sizes, a.n):
        ds, model, classifier = setting(size, n, a.seed)
        x, labels = ds.pixels(range(len(ds))), ds.labels
        about = dict(classifier=classifier, clean_error=wrong(model, x, labels), seed=a.seed, **where)
        for name in NAMES:
            rows.append(compare(name, x, labels, model, package, draws=a.draws, seed=a.seed) | about)
            print(in_words(rows[-1]), flush=True)
    df = pd.DataFrame(rows)
    write_csv(df, HERE/"fidelity.csv", float_format="%.4g")
    inside = (df.error_theirs >= df.low) & (df.error_theirs <= df.high)
    print(f"{inside.sum()} of {len(df)} errors under imagecorruptions are within the 95 % interval of ours")


if __name__ == "__main__": main()
