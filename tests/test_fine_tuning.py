"""A pretrained network on new classes: the probe is scikit-learn's, fine-tuning is kept only if it helps, and a kill
changes nothing. EfficientNet-Lite0's weights come from its package; the other networks here are small.
"""
import json, os, signal, subprocess, sys, time
from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from wrnb.fine_tuning import Choice, _choose, _laid_aside, fine_tune, gentle
from wrnb.folders import load_data
from wrnb.heads import fit_probe, has_linear_head, head_features, put_probe
from wrnb.image_sets import ImageSet, limited, subset
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
    "A network that knows the digits"
    torch.manual_seed(0)
    net = load_model("digits_net", 10)
    train(net, *digits, epochs=8, lr=.2, bs=64)
    return net


def parity(ds): return ImageSet(ds.items, ds.labels % 2, ["even", "odd"], ds.ids, "parity")


@pytest.fixture(scope="module")
def new_classes(digits):
    "Odd or even? 100 images to learn from, and all test images"
    return limited(parity(digits[0]), 100), parity(digits[1])


def for_two(net):
    "A copy with a new last layer for two classes"
    copy = deepcopy(net)
    copy.body[-1] = nn.Linear(64, 2)
    return copy


def error(net, ds): return (logits_of(net, ds).argmax(1).numpy() != ds.labels).mean()


# --- the probe ------------------------------------------------------------------------------------

@pytest.mark.parametrize("C", [1e-3, 1., 10.])
def test_the_probe_is_scikit_learns(C, digits, pretrained):
    ds, test = digits
    X, X_test = (head_features(pretrained, part).astype(float) for part in digits)
    regression = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    theirs = make_pipeline(StandardScaler(), regression).fit(X, ds.labels)
    net = deepcopy(pretrained)
    put_probe(net, fit_probe(X, ds.labels, 10, C=C), ds)
    ours = logits_of(net, test).softmax(1).numpy()
    assert abs(ours - theirs.predict_proba(X_test)).max() < 5e-3
    assert (ours.argmax(1) == theirs.predict(X_test)).mean() > .995


def test_features_are_what_the_last_layer_gets(digits, pretrained):
    "By hand: everything before the last of the body's layers"
    x, (*before, last) = digits[1].pixels(range(20)), pretrained.body
    assert isinstance(last, nn.Linear)
    with torch.no_grad(): by_hand = nn.Sequential(*before).eval()((x - pretrained.mean)/pretrained.std)
    assert np.allclose(head_features(pretrained, subset(digits[1], range(20))), by_hand, atol=1e-5)


@pytest.mark.parametrize("name, width", [
    ("resnet20", 64), ("torchvision:resnet18", 512), ("torchvision:densenet121", 1024)])
def test_last_layers_that_a_probe_can_find(name, width):
    rest = name.partition(":")[2]
    net = torchvision.models.get_model(rest, num_classes=10) if rest else load_model(name, 10)
    few = [(torch.rand(3, 32, 32), i % 10) for i in range(4)]
    assert has_linear_head(net, few) and head_features(net, few).shape[1] == width


def test_the_model_is_left_as_it_was(digits, pretrained):
    before = weights_hash(pretrained)
    pretrained.train()
    head_features(pretrained, subset(digits[0], range(50)))
    assert pretrained.training and weights_hash(pretrained) == before
    assert not any(m._forward_hooks for m in pretrained.modules())


# --- fine-tuning ----------------------------------------------------------------------------------

def test_from_a_random_last_layer_it_ends_worse(new_classes, pretrained):
    ds, test = new_classes
    by_probe, at_once = for_two(pretrained), for_two(pretrained)
    learn = fine_tune(by_probe, ds, test, epochs=5, lr=.01, transforms=[])
    train(at_once, ds, test, epochs=5, lr=.01, bs=16)
    assert error(learn.model, test) < error(at_once, test)/1.5


def check_equal(learn, probe, test):
    assert learn.choice.kept == "probe" and weights_hash(learn.model) == weights_hash(probe.model)
    assert learn.epoch_log[0] == probe.epoch_log[0]
    assert learn.epoch_log[0]["valid_error"] == pytest.approx(error(learn.model, test))


