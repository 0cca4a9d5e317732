"""The page of a run folder: whole and half-done runs, hostile names, the notebook, a comparison, and a real browser."""
import base64, html, json, re, shlex, shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory

from helpers import complaint, pictures
from test_browser import BROWSER, browser, contrast, hard_to_read, luminance, opened  # noqa: F401 (a fixture)
from wrnb.cli import main
from wrnb.findings import Findings, of_difference
from wrnb.gallery import class_pictures
from wrnb.loop import Loop
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.report import rendered
from wrnb.sections import table_block

SIZE = ["--limit", "200", "--test-limit", "60"]
FEW = "--n-neighbors 8 -k 20 --epochs 1 --base-epochs 15 --severities 1 5 --attacks fgsm --attack-eps 4 8".split()
BARE = "--severities 5 --attacks --device cpu".split()
SCRIPT = "<script>alert(1)</script>"


def wrnb(*words):
    "Do a command, which must succeed"
    assert main([str(w) for w in words]) == 0


class Page(HTMLParser):
    "A page's tags, pictures, titles and text; an error if its tags are not closed in order"
    VOID = ("img", "meta", "br", "source")

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.images, self.titles, self.tags, self.words = [], [], [], [], []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img": self.images.append(dict(attrs))
        if tag not in self.VOID: self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2": self.titles.append(data)
        if self.open and self.open[-1] not in ("style", "script"): self.words.append(data)


def check_whole(page):
    "What holds for every page: closed tags, no network, one script, pictures inside with words for those who don't see"
    assert not page.open and len(page.source) < 3e6
    assert not re.search(r"https?://|//cdn|@import|url\(", page.source)
    assert page.tags.count("script") == 1 and not {"link", "iframe", "object"} & set(page.tags)
    for image in page.images:
        kind, data = image["src"].split(",", 1)
        start = dict(png=b"\x89PNG\r\n\x1a\n", jpeg=b"\xff\xd8\xff")[kind.split("/")[1].split(";")[0]]
        assert base64.b64decode(data).startswith(start) and len(image["alt"]) > 3


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def run(home):
    "A whole run, on a part of the digits"
    wrnb("run", "digits", "--out", home/"run", *SIZE, *FEW, "--strategies", "standard", "reva", "--device", "cpu")
    return home/"run"


@pytest.fixture(scope="module")
def page(run): return Page(run/"report.html")


@pytest.fixture(scope="module")
def model(run): return f"digits_net@{run}/base/model.safetensors"


@pytest.fixture
def copy(run, tmp_path): return Path(shutil.copytree(run, tmp_path/"copy"))


# --- a whole run ----------------------------------------------------------------------------------

def test_the_page_is_whole_and_has_its_sections(page):
    check_whole(page)
    assert page.titles == ["The weakest images", "Corruptions", "Attacks", "Weak images", "Weak classes",
                           "Strengths and weaknesses", "Fine-tuning", "What this does not say", "Details"]


def test_the_first_paragraph_has_the_figures_of_the_tables(page, run):
    "Recomputed from evaluation.csv alone"
    t = pd.read_csv(run/"evaluation.csv")
    corrupted = t[t.family.isin(["noise", "blur", "weather", "digital"])]
    errors = 100*corrupted.groupby("model").error.mean()
    best = errors.drop("base").idxmin()
    weakest = corrupted[corrupted.model == "base"].groupby("perturbation").error.mean().idxmax()
    clean = 100*t[t.family == "clean"].set_index("model").error
    lead = page.text.split("The weakest images")[0]
    assert f"The base has a corruption error of {errors.base:.1f} %" in lead
    assert f"corruption error went from {errors.base:.1f} to {errors[best]:.1f} %" in lead
    assert f"clean error went from {clean.base:.1f} to {clean[best]:.1f} %" in lead
    assert f"errs most under {weakest.replace('_', ' ')} (" in lead.replace("JPEG", "jpeg")
    assert "measured on 60 images of digits, under 15 corruptions at 2 severities and 1 attack at 2 radii" in lead


