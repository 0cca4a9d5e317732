"""The workbench in a real JupyterLab: click and type through the widgets, and read corrections.csv.

Skipped without ipywidgets, JupyterLab or a browser. WRNB_SCREENSHOTS=FOLDER keeps pictures of it at two widths.
"""
import copy, json, os, shutil, socket, subprocess, sys, time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pandas as pd
import pytest
import torch

from wrnb.cli import main
from wrnb.closeups import Asker
from wrnb.core import WrnbError
from wrnb.corrections import Corrections, apply_corrections
from wrnb.data import data_hash
from wrnb.folders import load_data
from wrnb.loop import Loop
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness
from wrnb.shelf import KEYS, Shelf
import wrnb.workbench  # gives `Scores` its methods

from helpers import ROOT, complaint
from test_browser import BROWSER, FLAGS, dark, hard_to_read

needs_widgets = pytest.mark.skipif(not find_spec("ipywidgets"), reason='no ipywidgets: pip install "wrnb[widgets]"')
needs_lab = pytest.mark.skipif(
    not (find_spec("jupyterlab") and BROWSER and shutil.which("chromedriver")), reason="no JupyterLab or no browser")
needs_browser = pytest.mark.skipif(not (BROWSER and shutil.which("chromedriver")), reason="no browser")
SHOTS = os.environ.get("WRNB_SCREENSHOTS")
WIDTHS = (1280, 480)
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def scores(digits_model):
    digits, _ = load_data("digits", limit=200)
    return score_robustness(load_model(digits_model, 10), digits, eps=.3, n_neighbors=10)


# --- the widgets, without a browser -----------------------------------------------------------------

@needs_widgets
def test_each_button_does_what_its_key_does(scores, tmp_path):
    shown = [*scores.clean(tmp_path/"shown").moves.children, *scores.clean(tmp_path/"shown").decisions.children]
    assert {f"{what} ({key})" for key, what in KEYS.items()} <= {w.description for w in shown}
    for key in KEYS:
        by_button, by_key = scores.clean(tmp_path/f"button-{key}"), scores.clean(tmp_path/f"key-{key}")
        for bench in (by_button, by_key):
            bench.press("n")
            bench.press("k")
        by_button.buttons[key].click()
        by_key.keys.value = key
        logs = [b.shelf.corrections.log.drop(columns="when") for b in (by_button, by_key)]
        pd.testing.assert_frame_equal(*logs)
        assert by_button.shelf.at == by_key.shelf.at


@needs_widgets
def test_an_image_is_relabelled_as_the_menu_says(scores, tmp_path):
    bench = scores.clean(tmp_path, show="weak")
    index, own = bench.shelf.selected, bench.shelf.classes[scores.table.label[bench.shelf.selected]]
    assert bench.right_label.value == bench.shelf.proposal != own
    bench.right_label.value = next(c for c in bench.shelf.classes if c not in (own, bench.shelf.proposal))
    label = bench.right_label.value
    bench.buttons["r"].click()
    row, = bench.shelf.corrections.log.to_dict("records")
    assert (row["index"], row["action"], row["label"]) == (index, "relabel", label)


@needs_widgets
def test_what_cannot_be_done_is_said_in_the_status_line(scores, tmp_path):
    bench = scores.clean(tmp_path, show="weak")
    bench.right_label.value = bench.shelf.classes[scores.table.label[bench.shelf.selected]]
    bench.buttons["r"].click()
    assert "take action=keep" in bench.status.value
    assert len(bench.shelf.corrections) == 0


@needs_widgets
def test_menus_choose_what_is_shown(scores):
    bench = scores.browse()
    bench.show.value, bench.label.value = "all", "8"
    assert set(scores.table.label[bench.shelf.idxs]) == {8}
    bench.label.value, bench.pred.value = "", "3"
    assert set(scores.table.pred[bench.shelf.idxs]) == {3}
    bench.show.value, bench.pred.value, bench.confused.value = "weak", "", "8"
    shelf = bench.shelf
    assert shelf.idxs and all(shelf.asker.confusions(i).index[0] == "8" for i in shelf.idxs)
    bench.severity.value = 5
    assert "Corruptions of severity 5" in bench.details.value
    assert not bench.decisions.children, "there is nothing to decide without a run folder"


@needs_widgets
def test_a_class_may_be_called_any(scores):
    ds = copy.copy(scores.ds)
    ds.classes = ["any", *ds.classes[1:]]
    bench = replace(scores, ds=ds).browse(show="all")
    everything = list(bench.shelf.idxs)
    bench.label.index = 1
    assert set(scores.table.label[bench.shelf.idxs]) == {0}
    bench.label.index = 0
    assert bench.shelf.idxs == everything


