"""The scripts and commands behind the result pages, run small: they end, and leave tables shaped as the committed ones.

On real images; skipped if they are missing.
"""
import gzip, json, os, re, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import (
    CHECKPOINT, DATA, ENV, IMAGENETTE, ROOT, needs_checkpoint, needs_cifar10, needs_imagenette,
    run_command)
from wrnb.folders import load_data
from wrnb.models import save_weights
from wrnb.pretrained import load_model

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


def test_evidence_and_what_scores_are_good_for(tmp_path):
    "The second script reads the outcomes that the first one kept"
    models = [f"cifar10:{name}=resnet20@{CHECKPOINT}" for name in ("resnet20", "pgd")]
    few = ["--models", *models, "--test-limit", 40, "--resamples", 2, "--keep", tmp_path/"kept"]
    for ours, committed in run(tmp_path, "evidence", *few, "--per-cell", 10, 20):
        assert list(ours.columns) == list(committed.columns) and len(ours)
        assert set(ours.model) <= set(committed.model)
    for ours, committed in run(tmp_path, "indicator", *few, "--per-cell", 10, "--n-neighbors", 3):
        assert list(ours.columns) == list(committed.columns) and len(ours)
        assert set(ours.model) == set(committed.model)


def test_what_people_say(tmp_path):
    "On a part of the images, with labels made up"
    score = ["score", "cifar10", "--model", f"resnet20@{CHECKPOINT}", "--limit", "200"]
    few = ["--n-neighbors", "4", "--eps", "0.1", "--test-limit", "10"]
    run_command(*score, *few, "--out", tmp_path/"run")
    ds, rng = load_data("cifar10", test_limit=1)[0], np.random.default_rng(0)
    with gzip.open(tmp_path/"order.txt.gz", "wt") as f:
        f.writelines(f"{name.partition('/')[2]}\n" for name in ds.ids)
    said = {f"random_label{i}": np.where(rng.random(len(ds)) < .3, 0, ds.labels) for i in (1, 2, 3)}
    np.savez(tmp_path/"said.npz", clean_label=ds.labels, aggre_label=said["random_label1"], **said)
    asked = ["--run", tmp_path/"run", "--model", f"resnet20@{CHECKPOINT}", "--resamples", "3"]
    labels = ["--labels", tmp_path/"said.npz", "--order", tmp_path/"order.txt.gz"]
    for ours, committed in run(tmp_path, "disagreement", *asked, *labels):
        assert list(ours.columns) == list(committed.columns) and len(ours)


def test_three_codes_of_autoattack(tmp_path):
    "On the published model alone, which is fooled at once"
    models = ["--checkpoint", CHECKPOINT, "--robust", CHECKPOINT, "--out", tmp_path/"kept"]
    (ours, committed), = run(tmp_path, "autoattack", *models, "--n", 4, "--seeds", 0)
    assert list(ours.columns) == list(committed.columns)
    assert set(ours.code) == set(committed.code) and ours.error.max() == 1
    assert set(ours.model) == set(committed.model) == {"published", "robust"}


