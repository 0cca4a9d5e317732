"""What people do with the command line: data that is mastered, `~` in paths, folders without a split, other classes.

Each case is a small run of its own, on the digits or on pictures that are made here.
"""
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import complaint, pictures, start
from wrnb.cli import COMMANDS, main, _options
from wrnb.commands import _import_rooms
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.runs import Run

FEW = "--severities 1 --attacks fgsm --attack-eps 2 --epochs 1 --n-neighbors 4 --device cpu".split()
DIGITS = ["digits", "--limit", "60", "--test-limit", "40"]


def wrnb(*words):
    "Do a command, which must succeed"
    assert main([str(w) for w in words]) == 0


def plain(folder):
    "Two classes that a network tells apart at once: dark and light squares"
    for split in ("train", "test"):
        for level, name in ((40, "dark"), (210, "light")):
            (folder/split/name).mkdir(parents=True)
            for i in range(20):
                square = np.full((32, 32, 3), level + i, np.uint8)
                Image.fromarray(square).save(folder/split/name/f"{i}.png")
    return folder


# --- nothing is weak ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def mastered(tmp_path_factory):
    "A run on data that the model masters"
    home = tmp_path_factory.mktemp("mastered")
    command = ["run", plain(home/"squares"), "--model", "digits_net", "--out", home/"run", *FEW]
    command += ["--base-epochs", "6", "--bs", "8"]
    wrnb(*command)
    return home/"run", command


def test_a_run_with_nothing_weak_ends_with_evaluation_and_report(mastered):
    run, _ = mastered
    assert pd.read_csv(run/"evaluation.csv").model.unique().tolist() == ["base", "standard", "augmix"]
    assert not (run/"weak.csv").exists() and not (run/"validation.csv").exists()
    page = (run/"report.html").read_text()
    assert "There was nothing to validate." in page and "REVa was not trained: no image" in page


def test_it_says_so_and_does_nothing_twice(mastered, capsys):
    run, command = mastered
    tables = {p: p.read_bytes() for p in run.rglob("*.csv")}
    wrnb(*command)
    out, err = capsys.readouterr()
    assert "weak: none, since no image" in out and "enhance: reva is left out" in out and err == ""
    assert {p: p.read_bytes() for p in run.rglob("*.csv")} == tables


@pytest.mark.parametrize("command", ["validate {run}", "enhance {run} --strategy reva"])
def test_what_needs_weak_samples_names_the_cause(command, mastered, capsys):
    run, _ = mastered
    line = complaint(capsys, *command.format(run=run).split(), "--device", "cpu")
    assert "has no weak samples" in line and "larger eps" in line
    wrnb("weak", run)
    assert "weak: none" in capsys.readouterr().out


def test_weaknesses_that_may_not_guide_leave_reva_out(tmp_path, capsys):
    "With a rule that calls nothing a weakness, but weak samples"
    command = ["run", *DIGITS, "--out", tmp_path/"run", *FEW, "--base-epochs", "10", "-k", "5", "--rule", "1"]
    wrnb(*command, "--strategies", "reva", "--families", "noise")
    assert "enhance: reva is left out, since no type that may guide it" in capsys.readouterr().out
    assert "REVa was not trained" in (tmp_path/"run/report.html").read_text()


def test_fewer_weak_samples_than_asked_for(tmp_path, capsys):
    wrnb("run", *DIGITS, "--limit", "200", "--out", tmp_path/"run", *FEW, "--base-epochs", "10", "-k", "50",
         "--eps", ".2", "--strategies", "standard")
    out, err = capsys.readouterr()
    weak = pd.read_csv(tmp_path/"run/weak.csv")
    assert 0 < len(weak) < 50 and (weak.score > 0).all()
    assert f"weak: {len(weak)} images" in out
    assert err.count("\n") == 1 and err.startswith("wrnb: warning: -k 50, but only")


# --- paths ----------------------------------------------------------------------------------------

def test_a_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch, capsys):
    "As in --out=~/x, which the shell leaves as it is"
    home = tmp_path/"home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    pictures(home/"photos")
    save_weights(load_model("digits_net", 2), home/"net.safetensors")
    setup = ["--model", "digits_net@~/net.safetensors"]
    wrnb("corrupt", "~/photos", "--out=~/set", "--corruptions", "fog", "--device", "cpu")
    wrnb("evaluate", "~/run", "--data=~/photos", *setup, "--on=~/set", "--severities", "1", "--device", "cpu")
    wrnb("score", "~/photos", *setup, "--out=~/run", "--n-neighbors", "2", "--device", "cpu")
    assert (home/"run/scores.parquet").is_file() and (home/"run/on/set/evaluation.csv").is_file()
    assert not (tmp_path/"~").exists()
    assert Run("~/run").options("setup")["data"] == str(home/"photos")
    assert str(home/"nothing.th") in complaint(capsys, "score", "digits", "--model", "digits_net@~/nothing.th",
                                               "--out=~/new")


