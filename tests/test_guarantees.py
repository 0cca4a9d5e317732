"""The mistakes that others made with this method, one test each, numbered as in the project's account of the method.

 1 selection that nothing reads: here            2 a training step that changes no weight: notebook enhancement
 3 only transferred attacks: notebook benchmark  4 normalisation outside the model: notebook models
 5 a universal attack that lowers the loss: notebook attacks
 6 constants and rows by position: here          7 counts in another order than the images: here, and in test_loop.py
 8 constants of another image size: here, and notebook corruptions
 9 severities stacked in one file: test_benchmark_sets.py
10 mCE or the plain mean: test_benchmark_published.py, and the refusals in test_benchmark_sets.py
11 images in memory against JPEG files: the sources in test_corrupt_cli.py
12 training on the corruptions of the test: here, and notebook enhancement
13 eps as a full width: here; its closed form is in notebook scoring
Broad `except`, which hides mistake 2, is looked for by test_house.py.
"""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import wrnb.corruptions, wrnb.weak
from wrnb.attacks import ATTACKS, attacks
from wrnb.loop import Loop
from wrnb.tables import COLUMNS
from wrnb.corruptions import CONSTANTS, CORRUPTIONS, EXTRA, corrupt, corruptions
from wrnb.image_sets import subset
from wrnb.folders import load_data
from wrnb.enhancement import enhance, guidance
from wrnb.models import save_weights, weights_hash
from wrnb.pretrained import load_model
from wrnb.neighbors import neighbor_keys, neighbors
from wrnb.scoring import score_robustness
from wrnb.measurement import Clean
from wrnb.validation import Validation, all_perturbations, validate

FIFTEEN = sum(CORRUPTIONS.values(), [])
KINDS = [Clean(), *corruptions(severities=(2, 5), extra=True), *attacks(("pgd",), (8/255,))]


def fit_least_squares(net, x, y):
    "Give the last layer of `net` the weights of a ridge regression on what comes before it"
    a = nn.functional.pad(net[:2](x), (0, 1), value=1.)
    w = torch.linalg.solve(a.T@a + .01*torch.eye(a.shape[1]), a.T@torch.eye(10)[y])*10
    net[2].weight.data, net[2].bias.data = w[:-1].T.contiguous(), w[-1].contiguous()


@pytest.fixture(scope="module")
def case():
    "A linear classifier of the digits, their images, and their scores"
    train, test = load_data("digits", limit=400, test_limit=100)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.Linear(768, 10))
    fit_least_squares(net, train.pixels(range(400)), train.labels)
    scores = score_robustness(net, train, eps=.3, n_neighbors=10, device="cpu")
    return SimpleNamespace(net=net, train=train, test=test, scores=scores)


def strongest(scores, k): return scores.ranked(weakest_first=False)["index"].to_numpy()[:k]


def test_mistake_1_the_selection_is_what_is_validated_and_trained_against(case):
    chosen = case.scores.weakest(40), strongest(case.scores, 40)
    found = [validate(case.net, idxs, case.train, case.test, KINDS, device="cpu") for idxs in chosen]
    for idxs, v in zip(chosen, found):
        x, y = case.train.pixels(idxs), torch.tensor(case.train.labels[idxs])
        t = v.table[v.table.subset == "weak"].set_index(["perturbation", "severity"])
        for p in KINDS: assert t.n_wrong[p.name, p.severity] == (case.net(p(case.net, x, y)).argmax(1) != y).sum()
    errors = [v.types().error.mean() for v in found]
    assert errors[0] > errors[1] + .03  # the weak ones are weaker under what they were not chosen by, too
    guides = [dict(zip(map(str, kinds), chances)) for kinds, chances in (guidance(v, eps=8/255) for v in found)]
    assert guides[0] != guides[1]
    small = dict(epochs=1, bs=64, eps=8/255, device="cpu")
    trained = [enhance(case.net, v, "reva", case.train, case.test, **small) for v in found]
    assert len({weights_hash(case.net), *(weights_hash(learn.model) for learn in trained)}) == 3


def test_mistake_6_constants_are_taken_by_name(monkeypatch):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {n: corrupt(x, n, 3) for n in CONSTANTS}
    monkeypatch.setattr(wrnb.corruptions, "CONSTANTS", dict(reversed(CONSTANTS.items())))
    for n, v in before.items(): assert torch.equal(corrupt(x, n, 3), v), n
    assert len({v.sum().item() for v in before.values()}) == len(FIFTEEN) + 4


