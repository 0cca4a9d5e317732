"""`wrnb evaluate --on` with test sets that are not corrupted: each in the layout in which it is published.

The right answers are counted here from the classifier's own logits, image by image.
"""
import json, warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import complaint
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.corrupted_sets import corrupted_set
from wrnb.models import PixelModel, save_weights
from wrnb.networks import digits_net
from wrnb.runs import Run
from wrnb.shifted_sets import errors_on, shifted_sets
from wrnb.shifts import _table
from wrnb.sources import WNIDS

FISH = ["n01440764", "n01443537", "n01484850"]  # tench, goldfish, great white shark: places 0, 1, 2
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
RNG = np.random.default_rng(0)


def noise(side=32): return RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class Linear(nn.Module):
    "A linear classifier of three channel means, different for each class"
    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x): return x.mean((2, 3)) @ self.w.T


def logits(net, pixels):
    with torch.no_grad(): return net(torch.from_numpy(pixels).permute(2, 0, 1)[None]/255)[0]


@pytest.mark.parametrize("classes", [list(WNIDS), list(WNIDS.values())], ids=["ids", "names"])
def test_imagenet_r_and_a_and_sketch_are_measured_over_their_own_classes(tmp_path, classes):
    own, net, right = ["n01443537", "n02007558", "n09472597"], Linear(1000), 0
    places = [list(WNIDS).index(w) for w in own]
    for k, wnid in enumerate(own):
        for i in range(6):
            pixels = noise()
            save(pixels, tmp_path/f"imagenet-r/{wnid}/art_{i}.png")
            right += logits(net, pixels)[places].argmax().item() == k
    sets = shifted_sets(tmp_path/"imagenet-r", classes)
    assert sets[0].kind == "3 of the model's 1000 classes, by WordNet id"
    row = errors_on(dict(net=net), sets, device="cpu").iloc[0]
    assert (row.n, row.n_wrong, row.classes) == (18, 18 - right, 3) and row.low < row.error < row.high


@pytest.mark.parametrize("folders, classes, places", [
    (["great_white_shark", "Gold Fish", "TENCH"], list(WNIDS.values()), dict(TENCH=0, great_white_shark=2)),
    (["Cardigan", "cardigan"], list(WNIDS), dict(Cardigan=264, cardigan=474)),
    (["n02113186", "n02963159"], list(WNIDS.values()), dict(n02113186=264, n02963159=474)),
    (["tench, Tinca tinca", "n01443537"], ["goldfish, Carassius auratus", "tench"],
     {"n01443537": 0, "tench, Tinca tinca": 1}),
    (["Cat", "hot-dog"], ["hot dog", "bird", "cat"], {"Cat": 2, "hot-dog": 0})])
def test_folders_are_matched_by_what_their_names_read_like(tmp_path, folders, classes, places):
    for folder in folders: save(noise(), tmp_path/folder/"a.png")
    test, = shifted_sets(tmp_path, classes)
    own = dict(zip(test.images.classes, test.groups))
    assert sorted(own) == sorted(folders)
    assert {folder: own[folder] for folder in places} == {folder: [k] for folder, k in places.items()}


def test_a_set_behind_a_link_is_found(tmp_path):
    for name in ("elsewhere/cat/a.png", "elsewhere/dog/b.png"): save(noise(), tmp_path/name)
    (tmp_path/"sets").mkdir()
    (tmp_path/"sets/val").symlink_to(tmp_path/"elsewhere")
    test, = shifted_sets(tmp_path/"sets", ["cat", "dog"])
    assert (test.name, len(test)) == ("sets/val", 2)
    (tmp_path/"sets/up").symlink_to(tmp_path)
    with pytest.raises(WrnbError, match="up leads back to a folder above it"):
        shifted_sets(tmp_path/"sets", ["cat", "dog"])


