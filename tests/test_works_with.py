"""Each line of the README's table "Works with" is run as it is written there, with the real library.

Names of what is large or on a hub are replaced by small ones that are made here: a model of three classes
saved to disk, a published layout with random weights. If the table gets a line, it needs a test here.
"""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import wrnb.all
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.training import train
from wrnb.zoo import VGG

README = (Path(__file__).parent.parent/"README.md").read_text(encoding="utf-8")
TABLE = README[README.index("## Works with"):README.index("## The rooms")]
LINES = re.findall(r"^\| .+ \| `(.+)` \|$", TABLE, re.M)
PETS, RNG = ["cat", "dog", "fish"], np.random.default_rng(0)
TEN = """n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777
    n03888257""".split()


@pytest.fixture(scope="module")
def have():
    "What the reader has"
    digits, test = load_data("digits", limit=40, test_limit=20)
    learn = train(load_model("digits_net", 10), digits, test, epochs=1, lr=.1, bs=20, device="cpu")
    image = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    names = dict(learn=learn, net=learn.model.eval(), ds=digits, image=image, v2=v2, WNIDS_OF_YOURS=TEN)
    return {name: getattr(wrnb.all, name) for name in wrnb.all.__all__} | names


def line_with(words):
    "The only line of the table with these words"
    line, = [own for own in LINES if words in own]
    return line


def run(line, have):
    "Run a line with what the reader has; returns that and what the line made"
    exec(line, have)
    return have


def checked(have):
    "The scores that the line made"
    assert have["scores"].table.score.between(0, 1).all() and len(have["scores"])
    return have["scores"]


TESTED = ["learn)", "(net, ds)", "torchvision:", "timm:", "hf:", "load_dataset", "vgg16_bn",
          "wrnb.imagecorruptions", "v2.Compose", "corrupt(image", "shifted_sets", "to_cleanlab", "to_hf"]


def test_every_line_has_a_test():
    assert len(LINES) == len(TESTED) and all(line_with(words) for words in TESTED)


def test_a_learner(have): assert len(checked(run(line_with("learn)"), have))) == 40
def test_a_module_and_a_dataset(have): assert len(checked(run(line_with("(net, ds)"), have))) == 40


@pytest.mark.parametrize("words", ["torchvision:", "timm:"])
def test_networks_of_others(words, have, monkeypatch):
    "With random weights, since nothing is fetched here"
    timm, models = pytest.importorskip("timm"), pytest.importorskip("torchvision").models
    get_model, create = models.get_model, timm.create_model
    monkeypatch.setattr(models, "get_model", lambda name, weights=None: get_model(name))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False: create(name))
    own = dict(have)
    run(line_with(words), own)
    with torch.no_grad(): assert own["net"](torch.rand(2, 3, 64, 64)).shape == (2, 10)


def pets(datasets, n=6):
    "A set of Hugging Face's"
    features = datasets.Features(dict(image=datasets.Image(), label=datasets.ClassLabel(names=PETS)))
    images = [Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]
    columns = dict(image=images, label=[k % 3 for k in range(n)])
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_model_of_the_hub(have, tmp_path):
    transformers, datasets = pytest.importorskip("transformers"), pytest.importorskip("datasets")
    size = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    names = dict(id2label=dict(enumerate(PETS)), label2id={name: k for k, name in enumerate(PETS)})
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, **names)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(tmp_path)
    line = line_with("hf:").replace("google/vit-base-patch16-224", str(tmp_path))
    assert len(checked(run(line, have | dict(ds=pets(datasets))))) == 6


def test_a_set_of_the_hub(have, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=pets(datasets)).save_to_disk(tmp_path)
    net = load_model("digits_net", 3).eval()
    own = have | dict(net=net, load_dataset=lambda _: datasets.load_from_disk(tmp_path))
    assert len(checked(run(line_with("load_dataset"), own))) == 6


def test_a_cifar_checkpoint(have, tmp_path, monkeypatch):
    torch.save(VGG(10, "D").state_dict(), tmp_path/"cifar10_vgg16_bn.pt")
    monkeypatch.chdir(tmp_path)
    own = run(line_with("vgg16_bn"), dict(have))
    with torch.no_grad(): assert own["net"](torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_imagecorruptions(have):
    own = run(line_with("wrnb.imagecorruptions"), {})
    out = own["corrupt"](have["image"], corruption_name="fog", severity=2)
    assert out.shape == have["image"].shape and out.dtype == np.uint8 and len(own["get_corruption_names"]()) == 15


def test_transforms(have):
    own = run(line_with("v2.Compose"), dict(have))
    torch.manual_seed(0)
    changed = [not torch.equal(own["augment"](x), x) for x, _ in (have["ds"][i] for i in range(20))]
    assert any(changed)


def test_a_picture(have):
    own = run(line_with("corrupt(image"), dict(have))
    assert own["foggy"].shape == have["image"].shape and (own["foggy"] != have["image"]).any()


def test_a_shifted_set(have, tmp_path, monkeypatch):
    for c in ("3", "7"):
        (tmp_path/"imagenet-r"/c).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path/"imagenet-r"/c/"a.png")
    monkeypatch.chdir(tmp_path)
    own = run(line_with("shifted_sets"), dict(have))
    assert [len(s) for s in own["sets"]] == [2] and own["sets"][0].groups == [[3], [7]]


def test_cleanlab(have):
    cleanlab, _ = pytest.importorskip("cleanlab"), pytest.importorskip("datasets")
    own = run(line_with("learn)"), dict(have))
    labels = dict(label=own["scores"].table.label.tolist())
    lab = own["lab"] = cleanlab.Datalab(labels, label_name="label", verbosity=0)
    lab.find_issues(pred_probs=np.full((40, 10), .1), issue_types=dict(label={}))
    run(line_with("to_cleanlab"), own)
    assert {"is_label_issue", "is_weak_issue", "weak_score"} <= set(lab.get_issues())


def test_a_table_to_share(have, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    own = run(line_with("learn)"), dict(have))
    run(line_with("to_hf"), own)
    assert datasets.load_from_disk("weak")["score"] == own["scores"].table.score.tolist()
