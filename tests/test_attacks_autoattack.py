"""AutoAttack: the pixels of its authors' code (pyautoattack 0.2.0), and nothing that is seen outside.

Fewer iterations and queries than by default, so that it takes seconds; that the defaults are the authors' is read
off their object."""
import sys, warnings

import pytest, torch
from torch import nn

from wrnb.attacks import ATTACKS, AutoAttack, worst_case
from wrnb.benchmark import evaluate
from wrnb.core import WrnbError
from wrnb.data import ImageSet
from wrnb.measurement import fitted, wrong_under

pytest.importorskip("torchattacks")
EPS, FEW = 1/255, dict(steps=10, n_queries=40)


def network(n_classes):
    torch.manual_seed(1)
    first = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(16*9, n_classes))
    x = torch.rand(16, 3, 16, 16)
    for _ in range(20): net(x)  # batch statistics
    net[-1].weight.data.mul_(20)
    y = net.eval()(x).argmax(1)
    y[:2] = (y[:2] + 1) % n_classes  # wrong from the start
    return net, x, y


@pytest.fixture(scope="module")
def case(): return network(10)


def authors(net, eps, norm, version, steps, n_queries, seed):
    from pyautoattack import AutoAttack as Authors
    a = Authors(net, eps=eps, norm=norm, version=version, seed=seed)
    for part in (a.apgd, a.apgd_targeted):
        part.n_iter = steps
        part.n_iter_2, part.n_iter_min, part.size_decr = (max(int(share*steps), 1) for share in (.22, .06, .03))
    a.fab.n_iter, a.square.n_queries = steps, n_queries
    return a


@pytest.mark.parametrize("version, n_classes", [("standard", 10), ("standard", 23), ("plus", 10), ("rand", 10)])
def test_the_pixels_of_the_authors_code(version, n_classes):
    pytest.importorskip("pyautoattack")
    net, x, y = network(n_classes)
    for eps in (EPS,) if version == "plus" else (.5/255, EPS):
        ours = AutoAttack(eps, version=version, **FEW)(net, x, y, seed=3)
        theirs, _ = authors(net, eps, "Linf", version, **FEW, seed=3).run_standard_evaluation(x, y)
        assert (ours - theirs).abs().max() < 1e-6
        wrong = net(ours).argmax(1) != y
        assert wrong[2:].any() and not wrong.all(), "an attack that fools all or none of them compares nothing"


def test_in_l2(case):
    """APGD is the authors' there too. The targeted one is torchattacks', which takes the first image's step for all:
    alone, an image gets the authors' result."""
    pytest.importorskip("pyautoattack")
    net, x, y = case
    apgd = AutoAttack(.05, "l2", "rand", **FEW)(net, x, y)
    theirs, _ = authors(net, .05, "L2", "rand", **FEW, seed=0).run_standard_evaluation(x, y)
    assert (apgd - theirs).abs().max() < 1e-5
    few = dict(steps=24, n_queries=20)
    for i in (2, 3):
        alone = x[i:i+1], y[i:i+1]
        one = AutoAttack(.05, "l2", **few)(net, *alone)
        theirs, _ = authors(net, .05, "L2", "standard", **few, seed=0).run_standard_evaluation(*alone)
        assert (one - theirs).abs().max() < 1e-5


def same_settings(part, theirs):
    "Assert that a part of torchattacks is set as the part of the same name in the authors' object"
    import torchattacks
    if isinstance(part, torchattacks.APGD):
        a = theirs.apgd
        assert (part.steps, part.n_restarts, part.eot_iter) == (a.n_iter, a.n_restarts, a.eot_iter)
        assert part.thr_decr == a.thr_decr
    if isinstance(part, torchattacks.APGDT):
        a = theirs.apgd_targeted
        assert (part.steps, part.n_restarts, part.n_target_classes) == (a.n_iter, 1, a.n_target_classes)
    if isinstance(part, torchattacks.FAB):
        a = theirs.fab
        assert (part.steps, part.n_target_classes) == (a.n_iter, a.n_target_classes)
        assert part.n_restarts == (1 if part.multi_targeted else a.n_restarts)
    if isinstance(part, torchattacks.Square):
        a = theirs.square
        assert (part.n_queries, part.p_init, part.loss) == (a.n_queries, a.p_init, a.loss)
        assert not part.rescale_schedule


