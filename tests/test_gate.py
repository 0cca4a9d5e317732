"""`wrnb gate --not-worse-than`: two runs on the same images are compared image by image."""
import copy, json, shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import complaint
from wrnb.benchmark import evaluate, read_evaluation
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.corrupted_copies import save_corrupted
from wrnb.folders import load_data
from wrnb.gate import PASSED, UNCLEAR, _figures, _not_worse, _read_run, check, junit, markdown, save_gate
from wrnb.image_sets import limited
from wrnb.models import as_model
from wrnb.pretrained import load_model
from wrnb.training import train

HOW = dict(severities=[2, 4], attack_names=[], device="cpu")


@pytest.fixture(scope="module")
def nets():
    "A classifier of the digits, and the same one with a little noise on its weights"
    torch.manual_seed(1)
    digits, test = load_data("digits")
    net = as_model(train(load_model("digits_net", 10), digits, test, epochs=5, lr=.2, bs=64, device="cpu")).eval()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters(): p.add_(.03*p.std()*torch.randn_like(p) if p.dim() > 1 else 0)
    return net, other.eval(), limited(test, 200)


@pytest.fixture(scope="module")
def runs(nets, tmp_path_factory):
    "A run folder of each, all images in every cell"
    folder = tmp_path_factory.mktemp("runs")
    net, other, test = nets
    found = [evaluate(dict(model=m), test, out=folder/name, **HOW) for name, m in (("a", net), ("b", other))]
    return folder, found


def wrong_per_image(evaluation):
    "The mean of the 30 cells' outcomes for each image"
    cells = evaluation.outcomes.cells
    cells = cells[cells.family != "clean"]
    assert len(cells) == 30
    return np.mean([w[np.argsort(i)] for i, w in zip(cells["index"], cells.wrong)], axis=0)


def test_the_difference_is_paired(runs):
    folder, found = runs
    d = wrong_per_image(found[0]) - wrong_per_image(found[1])
    half = 1.96*d.std(ddof=1)/len(d)**.5
    decision = check(folder/"a", not_worse_than=folder/"b", max_error={"corruption": 1}, margin=.5).decisions[-1]
    assert decision.error == pytest.approx(d.mean()) and decision.n == 200
    assert decision.high - decision.low == pytest.approx(2*half, rel=.1)
    assert "paired" in decision.name


def test_it_tells_more_than_two_intervals_do(runs):
    folder, _ = runs
    paired = check(folder/"a", not_worse_than=folder/"b").decisions
    figures = [_figures(_read_run(folder/name, None)) for name in "ab"]
    apart = _not_worse(*figures, ["clean", "corruption"], 0)
    for p, q in zip(paired, apart):
        assert p.error == pytest.approx(q.error) and p.high - p.low < .6*(q.high - q.low)


def test_each_evaluation_is_read_once(runs, monkeypatch):
    "All decisions are about one state of the tables, also if somebody evaluates again meanwhile"
    folder, asked = runs[0], []
    monkeypatch.setattr("wrnb.gate.read_evaluation", lambda f: asked.append(f) or read_evaluation(f))
    check(folder/"a", {"clean": .5}, not_worse_than=folder/"b")
    assert asked == [folder/"a", folder/"b"]


def test_the_same_model_is_not_worse_than_itself(nets, tmp_path):
    net, _, test = nets
    for name in "ab": evaluate(dict(model=net), test, out=tmp_path/name, per_cell=40, **HOW)
    assert check(tmp_path/"a", not_worse_than=tmp_path/"b", margin=.5).verdict == PASSED
    assert main(["gate", str(tmp_path/"a"), "--not-worse-than", str(tmp_path/"b"), "--margin", "0.5"]) == 0


def test_a_part_of_the_images_is_paired_if_it_is_the_same_part(nets, tmp_path):
    net, other, test = nets
    for name, m, seed in (("a", net, 0), ("b", other, 0), ("c", other, 1)):
        evaluate(dict(model=m), test, out=tmp_path/name, per_cell=40, seed=seed, **HOW)
    names = {k: check(tmp_path/"a", not_worse_than=tmp_path/k).decisions[1].name for k in "bc"}
    assert "paired" in names["b"] and "paired" not in names["c"]


def test_other_images_are_compared_by_their_intervals(nets, runs, tmp_path):
    _, other, test = nets
    evaluate(dict(model=other), test.take(range(199, -1, -1)), out=tmp_path/"turned", **HOW)
    gate = check(runs[0]/"a", not_worse_than=tmp_path/"turned")
    assert not any("paired" in d.name for d in gate.decisions) and gate.verdict == UNCLEAR


def test_the_figures_on_the_command_line(runs, tmp_path, capsys):
    folder, _ = runs
    code = main(["gate", str(folder/"b"), "--not-worse-than", str(folder/"a"), "--margin", "50"])
    out = capsys.readouterr().out
    assert code == 0 and "corruption, worse than before by (paired)" in out
    assert json.loads((folder/"a/config.json").read_text())["stages"]["evaluate"]["options"]["data"]


# --- what cannot be compared ----------------------------------------------------------------------

