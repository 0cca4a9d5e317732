"""AutoAttack: the pixels of its authors' code (pyautoattack 0.2.0), and nothing that is seen outside.

Fewer iterations and queries than by default, so that it takes seconds; that the defaults are the authors' is read off
their object.
"""
import sys, warnings

import pytest
import torch
from torch import nn

from wrnb import autoattack
from wrnb.attacks import ATTACKS, AutoAttack, worst_case
from wrnb.benchmark import evaluate
from wrnb.core import WrnbError
from wrnb.image_sets import ImageSet
from wrnb.measurement import fitted, wrong_under

torchattacks = pytest.importorskip("torchattacks")
EPS, FEW = 1/255, dict(steps=10, n_queries=40)


def network(n_classes):
    "A small network, images, and the classes it sees; the first two labels are others"
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16*9, n_classes))
    x = torch.rand(16, 3, 16, 16)
    for _ in range(20): net(x)  # batch statistics
    net[-1].weight.data.mul_(20)
    y = net.eval()(x).argmax(1)
    y[:2] = (y[:2] + 1) % n_classes
    return net, x, y


@pytest.fixture(scope="module")
def case(): return network(10)


@pytest.fixture
def Authors(): return pytest.importorskip("pyautoattack").AutoAttack


def pixels_of(authors, x, y): return authors.run_standard_evaluation(x, y)[0]


def few(authors, steps, n_queries):
    "The authors' object with fewer iterations and queries"
    for part in (authors.apgd, authors.apgd_targeted):
        part.n_iter, part.n_iter_2 = steps, max(int(.22*steps), 1)
        part.n_iter_min, part.size_decr = max(int(.06*steps), 1), max(int(.03*steps), 1)
    authors.fab.n_iter, authors.square.n_queries = steps, n_queries
    return authors


@pytest.mark.parametrize("version, n_classes", [("standard", 10), ("standard", 23), ("plus", 10), ("rand", 10)])
def test_the_pixels_of_the_authors_code(version, n_classes, Authors, monkeypatch):
    "Both go on with an image that is fooled, since the authors' code gives the last image that fooled the model"
    monkeypatch.setattr(autoattack, "_leaving_early", lambda part: part)
    net, x, y = network(n_classes)
    for eps in (EPS,) if version == "plus" else (.5/255, EPS):
        ours = AutoAttack(eps, version=version, **FEW)(net, x, y, seed=3)
        theirs = pixels_of(few(Authors(net, eps=eps, norm="Linf", version=version, seed=3), **FEW), x, y)
        assert (ours - theirs).abs().max() < 1e-6
        wrong = net(ours).argmax(1) != y
        assert wrong[2:].any() and not wrong.all(), "an attack that fools all or none of them compares nothing"


@pytest.mark.parametrize("n_classes", [10, 23])
@pytest.mark.parametrize("eps", [.25/255, .5/255, EPS, 4*EPS])
def test_leaving_early_fools_the_same_images_with_fewer_passes(eps, n_classes, Authors):
    net, x, y = network(n_classes)
    passes = []
    hook = net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    ours = AutoAttack(eps, **FEW)(net, x, y, seed=3)
    asked = sum(passes)
    passes.clear()
    theirs = pixels_of(few(Authors(net, eps=eps, norm="Linf", version="standard", seed=3), **FEW), x, y)
    more = sum(passes)
    hook.remove()
    wrong, expected = (net(adv).argmax(1) != y for adv in (ours, theirs))
    assert torch.equal(wrong, expected) and (ours - x).abs().max() <= eps + 1e-6
    assert asked < (.5 if wrong.all() else 1)*more


def test_in_l2(case, Authors):
    """APGD is the authors' there, too; the targeted one is torchattacks', which takes the first image's step for all:
    alone, an image gets the authors' result"""
    net, x, y = case
    l2 = dict(eps=.05, norm="L2", seed=0)
    theirs = pixels_of(few(Authors(net, version="rand", **l2), **FEW), x, y)
    assert (AutoAttack(.05, "l2", "rand", **FEW)(net, x, y) - theirs).abs().max() < 2e-5
    more = dict(steps=24, n_queries=20)
    for i in (2, 3):
        one, label = x[i:i+1], y[i:i+1]
        theirs = pixels_of(few(Authors(net, version="standard", **l2), **more), one, label)
        assert (AutoAttack(.05, "l2", **more)(net, one, label) - theirs).abs().max() < 2e-5