def test_pictures_of_every_usual_kind_are_taken(tmp_path):
    for name in ("cat/a.PNG", "cat/b.webp", "dog/c.JPG", "dog/d.bmp"): save(noise(), tmp_path/name)
    assert len(shifted_sets(tmp_path, ["cat", "dog"])[0]) == 4


def test_imagenet_v2_has_the_places_of_classes_as_names(tmp_path):
    net, right, places = Linear(1000), 0, [0, 1, 2, 10, 999]  # sorted as text they are 0, 1, 10, 2, 999
    for place in places:
        for i in range(4):
            pixels = noise()
            save(pixels, tmp_path/f"imagenetv2/{place}/{i}.png")
            right += places[logits(net, pixels)[places].argmax()] == place
    test, = shifted_sets(tmp_path/"imagenetv2", list(WNIDS))
    assert "numbered as in ImageNet-V2" in test.kind
    assert errors_on(dict(net=net), [test], device="cpu").n_wrong.tolist() == [20 - right]


def test_objectnets_classes_stand_for_several_of_imagenets(tmp_path):
    names = dict(Drum="drum, membranophone, tympan; steel drum", Banana="banana", Bookend="nothing here")
    folders = dict(drum="Drum", banana="Banana", air_freshener="Air freshener", bookend="Bookend")
    mappings, net = tmp_path/"objectnet-1.0/mappings", Linear(1000)
    mappings.mkdir(parents=True)
    (mappings/"objectnet_to_imagenet_1k.json").write_text(json.dumps(names))
    (mappings/"folder_to_objectnet_label.json").write_text(json.dumps(folders))
    imagenet, right = list(WNIDS.values()), 0
    drums = [imagenet.index("drum"), imagenet.index("steel drum")]
    for folder in folders:
        for i in range(5):
            pixels = noise()
            save(pixels, tmp_path/f"objectnet-1.0/images/{folder}/{i}.png")
            own = logits(net, pixels)
            says_drum = own[drums].max() > own[imagenet.index("banana")]
            right += (folder == "drum" and says_drum) or (folder == "banana" and not says_drum)
    with pytest.warns(UserWarning, match="2 of 4 classes are none of the model's and left out"):
        test, = shifted_sets(tmp_path/"objectnet-1.0", list(WNIDS))
    assert errors_on(dict(net=net), [test], device="cpu").n_wrong.tolist() == [10 - right]


def test_cifar_10_1_and_10_2_as_arrays(tmp_path):
    pixels, labels = np.stack([noise() for _ in range(30)]), np.arange(30, dtype=np.int32) % 10
    np.save(tmp_path/"cifar10.1_v6_data.npy", pixels)
    np.save(tmp_path/"cifar10.1_v6_labels.npy", labels)
    objects = dict(label_names=np.array(CIFAR10, dtype=object), keywords=np.array(["kw"]*30, dtype=object))
    arrays = dict(images=pixels[:20], labels=labels[:20].astype(np.int64))
    np.savez(tmp_path/"cifar102_test.npz", **arrays, **objects)
    net = Linear(10)
    wrong = [logits(net, x).argmax().item() != y for x, y in zip(pixels, labels)]
    sets = shifted_sets(tmp_path, CIFAR10)
    assert [s.name for s in sets] == ["cifar10.1_v6", "cifar102_test"]
    assert errors_on(dict(net=net), sets, device="cpu").n_wrong.tolist() == [sum(wrong), sum(wrong[:20])]
    backwards = nn.Sequential(net, nn.Unflatten(1, (10, 1)), nn.Flatten())
    backwards.forward = lambda x: net(x).flip(1)
    turned = errors_on(dict(net=backwards), shifted_sets(tmp_path, CIFAR10[::-1]), device="cpu")
    assert turned.n_wrong.tolist() == [sum(wrong), sum(wrong[:20])]