def test_a_difference_may_be_chance_only_if_zero_is_inside(run):
    e = Findings(Loop(run)).evaluation
    for what in e.headlines():
        d = e.paired(what)
        said = of_difference(d)
        assert said.endswith("; this may be chance)") == (d.low <= 0 <= d.high)
        assert said in e.what_changed() + e.what_it_cost()


def test_worse_corruptions_are_named(run):
    e = Findings(Loop(run)).evaluation
    best = e.best_model()
    worse = [n for n in e.by_corruption().index if e.difference(best, "base", n).low > 0]
    assert sorted(worse) == sorted(e.worse_corruptions(best))


def test_every_figure_is_saved_in_both_themes(page, run):
    names = {p.name for p in (run/"figures").glob("*.png")}
    light = {n for n in names if "-dark" not in n}
    assert len(light) >= 7 and names == light | {n.replace(".png", "-dark.png") for n in light}
    assert page.tags.count("source") == len(light)


def test_what_was_trained_against_is_said(run):
    f = Findings(Loop(run))
    assert f.trained_against("standard") == [] and f.trained_against("reva")
    guided = " ".join(f.run.options("enhance reva")["guided_by"])
    assert all(f"'{name}'" in guided for name in f.trained_against("reva"))
    assert guided.count("name=") >= len(f.trained_against("reva"))


# --- runs that have less --------------------------------------------------------------------------

def report(folder):
    wrnb("report", folder)
    page = Page(folder/"report.html")
    check_whole(page)
    return page


def test_a_run_that_was_only_scored(model, tmp_path):
    wrnb("score", "digits", *SIZE, "--model", model, "--n-neighbors", "4", "--out", tmp_path/"run", "--device", "cpu")
    page = report(tmp_path/"run")
    assert "Weak images" in page.titles and "Corruptions" not in page.titles
    assert "no model was evaluated yet" in page.text
    assert "Not part of this run: validation, fine-tuning and evaluation." in page.text


def test_a_run_that_was_stopped_after_its_validation(copy):
    config = json.loads((copy/"config.json").read_text())
    for stage in ("evaluate", "enhance reva", "enhance standard"): del config["stages"][stage]
    (copy/"config.json").write_text(json.dumps(config))
    for name in ("evaluation.csv", "outcomes.parquet"): (copy/name).unlink()
    page = report(copy)
    assert "Strengths and weaknesses" in page.titles and "Fine-tuning" not in page.titles
    assert "Not part of this run: fine-tuning and evaluation." in page.text and "the base is weak to" in page.text


def test_a_run_without_enhancement_and_attacks(model, tmp_path):
    wrnb("evaluate", tmp_path/"run", "--data", "digits", *SIZE, "--model", model, *BARE)
    page = report(tmp_path/"run")
    assert "Corruptions" in page.titles and "Attacks" not in page.titles and "Weak images" not in page.titles
    assert "digits_net@model.safetensors was measured on 60 images" in page.text and "fine-tuned" not in page.text
    assert "No attacks were measured." in page.text


def test_a_run_measured_on_a_corrupted_set_alone(model, tmp_path):
    wrnb("corrupt", "digits", "--limit", "60", "--out", tmp_path/"set", "--device", "cpu")
    wrnb("evaluate", tmp_path/"run", "--data", "digits", *SIZE, "--model", model, "--on", tmp_path/"set",
         "--severities", "5", "--device", "cpu")
    page = report(tmp_path/"run")
    assert "images of the corrupted set set, under 19 corruptions" in page.text and "Corruptions" in page.titles


