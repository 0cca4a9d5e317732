"""Fine-tuning as people really do it: their Learners, their models, their transforms and their numbers."""
import copy, random, warnings
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.data.transforms import Normalize
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, error_rate
from fastai.optimizer import OptimWrapper
from fastai.torch_core import params
from fastai.vision.augment import Flip, Resize
from fastai.vision.data import ImageDataLoaders
import fastai.vision.learner  # gives `plot_top_losses` its pictures
from fastcore.foundation import L
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from wrnb.all import *
from wrnb.corruptions import Corruption, FAMILY
from wrnb.enhancement import Recipe, choose_alpha, selection
from wrnb.heads import _head
from wrnb.loop import Loop
from wrnb.networks import digits_net
from wrnb.terms import _label, _transformed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Ninety-six digits as files, some larger than others"
    root, (digits, _) = tmp_path_factory.mktemp("digits"), load_data("digits", limit=96)
    for i in range(96):
        file = root/("valid" if i >= 64 else "train")/str(digits.labels[i])/f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = (digits[i][0].permute(1, 2, 0).numpy()*255).astype(np.uint8)
        Image.fromarray(pixels).resize((32 + i % 5,)*2).save(file)
    return root


def loaders(folder):
    normalize = Normalize.from_stats([.3]*3, [.35]*3, cuda=False)
    return ImageDataLoaders.from_folder(folder, bs=16, item_tfms=Resize(32), batch_tfms=normalize, device="cpu")


def halves(net):
    "Parameter groups: the layers before the last, and the last"
    return L(net[:-1], net[-1]).map(params)


def new_learner(folder):
    torch.manual_seed(0)
    return Learner(
        loaders(folder), digits_net(10), CrossEntropyLossFlat(), metrics=[error_rate, accuracy],
        splitter=halves, path=folder, cbs=MixUp())


@pytest.fixture
def learn(folder): return new_learner(folder)


def tuned(model, **options):
    "Fine-tuned for one epoch of a few steps"
    defaults = dict(strategy="augmix", epochs=1, bs=16, device="cpu", transforms=random_crop)
    return enhance(model, **defaults | options)


def silent(learn, f):
    "What `f` gives for the Learner, without progress bars and lines"
    with learn.no_bar(), learn.no_logging(): return f(learn)


# --- a Learner comes in, a Learner comes out ----------------------------------------------------------------------

def test_better_is_like_the_learner_given(learn):
    better = tuned(learn)
    assert type(better) is type(learn) and better is not learn
    for name in ("dls", "loss_func", "splitter", "path", "model_dir", "opt_func", "lr", "wd", "moms"):
        assert getattr(better, name) is getattr(learn, name), name
    assert better.dls.vocab == learn.dls.vocab
    assert better.metrics.attrgot("name") == learn.metrics.attrgot("name") == ["error_rate", "accuracy"]
    assert str(better.model) == str(learn.model) and weights_hash(better.model) != weights_hash(learn.model)
    assert list(map(str, better.cbs)) == list(map(str, learn.cbs)) and "MixUp" in str(better.cbs)
    assert [row["epoch"] for row in better.epoch_log] == [1]


def a_file(learn): return learn.dls.valid_ds.items[0]