def test_images_that_are_too_small_to_be_corrupted_can_be_looked_at(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*8*8, 2))
    ds = [(torch.rand(3, 8, 8), k % 2) for k in range(20)]
    scores = score_robustness(net.eval(), ds, eps=.5, n_neighbors=20)
    scores.save_page(tmp_path/"page.html", show="all")
    assert "too small to be corrupted" in (tmp_path/"page.html").read_text()


def test_the_next_scoring_uses_what_was_decided(scores, digits_model, tmp_path):
    kept = Corrections(tmp_path/"first", scores.ds)
    i, j = scores.weakest(2).tolist()
    taken_for = Asker(scores).confusions(i).index[0]  # by most of its neighbours, so that it is weak no more
    kept.decide(i, "relabel", taken_for)
    kept.decide(j, "drop")
    better = apply_corrections(scores.ds, tmp_path/"first")
    again = score_robustness(load_model(digits_model, 10), better, eps=.3, n_neighbors=10, out=tmp_path/"second")
    joined = scores.table.set_index("id").join(again.table.set_index("id"), rsuffix="_again")
    assert joined.label_again.isna().tolist() == [k == j for k in range(200)]
    others = joined.drop([scores.ds.ids[i], scores.ds.ids[j]])
    assert (others.score == others.score_again).all()
    assert joined.score_again.iloc[i] != joined.score.iloc[i]
    assert not joined.clean_correct_again.iloc[i]
    assert again.options == scores.options and data_hash(again.ds) != data_hash(scores.ds)


@needs_widgets
def test_a_run_folder_browses_and_its_corrections_go_into_the_next_run(digits_model, tmp_path, capsys):
    common = ["score", "digits", "--model", f"{digits_model}", "--limit", "200", "--eps", ".3", "--n-neighbors", "10",
              "--device", "cpu"]
    assert main([*common, "--out", f"{tmp_path}/first"]) == 0
    scores = Loop(tmp_path/"first", device="cpu").scores()
    assert scores.browse().shelf.idxs[:5] == scores.weakest(5).tolist()
    desk = scores.clean()
    for key in "rd": desk.press(key)
    assert (tmp_path/"first/corrections.csv").is_file()
    capsys.readouterr()
    assert main([*common, "--out", f"{tmp_path}/second", "--corrections", f"{tmp_path}/first"]) == 0
    assert "corrected by" in capsys.readouterr().out
    again = Loop(tmp_path/"second", device="cpu").scores()
    relabelled, dropped = desk.shelf.corrections.log.itertuples()
    assert len(again) == 199 and dropped.id not in set(again.table.id)
    row = again.table.set_index("id").loc[relabelled.id]
    assert again.ds.classes[row.label] == relabelled.label
    assert complaint(capsys, *common, "--out", tmp_path/"first", "--corrections", tmp_path/"first")
    assert "has no decisions" in complaint(capsys, *common, "--out", tmp_path/"third", "--corrections", tmp_path/"none")


# --- corrections.csv, edited by hand --------------------------------------------------------------

HEAD = "id,index,action,label,when\n"
WRONG = ["{id},{big},keep,3,now\n", "{id},1,keep\n", ",1,keep,3,now\n", "{id},1,Keep,3,now\n", "{id},1,relabel,,now\n",
         "{id},1,relabel,cat, black,now\n", "{id};1;keep;3;now\n", "{id},one,keep,3,now\n", "{id},1.0,keep,3,now\n"]


@pytest.mark.parametrize("row", WRONG)
def test_a_row_that_was_edited_wrongly_is_refused(row, scores, tmp_path):
    kept = Corrections(tmp_path, scores.ds)
    kept.path.write_text(HEAD + row.format(id=scores.ds.ids[1], big="9"*30))
    with pytest.raises(WrnbError, match="corrections.csv"): apply_corrections(scores.ds, tmp_path)
    with pytest.raises(WrnbError, match="corrections.csv"): kept.decide(0, "drop")
    assert kept.path.read_text().startswith(HEAD), "nothing is lost"


def test_a_file_that_a_spreadsheet_wrote_is_read(scores, tmp_path):
    kept = Corrections(tmp_path, scores.ds)
    row = f"{scores.ds.ids[1]},1,drop,3,now\r\n"
    kept.path.write_bytes(b"\xef\xbb\xbf" + (HEAD.strip() + "\r\n" + row).encode())
    assert len(apply_corrections(scores.ds, tmp_path)) == 199


