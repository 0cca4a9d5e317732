"""Validation, corrupted sets and benchmark with what people really give: a right answer or one line, never a wrong one.

The classifier of most tests needs no training: its classes are ten levels of grey, and it knows them all.
"""
import json, random, warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from PIL import Image
from torch import nn
from torch.utils.data import Subset, TensorDataset

from wrnb.archives import CIFAR10
from wrnb.attacks import ATTACKS, Attack
from wrnb.benchmark import Evaluation, compare, evaluate, read_evaluation
from wrnb.core import WrnbError
from wrnb.corrupted_sets import C_BAR, corrupted_set
from wrnb.corrupted_copies import save_corrupted
from wrnb.corruptions import CORRUPTIONS, Corruption, FAMILY, THREE_D, corruptions
from wrnb.folders import load_data
from wrnb.image_sets import ImageSet
from wrnb.loaders import pixel_loaders
from wrnb.measurement import Clean, wrong_under
from wrnb.models import save_weights
from wrnb.networks import digits_net
from wrnb.pretrained import load_model
from wrnb.validation import Validation, all_perturbations, read_validation, validate

FIFTEEN = sum(CORRUPTIONS.values(), [])


class Levels(nn.Module):
    "The class with the nearest level of grey; `order` are the classes of its outputs"
    def __init__(self, order=range(10)):
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([25*k/255 for k in order]))

    def forward(self, x): return -100*(x.mean((1, 2, 3))[:, None] - self.levels)**2


class Wrapped(nn.Module):
    "A classifier whose logits are inside of something else"
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = Levels(), wrap

    def forward(self, x): return self.wrap(self.net(x))


def greys(n=20, size=32, classes=CIFAR10):
    "Image i is of class i mod 10, and has its level of grey"
    x = torch.tensor([25*(i % 10) for i in range(n)], dtype=torch.uint8)
    x = x.view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous()
    return ImageSet(x, [i % 10 for i in range(n)], classes, [str(i) for i in range(n)], "greys")


def learner(ds, order=range(10)):
    "A Learner of these images, whose outputs are in their order of classes"
    return Learner(pixel_loaders(ds, ds, bs=8, device="cpu"), Levels(order), loss_func=nn.CrossEntropyLoss())


def clean_error(models, ds, **options):
    "Clean error of the first model"
    found = evaluate(models, ds, severities=(), attack_names=(), device="cpu", **options)
    return found.table.error[0]


def refused(call, *words):
    "The one line with which a call is refused; it says these words"
    with pytest.raises(WrnbError) as e: call()
    line = str(e.value)
    assert "\n" not in line
    for word in words: assert word in line
    return line


def warned(call, *words):
    "What a call returns; it warns in one line with these words"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    lines = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert [line for line in lines if all(word in line for word in words) and "\n" not in line], lines
    return result


def quietly(call):
    "What a call returns; it does not warn"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return call()


# --- strengths and weaknesses ---------------------------------------------------------------------

def validation(errors, rule="mean"):
    "A validation with these errors on the weak samples, one type per family"
    families = ["noise", "blur", "white_box"][:len(errors)]
    rows = [("weak", family, f"{family}_type", 1, e) for family, e in zip(families, errors)]
    return Validation(pd.DataFrame(rows, columns=["subset", "family", "perturbation", "severity", "error"]), rule)


@pytest.mark.parametrize("rule", ["mean", "median", "half", 0., .3, 1.])
def test_what_breaks_every_image_is_never_a_strength(rule):
    for errors in ([1.], [1., 1.], [1., 1., 1.], [.2, 1., 1.]):
        found = validation(errors, rule)
        names = set(found.types().perturbation[found.types().error == 1])
        assert names <= set(found.weaknesses) and not names & set(found.strengths)


@pytest.mark.parametrize("error", [1/3, 2/3, .1, .9])
@pytest.mark.parametrize("rule", ["mean", "median"])
def test_equal_errors_are_all_weaknesses(rule, error):
    found = validation([error]*3, rule)
    assert len(found.weaknesses) == 3 and not found.strengths