def test_many_sets_in_one_folder(tmp_path):
    for name in ("bing/black", "diffusion/cartoon"):
        for c in CIFAR10[:7]: save(noise(48), tmp_path/f"cifar-10-w/{name}/{c}/0.jpg")
    sets = shifted_sets(tmp_path/"cifar-10-w", CIFAR10, size=32)
    assert [s.name for s in sets] == ["cifar-10-w/bing/black", "cifar-10-w/diffusion/cartoon"]
    assert sets[0].images[0][0].shape == (3, 32, 32) and len(sets[0].groups) == 7


def test_what_is_not_such_a_set(tmp_path):
    save(noise(), tmp_path/"one/n01443537/a.png")
    assert shifted_sets(tmp_path/"one", FISH) == []
    with pytest.raises(WrnbError, match="is not a folder"): shifted_sets(tmp_path/"nowhere", FISH)
    save(noise(), tmp_path/"c/fog/1/n01443537/a.png")
    save(noise(), tmp_path/"c/fog/1/n01440764/a.png")
    assert shifted_sets(tmp_path/"c", FISH) == []  # a corrupted set, or a part of one


# --- what only looks like one of these sets -------------------------------------------------------

SEVERITIES = range(1, 6)


@pytest.mark.parametrize("where", ["fog", "weather/fog", "imagenet-c/weather/fog"])
def test_one_corruption_is_no_part_of_imagenet_v2(tmp_path, where):
    "Five severity folders are not five of the model's thousand classes"
    for s in SEVERITIES:
        for wnid in FISH: save(noise(), tmp_path/f"{where}/{s}/{wnid}/a.png")
    for folder in (tmp_path/where, (tmp_path/where).parent):
        assert shifted_sets(folder, list(WNIDS)) == []  # `corrupted_set` reads it
        assert corrupted_set(folder, list(WNIDS)).names == ["fog"]


def test_a_corrupted_set_below_the_folder_is_named(tmp_path):
    for s in SEVERITIES: save(noise(), tmp_path/f"all/imagenet-c/fog/{s}/{FISH[0]}/a.png")
    for wnid in FISH: save(noise(), tmp_path/f"all/imagenet-r/{wnid}/a.png")
    with pytest.raises(WrnbError, match="imagenet-c is a corrupted set: give that folder"):
        shifted_sets(tmp_path/"all", list(WNIDS))


@pytest.mark.parametrize("numbers", [list("12345"), list("01234"), ["01", "02", "03"]])
def test_folders_of_classes_that_are_called_by_numbers_are_sets_of_their_own(tmp_path, numbers):
    "Severities of an unknown corruption, splits: below each the classes are called by WordNet ids"
    for n in numbers:
        for wnid in FISH: save(noise(), tmp_path/f"smoke/{n}/{wnid}/a.png")
    sets = shifted_sets(tmp_path/"smoke", list(WNIDS))
    assert [s.name for s in sets] == [f"smoke/{n}" for n in numbers]
    assert all(s.kind == "3 of the model's 1000 classes, by WordNet id" for s in sets)
    assert all(s.groups == [[0], [1], [2]] for s in sets)


DIGITS = list("0123456789")


@pytest.mark.parametrize("numbers, classes, words", [
    (list("12345"), list(WNIDS), "folders 1 to 5, which may number anything"),
    (DIGITS, list(WNIDS), "folders 0 to 9, which may number anything"),
    (["000", "001", "002"], list(WNIDS), "folders 0 to 2, which may number anything"),
    (DIGITS, CIFAR10, "folders 0 to 9, which are no classes of the model"),
    ([f"{k:02d}" for k in range(10)], CIFAR10, "folders 00 to 09, which are no classes of the model"),
    (["5", "1000", "1001"], list(WNIDS), "folders 5 to 1001, which are no classes of the model"),
    (["1", "2"], FISH[::-1], "folders 1 to 2, which may number anything"),
    (["0", "2"], FISH[::-1], "folders 0 to 2, which may number anything"),
    (["7", "07", "388"], list(WNIDS), "has 07 and 7 for one class")])