def refusal(out, other, limits=(), **how):
    "The one line with which a comparison is refused, in either direction"
    with pytest.raises(WrnbError) as e: check(out, limits, not_worse_than=other, **how)
    with pytest.raises(WrnbError): check(other, limits, not_worse_than=out, **how)
    assert "\n" not in str(e.value) and str(e.value).startswith(f"not_worse_than={other} has ")
    return str(e.value)


CELLS = {  # what the other run measured -> how many cells its corruption error is over
    "fewer severities": (dict(severities=[2]), 15), "other severities": (dict(severities=[2, 5]), 30),
    "one family": (dict(families=("noise",)), 6), "noise alone at severity 3": (
        dict(families=("noise",), severities=[3]), 3)}


@pytest.mark.parametrize("other", CELLS)
def test_figures_over_other_cells_are_not_compared(nets, tmp_path, other):
    net, _, test = nets
    options, n = CELLS[other]
    few = limited(test, 20)
    evaluate(dict(model=net), few, out=tmp_path/"a", **HOW)
    evaluate(dict(model=net), few, out=tmp_path/"b", **(HOW | options))
    line = refusal(tmp_path/"a", tmp_path/"b")
    assert f"has corruption over {n} cells, not the 30 of {tmp_path}/a" in line
    assert "evaluate both with the same families= and severities=" in line
    assert check(tmp_path/"a", {"clean": 1}, not_worse_than=tmp_path/"b").decisions[1].error == 0


def test_a_family_that_both_have_is_compared(nets, tmp_path):
    net, _, test = nets
    few = limited(test, 20)
    evaluate(dict(model=net), few, out=tmp_path/"a", **HOW)
    evaluate(dict(model=net), few, out=tmp_path/"b", families=("noise", "blur"), **HOW)
    assert check(tmp_path/"a", {"noise": 1}, not_worse_than=tmp_path/"b").decisions[1].error == 0
    assert "has weather over 0 cells, not the 8" in refusal_of_one_side(tmp_path, {"weather": 1})


def refusal_of_one_side(folder, limits):
    with pytest.raises(WrnbError) as e: check(folder/"a", limits, not_worse_than=folder/"b")
    return str(e.value)


def changed(folder, to, stage, **options):
    "A copy of a run folder whose config.json records other options"
    shutil.copytree(folder, to)
    config = json.loads((to/"config.json").read_text())
    record = config["stages"].get(stage) or dict(config["stages"]["evaluate"], options={})
    config["stages"][stage] = record
    record["options"].update(options)
    (to/"config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize("stage, options", [
    ("evaluate", dict(source="official .npy files")), ("evaluate", dict(kind="ImageNet-C")),
    ("evaluate", dict(preset="imagenet-c"))])
def test_other_corrupted_images_are_refused(runs, tmp_path, stage, options):
    folder, _ = runs
    other = changed(folder/"a", tmp_path/"b", stage, **options)
    (name, value), = options.items()
    assert f"has {name}={value}, not " in refusal(folder/"a", other)


@pytest.mark.parametrize("options", [dict(data="cifar10"), dict(data="digits", size=64)])
def test_other_data_are_refused(runs, tmp_path, options):
    ours = changed(runs[0]/"a", tmp_path/"a", "setup", data="digits", size=32)
    other = changed(runs[0]/"a", tmp_path/"b", "setup", **options)
    assert "give a run on the same data" in refusal(ours, other)
    below = changed(runs[0]/"a", tmp_path/"c", "setup", **options)/"on/a"
    shutil.copytree(runs[0]/"a", below)
    assert "give a run on the same data" in refusal(ours, below)
    unknown = check(ours, not_worse_than=runs[0]/"a")  # a run that says nothing of its data
    assert [d.error for d in unknown.decisions] == [0, 0]


def test_two_sets_on_disk_are_refused_even_if_they_have_one_name(nets, tmp_path):
    net, _, test = nets
    for name, images in (("a", limited(test, 20)), ("b", limited(test, 20, seed=1))):
        made = save_corrupted(images, tmp_path/name/"set", ["fog"])
        evaluate(dict(model=net), made, out=tmp_path/"runs"/name, device="cpu")
    assert "has data=" in refusal(tmp_path/"runs/a", tmp_path/"runs/b")
    decision, = check(tmp_path/"runs/a", not_worse_than=tmp_path/"runs/a").decisions
    assert decision.name.startswith("corruption")  # there are no clean images, so nothing is said of them


def test_an_error_that_only_one_has_is_refused(nets, tmp_path):
    net, _, test = nets
    few = limited(test, 20)
    made = save_corrupted(few, tmp_path/"set", ["fog"])
    evaluate(dict(model=net), made, out=tmp_path/"b", device="cpu")
    made.clean = few
    evaluate(dict(model=net), made, out=tmp_path/"a", device="cpu")
    assert "has clean over 0 cells, not the 1" in refusal_of_one_side(tmp_path, ())


