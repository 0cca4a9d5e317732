"""The figures of published models, recomputed from the errors that RobustBench lists for them.

published_corruption_errors.csv is a part of RobustBench's table of published models
(github.com/RobustBench/robustbench): error by model, corruption and severity, measured on the official CIFAR-10-C,
CIFAR-100-C and ImageNet-C. It names no n; ours are the size of CIFAR's test set and the 5,000 images of RobustBench's
ImageNet.
"""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wrnb.benchmark
from wrnb.corrupted_sets import C_BAR
from wrnb.benchmark import ALEXNET_ERRORS, Evaluation
from wrnb.core import WrnbError, wilson
from wrnb.tables import COLUMNS
from wrnb.corruptions import CORRUPTIONS, FAMILY

LISTED = pd.read_csv(Path(__file__).parent/"published_corruption_errors.csv")
N = dict(cifar10=10_000, cifar100=10_000, imagenet=5_000)
FIFTEEN = sum(CORRUPTIONS.values(), [])


def measurements(**columns):
    "A table as `evaluate` leaves it"
    t = pd.DataFrame(dict(subset="test", low=0., high=1.) | columns)
    return t.assign(n_wrong=t.error*t.n)[COLUMNS["evaluation"]]


def published(dataset, clean=None):
    "The listed errors of a data set as `evaluate` would leave them, with a row for the clean error if it is given"
    t, n = LISTED[LISTED.dataset == dataset], N[dataset]
    parts = [measurements(model=t.model, family=t.corruption.map(FAMILY), perturbation=t.corruption,
                          severity=t.severity, n=n, error=t.error)]
    if clean:
        parts.insert(0, measurements(model=t.model.unique(), family="clean", perturbation="clean", severity=0, n=n,
                                     error=clean))
    kind = "ImageNet-C" if dataset == "imagenet" else "CIFAR-C"
    return Evaluation(pd.concat(parts, ignore_index=True), "official files", kind)


def test_the_list_is_whole():
    assert (LISTED.groupby(["dataset", "model"]).size() == 75).all() and set(LISTED.corruption) == set(FIFTEEN)


@pytest.mark.parametrize("dataset, model, measure, figure", [
    ("imagenet", "Standard_R50", "mce", 76.37), ("imagenet", "Hendrycks2020AugMix", "mce", 64.17),
    ("cifar10", "Standard", "error", 26.54), ("cifar100", "Hendrycks2020AugMix_WRN", "error", 35.89)])
def test_published_figures_come_out(dataset, model, measure, figure):
    found = published(dataset)
    t = found.mce() if measure == "mce" else found.corruption_error()
    assert f"{100*t[measure][model]:.2f}" == f"{figure:.2f}"
    assert t.low[model] < t[measure][model] < t.high[model]
    assert (t.cells[model], t.n[model], t.source[model]) == (75, N[dataset], "official files")


def test_mistake_6_alexnet_is_taken_by_name(monkeypatch):
    "Neither the order of the rows nor that of the constants matters; a constant in another's place does"
    found = published("imagenet", clean=.25)
    before = {m: getattr(found, m)() for m in ("mce", "relative_mce", "corruption_error")}
    rows = found.table.sample(frac=1, random_state=0)[::-1]
    shuffled = Evaluation(rows.iloc[:, ::-1], "official files", "ImageNet-C")
    monkeypatch.setattr(wrnb.benchmark, "ALEXNET_ERRORS", dict(reversed(ALEXNET_ERRORS.items())))
    for m, t in before.items(): pd.testing.assert_frame_equal(getattr(shuffled, m)().loc[t.index], t)
    values = list(ALEXNET_ERRORS.values())[:15]
    moved = dict(zip(ALEXNET_ERRORS, values[1:] + values[:1] + [.435]))
    monkeypatch.setattr(wrnb.benchmark, "ALEXNET_ERRORS", moved)
    assert abs(found.mce().mce - before["mce"].mce).min() > 1e-3


def test_mistake_10_mce_is_imagenets_and_normalised():
    imagenet = published("imagenet").table
    others = [published("cifar10"), published("cifar100"), Evaluation(imagenet),
              Evaluation(imagenet, kind="ImageNet-C on 10 classes")]
    for found in others:
        for m in ("mce", "relative_mce"):
            refusal = f"{m} is normalised by AlexNet's errors on ImageNet-C.*corruption_error"
            with pytest.raises(WrnbError, match=refusal): getattr(found, m)()
        assert "mce" not in found.summary()
    whole = published("imagenet", clean=.25)
    summary = whole.summary()
    np.testing.assert_allclose(summary.mce, 100*whole.mce().mce.loc[whole.models])
    assert "relative_mce" in summary and (summary.mce > summary.corruption_error + 5).all()  # two figures
    part = Evaluation(whole.table[whole.table.perturbation != "fog"], kind="ImageNet-C")
    with pytest.raises(WrnbError, match="has 70 of these 75"): part.mce()


