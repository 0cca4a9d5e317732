"""The scripts behind the result pages, run small: they end, and leave tables of the shape of those that are committed. On real images; skipped where they are missing."""
import os, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path(os.environ.get("WRNB_RESNET20", "")).absolute()
CIFAR10 = Path(os.environ.get("FASTAI_HOME", "~/.fastai")).expanduser()/"data/cifar10"
pytestmark = [pytest.mark.skipif(not CHECKPOINT.is_file(), reason="WRNB_RESNET20 names no checkpoint"), pytest.mark.skipif(not CIFAR10.is_dir(), reason="CIFAR-10 is not in fastai's data folder")]
MODELS = ["--models", *(f"{m}=resnet20@{CHECKPOINT}" for m in ("base", "augmix", "reva", "adversarial"))]
SMALL = ["--limit", "150", "--test-limit", "20"]


def run(folder, name, *argv):
    "Run a script small; returns its tables and those that are committed"
    table = folder/f"{name}.csv"
    done = subprocess.run([sys.executable, ROOT/"benchmarks"/f"{name}.py", *map(str, argv), "--csv", table], capture_output=True, text=True, timeout=540, env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    names = [p.name for p in sorted((ROOT/"benchmarks").glob(f"{name}*.csv"))]
    assert names and names == sorted(p.name for p in folder.glob(f"{name}*.csv"))
    return [tuple(pd.read_csv(d/n) for d in (folder, ROOT/"benchmarks")) for n in names]


def test_weak_samples_and_weak_against_random(tmp_path):
    "The second script reads the scores that the first one kept"
    keep = ["--keep", tmp_path/"kept"]
    for ours, committed in run(tmp_path, "weak_vs_random", *MODELS, *SMALL, *keep, "--k", 3, 10, "--seeds", 0, "--eps", .05, .02, .1, "--neighbors", 4, "--resamples", 8):
        assert list(ours.columns) == list(committed.columns) and len(ours)
        for c in ("source", "perturbation", "model", "first"):
            if c in ours: assert set(ours[c]) == set(committed[c])
    for ours, committed in run(tmp_path, "weak_samples", *MODELS, *SMALL, *keep, "--k", 10):
        assert list(ours.columns) == list(committed.columns) and len(ours)
    assert len(pd.read_csv(tmp_path/"weak_samples.csv")) == 150