def test_a_set_of_extra_corruptions_makes_no_corruption_error(model, tmp_path):
    wrnb("corrupt", "digits", "--limit", "60", "--out", tmp_path/"set", "--corruptions", "spatter", "--device", "cpu")
    wrnb("evaluate", tmp_path/"run", "--data", "digits", *SIZE, "--model", model, *BARE)
    capture = Loop(tmp_path/"run")
    capture.evaluate_on(tmp_path/"set", severities=(5,))
    assert "set" in report(tmp_path/"run").titles


def test_what_wrnb_check_left(model, tmp_path):
    wrnb("check", "digits", *SIZE, "--model", model, "-n", "20", "--out", tmp_path/"run", "--device", "cpu")
    page = report(tmp_path/"run")
    assert "20 of them per corruption and severity" in page.text and "Corruptions" in page.titles


def test_images_that_are_gone_leave_a_line(tmp_path):
    data = pictures(tmp_path/"photos")
    save_weights(load_model("digits_net", 2), tmp_path/"net.safetensors")
    wrnb("evaluate", tmp_path/"run", "--data", data, "--model", f"digits_net@{tmp_path}/net.safetensors", *BARE)
    wrnb("score", data, "--model", f"digits_net@{tmp_path}/net.safetensors", "--n-neighbors", "4",
         "--out", tmp_path/"run", "--device", "cpu")
    shutil.rmtree(data)
    page = report(tmp_path/"run")
    assert "Corruptions" in page.titles
    if "Weak images" in page.titles and "has a score above 0" not in page.text:
        assert "images or classifier cannot be read" in page.text


def test_a_checkpoint_that_is_gone_leaves_a_line(run, model, tmp_path):
    net = shutil.copy(run/"base/model.safetensors", tmp_path/"net.safetensors")
    wrnb("score", "digits", *SIZE, "--model", f"digits_net@{net}", "--n-neighbors", "8", "--eps", ".5",
         "--out", tmp_path/"run", "--device", "cpu")
    Path(net).unlink()
    assert "No pictures here" in report(tmp_path/"run").text


def test_outcomes_that_were_not_kept_leave_the_errors(copy):
    (copy/"outcomes.parquet").unlink()
    page = report(copy)
    assert "there are no paired differences" in page.text and "paired;" not in page.text


# --- how it was made, and what is not known ----------------------------------------------------

def commands(run):
    "The commands on the page"
    wrnb("report", run)
    text = re.search(r"<pre><code>(.*?)</code></pre>", (run/"report.html").read_text(), re.S)[1]
    return [shlex.split(html.unescape(line)) for line in text.strip().splitlines()]


def test_the_commands_on_the_page_make_the_same_tables(run, tmp_path):
    (name, *words), = commands(run)
    assert name == "wrnb"
    wrnb(*[str(tmp_path/"again") if word == str(run) else word for word in words])
    for table in ("scores.parquet", "weak.csv", "validation.csv", "evaluation.csv"):
        assert (run/table).read_bytes() == (tmp_path/"again"/table).read_bytes()


def test_each_command_that_began_a_stage_is_on_the_page_once(model, tmp_path):
    out = tmp_path/"run with a blank"
    first = ["score", "digits", *SIZE, "--model", model, "--n-neighbors", "4", "--out", out, "--device", "cpu"]
    for _ in range(2): wrnb(*first)
    wrnb("evaluate", out, *BARE)
    wrnb("report", out)
    asked = [first, ["evaluate", out, *BARE]]
    assert commands(out) == [["wrnb", *map(str, words)] for words in asked]


def test_a_run_from_python_says_so(tmp_path):
    loop = Loop(tmp_path/"run", dict(data="digits", model="digits_net", limit=100, test_limit=20), device="cpu")
    loop.train_base(base_epochs=1, base_lr=.1, bs=64)
    assert "Begun from Python, with the options above: setup and base." in report(tmp_path/"run").text