def same_settings(part, theirs):
    "Are one part of ours and the part of the authors' object set alike?"
    if isinstance(part, torchattacks.APGD):
        a = theirs.apgd
        assert (part.steps, part.n_restarts) == (a.n_iter, a.n_restarts)
        assert (part.eot_iter, part.thr_decr) == (a.eot_iter, a.thr_decr)
    if isinstance(part, torchattacks.APGDT):
        a = theirs.apgd_targeted
        assert (part.steps, part.n_restarts, part.n_target_classes) == (a.n_iter, 1, a.n_target_classes)
    if isinstance(part, torchattacks.FAB):
        a = theirs.fab
        restarts = 1 if part.multi_targeted else a.n_restarts
        assert (part.steps, part.n_restarts, part.n_target_classes) == (a.n_iter, restarts, a.n_target_classes)
    if isinstance(part, torchattacks.Square):
        a = theirs.square
        assert (part.n_queries, part.p_init, part.loss) == (a.n_queries, a.p_init, a.loss)
        assert not part.rescale_schedule


def test_the_defaults_are_the_authors(Authors):
    from wrnb.attacks import _autoattack
    net, a = network(10)[0], AutoAttack(EPS)
    for n_classes in (10, 100):
        for version in ("standard", "plus", "rand"):
            theirs = Authors(net, eps=EPS, version=version)
            ours = _autoattack(net, version, n_classes, a.steps, a.n_queries, eps=EPS, norm="Linf", seed=0).attacks
            assert len(ours) == len(theirs.attacks_to_run)
            for part in ours: same_settings(part, theirs)


@pytest.mark.parametrize("norm, eps", [("linf", EPS), ("linf", .3), ("l2", .05), ("l2", 2.)])
def test_in_the_ball_and_in_the_box(case, norm, eps):
    net, x, y = case
    x = x.clone()
    x[:6] = x[:6].round()
    adv = AutoAttack(eps, norm, **FEW)(net, x, y)
    d = (adv - x).flatten(1)
    sizes = d.abs().amax(1) if norm == "linf" else d.norm(dim=1)
    assert sizes.max() <= eps + 1e-5 and adv.min() >= 0 and adv.max() <= 1
    wrong, clean = net(adv).argmax(1) != y, net(x).argmax(1) != y
    assert wrong.sum() > clean.sum() and torch.equal(adv[~wrong], x[~wrong]) and torch.equal(adv[clean], x[clean])


def test_eps_0_is_the_identity(case):
    net, x, y = case
    assert torch.equal(AutoAttack(0.)(net, x, y), x)
    assert AutoAttack(EPS)(net, x[:0], y[:0]).shape == (0, 3, 16, 16)


def test_at_least_as_strong_as_pgd(case):
    net, x, y = case
    def wrong(adv): return (net(adv).argmax(1) != y).sum()
    assert wrong(AutoAttack(EPS, **FEW)(net, x, y)) >= wrong(ATTACKS["pgd"](EPS)(net, x, y)) > wrong(x)


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_nothing_is_seen_outside(case, version, capsys):
    net, x, y = case
    net.train()
    net[1].eval()
    net.zero_grad()
    net[0].weight.requires_grad_(False)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modes, before = [m.training for m in net.modules()], torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            adv = AutoAttack(EPS, version=version, **FEW)(net, x, y)
        assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are others now"
        assert [m.training for m in net.modules()] == modes
        assert [p.requires_grad for p in net.parameters()] == [False] + [True]*(len(list(net.parameters())) - 1)
        assert all(p.grad is None for p in net.parameters()) and not adv.requires_grad
        for k, v in net.state_dict().items(): assert torch.equal(v, state[k])
        assert capsys.readouterr().out == ""
    finally: net.eval().requires_grad_(True)


