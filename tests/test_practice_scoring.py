"""Scores, weak samples, corruptions and attacks with what people have: nothing is silently wrong."""
import random, subprocess, sys, warnings
from importlib.util import find_spec
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from wrnb.attacks import ATTACKS, AutoAttack, attacks, gradient_attack, universal_perturbation, worst_case
from wrnb.core import WrnbError
from wrnb.corruptions import Corruption, corrupt, corruptions, plot_corruptions
from wrnb.data import ImageSet, load_data
from wrnb.networks import MODELS
from wrnb.neighbors import neighbors
from wrnb.scoring import Scores, score_robustness
from wrnb.weak import new_figure

GREY_LEVEL = 1/255


@pytest.fixture(scope="module")
def digits(): return load_data("digits", limit=60, test_limit=5)[0]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MODELS["digits_net"](10).eval()


@pytest.fixture(scope="module")
def batch(digits): return digits.pixels(range(8)), torch.tensor(digits.labels[:8])


def score(net, ds, **options):
    "The scores with few neighbours on the CPU"
    return score_robustness(net, ds, **dict(eps=.3, n_neighbors=2, device="cpu") | options)


def made_up(score, label=None, right=True, classes=None, **options):
    "Scores of images that do not exist"
    n = len(score)
    label = np.arange(n) % 2 if label is None else label
    t = pd.DataFrame(dict(index=range(n), id=[f"{i}" for i in range(n)], label=label, score=score, clean_correct=right))
    return Scores(t, SimpleNamespace(classes=classes), options)


def one_line(error): return str(error.value).count("\n") == 0


# --- weak samples ---------------------------------------------------------------------------------

@pytest.mark.parametrize("k", [3, 10, 100])
def test_images_that_no_neighbour_harmed_are_never_weak(k):
    scores = made_up([0., .2, 0., 0., .4]*20)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        chosen = scores.weakest(k)
    assert (scores.table.score[chosen] > 0).all() and len(chosen) == min(k, 40)
    assert [str(w.message).count("40 images") for w in said] == [1]*(k > 40)


def test_no_weak_image_at_all():
    with pytest.warns(UserWarning, match="only 0 images have a score above 0"):
        assert len(made_up([0.]*5).weakest(3)) == 0


def test_each_class_is_counted_by_itself():
    scores = made_up([.5, .5, .5, 0., 0., .5], label=[0, 0, 0, 1, 1, 1], classes=["cat", "dog"])
    with pytest.warns(UserWarning, match="only 1 images of class dog") as said:
        chosen = scores.weakest(3, per_class=True)
    assert set(chosen) == {0, 1, 2, 5} and "cat" not in str(said[0].message)


def test_a_search_is_not_filled_up_either():
    with pytest.warns(UserWarning, match="k=4, but only 2"):
        assert set(made_up([0., .1, 0., .2, 0., 0.], top_k=4).weakest()) == {1, 3}


