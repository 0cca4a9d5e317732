"""A pretrained network on new classes: the probe is scikit-learn's, fine-tuning is kept only if it helps, a kill changes
nothing. EfficientNet-Lite0's weights come from its package; the other networks here are small.
"""
import json, os, signal, subprocess, sys, time

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from wrnb.core import WrnbError
from wrnb.fine_tuning import Choice, _choose, _laid_aside, fine_tune, gentle
from wrnb.folders import load_data
from wrnb.heads import fit_probe, has_linear_head, head_features, put_probe
from wrnb.image_sets import limited, subset
from wrnb.inference import logits_of
from wrnb.loop import Loop
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from wrnb.training import train
from helpers import ENV, hashes


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(scope="module")
def pretrained(digits):
    "A network that knows the digits 0 to 4"
    torch.manual_seed(0)
    net = load_model("digits_net", 10)
    train(net, subset(digits[0], np.flatnonzero(digits[0].labels < 5)), digits[1], epochs=8, lr=.2, bs=64)
    return net


@pytest.fixture(scope="module")
def others(digits):
    "The digits 5 to 9: some to learn from, and all test images of them"
    train, test = (subset(ds, np.flatnonzero(ds.labels >= 5)) for ds in digits)
    return limited(train, 200), test


def copy_of(net):
    copy = load_model("digits_net", 10)
    copy.load_state_dict(net.state_dict())
    return copy


def error(net, ds): return (logits_of(net, ds).argmax(1).numpy() != ds.labels).mean()


# --- the probe ------------------------------------------------------------------------------------

@pytest.mark.parametrize("C", [1e-3, 1., 10.])
def test_the_probe_is_scikit_learns(C, digits, pretrained):
    ds, test = digits
    X, X_test = (head_features(pretrained, part).astype(float) for part in digits)
    regression = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    theirs = make_pipeline(StandardScaler(), regression).fit(X, ds.labels)
    net = copy_of(pretrained)
    put_probe(net, fit_probe(X, ds.labels, 10, C=C), ds)
    ours = logits_of(net, test).softmax(1).numpy()
    assert abs(ours - theirs.predict_proba(X_test)).max() < 2e-3
    assert (ours.argmax(1) == theirs.predict(X_test)).mean() > .995


def test_features_are_what_the_last_layer_gets(digits, pretrained):
    "By hand: everything before the last of the body's layers"
    x, (*before, last) = digits[1].pixels(range(20)), pretrained.body
    assert isinstance(last, nn.Linear)
    with torch.no_grad(): by_hand = nn.Sequential(*before).eval()((x - pretrained.mean)/pretrained.std)
    assert np.allclose(head_features(pretrained, subset(digits[1], range(20))), by_hand, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "torchvision:resnet18", "torchvision:vit_b_16", "efficientnet_lite0"])
def test_last_layers_that_a_probe_can_find(name, digits):
    import torchvision
    rest = name.partition(":")[2]
    net = torchvision.models.get_model(rest, num_classes=10) if rest else load_model(name, 10)
    side = 224 if rest.startswith("vit") else 32
    few = [(torch.rand(3, side, side), i % 10) for i in range(4)]
    assert has_linear_head(net, few)
    width = head_features(net, few).shape[1]
    assert width in (64, 512, 768, 1280)


def test_the_model_is_left_as_it_was(digits, pretrained):
    before = weights_hash(pretrained)
    pretrained.train()
    head_features(pretrained, subset(digits[0], range(50)))
    assert pretrained.training and weights_hash(pretrained) == before
    assert not any(m._forward_hooks for m in pretrained.modules())


# --- fine-tuning ----------------------------------------------------------------------------------

def test_from_a_random_last_layer_it_ends_worse(others, pretrained):
    ds, test = others
    by_probe, at_once = copy_of(pretrained), copy_of(pretrained)
    learn = fine_tune(by_probe, ds, test, epochs=5, lr=.01, transforms=[])
    nn.init.normal_(at_once.body[-1].weight)
    train(at_once, ds, test, epochs=5, lr=.01, bs=16)
    assert error(learn.model, test) < error(at_once, test) - .05


