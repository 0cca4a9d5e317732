"""The table of install and import times: how its rows are made, with nothing installed, and the page that shows them.

Installs and imports themselves are made up here: benchmarks/imports.py takes minutes and a network.
"""
import csv, importlib, json, os, re, sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from helpers import ROOT

TIMES = dict(torch_s=1., more_s=.5, ratio=.5, brings="scipy")
SETUPTOOLS = "ModuleNotFoundError: No module named 'pkg_resources'"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/"benchmarks")
    yield importlib.import_module("imports")
    sys.modules.pop("imports")


# --- figures --------------------------------------------------------------------------------------

def test_pip_says_how_many_packages_it_installs_and_which_were_on_the_disk(script):
    urls = ["https://files.example.org/a.whl", *(Path(f"/wheels/{x}.whl").as_uri() for x in "bc")]
    report = dict(install=[dict(download_info=dict(url=url)) for url in urls])
    assert script.counted(report) == dict(packages=3, from_disk=2)


def test_the_ratio_is_taken_process_by_process(script):
    "The medians are 2 and 6, whose ratio is 3; the ratios are 6, 1 and 2.5"
    times = [[1, 6, ["scipy", "timm"]], [10, 10, []], [2, 5, []]]
    assert script.median_import(times) == dict(torch_s=2, more_s=6, ratio=2.5, brings="scipy timm")
    command = script.median_import([[0, .03, []], [0, .02, []], [0, .05, []]])
    assert command == dict(torch_s=0, more_s=.03, ratio=None, brings="")


@pytest.mark.parametrize("stderr, said", [
    ("Traceback\n  x\nImportError: no x\n", "ImportError: no x"),
    ("ERROR: no x\nWARNING: no folder y\n[notice] a new pip\n", "ERROR: no x"),
    ("", "exit status 1"), ("WARNING: slow\n", "exit status 1"), ("x"*500, "x"*200)])
def test_the_last_line_of_an_error(script, stderr, said):
    assert script.last_error(SimpleNamespace(stderr=stderr, returncode=1)) == said


# --- environments ---------------------------------------------------------------------------------

def test_the_size_of_an_environment_is_without_byte_code(script, tmp_path):
    (tmp_path/"lib").mkdir()
    for name, n in (("a", 2**20), ("lib/b.py", 2**19), ("lib/b.pyc", 2**22)): (tmp_path/name).write_bytes(bytes(n))
    assert script.megabytes(tmp_path) == 1.5


def test_a_copy_of_an_environment_is_links_and_leaves_the_first_one_alone(script, tmp_path):
    env = tmp_path/"torch"
    (env/"lib").mkdir(parents=True)
    (env/"lib"/"a.py").write_text("a")
    (env/"lib64").symlink_to("lib")
    (tmp_path/"env").mkdir()
    (tmp_path/"env"/"old").touch()  # of the package before
    copy = script.copied(env, tmp_path/"env")
    assert sorted(p.name for p in copy.iterdir()) == ["lib", "lib64"] and os.readlink(copy/"lib64") == "lib"
    assert (copy/"lib"/"a.py").samefile(env/"lib"/"a.py")
    (copy/"lib"/"a.py").unlink()  # as pip does
    assert (env/"lib"/"a.py").read_text() == "a"


def test_an_environment_sees_no_modules_of_this_one(script, tmp_path, monkeypatch):
    (tmp_path/"bin").mkdir()
    (tmp_path/"bin"/"python").symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "import os; print(os.environ.get('PYTHONPATH'), os.getcwd())"
    assert script.call(tmp_path, "-c", code).stdout.split() == ["None", str(tmp_path)]


def test_a_fresh_process_gives_seconds_and_what_came_along_or_the_error(script, tmp_path):
    (tmp_path/"bin").mkdir()
    (tmp_path/"bin"/"python").symlink_to(sys.executable)
    (tmp_path/"torch.py").write_text("")
    (tmp_path/"scipy.py").write_text("")
    (tmp_path/"slow.py").write_text("import scipy\nn = sum(range(2_000_000))")
    (tmp_path/"broken.py").write_text("import pkg_resources_that_is_not")
    torch_s, more_s, brings = script.fresh(tmp_path, "slow")
    assert torch_s < more_s and brings == ["scipy"]
    assert script.fresh(tmp_path, "broken").endswith("No module named 'pkg_resources_that_is_not'")


# --- rows -----------------------------------------------------------------------------------------

def made_up(script, monkeypatch, imported, installs=()):
    "The script, with imports and installs that take no time"
    outcomes, asked = iter(installs), []
    def install(env, *what):
        asked.append(what)
        return next(outcomes, dict(install_s=4., install_cpu_s=3., mb=2., packages=5, from_disk=1))
    monkeypatch.setattr(script, "install", install)
    monkeypatch.setattr(script, "imported", lambda env, module, repeats: imported[module].pop(0))
    monkeypatch.setattr(script, "copied", lambda env, folder: folder)
    monkeypatch.setattr(script, "new_env", lambda folder: folder)
    monkeypatch.setattr(script, "wheel", lambda folder: folder/"wrnb.whl")
    versions = {name: f"1.{i}" for i, name in enumerate(["torch", *script.PACKAGES])}
    monkeypatch.setattr(script, "versions", lambda env: versions)
    return asked


def test_a_package_has_its_install_on_one_row_and_a_row_for_each_module(script, monkeypatch):
    modules = script.PACKAGES["wrnb"]
    asked = made_up(script, monkeypatch, {m: [TIMES] for m in modules})
    rows = script.package_rows("wrnb", Path("torch"), Path("folder"), 3)
    assert asked == [(Path("folder/wrnb.whl"),)]
    assert [r["module"] for r in rows] == modules and {r["package"] for r in rows} == {"wrnb"}
    assert rows[0]["mb"] == 2 and rows[0]["version"] == "1.1" and not any("mb" in r for r in rows[1:])