def test_ties_are_broken_by_chance_and_not_by_the_order_of_the_set():
    scores = made_up([.5]*400, label=np.arange(400)//100)  # sorted by class, as many sets are
    share = scores.class_share(scores.weakest(100)).weak
    assert share.min() > .1 and share.max() < .4
    again, other = scores.weakest(100), scores.weakest(100, seed=1)
    assert (again == scores.weakest(100)).all() and set(again) != set(other)
    strongest = scores.ranked(weakest_first=False)["index"].to_numpy()
    assert strongest[:100].max() > 300


class FirstPixel(nn.Module):
    "Class 1 if the first pixel is above one half"
    def forward(self, x):
        p = x[:, 0, 0, 0]
        return 20*torch.stack([.5-p, p-.5], 1)


def test_a_search_does_not_prefer_the_first_images():
    x = torch.full((600, 3, 16, 16), .4)  # never harmed: all are equal
    x[:, 2] = torch.arange(600)[:, None, None]/600  # other noise for each
    y = torch.zeros(600, dtype=torch.int64)
    scores = score_robustness(FirstPixel(), TensorDataset(x, y), eps=.1, top_k=60, budget=1400, device="cpu")
    more = scores.table.n_neighbors.to_numpy() - 1
    assert more[:300].sum() > 60 and more[300:].sum() > 60


def test_labels_count_as_they_are():
    share = made_up([.5]*6, label=[7, 7, 12, 12, 12, 12]).class_share([0, 2])
    assert share.index.tolist() == [7, 12] and share.weak.tolist() == [.5, .5]
    assert share["all"].tolist() == pytest.approx([1/3, 2/3])


def test_masks_select_what_they_mask():
    scores = made_up(np.linspace(0, 1, 20))
    mask = np.zeros(20, bool)
    mask[[3, 11]] = True
    for which in (mask, mask.tolist(), pd.Series(mask), torch.tensor(mask), np.array([3, 11]), pd.Series([3, 11])):
        assert scores.weak_table(which)["index"].tolist() == [3, 11]
        assert scores.class_share(which).weak.tolist() == [0, 1]
    for wrong in ([20], [-1], mask[:5], ["a"]):
        with pytest.raises(WrnbError) as error: scores.weak_table(wrong)
        assert one_line(error)


# --- scoring --------------------------------------------------------------------------------------

def test_a_score_leaves_everything_as_it_was(digits):
    net = MODELS["digits_net"](10).train()
    next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    next(net.parameters()).requires_grad_(False)
    modes, grads = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    score(net, digits)
    assert [m.training for m in net.modules()] == modes and [p.requires_grad for p in net.parameters()] == grads
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_the_mode_comes_back_after_an_error(digits):
    net = MODELS["digits_net"](10).train()
    with pytest.raises(WrnbError): score(net, digits, precision="fp8")
    with pytest.raises(WrnbError): score(nn.Sequential(net, nn.Threshold(1e9, float("nan"))), digits)
    assert all(m.training for m in net.modules())


NUMBERS = [
    ("n_neighbors", np.int64(3), 3), ("n_neighbors", 3., 3),
    ("eps", np.float32(.25), .25), ("eps", torch.tensor(.25), .25),
    ("seed", np.int64(5), 5), ("seed", 5., 5),
    ("batch_size", np.int16(8), 8), ("batch_size", torch.tensor(8), 8)]


@pytest.mark.parametrize("name, value, plain", NUMBERS)
def test_numbers_of_any_type_are_taken(digits, net, name, value, plain):
    mine, python = score(net, digits, **{name: value}), score(net, digits, **{name: plain})
    pd.testing.assert_frame_equal(mine.table, python.table)
    assert mine.options == python.options and type(mine.options["n_neighbors"]) is int


def test_numbers_of_a_search(digits, net):
    plain = score(net, digits, n_neighbors=1, top_k=1, budget=300)
    same = score(net, digits, n_neighbors=1., top_k=np.int64(1), budget=3e2)
    pd.testing.assert_frame_equal(plain.table, same.table)
    assert same.options == plain.options and type(same.options["top_k"]) is int


@pytest.mark.parametrize("options", [
    dict(n_neighbors=2.5), dict(n_neighbors="2"), dict(n_neighbors=True), dict(eps="0.1"), dict(eps=None),
    dict(seed=.5), dict(batch_size=0), dict(workers=-1), dict(workers=.5), dict(top_k=2.5),
    dict(top_k=5, budget=1e9+.5),
    dict(noise=["uniform"]), dict(top_k=5, recall="much")])
def test_no_number_is_refused_by_name(digits, net, options):
    with pytest.raises(WrnbError, match=f"{list(options)[-1]}=") as error: score(net, digits, **options)
    assert one_line(error)


def test_an_unknown_noise_is_refused_for_neighbours_too():
    with pytest.raises(WrnbError, match="noise='pink'"):
        neighbors(torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), .1, "pink")


def test_regression_is_refused(net):
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    x = torch.rand(20, 3, 32, 32)
    with pytest.raises(WrnbError, match="label") as error: score(net, TensorDataset(x, torch.rand(20)))
    assert one_line(error)
    with pytest.raises(WrnbError, match="two classes|outputs") as error:
        score(flat, TensorDataset(x, torch.zeros(20, dtype=torch.int64)))
    assert one_line(error)


def test_probabilities_are_warned_about(digits, net):
    with pytest.warns(UserWarning, match="softmax"): score(nn.Sequential(net, nn.Softmax(1)), digits)


def test_logits_that_depend_on_the_batch_are_warned_about(digits):
    net = MODELS["digits_net"](10)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.track_running_stats, m.running_mean, m.running_var = False, None, None
    with pytest.warns(UserWarning, match="depend on the other images of the batch"): score(net, digits)


def test_an_empty_set_is_refused(digits, net):
    with pytest.raises(WrnbError, match="no images") as error: score(net, Subset(digits, []))
    assert one_line(error)


def test_ids_and_classes_of_other_types_become_text(net):
    x, y = torch.rand(6, 3, 32, 32), torch.arange(6)
    ds = TensorDataset(x, y)
    ds.ids, ds.classes = np.arange(100, 106), np.array(list("abcdefghij"))
    scores = score(net, ds)
    assert scores.table.id.tolist() == [str(i) for i in range(100, 106)]
    assert scores.class_share([0]).index.tolist() == list("abcdefghij")