# --- progress -------------------------------------------------------------------------------------

def test_each_line_is_there_when_it_happens(tmp_path):
    "Also if the output is a pipe"
    process = start("run", *DIGITS, "--out", tmp_path/"run", *FEW, "--base-epochs", "1", "--strategies", "standard")
    first = process.stdout.readline()
    assert first.startswith("base: trained 1 epoch, ") and process.poll() is None
    process.communicate(timeout=300)


def test_a_stage_that_is_refused_was_not_done_already(tmp_path, capsys):
    command = ["score", *DIGITS, "--model", _digits_net(tmp_path), "--out", tmp_path/"run", "--device", "cpu"]
    wrnb(*command, "--n-neighbors", "2")
    capsys.readouterr()
    assert main([*map(str, command), "--n-neighbors", "3"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "--n-neighbors 2, not 3" in err


def _digits_net(folder):
    save_weights(load_model("digits_net", 10), folder/"net.safetensors")
    return f"digits_net@{folder}/net.safetensors"


# --- normalisation --------------------------------------------------------------------------------

def test_mean_and_std_are_part_of_the_setup(tmp_path, capsys):
    command = ["score", *DIGITS, "--model", _digits_net(tmp_path), "--n-neighbors", "2", "--device", "cpu"]
    wrnb(*command, "--out", tmp_path/"name", "--mean", "half")
    wrnb(*command, "--out", tmp_path/"numbers", "--mean", ".5", ".5", ".5", "--std", ".5", ".5", ".5")
    name, numbers = (Run(tmp_path/n).options("setup") for n in ("name", "numbers"))
    assert (name["mean"], name["std"]) == ("half", None) and numbers["mean"] == numbers["std"] == [.5, .5, .5]
    tables = [pd.read_parquet(tmp_path/n/"scores.parquet") for n in ("name", "numbers")]
    pd.testing.assert_frame_equal(*tables)
    assert "--mean half, not None" in complaint(capsys, *command, "--out", tmp_path/"name")


@pytest.mark.parametrize("wrong", [["--mean", "halb"], ["--mean", ".5", ".5"], ["--std", "0", "0", "0"]])
def test_a_normalisation_that_cannot_be(wrong, tmp_path, capsys):
    command = ["score", *DIGITS, "--model", _digits_net(tmp_path), "--out", tmp_path/"run", "--device", "cpu"]
    assert wrong[0] in complaint(capsys, *command, *wrong)


def test_a_model_that_guesses_is_warned_about(tmp_path, capsys):
    "Weights that were never trained stand for another normalisation or another order of classes"
    torch.manual_seed(0)
    wrnb("score", *DIGITS, "--model", _digits_net(tmp_path), "--out", tmp_path/"run", "--n-neighbors", "2",
         "--device", "cpu")
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "normalisation (--mean, --std)" in line and "classes in another order" in line


# --- folders and classes --------------------------------------------------------------------------

@pytest.fixture
def unsplit(tmp_path):
    "A folder of class folders"
    pictures(tmp_path/"whole", n=10, splits=("all",))
    return tmp_path/"whole/all"


@pytest.fixture
def two(tmp_path):
    "A classifier of two classes"
    save_weights(load_model("digits_net", 2), tmp_path/"two.safetensors")
    return f"digits_net@{tmp_path}/two.safetensors"


def test_a_folder_without_test_images_can_be_split(unsplit, two, tmp_path, capsys):
    score = ["score", unsplit, "--model", two, "--n-neighbors", "2", "--out", tmp_path/"run", "--device", "cpu"]
    assert "--test-share" in complaint(capsys, *score)
    wrnb(*score, "--test-share", ".2")
    assert "data: the other 80% of" in capsys.readouterr().out
    assert len(pd.read_parquet(tmp_path/"run/scores.parquet")) == 16


def test_a_corrupted_copy_is_of_the_same_drawn_images(unsplit, two, tmp_path):
    "So the clean error can be measured on them"
    wrnb("corrupt", unsplit, "--test-share", ".2", "--out", tmp_path/"set", "--corruptions", "fog", "--device", "cpu")
    wrnb("evaluate", tmp_path/"run", "--data", unsplit, "--test-share", ".2", "--model", two, "--on", tmp_path/"set",
         "--severities", "1", "--device", "cpu")
    table = pd.read_csv(tmp_path/"run/on/set/evaluation.csv")
    assert table.perturbation.tolist() == ["clean", "fog"] and (table.n == 4).all()


def test_the_size_of_pictures_is_said(two, tmp_path, capsys):
    wrnb("score", pictures(tmp_path/"photos"), "--model", two, "--n-neighbors", "2", "--out", tmp_path/"run",
         "--device", "cpu")
    assert "pictures of 32 pixels, the median of their shorter sides is 32" in capsys.readouterr().out


def as_official(folder):
    "A corrupted set without our record, as it would be downloaded"
    (folder/"config.json").unlink()
    return folder


@pytest.fixture
def cats_and_dogs(tmp_path):
    "Pictures, and a corrupted set of them in folders named by class"
    data = pictures(tmp_path/"photos")
    wrnb("corrupt", data, "--out", tmp_path/"set", "--preset", "tiny-imagenet-c", "--corruptions", "gaussian_noise",
         "shot_noise", "impulse_noise", "--device", "cpu")
    return tmp_path/"set"


def test_a_corrupted_set_of_other_classes_is_refused(cats_and_dogs, two, tmp_path, capsys):
    "Equally many, of other names: both lists are shown"
    other = pictures(tmp_path/"other", classes=("kitten", "puppy"))
    evaluate = ["evaluate", tmp_path/"run", "--data", other, "--model", two, "--families", "noise", "--device", "cpu"]
    line = complaint(capsys, *evaluate, "--on", cats_and_dogs)
    assert all(name in line for name in ("cat", "dog", "kitten", "puppy"))


def test_a_corrupted_set_of_another_size_is_refused(cats_and_dogs, two, tmp_path, capsys):
    evaluate = ["evaluate", tmp_path/"run", "--data", tmp_path/"photos", "--size", "48", "--model", two]
    line = complaint(capsys, *evaluate, "--on", cats_and_dogs, "--families", "noise", "--device", "cpu")
    assert "32 x 32" in line and "48 x 48" in line


def test_a_family_needs_only_its_own_corruptions(cats_and_dogs, two, tmp_path, capsys):
    as_official(cats_and_dogs)
    evaluate = ["evaluate", tmp_path/"run", "--data", tmp_path/"photos", "--model", two, "--device", "cpu"]
    assert "is missing" in complaint(capsys, *evaluate, "--on", cats_and_dogs, "--families", "blur")
    wrnb(*evaluate, "--on", cats_and_dogs, "--families", "noise", "--severities", "1")
    assert "is a part of the set" not in capsys.readouterr().err
    names = pd.read_csv(tmp_path/"run/on/set/evaluation.csv").perturbation
    assert {"gaussian_noise", "shot_noise", "impulse_noise"} <= set(names)


def test_a_part_of_a_set_is_measured_and_said_to_be_one(cats_and_dogs, two, tmp_path, capsys):
    as_official(cats_and_dogs)
    evaluate = ["evaluate", tmp_path/"run", "--data", tmp_path/"photos", "--model", two, "--device", "cpu"]
    wrnb(*evaluate, "--on", cats_and_dogs, "--severities", "1")
    assert "3 of 15 corruptions, without defocus_blur" in capsys.readouterr().err


def test_a_checkpoint_that_names_its_classes_is_read_by_them(tmp_path, capsys):
    "In another order they are put into the data's; with other names it is refused"
    torch.manual_seed(0)
    data, net = pictures(tmp_path/"photos", n=8), load_model("digits_net", 2)
    weights = net.body.state_dict()
    last = [k for k, v in weights.items() if v.shape[:1] == (2,)]
    turned = weights | {k: weights[k].flip(0) for k in last}
    torch.save(dict(state_dict=weights, classes=["cat", "dog"]), tmp_path/"own.pth")
    torch.save(dict(state_dict=turned, classes=["dog", "cat"]), tmp_path/"turned.pth")
    torch.save(dict(state_dict=weights, classes=["kitten", "puppy"]), tmp_path/"other.pth")
    score = ["score", data, "--n-neighbors", "2", "--device", "cpu"]
    for name in ("own", "turned"):
        wrnb(*score, "--model", f"digits_net@{tmp_path}/{name}.pth", "--out", tmp_path/name)
    own, turned = (pd.read_parquet(tmp_path/name/"scores.parquet") for name in ("own", "turned"))
    assert own.pred.tolist() == turned.pred.tolist()
    np.testing.assert_allclose(own.score, turned.score, atol=1e-6)
    line = complaint(capsys, *score, "--model", f"digits_net@{tmp_path}/other.pth", "--out", tmp_path/"no")
    assert "kitten" in line and "cat" in line


# --- help -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_means(name):
    _import_rooms()
    for argument, option in _options(COMMANDS[name]).items(): assert option.docment, argument
