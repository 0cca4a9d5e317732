"""Every figure that a page reports comes from a table that says how it was made: seed, number of images, commit.

The tables are those of benchmarks/ and the run folders of nbs/results/. A commit with `-dirty` names code that
nobody can look up, so no table may have one.
"""
import csv, json
from pathlib import Path

import pytest

from helpers import ROOT

TABLES = sorted((ROOT/"benchmarks").glob("*.csv"))
FOLDERS = sorted(p.parent for p in (ROOT/"nbs").rglob("config.json"))
DRAWN = {"seed", "seed_a", "seeds", "resamples", "repeats"}  # how often, or with which seed, it was measured
COUNTED = {"n", "n_test", "n_train", "n_pool", "per_cell", "images", "repeats"}  # of images or of rounds
PART_OF = dict(  # tables that a script writes with another one: what they were made with is in that one
    disagreement_images="disagreement", evidence_cells="evidence", evidence_passes="evidence",
    evidence_rounds="evidence", weak_samples="weak_samples_overlap", weak_vs_random_errors="weak_vs_random",
    weak_vs_random_order="weak_vs_random")
OTHERS = {  # what others measured or wrote, with their address: in nbs/results and nbs/tutorials
    "field/cifar10.csv", "field/cifar100.csv", "peers/features.csv", "peers/packages.csv", "peers/sources.csv",
    "published.csv", "published_models.csv"}
YET_DIRTY = {"adaptive"}  # to be made anew: take its name out then


def read(path):
    "The rows of a table"
    with open(path, newline="", encoding="utf-8") as f: return list(csv.DictReader(f))


def commits(path): return {row["commit"] for row in read(path)}


def unclean(names):
    "Those of the names of commits that are none, or that have changes nobody committed"
    return [c for c in names if c.endswith("-dirty") or not 7 <= len(c) <= 40 or set(c) - set("0123456789abcdef")]


def lacking(columns):
    "What a table with these columns doesn't say of how it was made"
    asked = dict(commit={"commit"}, seed=DRAWN, n=COUNTED)
    return [name for name, known in asked.items() if not known & set(columns)]


@pytest.mark.parametrize("names, bad", [
    (["2944fcc8d3b1"], []), (["2944fcc8d3b1-dirty"], ["2944fcc8d3b1-dirty"]), ([""], [""]), (["unknown"], ["unknown"]),
    (["2944fcc", "no commit"], ["no commit"])])
def test_what_an_unclean_commit_is(names, bad): assert unclean(names) == bad


def test_what_a_table_can_lack():
    assert lacking(["model", "seed", "n", "commit"]) == lacking(["seeds", "n_test", "commit"]) == []
    assert lacking(["model", "error"]) == ["commit", "seed", "n"]
    assert lacking(["n", "commit"]) == ["seed"]


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_a_table_says_seed_number_and_commit(path):
    whole = ROOT/"benchmarks"/f"{PART_OF.get(path.stem, path.stem)}.csv"
    assert not lacking(read(whole)[0])


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_the_commits_of_a_table_are_clean(path):
    own = [commits(path)] if "commit" in read(path)[0] else []
    dirty = unclean(set().union(*own))
    if path.stem in YET_DIRTY and dirty: pytest.xfail(f"{path.name} is to be made anew: {', '.join(sorted(dirty))}")
    assert not dirty


def of_stages(config):
    "Every commit that a run folder's config.json names, at any depth"
    if isinstance(config, list): return set().union(*map(of_stages, config))
    if not isinstance(config, dict): return set()
    own = {config["commit"]} if isinstance(config.get("commit"), str) else set()
    return own.union(*map(of_stages, config.values()))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_a_run_folder_of_a_page_names_clean_commits_and_its_seed(folder):
    config = json.loads((folder/"config.json").read_text())
    named = of_stages(config)
    assert named and not unclean(named)
    assert '"seed"' in json.dumps(config)


def test_no_table_of_a_page_is_without_a_source():
    "A table lies in a run folder, or has the addresses of others; the tutorial's table is one that you make anew"
    pages = ROOT/"nbs"
    def known(path):
        inside = any(folder in path.parents for folder in FOLDERS)
        return inside or path.relative_to(pages/path.relative_to(pages).parts[0]).as_posix() in OTHERS
    assert not [p for p in pages.rglob("*.csv") if not known(p) and p.name != "reproduce.csv"]
