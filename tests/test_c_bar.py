"""C-bar beside the authors' own program, and what it shares with the other corruptions.

c_bar_authors.csv was made with the program of Mintun et al. (2021): for each cell of CIFAR-10-C-bar the mean change of
a pixel over 500 test images of CIFAR-10, in grey levels, and the published ResNet-20's error on them.
"""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import CHECKPOINT, CIFAR10, needs_checkpoint, needs_cifar10
from wrnb.core import WrnbError
from wrnb.image_sets import limited
from wrnb.folders import folder_set, load_data
from wrnb.pretrained import load_model
from wrnb.inference import logits_of
from wrnb.c_bar import C_BAR_CONSTANTS, bar_names
from wrnb.corruptions import Corruption, corrupt, corruptions
from wrnb.corrupted_sets import corrupted_set
from wrnb.corrupted_copies import save_corrupted
from wrnb.cli import main

AUTHORS = pd.read_csv(Path(__file__).with_name("c_bar_authors.csv"))
FIFTEEN = sorted({*bar_names("cifar-c"), *bar_names("imagenet-c")})


def pictures(n, size=32): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


# --- beside the authors' program ------------------------------------------------------------------

def test_names_and_magnitudes_are_the_authors():
    constants = C_BAR_CONSTANTS["cifar-c"].items()
    ours = [(name, s, m) for name, magnitudes in constants for s, m in enumerate(magnitudes, 1)]
    theirs = AUTHORS[["corruption", "severity", "parameter"]].itertuples(index=False, name=None)
    assert sorted(ours) == sorted(theirs)


@pytest.fixture(scope="module")
def cifar():
    "500 test images of CIFAR-10"
    return limited(folder_set(CIFAR10, "test"), 500, 0)


@needs_cifar10
@pytest.mark.parametrize("cell", AUTHORS.itertuples(), ids=lambda c: f"{c.corruption} {c.severity}")
def test_pixels_change_as_much_as_under_the_authors_program(cell, cifar):
    "The mean change within a tenth of itself, or three standard errors of the difference if they are more"
    x = cifar.pixels(range(len(cifar)))
    change = 255*(corrupt(x, cell.corruption, cell.severity) - x).abs().mean((1, 2, 3))
    error = 3*2**.5*change.std().item()/len(x)**.5
    assert abs(change.mean().item() - cell.mean_abs_change) < max(.1*cell.mean_abs_change, error)


@needs_cifar10
@needs_checkpoint
def test_the_published_network_errs_as_often(cifar):
    "Within the 95 % interval of a difference of two shares in 45 of the 50 cells at least"
    net, within = load_model(f"resnet20@{CHECKPOINT}", 10), 0
    x, y = cifar.pixels(range(len(cifar))), torch.tensor(cifar.labels)
    for cell in AUTHORS.itertuples():
        pairs = list(zip(corrupt(x, cell.corruption, cell.severity), y))
        error = (logits_of(net, pairs).argmax(1) != y).float().mean().item()
        p = (error + cell.error_resnet20)/2
        within += abs(error - cell.error_resnet20) <= 1.96*(2*p*(1 - p)/len(x))**.5
    assert within >= 45


# --- what it shares with the other corruptions ----------------------------------------------------

@pytest.mark.parametrize("name", FIFTEEN)
def test_a_picture_depends_on_nothing_but_itself(name):
    "Alone, in another order, in a batch that is cut: the same bits; another seed, other draws"
    x = pictures(6, 40)
    given, y = x.clone(), corrupt(x, name, 4)
    assert torch.equal(torch.cat([corrupt(one, name, 4) for one in x.split(1)]), y)
    assert torch.equal(corrupt(x.flip(0), name, 4).flip(0), y)
    assert torch.equal(corrupt(x.repeat(60, 1, 1, 1), name, 4)[-6:], y)
    assert torch.equal(corrupt(x, name, 4, seed=1), y) == (name == "circular_motion_blur")
    assert torch.equal((y*255).round()/255, y) and 0 <= y.min() and y.max() <= 1
    assert torch.equal(x, given) and corrupt(x, name, 0) is x


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(16, 16), (33, 50), (64, 64), (120, 130)])
@pytest.mark.parametrize("name", FIFTEEN)
def test_any_size(name, shape):
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(1)).mul(255).round().div(255)
    y = corrupt(x, name, 5)
    assert y.shape == x.shape and not torch.equal(y, x)


