"""The scripts and commands behind the result pages, run small: they end, and leave tables of the shape of those that are committed. On real images; skipped where they are missing."""
import json, os, re, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path(os.environ.get("WRNB_RESNET20", "")).absolute()
DATA = Path(os.environ.get("FASTAI_HOME", "~/.fastai")).expanduser()/"data"
pytestmark = [pytest.mark.skipif(not CHECKPOINT.is_file(), reason="WRNB_RESNET20 names no checkpoint"), pytest.mark.skipif(not (DATA/"cifar10").is_dir(), reason="CIFAR-10 is not in fastai's data folder"),
              pytest.mark.skipif(not (DATA/"imagenette-sample").is_dir(), reason="the sample of Imagenette is not in fastai's data folder")]
ENV = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
MODELS = ["--models", *(f"{m}=resnet20@{CHECKPOINT}" for m in ("base", "augmix", "reva", "adversarial"))]
SMALL = ["--limit", "150", "--test-limit", "20"]


def run(folder, name, *argv):
    "Run a script small; returns its tables and those that are committed"
    table = folder/f"{name}.csv"
    done = subprocess.run([sys.executable, ROOT/"benchmarks"/f"{name}.py", *map(str, argv), "--csv", table], capture_output=True, text=True, timeout=540, env=ENV)
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


def commands(page, begins):
    "The block of shell commands of a result page that begins so"
    cells = json.loads((ROOT/"nbs"/"results"/f"{page}.ipynb").read_text())["cells"]
    blocks = [b for c in cells if c["cell_type"] == "markdown" for b in re.findall(r"```sh\n(.*?)```", "".join(c["source"]), re.S)]
    return next(b for b in blocks if b.startswith(begins))


@pytest.mark.parametrize("page, begins, table, small", [
    ("cifar10", "R=", "cifar10/20k/0", {"--limit 20000": "--limit 150", "--test-limit 1000": "--test-limit 20", "--top-k 500": "--top-k 10", "--budget 240000": "--budget 900", "--epochs 5": "--epochs 1"}),
    ("imagenet", "P=", "imagenet", {"IMAGENETTE": str(DATA/"imagenette-sample"), "--limit 2500": "--limit 20", "--test-limit 1500": "--test-limit 6", "-k 250": "-k 4", "--n-neighbors 20": "--n-neighbors 2", " --compile": "", "--bs 64": "--bs 10"}),
])
def test_the_commands_of_a_page(page, begins, table, small, tmp_path):
    "As they stand there, with smaller numbers"
    text = commands(page, begins)
    for old, new in small.items():
        assert old in text, f"{page} has no {old} any more"
        text = text.replace(old, new)
    (tmp_path/"resnet20-cifar10.th").symlink_to(CHECKPOINT)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=900, env=ENV)
    assert done.returncode == 0, done.stderr
    run = next((tmp_path/"runs").iterdir())
    for name in ("validation.csv", "evaluation.csv"):
        if not (ROOT/"nbs"/"results"/table/name).is_file(): continue
        ours, committed = (pd.read_csv(d/name) for d in (run, ROOT/"nbs"/"results"/table))
        key = ["subset", "model", "family", "perturbation", "severity"]
        assert list(ours.columns) == list(committed.columns)
        committed = committed[committed.model.isin(ours.model.unique())]
        assert set(map(tuple, ours[key].to_numpy())) >= set(map(tuple, committed[key].to_numpy()))