def exported(learn):
    learn.export("better.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fastai's about pickle
        return load_learner(learn.path/"better.pkl")


WAYS = dict(
    predict=lambda learn: learn.predict(a_file(learn)),
    test_dl=lambda learn: learn.get_preds(dl=learn.dls.test_dl([a_file(learn)])),
    validate=lambda learn: learn.validate(),
    get_preds=lambda learn: learn.get_preds(with_loss=True),
    show_results=lambda learn: learn.show_results(),
    confusion=lambda learn: ClassificationInterpretation.from_learner(learn).confusion_matrix(),
    top_losses=lambda learn: Interpretation.from_learner(learn).plot_top_losses(4),
    summary=lambda learn: learn.summary(),
    save=lambda learn: learn.save("better"),
    lr_find=lambda learn: learn.lr_find(num_it=5, show_plot=False),
    fit_one_cycle=lambda learn: learn.fit_one_cycle(1),
    fine_tune=lambda learn: learn.fine_tune(1),
    enhance=lambda learn: tuned(learn, strategy="standard"))


@pytest.fixture(scope="module")
def pair(folder):
    "A Learner and what came out of it"
    learn = new_learner(folder)
    return learn, tuned(learn)


@pytest.mark.parametrize("name", WAYS)
def test_all_that_a_learner_does_works_on_better(pair, name):
    learn, better = pair
    before = weights_hash(learn.model)
    silent(better, WAYS[name])
    plt.close("all")
    assert weights_hash(learn.model) == before, "training better further trains the Learner given"


def test_an_exported_learner_predicts_the_same(learn):
    better = tuned(learn)
    file = a_file(better)
    name, number, probs = silent(better, lambda l: l.predict(file))
    loaded = exported(better)
    again = silent(loaded, lambda l: l.predict(file))
    assert again[0] == name in better.dls.vocab and torch.equal(again[1], number)
    torch.testing.assert_close(again[2], probs)


def test_better_is_the_model_that_was_trained(learn, tmp_path):
    "Its logits, scores and errors are those of the pixel model whose weights the run folder keeps"
    better = tuned(learn, out=tmp_path)
    kept = load_weights(from_learner(learn.__class__(learn.dls, digits_net(10))), tmp_path/"augmix/model.safetensors")
    ds, test = LearnerSet(learn), LearnerSet(learn, "valid")
    x = torch.stack([test[i][0] for i in range(8)])
    with torch.no_grad(): torch.testing.assert_close(as_model(better).eval()(x), kept.eval()(x), rtol=0, atol=1e-5)
    options = dict(eps=.2, n_neighbors=4, device="cpu")
    scores = [score_robustness(model, ds, **options).table for model in (better, kept)]
    pd.testing.assert_frame_equal(*scores)
    few = [Corruption("fog", 3), ATTACKS["fgsm"](4/255)]
    measured = [validate(model, [0, 1, 2], ds, test, perturbations=few, device="cpu").table for model in (better, kept)]
    pd.testing.assert_frame_equal(*measured)


def test_a_second_run_in_the_folder_gives_the_same_learner(learn, tmp_path):
    better = tuned(learn, out=str(tmp_path))
    again = tuned(learn, out=tmp_path)
    assert weights_hash(again.model) == weights_hash(better.model) and again.dls is learn.dls
    assert not hasattr(again, "epoch_log")  # nothing was trained
    silent(again, WAYS["predict"])


def test_an_optimiser_made_before_belongs_to_the_copy_afterwards(folder):
    net = digits_net(10)
    learn = Learner(loaders(folder), net, opt_func=OptimWrapper(opt=torch.optim.SGD(net.parameters(), lr=.1)))
    better, before = tuned(learn), weights_hash(net)
    after = weights_hash(better.model)
    silent(better, lambda l: l.fit(1))
    assert weights_hash(net) == before and weights_hash(better.model) != after


def test_a_frozen_learner_stays_frozen(learn):
    learn.freeze()
    frozen = [p.requires_grad for p in learn.model.parameters()]
    better = tuned(learn)
    assert [p.requires_grad for p in better.model.parameters()] == frozen and not all(frozen)
    pairs = zip(learn.model.parameters(), better.model.parameters())
    assert [not torch.equal(p, q) for p, q in pairs] == frozen
    learn.model.requires_grad_(False)
    refused("no weight of the model learns", lambda: tuned(learn))


# --- the caller's things are as they were -------------------------------------------------------------------------

def random_state(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("kind", ["learner", "module"])
def test_enhance_leaves_model_and_random_state_as_they_were(learn, kind):
    model = learn if kind == "learner" else digits_net(10)
    net = getattr(model, "model", model)
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    options = {} if kind == "learner" else dict(zip(("ds", "test"), load_data("digits", limit=64, test_limit=16)))
    def state():
        modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
        return modes, flags, [p.stride() for p in net.parameters()], weights_hash(net), random_state()
    before = state()
    better = tuned(model, strategy="adversarial", **options)
    assert state() == before
    assert not any(m.training for m in better.model.modules())


def test_train_leaves_the_random_state_as_it_was():
    ds, test = load_data("digits", limit=32, test_limit=8)
    net, before = load_model("digits_net", 10), random_state()
    learn = train(net, ds, test, epochs=1, bs=16, device="cpu")
    assert random_state() == before and learn.model is net and not net.training


class Stop(Callback):
    "An interruption in the middle of a step"
    order = 20
    def after_pred(self): raise KeyboardInterrupt


def test_an_interruption_leaves_precision_and_random_state_as_they_were():
    ds, test = load_data("digits", limit=32, test_limit=8)
    net, before = load_model("digits_net", 10), random_state()
    with pytest.raises(KeyboardInterrupt): train(net, ds, test, bs=16, cbs=Stop(), precision="bf16", device="cpu")
    assert random_state() == before and not torch.is_autocast_enabled("cpu")


# --- a module comes in: a Learner on pixels -----------------------------------------------------------------------

def test_a_learner_on_pixels_predicts_and_is_exported(tmp_path):
    ds, test = load_data("digits", limit=64, test_limit=16)
    better = tuned(load_model("digits_net", 10), ds=ds, test=test)
    assert not [cb for cb in better.cbs if type(cb).__module__.startswith("wrnb")] and len(better.epoch_log) == 1
    pixels = test[0][0]
    array = (pixels*255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path/"digit.png")
    ways = pixels, array, Image.fromarray(array), tmp_path/"digit.png", str(tmp_path/"digit.png")
    answers = [silent(better, lambda l: l.predict(way)) for way in ways]
    assert len({name for name, *_ in answers}) == 1 and answers[0][0] in ds.classes
    for _, _, probs in answers: torch.testing.assert_close(probs, answers[0][2], rtol=0, atol=1e-3)
    better.path = tmp_path
    torch.testing.assert_close(silent(exported(better), lambda l: l.predict(pixels))[2], answers[0][2])
    for name in (
            "validate", "get_preds", "show_results", "confusion", "summary", "save", "lr_find", "fine_tune", "enhance"):
        silent(better, WAYS[name])
    plt.close("all")


# --- what a model returns -----------------------------------------------------------------------------------------

class Answers(nn.Module):
    "A network whose answer is wrapped, always or in training mode only"
    def __init__(self, wrap, training_only=False):
        super().__init__()
        self.net, self.wrap, self.training_only = digits_net(10), wrap, training_only
    def forward(self, x):
        out = self.net(x)
        return out if self.training_only and not self.training else self.wrap(out)


Output = namedtuple("Output", "logits aux")
WRAPPERS = dict(
    tuple=lambda out: (out, out.mean()), list=lambda out: [out], dict=lambda out: dict(logits=out),
    attribute=lambda out: SimpleNamespace(logits=out), named=lambda out: Output(out, None))


@pytest.mark.parametrize("strategy", ["standard", "adversarial"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_logits_are_found_in_what_the_model_returns(wrapper, strategy):
    ds, test = load_data("digits", limit=64, test_limit=16)
    def result(net):
        net.net.load_state_dict(start)
        return tuned(net, strategy=strategy, ds=ds, test=test).epoch_log
    torch.manual_seed(0)
    start = digits_net(10).state_dict()
    plain = result(Answers(lambda out: out))
    assert result(Answers(WRAPPERS[wrapper])) == result(Answers(WRAPPERS[wrapper], training_only=True)) == plain


def test_googlenet_is_trained_on_its_main_output():
    from torchvision.models import googlenet
    items = torch.randint(0, 256, (6, 3, 96, 96), dtype=torch.uint8)
    ds = ImageSet(items, [0, 1]*3, ["a", "b"], list("abcdef"), "noise")
    net = googlenet(weights=None, aux_logits=True, num_classes=2, init_weights=False)
    better = tuned(net, strategy="standard", ds=ds, test=ds, bs=6, transforms=None)
    assert [row["n"] for row in better.epoch_log] == [6]


def test_a_model_that_flattens_with_view_is_trained():
    class Tutorial(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 5, stride=2), nn.Linear(6*14*14, 10)
        def forward(self, x):
            x = self.conv(x).relu()
            return self.head(x.view(x.size(0), -1))
    ds, test = load_data("digits", limit=64, test_limit=16)
    for strategy in ("standard", "augmix"): tuned(Tutorial(), strategy=strategy, ds=ds, test=test)


def refused(what, f):
    "An error of one line, raised before anything is trained"
    with pytest.raises(WrnbError, match=what) as e: f()
    assert len(str(e.value).splitlines()) == 1


def test_what_cannot_be_trained_is_refused_in_one_line():
    ds, test = load_data("digits", limit=64, test_limit=16)
    fine_tune = partial(tuned, strategy="standard", ds=ds, test=test)
    refused("9 outputs and the data 10", lambda: fine_tune(digits_net(9)))
    refused("the loss became|lower lr=", lambda: fine_tune(digits_net(10), lr=1e12))
    broken = digits_net(10)
    with torch.no_grad(): broken[-1].weight.fill_(torch.nan)
    refused("not finite", lambda: fine_tune(broken))
    quantised = torch.ao.quantization.quantize_dynamic(digits_net(10), {nn.Linear})
    refused("quantised", lambda: fine_tune(quantised))
    with pytest.raises(WrnbError): fine_tune("resnet20")
    with pytest.raises(WrnbError): fine_tune(digits_net(10), ds=subset(ds, []))


def test_models_that_keep_tensors_are_copied():
    ds, test = load_data("digits", limit=64, test_limit=16)
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net(10)
            self(torch.rand(2, 3, 32, 32))
        def forward(self, x):
            self.last = self.net(x)
            return self.last
    normed = digits_net(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: the old form of weight norm
        nn.utils.weight_norm(normed[0])
    for net in (Keeps(), normed, digits_net(10).half(), digits_net(10).bfloat16()):
        before = {k: v.clone() for k, v in net.state_dict().items()}
        tuned(net, strategy="standard", ds=ds, test=test)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# --- the head -----------------------------------------------------------------------------------------------------

class Before(nn.Module):
    "A head that is registered before its body"
    def __init__(self, two=False):
        super().__init__()
        self.head, self.extra = nn.Linear(8, 10), nn.Linear(8, 10) if two else None
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    def forward(self, x):
        x = self.body(x)
        return self.head(x) if self.extra is None else (self.head(x) + self.extra(x))/2


def head_names(net, size=32):
    head = {id(p) for p in _head(net, torch.rand(2, 3, size, size))}
    return {name.rpartition(".")[0] for name, p in net.named_parameters() if id(p) in head}


@pytest.mark.parametrize("name,size,head", [
    ("mobilenet_v3_small", 32, {"classifier.3"}), ("squeezenet1_1", 64, {"classifier.1"}), ("resnet18", 32, {"fc"}),
    ("googlenet", 32, {"fc"}), ("shufflenet_v2_x0_5", 32, {"fc"}), ("convnext_tiny", 32, {"classifier.2"})])
def test_the_head_of_torchvisions_models(name, size, head):
    import torchvision
    options = dict(init_weights=False) if name == "googlenet" else {}
    assert head_names(torchvision.models.get_model(name, num_classes=10, **options), size) == head


@pytest.mark.parametrize("name,head", [
    ("deit_tiny_distilled_patch16_224", {"head", "head_dist"}), ("vit_tiny_patch16_224", {"head"}),
    ("levit_128s", {"head.linear", "head_dist.linear"}), ("mobilenetv3_small_050", {"classifier"}),
    ("repvit_m1", {"head.head.l", "head.head_dist.l"})])
def test_the_head_of_timms_models(name, head):
    timm = pytest.importorskip("timm")
    assert head_names(timm.create_model(name, num_classes=10).eval(), 224) == head


@pytest.mark.parametrize("two", [False, True])
def test_head_epochs_train_the_head_alone(two):
    ds, test = load_data("digits", limit=64, test_limit=16)
    net = Before(two)
    better = tuned(net, strategy="standard", ds=ds, test=test, epochs=2., head_epochs=np.int64(2))
    after = better.model.state_dict()
    before = as_model(net).state_dict()
    moved = {k.removeprefix("body.") for k, v in before.items() if not torch.equal(v, after[k])}
    assert moved == {f"{layer}.{kind}" for layer in ["head"] + ["extra"]*two for kind in ("weight", "bias")}
    assert all(p.requires_grad for p in better.model.parameters())


# --- transforms and numbers ---------------------------------------------------------------------------------------

class Dimmed:
    def __init__(self, by): self.by = by
    def __call__(self, x): return x*self.by


def darker(by): return lambda x: x*by


TRANSFORMS = dict(
    function=random_flip, partial=partial(random_crop, pad=2), torchvision=v2.RandomRotation(10),
    composed=v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(.2)]),
    sequential=nn.Sequential(v2.RandomGrayscale()),
    fastai=Flip(p=1.), instance=Dimmed(.5), closure=darker(.5), method=Dimmed(.5).__call__)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_callable_is_a_transform(name, tmp_path):
    ds, test = load_data("digits", limit=32, test_limit=8)
    transform = TRANSFORMS[name]
    for given in (transform, [transform], (transform,)):
        tuned(digits_net(10).requires_grad_(), strategy="standard", ds=ds, test=test, transforms=given)
    label = _label(transform)
    assert "0x" not in label and "\n" not in label


def test_a_folder_never_answers_for_other_transforms(tmp_path):
    ds, test = load_data("digits", limit=32, test_limit=8)
    net = digits_net(10)
    go = partial(tuned, net, strategy="standard", ds=ds, test=test, out=tmp_path)
    pairs = [
        (Dimmed(.5), Dimmed(.6)), (darker(.5), darker(.6)), (lambda x: x*.5, lambda x: x*.6),
        (partial(random_crop, pad=1), partial(random_crop, pad=2)),
        (Dimmed(.5).__call__, Dimmed(.6).__call__)]
    for n, (one, other) in enumerate(pairs):
        out = tmp_path/str(n)
        go(transforms=one, out=out)
        with pytest.raises(WrnbError, match="transforms"): go(transforms=other, out=out)
    go(transforms=Dimmed(.5), out=tmp_path/"0")  # another object with the same settings


def test_fastais_transforms_change_plain_pixels():
    "They change what has their type, and would leave a plain tensor as it is"
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(_transformed(x, Flip(p=1.)), x.flip(3), rtol=0, atol=1e-4)


def test_a_transform_that_normalises_is_refused():
    ds, test = load_data("digits", limit=32, test_limit=8)
    normalised = v2.Normalize([.4]*3, [.2]*3)
    def tune(transforms): return tuned(digits_net(10), strategy="standard", ds=ds, test=test, transforms=transforms)
    refused("leave normalisation", lambda: tune(normalised))
    refused("is not a function", lambda: tune(["flip"]))


def test_numbers_of_any_type(tmp_path, monkeypatch):
    ds, test = load_data("digits", limit=32, test_limit=8)
    monkeypatch.setenv("HOME", str(tmp_path))
    net = digits_net(10)
    go = partial(enhance, net, None, "adversarial", ds, test, out="~/run", device="cpu")
    first = go(epochs=1, lr=.02, bs=16, eps=.01, seed=3, head_epochs=0)
    scalars = dict(
        epochs=np.int64(1), lr=torch.tensor(.02, dtype=torch.float64), bs=16., eps=np.float64(.01),
        seed=torch.tensor(3), head_epochs=np.uint8(0))
    assert weights_hash(go(**scalars).model) == weights_hash(first.model)
    assert (tmp_path/"run/adversarial/model.safetensors").is_file()
    options = Run(tmp_path/"run").options("enhance adversarial")
    assert {type(v) for v in options.values()} <= {int, float, str, list, dict, type(None)}
    assert options["alpha"] is None and options["recipe"]["groups"] == 32
    for name, value in dict(epochs=1.5, bs=0, lr=float("nan"), seed="1", head_epochs=True, eps=2,
                            alpha=1.5, clean_budget=-1, attack_share=2).items():
        with pytest.raises(WrnbError, match=f"{name}="): go(**{name: value})


def test_images_laid_aside_choose_the_step_and_are_in_no_figure(tmp_path):
    about = dict(data="digits", model="digits_net", limit=100, test_limit=60, select=20)
    loop = Loop(tmp_path, setup=about, say=lambda *line: None)
    loop.train_base(base_epochs=1, base_lr=.1, bs=32)
    loop.enhance("standard", epochs=1)
    assert loop.run.options("enhance standard")["n_selection"] == 20
    assert set(loop.evaluate((), families="noise", severities=1).table.n) == {40}
    whole = load_data("digits", limit=1, test_limit=60)[1]
    assert not set(loop.test.ids) & set(loop._select.ids) and len(loop.test) + len(loop._select) == len(whole)
    with pytest.raises(WrnbError, match="select=20 laid aside"): loop.evaluate_on(tmp_path)


class Cut:
    "A transform that is interrupted after so many steps"
    __name__ = "same"
    def __init__(self, steps): self.left = steps
    def __call__(self, x):
        self.left -= 1
        if not self.left: raise KeyboardInterrupt
        return x


def test_shares_that_follow_gains_resume_with_the_same_bytes(tmp_path):
    "Gains are measured before epochs 0, 1 and 2; the training is cut off in the second one"
    ds, test = load_data("digits", limit=300, test_limit=30)
    torch.manual_seed(0)
    net = digits_net(10).eval()
    go = partial(enhance, net, None, ds=ds, test=test, guide="gain", protocol="extra", epochs=3, bs=64)
    with pytest.raises(KeyboardInterrupt): go(out=tmp_path/"cut", transforms=[Cut(8)])
    assert (tmp_path/"cut/reva/checkpoint.pt").is_file()
    for name in ("cut", "whole"): learn = go(out=tmp_path/name, transforms=[Cut(10_000)])
    for name in ("log.csv", "guide.csv", "model.safetensors"):
        assert (tmp_path/"cut/reva"/name).read_bytes() == (tmp_path/"whole/reva"/name).read_bytes()
    t = learn.guide.set_index("perturbation")
    assert np.isclose(t.loc["pgd", ["first_share", "last_share"]], .1).all() and np.isclose(t.last_share.sum(), 1)
    assert t.drop(index="pgd").last_share.nunique() == 4
    assert Run(tmp_path/"whole").options("enhance reva")["probe_passes"] > 1
    with pytest.raises(WrnbError, match="guide=gain has 0 images"): go(ds=load_data("digits", limit=9)[0])


@pytest.mark.parametrize("guide", ["uniform", "online", "gain"])
def test_a_training_that_was_killed_after_its_last_epoch_ends_with_the_same_bytes(guide, tmp_path, monkeypatch):
    "The checkpoint of the last epoch is written, the model is not: no epoch is left to train"
    ds, test = load_data("digits", limit=300, test_limit=30)
    torch.manual_seed(0)
    net = digits_net(10).eval()
    go = partial(enhance, net, None, ds=ds, test=test, guide=guide, protocol="extra", epochs=2, bs=64)
    def killed(*args, **how): raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("wrnb.enhancement.choose_alpha", killed)
        go(out=tmp_path/"cut")
    assert (tmp_path/"cut/reva/checkpoint.pt").is_file()
    for name in ("cut", "whole"): go(out=tmp_path/name)
    for name in ("log.csv", "guide.csv", "model.safetensors"):
        assert (tmp_path/"cut/reva"/name).read_bytes() == (tmp_path/"whole/reva"/name).read_bytes(), name


# --- nothing to be guided by --------------------------------------------------------------------------------------

def test_one_can_ask_whether_anything_guides():
    errors = ("noise", "speckle_noise", .4), ("white_box", "pgd", .3)
    rows = [("weak", family, name, 3, error) for family, name, error in errors]
    table = pd.DataFrame(rows, columns=["subset", "family", "perturbation", "severity", "error"])
    weak, strong = Validation(table, .35), Validation(table, .5)
    by_threshold = partial(guiding_types, protocol="extra", guide="paper")
    assert by_threshold(weak) == ["speckle_noise"] and by_threshold(strong) == []
    assert guiding_types(strong) == ["speckle_noise"]  # an excess error guides, whatever the threshold
    calm = Validation(table.assign(error=0.), .35)
    assert guiding_types(calm) == [] and len(guiding_types(calm, guide="uniform")) == 19
    ds, test = load_data("digits", limit=32, test_limit=8)
    refused("no type of protocol all is a weakness", lambda: enhance(digits_net(10), calm, ds=ds, test=test))
    paper = dict(protocol="extra", guide="paper")
    refused("no type of protocol extra", lambda: enhance(digits_net(10), strong, ds=ds, test=test, **paper))
    refused("found='augmix' is not a Validation", lambda: enhance(digits_net(10), "augmix", ds=ds, test=test))


# --- what the shares say, and how far the weights go --------------------------------------------------------------

def a_validation(excess, clean=.1):
    "Types with this error above the clean one, on weak and random images"
    rows = [(subset, "clean", "clean", 0, clean) for subset in ("weak", "random")]
    rows += [(subset, FAMILY[name], name, s, clean + e*s/3) for subset in ("weak", "random")
             for name, e in excess.items() for s in (1, 3, 5)]
    return Validation(pd.DataFrame(rows, columns=["subset", "family", "perturbation", "severity", "error"]))


def test_shares_go_by_the_error_above_the_clean_one():
    "A tenth equally, the rest in proportion, counted by hand; the attack apart"
    found = a_validation(dict(fog=.3, contrast=.1, saturate=0))
    kinds, shares = guidance(found, attack_share=.2)
    names = "fog", "contrast", "saturate"
    of_type = {name: sum(s for k, s in zip(kinds, shares) if k.name == name) for name in names}
    expected = dict(fog=.9*3/4 + .1/3, contrast=.9/4 + .1/3, saturate=.1/3)
    for name, share in expected.items(): assert of_type[name] == pytest.approx(.8*share)
    severities = [s/of_type["fog"] for k, s in zip(kinds, shares) if k.name == "fog"]
    assert severities == pytest.approx([.9*s/9 + .1/3 for s in (1, 3, 5)])
    assert sum(shares) == pytest.approx(1) and shares[-1] == pytest.approx(.2)
    _, shifted = guidance(a_validation(dict(fog=.3, contrast=.1, saturate=0), clean=.4), attack_share=.2)
    assert shifted == pytest.approx(shares)  # the clean error by itself is no weakness


@pytest.fixture(scope="module")
def some_digits(): return load_data("digits", limit=320, test_limit=60)


def trained_digits(ds, test):
    torch.manual_seed(0)
    return train(digits_net(10), ds, test, epochs=6, lr=.1, bs=32, device="cpu").model


def reva(net, ds, test, **more):
    options = dict(guide="uniform", epochs=1, bs=32, device="cpu", transforms=random_crop) | more
    return enhance(net, None, "reva", ds, test, **options)


def test_alpha_goes_from_the_base_to_the_tuned_weights(some_digits):
    net = trained_digits(*some_digits)
    none, half, full = (reva(net, *some_digits, alpha=a).model.state_dict() for a in (0, .5, 1))
    for name, start in as_model(net).state_dict().items():
        assert torch.equal(none[name], start), name
        if start.is_floating_point(): torch.testing.assert_close(half[name], (start + full[name])/2)
    assert any(not torch.equal(full[name], none[name]) for name in full)


def test_no_budget_keeps_the_clean_error_on_the_images_set_apart(some_digits):
    "A step that ruins the model is taken back as far as the images set apart ask for"
    ds, test = some_digits
    net, apart = trained_digits(ds, test), subset(ds, selection(ds.labels, 0))
    ruined = reva(net, ds, test, lr=5., epochs=1)
    def wrong(m): return wrong_under(Clean(), {"": m}, apart)[""].astype(float)
    rise = wrong(ruined.model) - wrong(net)
    assert ruined.alpha < 1 and rise.mean() <= .005 + .015


def beyond(base, tuned, how_far):
    "A model on the line from base to tuned, behind the tuned one"
    far, start = copy.deepcopy(tuned), base.state_dict()
    for name, value in far.state_dict().items():
        if value.is_floating_point(): value.copy_(start[name] + how_far*(value - start[name]))
        if name.endswith("running_var"): value.clamp_(min=.01)
    return far


def error_when_corrupted(net, ds, kinds):
    "By a plain loop: every image under every kind"
    x, y = torch.stack([x for x, _ in ds]), torch.tensor([y for _, y in ds])
    with torch.no_grad(): return np.mean([(net(k(net, x, y)).argmax(1) != y).float().mean() for k in kinds])


def test_a_step_that_goes_too_far_is_shortened_to_where_corruptions_are_met_best(some_digits):
    ds, test = some_digits
    base = as_model(trained_digits(ds, test)).eval()
    better = as_model(reva(base, ds, test, alpha=1, epochs=8, lr=.05).model).eval()
    far, how = beyond(base, better, 3), dict(protocol="extra", clean_budget=100, device="cpu")
    alpha = choose_alpha(base, far, test, **how)
    kinds = [Corruption(name, s) for name in PROTOCOLS["extra"] for s in (1, 3, 5)]
    found = {a: error_when_corrupted(interpolate(base, far, a), test, kinds) for a in (0, alpha, 1)}
    assert 0 < alpha < 1 and found[alpha] < min(found[0], found[1])


class NotesPrecision(nn.Module):
    "A linear classifier that notes, for every batch of more than the eight images of a check, how it computes"
    seen = set()

    def __init__(self, n_pixels):
        super().__init__()
        self.last = nn.Linear(n_pixels, 10)

    def forward(self, x):
        out = self.last(x.flatten(1))
        if len(x) > 8: self.seen.add((self.training, torch.is_grad_enabled(), out.dtype))
        return out


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("strategy, guide", [("reva", "uniform"), ("reva", "gain"), ("augmix", "uniform")])
def test_all_of_a_fine_tuning_is_in_the_precision_asked_for(strategy, guide, precision, dtype, some_digits):
    ds, test = some_digits
    net, how = NotesPrecision(ds[0][0].numel()), dict(protocol="extra", epochs=1, bs=32, device="cpu")
    NotesPrecision.seen.clear()
    enhance(net, None, strategy, ds, test, guide=guide, precision=precision, **how)
    training, watching = (True, True, dtype), (False, False, dtype)
    assert NotesPrecision.seen == {training, watching}


class NeverTrained(nn.Module):
    "A classifier of images of any size that must not be trained"
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 10)

    def forward(self, x):
        assert not self.training
        return self.last(x.mean((2, 3)))


def noise_set(size, n_classes):
    "Forty images of noise"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, size, size), np.uint8)
    classes = [f"class {c}" for c in range(n_classes)]
    return ImageSet(pixels, np.arange(40) % n_classes, classes, [*range(40)], "noise")