@pytest.mark.parametrize("errors, rule", [([0., 0.], "mean"), ([0.], "median"), ([.1, .2], "half"), ([.3, .2], .3)])
def test_nothing_weak_is_a_result(errors, rule):
    found = validation(errors, rule)
    assert found.weaknesses == [] and len(found.strengths) == len(errors)
    assert found.verdict().startswith("weak to nothing") and "\n" not in found.verdict()


def test_a_run_folder_of_a_model_without_weaknesses(tmp_path):
    ds, kinds = greys(), corruptions(["noise"], (1,))
    found = validate(Levels(), range(10), ds, ds, kinds, rule=.9, out=tmp_path, device="cpu")
    assert found.weaknesses == read_validation(tmp_path).weaknesses == []
    assert json.loads((tmp_path/"weaknesses.json").read_text())["weaknesses"] == []


def test_nothing_but_clean_images(tmp_path):
    found = validate(Levels(), range(10), greys(), greys(), [Clean()], out=tmp_path, device="cpu")
    assert found.weaknesses == found.strengths == []
    refused(lambda: found.split(["fog"]), "none of these types was measured")


# --- which images ---------------------------------------------------------------------------------

MASK = [i in (5, 9, 12) for i in range(20)]
SELECTIONS = dict(
    list=MASK, array=np.array(MASK), tensor=torch.tensor(MASK), series=pd.Series(MASK), indices=[5, 9, 12],
    int32=np.array([5, 9, 12], np.int32), index_series=pd.Series([5, 9, 12]), range=range(5, 8))


@pytest.mark.parametrize("name", SELECTIONS)
def test_weak_samples_are_those_that_are_selected(name):
    found = validate(Levels(), SELECTIONS[name], greys(), greys(), [Clean()], device="cpu")
    assert found.table.n.tolist() == [3, 3, 3]


@pytest.mark.parametrize("weak, words", [
    ([20], "outside the 20"), ([-1], "outside the 20"), (MASK[:-1], "weak"), ([.5], "weak"), ("fog", "weak"),
    ([False]*20, "no weak samples")])
def test_what_selects_nothing_is_refused(weak, words):
    refused(lambda: validate(Levels(), weak, greys(), greys(), [Clean()], device="cpu"), words)


@pytest.mark.parametrize("empty", [Subset(greys(), []), greys().take([])])
def test_no_images(empty):
    ds, net = greys(), Levels()
    for call in (lambda: validate(net, [0], ds, empty, [Clean()], device="cpu"),
                 lambda: validate(net, [0], empty, ds, [Clean()], device="cpu"),
                 lambda: evaluate(net, empty, device="cpu"), lambda: wrong_under(Clean(), dict(a=net), empty),
                 lambda: evaluate(net, ds, fit_on=empty, severities=(), attack_names="uap", device="cpu"),
                 lambda: save_corrupted(empty, "nowhere", ["fog"])):
        refused(call, "no images")


# --- classes --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def official(tmp_path_factory):
    "Arrays as CIFAR-10-C has them: no names, labels in CIFAR-10's order"
    path = tmp_path_factory.mktemp("official")
    ds = greys()
    for name in FIFTEEN: np.save(path/f"{name}.npy", np.tile(ds.items.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1)))
    np.save(path/"labels.npy", np.tile(ds.labels, 5))
    return path


def error_on(models, stored):
    "Error of the first model under a corruption that changes nothing"
    return evaluate(models, stored, severities=1, families="blur", device="cpu").table.error[0]


TURNED = dict(classes=CIFAR10[::-1], order=range(9, -1, -1))


def test_arrays_of_cifar_10_c_have_its_classes(official):
    assert corrupted_set(official).classes == CIFAR10
    assert quietly(lambda: error_on(Levels(), corrupted_set(official, CIFAR10))) == 0


def test_labels_are_mapped_by_name(official):
    stored = quietly(lambda: corrupted_set(official, TURNED["classes"]))
    assert error_on(Levels(TURNED["order"]), stored) == 0
    assert error_on(Levels(), stored) == 1


