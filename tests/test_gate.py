"""`wrnb gate --not-worse-than`: two runs on the same images are compared image by image."""
import copy, json

import numpy as np
import pytest
import torch

from wrnb.benchmark import evaluate
from wrnb.cli import main
from wrnb.folders import load_data
from wrnb.gate import PASSED, UNCLEAR, _figures, _not_worse, check
from wrnb.image_sets import limited
from wrnb.models import as_model
from wrnb.pretrained import load_model
from wrnb.training import train

HOW = dict(severities=[2, 4], attack_names=[], device="cpu")


@pytest.fixture(scope="module")
def nets():
    "A classifier of the digits, and the same one with a little noise on its weights"
    torch.manual_seed(1)
    digits, test = load_data("digits")
    net = as_model(train(load_model("digits_net", 10), digits, test, epochs=5, lr=.2, bs=64, device="cpu")).eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters(): p.add_(.03*p.std()*torch.randn_like(p) if p.dim() > 1 else 0)
    return net, other.eval(), limited(test, 200)


@pytest.fixture(scope="module")
def runs(nets, tmp_path_factory):
    "A run folder of each, all images in every cell"
    folder = tmp_path_factory.mktemp("runs")
    net, other, test = nets
    found = [evaluate(dict(model=m), test, out=folder/name, **HOW) for name, m in (("a", net), ("b", other))]
    return folder, found


def wrong_per_image(evaluation):
    "The mean of the 30 cells' outcomes for each image"
    cells = evaluation.outcomes.cells
    cells = cells[cells.family != "clean"]
    assert len(cells) == 30
    return np.mean([w[np.argsort(i)] for i, w in zip(cells["index"], cells.wrong)], axis=0)


def test_the_difference_is_paired(runs):
    folder, found = runs
    d = wrong_per_image(found[0]) - wrong_per_image(found[1])
    half = 1.96*d.std(ddof=1)/len(d)**.5
    decision = check(folder/"a", not_worse_than=folder/"b", max_error={"corruption": 1}, margin=.5).decisions[-1]
    assert decision.error == pytest.approx(d.mean()) and decision.n == 200
    assert decision.high - decision.low == pytest.approx(2*half, rel=.1)
    assert "paired" in decision.name


def test_it_tells_more_than_two_intervals_do(runs):
    folder, _ = runs
    paired = check(folder/"a", not_worse_than=folder/"b").decisions
    figures = [_figures(folder/name, None) for name in "ab"]
    apart = _not_worse(*figures, ["clean", "corruption"], 0)
    for p, q in zip(paired, apart):
        assert p.error == pytest.approx(q.error) and p.high - p.low < .6*(q.high - q.low)


def test_the_same_model_is_not_worse_than_itself(nets, tmp_path):
    net, _, test = nets
    for name in "ab": evaluate(dict(model=net), test, out=tmp_path/name, per_cell=40, **HOW)
    assert check(tmp_path/"a", not_worse_than=tmp_path/"b", margin=.5).verdict == PASSED
    assert main(["gate", str(tmp_path/"a"), "--not-worse-than", str(tmp_path/"b"), "--margin", "0.5"]) == 0


def test_a_part_of_the_images_is_paired_if_it_is_the_same_part(nets, tmp_path):
    net, other, test = nets
    for name, m, seed in (("a", net, 0), ("b", other, 0), ("c", other, 1)):
        evaluate(dict(model=m), test, out=tmp_path/name, per_cell=40, seed=seed, **HOW)
    names = {k: check(tmp_path/"a", not_worse_than=tmp_path/k).decisions[1].name for k in "bc"}
    assert "paired" in names["b"] and "paired" not in names["c"]


def test_other_images_are_compared_by_their_intervals(nets, runs, tmp_path):
    _, other, test = nets
    evaluate(dict(model=other), test.take(range(199, -1, -1)), out=tmp_path/"turned", **HOW)
    gate = check(runs[0]/"a", not_worse_than=tmp_path/"turned")
    assert not any("paired" in d.name for d in gate.decisions) and gate.verdict == UNCLEAR


def test_the_figures_on_the_command_line(runs, tmp_path, capsys):
    folder, _ = runs
    code = main(["gate", str(folder/"b"), "--not-worse-than", str(folder/"a"), "--margin", "50"])
    out = capsys.readouterr().out
    assert code == 0 and "corruption, worse than before by (paired)" in out
    assert json.loads((folder/"a/config.json").read_text())["stages"]["evaluate"]["options"]["data"]
