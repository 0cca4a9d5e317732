"imagecorruptions 1.1.2 (2020) on today's NumPy, SciPy and scikit-image, and a way to hand it its random numbers: the oracle of the fidelity tests"
import contextlib, importlib, sys, types, warnings
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
            package, module = importlib.import_module("imagecorruptions"), importlib.import_module("imagecorruptions.corruptions")
    finally:
        if stand_in: del sys.modules["pkg_resources"]
    if not isinstance(module.np, _Numpy): module.np, module.gaussian = _Numpy(), _gaussian
    return package, module


class Draws:
    "A stand-in for `np.random` that hands out given numbers, one queue a function: standard normal, uniform in [0,1), integers, Poisson by quantile"
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
    "ImageNet-C's elastic transformation by OpenCV and SciPy on a uint8 image: `points` [3, 2] and `field` [2, h, w] are uniform in [-1, 1)"
    import cv2
    from scipy.ndimage import gaussian_filter, map_coordinates
    x = np.float32(x)/255
    h, w, _ = x.shape
    mid, third = np.float32([w//2, h//2]), min(h, w)//3
    before = np.float32([mid + third, mid + [third, -third], mid - third])
    x = cv2.warpAffine(x, cv2.getAffineTransform(before, np.float32(before + points*strength)), (w, h), borderMode=cv2.BORDER_REFLECT_101)
    dx, dy = (gaussian_filter(f, sigma, mode="reflect", truncate=3)*alpha for f in field)
    rows, cols = np.mgrid[:h, :w]
    return np.uint8(np.clip(np.stack([map_coordinates(c, [rows+dy, cols+dx], order=1, mode="reflect") for c in x.transpose(2, 0, 1)], -1), 0, 1)*255)