def commands(page, start):
    "The block of shell commands of a result page that begins so"
    cells = json.loads((ROOT/"nbs"/"results"/f"{page}.ipynb").read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    blocks = [block for text in texts for block in re.findall(r"```sh\n(.*?)```", text, re.S)]
    return next(block for block in blocks if block.startswith(start))


MADE_SMALL = dict(  # scripts that time or try attacks and corruptions -> their options
    attacks=[CHECKPOINT, "--n", 4, "--repeats", 1, "--batch-size", 4],
    sanity=["--checkpoint", CHECKPOINT, "--robust", CHECKPOINT, "--n", 4, "--few", 4, "--eps", 8],
    corruptions=["--sizes", 32, "--threads", 1, "--n", 1])


@pytest.mark.parametrize("name", MADE_SMALL)
def test_attacks_and_corruptions(tmp_path, name):
    keep = ["--keep", tmp_path/"kept"] if name == "sanity" else []
    for ours, committed in run(tmp_path, name, *MADE_SMALL[name], *keep):
        assert list(ours.columns) == list(committed.columns) and len(ours)


SMALLER = {  # page -> how its commands begin, committed folders with the run folders they keep, what is made smaller
    "cifar10": ("wrnb evaluate", {"cifar10/corruptions": "corruptions"}, {"--test-limit 2000": "--test-limit 20"}),
    "weak_vs_random": ("R=", {}, {
        "--limit 20000": "--limit 150", "--test-limit 1000": "--test-limit 20", "--top-k 500": "--top-k 10",
        "--budget 240000": "--budget 900", "--epochs 5": "--epochs 1"}),
    "imagenet": ("P=", {"imagenet": "imagenette", "imagenet/bar": "bar"}, {
        "IMAGENETTE": str(IMAGENETTE), "--limit 1000": "--limit 20", "--test-limit 1500": "--test-limit 10",
        "--select 200": "--select 2", "-k 100": "-k 4", "--n-neighbors 10": "--n-neighbors 2", " --compile": "",
        "--per-cell 40": "--per-cell 2", "--per-cell 60": "--per-cell 2"})}
KEY = ["subset", "model", "family", "perturbation", "severity"]


@pytest.mark.parametrize("page", SMALLER)
def test_the_commands_of_a_page(page, tmp_path):
    "As they stand there, with smaller numbers"
    start, kept, smaller = SMALLER[page]
    text = commands(page, start)
    for old, new in smaller.items():
        assert old in text, f"{page} has no {old} any more"
        text = text.replace(old, new)
    (tmp_path/"resnet20-cifar10.th").symlink_to(CHECKPOINT)
    shell = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=900, env=WITH_COMMANDS)
    assert done.returncode == 0, done.stderr
    for committed_at, ours in kept.items():
        check_same_cells(tmp_path/"runs"/ours, ROOT/"nbs"/"results"/committed_at)


def check_same_cells(folder, committed_at):
    "The tables of a run folder have the committed ones' columns, and their cells for the models that both have"
    for name in ("validation.csv", "evaluation.csv"):
        if not (committed_at/name).is_file(): continue
        ours, committed = (pd.read_csv(at/name) for at in (folder, committed_at))
        assert list(ours.columns) == list(committed.columns)
        committed = committed[committed.model.isin(ours.model.unique())]
        assert set(map(tuple, ours[KEY].to_numpy())) >= set(map(tuple, committed[KEY].to_numpy()))


def test_the_thousand_class_section(tmp_path, monkeypatch):
    "Its code as it stands there, on a few images; the network answers with all thousand classes"
    cells = json.loads((ROOT/"nbs"/"results"/"imagenet.ipynb").read_text())["cells"]
    code = next("".join(c["source"]) for c in cells if "classes=list(WNIDS)" in "".join(c["source"]))
    for old, new in (("list(WNIDS))", "list(WNIDS), limit=6)"), ("per_cell=40", "per_cell=2")):
        assert old in code
        code = code.replace(old, new)
    code = code.replace("Path.home()/\".fastai/data/imagenette-sample\"", f"Path({str(IMAGENETTE)!r})")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="no pictures of 99. of the 1000 classes"): exec(code, names := {})
    assert len(names["val"].classes) == 1000 and names["whole"].kind == "ImageNet-C"
    check_same_cells(tmp_path/"runs"/"thousand", ROOT/"nbs"/"results"/"imagenet"/"thousand")


