"""What the design promises, through the real command line: killed and started again, bad input, tables, the page.

One base is trained once; what is killed or interrupted is a process of its own, bad input goes through `wrnb.cli.main`.
"""
import json, os, pickle, re, shutil, signal, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import wrnb.folders, wrnb.neighbors, wrnb.scoring
from helpers import SETUP, complaint, cut, has_parts, pictures, run_command, same_bytes, spoil, start, strike, tables
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.runs import Run
from wrnb.models import save_weights
from wrnb.pretrained import load_model

MEASURE = ["--severities", "1", "5", "--attacks", "fgsm", "pgd", "--attack-eps", "8"]
SMALL = ["--n-neighbors", "10", "-k", "20", "--epochs", "3", "--base-epochs", "25", "--strategies", "reva"]
RUN = [*SETUP, *SMALL, *MEASURE]
STAGES = ("base", "score", "weak", "validate", "enhance reva", "evaluate")
MADE = {"validate": ["validation.csv", "weaknesses.json"], "evaluate": ["evaluation.csv"], "score": ["scores.parquet"],
        "enhance reva": ["reva/log.csv", "reva/model.safetensors"]}  # the files of a stage


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module")
def printed(home):
    "What the whole loop prints"
    return run_command("run", "digits", "--out", home/"base", *RUN)


@pytest.fixture(scope="module")
def base(home, printed):
    "A run folder in which the whole loop was done, on a part of the digits"
    return home/"base"


@pytest.fixture(scope="module")
def model(base): return f"digits_net@{base}/base/model.safetensors"


@pytest.fixture
def copy(base, tmp_path):
    "A copy of the run folder, in which a stage can be undone"
    run = Run(shutil.copytree(base, tmp_path/"copy"))
    def undo(stage):
        run.drop(stage, undone=True)
        for name in MADE[stage]: (run/name).unlink()
        return run.path
    return undo


# --- the loop -------------------------------------------------------------------------------------

MEASURED = "subset model family perturbation severity n n_wrong error low high".split()
SCORED = "index id label pred clean_correct n_neighbors n_wrong score score_low score_high".split()


def test_scores_have_the_columns_of_the_contract(base):
    t = pd.read_parquet(base/"scores.parquet")
    assert list(t) == SCORED
    assert t["index"].tolist() == list(range(200)) and t.id.is_unique and (t.n_neighbors == 10).all()
    assert (t.clean_correct == (t.pred == t.label)).all() and t.n_wrong.between(0, 10).all()
    assert (0 <= t.score_low).all() and (t.score_high <= 1).all()
    assert ((t.score_low <= t.score) & (t.score <= t.score_high)).all()


def test_weak_images_are_the_best_of_the_scores(base):
    scores, weak = pd.read_parquet(base/"scores.parquet"), pd.read_csv(base/"weak.csv")
    assert list(weak) == "rank index id label score".split()
    best = scores[scores.clean_correct].sort_values("score", ascending=False, kind="stable").head(20)
    assert weak["index"].tolist() == best["index"].tolist() and weak.id.tolist() == best.id.tolist()


def test_measurements_have_the_columns_of_the_contract(base):
    validation, evaluation = (pd.read_csv(base/f"{name}.csv") for name in ("validation", "evaluation"))
    assert list(validation) == list(evaluation) == MEASURED
    assert set(validation.subset) == {"weak", "random", "test"} and (validation.n == 20).all()
    assert set(evaluation.model) == {"base", "reva"} and (evaluation.n == 60).all()
    for t in (validation, evaluation): np.testing.assert_allclose(t.error, t.n_wrong/t.n, rtol=1e-5)


def test_other_files_are_those_of_the_contract(base):
    assert pd.read_csv(base/"reva/log.csv").epoch.tolist() == [1, 2, 3]
    types = json.loads((base/"weaknesses.json").read_text())
    assert {"rule", "weaknesses", "strengths"} <= set(types) and types["weaknesses"]
    assert not [p for p in base.rglob("*") if p.suffix in (".pkl", ".pt", ".pth")]