def test_numbers_that_may_mean_something_else_are_refused(tmp_path, numbers, classes, words):
    for n in numbers: save(noise(), tmp_path/f"set/{n}/a.png")
    with pytest.raises(WrnbError, match=words) as e: shifted_sets(tmp_path/"set", classes)
    assert str(tmp_path/"set") in str(e.value) and "\n" not in str(e.value)


def test_a_numbered_class_that_holds_folders_is_refused(tmp_path):
    for n in (0, 7, 388): save(noise(), tmp_path/f"set/{n}/a.png")
    save(noise(), tmp_path/f"set/999/{FISH[0]}/a.png")
    with pytest.raises(WrnbError, match="set/999 is called by a number and holds folders"):
        shifted_sets(tmp_path/"set", list(WNIDS))


@pytest.mark.parametrize("name, numbers, classes, places", [
    ("set", range(1000), list(WNIDS), range(1000)),
    ("imagenetv2-matched-frequency", range(5), list(WNIDS), range(5)),
    ("imagenetv2", (0, 2), FISH[::-1], (2, 0)),
    ("set", (0, 2, 999), FISH[::-1], (2, 0))])
def test_imagenet_v2_and_its_parts_are_read(tmp_path, name, numbers, classes, places):
    for n in numbers: save(noise(4), tmp_path/f"{name}/{n}/a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the shark's thousandth class
        test, = shifted_sets(tmp_path/name, classes)
    found = {test.images.classes[y]: test.groups[y] for y in test.images.labels}
    assert found == {str(n): [k] for n, k in zip(numbers, places)}


def test_the_digits_keep_their_names(tmp_path):
    for n in DIGITS[:5]: save(noise(), tmp_path/f"fog/{n}/a.png")  # a set in fog, no corruption
    test, = shifted_sets(tmp_path/"fog", DIGITS)
    assert test.kind == "5 of the model's 10 classes, by name" and test.groups == [[k] for k in range(5)]
    for s in SEVERITIES:
        for n in DIGITS: save(noise(), tmp_path/f"smoke/{s}/{n}/a.png")
    assert [len(s.groups) for s in shifted_sets(tmp_path/"smoke", DIGITS)] == [10]*5


# --- CIFAR-10.1 and 10.2 --------------------------------------------------------------------------

def write_cifar(folder, name="cifar10.1_v6", pixels=None, labels=None):
    "Two arrays of twenty pictures, or others"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.stack([noise() for _ in range(20)]) if pixels is None else pixels
    np.save(folder/f"{name}_data.npy", pixels)
    np.save(folder/f"{name}_labels.npy", np.arange(20) % 10 if labels is None else labels)
    return pixels


LABELS = np.arange(20) % 10


def changed(value):
    "Labels of which the last one is another"
    return np.array([*LABELS[:-1], value])


FAULTS = {  # what the arrays hold -> (pixels, labels, the file that is named, what is said of it)
    "a label of -1": (None, changed(-1), "labels", "has label -1"),
    "label 10": (None, changed(10), "labels", "has label 10"),
    "label 255": (None, changed(255).astype(np.uint8), "labels", "has label 255"),
    "a fraction": (None, changed(3.7), "labels", "float64"),
    "not a number": (None, changed(np.nan), "labels", "float64"),
    "infinity": (None, changed(np.inf), "labels", "float64"),
    "texts": (None, np.array(CIFAR10*2), "labels", "<U10"),
    "truths": (None, LABELS > 4, "labels", "bool"),
    "complex": (None, LABELS.astype(complex), "labels", "complex128"),
    "objects": (None, LABELS.astype(object), "labels", "cannot be read"),
    "one of ten": (None, np.eye(10)[LABELS], "labels", "20, 10"),
    "a column": (None, LABELS[:, None], "labels", "20, 1"),
    "one label": (None, np.array(3), "labels", "int64"),
    "too few labels": (None, LABELS[:-1], "data", "for 19 labels"),
    "floats": (np.zeros((20, 32, 32, 3), np.float32), None, "data", "float32"),
    "whole numbers": (np.zeros((20, 32, 32, 3), np.int64), None, "data", "int64"),
    "channels first": (np.zeros((20, 3, 32, 32), np.uint8), None, "data", "20, 3, 32, 32"),
    "rows": (np.zeros((20, 3072), np.uint8), None, "data", "20, 3072"),
    "grey": (np.zeros((20, 32, 32), np.uint8), None, "data", "20, 32, 32"),
    "another size": (np.zeros((20, 16, 16, 3), np.uint8), None, "data", "20, 16, 16, 3"),
    "nothing": (np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, int), "data", "holds no pictures")}