def test_the_defaults_are_the_authors():
    pytest.importorskip("pyautoattack")
    from pyautoattack import AutoAttack as Authors
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
    size = d.abs().amax(1) if norm == "linf" else d.norm(dim=1)
    assert size.max() <= eps + 1e-5 and adv.min() >= 0 and adv.max() <= 1
    wrong, clean = net(adv).argmax(1) != y, net(x).argmax(1) != y
    assert wrong.sum() > clean.sum()
    assert torch.equal(adv[~wrong], x[~wrong]) and torch.equal(adv[clean], x[clean])


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


def test_the_weights_come_back_after_an_error(case):
    net, x, y = case
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = net, 0
        def forward(self, x):
            self.calls += 1
            if self.calls > 5: raise RuntimeError("out of memory")
            return self.net(x)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"): AutoAttack(EPS, **FEW)(Breaks(), x, y)
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
    plain = a(net, x, y)
    with torch.no_grad(): assert torch.equal(a(net, x, y), plain)
    with torch.inference_mode(): assert torch.equal(a(net, x*1, y*1), plain)
    assert torch.equal(a(net, x.contiguous(memory_format=torch.channels_last), y), plain)
    net = network(10)[0].to(memory_format=torch.channels_last)
    for norm, eps, version in (("linf", EPS, "plus"), ("l2", .05, "standard")):
        adv = AutoAttack(eps, norm, version, **FEW)(net, x.contiguous(memory_format=torch.channels_last), y)
        assert (net(adv).argmax(1) != y).sum() > 2


def test_bad_input(case, monkeypatch):
    net, x, y = case
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
        def forward(self, x): return self.net(x)*float("nan")
    a = AutoAttack(EPS, **FEW)
    refusals = [
        ("divide uint8 images by 255", lambda: a(net, (x*255).byte(), y)),
        (r"within \[0,1\]", lambda: a(net, x*2 - .5, y)),
        (r"within \[0,1\]", lambda: a(net, x/0, y)),
        ("grey", lambda: a(net, x[:, :1], y)),
        ("one class number per image", lambda: a(net, x, y[:3])),
        ("the model has 10 outputs", lambda: a(net, x, y + 7)),
        ("int64", lambda: a(net, x, y.float())),
        ("not finite", lambda: a(Broken(), x, y)),
        ("norm='l1'", lambda: AutoAttack(EPS, "l1")(net, x, y)),
        ("4 classes or more, not 3", lambda: a(network(3)[0], x, y % 3)),
        ("eps", lambda: AutoAttack(2.)),
        ("steps", lambda: AutoAttack(EPS, steps=0)),
        ("version='fast'", lambda: AutoAttack(EPS, version="fast"))]
    for says, attempt in refusals:
        with pytest.raises(WrnbError, match=says): attempt()
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(WrnbError, match="pip install torchattacks"): a(net, x, y)


def test_in_the_loop(case, monkeypatch):
    "As the other attacks are used: fitted, asked, and in the worst case of an evaluation"
    net, x, y = case
    monkeypatch.setitem(ATTACKS, "autoattack", lambda eps: AutoAttack(eps, **FEW))
    classes, ids = [str(i) for i in range(10)], [str(i) for i in range(len(x))]
    ds = ImageSet((x*255).round().byte(), y.tolist(), classes, ids, "random")
    p = fitted(ATTACKS["autoattack"](EPS), net, ds)
    wrong = wrong_under(p, dict(a=net), ds, net)["a"]
    models, two = dict(base=net, other=network(10)[0]), ("fgsm", "autoattack")
    e = evaluate(models, ds, severities=(), eps=(EPS,), attack_names=two, device="cpu")
    t = e.table.set_index(["model", "family", "perturbation"])
    assert t.n_wrong["base", "white_box", "autoattack"] == wrong.sum() <= t.n_wrong["base", "white_box", "worst_case"]
    assert ("other", "transfer", "fgsm") in t.index
    assert ("other", "transfer", "autoattack") not in t.index, "it stops at the base's edge"
    assert worst_case(dict(autoattack=wrong)).sum() == wrong.sum()