def test_the_run_is_recorded_in_the_config(base):
    stages = json.loads((base/"config.json").read_text())["stages"]
    setup = dict(data="digits", model="digits_net", size=None, limit=200, test_limit=60, seed=0)
    assert stages["setup"]["options"].items() >= setup.items()
    for stage in STAGES:
        s = stages[stage]
        assert s["started"] <= s["finished"] and {"versions", "device", "commit", "options"} <= set(s), stage
    assert {"eps", "n_neighbors", "noise", "seed", "data", "model"} <= set(stages["score"]["options"])


def test_the_page_says_what_was_used(base):
    "What else holds for a page is in test_report.py"
    page = (base/"report.html").read_text(encoding="utf-8")
    assert "Only a part of the data was used: 200 training and 60 test images." in page
    assert "digits_net and 1 fine-tuned copy of it were measured on 60 images of digits" in page
    assert {"heat-base.png", "heat-best.png", "scores.png"} <= {p.name for p in (base/"figures").iterdir()}


def test_the_summary_ends_with_the_table_and_the_page(base, printed):
    lines = printed.strip().splitlines()
    assert lines[-1] == str(base/"report.html")
    assert lines[lines.index("Errors in percent on 60 test images:")+1].split() == ["model", "base", "reva"]


def test_a_done_command_says_so_and_changes_no_table(base, capsys):
    before = tables(base)
    assert main(["run", "digits", "--out", str(base), *RUN]) == 0
    out, err = capsys.readouterr()
    for stage in STAGES: assert f"{stage}: done already, see {base}" in out
    assert err == "" and tables(base) == before


def test_auto_is_the_precision_of_the_scores_alone(tmp_path):
    command = ["run", "digits", "--out", tmp_path/"auto", *RUN, "--precision", "auto"]
    assert "precision: " in run_command(*command)
    assert "precision: " not in run_command(*command)  # is done: nothing is measured again
    run = Run(tmp_path/"auto")
    record = run.record("score")
    chosen = record["options"]["precision"]
    assert chosen in ("fp32", "bf16") and record["precision_check"].startswith(f"{chosen}: bf16 is")
    assert {run.options(stage)["precision"] for stage in ("validate", "enhance reva", "evaluate")} == {"fp32"}


# --- killed, and started again --------------------------------------------------------------------

@pytest.fixture(scope="module")
def scored(home, model):
    "Command and folder of an undisturbed `wrnb score` of eight blocks"
    command = ["score", "digits", "--model", model, "--limit", "1000", "--n-neighbors", "60", "--out"]
    run_command(*command, home/"scored")
    return command, home/"scored"


def blocks(parts): return list(parts.glob("0*.parquet"))


def test_score_killed_three_times_leaves_the_same_bytes(scored, tmp_path):
    command, whole = scored
    run = Run(tmp_path/"run")
    parts = run.parts("score")
    for n in (1, 3, 5):
        assert strike(signal.SIGKILL, has_parts(parts, n), *command, run.path).returncode == -signal.SIGKILL
        assert n <= len(blocks(parts)) < 8
        assert not run.done("score") and not (run/"scores.parquet").exists()
    kept = {p: p.stat().st_mtime_ns for p in blocks(parts)}
    (parts/".0000896.parquet.part.parquet").write_bytes(b"PAR1 half a fi")  # as a kill leaves it in a write
    process = start(*command, run.path)
    while process.poll() is None and parts.exists():
        again = [p for p, t in kept.items() if p.exists() and p.stat().st_mtime_ns != t]
        assert not again, "a finished block was computed again"
        time.sleep(.01)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert same_bytes("scores.parquet", run.path, whole)
    assert not parts.exists() and run.done("score")


