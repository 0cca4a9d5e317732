"""`wrnb corrupt` and `wrnb evaluate --on` as commands: killed and started again, read back, refused."""
import hashlib, json, shutil, signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from test_loop import complaint, limit_file, one_thread, pictures, strike  # noqa: F401 (fixtures among them)
from wrnb.benchmark import read_evaluation
from wrnb.cli import main
from wrnb.runs import Run
from wrnb.models import save_weights
from wrnb.pretrained import load_model

DIGITS = ["corrupt", "digits", "--limit", "40", "--out"]
SOME = ["--corruptions", "gaussian_noise", "fog", "jpeg_compression", "speckle_noise"]
RUN = ["--data", "digits", "--limit", "50", "--test-limit", "40"]


def files(folder):
    "What a set consists of, as hashes; its config.json tells the time too"
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "config.json"}


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("corrupt")


@pytest.fixture(scope="module")
def model(home):
    "A classifier of the digits by its nearest class mean: no training, and a few per cent wrong"
    from wrnb.data import load_data
    from wrnb.training import train
    digits, test = load_data("digits", limit=400, test_limit=50)
    torch.manual_seed(0); learn = train(load_model("digits_net", 10), digits, test, epochs=4, lr=.2, bs=32, device="cpu")
    save_weights(learn.model, home/"net.safetensors")
    return f"digits_net@{home}/net.safetensors"


@pytest.fixture(scope="module")
def arrays(home, one_thread): assert main([*DIGITS, str(home/"arrays")]) == 0; return home/"arrays"


@pytest.fixture(scope="module")
def jpegs(home, one_thread): assert main([*DIGITS, str(home/"jpegs"), "--preset", "tiny-imagenet-c", *SOME]) == 0; return home/"jpegs"


# --- written -------------------------------------------------------------------------------------------------------

def test_the_layout_of_cifar_c(arrays):
    assert len(list(arrays.glob("*.npy"))) == 20 and {p.suffix for p in arrays.iterdir()} == {".npy", ".json"}
    for p in arrays.glob("*.npy"): assert np.load(p).shape == ((200,) if p.stem == "labels" else (200, 32, 32, 3))
    told = json.loads((arrays/"config.json").read_text())["stages"]["corrupt"]
    assert told["options"].items() >= {"name": "digits", "n": 40, "preset": "cifar-c", "seed": 0, "size": [32, 32]}.items() and told["started"] <= told["finished"]


def test_the_layout_of_imagenet_c(jpegs):
    found = sorted(jpegs.rglob("*.JPEG")); assert len(found) == 4*5*40 and not [p for p in jpegs.rglob(".*")]
    assert {p.relative_to(jpegs).parts[:2] for p in found} == {(c, str(s)) for c in SOME[1:] for s in range(1, 6)}
    with Image.open(found[0]) as im: assert im.format == "JPEG" and im.size == (32, 32)


@pytest.mark.parametrize("preset, ready, kills", [("cifar-c", lambda out, n: len(list(out.glob("[!.]*.npy"))) >= n, (1, 3)), ("imagenet-c", lambda out, n: len(list(out.rglob("[!.]*.JPEG"))) >= 100*n, (1,))], ids=["arrays", "pictures"])
def test_killed_and_started_again_leaves_the_same_bytes(preset, ready, kills, tmp_path, capsys):
    "Killed, and gone on with in other batches and with a worker"
    command = ["corrupt", "digits", "--limit", "120", "--preset", preset, "--corruptions", "fog", "snow", "frost", "contrast", "glass_blur", "elastic_transform", "--out"]
    assert main([*command, str(tmp_path/"whole"), "--batch-size", "30"]) == 0
    out = tmp_path/"set"
    for n in kills:
        assert strike(signal.SIGKILL, lambda: ready(out, n), *command, out, "--batch-size", "30").returncode == -signal.SIGKILL
        assert not Run(out).done("corrupt") and "is incomplete: run the same wrnb corrupt command again" in _refused(out)
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("[!.]*") if p.suffix in (".npy", ".JPEG")}; assert kept
    assert main([*command, str(out), "--batch-size", "7", "--workers", "1"]) == 0
    assert f"-> {out}" in capsys.readouterr().out and files(out) == files(tmp_path/"whole")
    again = [p for p, t in kept.items() if p.stat().st_mtime_ns != t]
    assert not again, "what was whole was written again"


def _refused(path):
    from wrnb.corrupted_sets import corrupted_set
    from wrnb.core import WrnbError
    with pytest.raises(WrnbError) as e: corrupted_set(path)
    return str(e.value)


def test_done_already(arrays, capsys):
    before = files(arrays); assert main([*DIGITS, str(arrays)]) == 0
    assert capsys.readouterr() == (f"corrupt: done already, see {arrays}\n", "") and files(arrays) == before