def test_the_first_paragraph_says_what_is_not_known(page, run, model, tmp_path):
    assert ("Not known: how another seed would come out, what the images left out would say and what stronger "
            "attacks would find.") in page.text.split("The weakest images")[0]
    wrnb("evaluate", tmp_path/"run", "--data", "digits", "--model", model, *BARE, "--per-cell", "20")
    assert "Not known: what attacks would do." in report(tmp_path/"run").text


def test_a_data_folder_that_is_where_you_are_has_a_name(tmp_path):
    pictures(tmp_path/"photos")
    save_weights(load_model("digits_net", 2), tmp_path/"net.safetensors")
    with working_directory(tmp_path/"photos"):
        wrnb("score", ".", "--model", "digits_net@../net.safetensors", "--n-neighbors", "2", "--out", "../run",
             "--device", "cpu")
        page = report(tmp_path/"run")
    assert "How robust is digits_net@net.safetensors on photos?" in page.text


def test_other_test_sets_are_on_the_page(model, tmp_path):
    where = [tmp_path/"run", "--device", "cpu"]
    wrnb("evaluate", where[0], "--data", "digits", *SIZE, "--model", model, *BARE)
    table = dict(set=["moved"], model=["base"], classes=[10], n=[40], n_wrong=[10], error=[.25], low=[.14], high=[.4])
    (tmp_path/"run/on/other").mkdir(parents=True)
    pd.DataFrame(table).to_csv(tmp_path/"run/on/other/shifts.csv", index=False)
    page = report(tmp_path/"run")
    assert "other" in page.titles and "moved 25.0 14.0 40.0 base 10 40" in page.text
    assert "moved" in check_notebook(tmp_path/"run")


def test_weak_classes_have_weak_images(run):
    found = Findings(Loop(run))
    share = found.scores.class_share(found.loop.weak_idxs())
    names = [row["name"] for row in class_pictures(found, n_classes=99)]
    assert set(names) == {str(c) for c in share.index[share.weak > 0]}


# --- hostile names --------------------------------------------------------------------------------

def test_class_names_are_harmless(tmp_path):
    data = pictures(tmp_path/"photos", classes=("cat", "&lt;b&gt; 'x' \"y\" {{ 7*7 }} $a$"))
    hostile = tmp_path/"photos/train"
    for split in ("train", "test"): (tmp_path/"photos"/split/"cat").rename(tmp_path/"photos"/split/"<script>alert(1)<")
    assert hostile.is_dir()
    save_weights(load_model("digits_net", 2), tmp_path/"net.safetensors")
    wrnb("run", data, "--model", f"digits_net@{tmp_path}/net.safetensors", "--out", tmp_path/"run", *BARE,
         "--n-neighbors", "20", "--eps", ".5", "-k", "1", "--epochs", "1", "--strategies", "standard")
    page = Page(tmp_path/"run/report.html")
    check_whole(page)
    assert "<script>alert" not in page.source and "49 $a$" not in page.text  # 7*7, had the name been a template


def test_names_in_tables_are_harmless(copy):
    for name in ("evaluation.csv", "validation.csv"):
        t = pd.read_csv(copy/name)
        t["perturbation"] = t.perturbation.replace("fog", SCRIPT)
        t["model"] = t.model.replace("standard", SCRIPT)
        t.to_csv(copy/name, index=False)
    outcomes = pd.read_parquet(copy/"outcomes.parquet")
    for column, old in (("perturbation", "fog"), ("model", "standard")):
        outcomes[column] = outcomes[column].astype(str).replace(old, SCRIPT)
    outcomes.to_parquet(copy/"outcomes.parquet", index=False, write_page_checksum=True)
    page = report(copy)
    assert SCRIPT not in page.source and "&lt;script&gt;alert(1)" in page.source


# --- as a notebook, and two runs ------------------------------------------------------------------