def test_mistake_6_rows_do_not_hang_on_the_order_of_the_perturbations(case):
    idxs, key = case.scores.weakest(20), ["subset", "perturbation", "severity"]
    orders = KINDS, KINDS[::-1]
    a, b = (validate(case.net, idxs, case.train, case.test, kinds, device="cpu").table for kinds in orders)
    assert a.perturbation.tolist() != b.perturbation.tolist()
    pd.testing.assert_frame_equal(a.sort_values(key, ignore_index=True), b.sort_values(key, ignore_index=True))


def test_mistake_7_a_row_belongs_to_the_image_it_names(case):
    order = np.random.default_rng(0).permutation(400)
    ids = [case.train.ids[i] for i in order]
    t = score_robustness(case.net, subset(case.train, order), eps=.3, n_neighbors=10, device="cpu").table
    assert t["index"].tolist() == list(range(400)) and t.id.tolist() == ids != case.scores.table.id.tolist()
    both = t.merge(case.scores.table, on="id", suffixes=("", "_first"))
    assert len(both) == 400
    for c in ("label", "pred", "n_wrong"): assert (both[c] == both[f"{c}_first"]).all(), c
    np.testing.assert_allclose(both.score, both.score_first, atol=1e-5)
    weak = case.scores.weak_table(case.scores.weakest(30))
    assert weak.id.tolist() == [case.train.ids[i] for i in weak["index"]]
    assert weak.label.tolist() == [case.train.labels[i] for i in weak["index"]]


def clipped_deviation(std):
    "The standard deviation of normal noise around grey, clipped to black and white"
    noise = torch.empty(10**6).normal_(0, std, generator=torch.Generator().manual_seed(0))
    return noise.clamp(-.5, .5).std()


@pytest.mark.parametrize("size, published", [(32, [.04, .06, .08, .09, .10]), (224, [.08, .12, .18, .26, .38])])
def test_mistake_8_constants_fit_the_size_of_the_image(size, published):
    "The standard deviation of gaussian noise on grey, which is clipped little"
    x = torch.full((4, 3, size, size), .5)
    for severity, std in enumerate(published, 1):
        measured = (corrupt(x, "gaussian_noise", severity) - x).std()
        assert abs(measured/clipped_deviation(std) - 1) < .03


def everything_weak():
    "A validation in which 9 of 10 weak images are wrong under everything"
    families = dict(attack="white_box")
    kinds = all_perturbations(severities=(1,), eps=(8/255,))[1:]
    rows = [("weak", "base", families.get(p.family, p.family), p.name, p.severity, 10, 9, .9, .5, 1.) for p in kinds]
    return Validation(pd.DataFrame(rows, columns=COLUMNS["validation"]), "half")


def test_mistake_12_the_guide_leaves_the_fifteen_to_the_test():
    found = everything_weak()
    assert set(FIFTEEN) < set(found.weaknesses)
    for kwargs in ({}, dict(protocol="extra")):
        assert {k.name for k in guidance(found, **kwargs)[0]} == {*EXTRA.values(), "pgd"}
    assert {k.name for k in guidance(found, "paper")[0]} == {*FIFTEEN, "pgd"}


def test_mistake_12_the_papers_protocol_is_named_in_the_tables(tmp_path):
    net = load_model("digits_net", 10)
    save_weights(net, tmp_path/"net.safetensors")
    model = f"digits_net@{tmp_path}/net.safetensors"
    loop = Loop(tmp_path/"run", dict(data="digits", model=model, size=None, limit=20, test_limit=20, seed=0))
    for strategy, protocol in (("reva", "paper"), ("augmix", "extra")):
        loop.run.claim(f"enhance {strategy}", dict(protocol=protocol))
        save_weights(net, loop.run/strategy/"model.safetensors")
        loop.run.finish(f"enhance {strategy}")
    assert list(loop.models()) == ["base", "reva (paper's protocol)", "augmix"]


def test_mistake_13_eps_is_a_half_width():
    x, eps = torch.full((20, 3, 32, 32), .5), .1
    d = neighbors(x, neighbor_keys(x, 1)[:, 0], eps) - x
    assert .999*eps < d.max() <= eps + 1e-6 and -.999*eps > d.min() >= -eps - 1e-6
    assert abs(d.std() - eps/3**.5) < 1e-3
    net, y = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), torch.zeros(20, dtype=torch.long)
    for name in set(ATTACKS) - {"autoattack"}:  # that one goes no further than it has to
        p = ATTACKS[name](8/255)
        assert p.severity == 8
        if hasattr(p, "fit"): p = p.fit(net, x, y)
        assert abs((p(net, x, y) - x).abs().max()*255 - 8) < 1e-3, name
