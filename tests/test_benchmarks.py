"""The scripts and commands behind the result pages, run small: they end, and leave tables shaped as the committed ones.

On real images; skipped if they are missing.
"""
import json, os, re, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

from helpers import CHECKPOINT, ENV, IMAGENETTE, ROOT, needs_checkpoint, needs_cifar10, needs_imagenette

pytestmark = [needs_checkpoint, needs_cifar10, needs_imagenette]
WITH_COMMANDS = ENV | dict(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
MODELS = ["--models", *(f"{m}=resnet20@{CHECKPOINT}" for m in ("base", "augmix", "reva", "adversarial"))]
SMALL = ["--limit", "150", "--test-limit", "20"]


def run(folder, name, *argv):
    "Run a script small; returns its tables and those that are committed"
    command = [sys.executable, ROOT/"benchmarks"/f"{name}.py", *map(str, argv), "--csv", folder/f"{name}.csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=WITH_COMMANDS)
    assert done.returncode == 0, done.stderr
    names = [p.name for p in sorted((ROOT/"benchmarks").glob(f"{name}*.csv"))]
    assert names and names == sorted(p.name for p in folder.glob(f"{name}*.csv"))
    return [tuple(pd.read_csv(d/n) for d in (folder, ROOT/"benchmarks")) for n in names]


def test_weak_samples_and_weak_against_random(tmp_path):
    "The second script reads the scores that the first one kept"
    keep = ["--keep", tmp_path/"kept"]
    few = ["--k", 3, 10, "--seeds", 0, "--eps", .05, .02, .1, "--neighbors", 4, "--resamples", 8]
    for ours, committed in run(tmp_path, "weak_vs_random", *MODELS, *SMALL, *keep, *few):
        assert list(ours.columns) == list(committed.columns) and len(ours)
        for c in {"source", "perturbation", "model", "first"} & set(ours): assert set(ours[c]) == set(committed[c])
    for ours, committed in run(tmp_path, "weak_samples", *MODELS, *SMALL, *keep, "--k", 10):
        assert list(ours.columns) == list(committed.columns) and len(ours)
    assert len(pd.read_csv(tmp_path/"weak_samples.csv")) == 150


def commands(page, start):
    "The block of shell commands of a result page that begins so"
    cells = json.loads((ROOT/"nbs"/"results"/f"{page}.ipynb").read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    blocks = [block for text in texts for block in re.findall(r"```sh\n(.*?)```", text, re.S)]
    return next(block for block in blocks if block.startswith(start))


SMALLER = dict(  # page -> how its commands begin, its committed tables, and what is made smaller
    cifar10=("R=", "cifar10/20k/0", {
        "--limit 20000": "--limit 150", "--test-limit 1000": "--test-limit 20", "--top-k 500": "--top-k 10",
        "--budget 240000": "--budget 900", "--epochs 5": "--epochs 1"}),
    imagenet=("P=", "imagenet", {
        "IMAGENETTE": str(IMAGENETTE), "--limit 2500": "--limit 20", "--test-limit 1500": "--test-limit 6",
        "-k 250": "-k 4", "--n-neighbors 20": "--n-neighbors 2", " --compile": "", "--bs 64": "--bs 10"}))
KEY = ["subset", "model", "family", "perturbation", "severity"]


@pytest.mark.parametrize("page", SMALLER)
def test_the_commands_of_a_page(page, tmp_path):
    "As they stand there, with smaller numbers"
    start, committed_at, smaller = SMALLER[page]
    text = commands(page, start)
    for old, new in smaller.items():
        assert old in text, f"{page} has no {old} any more"
        text = text.replace(old, new)
    (tmp_path/"resnet20-cifar10.th").symlink_to(CHECKPOINT)
    shell = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=WITH_COMMANDS)
    assert done.returncode == 0, done.stderr
    folders = next((tmp_path/"runs").iterdir()), ROOT/"nbs"/"results"/committed_at
    for name in ("validation.csv", "evaluation.csv"):
        if not (folders[1]/name).is_file(): continue
        ours, committed = (pd.read_csv(folder/name) for folder in folders)
        assert list(ours.columns) == list(committed.columns)
        committed = committed[committed.model.isin(ours.model.unique())]
        assert set(map(tuple, ours[KEY].to_numpy())) >= set(map(tuple, committed[KEY].to_numpy()))
