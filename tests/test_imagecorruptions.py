"""`wrnb.imagecorruptions` in the place of imagecorruptions 1.1.2: the same calls, on pictures of any shape.

What is not random agrees pixel by pixel. What is random draws its own numbers, so it is handed to the original for
the one corruption that has other constants there, and compared in tests/test_corruptions_fidelity.py for the rest."""
import importlib, inspect, subprocess, sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

try: importlib.import_module("cv2")
except ImportError as e:
    needs = "imagecorruptions needs it; on Debian: apt-get install libgl1 libglib2.0-0"
    pytest.skip(f"OpenCV cannot be imported ({e}), and {needs}", allow_module_level=True)

from imagecorruptions_oracle import agreement, fed, load
from wrnb import imagecorruptions as ours
from wrnb.arrays import pixels_of
from wrnb.core import WrnbError
from wrnb.corruptions import CONSTANTS, _STILL
from wrnb.randomness import fold_in, image_keys, uniform

theirs, module = load()
PHOTO = Image.fromarray(load_sample_image("china.jpg"))
SHAPES = {"small": (32, 32), "wide": (48, 130), "tall": (301, 200)}  # width, height
GIVES = ["colour", "grey", "one channel"]


def photo(size, kind="colour"):
    a = np.array(PHOTO.resize(size, Image.BICUBIC))
    return {"colour": a, "grey": a[..., 0], "one channel": a[..., :1]}[kind]


def test_the_signature_is_the_same():
    mine, other = (inspect.signature(m.corrupt).parameters for m in (ours, theirs))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in other.values()]


@pytest.mark.parametrize("subset", ["common", "validation", "all", "noise", "blur", "weather", "digital"])
def test_the_names_are_the_same(subset):
    assert ours.get_corruption_names(subset) == theirs.get_corruption_names(subset)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", [n for n in CONSTANTS if n in _STILL])
def test_equal_without_randomness(name, size):
    for severity in range(1, 6):
        for kind in GIVES:
            a = photo(SHAPES[size], kind)
            mine, other = (m.corrupt(a, severity=severity, corruption_name=name) for m in (ours, theirs))
            assert mine.shape == other.shape and mine.dtype == other.dtype == np.uint8
            assert agreement(mine, other) >= .999, (severity, kind)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("severity", [1, 5])
def test_elastic_transformations_are_theirs_when_given_the_same_draws(size, severity):
    a = photo(SHAPES[size])
    np.random.seed(5)
    mine = ours.corrupt(a, severity, "elastic_transform")
    np.random.seed(5)
    x, seed = pixels_of(a), np.random.randint(2**31)
    keys = fold_in(fold_in(image_keys(x, seed), "elastic_transform", severity), "field")
    fields = uniform(keys, (2, *a.shape[:2]))[0].double().numpy()
    with fed(module, uniform=fields): other = theirs.corrupt(a, severity, "elastic_transform")
    assert (a != mine).mean() > .3
    assert agreement(mine, other) >= .995


@pytest.mark.parametrize("name", [n for n in CONSTANTS if n not in _STILL])
def test_random_ones_change_a_picture_as_much_as_theirs(name):
    "The mean change of twelve draws, within a fifth or two grey levels"
    a = photo((96, 80))
    np.random.seed(0)
    def change(m): return np.mean([abs(m.corrupt(a, 3, name).astype(int) - a).mean() for _ in range(12)])
    mine, other = change(ours), change(theirs)
    assert abs(mine - other) < max(2, .2*other), (mine, other)


def ndarray_kinds():
    "The same picture as arrays of many makes"
    a = photo((48, 40))
    frozen = a.copy()
    frozen.flags.writeable = False
    return {
        "read-only": frozen, "from Pillow": np.asarray(Image.fromarray(a)), "colours backwards": a[..., ::-1],
        "mirrored": a[:, ::-1], "upside down": a[::-1, ::-1], "turned": np.rot90(a),
        "in Fortran's order": np.asfortranarray(a),
        "every second pixel": photo((96, 80))[::2, ::2], "transposed": a.transpose(1, 0, 2),
        "grey, mirrored": a[:, ::-1, 0], "one channel, backwards": a[..., 2:1:-1], "masked": np.ma.masked_array(a)}


@pytest.mark.parametrize("kind", ndarray_kinds())
@pytest.mark.parametrize("name", ["brightness", "jpeg_compression", "defocus_blur"])
def test_arrays_of_every_make_are_taken(kind, name):
    "Within one grey level"
    a = ndarray_kinds()[kind]
    mine, other = (m.corrupt(a, 4, name) for m in (ours, theirs))
    assert type(mine) is np.ndarray and mine.shape == other.shape
    assert abs(mine.astype(int) - other).max() <= 1