def test_a_learners_classes_are_compared_with_those_of_a_set(official):
    turned = learner(greys(classes=TURNED["classes"]), TURNED["order"])
    models = dict(turned=turned, straight=learner(greys()))
    found = quietly(lambda: evaluate(models, corrupted_set(official), severities=1, device="cpu"))
    assert (found.table.n_wrong == 0).all()


@pytest.mark.parametrize("classes", [["plane", "car", *CIFAR10[2:]], [f"n{k:08d}" for k in range(10)], CIFAR10[:9]])
def test_other_classes_are_refused_with_both_lists(classes, official):
    ours = f"the classes {', '.join(CIFAR10)}"
    refused(lambda: corrupted_set(official, classes), ours, ", ".join(classes))
    if len(classes) == 10:
        other = learner(greys(classes=classes))
        refused(lambda: evaluate(dict(a=other), corrupted_set(official), device="cpu"), ", ".join(classes))


def test_arrays_of_nobody_knows_what(official, tmp_path):
    "Seven classes are not CIFAR's: their order is unknown, unless a file names them"
    x = np.zeros((35, 32, 32, 3), np.uint8)
    for name in FIFTEEN: np.save(tmp_path/f"{name}.npy", x)
    np.save(tmp_path/"labels.npy", np.tile(range(7), 5))
    names = list("abcdefg")
    got = warned(lambda: corrupted_set(tmp_path, names), str(tmp_path), "names")
    assert got.classes == names and got.labels.tolist() == list(range(7))
    refused(lambda: corrupted_set(tmp_path, CIFAR10), "7 classes, the data 10")
    (tmp_path/"classes.txt").write_text("\n".join(names[::-1]))
    got = quietly(lambda: corrupted_set(tmp_path, names))
    assert got.labels.tolist() == list(range(6, -1, -1))
    (tmp_path/"classes.txt").write_text("a\nb\n")
    refused(lambda: corrupted_set(tmp_path, names), "labels.npy has label 6, but 2 classes")


@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
@pytest.mark.filterwarnings("ignore:preset")
def test_our_own_sets_are_compared_too(preset, tmp_path):
    save_corrupted(greys(), tmp_path, "contrast", preset, device="cpu")
    straight, turned = corrupted_set(tmp_path), corrupted_set(tmp_path, TURNED["classes"])
    for a, b in zip(straight.images("contrast", 1), turned.images("contrast", 1)) if preset == "cifar-c" else ():
        assert torch.equal(a[0], b[0]) and CIFAR10[a[1]] == TURNED["classes"][b[1]]
    assert {straight.classes[y] for y in straight.labels} == {turned.classes[y] for y in turned.labels}
    refused(lambda: corrupted_set(tmp_path, ["plane", *CIFAR10[1:]]), "plane")


def test_in_memory_the_classes_are_compared_as_well():
    turned = greys(classes=CIFAR10)
    turned = ImageSet(turned.items, 9 - turned.labels, TURNED["classes"], turned.ids, "turned")
    assert clean_error(learner(greys()), turned) == 0
    models = dict(a=learner(greys()), b=learner(turned, TURNED["order"]))
    assert (evaluate(models, turned, severities=(), attack_names="fgsm", eps=0, device="cpu").table.n_wrong == 0).all()
    refused(lambda: clean_error(learner(greys()), greys(classes=list("abcdefghij"))), "a, b, c")
    nameless = TensorDataset(greys().pixels(range(20)), torch.tensor(greys().labels))
    warned(lambda: clean_error(learner(greys()), nameless), "class")


def test_training_and_test_images_in_different_orders():
    turned = ImageSet(greys().items, 9 - greys().labels, TURNED["classes"], greys().ids, "turned")
    found = validate(Levels(), [0, 3], greys(), turned, [Clean()], device="cpu")
    assert found.table.n_wrong.tolist() == [0, 0, 0]
    other = greys(classes=list("abcdefghij"))
    refused(lambda: validate(Levels(), [0], greys(), other, [Clean()], device="cpu"), "a, b")


