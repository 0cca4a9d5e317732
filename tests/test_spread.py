"""A part of the images per cell: the same pairs however they are computed, and the answers of the whole."""
import numpy as np
import pandas as pd
import pytest
import torch

from wrnb.all import Evaluation, evaluate, limited, load_data, load_model, read_evaluation
from wrnb.core import WrnbError

HOW = dict(attack_names=("fgsm", "pgd"), eps=(4/255, 8/255), severities=(1, 5), families=("noise", "blur"))


@pytest.fixture(scope="module")
def images(): return limited(load_data("digits")[1], 150)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: load_model("digits_net", 10).eval() for name in ("one", "two")}


@pytest.fixture(scope="module")
def part(models, images): return evaluate(models, images, per_cell=30, **HOW)


def answers(evaluation):
    "Every answer: (model, family, perturbation, severity, image) -> wrong"
    cells = evaluation.outcomes.cells
    rows = zip(cells.itertuples(), cells["index"])
    return {(*c[1:5], int(i)): bool(w) for c, idxs in rows for i, w in zip(idxs, c.wrong)}


def test_every_answer_is_that_of_the_whole_measurement(models, images, part):
    whole, some = answers(evaluate(models, images, **HOW)), answers(part)
    assert all(whole[key] == wrong for key, wrong in some.items()) and len(some) < len(whole)/3


def test_the_pairs_depend_on_seed_and_cells_alone(models, images, part):
    turned = HOW | dict(severities=(5, 1), families=("blur", "noise"))
    assert answers(evaluate(models, images, per_cell=30, batch_size=7, **turned)).keys() == answers(part).keys()
    assert answers(evaluate(models, images, per_cell=30, seed=1, **HOW)).keys() != answers(part).keys()


def test_all_attacks_of_a_radius_share_their_images(part):
    cells = part.outcomes.cells
    attacked = cells[cells.family.isin(["white_box", "transfer"])]
    for _, own in attacked.groupby("severity"): assert len({tuple(i) for i in own["index"]}) == 1
    assert part.table[part.table.perturbation == "worst_case"].n.unique() == [30]


def test_every_image_is_used_equally_often(part):
    cells = part.outcomes.cells
    corrupted = cells[(cells.model == "one") & cells.family.isin(["noise", "blur"])]
    uses = np.bincount(np.concatenate(list(corrupted["index"])), minlength=150)
    assert uses.max() - uses.min() <= 1 and (corrupted["index"].map(len) == 30).all()


def test_a_run_folder_gives_the_same_figures_again(models, images, part, tmp_path):
    out = tmp_path/"run"
    kept = evaluate(models, images, per_cell=30, out=out, **HOW)
    assert answers(kept) == answers(part)
    assert answers(read_evaluation(out)) == answers(part)
    assert list(pd.read_parquet(out/"outcomes.parquet")) == ["model", "perturbation", "severity", "index", "wrong"]
    ends = kept.corruption_error()[["error", "low", "high"]]
    np.testing.assert_allclose(part.corruption_error()[["error", "low", "high"]], ends, atol=1e-6)
    with pytest.raises(WrnbError, match="per_cell=30, not 40"): evaluate(models, images, per_cell=40, out=out, **HOW)


def test_rounds_end_when_the_interval_is_narrow_enough(models, images, capsys):
    found = evaluate(models, images, half_width=2, attack_names=(), families="noise")
    e = found.estimate("one")
    assert 50*(e.high - e.low) <= 2 and "wanted ± 2" in capsys.readouterr().out


def test_what_cannot_be_is_refused(models, images):
    cases = {"more than the 150 images": dict(per_cell=151), "design='spred' is not known": dict(design="spred"),
             "half_width=0": dict(half_width=0), "give both": dict(against="one")}
    for words, wrong in cases.items():
        with pytest.raises(WrnbError, match=words): evaluate(models, images, **wrong, **HOW)


def test_a_table_alone_still_has_intervals(part):
    bare = Evaluation(part.table)
    assert bare.corruption_error().low.notna().all()
    with pytest.raises(WrnbError, match="no outcomes"): bare.difference()
