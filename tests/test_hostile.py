"""Files made to do harm and damaged run folders: refused in one line, nothing executed, nothing outside changed.

The cases are those of benchmarks/faults.py, which runs them, and more, in processes of their own. Here they go through
`wrnb.cli.main`, on a run folder of few images. Some would make a program wait for ever; pytest.ini says when that
counts as a failure.
"""
import shutil

import pandas as pd
import pytest

import faults_desk, faults_files
from helpers import complaint
from wrnb.corrupted_sets import corrupted_set
from wrnb.loop import Loop
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.runs import Run

SCORE = "score digits --limit 60 --test-limit 20 --n-neighbors 2 --out {run}"


def do_everything(folder):
    "A run folder in which everything was done but the report"
    setup = dict(data="digits", model="digits_net", size=None, limit=60, test_limit=20, seed=0)
    loop = Loop(folder, setup, say=lambda line: None)
    few = dict(severities=(5,), attacks=("fgsm",), attack_eps=(16,))
    loop.train_base(base_epochs=4, base_lr=.2, bs=16)
    loop.score(eps=.3, n_neighbors=2)
    loop.weak(k=5)
    loop.validate(**few, rule="half")
    loop.enhance("reva", epochs=1, bs=30)
    loop.evaluate(**few)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "The whole run folder, bad data and checkpoints, and files outside that must stay as they are"
    desk = faults_desk.Desk(tmp_path_factory.mktemp("hostile"), 0)
    desk.bad.mkdir()
    faults_files.make_bad(desk.bad)
    do_everything(desk.home/"base")
    outside = desk.home/"outside"
    (outside/"validate").mkdir(parents=True)
    for name in ("precious", "validate/precious"): (outside/name).write_text("precious")
    return desk


def refused(desk, capsys, words):
    "The one line of a command that refuses; nothing else may have happened"
    before = faults_desk.files(desk.run)
    names = dict(run=desk.run, new=desk.new, bad=desk.bad)
    line = complaint(capsys, *(word.format(**names) for word in words.split()))
    assert line.rstrip("\n").isprintable()
    assert faults_desk.files(desk.run) == before and not (desk.home/"executed").exists()
    outside = [p.read_text() for p in (desk.home/"outside").rglob("*") if p.is_file()]
    assert outside == ["precious"]*2
    return line


def fresh(folder):
    "The path of a folder that does not exist any more"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.mark.parametrize("name", faults_files.checkpoints(None))
def test_checkpoint(name, desk, capsys):
    path = desk.bad/name
    faults_files.checkpoints(desk.home/"executed")[name](path)
    desk.copy()
    assert name in refused(desk, capsys, faults_files.MODEL % f"digits_net@{path}")


@pytest.mark.parametrize("name", faults_files.images(None))
def test_image(name, desk, capsys):
    folder = faults_files.pictures(fresh(desk.bad/"images"))
    faults_files.images(desk.home/"executed")[name](folder/"train/cat")
    desk.copy()
    assert "images/train" in refused(desk, capsys, faults_files.FOLDER % "images")


@pytest.mark.parametrize("name", faults_files.bad_arrays(None))
def test_array(name, desk, capsys):
    faults_files.arrays(fresh(desk.bad/"set"), fog=faults_files.bad_arrays(desk.home/"executed")[name])
    desk.copy()
    assert "set/fog.npy" in refused(desk, capsys, "evaluate {run} --on {bad}/set")


QUICK = [c for c in faults_files.hostile_runs(None, None) if "million" not in c]  # that one takes seconds to write


@pytest.mark.parametrize("case", QUICK)
def test_run_folder(case, desk, capsys):
    words, damage = faults_files.hostile_runs(desk.home/"outside", desk.home/"executed")[case]
    damage(desk.copy())
    if "{bad}/set" in words: faults_files.elsewhere(desk.bad/"set")
    refused(desk, capsys, words)


