"""Pretrained models on a folder, from the command line.

The last layer is cut down to the folder's classes if they are known, replaced and taught first if not; pictures get the
model's own size. No network: the download is stood in for, EfficientNet-Lite0's weights come from its package.
"""
import json
from unittest.mock import patch as stand_in

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from wrnb.loop import Loop
from wrnb.cli import main
from wrnb.models import load_weights
from wrnb.sources import WNIDS
from wrnb.pretrained import knows_classes, load_model

NAME = "torchvision:squeezenet1_1"
KNOWN, UNKNOWN = ("n03888257", "n01440764"), ("dots", "stripes")  # a church and a tench, not in ImageNet's order
SMALL = """--n-neighbors 2 -k 2 --severities 1 --attacks --families noise --strategies standard --epochs 1 --bs 4
    --base-epochs 1""".split()


@pytest.fixture(scope="module", autouse=True)
def download():
    "The weights that a download would bring"
    torch.manual_seed(0)
    state = torchvision.models.squeezenet1_1().state_dict()
    with stand_in("torchvision.models._api.load_state_dict_from_url", return_value=state): yield state


def pictures(folder, classes, side=40, n=8):
    "Two kinds of noise that a network tells apart: dots, and stripes"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for c, name in enumerate(classes):
            (folder/split/name).mkdir(parents=True)
            for i in range(n):
                x = rng.integers(0, 256, (side, side if c == 0 else 1, 3), np.uint8)
                Image.fromarray(np.broadcast_to(x, (side, side, 3)).copy()).save(folder/split/name/f"{i}.png")
    return folder


def setup(folder, model=NAME, size=None):
    return dict(data=str(folder), model=model, size=size, limit=None, test_limit=None, seed=0)


def test_known_classes_keep_their_outputs(tmp_path):
    "The folder's order is the alphabet's, and so is that of the outputs"
    loop = Loop(tmp_path/"run", setup(pictures(tmp_path/"data", KNOWN)))
    assert loop.data[0].classes == sorted(KNOWN) and loop.with_weights
    x, rows = torch.rand(3, 3, 64, 64), [list(WNIDS).index(c) for c in sorted(KNOWN)]
    with torch.inference_mode(): assert torch.allclose(loop.base(x), load_model(NAME, 1000)(x)[:, rows], atol=1e-5)


def test_all_thousand_classes_by_name_are_put_in_the_folders_order():
    "Folders come in the alphabet's order, which is not ImageNet's"
    names, x = sorted(WNIDS.values()), torch.rand(2, 3, 64, 64)
    rows = [list(WNIDS.values()).index(n) for n in names]
    assert knows_classes(NAME, names) and rows != sorted(rows)
    ordered, published = load_model(NAME, 1000, classes=names), load_model(NAME, 1000)
    with torch.inference_mode(): assert torch.allclose(ordered(x), published(x)[:, rows], atol=1e-5)


@pytest.mark.parametrize("model, side", [
    (NAME, 224), ("torchvision:swin_v2_b", 256), ("efficientnet_lite0", 224), ("resnet20", 40),
    ("digits_net@nowhere.pt", 40)])
def test_a_pretrained_model_gets_pictures_of_its_own_size(model, side, tmp_path):
    data = pictures(tmp_path/"data", UNKNOWN, n=1)
    loop = Loop(tmp_path/"run", setup(data, model))
    assert tuple(loop.data[0][0][0].shape) == tuple(loop.test[0][0].shape) == (3, side, side)
    other = Loop(tmp_path/"other", setup(data, model, size=48))
    assert tuple(other.data[0][0][0].shape) == (3, 48, 48)


def test_unknown_classes_get_a_last_layer_that_is_taught_first(tmp_path, capsys, download):
    data, run = pictures(tmp_path/"data", UNKNOWN), tmp_path/"run"
    command = [str(data), "--model", NAME, "--size", "40", "--out", str(run), "--device", "cpu"]
    assert main(["score", *command]) == 2
    assert f"{NAME} was not pretrained on all of the classes dots, stripes" in capsys.readouterr().err
    assert main(["run", *command, *SMALL]) == 0
    capsys.readouterr()
    stages = json.loads((run/"config.json").read_text())["stages"]
    assert stages["base"]["options"] == dict(epochs=1, lr=.01, bs=4, head_epochs=1)
    net = load_weights(load_model(NAME, 2), run/"base"/"model.safetensors")
    body = net.body.state_dict()
    for k, v in download.items():  # one epoch is for the last layer alone
        if not k.startswith("classifier"): assert torch.equal(body[k], v), k
    assert main(["score", *command, "--n-neighbors", "2"]) == 0 and "done already" in capsys.readouterr().out
