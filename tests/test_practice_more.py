"""The same slips through other doors: what was repaired once is tried with siblings of each case."""
import random, warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from helpers import complaint, pictures
from wrnb.all import *
from wrnb.loop import Loop
import wrnb.report

TRAIN, TEST = load_data("digits", limit=60, test_limit=24)
FEW = dict(severities=(1,), families=("noise",), device="cpu")
quiet = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:the clean error")


def refused(call, *says):
    "The line of a `WrnbError`"
    with pytest.raises(WrnbError) as e: call()
    line = str(e.value)
    assert "\n" not in line and all(s in line for s in says), line
    return line


def digits_net():
    torch.manual_seed(0)
    return MODELS["digits_net"](10).eval()


class Asked(nn.Module):
    "A network that is asked in a way of somebody's own"
    def __init__(self, f):
        super().__init__()
        self.net, self.f = digits_net(), f

    def forward(self, x): return self.f(self.net, x)


# --- models -------------------------------------------------------------------------------------

FLAT = {
    "detaches the pixels": lambda net, x: net(x.detach()),
    "detaches the logits": lambda net, x: net(x).detach(),
    "answers with the class": lambda net, x: nn.functional.one_hot(net(x).argmax(1), 10).float(),
}
DOORS = {
    "evaluate": lambda net: evaluate(net, TEST, attack_names=("pgd",), eps=4/255, **FEW | dict(severities=())),
    "validate": lambda net: validate(net, [0, 1], TRAIN, TEST, perturbations=ATTACKS["fgsm"](.01), device="cpu"),
    "attack": lambda net: ATTACKS["pgd"](.01)(net, *batch()),
    "adversarial": lambda net: enhance(net, strategy="adversarial", ds=TRAIN, test=TEST, epochs=1, device="cpu"),
}


def batch(): return torch.stack([TEST[i][0] for i in range(4)]), torch.tensor([TEST[i][1] for i in range(4)])


@quiet
@pytest.mark.filterwarnings("ignore:the model's outputs are probabilities")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FLAT)
def test_attacks_refuse_a_model_without_a_gradient_in_the_pixels(name, door):
    refused(lambda: DOORS[door](Asked(FLAT[name])), "gives no gradient in the pixels", "without attacks")