def test_the_preset_chooses_the_set_and_the_size_the_magnitudes():
    assert [c.name for c in corruptions(bar=True, severities=1)] == bar_names("cifar-c")
    assert [c.name for c in corruptions(bar=True, severities=1, preset="imagenet-c")] == bar_names("imagenet-c")
    assert bar_names("tiny-imagenet-c") == bar_names("auto") == bar_names("cifar-c")
    small, large = pictures(1), pictures(1, 224)
    for x, preset in ((small, "cifar-c"), (large, "imagenet-c")):
        assert torch.equal(corrupt(x, "sparkles", 5), corrupt(x, "sparkles", 5, preset))
    with pytest.warns(UserWarning, match="does not fit"): other = corrupt(small, "sparkles", 5, "imagenet-c")
    assert not torch.equal(other, corrupt(small, "sparkles", 5))


def test_values():
    kinds = corruptions(bar=True)
    assert len(kinds) == 50 and {c.family for c in kinds} == {"c-bar"}
    assert {c.severity for c in kinds} == {1, 2, 3, 4, 5}
    assert corruptions(["noise", "c-bar"], 3)[3:] == corruptions(bar=True, severities=3)
    assert Corruption("ripple", 2).family == "c-bar"
    x = pictures(2)
    assert torch.equal(Corruption("ripple", 2)(None, x, None, seed=3), corrupt(x, "ripple", 2, seed=3))
    assert "c-bar" not in {c.family for c in corruptions()} | {c.family for c in corruptions(extra=True)}


# --- on disk --------------------------------------------------------------------------------------

@pytest.mark.parametrize("preset, kind", [
    ("cifar-c", "CIFAR-C-bar"), ("tiny-imagenet-c", "C-bar of another size"),
    ("imagenet-c", "ImageNet-C-bar on 10 classes")])
@pytest.mark.filterwarnings("ignore:preset")
def test_written_and_read_again(tmp_path, preset, kind):
    _, test = load_data("digits")
    few = limited(test, 8)
    ours = save_corrupted(few, tmp_path/"bar", preset=preset, bar=True)
    again = corrupted_set(tmp_path/"bar", clean=few)
    assert again.kind == ours.kind == kind and again.names == bar_names(preset)
    x = {i: x for i, x in zip(few.ids, few.pixels(range(8)))}
    if preset == "cifar-c":
        for name in again.names:
            y = corrupt(torch.stack(list(x.values())), name, 5)
            assert torch.equal(again.images(name, 5).pixels(range(8)), y)
            stored = np.load(tmp_path/"bar"/f"{name}.npy")
            assert stored.shape == (40, 32, 32, 3) and stored.dtype == np.uint8
        assert np.array_equal(np.load(tmp_path/"bar"/"labels.npy"), np.tile(few.labels, 5))
    else: assert len(list((tmp_path/"bar"/"sparkles"/"3").rglob("*.JPEG"))) == 8


def test_never_next_to_the_common_ones(tmp_path):
    _, test = load_data("digits")
    with pytest.raises(WrnbError, match="folders of their own"):
        save_corrupted(limited(test, 4), tmp_path/"both", ["fog", "ripple"])
    with pytest.raises(WrnbError, match="leave out names="):
        save_corrupted(limited(test, 4), tmp_path/"both", ["fog"], bar=True)
    assert not (tmp_path/"both").exists()


def test_the_command(tmp_path, capsys):
    assert main(["corrupt", "digits", "--bar", "--limit", "4", "--out", str(tmp_path/"bar")]) == 0
    assert "CIFAR-C-bar, made by wrnb" in capsys.readouterr().out
    assert {p.stem for p in (tmp_path/"bar").glob("*.npy")} == {*bar_names(), "labels"}