def test_pictures_of_another_size(official):
    for size in (16, 64):
        refused(lambda: corrupted_set(official, like=greys(size=size)), "32 x 32 pixels", f"{size} x {size}")
        other = learner(greys(size=size))
        refused(lambda: evaluate(other, corrupted_set(official), severities=1, device="cpu"), "32 x 32 pixels")
        stored = corrupted_set(official)
        stored.clean = greys(size=size)
        refused(lambda: evaluate(Levels(), stored, severities=1, device="cpu"), "32 x 32 pixels")
    assert corrupted_set(official, like=greys()).classes == CIFAR10


def test_labels_that_the_model_does_not_have():
    ds = TensorDataset(greys().pixels(range(20)), torch.tensor(greys().labels) + 5)
    refused(lambda: clean_error(Levels(), ds), "10")


# --- parts of sets --------------------------------------------------------------------------------

def test_some_arrays_are_enough_for_their_families(official, tmp_path):
    for name in (*CORRUPTIONS["noise"], "fog"): (tmp_path/f"{name}.npy").symlink_to(official/f"{name}.npy")
    (tmp_path/"labels.npy").symlink_to(official/"labels.npy")
    for families in ("noise", ["noise"], ("noise",)):
        got = corrupted_set(tmp_path, CIFAR10, families=families)
        assert got.names == CORRUPTIONS["noise"]
        assert len(evaluate(Levels(), got, families=families, device="cpu").table) == 15
    with pytest.warns(UserWarning, match="4 of 15 corruptions, without defocus_blur"):
        assert corrupted_set(tmp_path).names == [*CORRUPTIONS["noise"], "fog"]
    with pytest.warns(UserWarning, match="1 of 4 corruptions, without snow, frost, brightness"):
        assert corrupted_set(tmp_path, families="weather").names == ["fog"]
    refused(lambda: corrupted_set(tmp_path, families="blur"), "defocus_blur.npy is missing")
    refused(lambda: corrupted_set(tmp_path, families="sound"), "family sound", "noise")
    refused(lambda: evaluate(Levels(), got, families="blur", device="cpu"), "family blur")


def corruption_folders(path, names, side=64):
    "A picture of each of ten classes under each corruption, as the archives of ImageNet-C unpack"
    for k, name in enumerate(names):
        for severity in range(1, 6):
            for c in range(10):
                folder = path/name/str(severity)/f"n0{c}"
                folder.mkdir(parents=True)
                Image.new("RGB", (side, side), (10*severity, 10*k, 10*c)).save(folder/"a.JPEG")


def test_one_archive_of_imagenet_c_is_enough_for_its_family(tmp_path):
    "As they unpack: a folder per family above"
    corruption_folders(tmp_path/"blur", CORRUPTIONS["blur"])
    assert corrupted_set(tmp_path, families="blur").names == CORRUPTIONS["blur"]
    with pytest.warns(UserWarning, match="4 of 15 corruptions, without gaussian_noise, shot_noise"):
        assert corrupted_set(tmp_path).names == CORRUPTIONS["blur"]


def test_any_part_of_imagenet_c_is_measured_with_a_warning(tmp_path):
    corruption_folders(tmp_path, ["fog", "pixelate"], side=128)
    with pytest.warns(UserWarning, match="2 of 15 corruptions, .* over these alone"):
        part = corrupted_set(tmp_path)
    assert part.names == ["fog", "pixelate"]
    found = evaluate(Levels(), replace(part, kind="ImageNet-C"), device="cpu")
    assert found.corruption_error().cells.tolist() == [10]
    refused(lambda: found.mce(), "has 10 of these 75")
    with pytest.warns(UserWarning, match="1 of 4 corruptions, without snow"):
        assert corrupted_set(tmp_path, families="weather").names == ["fog"]
    refused(lambda: corrupted_set(tmp_path, families="noise"), "gaussian_noise is missing")


