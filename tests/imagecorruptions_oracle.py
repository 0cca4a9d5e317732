"""imagecorruptions 1.1.2 (2020) on today's NumPy, SciPy and scikit-image, and a way to hand it its random numbers: the
oracle of the fidelity tests"""
import contextlib, functools, importlib, sys, types, warnings
from pathlib import Path

import numpy as np
import skimage.filters


class _Numpy:
    "numpy, with what NumPy 2 dropped, and a `random` that can be exchanged"
    float_ = np.float64
    def __init__(self): self.random = np.random
    def __getattr__(self, name): return getattr(np, name)


def _gaussian(image, sigma=1, *args, multichannel=None, **kwargs):
    "scikit-image's gaussian under its old signature"
    if multichannel: kwargs["channel_axis"] = -1
    return skimage.filters.gaussian(image, sigma, *args, **kwargs)


def load():
    "Import imagecorruptions without pkg_resources; returns (the package, its module of corruptions)"
    stand_in = None
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in = types.ModuleType("pkg_resources")
        stand_in.resource_filename = lambda name, path: str(Path(sys.modules[name].__file__).parent/path)
        sys.modules["pkg_resources"] = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = ("imagecorruptions", "imagecorruptions.corruptions")
            package, module = (importlib.import_module(name) for name in names)
    finally:
        if stand_in: del sys.modules["pkg_resources"]
    if not isinstance(module.np, _Numpy): module.np, module.gaussian = _Numpy(), _gaussian
    return package, module


class Draws:
    """A stand-in for `np.random` that hands out given numbers, one queue per function: standard normal, uniform in
    [0,1), integers, Poisson by quantile"""
    def __init__(self, normal=(), uniform=(), randint=(), poisson=()):
        self.queues = dict(normal=iter(normal), uniform=iter(uniform), randint=iter(randint), poisson=iter(poisson))
    def normal(self, loc=0., scale=1., size=None): return self._next("normal", size)*scale + loc
    def uniform(self, low=0., high=1., size=None): return self._next("uniform", size)*(high-low) + low
    def randint(self, low, high=None, size=None): return self._next("randint", size)
    def poisson(self, lam):
        from scipy.stats import poisson
        return poisson.ppf(self._next("poisson", lam.shape), lam).clip(0)
    def _next(self, queue, size):
        v = next(self.queues[queue])
        assert size is None or np.shape(v) == tuple(size), (queue, np.shape(v), size)
        return v


@contextlib.contextmanager
def fed(module, **draws):
    "Within it imagecorruptions draws the numbers that it is given"
    module.np.random = Draws(**draws)
    try: yield
    finally: module.np.random = np.random


def imagenet_elastic(x, alpha, sigma, strength, points, field):
    """ImageNet-C's elastic transformation by OpenCV and SciPy on a uint8 image: `points` [3, 2] and `field` [2, h, w]
    are uniform in [-1, 1)"""
    import cv2
    from scipy.ndimage import gaussian_filter, map_coordinates
    x = np.float32(x)/255
    h, w, _ = x.shape
    mid, third = np.float32([w//2, h//2]), min(h, w)//3
    before = np.float32([mid + third, mid + [third, -third], mid - third])
    affine = cv2.getAffineTransform(before, np.float32(before + points*strength))
    x = cv2.warpAffine(x, affine, (w, h), borderMode=cv2.BORDER_REFLECT_101)
    dx, dy = (gaussian_filter(f, sigma, mode="reflect", truncate=3)*alpha for f in field)
    rows, cols = np.mgrid[:h, :w]
    places = [rows+dy, cols+dx]
    moved = np.stack([map_coordinates(c, places, order=1, mode="reflect") for c in x.transpose(2, 0, 1)], -1)
    return np.uint8(np.clip(moved, 0, 1)*255)


def theirs_elastic(severity, size):
    "The constants (alpha, sigma, affine strength) with which our elastic transformation becomes imagecorruptions' own"
    return 250*[.05, .065, .085, .1, .12][severity-1]*.005*size, .01*size, 0


def agreement(a, b):
    "Share of pixels of two uint8 images (or batches) whose three channels all differ by one grey level at most"
    return (np.abs(a.astype(int) - b.astype(int)).max(-1) <= 1).mean()


def measures(y):
    "Mean, contrast and the logarithm of the power in six bands of spatial frequency, of a uint8 image [h, w, 3]"
    y = y.astype(float)
    power = np.abs(np.fft.rfft2(y.mean(-1) - y.mean()))**2
    f = np.hypot(np.fft.fftfreq(len(y))[:, None], np.fft.rfftfreq(y.shape[1]))
    bands = np.digitize(f, [.02, .06, .12, .2, .3, .4])
    return np.array([y.mean(), y.std(), *(np.log(power[bands == b].mean() + 1) for b in range(1, 7))])


@functools.lru_cache
def _frost_picture(i):
    "The frost picture of number `i`, 0 to 4, uint8 RGB"
    import cv2
    folder = Path(importlib.util.find_spec("imagecorruptions").submodule_search_locations[0])/"frost"
    return cv2.imread(str(sorted(folder.glob("frost[1-5].*"))[i]))[..., ::-1]


def imagenet_frost(x, keep, weight, which, top, left):
    "ImageNet-C's frost on a uint8 image; `which`, `top` and `left` are uniform in [0, 1)"
    picture, (h, w, _) = _frost_picture(int(which*5)), x.shape
    top, left = int(top*(picture.shape[0]-h)), int(left*(picture.shape[1]-w))
    return np.uint8(np.clip(keep*x + weight*picture[top:top+h, left:left+w], 0, 255))


@functools.lru_cache
def theirs_frost_pictures(scale, height, width, device):
    "The pictures as imagecorruptions lays them over images smaller than they are: enlarged by 1.1"
    import cv2, torch
    def enlarge(p):
        height, width = (int(np.ceil(side*1.1)) for side in p.shape[:2])
        return cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC)
    enlarged = [np.ascontiguousarray(enlarge(_frost_picture(i))) for i in range(5)]
    return [torch.from_numpy(p).permute(2, 0, 1).float().to(device)/255 for p in enlarged]