# --- figures --------------------------------------------------------------------------------------

KERNEL = """
import nbclient, nbformat, sys
nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in sys.argv[1:]])
nbclient.NotebookClient(nb, kernel_name="python3", timeout=120).execute()
print(*[sum("image/png" in o.get("data", {}) for o in c.outputs) for c in nb.cells])
"""


def test_a_figure_appears_once_wherever_it_stands_in_a_cell():
    "In a kernel of Jupyter, which counts the figures that each cell shows"
    missing = [p for p in ("nbclient", "ipykernel") if find_spec(p) is None]
    if missing: pytest.skip(f"{missing[0]} is not installed")
    setup = """%matplotlib inline
from wrnb.weak import new_figure
def plot():
    fig, ax = new_figure(figsize=(1, 1))
    return fig"""
    cells = [setup, "plot()", "plot();", "fig = plot()", "plot()\n1", "display(plot())", "fig"]
    run = subprocess.run([sys.executable, "-c", KERNEL, *cells], capture_output=True, text=True, timeout=300)
    if run.returncode and "kernel" in run.stderr.lower(): pytest.skip("no kernel can be started here")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["0"] + ["1"]*6


def test_plots_return_their_figures(digits, net):
    scores = score(net, digits)
    some = scores.table["index"].to_numpy()[:4]
    for fig in (scores.plot_weakest(n=4.), scores.plot_hist(bins=np.int64(5)), scores.plot_classes(some)):
        with pytest.raises(NotImplementedError): fig._ipython_display_()
        assert not plt.fignum_exists(fig.number)
    fig, _ = new_figure()
    assert plt.fignum_exists(fig.number)
    plt.close(fig)


# --- corruptions ----------------------------------------------------------------------------------

def test_one_value_in_place_of_several():
    assert corruptions("noise", 3) == corruptions(["noise"], (3,)) == corruptions(("noise",), np.array([3]))
    assert attacks("pgd", 8/255) == attacks(["pgd"], [8/255]) == attacks(("pgd",), np.array([8/255]))
    assert [a.name for a in attacks(eps=8/255)] == ["fgsm", "bim", "pgd", "r_fgsm", "mi_fgsm"]


@pytest.mark.parametrize("severity", [3, 3., np.int64(3), np.float32(3), torch.tensor(3)])
def test_a_severity_of_any_type(batch, severity):
    x, _ = batch
    assert Corruption("fog", severity) == Corruption("fog", 3) and type(Corruption("fog", severity).severity) is int
    assert torch.equal(corrupt(x, "fog", severity), corrupt(x, "fog", 3))


@pytest.mark.parametrize("images, says", [
    (np.zeros((2, 32, 32, 3), np.float32), "8-bit"),
    ([torch.zeros(3, 32, 32)], "type list"),
    (None, "NoneType"),
    (torch.zeros(3, 32, 32), r"x\[None\]"),
    (torch.zeros(4, 1, 32, 32), r"\(4, 1, 32, 32\).*grey"),
    (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "divide uint8"),
    (torch.zeros(2, 32, 32, 3), "channels-last")])
def test_images_of_other_forms_get_one_line(net, images, says):
    labels = torch.zeros(2, dtype=torch.int64)
    for work in (lambda: corrupt(images, "fog", 3), lambda: Corruption("fog", 3)(net, images, labels),
                 lambda: ATTACKS["pgd"](.1)(net, images, labels)):
        with pytest.raises(WrnbError, match=says) as error: work()
        assert one_line(error)


@pytest.mark.parametrize("work", [
    lambda: corrupt(torch.rand(1, 3, 32, 32), ["fog"], 3), lambda: corrupt(torch.rand(1, 3, 32, 32), "fog", None),
    lambda: corrupt(torch.rand(1, 3, 32, 32), "fog", True), lambda: corruptions(severities=None),
    lambda: corruptions(families=3), lambda: corruptions(families=[["noise"]]), lambda: Corruption("fog", (1, 2)),
    lambda: attacks(names=None), lambda: attacks([["pgd"]]), lambda: attacks(eps=None), lambda: attacks(eps="8"),
    lambda: plot_corruptions(np.zeros((3, 32, 32)), "fog", 3), lambda: worst_case({})])
def test_slips_get_one_line(work):
    with pytest.raises(WrnbError) as error: work()
    assert one_line(error)


def test_a_grid_of_one_corruption_and_one_severity():
    ax = plot_corruptions(torch.rand(3, 32, 32), "fog", 3)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["fog"]
    plt.close(ax.figure)