@pytest.mark.parametrize("kind", ndarray_kinds())
def test_random_ones_take_them_too(kind):
    for name in ("gaussian_noise", "fog", "elastic_transform", "spatter"):
        a = ndarray_kinds()[kind]
        assert ours.corrupt(a, 1, name).shape == theirs.corrupt(a, 1, name).shape


def outcome(m, *args, **options):
    "The picture; None if it is refused, and then in one line of this package"
    try: return m.corrupt(*args, **options)
    except Exception as e:
        if m is ours: assert isinstance(e, WrnbError) and "=" in str(e) and "\n" not in str(e)
        return None


COLOURS = photo((48, 40))
REFUSED = {
    "floats": COLOURS/255, "float32": COLOURS.astype(np.float32), "integers": COLOURS.astype(int),
    "int8": COLOURS.astype(np.int8), "two levels": COLOURS > 99,
    "four channels": np.dstack([COLOURS, COLOURS[..., :1]]), "two channels": COLOURS[..., :2],
    "a list": COLOURS.tolist(), "a batch": COLOURS[None], "too small": COLOURS[:31], "flat": COLOURS.ravel(),
    "nothing": None, **{f"Pillow's {mode}": Image.fromarray(COLOURS).convert(mode)
                        for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1", "F", "LA")}}


@pytest.mark.parametrize("what", REFUSED)
def test_both_refuse_what_is_not_such_an_array(what):
    assert outcome(theirs, REFUSED[what], 2, "contrast") is None
    assert outcome(ours, REFUSED[what], 2, "contrast") is None


OPTIONS = [dict(severity=s, corruption_name="contrast") for s in (True, False, 0, 6, 2.5, "2", None, np.int64(3))]
NUMBERS = 11, -1, -2, -8, -19, -20, 19, True, np.int64(14), np.int8(-1), "3", None
OPTIONS += [dict(corruption_number=k) for k in NUMBERS]
OPTIONS += [dict(corruption_name="contrast", corruption_number=k) for k in (3, 99, "3")]
OPTIONS += [dict(corruption_name=name) for name in ("rain", "", 3, np.str_("jpeg_compression"))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_are_taken_and_refused_as_by_the_package(options):
    mine, other = (outcome(m, COLOURS, **options) for m in (ours, theirs))
    assert (mine is None) == (other is None)
    if mine is not None and options.get("corruption_number") not in (-2, -19, True):  # these are random
        assert abs(mine.astype(int) - other).max() <= 1


EXAMPLES = """
import numpy as np
from {package} import corrupt, get_corruption_names
image = np.random.RandomState(0).randint(0, 256, (40, 64, 3)).astype(np.uint8)
corrupted_image = corrupt(image, corruption_name='gaussian_blur', severity=1)
results = [corrupted_image]
for corruption in get_corruption_names('common'):
    for severity in range(5):
        results.append(corrupt(image, corruption_name=corruption, severity=severity+1))
for i in range(15):
    for severity in range(5):
        results.append(corrupt(image, corruption_number=i, severity=severity+1))
"""  # its README's, with a picture


def test_its_examples_run_with_one_import_changed():
    spaces = {}, {}
    for space, package in zip(spaces, ("imagecorruptions", "wrnb.imagecorruptions")):
        exec(EXAMPLES.format(package=package), space)
    mine, other = ([(r.shape, r.dtype) for r in space["results"]] for space in spaces)
    assert mine == other and len(mine) == 151


WITHOUT = """
import builtins, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
missing = {"imagecorruptions", "cv2", "skimage", "fastai", "matplotlib", "pandas", "torchvision", "scipy"}
PathFinder.find_spec = staticmethod(lambda name, *a: None if name.split(".")[0] in missing else find(name, *a))
import numpy as np
from wrnb.imagecorruptions import corrupt, get_corruption_names
from wrnb.core import WrnbError
from wrnb.c_bar import MAKERS
image = np.full((40, 40, 3), 99, np.uint8)
for name in get_corruption_names("all"):
    if name not in ("frost", "jpeg_compression"): assert corrupt(image, 3, name).shape == image.shape
try: corrupt(image, 3, "frost")
except WrnbError as e: print(e)
"""


def test_neither_opencv_nor_the_package_nor_anything_large_is_needed_but_for_frost():
    "JPEG is left out here: it is torchvision that decodes it"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT], capture_output=True, text=True)
    assert out.stdout == "frost needs the pictures of a package: pip install imagecorruptions\n", out.stderr[-500:]