def test_a_module_that_fails_is_tried_again_if_its_error_is_known(script, monkeypatch):
    imported = dict(imagecorruptions=[dict(fails=SETUPTOOLS), TIMES], art=[dict(fails="ImportError: no x")])
    asked = made_up(script, monkeypatch, imported)
    first, second = script.module_rows(Path("env"), "imagecorruptions", 3)
    assert first == dict(module="imagecorruptions", fails=SETUPTOOLS) and asked == [("setuptools<81",)]
    assert second == dict(module="imagecorruptions", after="setuptools<81") | TIMES
    assert list(script.module_rows(Path("env"), "art", 3)) == [dict(module="art", fails="ImportError: no x")]


def test_a_second_try_can_fail_too(script, monkeypatch):
    two = [dict(fails=SETUPTOOLS), dict(fails="No module named 'autoattack'")]
    made_up(script, monkeypatch, dict(robustbench=two))
    _, second = script.module_rows(Path("env"), "robustbench", 3)
    assert second == dict(module="robustbench", after="setuptools<81", fails="No module named 'autoattack'")
    made_up(script, monkeypatch, dict(robustbench=[dict(fails=SETUPTOOLS)]), [dict(fails="no network")])
    _, second = script.module_rows(Path("env"), "robustbench", 3)
    assert second == dict(module="robustbench", after="setuptools<81", fails="no network")


def test_what_cannot_be_installed_is_a_row_and_the_others_are_measured(script, monkeypatch):
    installs = [dict(mb=9.), dict(fails="ERROR: no such package"), dict(mb=1.)]
    made_up(script, monkeypatch, dict(art=[TIMES]), installs)
    packages = ["foolbox", "adversarial-robustness-toolbox"]
    torch, foolbox, art = script.table_rows(["torch"], packages, Path("folder"), 1)
    assert torch == dict(package="torch", version="1.0", mb=9.)
    assert foolbox == dict(package="foolbox", fails="ERROR: no such package") and art["mb"] == 1


def test_without_torch_there_is_no_table(script, monkeypatch):
    made_up(script, monkeypatch, {}, [dict(fails="ERROR: no network")])
    with pytest.raises(SystemExit, match="torch torchvision: ERROR: no network"):
        script.table_rows(["torch", "torchvision"], [], Path("folder"), 1)


def test_the_table_has_the_columns_of_the_committed_one(script):
    rows = [dict(package="torch", packages=28, mb=9.26), dict(package="x", module="x", **TIMES | dict(more_s=.12345))]
    table = script.as_table(rows, repeats=3, python="3.11.7", commit="2944fcc8d3b1")
    assert list(table) == list(pd.read_csv(ROOT/"benchmarks"/"imports.csv"))
    assert table.mb[0] == 9.3 and table.more_s[1] == .123 and set(table.repeats) == {3}
    assert table.to_csv(columns=["packages"], index=False).split() == ["packages", "28", '""']


# --- the page -------------------------------------------------------------------------------------

FORMS = dict(install_cpu_s="{:.0f}", mb="{:,.0f}", packages="{:.0f}", repeats="{:.0f}", more_s="{:.2f}")
NAMED = ["wrnb.corruptions", "imagecorruptions", "wrnb.attacks", "torchattacks", "wrnb.scoring"]  # in the answer
TABLE = list(csv.DictReader((ROOT/"benchmarks"/"imports.csv").read_text(encoding="utf-8").splitlines()))


def shown():
    "The text that the page computes on installs and imports, its lines joined"
    cells = json.loads((ROOT/"nbs"/"results"/"peers.ipynb").read_text(encoding="utf-8"))["cells"]
    first = next(i for i, c in enumerate(cells) if "imports.csv" in "".join(c["source"]))
    outputs = [o.get("data", {}) for c in cells[first:] for o in c.get("outputs", ())]
    return "\n\n".join("".join(data["text/markdown"]) for data in outputs if "text/markdown" in data)


def test_each_figure_of_the_page_is_in_the_table():
    known = {form.format(float(r[c])) for r in TABLE for c, form in FORMS.items() if r[c]}
    known |= {f"{float(r['more_s']):.1f}" for r in TABLE if r["module"] == "wrnb.all"}
    text = re.sub(r"`[^`]*`|commit \w+|(?<=Python )[\d.]+|(?<=torch )[\d.]+|^\| \S+ \S+", "", shown(), flags=re.M)
    figures = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    assert len(figures) > 20 and not set(figures) - known


def test_the_page_has_each_install_and_says_what_fails():
    text = shown()
    for r in TABLE:
        if r["mb"] and r["package"] != "torch":
            row = [f"{r['package']} {r['version']}", *(FORMS[c].format(float(r[c])) for c in list(FORMS)[:3])]
            assert f"| {' | '.join(row)} |" in text
        if r["fails"]: assert r["fails"].partition(": ")[2] in text
    assert f"commit {TABLE[0]['commit']}" in text and f"Python {TABLE[0]['python']}" in text


def test_the_figures_of_the_answer_are_those_of_the_modules_it_names():
    answer = " ".join(shown().partition("\n\n")[0].split())
    found = re.search(r"to corrupt pictures takes (\S+) seconds on top of torch \((\S+) for imagecorruptions\), "
                      r"attacks (\S+) \((\S+) for torchattacks\), scores (\S+)\. ", answer).groups()
    seconds = {r["module"]: float(r["more_s"]) for r in TABLE if r["more_s"]}
    assert list(found) == [f"{seconds[m]:.2f}" for m in NAMED]