def test_nothing_is_decided_about_images_that_share_an_id(scores, tmp_path):
    pair = scores.ds.take([0, 1])
    twins = pair._like(pair.items, pair.labels, ids=["one", "one"])
    kept = Corrections(tmp_path, twins)
    with pytest.raises(WrnbError, match="2 images have the id 'one': give each an id"): kept.decide(1, "drop")
    assert not kept.path.exists()
    kept.path.write_text(HEAD + "one,1,drop,3,now\n")
    with pytest.raises(WrnbError, match="2 images have the id 'one'"): apply_corrections(twins, tmp_path)


def test_an_id_with_a_slip_is_found_if_the_data_are_whole(digits_model, tmp_path):
    digits, _ = load_data("digits", limit=40)
    scores = score_robustness(load_model(digits_model, 10), digits, eps=.3, n_neighbors=2, out=tmp_path)
    for i in (3, 5): scores.corrections().decide(i, "drop")
    assert len(apply_corrections(digits.take(range(4)), tmp_path)) == 3, "a part may lack some"
    path = tmp_path/"corrections.csv"
    path.write_text(path.read_text().replace(digits.ids[5], digits.ids[5] + "x"))
    with pytest.raises(WrnbError, match=f"'{digits.ids[5]}x'"): apply_corrections(digits, tmp_path)


def test_undo_after_a_resume_looks_at_the_image_it_is_about(scores, tmp_path):
    first = Shelf(scores, show="all", k=30, corrections=scores.corrections(tmp_path), device="cpu")
    first.press("n")
    first.press("d")
    decided = first.idxs[1]
    again = Shelf(scores, show="all", k=30, corrections=scores.corrections(tmp_path), device="cpu")
    assert again.selected == first.idxs[0]
    path = again.corrections.path
    path.write_text(path.read_text().replace(f",{decided},drop", f",{first.idxs[7]},drop"))  # the id is what counts
    assert "drop undone" in again.press("u") and again.selected == decided
    assert not path.exists() and again.press("u") == "there is nothing to undo"


# --- in JupyterLab --------------------------------------------------------------------------------

CELLS = ["""
from wrnb.all import *
import torch
torch.set_num_threads(1)
digits, _ = load_data("digits", limit=200)
scores = score_robustness(load_model({model!r}, 10), digits, eps=.3, n_neighbors=10)
""", """
bench = scores.clean({folder!r}, show="weak", per_page=8)
bench
"""]


BROWSE = """
bench = scores.browse(show="all", k=30, per_page=8)
bench
"""


def notebook(path, *cells, **values):
    "A notebook of these cells"
    empty = dict(cell_type="code", metadata={}, outputs=[], execution_count=None)
    cells = [empty | dict(id=f"cell{i}", source=text.format(**values)) for i, text in enumerate(cells)]
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    path.write_text(json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url):
    try: return urlopen(url).status == 200
    except URLError: return False