@quiet
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda net: torch.jit.trace(net, batch()[0])])
def test_a_model_of_torch_jit_is_asked_without_a_warning_and_not_trained(compiled):
    net, same = compiled(digits_net()), digits_net()
    options = dict(eps=.3, n_neighbors=3, device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*grad attribute.*")
        ours = score_robustness(net, TRAIN, **options).table.score
    np.testing.assert_allclose(ours, score_robustness(same, TRAIN, **options).table.score, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: enhance(net, strategy="standard", ds=TRAIN, test=TEST, epochs=1, device="cpu"), "torch.jit")


@quiet
def test_weights_without_values_or_without_a_size():
    void = MODELS["digits_net"](10).to("meta")
    for door in ("evaluate", "validate"): refused(lambda: DOORS[door](void), "cannot take images of 32 x 32 px")
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    assert len(evaluate(lazy, TEST, attack_names=(), **FEW).table) and lazy[1].weight.shape == (10, 3072)


# --- data ---------------------------------------------------------------------------------------

class Own(Dataset):
    "A dataset with attributes of its own"
    def __init__(self, **attributes): vars(self).update(attributes)
    def __len__(self): return len(TEST)
    def __getitem__(self, i): return TEST[i]


@pytest.mark.parametrize("kind", [set, frozenset])
def test_classes_in_a_set_have_no_order(kind):
    ds = Own(classes=kind("abcdefghij"))
    refused(lambda: score_robustness(digits_net(), ds, eps=.1, device="cpu"), "classes= is a set", "list")


def test_the_part_of_a_learner_has_the_names_of_its_classes(tmp_path):
    pictures(tmp_path, splits=("train", "valid"))
    dls = ImageDataLoaders.from_folder(tmp_path, item_tfms=Resize(32), bs=2, device="cpu")
    assert classes_of(dls.valid_ds) == classes_of(dls.train_ds) == ["cat", "dog"]


def test_numbers_in_another_order_are_names(tmp_path):
    "Of digits, say: the file counts down, the data count up"
    net, down = load_model("digits_net", 10).eval(), [str(i) for i in range(9, -1, -1)]
    torch.save(dict(state_dict=net.body.state_dict(), classes=down), tmp_path/"down.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = load_model(f"digits_net@{tmp_path}/down.pth", 10, classes=down[::-1]).eval()
    x, _ = batch()
    with torch.no_grad(): torch.testing.assert_close(mapped(x), net(x).flip(1))


def test_text_is_no_number_and_is_shown_as_text():
    refused(lambda: load_data("digits", limit="3"), "limit='3' is not a whole number")
    refused(lambda: score_robustness(digits_net(), TRAIN, eps=".1", device="cpu"), "eps='.1' is out of range")


@pytest.mark.parametrize("given, says", [
    (v2.RandomHorizontalFlip, "RandomHorizontalFlip is a class: give RandomHorizontalFlip(...)"),
    (3, "transforms=3 is not a function"), ("flip", "transforms='flip' is not a function")])
def test_what_is_no_transform_is_refused_alone_and_in_a_list(given, says):
    for transforms in (given, [given]):
        refused(lambda: enhance(digits_net(), strategy="standard", ds=TRAIN, test=TEST, epochs=1, device="cpu",
                                transforms=transforms), says)


# --- the world around ---------------------------------------------------------------------------

def world():
    "The random state of all three generators, how figures are drawn, and those that are open"
    state = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    return state, plt.get_backend(), dict(plt.rcParams), plt.get_fignums()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights")/"net.safetensors"
    save_weights(digits_net(), file)
    return file


@quiet
def test_the_loop_and_its_report_leave_the_world_as_it_was(checkpoint, tmp_path):
    "A notebook draws its figures with a backend of its own, which a report must not replace"
    plt.switch_backend("svg")
    torch.manual_seed(4)
    before = world()
    setup = dict(data="digits", model=f"digits_net@{checkpoint}", limit=40, test_limit=20)
    loop = Loop(tmp_path/"run", setup, say=lambda line: None, device="cpu")
    loop.score(eps=.3, n_neighbors=3)
    loop.evaluate(attacks=(), severities=(1,))
    assert loop.report().is_file()
    assert world() == before
    plt.switch_backend("agg")


@quiet
def test_a_base_that_is_trained_here_leaves_the_random_state(tmp_path):
    setup = dict(data="digits", model="digits_net", limit=40, test_limit=20)
    before = world()
    hashes = []
    for name in ("a", "b"):
        loop = Loop(tmp_path/name, setup, say=lambda line: None, device="cpu")
        loop.train_base(1, .1, 20)
        hashes.append(weights_hash(loop.base))
        assert world() == before
    assert hashes[0] == hashes[1]


def test_corrupted_copies_leave_the_random_state(tmp_path):
    before = world()
    save_corrupted(limited(TEST, 4), tmp_path/"set", names=["fog"], device="cpu")
    assert world() == before


# --- numbers and figures of little data ---------------------------------------------------------

def test_one_number_is_no_normalisation_and_damages_no_folder(checkpoint, tmp_path, capsys):
    command = ["score", "digits", "--model", f"digits_net@{checkpoint}", "--limit", "40", "--device", "cpu",
               "--out", tmp_path/"run", "--mean", ".5"]
    for again in range(2): assert "--mean" in complaint(capsys, *command)  # and not: config.json is damaged


@quiet
def test_an_error_of_all_or_none_has_a_figure():
    "Rounding put the end of the interval on the wrong side of an error of 100 %"
    always_3 = Asked(lambda net, x: 0*net(x) + nn.functional.one_hot(torch.tensor(3), 10))
    digits, _ = load_data("digits")
    for places in (digits.labels == 3, digits.labels == 5):
        ds = limited(digits.take(places), 17)
        assert check(always_3, ds, n=17, eps=(), device="cpu").plot().axes
