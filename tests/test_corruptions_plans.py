"""What corruptions keep between batches, and where they cut them: tables, boxes, step sizes, pieces. Each is compared
with a plain calculation, in batches of changing sizes, so that a plan for one cannot serve another."""
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import poisson

from wrnb.corruptions import CONSTANTS, _at_once, _plasma, corrupt, corruptions
from wrnb.randomness import _hash_weights, _mix, _mix_in_torch, fold_in, image_keys, uniform

pytestmark = pytest.mark.filterwarnings("ignore:preset")


def pictures(n, height, width, seed=0):
    "Random pictures with grain and gradients"
    grain = torch.randint(0, 80, (n, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return (grain + torch.linspace(0, 175, width).int()).clamp(max=255)/255


def levels(x): return (x*255).round().byte()
def pillow(x): return [Image.fromarray(p) for p in levels(x).permute(0, 2, 3, 1).contiguous().numpy()]
def as_levels(images): return torch.stack([torch.from_numpy(np.array(p)) for p in images]).permute(0, 3, 1, 2)
def draws(x, name, severity): return uniform(fold_in(image_keys(x, 5), name, severity), x.shape[1:])


@pytest.mark.parametrize("preset", ["cifar-c", "tiny-imagenet-c", "imagenet-c"])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_shot_noise_is_the_quantile_of_poisson(preset, severity):
    x = pictures(2, 20, 24, severity)
    c = CONSTANTS["shot_noise"][preset][severity-1]
    photons = poisson.ppf(draws(x, "shot_noise", severity).double(), levels(x)/255*c).clip(0)
    expected = (np.float32(photons/c).clip(0, 1)*255 + 1e-3).astype(np.uint8)
    assert (levels(corrupt(x, "shot_noise", severity, preset, seed=5)).numpy() == expected).mean() > .9999


@pytest.mark.parametrize("severity", [1, 5])
def test_impulse_noise_is_black_white_or_the_pixel(severity):
    x = pictures(3, 33, 18)
    c = CONSTANTS["impulse_noise"]["imagenet-c"][severity-1]
    u = draws(x, "impulse_noise", severity)
    expected = np.where(u < c/2, 255, np.where(u < c, 0, levels(x)))
    assert (levels(corrupt(x, "impulse_noise", severity, "imagenet-c", seed=5)).numpy() == expected).all()


@pytest.mark.parametrize("side", [20, 33, 64])
def test_fog_is_the_published_formula(side):
    x = pictures(2, side, side)
    weight, decay = CONSTANTS["fog"]["imagenet-c"][2]
    keys = fold_in(image_keys(x, 5), "fog", 3)
    haze = _plasma(keys, 2**(side-1).bit_length(), decay)[:, None, :side, :side].double()
    top = x.double().amax((1, 2, 3), keepdim=True)
    expected = (x.double() + weight*haze)*top/(top + weight)*255
    got = levels(corrupt(x, "fog", 3, "imagenet-c", seed=5))
    assert ((got - expected + .5).abs() < .51).all()  # the fraction is cut off


def test_fog_keeps_black_black_and_white_white():
    for value in (0., 1.):
        flat = torch.full((1, 3, 32, 32), value)
        y = corrupt(flat, "fog", 5)
        assert y.max() == value and y.min() >= 0


def test_step_sizes_shrink_with_the_distance():
    "The mean jump between neighbours, coarse grid against fine, is smaller the larger the decay"
    keys = fold_in(torch.arange(20), "steps")
    jumps = [(_plasma(keys, 64, decay).diff(dim=2).abs().mean()).item() for decay in (1.4, 2, 3)]
    assert jumps[0] > 2*jumps[1] > 2*jumps[2]


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_pixelate_is_pillows_in_batches_of_any_size(severity):
    c = CONSTANTS["pixelate"]["imagenet-c"][severity-1]
    for n, h, w in [(1, 40, 40), (3, 40, 40), (2, 40, 31), (3, 31, 40), (1, 40, 40)]:
        x = pictures(n, h, w, n)
        small = [p.resize((int(w*c), int(h*c)), Image.BOX) for p in pillow(x)]
        expected = as_levels([p.resize((w, h), Image.NEAREST) for p in small])
        got = levels(corrupt(x, "pixelate", severity, "imagenet-c"))
        assert (got.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("h,w", [(16, 16), (32, 32), (90, 91), (91, 91), (17, 600)])
def test_jpeg_is_pillows_whoever_encodes(h, w):
    for severity in (1, 5):
        quality, x, coded = CONSTANTS["jpeg_compression"]["imagenet-c"][severity-1], pictures(2, h, w), []
        for p in pillow(x):
            p.save(file := io.BytesIO(), "JPEG", quality=quality)
            coded.append(Image.open(file))
        assert (levels(corrupt(x, "jpeg_compression", severity, "imagenet-c")) == as_levels(coded)).all()


def test_jpeg_does_without_torchvisions_codec(monkeypatch):
    x = pictures(3, 32, 32)
    expected = corrupt(x, "jpeg_compression", 3)
    monkeypatch.setattr("wrnb.corruptions.torchvision_io", object())
    assert (corrupt(x, "jpeg_compression", 3) == expected).all()


@pytest.mark.parametrize("name", ["motion_blur", "snow"])
def test_a_smear_is_the_same_alone_and_among_many(name):
    x = pictures(150, 32, 32)
    many = corrupt(x, name, 5, "imagenet-c", seed=1)
    for i in (0, 61, 62, 63, 149):
        assert (corrupt(x[i:i+1], name, 5, "imagenet-c", seed=1) == many[i:i+1]).all(), i


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "fog", "pixelate"])
def test_a_large_image_is_the_same_alone_and_in_a_cut_batch(name):
    x = pictures(2 + _at_once(name, torch.device("cpu"))//224**2, 224, 224)
    many = corrupt(x, name, 3, seed=1)
    for i in (0, len(x)//2, len(x)-1): assert (corrupt(x[i:i+1], name, 3, seed=1) == many[i:i+1]).all(), i


def test_keys_of_large_images_are_sums_of_products():
    "Of one image and of several, which are cut into blocks; Python's integers are the other route"
    x = pictures(9, 160, 150)
    weights = _hash_weights(x[0].numel(), x.device).tolist()
    for some in (x[:1], x):
        sums = [sum(p*q for p, q in zip(row, weights)) for row in levels(some).flatten(1).tolist()]
        expected = fold_in(torch.tensor([(v + 2**63) % 2**64 - 2**63 for v in sums]), 4)
        assert (image_keys(some, 4) == expected).all()


def test_a_stream_has_the_same_key_however_it_is_named():
    keys = torch.arange(4)
    three = fold_in(keys, 3)
    for part in (np.int64(3), 3., torch.tensor(3), torch.tensor([3])): assert (fold_in(keys, part) == three).all()
    assert (fold_in(keys, "3") != three).all()
    assert (fold_in(keys, torch.tensor([[3], [4]]))[0] == three).all()


def test_keys_do_not_depend_on_threads():
    numbers, before = torch.arange(-50, 50)*2**57, torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            assert (_mix(numbers.clone()) == _mix_in_torch(numbers.clone())).all()
    finally: torch.set_num_threads(before)


KINDS = [k.name for extra in (False, True) for k in corruptions(severities=1, extra=extra)]


@pytest.mark.parametrize("level", [0., 1.])
@pytest.mark.parametrize("name", KINDS)
def test_a_picture_of_one_colour_is_corrupted_too(name, level):
    "Black has no photons to draw: nothing is left to look up"
    for severity in (1, 5):
        seen = corrupt(torch.full((2, 3, 32, 32), level), name, severity)
        assert seen.shape == (2, 3, 32, 32) and seen.min() >= 0 and seen.max() <= 1
