"""The search for the k weakest and the certificate, through the real command line.

Killed and started again, bad options, what the folder holds.
"""
import signal

import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from helpers import SETUP, has_parts, run_command, strike, tables
from wrnb.cli import main
from wrnb.runs import Run


@pytest.fixture(scope="module")
def score(digits_model): return ["score", "digits", "--model", digits_model, *SETUP]


def test_a_search_killed_between_rounds_ends_with_the_same_bytes(score, tmp_path):
    search, cut, whole = [*score, "--top-k", "20", "--budget", "6000"], tmp_path/"cut", tmp_path/"whole"
    assert main([*search, "--out", str(whole)]) == 0
    p = strike(signal.SIGKILL, has_parts(cut/"parts/score", 4), *search, "--out", cut)
    assert p.returncode == -signal.SIGKILL and not (cut/"scores.parquet").exists()
    kept = list((cut/"parts/score").glob("round-*.parquet"))
    assert kept, "it was struck before its first round"
    assert "top_k" in run_command(*search, "--out", cut)
    assert tables(cut) == tables(whole) and {"scores.parquet", "search.csv"} == set(tables(cut))
    rounds, scores = pd.read_csv(cut/"search.csv"), pd.read_parquet(cut/"scores.parquet")
    assert rounds.forwards.is_monotonic_increasing
    assert rounds.forwards.iloc[-1] == len(scores) + scores.n_neighbors.sum() <= 6000
    assert scores.n_neighbors.min() == 1 and scores.n_neighbors.nunique() > 3
    assert main(["weak", str(cut)]) == 0
    assert len(pd.read_csv(cut/"weak.csv")) == 20


@pytest.mark.parametrize("options, words", [
    ("--top-k 0", "--top-k 0"), ("--top-k 201", "--top-k 201"), ("--recall .9", "--top-k"),
    ("--tolerance .1", "--top-k"), ("--top-k 5 --budget 10", "--budget 10"), ("--top-k 5 --recall 2", "--recall 2"),
    ("--certify", "--noise gaussian"), ("--noise gaussian --certify 1", "--certify 1"),
    ("--noise gaussian --certify --top-k 5", "--top-k")])
def test_bad_options_get_one_line(score, tmp_path, capsys, options, words):
    assert main([*score, *options.split(), "--out", str(tmp_path/"run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wrnb: ") and err.count("\n") == 1
    assert words in err
    assert not Run(tmp_path/"run").record("score"), "a refused stage is not claimed"


def test_a_search_and_a_full_table_do_not_share_a_folder(score, tmp_path, capsys):
    assert main([*score, "--n-neighbors", "1", "--out", str(tmp_path)]) == 0
    assert main([*score, "--n-neighbors", "1", "--top-k", "5", "--out", str(tmp_path)]) == 2
    assert "--top-k None, not 5" in capsys.readouterr().err


def test_certified_radius_is_clopper_and_pearsons_of_the_counts(score, tmp_path):
    gaussian = ["--noise", "gaussian", "--eps", ".2", "--n-neighbors", "60", "--certify"]
    assert main([*score, *gaussian, "--out", str(tmp_path)]) == 0
    t = pd.read_parquet(tmp_path/"scores.parquet")
    assert list(t.columns)[-1] == "radius_l2"
    for n_wrong, radius in t.groupby("n_wrong").radius_l2.first().items():
        low = binomtest(60 - int(n_wrong), 60).proportion_ci(.998, "exact").low
        assert radius == pytest.approx(.2*norm.ppf(low) if low > .5 else 0, abs=1e-9)
    assert t.radius_l2.nunique() > 2