def gpu(*argv, **more):
    "Run a step of gpu.sh with little work"
    little = dict(IMAGES="40", NEIGHBORS="2", MODEL="resnet20", BATCH="20", NO_COMPILE="1", LIMIT="40", EPOCHS="1")
    env = WITH_COMMANDS | little | dict(PYTHON=sys.executable) | more
    command = ["bash", ROOT/"benchmarks"/"gpu.sh", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_gpu_is_asked_to_time(tmp_path):
    "On the processor: every row that the page needs, with the device's name"
    gpu("time", tmp_path)
    t = pd.read_csv(tmp_path/"gpu.csv")
    scoring = t[t.part == "scoring"]
    assert set(scoring.precision) == {"fp32", "bf16"} and len(t) == len(scoring) + 15 + 10
    assert (t.seconds > 0).all() and t.device.nunique() == 1


def test_the_images_travel_unchanged(tmp_path):
    "Packed in parts of a size that a machine takes, and unpacked to the same pixels"
    script, parts = ROOT/"benchmarks"/"gpu.py", tmp_path/"parts"
    pack = [sys.executable, script, "pack", "--out", parts, "--limit", "1000", "--part-mib", "1"]
    subprocess.run(pack, check=True, capture_output=True, timeout=540, env=WITH_COMMANDS)
    sizes = [sum(f.stat().st_size for f in part.glob("*.webp")) for part in parts.iterdir()]
    assert len(sizes) > 1 and max(sizes) <= 2**20
    gpu("unpack", parts, DATA=str(tmp_path))
    made, originals = (sorted((d/"cifar10").rglob("*.png")) for d in (tmp_path, DATA))
    names = {f.relative_to(DATA) for f in originals}
    assert len(made) == 2000 and {f.relative_to(tmp_path) for f in made} <= names
    for f in made[::101]:
        ours, theirs = (np.asarray(Image.open(p).convert("RGB")) for p in (f, DATA/f.relative_to(tmp_path)))
        assert (ours == theirs).all()


def test_a_loop_on_a_gpu(tmp_path):
    "The whole loop within a time limit leaves its tables"
    gpu("train", tmp_path, DATASET="digits", MODEL="digits_net")
    assert {"config.json", "evaluation.csv", "report.html"} <= {p.name for p in tmp_path.iterdir()}


SHORT = "--limit 80 --test-limit 30 --epochs 1 --seeds 0 1 --severities 3 --neighbors 2".split()


def test_attacks_on_fine_tuned_models(tmp_path):
    "What is kept is the base itself, so that it is as wrong as the base, image by image"
    net = load_model(f"resnet20@{CHECKPOINT}", 10)
    for folder in ("resnet20-reva-extra-0/reva", "resnet20-prime-0/prime"):
        (tmp_path/"kept"/folder).mkdir(parents=True)
        save_weights(net, tmp_path/"kept"/folder/"model.safetensors")
    table = ROOT/"benchmarks"/"cifar10_full.csv"
    kept = ["--models", Path(CHECKPOINT).parent, "--keep", tmp_path/"kept", "--table", table]
    (ours, committed), = run(tmp_path, "tuned_attacks", *kept, "--n", 4, "--test-limit", 60)
    assert list(ours.columns) == list(committed.columns) and len(ours) == 6
    assert set(ours.attack) == set(committed.attack) == {"PGD-10", "AutoAttack"}
    assert ours.n_wrong.nunique() == 1 and (ours.to_base.dropna() == 0).all()


@pytest.mark.parametrize("name, cases", [("guided", []), ("recipe", ["--only", "reva", "no attack", "half weak"])])
def test_what_guides_and_what_the_pieces_are_worth(tmp_path, name, cases):
    "A row for each case, figure and what it is compared with; the means are those of the cells"
    for ours, committed in run(tmp_path, name, *SHORT, *cases):
        assert list(ours.columns) == list(committed.columns) and len(ours)
    figures, cells = (pd.read_csv(tmp_path/f"{name}{end}.csv", keep_default_na=False) for end in ("", "_cells"))
    noise = cells[(cells.model == "base") & (cells.family == "c-bar")]
    bar = figures[(figures.case == "base") & (figures.against == "") & (figures.figure == "C-bar")]
    assert np.isclose(100*noise.error.mean(), bar.value).all() and (figures.seeds == 2).all()
    others = dict(guided={"uniform", "uniform, alpha 1"}, recipe={"reva"})
    assert set(figures.against) == {"", "base"} | others[name]


def test_without_the_step_back_the_same_training_is_measured(tmp_path):
    "Trained once, measured at both ends of the step; a case without the step back is compared with its like"
    list(run(tmp_path, "recipe", *SHORT, "--only", "reva", "reva, alpha 1", "standard", "--keep", tmp_path/"runs"))
    t = pd.read_csv(tmp_path/"recipe.csv", keep_default_na=False)
    assert (t[t.case == "reva, alpha 1"].alpha.astype(float) == 1).all()
    assert set(t[t.case == "reva, alpha 1"].against) == {"", "base", "reva"}
    folders = sorted(p.name for p in (tmp_path/"runs").glob("digits_net-[rs]*"))
    assert folders == [f"digits_net-{case}-{seed}" for case in ("reva", "standard") for seed in (0, 1)]