def test_imagenet_3dcc_is_one_family(tmp_path):
    corruption_folders(tmp_path/"whole", THREE_D, side=128)
    whole = corrupted_set(tmp_path/"whole")
    assert (whole.kind, whole.names, len(whole)) == ("ImageNet-3DCC", list(THREE_D), 10)
    colour = 255*whole.images("h265_crf", 4)[3][0][:, 5, 5]
    assert (colour - torch.tensor([40, 110, 30])).abs().max() < 3  # JPEG
    found = evaluate(Levels(), whole, device="cpu")
    assert set(found.table.family) == {"3dcc"} and found.corruption_error().cells.tolist() == [60]
    assert found.by_corruption().index.tolist() == list(THREE_D)
    refused(lambda: found.mce(), "this table is of ImageNet-3DCC")
    clean = found.table.iloc[:1].assign(family="clean", perturbation="clean", severity=0)
    with_clean = Evaluation(pd.concat([clean, found.table], ignore_index=True))
    assert with_clean.corruption_error().cells.tolist() == [60]
    fog = found.table.iloc[:1].assign(family="weather", perturbation="fog")
    mixed = Evaluation(pd.concat([found.table, fog], ignore_index=True))
    refused(mixed.corruption_error, "ImageNet-3DCC next to the common corruptions")
    corruption_folders(tmp_path/"part", ["flash"], side=128)
    with pytest.warns(UserWarning, match="1 of 12 corruptions"): corrupted_set(tmp_path/"part")
    corruption_folders(tmp_path/"part", ["fog"], side=128)
    refused(lambda: corrupted_set(tmp_path/"part"), "holds flash of 3DCC next to other corruptions")


def test_a_part_of_the_images_keeps_the_kind_and_a_part_of_the_classes_does_not():
    x = torch.zeros(4, 3, 128, 128)
    thousand, ten = nn.Sequential(nn.Flatten(), nn.LazyLinear(1000)), nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    for net in (thousand, ten): net(x)
    nameless = TensorDataset(x, torch.arange(4))
    named = ImageSet((x*255).byte(), range(4), [f"c{k}" for k in range(1000)], list("abcd"), "some")
    for ds in (nameless, Subset(nameless, [0, 1]), named, named.take([0, 1])):
        assert evaluate(thousand, ds, severities=(), attack_names=(), device="cpu").kind == "ImageNet-C"
    assert evaluate(ten, nameless, severities=(), attack_names=(), device="cpu").kind == "ImageNet-C on 10 classes"


def test_c_bar_is_one_family(tmp_path, official):
    for name in C_BAR["CIFAR-C-bar"]: (tmp_path/f"{name}.npy").symlink_to(official/"fog.npy")
    (tmp_path/"labels.npy").symlink_to(official/"labels.npy")
    assert len(corrupted_set(tmp_path, families="c-bar").names) == 10
    refused(lambda: corrupted_set(tmp_path, families="noise"), "family noise", "c-bar")


# --- arguments ------------------------------------------------------------------------------------

def test_one_model_needs_no_name():
    for model in (Levels(), learner(greys())):
        assert evaluate(model, greys(), severities=3, attack_names=(), device="cpu").models == ["model"]
    models = nn.ModuleDict(dict(a=Levels()))
    assert evaluate(models, greys(), severities=(), attack_names=(), device="cpu").models == ["a"]


@pytest.mark.parametrize("models, words", [
    ({}, "models= is empty"), ([Levels()], "without names"), ({1: Levels(), "1": Levels()}, "two models are called 1")])
def test_models_that_cannot_be_told_apart(models, words):
    refused(lambda: evaluate(models, greys(), device="cpu"), words)


def test_names_in_compare():
    options = dict(test=greys(), severities=(), attack_names=(), device="cpu")
    refused(lambda: compare(Levels(), Levels(), names=("m", "m"), **options), "two models are called m")
    refused(lambda: compare(Levels(), Levels(), names="ab", **options), "2 learners but 1 names")
    assert compare(Levels(), names="mine", **options).models == ["mine"]
    assert compare(Levels(), Levels(), names=[1, 2], **options).models == ["1", "2"]