def test_the_measures_by_their_formulas():
    "A loop over Hendrycks and Dietterich's definitions, section 4.2"
    found, clean = published("imagenet", clean=.25), .25
    alexnet, alexnet_clean = ALEXNET_ERRORS, ALEXNET_ERRORS["clean"]
    for m, t in LISTED[LISTED.dataset == "imagenet"].groupby("model"):
        ce = {c: sum(t.error[t.corruption == c])/5 for c in t.corruption.unique()}
        normalised = [e/alexnet[c] for c, e in ce.items()]
        relative = [(e-clean)/(alexnet[c]-alexnet_clean) for c, e in ce.items()]
        assert found.mce().mce[m] == pytest.approx(np.mean(normalised))
        assert found.relative_mce().relative_mce[m] == pytest.approx(np.mean(relative))
        for f, names in CORRUPTIONS.items():
            assert found.by_family().error[m, f] == pytest.approx(np.mean([ce[c] for c in names]))
        for s in range(1, 6):
            assert found.by_severity().error[m, s] == pytest.approx(t.error[t.severity == s].mean())


def test_the_first_authors_own_table():
    """Hendrycks and Dietterich 2019, table 1: ResNet-50 with a clean error of 23.9 % has an mCE of 76.7 and a relative
    mCE of 105.0; RobustBench's is another training"""
    t = published("imagenet", clean=.239).summary().loc["Standard_R50"]
    assert abs(t.mce - 76.7) < 1 and abs(t.relative_mce - 105.0) < 3


def test_intervals_are_those_of_one_mean_over_n_images():
    "In one cell Wilson's own; for a figure in units of AlexNet's the same, stretched"
    t = published("cifar10").corruption_error()
    np.testing.assert_allclose([t.low, t.high], wilson(t.error, 10_000))
    found = published("imagenet", clean=.25)
    most = 5*sum(1/(75*ALEXNET_ERRORS[c]) for c in FIFTEEN)  # if every image is wrong
    t = found.mce()
    np.testing.assert_allclose([t.low, t.high], most*np.array(wilson(t.mce/most, 5_000)))
    small = Evaluation(found.table.assign(n=100, n_wrong=found.table.error*100), kind="ImageNet-C")
    for m in (Evaluation.mce, Evaluation.relative_mce):
        wide, narrow = m(small), m(found)
        assert ((wide.high - wide.low) > 5*(narrow.high - narrow.low)).all()


def test_two_sets_do_not_mix():
    found = published("cifar10").table
    renamed = dict(zip(found.perturbation.unique(), C_BAR["CIFAR-C-bar"]*2))
    bar = found.assign(family="c-bar", perturbation=found.perturbation.map(renamed))
    bar = bar.drop_duplicates(["model", "perturbation", "severity"])
    assert (Evaluation(bar, kind="CIFAR-C-bar").corruption_error().cells == 50).all()
    with pytest.raises(WrnbError, match="C-bar"): Evaluation(pd.concat([found, bar])).corruption_error()
    with pytest.raises(WrnbError, match="twice"): Evaluation(pd.concat([found, found])).corruption_error()


def test_the_extra_four_do_not_count():
    found = published("imagenet")
    spatter = found.table[found.table.perturbation == "fog"].assign(perturbation="spatter", n_wrong=0)
    more = Evaluation(pd.concat([found.table, spatter]), "official files", "ImageNet-C")
    for m in (Evaluation.corruption_error, Evaluation.mce, Evaluation.by_family, Evaluation.by_severity):
        pd.testing.assert_frame_equal(m(more), m(found))


def test_relative_mce_needs_the_clean_error_of_the_same_images():
    without, fewer = published("imagenet").table, published("imagenet", clean=.25).table
    fewer.loc[fewer.family == "clean", "n"] = 400
    for t in (without, fewer):
        with pytest.raises(WrnbError, match="needs the clean error of .* on the same images"):
            Evaluation(t, kind="ImageNet-C").relative_mce()
