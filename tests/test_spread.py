"""A part of the images per cell: the same pairs however they are computed, and the answers of the whole."""
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import SETUP, complaint, has_parts, run_command, same_bytes, strike
import wrnb.measurement
from wrnb.all import (
    Evaluation, attacks, corruptions, evaluate, limited, load_data, load_model, read_evaluation,
    validate)
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.measurement import Clean

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


# --- as commands: validation, killed and started again --------------------------------------------

PART = ["--data", "digits", *SETUP, "--attacks", "pgd", "--attack-eps", "8"]
KEPT = "evaluation.csv", "outcomes.parquet", "images.parquet"
ROUNDS = {"--per-cell": ["20"], "--half-width": ["1.2", "--per-cell", "10"]}


def test_validation_deals_each_subset_to_the_perturbations(models, images):
    kinds = [Clean(), *corruptions(["noise", "blur"], (1, 5)), *attacks(["fgsm", "pgd"], [8/255])]
    def table(**how):
        return validate(models["one"], range(0, 120, 3), images, images, kinds, **how).table
    some, whole, again = table(per_cell=13), table(), table(per_cell=13, batch_size=5)
    assert (some.n == np.where(some.family == "clean", 40, 13)).all()
    pd.testing.assert_frame_equal(some, again)
    assert (some.n_wrong <= whole.n_wrong).all()  # the same pictures, fewer of them
    pd.testing.assert_frame_equal(table(per_cell=40), whole)
    assert not table(per_cell=13, seed=1).n_wrong.equals(some.n_wrong)


def test_the_commands_option_reaches_validation(digits_model, tmp_path, capsys):
    run = ["validate", tmp_path/"run", "--families", "noise", "--severities", "5", "--attacks"]
    score = ["score", "digits", "--model", digits_model, *SETUP, "--n-neighbors", "10"]
    run_command(*score, "--out", tmp_path/"run")
    run_command("weak", tmp_path/"run", "-k", "20")
    run_command(*run, "--per-cell", "6")
    t = pd.read_csv(tmp_path/"run"/"validation.csv")
    assert set(t.n[t.family == "noise"]) == {6} and set(t.n[t.family == "clean"]) == {20}
    assert "made with validate --per-cell 6, not None" in complaint(capsys, *run)


@pytest.mark.parametrize("option, second", [("--per-cell", False), ("--half-width", True)])
def test_a_part_killed_leaves_the_same_bytes(option, second, digits_model, tmp_path):
    "Killed in the first round, and, if there are rounds, in the second one"
    command = ["--model", digits_model, *PART, option, *ROUNDS[option]]
    assert main(["evaluate", str(tmp_path/"whole"), *command]) == 0
    parts = tmp_path/"cut/parts/evaluate"
    rounds = [has_parts(parts, 10)] + [lambda: any(parts.glob("outcomes-*-[1-5]-*.parquet"))]*second
    for ready in rounds:
        process = strike(signal.SIGKILL, ready, "evaluate", tmp_path/"cut", *command)
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path/"cut/evaluation.csv").exists()
    run_command("evaluate", tmp_path/"cut", *command)
    for name in KEPT: assert same_bytes(name, tmp_path/"cut", tmp_path/"whole"), name
    n = read_evaluation(tmp_path/"cut").outcomes.per_cell
    assert n > 10 if second else n == 20


# --- what a check asked is not asked again ---------------------------------------------------------

@pytest.fixture
def asked(monkeypatch):
    "How many corrupted or attacked images each model is asked about"
    counts, really = {}, wrnb.measurement._is_wrong
    def counted(model, x, y, name, ids=None):
        counts[name] = counts.get(name, 0) + len(y)
        return really(model, x, y, name, ids)
    monkeypatch.setattr(wrnb.measurement, "_is_wrong", counted)
    return counts


def test_answers_to_the_same_pictures_are_taken_over(models, images, asked, tmp_path):
    how = dict(severities=(1, 5), attack_names=(), per_cell=30)
    evaluate(dict(alone=models["one"]), images, out=tmp_path/"check", **how)
    asked.clear()
    fresh = evaluate(models, images, **how)
    assert asked == dict(one=900, two=900)  # 30 cells of 30 images, without the clean ones
    asked.clear()
    reused = evaluate(models, images, answers=tmp_path/"check", **how)
    assert asked == dict(two=900)
    pd.testing.assert_frame_equal(reused.table, fresh.table)
    for other in (dict(seed=1), dict(per_cell=31), dict(precision="bf16")):
        asked.clear()
        evaluate(models, images, answers=tmp_path/"check", **how | other)
        assert asked["one"] == asked["two"], other
    swapped = evaluate(dict(alone=models["two"]), images, answers=tmp_path/"check", **how)
    two = fresh.table[fresh.table.model == "two"].reset_index(drop=True)
    # a name says nothing, weights do
    pd.testing.assert_frame_equal(swapped.table.assign(model="two"), two)


def test_an_evaluation_continues_from_a_check(digits_model, asked, tmp_path, capsys):
    setup = ["digits", "--model", digits_model, *SETUP]
    assert main(["check", *setup, "-n", "20", "--out", str(tmp_path/"run")]) == 0
    asked.clear()
    assert main(["evaluate", str(tmp_path/"run"), "--per-cell", "20", "--attacks"]) == 0
    assert asked == {} and len(read_evaluation(tmp_path/"run").outcomes.cells) == 76
