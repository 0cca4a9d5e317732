"""Calibration against brute force, and in a run folder, on the command line and in the report."""
import numpy as np
import pandas as pd
import pytest
import torch

import wrnb.reliability  # gives `Evaluation` its tables of calibration
from wrnb.benchmark import evaluate, read_evaluation
from wrnb.calibration import accuracy_at, aurc, ece, reliability
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.corruptions import corruptions
from wrnb.folders import load_data
from wrnb.image_sets import limited
from wrnb.models import as_model
from wrnb.pretrained import load_model

RNG = np.random.default_rng(0)
MADE = {  # confidences and wrong answers
    "many": (RNG.uniform(.1, 1, 3000), RNG.uniform(size=3000) < .3),
    "few": (RNG.uniform(.1, 1, 7), RNG.uniform(size=7) < .5),
    "ties": (RNG.integers(1, 6, 400)/5, RNG.uniform(size=400) < .4),
    "all right": (RNG.uniform(.5, 1, 50), np.zeros(50, bool)),
    "all wrong and sure": (np.ones(20), np.ones(20, bool))}


def ece_by_hand(confidence, wrong, bins):
    "Guo et al. 2017, eq. 5, bin by bin, with the bins (m-1)/M < c <= m/M"
    total = 0
    for m in range(1, bins + 1):
        own = [k for k, c in enumerate(confidence) if (m - 1)/bins < c <= m/bins]
        if not own: continue
        accuracy = sum(not wrong[k] for k in own)/len(own)
        total += len(own)/len(wrong)*abs(accuracy - sum(confidence[k] for k in own)/len(own))
    return total


def risk_by_hand(confidence, wrong, n_orders=2000):
    "The risk at each coverage, as the mean over random orders of what is tied"
    rng, sums = np.random.default_rng(1), 0
    for _ in range(n_orders):
        order = np.lexsort([rng.uniform(size=len(wrong)), -confidence])
        sums = sums + np.cumsum(wrong[order])/np.arange(1, len(wrong) + 1)
    return sums/n_orders


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_is_that_of_its_definition(name, bins):
    confidence, wrong = MADE[name]
    assert ece(confidence, wrong, bins) == pytest.approx(ece_by_hand(confidence, wrong, bins), abs=1e-9)
    assert reliability(confidence, wrong, bins).n.sum() == len(wrong)


@pytest.mark.parametrize("name", MADE)
def test_aurc_and_coverage_are_means_over_the_orders_of_ties(name):
    confidence, wrong = MADE[name]
    tied = len(set(confidence)) < len(confidence)
    risk = risk_by_hand(confidence, wrong, 3000 if tied else 1)
    assert aurc(confidence, wrong) == pytest.approx(risk.mean(), abs=.003 if tied else 1e-9)
    k = int(np.ceil(.8*len(wrong)))
    assert accuracy_at(confidence, wrong) == pytest.approx(1 - risk[k - 1], abs=.01 if tied else 1e-9)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return load_model("digits_net", 10).eval()


@pytest.fixture(scope="module")
def test_images(): return limited(load_data("digits")[1], 60)


@pytest.mark.parametrize("how", [dict(), dict(per_cell=20), dict(half_width=.9)], ids=["all", "some", "rounds"])
def test_confidences_are_those_of_the_images_in_the_table(net, test_images, how, tmp_path):
    "Asked again, image by image"
    how = how | dict(severities=[1, 5], attack_names=["fgsm"], eps=[8/255], device="cpu")
    if "half_width" in how: how["per_cell"] = 10
    found = evaluate(dict(a=net, b=net), test_images, out=tmp_path, confidences=True, **how)
    cells, asked = read_evaluation(tmp_path).outcomes.cells, 0
    kinds = {(p.name, p.severity): p for p in corruptions(None, [1, 5])}
    for c in cells.itertuples():
        if c.family in ("white_box", "transfer"):
            assert np.isnan(c.top).all()
            continue
        idxs = cells["index"][c.Index]
        x, y = test_images.pixels(idxs), torch.tensor(test_images.labels[idxs])
        if c.perturbation != "clean": x = kinds[(c.perturbation, c.severity)](None, x, y, seed=0)
        with torch.no_grad(): probabilities = as_model(net)(x).softmax(1)
        assert np.allclose(c.top, probabilities.amax(1).numpy(), atol=1e-4)
        asked += len(y)
    assert asked > 2*31*10 and found.calibration().n.sum() == asked


@pytest.mark.filterwarnings("ignore:the model's outputs are probabilities")
def test_a_model_that_ends_in_a_softmax_gives_its_own_confidences(net, test_images):
    how = dict(severities=[3], families=["noise"], attack_names=[], device="cpu", confidences=True)
    ended = torch.nn.Sequential(net, torch.nn.Softmax(1))
    tables = [evaluate(dict(m=m), test_images, **how).calibration() for m in (net, ended)]
    for column in ("error", "confidence", "ece", "aurc", "accuracy_at_80"):
        assert tables[1][column].tolist() == pytest.approx(tables[0][column].tolist(), abs=1e-5), column


def test_without_being_asked_for_nothing_is_kept(net, test_images, tmp_path):
    evaluate(net, test_images, out=tmp_path, severities=[1], attack_names=[], device="cpu")
    assert "confidence" not in pd.read_parquet(tmp_path/"outcomes.parquet")
    with pytest.raises(WrnbError, match="evaluate with confidences=True"): read_evaluation(tmp_path).calibration()


def test_on_the_command_line_and_in_the_report(digits_model, tmp_path):
    words = ["--data", "digits", "--model", digits_model, "--test-limit", "60", "--severities", "1", "--device", "cpu"]
    assert main(["evaluate", str(tmp_path/"run"), *words, "--attacks", "--confidences"]) == 0
    table = pd.read_parquet(tmp_path/"run/outcomes.parquet")
    assert table.confidence.between(.1, 1).all() and len(table) == 16*60
    assert main(["report", str(tmp_path/"run")]) == 0
    page = (tmp_path/"run/report.html").read_text()
    found = read_evaluation(tmp_path/"run").calibration_by()
    assert "Calibration" in page and f"{100*found.ece.iloc[1]:.1f}" in page
    assert (tmp_path/"run/figures/calibration.png").is_file()