def test_ctrl_c_keeps_what_was_done_and_workers_do_not_matter(scored, tmp_path):
    "Interrupted with two workers and resumed with two: the bytes of a run with none"
    command, whole = scored
    run = Run(tmp_path/"run")
    parts = run.parts("score")
    process = strike(signal.SIGINT, has_parts(parts, 2), *command, run.path, "--workers", "2")
    assert process.returncode == 130
    assert process.err == "wrnb: interrupted; what was done stays, and the same command resumes\n"
    assert 2 <= len(blocks(parts)) < 8
    run_command(*command, run.path, "--workers", "2")
    assert same_bytes("scores.parquet", run.path, whole)


def test_batch_sizes_agree_to_rounding(model, tmp_path, monkeypatch):
    sizes, misprediction = set(), wrnb.neighbors.misprediction
    def watched(logits, y):
        sizes.add(len(y))
        return misprediction(logits, y)
    monkeypatch.setattr(wrnb.neighbors, "misprediction", watched)
    t = {}
    for bs in (7, 512):
        out = str(tmp_path/str(bs))
        command = ["score", "digits", "--model", model, *SETUP, "--n-neighbors", "20", "--batch-size", str(bs)]
        assert main([*command, "--out", out]) == 0
        t[bs] = pd.read_parquet(f"{out}/scores.parquet")
        assert max(sizes) == bs
    assert (t[7].score - t[512].score).abs().max() < 1e-5 and t[7].score.max() > .1
    assert (t[7].n_wrong == t[512].n_wrong).all() and (t[7].pred == t[512].pred).all()


def test_validate_killed_leaves_the_same_bytes(copy, base):
    run = copy("validate")
    command = ["validate", run, *MEASURE]
    assert strike(signal.SIGKILL, has_parts(run/"parts"/"validate", 10), *command).returncode == -signal.SIGKILL
    assert not (run/"validation.csv").exists()
    run_command(*command)
    for name in MADE["validate"]: assert same_bytes(name, run, base)


def test_enhance_killed_leaves_the_same_bytes(copy, base):
    run = copy("enhance reva")
    command = ["enhance", run, "--strategy", "reva", "--epochs", "3"]
    assert strike(signal.SIGKILL, (run/"reva"/"checkpoint.pt").is_file, *command).returncode == -signal.SIGKILL
    assert not (run/"reva"/"model.safetensors").exists()
    run_command(*command)
    for name in MADE["enhance reva"]: assert same_bytes(name, run, base)
    assert not (run/"reva"/"checkpoint.pt").exists()


# --- bad input ------------------------------------------------------------------------------------

class Trap:
    "Unpickled, it makes a file"
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (str(self.path), "w"))


def bad_checkpoints(folder):
    "Checkpoints of other networks, with NaN, with code, cut off"
    for classes, name in ((10, "ten"), (100, "hundred"), (2, "two")):
        save_weights(load_model("digits_net", classes), folder/f"{name}.safetensors")
    net = load_model("digits_net", 10)
    for p in net.parameters(): p.data.fill_(float("nan"))
    save_weights(net, folder/"nan.safetensors")
    torch.save(dict(state_dict=Trap(folder/"trapped")), folder/"trap.pt")
    (folder/"trap.pkl").write_bytes(pickle.dumps(Trap(folder/"trapped")))
    cut(Path(shutil.copy(folder/"ten.safetensors", folder/"cut.safetensors")))


def bad_folders(folder):
    "Folders of pictures in which something is missing or broken"
    pictures(folder/"no_train", splits=("test",))
    pictures(folder/"no_test", splits=("train",))
    for name in ("good", "empty", "cut", "text", "other"): pictures(folder/name)
    (folder/"empty/train/fish").mkdir()
    cut(folder/"cut/train/dog/1.png")
    (folder/"text/test/cat/2.png").write_text("no picture")
    (folder/"other/test/dog").rename(folder/"other/test/wolf")


@pytest.fixture(scope="module")
def bad(home, base):
    "Data and checkpoints that are not as they should be"
    folder = home/"bad"
    folder.mkdir()
    bad_checkpoints(folder)
    bad_folders(folder)
    (folder/"file").write_text("")
    return folder


