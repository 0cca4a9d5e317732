"""`wrnb corrupt` and `wrnb evaluate --on` as commands: killed and started again, read back, refused."""
import json, shutil, signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import complaint, cut, has_parts, hashes, pictures, same_bytes, strike
from wrnb.benchmark import read_evaluation
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.corrupted_sets import corrupted_set
from wrnb.runs import Run
from wrnb.models import save_weights
from wrnb.pretrained import load_model

DIGITS = ["corrupt", "digits", "--limit", "40", "--out"]
SOME = ["--corruptions", "gaussian_noise", "fog", "jpeg_compression", "speckle_noise"]
RUN = ["--data", "digits", "--limit", "50", "--test-limit", "40"]


def files(folder):
    "What a set consists of, as hashes; its config.json holds the time, too"
    return hashes(folder, lambda p: p.name != "config.json")


def run(*argv): assert main([str(a) for a in argv]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("corrupt")


@pytest.fixture(scope="module")
def arrays(home, one_thread):
    run(*DIGITS, home/"arrays")
    return home/"arrays"


@pytest.fixture(scope="module")
def jpegs(home, one_thread):
    run(*DIGITS, home/"jpegs", "--preset", "tiny-imagenet-c", *SOME)
    return home/"jpegs"


# --- written --------------------------------------------------------------------------------------

def test_the_layout_of_cifar_c(arrays):
    assert len(list(arrays.glob("*.npy"))) == 20 and {p.suffix for p in arrays.iterdir()} == {".npy", ".json"}
    for p in arrays.glob("*.npy"): assert np.load(p).shape == ((200,) if p.stem == "labels" else (200, 32, 32, 3))
    record = json.loads((arrays/"config.json").read_text())["stages"]["corrupt"]
    options = {"name": "digits", "n": 40, "preset": "cifar-c", "seed": 0, "size": [32, 32]}
    assert record["options"].items() >= options.items() and record["started"] <= record["finished"]


def test_the_layout_of_imagenet_c(jpegs):
    paths = sorted(jpegs.rglob("*.JPEG"))
    assert len(paths) == 4*5*40 and not [p for p in jpegs.rglob(".*")]
    cells = {(c, str(s)) for c in SOME[1:] for s in range(1, 6)}
    assert {p.relative_to(jpegs).parts[:2] for p in paths} == cells
    with Image.open(paths[0]) as im: assert im.format == "JPEG" and im.size == (32, 32)


def refusal(path):
    "What is said of a set that cannot be read"
    with pytest.raises(WrnbError) as e: corrupted_set(path)
    return str(e.value)


@pytest.mark.parametrize("preset, pattern, kills", [
    pytest.param("cifar-c", "[!.]*.npy", (1, 3), id="arrays"),
    pytest.param("imagenet-c", "[!.]*.JPEG", (100,), id="pictures")])
def test_killed_and_started_again_leaves_the_same_bytes(preset, pattern, kills, tmp_path, capsys):
    "Killed, and resumed in other batches and with a worker"
    names = ["fog", "snow", "frost", "contrast", "glass_blur", "elastic_transform"]
    command = ["corrupt", "digits", "--limit", "120", "--preset", preset, "--corruptions", *names, "--out"]
    run(*command, tmp_path/"whole", "--batch-size", "30")
    out = tmp_path/"set"
    for n in kills:
        ready = lambda: len(list(out.rglob(pattern))) >= n
        assert strike(signal.SIGKILL, ready, *command, out, "--batch-size", "30").returncode == -signal.SIGKILL
        assert not Run(out).done("corrupt") and str(out) in refusal(out)
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("[!.]*") if p.suffix in (".npy", ".JPEG")}
    assert kept
    run(*command, out, "--batch-size", "7", "--workers", "1")
    assert f"-> {out}" in capsys.readouterr().out and files(out) == files(tmp_path/"whole")
    again = [p for p, t in kept.items() if p.stat().st_mtime_ns != t]
    assert not again, "what was whole was written again"


def test_done_already(arrays, capsys):
    before = files(arrays)
    run(*DIGITS, arrays)
    assert capsys.readouterr() == (f"corrupt: done already, see {arrays}\n", "") and files(arrays) == before


@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
def test_no_room(preset, limit_file, tmp_path, capsys):
    "A limit on the size of files acts as a full disk; with room the command resumes"
    data, out = pictures(tmp_path/"data"), tmp_path/"set"
    command = ["corrupt", data, "--size", "96", "--out", out, "--preset", preset, "--corruptions", "gaussian_noise"]
    limit_file(4000)
    capsys.readouterr()
    code, err = main([str(a) for a in command]), capsys.readouterr().err.splitlines()
    limit_file()
    assert code == 2 and str(out) in err[-1] and "cannot be written" in err[-1] and "make room" in err[-1]
    run(*command)
    assert not [p for p in out.rglob(".*")]