def run_notebook(path, times=1):
    "Run a notebook in its folder, perhaps again in the same kernel; returns its outputs as one text"
    nb = read_nb(path)
    with working_directory(path.parent):
        shell = CaptureShell()
        for cell in [*nb.cells]*times:
            if cell.cell_type != "code": continue
            cell.outputs = shell.run(cell.source)
            assert not shell.exc, f"{cell.source}: {shell.exc}"
    return json.dumps([c.get("outputs", []) for c in nb.cells])


def headings(path):
    "The second-level headings of a notebook"
    return [line[3:] for cell in read_nb(path).cells for line in cell.source.splitlines() if line.startswith("## ")]


def check_notebook(run):
    "It runs where it lies and has the sections of the page; returns its outputs"
    wrnb("report", run, "--notebook")
    titles = [t for t in Page(run/"report.html").titles if t != "The weakest images"]
    assert headings(run/"report.ipynb") == ["Summary", *titles]
    return run_notebook(run/"report.ipynb")


def test_the_notebook_has_the_sections_of_the_page_and_runs(run):
    outputs = check_notebook(run)
    assert outputs.count('"image/png"') >= 8 and "The base has a corruption error" in outputs
    assert "minutes" in outputs and "setup: data" in outputs


def test_the_notebook_of_a_run_that_was_only_scored(model, tmp_path):
    wrnb("score", "digits", *SIZE, "--model", model, "--n-neighbors", "4", "--out", tmp_path/"run", "--device", "cpu")
    assert '"image/png"' in check_notebook(tmp_path/"run")


def test_the_notebook_of_a_corrupted_set_and_of_confidences(model, tmp_path):
    where = ["--out", tmp_path/"run", "--data", "digits", *SIZE, "--model", model, "--device", "cpu"]
    wrnb("corrupt", "digits", "--limit", "60", "--corruptions", "fog", "--out", tmp_path/"set")
    wrnb("evaluate", *where[1:], "--severities", "5", "--attacks", "--confidences")
    wrnb("evaluate", tmp_path/"run", "--on", tmp_path/"set", "--device", "cpu")
    check_notebook(tmp_path/"run")
    assert {"Calibration", "set"} <= set(headings(tmp_path/"run/report.ipynb"))


def test_the_notebook_moves_with_its_folder(copy):
    wrnb("report", copy, "--notebook")
    moved = copy.rename(copy.with_name("elsewhere"))
    assert "The base has a corruption error" in run_notebook(moved/"report.ipynb")


def test_the_notebook_finds_data_that_were_named_from_where_you_were(tmp_path):
    pictures(tmp_path/"project/photos")
    save_weights(load_model("digits_net", 2), tmp_path/"project/net.safetensors")
    with working_directory(tmp_path/"project"):
        wrnb("score", "photos", "--model", "digits_net@net.safetensors", "--n-neighbors", "2",
             "--out", "runs/photos", "--device", "cpu")
        wrnb("report", "runs/photos", "--notebook")
    moved = (tmp_path/"project").rename(tmp_path/"moved")
    for times in (1, 2):
        outputs = run_notebook(moved/"runs/photos/report.ipynb", times)
        assert "No pictures" not in outputs and "6 training images" in outputs


def test_two_runs_on_the_same_images_are_compared_in_pairs(run, model, tmp_path):
    wrnb("evaluate", tmp_path/"other", "--data", "digits", *SIZE, "--model", model, "--severities", "5",
         "--attacks", "fgsm", "--attack-eps", "4", "8", "--device", "cpu")
    wrnb("report", run, tmp_path/"other")
    page = Page(run/"compare-other.html")
    check_whole(page)
    assert "Attacks" in page.titles
    tables = [pd.read_csv(folder/"evaluation.csv") for folder in (run, tmp_path/"other")]
    best = Findings(Loop(run)).evaluation.best_model()
    first, second = (t[(t.severity == 5) & (t.model == m) & t.family.isin(["noise", "blur", "weather", "digital"])]
                     for t, m in zip(tables, (best, "base")))
    change = 100*(second.error.mean() - first.error.mean())
    assert f"run {100*first.error.mean():.1f} %, other {100*second.error.mean():.1f} %; other minus run:" in page.text
    assert f"{abs(change):.1f} points (95 %" in page.text and "What differs" in page.titles