@pytest.mark.parametrize("severities", [3, 3., np.int64(3), torch.tensor(3), [3], np.array([3, 3]), (3., 3), {3}])
def test_one_severity_or_several_of_any_type(severities, tmp_path):
    found = evaluate(Levels(), greys(), severities=severities, families="noise", attack_names=(), out=tmp_path,
                     device="cpu")
    assert found.table.severity.tolist() == [0, 3, 3, 3]
    assert [p.severity for p in all_perturbations(severities, families="noise")] == [0, 3, 3, 3, 3]


@pytest.mark.parametrize("severities", [2.5, 0, 6, "3", True, float("nan"), [1, 2.5]])
def test_what_is_not_a_severity(severities):
    refused(lambda: evaluate(Levels(), greys(), severities=severities, device="cpu"), "severity=")
    refused(lambda: all_perturbations(severities), "severity=")


def test_one_attack_and_one_radius():
    for eps in (4/255, np.float32(4/255), [4/255], (4/255, 4/255)):
        found = evaluate(Levels(), greys(), severities=(), attack_names="fgsm", eps=eps, device="cpu")
        assert found.attacks()["attack"].tolist() == ["fgsm", "worst_case"]
    refused(lambda: evaluate(Levels(), greys(), attack_names="fgsm", eps=4, device="cpu"), "eps=4")
    refused(lambda: evaluate(Levels(), greys(), attack_names="ufo", device="cpu"), "ufo")


@pytest.mark.parametrize("options", [
    dict(seed=np.int64(3)), dict(batch_size=np.int64(8)), dict(batch_size=8.), dict(seed=3.)])
def test_numbers_of_any_type(options, tmp_path):
    options = dict(options, device="cpu")
    evaluate(Levels(), greys(), severities=1, attack_names=(), out=tmp_path/"a", **options)
    validate(Levels(), [0], greys(), greys(), [Clean()], out=tmp_path/"b", **options)
    save_corrupted(greys(), tmp_path/"c", "contrast", **options)


@pytest.mark.parametrize("perturbations, words", [
    (["fog"], "'fog'"), ("fog", "'fog'"), ([Corruption], "Corruption"),
    ([lambda model, x, y, seed=0: x], "not a perturbation"), ([Clean(), Clean()], "clean of severity 0 twice"),
    ([], "empty")])
def test_what_is_not_a_perturbation(perturbations, words):
    refused(lambda: validate(Levels(), [0], greys(), greys(), perturbations, device="cpu"), "perturbations=", words)


def test_perturbations_as_any_collection():
    kinds = [Clean(), Corruption("fog", 3)]
    tables = [validate(Levels(), [0, 1], greys(), greys(), k, device="cpu").table
              for k in (kinds, tuple(kinds), iter(kinds))]
    for t in tables[1:]: pd.testing.assert_frame_equal(t, tables[0])
    assert len(validate(Levels(), [0, 1], greys(), greys(), Corruption("fog", 3), device="cpu").table) == 3


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_corrupted(greys(), "~/set", "contrast", device="cpu")
    assert (tmp_path/"set/contrast.npy").is_file()
    for path in ("~/set", str(tmp_path/"set"), tmp_path/"set"): assert corrupted_set(path).names == ["contrast"]
    evaluate(Levels(), corrupted_set("~/set"), out="~/run", device="cpu")
    assert read_evaluation("~/run").table.equals(read_evaluation(tmp_path/"run").table)


# --- models ---------------------------------------------------------------------------------------

OUTPUTS = dict(tuple=lambda v: (v, v[:, :2]), list=lambda v: [v], dict=lambda v: dict(logits=v),
               namespace=lambda v: SimpleNamespace(logits=v))


@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_inside_of_something_else(name):
    net = Wrapped(OUTPUTS[name])
    assert clean_error(net, greys()) == 0
    assert wrong_under(Clean(), dict(a=net), greys())["a"].sum() == 0
    assert validate(net, [0, 1], greys(), greys(), [Clean()], device="cpu").table.n_wrong.sum() == 0