def test_a_preset_that_does_not_fit_is_named_once(tmp_path, capsys):
    run(*DIGITS, tmp_path/"set", "--preset", "imagenet-c", "--corruptions", "contrast", "fog")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("wrnb: warning: ")
    assert "imagenet-c does not fit images of 32 x 32 pixels" in err and "cifar-c" in err


def test_a_folder_of_pictures(tmp_path):
    "Files keep their names and classes, the size is the one asked for"
    data, out = pictures(tmp_path/"data"), tmp_path/"set"
    run("corrupt", data, "--size", "24", "--preset", "cifar-c", "--corruptions", "fog", "--out", out)
    assert np.load(out/"fog.npy").shape == (30, 24, 24, 3)
    assert np.load(out/"labels.npy").tolist() == [0, 0, 0, 1, 1, 1]*5


# --- read back ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def evaluated(arrays, digits_model, home):
    "The run folder of an evaluation on the arrays"
    run("evaluate", home/"on", *RUN, "--model", digits_model, "--on", arrays)
    return home/"on"


def options_of(folder): return json.loads((folder/"config.json").read_text())["stages"]["evaluate"]["options"]


def test_on_the_arrays_every_error_is_that_of_the_images_in_memory(evaluated, digits_model, tmp_path):
    memory, on = tmp_path/"memory", evaluated/"on/arrays"
    run("evaluate", memory, *RUN, "--model", digits_model, "--attacks")
    from_files, in_memory = (pd.read_csv(p/"evaluation.csv") for p in (on, memory))
    extra = from_files.perturbation.isin(["speckle_noise", "gaussian_blur", "spatter", "saturate"])
    fifteen = from_files[~extra].reset_index(drop=True)
    assert len(from_files) == 96 and len(fifteen) == 76 and fifteen.n_wrong.nunique() > 5
    pd.testing.assert_frame_equal(fifteen, in_memory)
    made = dict(source="made by wrnb, .npy", kind="CIFAR-C", n=40, clean=True)
    assert options_of(on).items() >= made.items()
    made = dict(source="made in memory", preset="cifar-c", attacks=[])
    assert options_of(memory).items() >= made.items()


def test_the_summary_names_the_source(arrays, digits_model, tmp_path, capsys):
    command = ["evaluate", tmp_path/"run", *RUN, "--model", digits_model, "--severities", "3"]
    run(*command, "--on", arrays)
    out = capsys.readouterr().out
    for words in ("made by wrnb, .npy", "Errors in percent on 40 test images:", "corruption_error", "95 % interval"):
        assert words in out
    run(*command, "--attacks")
    assert "made in memory" in capsys.readouterr().out


def test_on_jpegs_the_source_is_another(jpegs, digits_model, home, capsys):
    noise = ["--on", jpegs, "--families", "noise", "--severities", "5"]
    run("evaluate", home/"run", *RUN, "--model", digits_model, *noise)
    found = read_evaluation(home/"run/on/jpegs")
    assert found.table.perturbation.tolist() == ["clean", "gaussian_noise", "speckle_noise"]
    assert found.source == "made by wrnb, JPEG" and found.kind == "Tiny-ImageNet-C"
    capsys.readouterr()
    run("evaluate", home/"run", *noise)
    assert f"evaluate: done already, see {home}/run/on/jpegs/evaluation.csv" in capsys.readouterr().out


def test_other_images_have_no_clean_row_and_a_run_can_take_a_part(arrays, digits_model, tmp_path):
    "The set holds 40 images, drawn from the 450; a run on 20 others takes 20 of them, without a clean error"
    setup = ["--data", "digits", "--limit", "50", "--test-limit", "20", "--model", digits_model]
    run("evaluate", tmp_path/"run", *setup, "--on", arrays, "--severities", "1")
    t = read_evaluation(tmp_path/"run/on/arrays").table
    assert (t.n == 20).all() and "clean" not in set(t.family) and len(t) == 19


def test_evaluate_on_killed_leaves_the_same_bytes(arrays, digits_model, evaluated, tmp_path):
    command = ["evaluate", tmp_path/"run", *RUN, "--model", digits_model, "--on", arrays]
    folder = tmp_path/"run/on/arrays"
    ready = has_parts(folder/"parts/evaluate", 10)
    assert strike(signal.SIGKILL, ready, *command).returncode == -signal.SIGKILL
    assert not (folder/"evaluation.csv").exists()
    run("evaluate", tmp_path/"run", "--on", arrays)
    assert same_bytes("evaluation.csv", folder, evaluated/"on/arrays")


def test_the_page_has_a_section_for_the_set(arrays, tmp_path):
    setup = "--limit 60 --test-limit 40 --n-neighbors 3 -k 5 --severities 5 --attacks fgsm --attack-eps 8".split()
    training = "--base-epochs 1 --epochs 1 --strategies standard".split()
    run("run", "digits", "--out", tmp_path/"run", *setup, *training)
    run("evaluate", tmp_path/"run", "--on", arrays, "--severities", "5")
    run("report", tmp_path/"run")
    page = (tmp_path/"run"/"report.html").read_text()
    for words in ("<h2>arrays</h2>", "CIFAR-C, made by wrnb, .npy", "made in memory", "white box"): assert words in page