SCORE = "score digits --model digits_net@{bad}/ten.safetensors --out {new} --limit 20 --test-limit 20 --n-neighbors 2"
FOLDER = "score {bad}/%s --model digits_net@{bad}/two.safetensors --out {new}"
MODEL = "score digits --model %s --out {new} --limit 20 --test-limit 20"
CHECKPOINT = MODEL % "digits_net@{bad}/%s"
BASE = "score digits --out {base} --limit 200 --test-limit 60 --n-neighbors 10"
VALIDATE = "validate {base} --severities 1 5 --attacks fgsm pgd --attack-eps 8"
STANDARD = "enhance {base} --strategy standard"
REVA = "enhance {base} --strategy reva"
CASES = {  # command -> what the line names
    # data
    "score cifar11 --model resnet20 --out {new}": "no data set 'cifar11'",
    "run {bad}/nowhere --model resnet20 --out {new}": "{bad}/nowhere",
    FOLDER % "no_train": "{bad}/no_train",
    FOLDER % "no_test": "{bad}/no_test",
    FOLDER % "empty": "{bad}/empty/train/fish",
    FOLDER % "other": "{bad}/other/test/wolf",
    FOLDER % "cut": "{bad}/cut/train/dog/1.png",
    FOLDER % "text": "{bad}/text/test/cat/2.png",
    FOLDER % "good" + " --size 0": "--size 0",
    # models
    MODEL % "resnet21": "resnet21",
    MODEL % "resnet20": "--model resnet20 has no checkpoint",
    MODEL % "torchvision:resnet21": "resnet21",
    MODEL % "resnet20@{bad}/ten.safetensors": "{bad}/ten.safetensors",
    CHECKPOINT % "nothing.pt": "{bad}/nothing.pt",
    CHECKPOINT % "hundred.safetensors": "100 outputs and the data 10 classes",
    CHECKPOINT % "two.safetensors": "2 outputs and the data 10 classes",
    CHECKPOINT % "nan.safetensors": "the model's logits for image 0 are not finite",
    CHECKPOINT % "cut.safetensors": "{bad}/cut.safetensors is damaged",
    CHECKPOINT % "trap.pt": "{bad}/trap.pt holds more than tensors and is refused",
    CHECKPOINT % "trap.pkl": "{bad}/trap.pkl",
    "score {bad}/good --out {new}": "--model is missing",
    # scoring
    **{f"{SCORE} --eps {e}": f"--eps {float(e)}" for e in ("0", "-1", "nan", "2", "inf")},
    SCORE.replace("neighbors 2", "neighbors 0"): "--n-neighbors 0",
    SCORE.replace("neighbors 2", "neighbors -3"): "--n-neighbors -3",
    SCORE.replace("--limit 20", "--limit 0"): "--limit 0",
    SCORE + " --noise salt": "--noise salt",
    SCORE + " --precision fp64": "--precision fp64",
    SCORE + " --device abacus": "--device abacus",
    SCORE + " --batch-size 0": "--batch-size 0",
    SCORE + " --workers -1": "--workers -1",
    SCORE + " --seed -1": "--seed -1",
    SCORE + " --eps much": "--eps",
    "score": "DATA",
    "sing": "sing",
    # a run folder of other data, another model, other options
    "run digits --out {base} --limit 100 --test-limit 60": "{base} was made with setup --limit 200, not 100",
    "score cifar10 --model digits_net --out {base} --limit 200 --test-limit 60": "made with other data",
    "score digits --model resnet20 --out {base} --limit 200 --test-limit 60": "--model digits_net, not resnet20",
    BASE + " --eps .2": "score --eps 0.3, not 0.2",
    BASE + " --seed 1": "setup --seed 0, not 1",
    BASE + " --noise gaussian": "score --noise uniform, not gaussian",
    BASE.replace("neighbors 10", "neighbors 11"): "score --n-neighbors 10, not 11",
    # weak samples
    "weak {base} -k 10000": "-k 10000 is larger than the",
    "weak {base} -k 0": "-k 0",
    "weak {base} -k -5": "-k -5",
    "weak {base} -k 21": "weak -k 20, not 21",
    "weak {base} -k 200 --per-class": "of class",
    "weak {bad}/nowhere -k 3": "{bad}/nowhere is not a run folder",
    "report {bad}/good": "{bad}/good is not a run folder",
    # validation
    "validate {base} --families sound": "sound",
    "validate {base} --severities 6": "severity=6",
    "validate {base} --severities 2": "validate ",
    "validate {base} --attacks fgms": "fgms",
    "validate {base} --attack-eps nan": "--attack-eps nan",
    "validate {base} --attack-eps -8": "--attack-eps -8",
    "validate {base} --attack-eps 300": "--attack-eps 300",
    VALIDATE + " --rule feeling": "--rule feeling",
    VALIDATE + " --rule 7": "--rule 7",
    # fine-tuning
    "enhance {base} --strategy luck": "--strategy luck",
    STANDARD + " --epochs 0": "--epochs 0",
    STANDARD + " --lr nan": "--lr nan",
    STANDARD + " --bs 0": "--bs 0",
    REVA + " --protocol mine": "--protocol mine",
    REVA + " --guide-eps nan": "--guide-eps nan",
    REVA + " --epochs 2": "enhance reva --epochs 3, not 2",
    "enhance {base} --strategy adversarial --guide-eps -1": "--guide-eps -1",
    "run digits --out {new} --strategies luck": "--strategies luck",
    # evaluation
    "evaluate {base} --severities 9": "severity=9",
    "evaluate {base} --severities 1 --attacks fgsm --attack-eps 8": "evaluate --severities [1, 5], not [1]",
    VALIDATE.replace("validate", "evaluate") + " --batch-size 0": "--batch-size 0",
}