def test_worst_cases_of_other_attacks_are_not_compared(run, model, tmp_path):
    wrnb("evaluate", tmp_path/"other", "--data", "digits", *SIZE, "--model", model, "--severities", "5",
         "--attacks", "fgsm", "bim", "--attack-eps", "4", "8", "--device", "cpu")
    wrnb("report", run, tmp_path/"other")
    page = Page(run/"compare-other.html")
    assert "Corruption error: run" in page.text and "Worst case" not in page.text and "Attacks" not in page.titles


def test_runs_on_other_images_are_compared_without_pairs(run, model, tmp_path):
    wrnb("evaluate", tmp_path/"other", "--data", "digits", "--limit", "200", "--test-limit", "50", "--model", model,
         *BARE)
    wrnb("report", run, tmp_path/"other")
    text = Page(run/"compare-other.html").text
    assert "nothing is paired" in text and "paired;" not in text


def test_a_comparison_that_cannot_be(run, model, tmp_path, capsys):
    wrnb("score", "digits", *SIZE, "--model", model, "--n-neighbors", "2", "--out", tmp_path/"new", "--device", "cpu")
    assert "new was not evaluated" in complaint(capsys, "report", run, tmp_path/"new")
    assert "--notebook is of one run" in complaint(capsys, "report", run, run, "--notebook")


# --- in a browser ---------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    not BROWSER or not shutil.which("chromedriver"), reason="no browser: apt-get install chromium chromium-driver")
WIDE = "return [document.documentElement.scrollWidth, innerWidth]"
SMALL = """return [...document.querySelectorAll('figure img')].map(i => i.getBoundingClientRect().width/i.width*9.5)
    .concat([...document.querySelectorAll('body *')].map(e => parseFloat(getComputedStyle(e).fontSize)*.75))
    .filter(points => points < 8.5)"""
COLOURS = """const back = getComputedStyle(document.body).backgroundColor;
return [...document.querySelectorAll('p, h2, td, th, figcaption, li, summary, a')].filter(e => e.offsetParent)
    .map(e => [getComputedStyle(e).color, back])"""
FIRST = "return [...document.querySelectorAll('table.sortable tbody')[0].rows].map(r => r.cells[1].textContent)"


def look(browser, path, width, theme):
    "Open the page from disk; nothing may be asked for, and nothing complained of"
    scheme = [dict(name="prefers-color-scheme", value=theme)]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=scheme))
    console, asked = opened(browser, path.as_uri(), width)
    assert not console and not [url for url in asked if not url.startswith(("file:", "data:", "chrome:"))]


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_can_be_read(theme, width, page, run, browser):
    look(browser, run/"report.html", width, theme)
    inside, shown = browser.execute_script(WIDE)
    assert inside <= shown
    assert not browser.execute_script(SMALL)
    colours = browser.execute_script(COLOURS)
    assert min(map(contrast, colours)) > 4.5
    assert (luminance(colours[0][1]) > .5) == (theme == "light")
    shown = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert all(done and size for done, size in shown)


@pytest.fixture(scope="module")
def compared(page, run):
    "The page that compares a run with a copy of itself"
    wrnb("report", run, shutil.copytree(run, run.with_name("twin")))
    return run/"compare-twin.html"


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_of_it_can_be_read_when_it_is_unfolded(theme, width, page, run, compared, browser):
    for path in (run/"report.html", compared):
        look(browser, path, width, theme)
        folded = browser.find_elements("css selector", "details")
        for part in folded:
            inside = part.find_element("css selector", "table, pre")
            assert not inside.is_displayed()
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
            part.find_element("css selector", "summary").click()
            assert inside.is_displayed()
        assert len(folded) >= 1 and not hard_to_read(browser, "body *")
        inside, shown = browser.execute_script(WIDE)
        assert inside <= shown