class Moody(nn.Module):
    "A classifier with what a call could change: batch norm, dropout, a frozen weight, a layer in another mode"
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5)
        self.head = nn.Linear(4, 10)

    def forward(self, x): return self.head(self.drop(self.norm(self.conv(x)).mean((2, 3))))


def state(net):
    "All that a caller could miss"
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    layout = [(p.requires_grad, p.is_contiguous(), p.stride(), p.grad is None) for p in net.parameters()]
    drawn = random.getstate()[1][:5], np.random.get_state()[1][:5].tolist(), torch.get_rng_state().tolist()
    return weights, (modes, layout, drawn)


@pytest.mark.filterwarnings("ignore:the clean error", "ignore:.*near chance", "ignore:.*gradient")
@pytest.mark.parametrize("as_learner", [False, True])
def test_the_callers_model_is_left_as_it_was(as_learner):
    net = Moody().train()
    net.drop.eval()
    net.conv.weight.requires_grad_(False)
    dls = pixel_loaders(greys(), greys(), bs=8, device="cpu")
    model = Learner(dls, net, loss_func=nn.CrossEntropyLoss()) if as_learner else net
    before = state(net)
    few = dict(severities=1, families="noise", attack_names=("pgd", "uap"), eps=1/255, device="cpu")
    calls = (lambda: evaluate(dict(a=model, b=net), greys(), **few), lambda: compare(model, net, test=greys(), **few),
             lambda: validate(model, [0, 1], greys(), greys(), [Clean(), ATTACKS["pgd"](1/255)], device="cpu"),
             lambda: wrong_under(ATTACKS["pgd"](1/255), dict(a=model), greys(), net),
             lambda: validate(model, [99], greys(), greys(), device="cpu"))
    for call in calls:
        try: call()
        except WrnbError as e: assert "99" in str(e)
        weights, rest = state(net)
        assert rest == before[1]
        for k, v in weights.items(): assert torch.equal(v, before[0][k]), k


def test_models_that_guess_are_warned_about():
    wrong = Levels(TURNED["order"])
    warned(lambda: clean_error(wrong, greys()), "clean error", "normalisation")
    warned(lambda: validate(wrong, [0], greys(), greys(), [Clean()], device="cpu"), "clean error", "normalisation")
    quietly(lambda: clean_error(Levels(), greys()))
    quietly(lambda: validate(Levels(), [0], greys(), greys(), [Clean()], device="cpu"))


class Rounds(Levels):
    "Its input is rounded to grey levels, which has no gradient"
    def forward(self, x): return super().forward((x*255).round()/255)


def test_a_gradient_of_zero_is_warned_about():
    attacked = dict(severities=(), attack_names=("fgsm", "pgd"), eps=(1/255, 4/255), device="cpu")
    kinds = [Clean(), ATTACKS["fgsm"](1/255)]
    warned(lambda: evaluate(dict(a=Levels(), b=Rounds()), greys(), **attacked), "gradient of b", "100%")
    warned(lambda: validate(Rounds(), range(9), greys(), greys(), kinds, device="cpu"), "gradient of base")
    quietly(lambda: evaluate(Rounds(), greys(), severities=1, attack_names=(), device="cpu"))
    quietly(lambda: evaluate(Levels(), greys(), **attacked))


class Standardised(nn.Module):
    "Each image by its own mean and deviation: a black one has none"
    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True))/x.std((1, 2, 3), keepdim=True)
        return torch.stack([x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2))], 1)


def test_a_model_is_tried_on_real_images():
    ds = ImageSet(torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), [0, 1]*10, ["red", "green"],
                  [str(i) for i in range(20)], "noise")
    evaluate(Standardised(), ds, severities=(), attack_names=(), device="cpu")
    black = ImageSet(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), [0, 1]*10, ["red", "green"], ds.ids, "black")
    refused(lambda: evaluate(Standardised(), black, severities=(), attack_names=(), device="cpu"), "not finite")