@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
def test_no_room(preset, limit_file, tmp_path, capsys):
    "A limit on the size of files acts as a full disk; where there is room it goes on"
    command = ["corrupt", str(pictures(tmp_path/"data")), "--size", "96", "--out", str(tmp_path/"set"), "--preset", preset, "--corruptions", "gaussian_noise"]
    limit_file(4000)
    capsys.readouterr(); code = main(command); err = capsys.readouterr().err.splitlines()
    limit_file()
    assert code == 2 and str(tmp_path/"set") in err[-1] and "cannot be written" in err[-1] and "make room" in err[-1]
    assert main(command) == 0
    assert not [p for p in (tmp_path/"set").rglob(".*")]


def test_a_preset_that_does_not_fit_is_named_once(tmp_path, capsys):
    assert main([*DIGITS, str(tmp_path/"set"), "--preset", "imagenet-c", "--corruptions", "contrast", "fog"]) == 0
    assert capsys.readouterr().err == "wrnb: warning: preset imagenet-c does not fit images of 32 x 32 pixels, for which cifar-c is meant\n"


def test_a_folder_of_pictures(tmp_path):
    "Files keep their names and classes, the size is the one asked for"
    assert main(["corrupt", str(pictures(tmp_path/"data")), "--size", "24", "--preset", "cifar-c", "--corruptions", "fog", "--out", str(tmp_path/"set")]) == 0
    assert np.load(tmp_path/"set/fog.npy").shape == (30, 24, 24, 3) and np.load(tmp_path/"set/labels.npy").tolist() == [0, 0, 0, 1, 1, 1]*5


# --- read back -----------------------------------------------------------------------------------------------------

def test_on_the_arrays_every_error_is_that_of_the_images_in_memory(arrays, model, home, capsys):
    "The issue's two commands; then the same in memory"
    assert main(["evaluate", str(home/"on"), *RUN, "--model", model, "--on", str(arrays)]) == 0
    out = capsys.readouterr().out
    assert "made by wrnb, .npy" in out and "Errors in percent on 40 test images:" in out and "corruption_error" in out and "95 % interval" in out
    assert main(["evaluate", str(home/"memory"), *RUN, "--model", model, "--attacks"]) == 0
    assert "made in memory" in capsys.readouterr().out
    on, memory = (pd.read_csv(p) for p in (home/"on/on/arrays/evaluation.csv", home/"memory/evaluation.csv"))
    fifteen = on[~on.perturbation.isin(["speckle_noise", "gaussian_blur", "spatter", "saturate"])].reset_index(drop=True)
    assert len(on) == 96 and len(fifteen) == 76 and fifteen.n_wrong.nunique() > 5
    pd.testing.assert_frame_equal(fifteen, memory)
    told = json.loads((home/"on/on/arrays/config.json").read_text())["stages"]["evaluate"]["options"]
    assert (told["source"], told["kind"], told["n"], told["clean"]) == ("made by wrnb, .npy", "CIFAR-C", 40, True)
    memory = json.loads((home/"memory/config.json").read_text())["stages"]["evaluate"]["options"]
    assert (memory["source"], memory["preset"], memory["attacks"]) == ("made in memory", "cifar-c", [])


def test_on_jpegs_the_source_is_another(jpegs, model, home, capsys):
    assert main(["evaluate", str(home/"run"), *RUN, "--model", model, "--on", str(jpegs), "--families", "noise", "--severities", "5"]) == 0
    found = read_evaluation(home/"run/on/jpegs")
    assert found.table.perturbation.tolist() == ["clean", "gaussian_noise", "speckle_noise"] and found.source == "made by wrnb, JPEG" and found.kind == "Tiny-ImageNet-C"
    capsys.readouterr(); assert main(["evaluate", str(home/"run"), "--on", str(jpegs), "--families", "noise", "--severities", "5"]) == 0
    assert f"evaluate: done already, see {home}/run/on/jpegs/evaluation.csv" in capsys.readouterr().out


def test_other_images_have_no_clean_row_and_a_run_can_take_a_part(arrays, model, home, tmp_path):
    "The set holds 40 images, drawn from the 450; a run on 20 others takes 20 of them, without a clean error"
    assert main(["evaluate", str(tmp_path/"run"), "--data", "digits", "--limit", "50", "--test-limit", "20", "--model", model, "--on", str(arrays), "--severities", "1"]) == 0
    t = read_evaluation(tmp_path/"run/on/arrays").table
    assert (t.n == 20).all() and "clean" not in set(t.family) and len(t) == 19


def test_evaluate_on_killed_leaves_the_same_bytes(arrays, model, home, tmp_path):
    command = ["evaluate", tmp_path/"run", *RUN, "--model", model, "--on", arrays]; parts = tmp_path/"run/on/arrays/parts/evaluate"
    assert strike(signal.SIGKILL, lambda: len(list(parts.glob("[!.]*.parquet"))) >= 10, *command).returncode == -signal.SIGKILL
    assert not (tmp_path/"run/on/arrays/evaluation.csv").exists()
    assert main(["evaluate", str(tmp_path/"run"), "--on", str(arrays)]) == 0
    assert (tmp_path/"run/on/arrays/evaluation.csv").read_bytes() == (home/"on/on/arrays/evaluation.csv").read_bytes()