@pytest.mark.parametrize("command", CASES)
def test_bad_input(command, bad, base, tmp_path, capsys):
    names = dict(bad=bad, base=base, new=tmp_path/"new")
    before = tables(base)
    line = complaint(capsys, *(word.format(**names) for word in command.split()))
    assert CASES[command].format(**names) in line
    assert tables(base) == before and not (bad/"trapped").exists()
    assert not tables(tmp_path)


@pytest.mark.parametrize("first", [
    FOLDER % "cut", "score digits --model digits_net --out {new} --limit 20", SCORE + " --eps nan",
    "run digits --out {new} --base-lr nan", "run digits --out {new} --base-epochs 0"])
def test_a_refused_command_does_not_spoil_the_folder(first, bad, base, tmp_path, capsys):
    "The right command may follow in the same folder"
    names = dict(bad=bad, new=tmp_path/"new")
    complaint(capsys, *(word.format(**names) for word in first.split()))
    assert main([word.format(**names) for word in SCORE.split()]) == 0
    assert len(pd.read_parquet(tmp_path/"new"/"scores.parquet")) == 20


@pytest.mark.parametrize("stage, wrong", [
    ("validate", "--severities 9"), ("validate", "--attack-eps nan"), ("validate", "--rule 7"),
    ("enhance reva", "--lr nan"), ("enhance reva", "--bs 0"),
    ("evaluate", "--severities 9"), ("evaluate", "--attack-eps 8 300")])
def test_a_refused_option_is_not_what_the_folder_was_made_with(stage, wrong, copy, capsys):
    run, options = copy(stage), ["--strategy", "reva"] if "enhance" in stage else MEASURE
    complaint(capsys, stage.split()[0], run, *options, *wrong.split())
    assert not Run(run).record(stage)


