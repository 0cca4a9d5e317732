"""Published ResNets make exactly their published errors, and every damaged copy of a file is refused.

WRNB_RESNET20 names the checkpoint of CIFAR-10's ResNet-20, and WRNB_MODELS a folder with the others
of nbs/results/published_models.csv.
"""
import pandas as pd
import pytest
import torch

from helpers import CHECKPOINT, CIFAR10, CIFAR100, MODELS, ROOT, needs_checkpoint, needs_cifar10
from wrnb.core import WrnbError
from wrnb.folders import folder_set
from wrnb.inference import check_outputs, logits_of
from wrnb.models import load_weights, save_weights, weights_hash
from wrnb.pretrained import load_model

BYTES_KEPT = [0, 1, 2, 7, 8, 9, 64, 200, *range(300, 3000, 7)]


@needs_checkpoint
@needs_cifar10
def test_published_error():
    test = folder_set(CIFAR10, "test")
    labels = torch.tensor(test.labels)
    model = load_model(f"resnet20@{CHECKPOINT}", 10)
    check_outputs(model, len(test.classes), test.pixels(range(8)))
    assert len(test) == 10_000
    assert (logits_of(model, test).argmax(1) != labels).sum().item() == 827


PUBLISHED = pd.read_csv(ROOT/"nbs"/"results"/"published_models.csv").set_index("file")
FILES = [file for file in PUBLISHED.index if file.endswith(".pth")]
WRONG_OF_10000 = {  # as counted once, apart from the table that the result pages read
    "cifar100-resnet20.pth": 3117, "cifar100-resnet56.pth": 2738, "cifar10-resnet20-b.pth": 740,
    "cifar10-resnet20-pgd.pth": 1582, "resnet20-cifar10.th": 827}


def test_the_table_of_published_models_has_what_is_counted_here():
    assert PUBLISHED.n_wrong.to_dict() == WRONG_OF_10000 and set(PUBLISHED.n) == {10_000}


@pytest.mark.parametrize("file", FILES)
def test_published_accuracies(file):
    "The same number of wrong answers as always, and the publisher's accuracy"
    row = PUBLISHED.loc[file]
    data = CIFAR100 if row["data"] == "CIFAR-100" else CIFAR10
    if not (MODELS/file).is_file(): pytest.skip(f"WRNB_MODELS names no folder with {file}")
    if not (data/"test").is_dir(): pytest.skip(f"{data.name} is not in fastai's data folder")
    test = folder_set(data, "test")
    mean = None if row.publisher == "chenyaofo" and data == CIFAR10 else row.stats  # his own are taken
    model = load_model(f"{row.network}@{MODELS/file}", len(test.classes), mean=mean)
    wrong = (logits_of(model, test).argmax(1) != torch.tensor(test.labels)).sum().item()
    assert wrong == row.n_wrong and len(test) == row.n
    assert abs(100 - 100*wrong/len(test) - row.accuracy) < .02


def test_the_fine_tuned_bases_are_the_published_models(monkeypatch):
    "Each with the file, the network and the normalisation with which it makes its published error"
    monkeypatch.syspath_prepend(ROOT/"benchmarks")
    from tuning import BASES
    known = PUBLISHED.reset_index().set_index("base")
    for name, source in BASES.items():
        arch, _, file = source.model.partition("@")
        if not file: continue
        row = known.loc[name]
        stats = source.stats or "imagenet"  # what the CIFAR ResNets of the package have
        assert (arch, file, stats) == (row.network, row.file, row.stats)


@needs_checkpoint
def test_saved_again_it_is_the_same(tmp_path):
    model = load_model(f"resnet20@{CHECKPOINT}", 10)
    path = save_weights(model, tmp_path/"resnet20.safetensors")
    again = load_model(f"resnet20@{path}", 10)
    assert weights_hash(again) == weights_hash(model)
    x = torch.rand(4, 3, 32, 32)
    with torch.inference_mode(): assert torch.equal(again(x), model(x))


@needs_checkpoint
def test_another_number_of_classes():
    with pytest.raises(WrnbError, match="10 outputs and the data 100 classes"):
        load_model(f"resnet20@{CHECKPOINT}", 100)


@needs_checkpoint
def test_another_depth():
    with pytest.raises(WrnbError, match="has no layer1.3.conv1.weight"): load_model(f"resnet32@{CHECKPOINT}", 10)


@needs_checkpoint
@pytest.mark.parametrize("kind", ["published", "ours"])
def test_cut_anywhere_it_is_refused(tmp_path, kind):
    "A single line each time, never a half-loaded model or another exception"
    model = load_model(f"resnet20@{CHECKPOINT}", 10)
    path = CHECKPOINT if kind == "published" else save_weights(model, tmp_path/"whole.safetensors")
    data, cut, before = path.read_bytes(), tmp_path/f"cut{path.suffix}", weights_hash(model)
    for n in [*BYTES_KEPT, *range(3000, len(data), len(data)//32)]:
        cut.write_bytes(data[:n])
        # a pickle that is cut within a name has an unknown name, and is refused for that
        with pytest.raises(WrnbError, match="is damaged|is refused") as e: load_weights(model, cut)
        assert "\n" not in str(e.value)
    assert weights_hash(model) == before


def test_timm_by_name(tmp_path):
    "timm's network, head and statistics, and ours around it, agree with timm's own"
    timm = pytest.importorskip("timm")
    net = timm.create_model("efficientnet_lite0", num_classes=10).eval()
    torch.save(net.state_dict(), tmp_path/"net.pt")
    model = load_model(f"timm:efficientnet_lite0@{tmp_path/'net.pt'}", 10)
    cfg, x = timm.data.resolve_data_config({}, model=net), torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode(): assert torch.allclose(model(x), net((x - mean)/std), atol=1e-5)
    with pytest.raises(WrnbError, match="timm has no such model"): load_model("timm:resnet21", 10)