def test_nothing_global_moves(batch, net):
    x, y = batch
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    net.train()
    try:
        for kind in (*corruptions(severities=3), *attacks(eps=8/255), AutoAttack(8/255, steps=2, n_queries=4)):
            kind(net, x, y)
        assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    finally: net.eval()
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


# --- attacks --------------------------------------------------------------------------------------

@pytest.mark.parametrize("labels", [list, tuple, np.array, lambda y: np.array(y, np.int32), pd.Series])
def test_labels_of_any_type(batch, net, labels):
    x, y = batch
    assert torch.equal(ATTACKS["pgd"](.1)(net, x, labels(y.tolist())), ATTACKS["pgd"](.1)(net, x, y))


@pytest.mark.parametrize("labels", [["a"]*8, [.5]*8, None, [[0]]*8, [0, 1], [True]*8, [[0], [1, 2]]])
def test_what_is_no_label_gets_one_line(batch, net, labels):
    with pytest.raises(WrnbError, match="label") as error: ATTACKS["pgd"](.1)(net, batch[0], labels)
    assert one_line(error)


ANSWERS = dict(
    tuple=lambda logits: (logits, None),
    dict=lambda logits: dict(logits=logits),
    attribute=lambda logits: SimpleNamespace(logits=logits))


class Answers(nn.Module):
    "A model that gives its logits in something"
    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x): return ANSWERS[self.form](self.net(x))


@pytest.mark.parametrize("form", ANSWERS)
@pytest.mark.parametrize("name", ["fgsm", "pgd", "uap", "autoattack"])
def test_a_model_with_its_logits_in_something(batch, net, name, form):
    x, y = batch
    make = (lambda: AutoAttack(.1, steps=2, n_queries=4)) if name == "autoattack" else (lambda: ATTACKS[name](.1))
    def attacked(model):
        attack = make()
        return (attack.fit(model, x, y) if hasattr(attack, "fit") else attack)(model, x, y)
    assert torch.equal(attacked(Answers(net, form)), attacked(net))


@pytest.mark.parametrize("settings", [
    dict(eps=np.float32(.25), alpha=.125, steps=2.),
    dict(eps=torch.tensor(.25), alpha=np.float64(.125), steps=np.int64(2)),
    dict(eps=.25, alpha=.125, steps=torch.tensor(2), restarts=1., seed=np.int64(0))])
def test_settings_of_any_type(batch, net, settings):
    x, y = batch
    assert torch.equal(gradient_attack(net, x, y, **settings), gradient_attack(net, x, y, .25, .125, 2))


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("eps", [None, "8/255", 8, float("nan"), True])
def test_a_radius_that_is_none_gets_one_line(name, eps):
    with pytest.raises(WrnbError, match="eps=") as error: ATTACKS[name](eps)
    assert one_line(error)


class Rounds(nn.Module):
    "A model that rounds its pixels, and so has no gradient"
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x): return self.net((x*255).round()/255)


def right_labels(net, x):
    with torch.no_grad(): return net(x).argmax(1)


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "r_fgsm", "mi_fgsm"])
def test_a_gradient_of_zero_is_warned_about_once_per_attack_and_model(batch, net, name):
    x, y = batch[0], right_labels(net, batch[0])
    attack, model = ATTACKS[name](8*GREY_LEVEL), Rounds(net)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for xb, yb in zip(x.split(3), y.split(3)): attack(model, xb, yb)
        attack(net, x, y)
    assert [f"{name} at eps 8/255: the gradient is zero for 100%" in str(w.message) for w in said] == [True]
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="gradient is zero"): attack(model, x, y)  # asked again, said again


def test_a_universal_perturbation_without_a_gradient_is_warned_about(batch, net):
    with pytest.warns(UserWarning, match="uap: the gradient is zero"):
        assert not universal_perturbation(Rounds(net), *batch, eps=.1).any()


def test_confident_images_are_no_reason_to_warn(batch, net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for attack in attacks(eps=8/255): attack(net, *batch)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_universal_perturbation_on_a_set_is_that_on_its_pixels(net, lossless):
    x = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if lossless: x = (x*255).round()/255
    y = torch.arange(40) % 10
    from_set = universal_perturbation(net, TensorDataset(x, y), None, eps=.1, batch_size=16)
    assert torch.equal(from_set, universal_perturbation(net, x, y, eps=.1, batch_size=16))


def test_a_universal_perturbation_takes_an_image_set(digits, net):
    assert isinstance(digits, ImageSet)
    x, y = digits.pixels(range(60)), torch.tensor(digits.labels)
    assert torch.equal(universal_perturbation(net, digits, None, eps=.1), universal_perturbation(net, x, y, eps=.1))