@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_that_are_not_cifar_10s_name_their_file(tmp_path, fault):
    pixels, labels, part, words = FAULTS[fault]
    write_cifar(tmp_path, "cifar10.1_v6", pixels, labels)
    with pytest.raises(WrnbError) as e: shifted_sets(tmp_path, CIFAR10)
    line = str(e.value)
    assert line.startswith(f"{tmp_path}/cifar10.1_v6_{part}.npy") and words in line and "\n" not in line


@pytest.mark.parametrize("fault", FAULTS)
def test_and_so_do_archives(tmp_path, fault):
    pixels, labels, _, words = FAULTS[fault]
    images = np.zeros((20, 32, 32, 3), np.uint8) if pixels is None else pixels
    np.savez(tmp_path/"cifar102_test.npz", images=images, labels=LABELS if labels is None else labels)
    with pytest.raises(WrnbError) as e: shifted_sets(tmp_path, CIFAR10)
    assert str(e.value).startswith(f"{tmp_path}/cifar102_test.npz") and words in str(e.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, ">i8", np.float32])
def test_whole_numbers_of_any_type_are_labels(tmp_path, dtype):
    write_cifar(tmp_path, labels=LABELS.astype(dtype))
    assert shifted_sets(tmp_path, CIFAR10)[0].images.labels.tolist() == LABELS.tolist()