@pytest.mark.parametrize("case", [c for c, v in faults_files.BAD.items() if len(v) == 3])
def test_damaged_run_folder(case, desk, capsys):
    words, named, damage = faults_files.BAD[case]
    damage(desk.copy())
    assert named in refused(desk, capsys, words)


@pytest.mark.parametrize("wrong", [
    dict(n="10"), dict(classes=7), dict(classes=[None]*10), dict(corruptions=["fog", 3]), dict(name=None),
    dict(preset=[])], ids=str)
def test_a_corrupted_set_with_a_wrong_config(wrong, tmp_path):
    right = dict(corruptions=["fog"], classes=list("0123456789"))
    faults_files.elsewhere(tmp_path/"set", **right)
    assert len(corrupted_set(tmp_path/"set")) == 10
    faults_files.elsewhere(tmp_path/"set", **(right | wrong))
    with pytest.raises(WrnbError, match="config.json is damaged"): corrupted_set(tmp_path/"set")


def test_classes_of_a_corrupted_set_stay_in_it(tmp_path):
    faults_files.pictures(tmp_path/"good")
    for s in range(1, 6): faults_files.pictures(tmp_path/"set"/"fog"/str(s), 1, ("cat",), (".",))
    run = Run(tmp_path/"set")
    run.claim("corrupt", dict(name="x", data="0", n=3, classes=["../../../good/train/cat"], corruptions=["fog"],
                              preset="tiny-imagenet-c"))
    run.finish("corrupt")
    with pytest.raises(WrnbError, match="elsewhere|outside"): corrupted_set(tmp_path/"set")


def test_a_lost_or_refused_table_is_made_again(desk, capsys):
    "The way out that the message names"
    run = desk.copy()
    whole = (run/"scores.parquet").read_bytes()
    faults_desk.flip(run/"scores.parquet")
    assert "delete it and run the command again" in refused(desk, capsys, SCORE)
    (run/"scores.parquet").unlink()
    assert main([word.format(run=run) for word in SCORE.split()]) == 0
    assert (run/"scores.parquet").read_bytes() == whole


def test_what_a_kill_leaves_of_a_finished_stage_is_cleared_away(desk):
    "A kill between the note that a stage is done and the removal of its parts"
    run = desk.copy()
    (run/"parts/score").mkdir(parents=True)
    for left in ("parts/score/0000000.parquet", "reva/checkpoint.pt"): (run/left).write_bytes(b"left")
    assert main([word.format(run=run) for word in SCORE.split()]) == 0
    enhance = "enhance {run} --strategy reva --epochs 1 --bs 30 --guide-eps 2"
    assert main([word.format(run=run) for word in enhance.split()]) == 0
    assert not (run/"parts/score").exists() and not (run/"reva/checkpoint.pt").exists()


def test_more_rows_than_bytes(desk, capsys):
    run = desk.copy()
    faults_desk.undo(run, "weak")
    faults_files.rows_of_nothing(run/"scores.parquet", 1)
    assert "scores.parquet cannot be read as a table" in refused(desk, capsys, "weak {run} -k 5")


def test_the_page_escapes_what_the_tables_hold(desk):
    run, script = desk.copy(), "<script>alert(1)</script>"
    faults_desk.rename(run/"validation.csv", "fog", script)
    faults_desk.rename(run/"evaluation.csv", "reva", script)
    outcomes = pd.read_parquet(run/"outcomes.parquet")
    outcomes = outcomes.assign(model=outcomes.model.astype(str).replace("reva", script))
    outcomes.to_parquet(run/"outcomes.parquet", index=False, write_page_checksum=True)
    faults_desk.link(run/".report.html.part.html", desk.home/"outside"/"precious")
    assert main(["report", str(run)]) == 0
    page = (run/"report.html").read_text()
    assert script not in page and "&lt;script" in page and page.count("<script") == 1  # the one that sorts tables
    assert (desk.home/"outside"/"precious").read_text() == "precious"