@pytest.mark.parametrize("images", [greys(), TensorDataset(greys().pixels(range(20)), torch.tensor(greys().labels))])
def test_a_model_of_other_classes_is_refused_before_anything_is_written(images, tmp_path):
    few = Levels(range(7))
    refused(lambda: evaluate(few, images, out=tmp_path/"a", device="cpu"), "7")
    refused(lambda: validate(few, [0], images, images, out=tmp_path/"b", device="cpu"), "7")
    assert not (tmp_path/"a").exists() and not (tmp_path/"b").exists()


# --- what is read ---------------------------------------------------------------------------------

def test_settings_of_attacks_are_those_that_were_used(tmp_path, monkeypatch):
    monkeypatch.setitem(ATTACKS, "pgd", lambda eps: Attack("pgd", eps, eps, 3))
    options = dict(severities=(), attack_names=("fgsm", "pgd"), eps=(1/255, 1.3/255), device="cpu")
    found = evaluate(Levels(), greys(), out=tmp_path, **options)
    for again in (found, read_evaluation(tmp_path), evaluate(Levels(), greys(), **options)):
        t = again.attacks().set_index(["attack", "eps x 255"])
        assert t.steps["fgsm"].tolist() == [1, 1] and t.steps["pgd"].tolist() == [3, 3]
    assert "steps" not in Evaluation(found.table).attacks()  # not known, so not guessed from the name


def test_the_readers_table_has_neither_nan_nor_snake_case():
    found = evaluate(dict(a=Levels(), b=Levels()), greys(), severities=1, attack_names="fgsm", eps=1/255, device="cpu")
    t = found.percent()
    assert not t.isna().any().any() and "nan" not in t.to_string().lower()
    assert not [name for name in [*t.index, *t.columns] if "_" in name]
    assert t.loc["transfer 1/255", "a"] == "" and t.loc["transfer 1/255", "b"] != ""
    twelve = found.by_corruption().loc[[n for n in FIFTEEN if FAMILY[n] != "noise"], "a"]
    assert t.loc["other twelve", "a"] == round(twelve.mean(), 1)


def test_the_readers_table_of_a_set_that_lacks_a_corruption():
    found = evaluate(Levels(), greys(), severities=1, attack_names=(), device="cpu")
    part = Evaluation(found.table[found.table.perturbation != "fog"])
    assert set(found.percent().index) - set(part.percent().index) == {"other twelve"}


def test_an_evaluation_of_clean_images_alone_is_read(tmp_path):
    options = dict(severities=(), attack_names=(), per_cell=3, device="cpu")
    found = evaluate(Levels(), greys(), out=tmp_path, **options)
    pd.testing.assert_frame_equal(read_evaluation(tmp_path).summary(), found.summary())


def test_an_evaluation_without_its_config_is_read_as_a_table(tmp_path):
    found = evaluate(Levels(), greys(), severities=1, attack_names=(), out=tmp_path, device="cpu")
    (tmp_path/"config.json").unlink()
    again = read_evaluation(tmp_path)
    assert again.outcomes is None
    assert again.corruption_error().n.tolist() == found.corruption_error().n.tolist()


def test_models_and_images_by_name_are_those_that_the_names_load(tmp_path):
    torch.manual_seed(0)
    file = tmp_path/"net.safetensors"
    save_weights(digits_net(10), file)
    net, (_, test) = load_model(f"digits_net@{file}", 10).eval(), load_data("digits")
    few = dict(attack_names=(), severities=(1,), per_cell=5, device="cpu")
    named = evaluate(f"digits_net@{file}", "digits", **few).table
    pd.testing.assert_frame_equal(named, evaluate(net, test, **few).table)
    both = evaluate(dict(a=net, b=f"digits_net@{file}"), test, **few).table
    assert (both.error[both.model == "a"].to_numpy() == both.error[both.model == "b"].to_numpy()).all()
    with pytest.raises(WrnbError, match="model=digits_net has no weights for the classes"):
        evaluate("digits_net", "digits", **few)