def test_pictures_of_every_mode_are_converted(bad, tmp_path):
    "The same grey picture in six modes has six times the same pixels, so the same neighbours and the same score"
    data = pictures(tmp_path/"modes", n=1)
    grey = Image.open(data/"train/cat/0.png").convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16)*257)
    palette = grey.convert("P")
    assert (wide.mode, palette.mode) == ("I;16", "P")
    for name, image in dict(grey=grey, wide=wide, palette=palette, rgba=grey.convert("RGBA")).items():
        image.save(data/f"train/cat/{name}.png")
    grey.convert("RGB").convert("CMYK").save(data/"train/cat/cmyk.tif")
    model, run = f"digits_net@{bad}/two.safetensors", tmp_path/"run"
    assert main(["score", str(data), "--model", model, "--out", str(run), "--n-neighbors", "5"]) == 0
    t = pd.read_parquet(run/"scores.parquet")
    cats = t[t.label == 0]
    assert len(cats) == 6 and len(t) == 7
    assert cats.score.nunique() == 1 and cats.n_wrong.nunique() == 1 and cats.score.iloc[0] != t.score.iloc[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_picture_loses_nothing(workers, bad, tmp_path, capsys, monkeypatch):
    "Pictures that are read when their block comes: the blocks before it stay, and the mended set is finished"
    monkeypatch.setattr(wrnb.folders, "_IN_MEMORY", 0)
    monkeypatch.setattr(wrnb.scoring, "_BLOCK", 2)
    data, run = pictures(tmp_path/"data", n=30), tmp_path/"run"
    broken = sorted((data/"train").rglob("*.png"))[46]  # not among those that are tried first
    mend = spoil(broken)
    command = ["score", str(data), "--model", f"digits_net@{bad}/two.safetensors", "--n-neighbors", "5"]
    command += ["--workers", str(workers), "--out"]
    assert f"{broken} cannot be read as an image" in complaint(capsys, *command, run)
    if not workers: assert len(list((run/"parts/score").glob("*.parquet"))) == 46//2
    mend()
    assert main([*command, str(run)]) == 0 and main([*command, str(tmp_path/"whole")]) == 0
    assert same_bytes("scores.parquet", run, tmp_path/"whole")


# --- if nothing can be written --------------------------------------------------------------------

def test_out_is_a_file(bad, capsys):
    assert f"{bad}/file" in complaint(capsys, *SCORE.format(bad=bad, new=bad/"file").split())


def locked(folder):
    folder.mkdir(mode=0o555)
    return folder


def test_read_only_folder(bad, mounted, tmp_path, capsys):
    is_superuser = os.geteuid() == 0  # who may write even if modes forbid it
    out = mounted("ro", "size=64k") if is_superuser else locked(tmp_path/"locked")
    line = complaint(capsys, *SCORE.format(bad=bad, new=out/"run").split())
    assert str(out/"run") in line and re.search("--out|out=", line)


def resumed_with_room(capsys, command, out, make_room):
    "A command that has no room says so, and ends when it has; returns the tables it leaves"
    line = complaint(capsys, *command)
    assert str(out) in line and "cannot be written" in line and "make room" in line
    make_room()
    assert main(command) == 0
    return tables(out)


def test_full_disk(base, mounted, capsys, model):
    "If the disk is full before the last block is saved, the blocks before it stay"
    out = mounted("size=64k")
    ballast = out/"ballast"
    ballast.write_bytes(bytes(2**15))
    command = ["score", "digits", "--model", model, *SETUP, "--n-neighbors", "10", "--out", str(out/"run")]
    left = resumed_with_room(capsys, command, out/"run", ballast.unlink)
    assert left["scores.parquet"] == tables(base)["scores.parquet"]


@pytest.mark.parametrize("stage, command, room", [
    ("score", ["score", "digits", "--out", "{run}", *SETUP, "--n-neighbors", "10"], 1000),
    ("enhance reva", ["enhance", "{run}", "--strategy", "reva", "--epochs", "3"], 20_000)])
def test_no_room_for_a_file(stage, command, room, copy, base, limit_file, capsys):
    run = copy(stage)
    limit_file((run/"config.json").stat().st_size + room)
    command = [word.format(run=run) for word in command]
    assert resumed_with_room(capsys, command, run, limit_file) == tables(base)


def test_no_room_for_weights(limit_file, tmp_path):
    net, path = load_model("digits_net", 10), tmp_path/"model.safetensors"
    limit_file(20_000)
    with pytest.raises(WrnbError, match="model.safetensors: cannot be written"): save_weights(net, path)
    limit_file()
    assert not path.exists()