@needs_browser
def test_the_page_is_used_with_the_mouse_and_with_keys(page, run, browser):
    look(browser, run/"report.html", 1280, "light")
    for link in browser.find_elements("css selector", "nav a"):
        browser.execute_script("scrollTo(0, 0)")
        link.click()
        target = browser.find_element("id", link.get_attribute("href").split("#")[1])
        top, height = browser.execute_script("return [arguments[0].getBoundingClientRect().top, innerHeight]", target)
        assert 0 <= top + 1 and top < height and target.find_element("css selector", "h2").text == link.text
    table = browser.find_elements("css selector", "details:has(table.sortable)")[0]
    table.find_element("css selector", "summary").send_keys("\n")
    head = table.find_elements("css selector", "th button")[1]
    for keys, turn in (None, False), ("\n", True):
        head.send_keys(keys) if keys else head.click()
        cells = [row.find_elements("css selector", "td")[0].text for row in
                 table.find_elements("css selector", "tbody tr")]
        values = [float(v) for v in cells]
        assert values == sorted(values, reverse=turn) and len(set(values)) > 3


DOT = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptV"
       "AAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")  # one black pixel


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["x"*120, "a class with a name of many words, as in ImageNet, "*3, "猫"*60])
def test_long_names_leave_room_for_the_figures(name, width, tmp_path, browser):
    image = dict(image=DOT, label=name, score=.5, id=name, pred=name, neighbor=DOT, difference=DOT)
    cells = [dict(title=title, image=DOT, answers=[(name, False), (name, True)]) for title in ("clean", "fog")]
    table = table_block(pd.DataFrame(dict(error=[1.5, 2.5]), index=pd.Index([name, "b"], name="class")), folded=False)
    bars = [dict(name=name, value=30., low=20., high=40., best=True)]
    blocks = [dict(kind="weak", pictures=[image]*3), table, dict(kind="text", text=name),
              dict(kind="classes", rows=[dict(name=name, cells=cells)], models=["base", name])]
    sections = [dict(id="one", title=name, blocks=blocks)]
    card = dict(title=name, hint=name, bars=bars, verdict=name)
    page = rendered(title=name, subtitle=name, lead=[name], cards=[card], strip=[image]*8, sections=sections)
    (tmp_path/"page.html").write_text(page, encoding="utf-8")
    look(browser, tmp_path/"page.html", width, "light")
    inside, shown = browser.execute_script(WIDE)
    assert inside <= shown == width
    for head in browser.find_elements("css selector", "tbody th"):
        assert head.size["width"] < .6*width
        assert head.text == "b" or head.get_attribute("title") == name
    assert min(e.size["width"] for e in browser.find_elements("css selector", ".strip img")) > 40


@needs_browser
def test_paper_is_white_for_those_who_read_in_the_dark(page, run, browser):
    look(browser, run/"report.html", 1280, "dark")
    def ground(): return browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    def sources(): return browser.execute_script("return [...document.images].map(i => i.currentSrc.slice(-99))")
    dark, on_screen = ground(), sources()
    dark_still = dict(media="print", features=[dict(name="prefers-color-scheme", value="dark")])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_still)
    try:
        assert luminance(dark) < .5 < luminance(ground()) and sources() != on_screen
    finally: browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(media=""))


@needs_browser
def test_a_table_is_sorted_by_a_click(page, run, browser):
    look(browser, run/"report.html", 1280, "light")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    head = browser.find_elements("css selector", "table.sortable")[0].find_elements("css selector", "th button")[1]
    for turn in (False, True):
        browser.execute_script("arguments[0].click()", head)
        values = [float(v) for v in browser.execute_script(FIRST)]
        assert values == sorted(values, reverse=turn) and len(set(values)) > 3
