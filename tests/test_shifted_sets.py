"""`wrnb evaluate --on` with test sets that are not corrupted: each in the layout in which it is published.

The right answers are counted here from the classifier's own logits, image by image.
"""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import complaint
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.models import PixelModel, save_weights
from wrnb.networks import digits_net
from wrnb.shifted_sets import errors_on, shifted_sets
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


def test_imagenet_v2_has_the_places_of_classes_as_names(tmp_path):
    net, right = Linear(1000), 0
    for place in (0, 1, 2, 10, 999):  # sorted as text they are 0, 1, 10, 2, 999
        for i in range(4):
            pixels = noise()
            save(pixels, tmp_path/f"imagenetv2/{place}/{i}.png")
            right += logits(net, pixels)[[0, 1, 2, 10, 999]].argmax().item() == [0, 1, 2, 10, 999].index(place)
    test, = shifted_sets(tmp_path/"imagenetv2", list(WNIDS))
    assert "numbered as in ImageNet-V2" in test.kind
    assert errors_on(dict(net=net), [test], device="cpu").n_wrong.tolist() == [20 - right]


def test_objectnets_classes_stand_for_several_of_imagenets(tmp_path):
    names = dict(Drum="drum, membranophone, tympan; steel drum", Banana="banana", Bookend="nothing of the sort")
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
    keys = dict(label_names=np.array(CIFAR10, dtype=object), keywords=np.array(["kw"]*30, dtype=object))
    np.savez(tmp_path/"cifar102_test.npz", images=pixels[:20], labels=labels[:20].astype(np.int64), **keys)
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


def test_a_folder_of_neither_kind_is_refused(fish, tmp_path, capsys):
    (tmp_path/"empty").mkdir()
    assert "holds no corrupted set" in complaint(capsys, *fish[1], str(tmp_path/"empty"))
