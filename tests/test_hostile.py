"""Files made to do harm, and damaged run folders: refused in one line, nothing executed, nothing outside changed.

The cases are those of benchmarks/faults.py, which runs them, and more, in processes of their own. Here they go
through `wrnb.cli.main`, on a run folder of few images. Some would make a program wait for ever; pytest.ini says
when that counts as a failure.
"""
import shutil

import pytest

from benchmarks import faults
from test_loop import complaint, one_thread  # noqa: F401 (a fixture)
from wrnb.corrupted_sets import corrupted_set
from wrnb.loop import Loop
from wrnb.cli import main
from wrnb.core import WrnbError


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A run folder in which everything was done but the report, and bad data and checkpoints"
    desk = faults.Desk(tmp_path_factory.mktemp("hostile"), 0)
    desk.bad.mkdir()
    faults.make_bad(desk.bad)
    setup = dict(data="digits", model="digits_net", size=None, limit=60, test_limit=20, seed=0)
    loop = Loop(desk.home/"base", setup, say=lambda line: None)
    loop.train_base(base_epochs=4, base_lr=.2, bs=16)
    loop.score(eps=.3, n_neighbors=2)
    loop.weak(k=5)
    few = dict(severities=(5,), attacks=("fgsm",), attack_eps=(16,))
    loop.validate(**few, rule="half")
    loop.enhance("reva", epochs=1, bs=30)
    loop.evaluate(**few)
    outside = desk.home/"outside"
    (outside/"validate").mkdir(parents=True)
    for f in ("precious", "validate/precious"): (outside/f).write_text("precious")
    return desk


def refused(desk, capsys, words):
    before = faults.files(desk.run)
    line = complaint(capsys, *(w.format(run=desk.run, new=desk.new, bad=desk.bad) for w in words.split()))
    assert line.rstrip("\n").isprintable() and faults.files(desk.run) == before
    assert not (desk.home/"executed").exists()
    outside = [p for p in (desk.home/"outside").rglob("*") if p.is_file()]
    assert [p.read_text() for p in outside] == ["precious"]*2
    return line


@pytest.mark.parametrize("name", faults.checkpoints(None))
def test_checkpoint(name, desk, capsys):
    path = desk.bad/name
    faults.checkpoints(desk.home/"executed")[name](path)
    desk.copy()
    assert name in refused(desk, capsys, faults.MODEL % f"digits_net@{path}")


@pytest.mark.parametrize("name", faults.images(None))
def test_image(name, desk, capsys):
    folder = desk.bad/"images"
    shutil.rmtree(folder, ignore_errors=True)
    faults.pictures(folder)
    faults.images(desk.home/"executed")[name](folder/"train/cat")
    desk.copy()
    assert "images/train" in refused(desk, capsys, faults.FOLDER % "images")


@pytest.mark.parametrize("name", faults.bad_arrays(None))
def test_array(name, desk, capsys):
    folder = desk.bad/"set"
    shutil.rmtree(folder, ignore_errors=True)
    faults.arrays(folder, fog=faults.bad_arrays(desk.home/"executed")[name])
    desk.copy()
    assert "set/fog.npy" in refused(desk, capsys, "evaluate {run} --on {bad}/set")


QUICK = [c for c in faults.hostile_runs(None, None) if "million" not in c]  # a million rows take seconds to write


@pytest.mark.parametrize("case", QUICK)
def test_run_folder(case, desk, capsys):
    words, damage = faults.hostile_runs(desk.home/"outside", desk.home/"executed")[case]
    damage(desk.copy())
    if "{bad}/set" in words: faults.elsewhere(desk.bad/"set")
    refused(desk, capsys, words)


@pytest.mark.parametrize("case", [c for c, v in faults.BAD.items() if len(v) == 3])
def test_damaged_run_folder(case, desk, capsys):
    words, says, damage = faults.BAD[case]
    damage(desk.copy())
    assert says in refused(desk, capsys, words)


WRONG = [dict(n="10"), dict(classes=7), dict(classes=[None]*10), dict(corruptions=["fog", 3]), dict(name=None),
         dict(preset=[])]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_corrupted_set_with_a_wrong_record(wrong, tmp_path):
    right = dict(corruptions=["fog"], classes=list("0123456789"))
    faults.elsewhere(tmp_path/"set", **right)
    assert len(corrupted_set(tmp_path/"set")) == 10
    faults.elsewhere(tmp_path/"set", **right | wrong)
    with pytest.raises(WrnbError, match="config.json is damaged"): corrupted_set(tmp_path/"set")


def test_classes_of_a_corrupted_set_stay_in_it(tmp_path):
    faults.pictures(tmp_path/"good")
    for s in range(1, 6): faults.pictures(tmp_path/"set"/"fog"/str(s), 1, ("cat",), (".",))
    options = dict(name="x", data="0", n=3, classes=["../../../good/train/cat"], corruptions=["fog"],
                   preset="tiny-imagenet-c")
    run = faults.Run(tmp_path/"set")
    run.claim("corrupt", options)
    run.finish("corrupt")
    with pytest.raises(WrnbError, match="train/cat"): corrupted_set(tmp_path/"set")


def test_a_lost_or_refused_table_is_made_again(desk, capsys):
    "The way out that the message names"
    run = desk.copy()
    want = (run/"scores.parquet").read_bytes()
    faults.flip(run/"scores.parquet")
    command = "score digits --limit 60 --test-limit 20 --n-neighbors 2 --out {run}"
    assert "delete it and run the command again" in refused(desk, capsys, command)
    (run/"scores.parquet").unlink()
    assert main([w.format(run=run) for w in command.split()]) == 0
    assert (run/"scores.parquet").read_bytes() == want


def test_what_a_kill_leaves_behind_a_finished_stage_is_cleared_away(desk):
    "A kill between the note that a stage is done and the removal of its parts"
    run = desk.copy()
    (run/"parts/score").mkdir(parents=True)
    for left in ("parts/score/0000000.parquet", "reva/checkpoint.pt"): (run/left).write_bytes(b"left")
    score = f"score digits --limit 60 --test-limit 20 --n-neighbors 2 --out {run}"
    enhance = f"enhance {run} --strategy reva --epochs 1 --bs 30 --guide-eps 2"
    for command in (score, enhance): assert main(command.split()) == 0
    assert not (run/"parts/score").exists() and not (run/"reva/checkpoint.pt").exists()


def test_more_rows_than_bytes(desk, capsys):
    run = desk.copy()
    faults.undo(run, "weak")
    faults.rows_of_nothing(run/"scores.parquet", 1)
    assert "scores.parquet cannot be read as a table" in refused(desk, capsys, "weak {run} -k 5")


def test_the_page_escapes_what_the_tables_say(desk):
    run, script = desk.copy(), "<script>alert(1)</script>"
    faults.rename(run/"validation.csv", "fog", script)
    faults.rename(run/"evaluation.csv", "reva", script)
    faults.link(run/".report.html.part.html", desk.home/"outside"/"precious")
    assert main(["report", str(run)]) == 0
    page = (run/"report.html").read_text()
    assert "<script" not in page and "&lt;script" in page
    assert (desk.home/"outside"/"precious").read_text() == "precious"