@pytest.mark.parametrize("lr", [.01, .2, 30.])
def test_it_is_never_worse_than_the_probe_on_the_images_laid_aside(lr, others, pretrained):
    "A step that is far too long spoils the network, and the probe is kept as it was"
    ds, test = others
    probe = fine_tune(copy_of(pretrained), ds, test, epochs=0)
    try: learn = fine_tune(copy_of(pretrained), ds, test, epochs=3, lr=lr)
    except WrnbError as e: return pytest.fail(str(e)) if lr < 1 else None
    choice, aside = learn.choice, subset(ds, _laid_aside(ds.labels, 0))
    assert len(aside) == choice.n_aside == 40
    better = choice.tuned_loss < choice.probe_loss and choice.tuned_error <= choice.probe_error
    assert (choice.kept == "fine-tuned") == better
    if not better: assert weights_hash(learn.model) == weights_hash(probe.model)
    else: assert error(learn.model, aside) == pytest.approx(choice.tuned_error)
    own = learn.epoch_log[-1 if better else 0]
    assert own["valid_error"] == pytest.approx(error(learn.model, test))


def test_a_lower_loss_with_more_errors_is_not_better():
    choice = Choice("", .1, .1)
    for tuned, kept in {(.1, .2): "probe", (.3, 0.): "probe", (.1, .1): "fine-tuned"}.items():
        _choose(choice, (.2, .1), tuned)
        assert choice.kept == kept


@pytest.mark.parametrize("n, frozen", [(200, True), (6_000, False)])
def test_batch_norm_keeps_its_statistics_if_images_are_few(n, frozen): assert gentle(n).keep_statistics == frozen


def test_few_images_get_small_steps_and_a_rate_in_proportion():
    few, many = gentle(245, lr=.01, bs=128), gentle(50_000, lr=.01, bs=128)
    assert 245/few.bs >= 12 and few.lr/few.bs == pytest.approx(many.lr/many.bs) and many.bs == 128


def test_what_is_laid_aside_is_not_trained_on(others, pretrained):
    seen = []
    def look(x):
        seen.extend(x.mean((1, 2, 3)).tolist())
        return x
    ds, test = others
    fine_tune(copy_of(pretrained), ds, test, epochs=2, transforms=[look])
    aside = _laid_aside(ds.labels, 0)
    brightness = ds.pixels(range(len(ds))).mean((1, 2, 3)).numpy()
    rest = np.setdiff1d(np.arange(len(ds)), aside)
    assert np.allclose(sorted(seen), np.sort(np.repeat(brightness[rest], 2)), atol=1e-6)


# --- the base of a run ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Two kinds of noise: dots, and stripes"
    home, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, n in (("train", 40), ("val", 10)):
        for c, name in enumerate(("dots", "stripes")):
            (home/split/name).mkdir(parents=True)
            for i in range(n):
                x = rng.integers(0, 256, (40, 40 if c == 0 else 1, 3), np.uint8)
                Image.fromarray(np.broadcast_to(x, (40, 40, 3)).copy()).save(home/split/name/f"{i}.png")
    return home


def base_of(folder, run, epochs=2):
    "Train the base in a process of its own"
    code = (f"from wrnb.loop import Loop; setup = dict(data={str(folder)!r}, model='efficientnet_lite0', size=40); "
            f"Loop({str(run)!r}, setup, device='cpu').train_base(base_epochs={epochs}, base_lr=.01, bs=32)")
    return subprocess.Popen([sys.executable, "-c", code], env=ENV, stdout=subprocess.PIPE, text=True)


def kill_when(ready, process):
    end = time.monotonic() + 200
    while not ready() and process.poll() is None and time.monotonic() < end: time.sleep(.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def results(run): return hashes(run/"base")


def test_a_killed_base_ends_with_the_same_bytes(folder, tmp_path):
    whole, struck = tmp_path/"whole", tmp_path/"struck"
    said, _ = base_of(folder, whole).communicate(timeout=300)
    for left in ("features.safetensors", "checkpoint.pt"):
        kill_when((struck/"base"/left).is_file, base_of(folder, struck))
    base_of(folder, struck).communicate(timeout=300)
    assert results(struck) == results(whole)
    assert sorted(results(whole)) == ["choice.json", "log.csv", "model.safetensors"]
    choice = json.loads((whole/"base"/"choice.json").read_text())
    assert choice["n_aside"] == 16 and "training images laid aside; clean test error" in said


def test_no_epochs_keep_the_probe(folder, tmp_path):
    said, _ = base_of(folder, tmp_path/"run", epochs=0).communicate(timeout=300)
    assert "base: linear probe; clean test error 0.00 %" in said
    loop = Loop(tmp_path/"run")
    assert error(loop.base, loop.test) == 0