# --- refused --------------------------------------------------------------------------------------

CORRUPT = "corrupt digits --out {new}"
NEW = "evaluate {new} --data digits --limit 9 --test-limit 9"
RUN_ON = "evaluate {run} --on"
CASES = {  # command -> what the line names
    "corrupt digits": "--out",
    "corrupt cifar11 --out {new}": "no data set 'cifar11'",
    CORRUPT + " --limit 0": "--limit 0",
    CORRUPT + " --corruptions rain": "rain",
    CORRUPT + " --preset mnist-c": "mnist-c",
    CORRUPT + " --seed -1": "--seed -1",
    CORRUPT + " --batch-size 0": "--batch-size 0",
    CORRUPT + " --workers -1": "--workers -1",
    CORRUPT + " --device abacus": "--device abacus",
    "corrupt {pictures} --out {new} --size 8": "too small",
    "corrupt {cut} --out {new}": "cannot be read as an image",
    "corrupt digits --out {arrays} --limit 40 --seed 1": "corrupt --seed 0, not 1",
    "corrupt digits --out {arrays} --limit 39": "corrupt DATA ",
    "corrupt digits --out {pictures}": "is not empty and was not made by wrnb corrupt",
    "corrupt digits --out {run}": "is not empty and was not made by wrnb corrupt",
    "evaluate {new}": "is not a run folder: make one with wrnb run or wrnb score, or name --data and --model",
    "evaluate {arrays}": "is not a run folder",
    "evaluate {arrays} --data digits --model {model}": "holds a corrupted set",
    "weak {arrays} -k 3": "holds a corrupted set",
    "evaluate {new} --data cifar10": "--model is missing",
    NEW + " --model resnet20": "resnet20 has no checkpoint",
    NEW: "digits_net has no checkpoint",
    NEW + " --model digits_net@{hundred}": "100 outputs and the data 10 classes",
    NEW + " --model digits_net@{nan} --attacks": "the model's logits for image 0 are not finite",
    RUN_ON + " {new}": "{new}",
    RUN_ON + " {pictures}": "{pictures} holds no corrupted set",
    RUN_ON + " {half}": "{half}/fog.npy is missing",
    RUN_ON + " {truncated}": "{truncated}/fog.npy cannot be read",
    RUN_ON + " {unlabelled}": "{unlabelled}/labels.npy is missing",
    RUN_ON + " {arrays} --attacks pgd": "a corrupted set",
    RUN_ON + " {arrays} --families sound": "sound",
    RUN_ON + " {arrays} --severities 0": "severity=0",
    "evaluate {run} --families sound": "sound",
    "evaluate {run} --severities 6": "severity=6",
    "validate {run} --severities 0": "severity=0",
    "evaluate {run} --test-limit 7": "setup --test-limit 9, not 7",
    "evaluate {run} --data cifar10": "setup --data digits, not cifar10",
}


def break_arrays(arrays, home):
    "Copies of a set in which an array is missing or cut off, or the labels are missing"
    copies = {name: Path(shutil.copytree(arrays, home/name)) for name in ("half", "truncated", "unlabelled")}
    (copies["half"]/"fog.npy").unlink()
    (copies["unlabelled"]/"labels.npy").unlink()
    cut(copies["truncated"]/"fog.npy", 1000)
    return copies


def bad_weights(home):
    "Checkpoints with a hundred outputs, and with NaN"
    hundred, net = load_model("digits_net", 100), load_model("digits_net", 10)
    for p in net.parameters(): p.data.fill_(float("nan"))
    nets = dict(hundred=hundred, nan=net)
    return {name: save_weights(net, home/f"{name}.safetensors") for name, net in nets.items()}


@pytest.fixture(scope="module")
def places(home, arrays, digits_model):
    names = dict(arrays=arrays, model=digits_model, pictures=pictures(home/"pictures"), cut=pictures(home/"cut"))
    cut(names["cut"]/"test/cat/0.png")
    setup = ["--data", "digits", "--limit", "50", "--test-limit", "9", "--model", digits_model]
    run("evaluate", home/"small", *setup, "--attacks", "--severities", "3")
    return names | dict(run=home/"small") | break_arrays(arrays, home) | bad_weights(home)


@pytest.mark.parametrize("command", CASES)
def test_bad_input(command, places, tmp_path, capsys):
    names = dict(places, new=tmp_path/"new")
    before = files(places["arrays"]), files(places["run"])
    line = complaint(capsys, *(word.format(**names) for word in command.split()))
    assert CASES[command].format(**names) in line
    assert (files(places["arrays"]), files(places["run"])) == before and not list(tmp_path.rglob("*.npy"))