def test_other_attacks_do_not_matter(nets, tmp_path):
    "No figure of the gate has attacks in it"
    net, _, test = nets
    few = limited(test, 20)
    for name, attacks, eps in (("a", ["fgsm"], 1/255), ("b", ["pgd"], 8/255)):
        how = HOW | dict(attack_names=attacks, eps=(eps,))
        evaluate(dict(model=net), few, out=tmp_path/name, **how)
    assert all(d.error == 0 for d in check(tmp_path/"a", not_worse_than=tmp_path/"b").decisions)


@pytest.mark.parametrize("option", ["--junit-file", "--summary"])
def test_no_folder_is_made_for_a_file(runs, tmp_path, capsys, option):
    words = ["gate", runs[0]/"a", "--max-error", "clean=1", option]
    line = complaint(capsys, *words, tmp_path/"no/folder/x.xml")
    assert f"{tmp_path}/no/folder does not exist" in line and not (tmp_path/"no").exists()
    assert "it is a folder" in complaint(capsys, *words, tmp_path)
    assert main([str(w) for w in [*words, tmp_path/"x.xml"]]) == 0 and (tmp_path/"x.xml").stat().st_size


def test_a_part_of_the_corruptions_is_called_so(nets, tmp_path):
    "A limit of the corruption error that was kept under noise alone is not kept under the 15"
    net, _, test = nets
    evaluate(dict(model=net), test, out=tmp_path/"noise", **HOW | dict(families=["noise"], severities=[3]))
    evaluate(dict(model=net), test, out=tmp_path/"all", **HOW | dict(severities=[1, 2, 3, 4, 5], per_cell=20))
    part, noise, clean = check(tmp_path/"noise", dict(corruption=.99, noise=.99, clean=.99)).decisions
    assert [d.over for d in (part, noise, clean)] == ["3 of 15 corruptions, severity 3", "severity 3", ""]
    gate = check(tmp_path/"noise", dict(corruption=.99), not_worse_than=tmp_path/"noise", margin=50)
    for text in (str(gate), junit(gate), markdown(gate)): assert text.count("(3 of 15 corruptions, severity 3)") == 2
    assert [d.title for d in check(tmp_path/"all", dict(corruption=.99, blur=.99)).decisions] == ["corruption", "blur"]


@pytest.mark.parametrize("name", ["a\x00b", "a\x1b[0m", "a\ud800", "<&\"'>", "\u00e4"])
def test_junits_xml_can_be_read_whatever_a_model_is_called(runs, name):
    gate = replace(check(runs[0]/"a", dict(clean=0)), model=name)
    suite = ElementTree.fromstring(junit(gate).encode())
    assert suite.get("failures") == "1" and suite[0].get("classname").startswith("wrnb.")


@pytest.mark.parametrize("limits", [.9, None, 3])
def test_limits_without_a_name_are_refused_in_one_line(runs, limits):
    with pytest.raises(WrnbError, match=f"max_error={limits} names no figure"): check(runs[0]/"a", limits)


def test_one_limit_may_be_given_as_text(runs):
    assert check(runs[0]/"a", "clean = .9").verdict == check(runs[0]/"a", dict(clean=.9)).verdict == PASSED


def test_a_run_with_clean_images_alone_has_a_clean_error(runs, tmp_path):
    table = pd.read_csv(runs[0]/"a/evaluation.csv")
    table[table.family == "clean"].to_csv(tmp_path/"evaluation.csv", index=False)
    assert check(tmp_path, dict(clean=.99)).verdict == PASSED
    with pytest.raises(WrnbError, match="max_error='corruption' is not known: give one of clean"):
        check(tmp_path, dict(corruption=.99))


@pytest.mark.parametrize("words", [["clean=0", "clean=1"], ["clean=0", "--max-error", "clean=1"]])
def test_two_limits_of_one_name_are_refused(runs, capsys, words):
    "The last one alone would let everything pass"
    assert "clean has several limits: give one" in complaint(capsys, "gate", runs[0]/"a", "--max-error", *words)


def test_an_option_that_is_given_again_adds_to_the_first(runs):
    "A limit that is broken counts wherever it is written"
    words = ["gate", str(runs[0]/"a"), "--max-error", "corruption=0", "--max-error", "clean=1"]
    assert main(words) == 1


@pytest.mark.parametrize("margin", [1, .5, "x"])
def test_a_margin_without_another_run_is_refused(runs, margin):
    with pytest.raises(WrnbError, match=f"margin={margin} has no run to compare with: give not_worse_than="):
        check(runs[0]/"a", dict(clean=1), margin=margin)


@pytest.mark.parametrize("name, shown", [
    ("a|b", r"a\|b"), ("a\nb", "a b"), ("<b>&", r"\<b\>\&"), ("*a*_b_`c`", r"\*a\*\_b\_\`c\`"),
    ("[a](b)", r"\[a\](b)"), ("a\ud800", "a?")])
def test_markdown_shows_a_models_name_as_it_is(runs, tmp_path, name, shown):
    gate = replace(check(runs[0]/"a", dict(clean=1)), folder="run", model=name)
    assert markdown(gate).splitlines()[:2] == [f"### run, {shown}: passed", ""]
    save_gate(gate, summary=tmp_path/"s.md")
    assert (tmp_path/"s.md").read_text() == markdown(gate)