class Scaled(nn.Module):
    "A network whose logits are multiplied, and which may fail after some calls"
    def __init__(self, net, by=1., calls=10**9):
        super().__init__()
        self.net, self.by, self.calls = net, by, calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0: raise RuntimeError("out of memory")
        return self.net(x)*self.by


def test_the_weights_come_back_after_an_error(case):
    net, x, y = case
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"): AutoAttack(EPS, **FEW)(Scaled(net, calls=5), x, y)
    assert all(p.requires_grad for p in net.parameters()) and torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides(case):
    net, x, y = case
    a = AutoAttack(EPS, **FEW)
    torch.manual_seed(0)
    one = a(net, x, y, seed=5)
    torch.manual_seed(9)
    two = a(net, x, y, seed=5)
    assert torch.equal(one, two) and not torch.equal(one, a(net, x, y, seed=6))


def test_any_memory_format_and_grad_mode(case):
    net, x, y = case
    a = AutoAttack(EPS, **FEW)
    plain, channels_last = a(net, x, y), x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(): assert torch.equal(a(net, x, y), plain)
    with torch.inference_mode(): assert torch.equal(a(net, x*1, y*1), plain)
    assert torch.equal(a(net, channels_last, y), plain)
    net = network(10)[0].to(memory_format=torch.channels_last)
    for norm, eps, version in (("linf", EPS, "plus"), ("l2", .05, "standard")):
        adv = AutoAttack(eps, norm, version, **FEW)(net, channels_last, y)
        assert (net(adv).argmax(1) != y).sum() > 2


def test_bad_input(case, monkeypatch):
    net, x, y = case
    a = AutoAttack(EPS, **FEW)
    refused = {  # what the line says -> what is asked
        "divide uint8 images by 255": lambda: a(net, (x*255).byte(), y),
        r"within \[0,1\]": lambda: a(net, x*2 - .5, y),
        "nan": lambda: a(net, x/0, y),
        "grey": lambda: a(net, x[:, :1], y),
        "one class number": lambda: a(net, x, y[:3]),
        "the model has 10 outputs": lambda: a(net, x, y + 7),
        "int64": lambda: a(net, x, y.float()),
        "not finite": lambda: a(Scaled(net, by=float("nan")), x, y),
        "norm='?l1": lambda: AutoAttack(EPS, "l1")(net, x, y),
        "4 classes or more, not 3": lambda: a(network(3)[0], x, y % 3),
        "eps": lambda: AutoAttack(2.),
        "steps": lambda: AutoAttack(EPS, steps=0),
        "version='?fast": lambda: AutoAttack(EPS, version="fast")}
    for words, ask in refused.items():
        with pytest.raises(WrnbError, match=words): ask()
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(WrnbError, match="pip install torchattacks"): a(net, x, y)


def test_in_the_loop(case, monkeypatch):
    "As the other attacks are used: fitted, asked, and in the worst case of an evaluation"
    net, x, y = case
    monkeypatch.setitem(ATTACKS, "autoattack", lambda eps: AutoAttack(eps, **FEW))
    names, ids = [str(i) for i in range(10)], [str(i) for i in range(len(x))]
    ds = ImageSet((x*255).round().byte(), y.tolist(), names, ids, "random")
    p = fitted(ATTACKS["autoattack"](EPS), net, ds)
    wrong = wrong_under(p, dict(a=net), ds, net)["a"]
    models, attacks = dict(base=net, other=network(10)[0]), ("fgsm", "autoattack")
    found = evaluate(models, ds, severities=(), eps=(EPS,), attack_names=attacks, device="cpu")
    t = found.table.set_index(["model", "family", "perturbation"])
    assert t.n_wrong["base", "white_box", "autoattack"] == wrong.sum() <= t.n_wrong["base", "white_box", "worst_case"]
    assert ("other", "transfer", "fgsm") in t.index
    assert ("other", "transfer", "autoattack") not in t.index  # it stops at the base's edge
    assert worst_case(dict(autoattack=wrong)).sum() == wrong.sum()
