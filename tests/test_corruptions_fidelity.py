"""The package's corruptions against imagecorruptions 1.1.2, ImageNet-C's constants, at 64 and 224 px.

Three routes: those without randomness pixel by pixel; the random ones pixel by pixel when both get the same random
numbers; and the random ones in distribution when each draws its own. Differences are in grey levels, 0 to 255."""
import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

try: importlib.import_module("cv2")
except ImportError as e:
    needs = "imagecorruptions needs it; on Debian: apt-get install libgl1 libglib2.0-0"
    pytest.skip(f"OpenCV cannot be imported ({e}), and {needs}", allow_module_level=True)

from imagecorruptions_oracle import agreement, fed, imagenet_elastic, load, measures, theirs_elastic
from wrnb.randomness import fold_in, image_keys, normal, uniform
from wrnb.corruptions import CONSTANTS, _MAKERS, _STILL, _truncate, corrupt

package, module = load()
pytestmark = pytest.mark.filterwarnings("ignore:preset imagenet-c does not fit")
SEVERITIES = {64: (1, 2, 3, 4, 5), 224: (1, 3, 5)}
STILL = [(n, size) for size in SEVERITIES for n in CONSTANTS if n in _STILL]
RANDOM = [n for n in CONSTANTS if n not in _STILL]


def photo(size, name="china.jpg"):
    square = Image.fromarray(load_sample_image(name)).crop((100, 0, 527, 427))
    return np.array(square.resize((size, size), Image.BICUBIC))


def tensor(a): return torch.from_numpy(a).permute(2, 0, 1)[None].float()/255
def levels(x): return (x[0]*255).round().byte().permute(1, 2, 0).numpy()
def ours(a, name, severity, seed=0): return levels(corrupt(tensor(a), name, severity, "imagenet-c", seed))
def theirs(a, name, severity): return package.corrupt(a, severity=severity, corruption_name=name)
def hwc(t): return t.squeeze(0).permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("name,size", STILL)
def test_equal_without_randomness(name, size):
    for severity in SEVERITIES[size]:
        for f in ("china.jpg", "flower.jpg"):
            a = photo(size, f)
            assert agreement(ours(a, name, severity), theirs(a, name, severity)) >= .999, (severity, f)


def plasma_draws(u):
    "A map of uniform numbers in the order in which the original's fractal asks for them"
    step = len(u)
    while step >= 2:
        on, mid = slice(None, None, step), slice(step//2, None, step)
        for rows, columns in ((mid, mid), (on, mid), (mid, on)): yield u[rows, columns]
        step //= 2


def glass_draws(keys, size, reach, rounds):
    for i in range(rounds):
        offset = uniform(fold_in(keys, i), (2, size, size), -reach, reach).floor().long()[0].numpy()
        for h in range(size-reach, reach, -1):
            for w in range(size-reach, reach, -1): yield offset[:, h, w]


def one(t): return t[0].double().numpy()


def draws(name, severity, size, keys):
    "The numbers behind our corruption, for the original"
    constants, whole = CONSTANTS[name]["imagenet-c"][severity-1], (size, size)
    if name in ("gaussian_noise", "speckle_noise"): return dict(normal=[hwc(normal(keys, (3, *whole)))])
    if name == "shot_noise": return dict(poisson=[hwc(uniform(keys, (3, *whole)))])
    if name == "motion_blur": return dict(uniform=[one(uniform(keys, ()))])
    if name == "snow":
        flakes, angle = normal(fold_in(keys, "flakes"), whole), uniform(fold_in(keys, "angle"), ())
        return dict(normal=[one(flakes)], uniform=[one(angle)])
    if name == "fog": return dict(uniform=plasma_draws(one(uniform(keys, (2**(size-1).bit_length(),)*2))))
    if name == "spatter": return dict(normal=[one(normal(keys, whole))])
    if name == "glass_blur":
        _, reach, rounds = constants
        return dict(randint=glass_draws(keys, size, reach, rounds))
    assert name == "elastic_transform"
    return dict(uniform=one(uniform(fold_in(keys, "field"), (2, *whole))))


# the least share of pixels within one grey level; spatter's distances to the water's edge are approximate in OpenCV
SAME = dict(gaussian_noise=.999, shot_noise=.999, glass_blur=.999, motion_blur=.999, snow=.999, fog=.999,
            speckle_noise=.999, spatter=.9)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("size", [64, 224])
def test_equal_when_given_the_same_draws(name, size):
    a = photo(size)
    for severity in ((3,) if size == 224 and name == "glass_blur" else SEVERITIES[size]):
        keys = fold_in(image_keys(tensor(a), 7), name, severity)
        with fed(module, **draws(name, severity, size, keys)): expected = theirs(a, name, severity)
        got = ours(a, name, severity, seed=7)
        assert agreement(got, expected) >= SAME[name], severity
        assert abs(got.astype(float) - expected).mean() < 1.5, severity


@pytest.mark.parametrize("size", [64, 224])
def test_elastic_transform(size):
    "imagecorruptions' own variant when ours gets its constants, and ImageNet-C's by OpenCV"
    a = photo(size)
    for severity in SEVERITIES[size]:
        keys = fold_in(image_keys(tensor(a), 7), "elastic_transform", severity)
        as_theirs = _MAKERS["elastic_transform"](tensor(a), theirs_elastic(severity, size), keys)
        with fed(module, **draws("elastic_transform", severity, size, keys)):
            assert agreement(levels(_truncate(as_theirs)), theirs(a, "elastic_transform", severity)) >= .999
        points = uniform(fold_in(keys, "affine"), (3, 2), -1, 1)[0].numpy()
        field = one(uniform(fold_in(keys, "field"), (2, size, size), -1, 1))
        constants = CONSTANTS["elastic_transform"]["imagenet-c"][severity-1]
        expected = imagenet_elastic(a, *constants, points, field)
        got = ours(a, "elastic_transform", severity, seed=7)
        # OpenCV rounds positions to 1/32 pixel: a level or two at edges
        assert abs(got.astype(int) - expected).mean() < .8 and agreement(got, expected) > .85, severity


@pytest.mark.parametrize("name", [n for n in RANDOM if n != "elastic_transform"])
@pytest.mark.parametrize("size,n", [(64, 100), (224, 12)])
def test_equal_in_distribution(name, size, n):
    """Each draws its own numbers: means agree within 4.5 standard errors plus a tolerance for rounding, spreads within
    the error of a variance"""
    if name == "glass_blur": n = 3 if size == 224 else 12
    a = photo(size)
    np.random.seed(0)
    mine = np.array([measures(ours(a, name, 3, seed=i)) for i in range(n)])
    other = np.array([measures(theirs(a, name, 3)) for _ in range(n)])
    error = np.sqrt((mine.var(0, ddof=1) + other.var(0, ddof=1))/n)
    slack = np.array([1., 1.] + [.15]*6)  # grey levels; natural logarithm of power
    assert (abs(mine.mean(0) - other.mean(0)) < 4.5*error + slack).all(), (mine.mean(0), other.mean(0), error)
    if n < 50: return
    ratio = np.log((mine.std(0)[:2] + .3)/(other.std(0)[:2] + .3))
    assert (abs(ratio) < 4.5/np.sqrt(n)).all(), ratio
