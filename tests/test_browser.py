"""The built site in a real browser: `python -m tools.site`, then `pytest tests/test_browser.py`.

Skipped if there is no site or no browser.
"""
import json, shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urldefrag, urlsplit
from urllib.request import urlopen

import pytest

from helpers import ROOT

SITE = ROOT/"_docs"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions""".split()
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built site in _docs: python -m tools.site"),
    pytest.mark.skipif(not BROWSER or not shutil.which("chromedriver"),
                       reason="no browser: apt-get install chromium chromium-driver")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *args): pass  # the browser may leave a page before it has it all


@pytest.fixture(scope="module")
def host():
    server = Server(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]: options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def wait(browser):
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, 10)


def open_page(browser, url, width):
    "Open a page at a width; returns what it wrote to the console and the addresses it asked for"
    screen = dict(width=width, height=900, deviceScaleFactor=2, mobile=width < 600)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    for kind in ("browser", "performance"): browser.get_log(kind)
    browser.get(url)
    console = [e["message"] for e in browser.get_log("browser")]
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return console, asked


BAD_PICTURES = """return [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt)
    .map(i => i.outerHTML.slice(0, 80))"""
SHOW_CUT_OFF = """for (const e of document.querySelectorAll('html, body, #quarto-content'))
    e.style.overflowX = 'visible'"""  # what is cut off counts as well
WIDTHS = """return [Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
    document.documentElement.clientWidth]"""
TOO_WIDE = """return [...document.querySelectorAll('main *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(e => e.outerHTML.slice(0, 90))"""


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(page, width, browser, host):
    console, asked = open_page(browser, f"{host}/{page}", width)
    assert not console
    assert asked and not [url for url in asked if not url.startswith((host, "data:"))]
    assert not browser.execute_script(BAD_PICTURES)
    browser.execute_script(SHOW_CUT_OFF)
    inside, shown = browser.execute_script(WIDTHS)
    assert inside <= shown <= width, browser.execute_script(TOO_WIDE)


def test_every_link_leads_somewhere(browser, host):
    links = set()
    for page in PAGES:
        open_page(browser, f"{host}/{page}", 1280)
        links |= {urldefrag(url)[0] for url in browser.execute_script("return [...document.links].map(a => a.href)")}
    ours, broken = {url for url in links if url.startswith(host)}, []
    for url in sorted(ours):
        try: urlopen(url).close()
        except HTTPError as e: broken.append(f"{urlsplit(url).path}: {e.code}")
    assert len(ours) >= len(PAGES) - 1 and not broken


HITS = """return [...document.querySelectorAll('#quarto-search a, .aa-Panel a')]
    .map(a => a.getAttribute('href') + ' ' + a.innerText)"""


@pytest.mark.parametrize("width", [1280, 400])
def test_search_finds_the_first_function_of_the_readme(width, browser, host, wait):
    open_page(browser, f"{host}/index.html", width)
    if width == 400: browser.find_element("css selector", ".navbar-toggler").click()
    box = browser.find_element("css selector", "#quarto-search input")
    wait.until(lambda b: box.is_displayed() and box.rect["width"] > 0)
    box.send_keys("score_robustness")
    hits = wait.until(lambda b: b.execute_script(HITS))
    assert [h for h in hits if "scoring.html" in h and "score_robustness" in h], hits


IS_DARK = """return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).every(v => v < 128)"""


def test_light_and_dark(browser, host, wait):
    open_page(browser, f"{host}/index.html", 1280)
    before = browser.execute_script(IS_DARK)
    browser.find_element("css selector", ".quarto-color-scheme-toggle").click()
    wait.until(lambda b: b.execute_script(IS_DARK) != before)
    open_page(browser, f"{host}/results/index.html", 1280)
    assert browser.execute_script(IS_DARK) != before, "the choice is forgotten on the next page"
    browser.execute_script("localStorage.clear()")
