"The attacks against torchattacks 3.3.0, from the same start. In float64, where no gradient's sign hangs on rounding."
import pytest
import torch
from torch import nn

from wrnb import attacks as ours
from wrnb.attacks import ATTACKS, gradient_attack

peers = pytest.importorskip("torchattacks")
EPS = 8/255


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                        nn.Linear(128, 10)).double()
    x = torch.rand(33, 3, 16, 20, dtype=torch.float64)
    x[:5] = x[:5].round()  # some images at 0 and 1, where clipping acts
    for _ in range(20): net(x)  # batch statistics
    net.eval()
    return net, x, net(x).argmax(1)


def same(a, b, x):
    assert (a - x).abs().max() > EPS/2  # something was done at all
    assert (a - b).abs().max() < 1e-6


def test_fgsm(case):
    net, x, y = case
    same(ATTACKS["fgsm"](EPS)(net, x, y), peers.FGSM(net, EPS)(x, y), x)


@pytest.mark.parametrize("eps", [1/255, EPS, 64/255])
def test_bim(case, eps):
    net, x, y = case
    a, b = ATTACKS["bim"](eps)(net, x, y), peers.BIM(net, eps, eps/4, 10)(x, y)
    assert (a - b).abs().max() < 1e-6


def test_pgd(case):
    net, x, y = case
    theirs = peers.PGD(net, EPS, EPS/4, 10, random_start=False)(x, y)
    same(ATTACKS["pgd"](EPS, start="zero")(net, x, y), theirs, x)


@pytest.mark.parametrize("alpha", [EPS/10, EPS/4])
def test_mi_fgsm(case, alpha):
    net, x, y = case
    theirs = peers.MIFGSM(net, EPS, alpha, 10, decay=1.)(x, y)
    same(ATTACKS["mi_fgsm"](EPS, alpha=alpha)(net, x, y), theirs, x)


def test_pgd_l2(case):
    net, x, y = case
    theirs = peers.PGDL2(net, 1., .2, 10, random_start=False)(x, y)
    same(gradient_attack(net, x, y, 1., .2, 10, norm="l2"), theirs, x)


def test_random_starts(case, monkeypatch):
    "torchattacks draws its starts by torch's own generator: ours are put in their place"
    net, x, y = case
    u = torch.rand_like(x)*2 - 1
    z = torch.randn_like(x)
    monkeypatch.setattr(ours, "uniform", lambda keys, shape, low, high: u*high)
    monkeypatch.setattr(ours, "normal", lambda keys, shape: z)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(u*high))
    monkeypatch.setattr(torch, "randn_like", lambda t, **kw: z)
    same(ATTACKS["pgd"](EPS)(net, x, y), peers.PGD(net, EPS, EPS/4, 10)(x, y), x)
    same(ATTACKS["r_fgsm"](EPS)(net, x, y), peers.RFGSM(net, EPS, EPS/4, 10)(x, y), x)


def test_pgd_l2_from_a_random_start(case, monkeypatch):
    net, x, y = case
    z, r = torch.randn_like(x), torch.rand(len(x), 1, 1, 1, dtype=x.dtype)
    monkeypatch.setattr(ours, "normal", lambda keys, shape: z)
    monkeypatch.setattr(ours, "uniform", lambda keys, shape, low, high: r*high)
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self: self.copy_(z))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(r*high))
    a = gradient_attack(net, x, y, 1., .2, 10, "uniform", norm="l2")
    same(a, peers.PGDL2(net, 1., .2, 10)(x, y), x)
    from_zero = gradient_attack(net, x, y, 1., .2, 10, norm="l2")
    assert (a - from_zero).abs().max() > 1e-3  # the start is not lost on the way


def test_fast_fgsm_is_a_setting(case, monkeypatch):
    "Wong et al. 2020, torchattacks' FFGSM: one longer step from a random start"
    net, x, y = case
    u = torch.rand_like(x)*2 - 1
    monkeypatch.setattr(ours, "uniform", lambda keys, shape, low, high: u*high)
    monkeypatch.setattr(torch, "randn_like", lambda t, **kw: u)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(u*high))
    same(gradient_attack(net, x, y, EPS, 1.25*EPS, 1, "uniform"), peers.FFGSM(net, EPS, 1.25*EPS)(x, y), x)


def test_float32(case):
    "In float32 a gradient that is 0 up to rounding may send a pixel the other way: fewer than one in ten thousand"
    net, x, y = case
    net, x = net.float(), x.float()
    try:
        pairs = dict(fgsm=peers.FGSM(net, EPS), bim=peers.BIM(net, EPS, EPS/4, 10),
                     mi_fgsm=peers.MIFGSM(net, EPS, EPS/10, 10))
        for name, peer in pairs.items():
            assert ((ATTACKS[name](EPS)(net, x, y) - peer(x, y)).abs() > 1e-6).float().mean() < 1e-4
    finally: net.double()


class Flat(nn.Module):
    "A model whose logits do not depend on the image"
    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(4))

    def forward(self, x): return self.b + 0*x.mean((1, 2, 3))[:, None]


def test_flat_gradient():
    "If the loss has no gradient at all, MI-FGSM divides nothing by 0 and leaves the image as it is"
    x, y = torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.long)
    assert torch.equal(ATTACKS["mi_fgsm"](EPS)(Flat(), x, y), x)