def test_the_page_has_a_section_for_the_set(arrays, tmp_path):
    run = tmp_path/"run"
    assert main(["run", "digits", "--out", str(run), "--limit", "60", "--test-limit", "40", "--n-neighbors", "3", "-k", "5", "--severities", "5", "--attacks", "fgsm", "--attack-eps", "8", "--base-epochs", "1", "--epochs", "1", "--strategies", "standard"]) == 0
    assert main(["evaluate", str(run), "--on", str(arrays), "--severities", "5"]) == 0 and main(["report", str(run)]) == 0
    page = (run/"report.html").read_text()
    assert "<h2>arrays</h2>" in page and "CIFAR-C, made by wrnb, .npy" in page and "made in memory" in page and "white box" in page


# --- refused -------------------------------------------------------------------------------------------------------

CASES = {  # command -> what the line names
    "corrupt digits": "--out", "corrupt cifar11 --out {new}": "no data set 'cifar11'", "corrupt digits --out {new} --limit 0": "limit=0",
    "corrupt digits --out {new} --corruptions rain": "no corruption is called rain", "corrupt digits --out {new} --preset mnist-c": "no preset is called mnist-c",
    "corrupt digits --out {new} --seed -1": "seed=-1", "corrupt digits --out {new} --batch-size 0": "batch_size=0", "corrupt digits --out {new} --workers -1": "workers=-1",
    "corrupt digits --out {new} --device abacus": "--device abacus", "corrupt {pictures} --out {new} --size 8": "too small", "corrupt {cut} --out {new}": "cannot be read as an image",
    "corrupt digits --out {arrays} --limit 40 --seed 1": "corrupt seed=0, not 1", "corrupt digits --out {arrays} --limit 39": "corrupt data=",
    "corrupt digits --out {pictures}": "is not empty and was not made by wrnb corrupt", "corrupt digits --out {run}": "is not empty and was not made by wrnb corrupt",
    "evaluate {new}": "is no run folder: make one with wrnb run or wrnb score, or name --data and --model", "evaluate {arrays}": "is no run folder", "weak {arrays} -k 3": "holds a corrupted set",
    "evaluate {arrays} --data digits --model {model}": "holds a corrupted set", "evaluate {new} --data cifar10": "--model is missing", "evaluate {new} --data digits --model resnet20 --limit 9 --test-limit 9": "resnet20 has no checkpoint",
    "evaluate {new} --data digits --limit 9 --test-limit 9": "digits_net has no checkpoint", "evaluate {new} --data digits --model digits_net@{hundred} --limit 9 --test-limit 9": "100 outputs and the data 10 classes",
    "evaluate {new} --data digits --model digits_net@{nan} --limit 9 --test-limit 9 --attacks": "NaN or infinite logits",
    "evaluate {run} --on {new}": "{new} is not a folder", "evaluate {run} --on {pictures}": "{pictures} holds no corrupted set", "evaluate {run} --on {half}": "{half}/fog.npy is missing",
    "evaluate {run} --on {truncated}": "{truncated}/fog.npy cannot be read", "evaluate {run} --on {unlabelled}": "{unlabelled}/labels.npy is missing",
    "evaluate {run} --on {arrays} --attacks pgd": "a corrupted set is not attacked", "evaluate {run} --on {arrays} --families sound": "family sound", "evaluate {run} --families sound": "family of corruptions is called sound",
    "evaluate {run} --on {arrays} --severities 0": "severity=0", "evaluate {run} --severities 6": "severity=6", "validate {run} --severities 0": "severity=0",
    "evaluate {run} --test-limit 7": "setup test_limit=9, not 7", "evaluate {run} --data cifar10": "setup data=digits, not cifar10",
}


@pytest.fixture(scope="module")
def places(home, arrays, model):
    d = dict(arrays=arrays, model=model, pictures=pictures(home/"pictures"), cut=pictures(home/"cut"), run=home/"small", hundred=home/"hundred.safetensors", nan=home/"nan.safetensors")
    p = d["cut"]/"test/cat/0.png"; p.write_bytes(p.read_bytes()[:-200])
    for name in ("half", "truncated", "unlabelled"): d[name] = Path(shutil.copytree(arrays, home/name))
    (d["half"]/"fog.npy").unlink(); (d["unlabelled"]/"labels.npy").unlink(); f = d["truncated"]/"fog.npy"; f.write_bytes(f.read_bytes()[:-1000])
    save_weights(load_model("digits_net", 100), d["hundred"]); net = load_model("digits_net", 10)
    for w in net.parameters(): w.data.fill_(float("nan"))
    save_weights(net, d["nan"])
    assert main(["evaluate", str(d["run"]), "--data", "digits", "--limit", "50", "--test-limit", "9", "--model", model, "--attacks", "--severities", "3"]) == 0
    return d


@pytest.mark.parametrize("command", CASES)
def test_bad_input(command, places, tmp_path, capsys):
    names = dict(places, new=tmp_path/"new"); before = files(places["arrays"]), files(places["run"])
    line = complaint(capsys, *(w.format(**names) for w in command.split()))
    assert CASES[command].format(**names) in line
    assert (files(places["arrays"]), files(places["run"])) == before and not list(tmp_path.rglob("*.npy"))