@pytest.mark.parametrize("lr", [.01, .2, 1e9])
def test_it_is_never_worse_than_the_probe_on_the_images_laid_aside(lr, new_classes, pretrained):
    "A step that is far too long spoils the network, and the probe is kept as it was"
    ds, test = new_classes
    probe = fine_tune(for_two(pretrained), ds, test, epochs=0)
    learn = fine_tune(for_two(pretrained), ds, test, epochs=3, lr=lr)
    choice, aside = learn.choice, subset(ds, _laid_aside(ds.labels, 0))
    if choice.diverged:
        assert lr > 1 and "give a lower lr=" in str(choice)
        return check_equal(learn, probe, test)
    assert len(aside) == choice.n_aside == 20
    better = choice.high < 0 and choice.tuned_error <= choice.probe_error
    assert (choice.kept == "fine-tuned") == better
    if not better: check_equal(learn, probe, test)
    else: assert error(learn.model, aside) == pytest.approx(choice.tuned_error)
    own = learn.epoch_log[-1 if better else 0]
    assert own["valid_error"] == pytest.approx(error(learn.model, test))


@pytest.mark.parametrize("gain, error_after, kept", [
    (.1, .1, "fine-tuned"), (.1, .2, "probe"), (-.1, 0., "probe"), (.002, .1, "probe")])
def test_only_a_lower_loss_that_is_no_chance_and_not_more_errors_are_better(gain, error_after, kept):
    rng, choice = np.random.default_rng(0), Choice("", .1, .1)
    before, noise = rng.exponential(.5, 200), rng.normal(0, .1, 200)
    _choose(choice, (before, .1), (before - gain + noise, error_after))
    assert choice.kept == kept and choice.low < choice.tuned_loss - choice.probe_loss < choice.high


@pytest.mark.parametrize("n, frozen", [(200, True), (6_000, False)])
def test_batch_norm_keeps_its_statistics_if_images_are_few(n, frozen): assert gentle(n).keep_statistics == frozen


def test_few_images_get_small_steps_and_a_rate_in_proportion():
    few, many = gentle(245, lr=.01, bs=128), gentle(50_000, lr=.01, bs=128)
    assert 245/few.bs >= 12 and few.lr/few.bs == pytest.approx(many.lr/many.bs) and many.bs == 128


def test_what_is_laid_aside_is_not_trained_on(new_classes, pretrained):
    seen = []
    def look(x):
        seen.extend(x.mean((1, 2, 3)).tolist())
        return x
    ds, test = new_classes
    fine_tune(for_two(pretrained), ds, test, epochs=2, transforms=[look])
    aside = _laid_aside(ds.labels, 0)
    brightness = ds.pixels(range(len(ds))).mean((1, 2, 3)).numpy()
    rest = np.setdiff1d(np.arange(len(ds)), aside)
    assert np.allclose(sorted(seen), np.sort(np.repeat(brightness[rest], 2)), atol=1e-6)


# --- the base of a run ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Two kinds of noise: dots, and stripes"
    home, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, n in (("train", 30), ("val", 5)):
        for c, name in enumerate(("dots", "stripes")):
            (home/split/name).mkdir(parents=True)
            for i in range(n):
                x = rng.integers(0, 256, (40, 40 if c == 0 else 1, 3), np.uint8)
                Image.fromarray(np.broadcast_to(x, (40, 40, 3)).copy()).save(home/split/name/f"{i}.png")
    return home


def setup_of(folder): return dict(data=str(folder), model="efficientnet_lite0", size=40)


def base_of(folder, run):
    "Train the base in a process of its own"
    code = (f"from wrnb.loop import Loop; loop = Loop({str(run)!r}, {setup_of(folder)}, device='cpu'); "
            "loop.train_base(base_epochs=2, base_lr=.01, bs=32)")
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
    assert choice["n_aside"] == 12 and "on 12 training images laid aside" in said and "clean test error" in said


def test_no_epochs_keep_the_probe(folder, tmp_path):
    said = []
    loop = Loop(tmp_path/"run", setup_of(folder), say=said.append, device="cpu")
    loop.train_base(base_epochs=0, base_lr=.01, bs=32)
    assert said[-1] == f"base: linear probe; clean test error {100*error(loop.base, loop.test):.2f} %"