@pytest.mark.parametrize("says, strategy, size, more", [
    ("protocol='luck'", "standard", 32, dict(protocol="luck")),
    ("too small", "augmix", 8, {}),
    ("10 outputs and the data 12", "augmix", 32, dict(select=noise_set(32, 12))),
    ("too small", "augmix", 32, dict(select=noise_set(8, 10)))])
def test_what_would_fail_after_a_training_is_refused_before_it(says, strategy, size, more):
    ds = noise_set(size, 10)
    with pytest.raises(WrnbError, match=says):
        enhance(NeverTrained(), None, strategy, ds, ds, transforms=[], device="cpu", **more)


def test_models_that_take_pixels_differently_are_not_mixed(folder):
    learn = new_learner(folder)
    with pytest.raises(WrnbError, match="normalise pixels differently"): interpolate(learn, learn.model, .5)


def test_images_set_apart_are_not_trained_on(some_digits):
    "Their labels may be anything: the tuned weights are the same"
    ds, test = some_digits
    net, apart = trained_digits(ds, test), selection(ds.labels, 0)
    assert len(apart) == 32 and len(set(apart)) == 32
    labels = ds.labels.copy()
    free = np.setdiff1d(np.arange(len(ds)), apart)
    pixels = ds.items.clone()
    pixels[apart] = 0
    blank = ImageSet(pixels, labels, ds.classes, ds.ids, "blank")
    quiet = Recipe(watch=False)
    a, b = (reva(net, d, test, alpha=1, recipe=quiet) for d in (ds, blank))
    assert weights_hash(a.model) == weights_hash(b.model)
    pixels[free[:100]] = 0
    changed = reva(net, ImageSet(pixels, labels, ds.classes, ds.ids, "blank"), test, alpha=1, recipe=quiet)
    assert weights_hash(a.model) != weights_hash(changed.model)


