"What holds for every setting of the attacks: the ball, the box, one image one result, and a line for bad input"
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import nn

from wrnb.attacks import ATTACKS, UniversalAttack, gradient_attack, universal_perturbation
from wrnb.core import WrnbError

NAMES = [n for n in ATTACKS if n not in ("uap", "autoattack")]


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                        nn.Linear(128, 10)).double()
    x = torch.rand(24, 3, 12, 16, dtype=torch.float64)
    x[:4] = x[:4].round()  # pixels at 0 and 1, where clipping acts
    x[4] = 0
    x[5] = 1
    for _ in range(20): net(x)
    y = net.eval()(x).argmax(1)
    y[:2] = (y[:2] + 1) % 10  # wrong from the start
    return net, x, y


def size(d, norm): return d.flatten(1).abs().amax(1) if norm == "linf" else d.flatten(1).norm(dim=1)


SEARCHES = dict(
    norm=st.sampled_from(["linf", "l2"]), eps=st.floats(0, 1), alpha=st.floats(0, 2), steps=st.integers(0, 4),
    start=st.sampled_from(["zero", "uniform", "sign"]), momentum=st.sampled_from([0., .9, 1.]),
    early_stop=st.booleans(), restarts=st.integers(1, 3), seed=st.integers(0, 2**40),
    dtype=st.sampled_from([torch.float32, torch.float64]))
LARGE_STEP = dict(norm="l2", eps=1., alpha=1e6, steps=3, start="sign", momentum=1., early_stop=False, restarts=2,
                  seed=0, dtype=torch.float32)