def test_broken_archives_name_their_file(tmp_path):
    path = tmp_path/"cifar102_test.npz"
    np.savez_compressed(path, images=np.stack([noise()]*20), labels=LABELS)
    raw = path.read_bytes()
    middle = len(raw)//2
    for bad in (raw[:-100], raw[:middle] + b"x"*99 + raw[middle+99:], b"", b"<html>"):
        path.write_bytes(bad)
        with pytest.raises(WrnbError, match=f"{path} cannot be read"): shifted_sets(tmp_path, CIFAR10)
    with open(path, "wb") as f: np.save(f, LABELS)
    with pytest.raises(WrnbError, match=f"{path} is an array"): shifted_sets(tmp_path, CIFAR10)
    path.unlink()
    write_cifar(tmp_path)
    (tmp_path/"cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(WrnbError, match="cifar10.1_v6_labels.npy is missing"): shifted_sets(tmp_path, CIFAR10)


def test_arrays_are_found_where_their_authors_put_them(tmp_path):
    write_cifar(tmp_path/"CIFAR-10.1/datasets", "cifar10.1_v4")
    write_cifar(tmp_path/"CIFAR-10.1/datasets", "cifar10.1_v6")
    write_cifar(tmp_path/"two", "cifar10.2_test")
    np.savez(tmp_path/"two/cifar10.2_train.npz", images=np.stack([noise()]*20), labels=LABELS)
    def names(folder): return [s.name for s in shifted_sets(tmp_path/folder, CIFAR10)]
    assert names("CIFAR-10.1") == ["cifar10.1_v4", "cifar10.1_v6"] == names("CIFAR-10.1/datasets")
    assert names("two") == ["cifar10.2_test", "cifar10.2_train"] and len(names("")) == 4
    write_cifar(tmp_path/"again", "cifar10.2_test")
    assert {"two/cifar10.2_test", "again/cifar10.2_test"} < set(names(""))


def test_arrays_are_brought_to_the_models_size(tmp_path):
    "As Pillow scales the same pictures from files"
    pixels = write_cifar(tmp_path/"arrays")
    for y, x in enumerate(pixels[:10]): save(x, tmp_path/f"files/{CIFAR10[y]}/a.png")
    (test,), (same,) = (shifted_sets(tmp_path/name, CIFAR10, 48) for name in ("arrays", "files"))
    assert test.images[3][0].shape == (3, 48, 48) and torch.equal(test.images[3][0], same.images[3][0])


def test_a_domain_of_one_class_is_kept(tmp_path):
    "Its answers are counted over all classes: over its own one alone none would be wrong"
    for c in CIFAR10[:4]: save(noise(), tmp_path/f"w/many/{c}/0.png")
    pictures, net = [noise() for _ in range(20)], Linear(10)
    for i, x in enumerate(pictures): save(x, tmp_path/f"w/one/dog/{i}.png")
    many, one = shifted_sets(tmp_path/"w", CIFAR10)
    assert (one.name, len(many)) == ("w/one", 4) and "answers over all 10" in one.kind
    wrong = sum(logits(net, x).argmax().item() != CIFAR10.index("dog") for x in pictures)
    assert errors_on(dict(net=net), [one], device="cpu").n_wrong.tolist() == [wrong] and wrong


# --- ObjectNet's mappings -------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["objectnet_to_imagenet_1k.json", "folder_to_objectnet_label.json"])
@pytest.mark.parametrize("raw, words", [
    (None, "is missing"), (b"", "cannot be read as JSON"), (b'{"a": ', "cannot be read as JSON"),
    (b"\xff\xfe{", "cannot be read as JSON"), (b"[]", "does not hold a text"), (b"null", "does not hold a text"),
    (b'{"drum": ["Drum"]}', "does not hold a text"), (b'{"drum": null}', "does not hold a text")])
def test_broken_mappings_name_their_file(tmp_path, name, raw, words):
    mappings = tmp_path/"objectnet/mappings"
    mappings.mkdir(parents=True)
    (mappings/"objectnet_to_imagenet_1k.json").write_text('{"Drum": "drum", "Banana": "banana"}')
    (mappings/"folder_to_objectnet_label.json").write_text('{"drum": "Drum", "banana_": "Banana"}')
    for folder in ("drum", "banana_"): save(noise(), tmp_path/f"objectnet/images/{folder}/0.png")
    assert len(shifted_sets(tmp_path/"objectnet", list(WNIDS))[0].groups) == 2
    if raw is None: (mappings/name).unlink()
    else: (mappings/name).write_bytes(raw)
    with pytest.raises(WrnbError) as e: shifted_sets(tmp_path/"objectnet", list(WNIDS))
    assert str(e.value).startswith(f"{mappings/name} {words}") and "\n" not in str(e.value)


# --- on the command line --------------------------------------------------------------------------

@pytest.fixture
def fish(tmp_path):
    "A folder of three classes, a classifier of them, and the command that measures it"
    torch.manual_seed(0)
    for split in ("train", "test"):
        for wnid in FISH:
            for i in range(3): save(noise(), tmp_path/f"fish/{split}/{wnid}/{i}.png")
    net = PixelModel(digits_net(3), "half").eval()
    weights = save_weights(net, tmp_path/"net.safetensors")
    words = ["evaluate", tmp_path/"run", "--data", tmp_path/"fish", "--model", f"digits_net@{weights}"]
    return net, [str(w) for w in [*words, "--device", "cpu", "--on"]]


def test_the_command_line_says_what_it_takes_a_set_for(fish, tmp_path, capsys):
    net, words = fish
    right = 0
    for k, folder in ((1, "n01443537"), (2, "n01484850"), (None, "n02123045")):
        for i in range(4):
            pixels = noise()
            save(pixels, tmp_path/f"imagenet-r/{folder}/{i}.png")
            if k: right += logits(net, pixels)[[1, 2]].argmax().item() == k - 1
    assert main([*words, str(tmp_path/"imagenet-r")]) == 0
    out, err = capsys.readouterr()
    assert "imagenet-r: 2 of the model's 3 classes, by WordNet id, 8 images" in out
    assert "1 of 3 classes are none of the model's and left out, such as n02123045" in err
    table = pd.read_csv(tmp_path/"run/on/imagenet-r/shifts.csv")
    assert table.n_wrong.tolist() == [8 - right] and table.n.tolist() == [8]
    assert f"{100*(8 - right)/8:.1f}" in out


def test_with_another_model_the_sets_are_measured_again(tmp_path):
    "The same models are not asked twice"
    for c in "ab": save(noise(), tmp_path/f"set/{c}/1.png")
    sets = shifted_sets(tmp_path/"set", ["a", "b", *"cdefghij"])
    loop, run = SimpleNamespace(common=dict(device="cpu")), Run(tmp_path/"run")
    first, second = (PixelModel(digits_net(10)).eval() for _ in range(2))
    assert _table(loop, run, dict(base=first), sets).model.tolist() == ["base"]
    both = _table(loop, run, dict(base=first, better=second), sets)
    assert both.model.tolist() == ["base", "better"]
    (run/"shifts.csv").write_text((run/"shifts.csv").read_text().replace("better", "kept"))
    assert _table(loop, run, dict(base=first, better=second), sets).model.tolist() == ["base", "kept"]


def test_a_folder_of_neither_kind_is_refused(fish, tmp_path, capsys):
    (tmp_path/"empty").mkdir()
    assert "holds no corrupted set" in complaint(capsys, *fish[1], str(tmp_path/"empty"))


def test_one_corruption_of_imagenet_c_is_measured_and_called_partial(fish, tmp_path, capsys):
    "Half of a severity is missing, and one class everywhere"
    net, words = fish
    n_wrong, fog = 0, tmp_path/"fog"
    for s in SEVERITIES[1:]:
        for k, wnid in enumerate(FISH[:2]):
            for i in range(2 if s < 5 else 1):
                pixels = noise()
                save(pixels, fog/f"{s}/{wnid}/{i}.png")
                n_wrong += logits(net, pixels).argmax().item() != k
    assert main([*words, str(fog)]) == 0
    out, err = capsys.readouterr()
    source = ("partial: 1 of 15 corruptions (only fog); severities 2, 3, 4, 5; 2 of 3 classes; "
              "2 to 4 images per cell")
    assert out.count(source) == 2 and "Errors in percent on 2 to 4 test images" in out
    assert "fog is a part of the set: 1 of 15 corruptions, without gaussian_noise" in err
    table = pd.read_csv(tmp_path/"run/on/fog/evaluation.csv")
    assert table.severity.tolist() == [2, 3, 4, 5] and table.n.tolist() == [4, 4, 4, 2]
    assert table.n_wrong.sum() == n_wrong and f"{100*table.error.mean():.2f} %" in out


def classes_of_pictures(root, *names, n=2):
    "Folders of small pictures"
    for name in names:
        (root/name).mkdir(parents=True)
        for k in range(n): Image.new("RGB", (32, 32), (9*k,)*3).save(root/name/f"{k}.png")


def test_classes_that_are_called_like_corruptions_are_classes(tmp_path):
    weather = ["frost", "rain", "rime", "snow"]
    classes_of_pictures(tmp_path, *(f"test/{name}" for name in weather))
    for folder in (tmp_path, tmp_path/"test"):
        found, = shifted_sets(folder, weather, 32)
        assert len(found) == 8


def test_what_else_lies_beside_a_set_does_no_harm(tmp_path):
    classes_of_pictures(tmp_path, "photos/cat", "photos/dog", "misc/dog")
    (tmp_path/"misc/notes").mkdir()
    (tmp_path/"model").mkdir()
    (tmp_path/"model/config.json").write_text('{"architectures": ["ViT"]}')
    found, = shifted_sets(tmp_path, ["cat", "dog"], 32)
    assert len(found) == 4