@pytest.mark.parametrize("guide", ["online", "uniform"])
def test_a_guide_that_follows_resumes_with_the_same_bytes(guide, some_digits, tmp_path):
    net, (ds, test) = trained_digits(*some_digits), some_digits
    calls = []

    def cut(x):
        calls.append(len(x))
        if len(calls) == 12: raise KeyboardInterrupt
        return random_crop(x)

    cut.__name__ = cut.__qualname__ = "random_crop"
    more = dict(guide=guide, epochs=3)
    with pytest.raises(KeyboardInterrupt): reva(net, ds, test, out=tmp_path/"cut", transforms=cut, **more)
    assert (tmp_path/"cut/reva/checkpoint.pt").is_file()
    for name in ("cut", "whole"): reva(net, ds, test, out=tmp_path/name, **more)
    for name in ("model.safetensors", "log.csv", "guide.csv"):
        assert (tmp_path/"cut/reva"/name).read_bytes() == (tmp_path/"whole/reva"/name).read_bytes(), name


def test_online_shares_follow_the_loss(some_digits):
    "What raises the loss most is drawn more often in the end; the shares still add up to 1"
    net, (ds, test) = trained_digits(*some_digits), some_digits
    learn = reva(net, ds, test, guide="online", epochs=2, recipe=Recipe(watch=False))
    t = learn.guide.set_index("perturbation")
    assert t.last_share.sum() == pytest.approx(1) and t.last_share["pgd"] == pytest.approx(.1)
    assert t.last_share["contrast"] > 2*t.last_share["jpeg_compression"]