TINY_BALL = dict(norm="linf", eps=1e-12, alpha=1., steps=2, start="uniform", momentum=0., early_stop=True, restarts=2,
                 seed=0, dtype=torch.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(**SEARCHES)
@example(**LARGE_STEP)
@example(**TINY_BALL)
def test_never_outside_the_ball_or_the_box(case, norm, eps, restarts, dtype, **search):
    net, x, y = case
    before, x = x.clone(), x.to(dtype)
    eps = eps*5 if norm == "l2" else eps
    restarts = 1 if search["start"] == "zero" else restarts
    try: adv = gradient_attack(net.to(dtype), x, y, eps, norm=norm, restarts=restarts, **search)
    finally: net.double()
    assert adv.dtype == dtype and adv.shape == x.shape and adv.isfinite().all() and not adv.requires_grad
    assert size(adv.double() - x.double(), norm).max() <= eps + 1e-6*(1 + eps)
    assert adv.min() >= 0 and adv.max() <= 1 and torch.equal(x, before.to(dtype)), "an attack changes a copy"
    if eps == 0: assert torch.equal(adv, x)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_one_result_in_any_batch_and_order(case, name, early_stop):
    net, x, y = case
    restarts = 3 if name in ("pgd", "r_fgsm") else 1
    p = ATTACKS[name](2/255, early_stop=early_stop, restarts=restarts)
    def in_batches(n): return torch.cat([p(net, x[i], y[i], seed=7) for i in torch.arange(len(x)).split(n)])
    whole, order = p(net, x, y, seed=7), torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert (p(net, x[order], y[order], seed=7) - whole[order]).abs().max() < 1e-9
    for n in (1, 7): assert (in_batches(n) - whole).abs().max() < 1e-9
    wrong = net(whole).argmax(1) != y
    assert wrong[2:].any() and not wrong.all(), "early stop and restarts have nothing to tell apart"
    if restarts > 1: assert (p(net, x, y, seed=8) - whole).abs().max() > 1e-4


def test_torch_s_own_random_numbers_play_no_part(case):
    net, x, y = case
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = ATTACKS["pgd"](2/255, restarts=3)(net, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(ATTACKS["pgd"](2/255, restarts=3)(net, x, y), one)


def test_restarts_begin_elsewhere_and_only_for_what_is_still_right(case):
    net, x, y = case
    asked = []
    watch = lambda module, args: asked.append(args[0].detach().clone())
    e, search = 2/255, dict(alpha=1/255, steps=2, start="uniform")
    one = gradient_attack(net, x, y, e, **search)
    right = net(one).argmax(1) == y
    hook = net.register_forward_pre_hook(watch)
    two = gradient_attack(net, x, y, e, restarts=2, **search)
    hook.remove()
    n = int(right.sum())
    assert 0 < n < len(x) and [len(a) for a in asked] == [len(x)]*3 + [n]*3
    assert (asked[0][right] - asked[3]).abs().mean() > e/4, "the second search begins where the first did"
    still = net(two).argmax(1) == y
    assert torch.equal(two[~right], one[~right]), "only what a restart got wrong is another image"
    assert torch.equal(two[still], one[still]), "only what a restart got wrong is another image"


def test_more_restarts_find_more(case):
    "Of random noise alone, one draw is weak and the worst of many is not; an image's draws do not depend on the batch"
    net, x, y = case
    def noise(r, x=x, y=y): return gradient_attack(net, x, y, .2, 0., 0, "uniform", restarts=r)
    wrong = [net(noise(r)).argmax(1) != y for r in (1, 2, 4, 8, 16)]
    assert all((b | ~a).all() for a, b in zip(wrong, wrong[1:])) and wrong[-1].sum() > wrong[0].sum()
    assert torch.equal(noise(8, x.flip(0), y.flip(0)).flip(0), noise(8))


def test_early_stop_leaves_what_is_wrong_where_it_is(case):
    net, x, y = case
    def attack(steps, stop): return gradient_attack(net, x, y, 2/255, .5/255, steps, early_stop=stop)
    for a, b in zip((attack(k, True) for k in range(6)), (attack(k, True) for k in range(1, 7))):
        wrong = net(a).argmax(1) != y
        assert wrong[:2].all() and torch.equal(a[wrong], b[wrong]) and (a != b)[~wrong].any()
    assert torch.equal(attack(6, True)[:2], x[:2]) and not torch.equal(attack(6, False)[:2], x[:2])


class Scaled(nn.Module):
    "A network whose logits are multiplied"
    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x): return self.net(x)*self.by


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(case, name):
    net, x, y = case
    attack, nan = ATTACKS[name], float("nan")
    p = attack(2/255)
    images = [("divide uint8 images by 255", (x*255).byte()), (r"within \[0,1\]", x*255), (r"within \[0,1\]", x*2 - 1),
              ("no nan", torch.full_like(x, nan)), ("grey", x[:, :1]), (r"not \[N, 3, height, width\]", x[0])]
    labels = [("one class number", y[:3]), ("one class number", y[:, None]), ("the model has 10 outputs", y + 7),
              ("labels run from -9", y - 9), ("int64", y.float()), ("int64", y.int())]
    options = [("steps=-1", dict(steps=-1)), ("alpha=-1", dict(alpha=-1.)), ("restarts=0", dict(restarts=0)),
               ("norm='?l1", dict(norm="l1")), ("start='?here", dict(start="here"))]
    for words, wrong in images:
        with pytest.raises(WrnbError, match=words): p(net, wrong, y)
    for words, wrong in labels:
        with pytest.raises(WrnbError, match=words): p(net, x, wrong)
    for words, wrong in options:
        with pytest.raises(WrnbError, match=words): attack(.1, **wrong)(net, x, y)
    for radius in (-1/255, 1.1, nan):
        with pytest.raises(WrnbError, match=f"eps={radius}"): attack(radius)
    for by in (nan, float("inf")):
        with pytest.raises(WrnbError, match="not finite"): p(Scaled(net, by), x, y)
    assert p(net, x[:0], y[:0]).shape == (0, 3, 12, 16)


def test_universal_bad_input(case):
    net, x, y = case
    grey_levels = (x*255).byte()
    refused = [
        ("uint8", lambda: universal_perturbation(net, grey_levels, y, .1)),
        ("int64", lambda: universal_perturbation(net, x, y.float(), .1)),
        ("10 outputs", lambda: universal_perturbation(net, x, y + 9, .1)),
        ("uint8", lambda: UniversalAttack(.1).fit(net, x, y)((lambda: 0), grey_levels, y)),
        ("eps", lambda: UniversalAttack(-.1))]
    for words, ask in refused:
        with pytest.raises(WrnbError, match=words): ask()


def test_universal_raises_the_loss_and_fools_more_with_a_larger_radius(case):
    "And more than the best of 20 random sign perturbations of the same size, on images it was not found on"
    net, x, y = case
    z = torch.rand(400, 3, 12, 16, generator=torch.Generator().manual_seed(3)).double()
    seen = net(z).argmax(1)
    def loss(v): return nn.functional.cross_entropy(net(v), seen).item()
    def fooled(v): return (net(v).argmax(1) != seen).double().mean().item()
    signs = torch.randn(20, 3, 12, 16, generator=torch.Generator().manual_seed(4)).double().sign()
    shares = []
    for e in np.array([1, 2, 4, 8])/255:
        p = UniversalAttack(float(e)).fit(net, z[:200], seen[:200])
        adv, at_random = p(net, z, seen), [(z + s*e).clamp(0, 1) for s in signs]
        assert loss(adv) > max(map(loss, at_random)) and loss(adv) > loss(z)
        assert fooled(adv) > max(map(fooled, at_random))
        shares.append(fooled(adv))
    assert (np.diff(shares) > 0).all(), shares
