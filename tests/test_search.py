"""The search for the k weakest and the certificate, through the real command line.

Killed and started again, bad options, what the folder holds."""
import signal

import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from test_loop import SETUP, has_parts, strike, tables, wrnb_
from wrnb.cli import main
from wrnb.runs import Run
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.training import train
from wrnb.data import load_data


def plain(line):
    "A message without the marks of an option or an argument: --top-k 5 and top_k=5 are top_k 5"
    return line.replace("--", "").replace("top-k", "top_k").replace("= ", " ").replace("=", " ")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A classifier of digits with a checkpoint, and the command that scores with it"
    path = tmp_path_factory.mktemp("model")/"digits.safetensors"
    learn = train(load_model("digits_net", 10), *load_data("digits"), epochs=5, lr=.2, bs=64)
    save_weights(learn.model, path)
    return ["score", "digits", "--model", f"digits_net@{path}", *SETUP]


def test_a_search_killed_between_rounds_ends_with_the_same_bytes(model, tmp_path):
    search = [*model, "--top-k", "20", "--budget", "6000"]
    assert main([*map(str, search), "--out", str(tmp_path/"whole")]) == 0
    p = strike(signal.SIGKILL, has_parts(tmp_path/"cut/parts/score", 4), *search, "--out", tmp_path/"cut")
    assert p.returncode == -signal.SIGKILL and not (tmp_path/"cut/scores.parquet").exists()
    kept = [f.name for f in (tmp_path/"cut/parts/score").glob("round-*.parquet")]
    assert kept, "it was struck before its first round"
    said = wrnb_(*search, "--out", tmp_path/"cut")
    assert "top_k" in said
    cut = tables(tmp_path/"cut")
    assert cut == tables(tmp_path/"whole") and {"scores.parquet", "search.csv"} == set(cut)
    rounds, scores = pd.read_csv(tmp_path/"cut/search.csv"), pd.read_parquet(tmp_path/"cut/scores.parquet")
    spent = len(scores) + scores.n_neighbors.sum()
    assert rounds.forwards.is_monotonic_increasing and rounds.forwards.iloc[-1] == spent <= 6000
    assert scores.n_neighbors.min() == 1 and scores.n_neighbors.nunique() > 3
    assert main(["weak", str(tmp_path/"cut")]) == 0
    assert len(pd.read_csv(tmp_path/"cut/weak.csv")) == 20


@pytest.mark.parametrize("options, words", [
    ("--top-k 0", "top_k 0 is out of range"),
    ("--top-k 201", "top_k 201 is out of range"),
    ("--recall .9", "give top_k with it"),
    ("--tolerance .1", "give top_k with it"),
    ("--top-k 5 --budget 10", "budget 10 is out of range"),
    ("--top-k 5 --recall 2", "recall 2"),
    ("--certify", "certify needs noise gaussian"),
    ("--noise gaussian --certify 1", "certify 1"),
    ("--noise gaussian --certify --top-k 5", "leave out top_k")])
def test_bad_options_get_one_line(model, tmp_path, capsys, options, words):
    assert main([*model, *options.split(), "--out", str(tmp_path/"run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wrnb: ") and err.count("\n") == 1
    assert words in plain(err)
    assert "score" not in Run(tmp_path/"run").config["stages"], "a refused stage is not claimed"


def test_a_search_and_a_full_table_do_not_share_a_folder(model, tmp_path, capsys):
    assert main([*model, "--n-neighbors", "1", "--out", str(tmp_path)]) == 0
    assert main([*model, "--n-neighbors", "1", "--top-k", "5", "--out", str(tmp_path)]) == 2
    assert "top_k None, not 5" in plain(capsys.readouterr().err)


def test_certified_radius_is_clopper_and_pearsons_of_the_counts(model, tmp_path):
    certify = "--noise gaussian --eps .2 --n-neighbors 60 --certify --out".split()
    assert main([*model, *certify, str(tmp_path)]) == 0
    t = pd.read_parquet(tmp_path/"scores.parquet")
    assert list(t.columns)[-1] == "radius_l2"
    for n_wrong, radius in t.groupby("n_wrong").radius_l2.first().items():
        low = binomtest(60 - int(n_wrong), 60).proportion_ci(.998, "exact").low
        assert radius == pytest.approx(.2*norm.ppf(low) if low > .5 else 0, abs=1e-9)
    assert t.radius_l2.nunique() > 2