def lab_folder():
    "Where the pages of JupyterLab are: beside the package that is imported, which may be of another environment"
    import jupyterlab
    prefix = Path(jupyterlab.__file__).parents[4]
    return prefix/"share"/"jupyter"/"lab"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab of this test alone; its folder and address"
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    quiet = folder/"settings"/"@jupyterlab"/"apputils-extension"/"notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(dict(fetchNews="false", checkForUpdates=False)))
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore",
               JUPYTER_CONFIG_DIR=str(folder/"config"),
               JUPYTER_DATA_DIR=str(folder/"data"), JUPYTERLAB_SETTINGS_DIR=str(folder/"settings"),
               JUPYTERLAB_WORKSPACES_DIR=str(folder/"workspaces"))
    options = f"--no-browser --allow-root --port={port} --ServerApp.port_retries=0 --IdentityProvider.token= "
    options += f"--expose-app-in-browser --notebook-dir={folder} --app-dir={lab_folder()}"
    command = [sys.executable, "-m", "jupyterlab", *options.split()]
    with open(folder/"lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while not answers(f"{url}/api"):
        assert server.poll() is None and time.monotonic() < end, (folder/"lab.log").read_text()[-2000:]
        time.sleep(.2)
    yield folder, url
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    profile = f"--user-data-dir={tmp_path_factory.mktemp('profile')}"
    for flag in [*FLAGS, profile, "--window-size=1280,1400"]: options.add_argument(flag)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def until(browser, condition, seconds=60):
    "Wait; the page may put new elements in place of those that were just found"
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait
    passing = NoSuchElementException, StaleElementReferenceException
    return WebDriverWait(browser, seconds, poll_frequency=.1, ignored_exceptions=passing).until(condition)


def shown(browser, css): return [e for e in browser.find_elements("css selector", css) if e.is_displayed()]


def click(browser, words):
    "Click the button that says this"
    def press(browser):
        button = next(b for b in shown(browser, ".jp-OutputArea button") if b.text.startswith(words))
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        return True
    until(browser, press)


def screenshot(browser, name):
    if SHOTS: browser.save_screenshot(str(Path(SHOTS)/f"{name}.png"))


IDLE = "return !!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"
TEXT = "return document.querySelector('.jp-OutputArea .widget-vbox').innerText"
RUN = "window.jupyterapp.commands.execute('notebook:run-all-cells')"


def run_until(browser, condition, seconds=60, times=3):
    "Run all cells until something holds; again if it doesn't, since JupyterLab may not have been ready for the first"
    from selenium.common.exceptions import TimeoutException
    for left in reversed(range(times)):
        browser.execute_script(RUN)
        try: return until(browser, condition, seconds)
        except TimeoutException:
            if not left: raise


def run_in_lab(lab, browser, name, *cells, **values):
    "Open a notebook of these cells in JupyterLab, and run it until it shows a page of images"
    folder, url = lab
    notebook(folder/name, *cells, **values)
    browser.get(f"{url}/lab/tree/{name}?reset")
    until(browser, lambda b: len(shown(b, ".jp-Cell .cm-content")) == len(cells))
    until(browser, lambda b: b.execute_script(IDLE))
    browser.execute_script("window.jupyterapp.commands.execute('application:toggle-left-area')")
    shown(browser, ".jp-Cell .cm-content")[0].click()  # now it is the notebook that commands are about
    run_until(browser, lambda b: len(shown(b, ".wrnb-card")) == 8)


@needs_widgets
@needs_lab
def test_clicks_and_keys_in_jupyterlab_end_in_the_file(lab, browser, digits_model):
    folder, _ = lab
    run_in_lab(lab, browser, "clean.ipynb", *CELLS, model=digits_model, folder=str(folder/"run"))
    kept, cards = Corrections(folder/"run"), shown(browser, ".wrnb-card")
    until(browser, lambda b: len(shown(b, ".wrnb-details img")) == 1 + 8 + 19)
    for width in WIDTHS:
        browser.set_window_size(width, 1500)
        time.sleep(.5)
        screenshot(browser, f"workbench-{width}")
    browser.set_window_size(1280, 1400)

    def alt(card): return card.find_element("css selector", "img").get_attribute("alt")
    def selected(b): return [alt(card) for card in shown(b, ".wrnb-selected")]
    def decided(n):
        until(browser, lambda b: len(kept.log) == n, 20)
        return kept.log

    wanted = alt(cards[2])  # a click anywhere on a picture selects it
    cards[2].click()
    until(browser, lambda b: selected(b) == [wanted])
    click(browser, "keep")
    log = decided(1)
    assert f"image {log.id[0]}," in wanted and log.action[0] == "keep"
    click(browser, "drop")
    assert decided(2).action.tolist() == ["keep", "drop"]
    assert len(until(browser, lambda b: shown(b, ".wrnb-card .mark"))) >= 1

    box = shown(browser, ".jp-OutputArea input[type=text]")[0]  # the keyboard
    box.send_keys("ard")
    assert decided(5).action.tolist() == ["keep", "drop", "ambiguous", "relabel", "drop"]
    box.send_keys("uu")
    decided(3)
    box.send_keys("f")
    until(browser, lambda b: "page 2 of" in b.execute_script(TEXT))
    screenshot(browser, "workbench-page-2")
    box.send_keys("uuu")
    until(browser, lambda b: not kept.path.exists(), 20)


def menu(browser, name):
    "The menu with this name"
    from selenium.webdriver.support.ui import Select
    row = next(r for r in shown(browser, ".widget-dropdown") if r.text.splitlines()[0] == name)
    return Select(row.find_element("css selector", "select"))


def images_shown(browser):
    "The names of the images on the page, as it shows them"
    return [e.get_attribute("alt").split(",")[0].removeprefix("image ") for e in shown(browser, ".wrnb-card img")]


def first_line(browser): return browser.execute_script("return document.querySelector('.wrnb-details b').innerText")


@needs_widgets
@needs_lab
def test_menus_a_click_and_keys_in_jupyterlab_show_what_they_say(lab, browser, scores, digits_model):
    browser.set_window_size(1280, 1400)
    run_in_lab(lab, browser, "browse.ipynb", CELLS[0], BROWSE, model=digits_model)
    shelf = scores.browse(show="all", k=30).shelf
    def rows_of(label=None, pred=None):
        return scores.table.set_index("index").loc[shelf.choose("all", label, pred).idxs]
    rows = rows_of()
    label, pred = (str(rows[kind].value_counts().index[0]) for kind in ("label", "pred"))

    def are_shown(some): until(browser, lambda b: images_shown(b) == some.id.tolist()[:8] and len(some) > 0)
    are_shown(rows)
    menu(browser, "label").select_by_visible_text(label)
    are_shown(rows_of(label))
    assert set(rows_of(label).label) == {int(label)}
    menu(browser, "label").select_by_visible_text("any")
    menu(browser, "predicted").select_by_visible_text(pred)
    are_shown(rows_of(None, pred))
    assert set(rows_of(None, pred).pred) == {int(pred)}
    menu(browser, "predicted").select_by_visible_text("any")
    are_shown(rows)

    shown(browser, ".wrnb-card")[3].click()  # the image, its neighbours, the classes they go to, every corruption
    until(browser, lambda b: rows.id.iloc[3] in first_line(b))
    until(browser, lambda b: len(shown(b, ".wrnb-details img")) == 1 + 8 + 19)
    details = shown(browser, ".wrnb-details")[0].text
    assert "10 neighbours: " in details and "jpeg compression" in details
    menu(browser, "severity").select_by_visible_text("5")
    until(browser, lambda b: "Corruptions of severity 5" in shown(b, ".wrnb-details")[0].text)
    box = shown(browser, ".jp-OutputArea input[type=text]")[0]
    box.send_keys("n")
    until(browser, lambda b: rows.id.iloc[4] in first_line(b))
    box.send_keys("f")
    until(browser, lambda b: "page 2 of" in b.execute_script(TEXT) and images_shown(b) == rows.id.tolist()[8:16])
    box.send_keys("k")
    until(browser, lambda b: "nothing can be decided here" in b.execute_script(TEXT))
    assert not [b for b in shown(browser, ".jp-OutputArea button") if b.text.startswith("keep")]
    check_readable_in_jupyterlab(browser)


WIDER = """return [...document.querySelectorAll('.jp-OutputArea-output, .jp-OutputArea .widget-vbox')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className)"""


def change_theme(browser, theme):
    name = f"JupyterLab {theme.title()}"
    browser.execute_script(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{name}'}})")
    until(browser, lambda b: b.execute_script("return document.body.dataset.jpThemeName") == name)
    until(browser, lambda b: dark(b) == (theme == "dark"))


def check_readable_in_jupyterlab(browser):
    "Widgets in both themes and at two widths"
    for theme in reversed(THEMES):
        change_theme(browser, theme)
        for width in (1280, 390):
            browser.set_window_size(width, 1400)
            until(browser, lambda b: not b.execute_script(WIDER))
            assert not hard_to_read(browser, ".jp-OutputArea .widget-vbox *")
            screenshot(browser, f"browse-{theme}-{width}")


# --- the page without widgets ---------------------------------------------------------------------

@pytest.fixture(scope="module")
def static_page(scores, tmp_path_factory):
    "Weak images of which one has a long name, with quotes and tags"
    ds = copy.copy(scores.ds)
    ds.classes = ["a <b>class</b> of a very long name, \"quoted\", " + "x"*80, *ds.classes[1:]]
    table = scores.table.assign(label=scores.table.label.where(scores.table["index"] > 5, 0))
    path = tmp_path_factory.mktemp("static")/"page.html"
    return replace(scores, ds=ds, table=table).save_page(path, n=8, show="all")


@needs_browser
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_without_widgets_unfolds_at_a_click_and_can_be_read(theme, width, static_page, browser):
    scheme = [dict(name="prefers-color-scheme", value=theme)]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=scheme))
    screen = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(static_page.as_uri())
        folded = browser.find_elements("css selector", "details > div img")
        assert len(browser.find_elements("css selector", "summary")) == 8
        assert not any(e.is_displayed() for e in folded)
        browser.find_elements("css selector", "summary img")[1].click()
        second = browser.find_elements("css selector", "details")[1]
        assert len(shown(second, ":scope > div img")) == 1 + 8 + 19 and "Corruptions of severity 3" in second.text
        assert dark(browser) == (theme == "dark") and not hard_to_read(browser, "body *")
        inside, outside = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inside <= outside == width
    finally: browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
