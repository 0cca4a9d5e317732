"""The built site in a real browser: `python -m tools.site`, then `pytest tests/test_browser.py`.

Skipped if there is no site or no browser.
"""
import json, shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urldefrag, urlsplit
from urllib.request import urlopen

import pytest

BASE = "/wrnb"  # the path under which the site is published
SITE = Path(__file__).resolve().parent.parent/"_docs"
PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
--disable-background-networking --disable-component-update --disable-sync --disable-extensions""".split()
WIDTHS = pytest.mark.parametrize("width", [1280, 390])
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built site in _docs: python -m tools.site"),
    pytest.mark.skipif(not BROWSER or not shutil.which("chromedriver"),
                       reason="no browser: apt-get install chromium chromium-driver")]


class Host(SimpleHTTPRequestHandler):
    "Serve the site as its host does: under BASE, with 404.html for what doesn't exist"
    def log_message(self, *args): pass

    def translate_path(self, path):
        return super().translate_path(path.removeprefix(BASE) if path.startswith(BASE) else "/outside")

    def send_error(self, code, message=None, explain=None):
        if code != 404: return super().send_error(code, message, explain)
        page = (SITE/"404.html").read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


class Server(ThreadingHTTPServer):
    def handle_error(self, *args): pass  # the browser may leave a page before it has it all


@pytest.fixture(scope="module")
def host():
    server = Server(("127.0.0.1", 0), partial(Host, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{BASE}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]: options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    driver.get("about:blank")  # leaves the page of a new tab, which asks for more while it loads
    yield driver
    driver.quit()


def wait(browser):
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, 10)


def opened(browser, url, width):
    "Open a page at a width; returns what it wrote to the console and the addresses it asked for"
    screen = dict(width=width, height=900, deviceScaleFactor=2, mobile=width < 600)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    for kind in ("browser", "performance"): browser.get_log(kind)
    browser.get(url)
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [e["message"] for e in browser.get_log("browser")], asked


def elsewhere(asked, host):
    "The requests to another host; the browser's own pages don't count"
    return [url for url in asked if not url.startswith((host, "data:", "chrome:", "chrome-untrusted:"))]


BAD_PICTURES = """return [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt)
    .map(i => i.outerHTML.slice(0, 80))"""
SHOW_WHAT_IS_CUT_OFF = """for (const e of document.querySelectorAll('html, body, #quarto-content'))
    e.style.overflowX = 'visible'"""
WIDTH = "return [Math.max(document.documentElement.scrollWidth, document.body.scrollWidth), innerWidth]"
TOO_WIDE = """return [...document.querySelectorAll('main *')]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 5).map(e => e.outerHTML.slice(0, 90))"""
CODE_TOO_WIDE = """return [...document.querySelectorAll('main :is(p, li) code')]
    .filter(c => !c.closest('pre, table') && c.getBoundingClientRect().right > innerWidth + 1).map(c => c.innerText)"""


@WIDTHS
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(page, width, browser, host):
    console, asked = opened(browser, f"{host}/{page}", width)
    assert not console
    assert not elsewhere(asked, host)
    assert not browser.execute_script(BAD_PICTURES)
    browser.execute_script(SHOW_WHAT_IS_CUT_OFF)
    inside, shown = browser.execute_script(WIDTH)
    assert inside <= shown <= width, browser.execute_script(TOO_WIDE)
    assert not browser.execute_script(CODE_TOO_WIDE)


SMALL_FIGURES = """return [...document.querySelectorAll('.cell-output-display img')].map(
    i => [parseInt(i.style.getPropertyValue('--width')), i.getBoundingClientRect().width])
    .filter(([drawn, shown]) => shown < .74*drawn)"""


@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith("source/")])
def test_a_telephone_shows_figures_large_enough_to_read(page, browser, host):
    opened(browser, f"{host}/{page}", 390)
    assert not browser.execute_script(SMALL_FIGURES)


def test_every_link_leads_somewhere(browser, host):
    links = set()
    for page in PAGES:
        opened(browser, f"{host}/{page}", 1280)
        links |= {urldefrag(url)[0] for url in browser.execute_script("return [...document.links].map(a => a.href)")}
    ours, broken = {url for url in links if url.startswith(host)}, []
    for url in sorted(ours):
        try: urlopen(url).close()
        except HTTPError as e: broken.append(f"{urlsplit(url).path}: {e.code}")
    assert len(ours) >= len(PAGES) - 2 and not broken


FOUND = """return [...document.querySelectorAll('#quarto-search a, .aa-Panel a')]
    .map(a => a.getAttribute('href') + ' ' + a.innerText)"""


@WIDTHS
@pytest.mark.parametrize("name, page", [("score_robustness", "scoring.html"), ("CONSTANTS", "corruptions.html")])
def test_search_finds_functions_and_constants(name, page, width, browser, host):
    opened(browser, f"{host}/index.html", width)
    if width == 390: browser.find_element("css selector", ".navbar-toggler").click()
    box = browser.find_element("css selector", "#quarto-search input")
    wait(browser).until(lambda b: box.is_displayed() and box.rect["width"] > 0)
    box.send_keys(name)
    hits = wait(browser).until(lambda b: b.execute_script(FOUND))
    assert [h for h in hits if page in h and name in h], hits


def dark(browser):
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    return max(browser.execute_script(colour)) < 128


def switch_theme(browser):
    before = dark(browser)
    browser.find_element("css selector", ".quarto-color-scheme-toggle").click()
    wait(browser).until(lambda b: dark(b) != before)


def test_light_and_dark(browser, host):
    opened(browser, f"{host}/index.html", 1280)
    before = dark(browser)
    switch_theme(browser)
    opened(browser, f"{host}/results/index.html", 1280)
    assert dark(browser) != before, "the choice is forgotten on the next page"
    browser.execute_script("localStorage.clear()")


COLOURS = """const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c } return getComputedStyle(document.body).backgroundColor };
return [...document.querySelectorAll('.breadcrumb-item, .breadcrumb-item a, details.code-fold > summary')]
    .filter(e => e.offsetParent).map(e => [getComputedStyle(e).color, behind(e), e.innerText])"""


TEXTS = """const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c } return getComputedStyle(document.body).backgroundColor };
const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll(arguments[0])].filter(e => own(e) && e.checkVisibility({opacityProperty: true}))
    .map(e => [getComputedStyle(e).color, behind(e), e.textContent.trim()])"""  # colours of the text in some elements


def luminance(colour):
    "Relative luminance as WCAG 2 defines it"
    parts = [float(v)/255 for v in colour.replace("rgba", "rgb")[4:-1].split(",")[:3]]
    linear = [v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4 for v in parts]
    return sum(w*v for w, v in zip((.2126, .7152, .0722), linear))


def contrast(colours):
    low, high = sorted(luminance(c) for c in colours)
    return (high + .05)/(low + .05)


def hard_to_read(browser, css, contrast_of_text=4.5):
    "The text in these elements that is too pale; an error if there is no text at all"
    texts = browser.execute_script(TEXTS, css)
    assert texts, f"no text in {css}"
    return [(text[:60], colours) for *colours, text in texts if contrast(colours) < contrast_of_text]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_breadcrumbs_and_fold_labels_can_be_read(theme, browser, host):
    opened(browser, f"{host}/scoring.html", 1280)
    if dark(browser) != (theme == "dark"): switch_theme(browser)
    shown = browser.execute_script(COLOURS)
    assert len(shown) > 5
    assert not [(text, c) for *c, text in shown if contrast(c) < 4.5]
    browser.execute_script("localStorage.clear()")


def test_a_link_to_a_line_of_source_leads_below_the_bar(browser, host):
    opened(browser, f"{host}/source/scoring.html#L-100", 1280)
    def place(b): return b.execute_script("return document.getElementById('L-100').getBoundingClientRect().top")
    wait(browser).until(lambda b: place(b) < 450)  # the upper half of the screen
    bar = "return document.querySelector('.navbar').getBoundingClientRect().bottom"
    assert place(browser) >= browser.execute_script(bar)


@WIDTHS
def test_an_address_that_does_not_exist_shows_a_page_that_leads_back(width, browser, host):
    _, asked = opened(browser, f"{host}/some/where/else.html", width)
    assert not elsewhere(asked, host)
    assert browser.find_element("css selector", "h1").text == "Page not found"
    assert browser.execute_script("return getComputedStyle(document.querySelector('.navbar')).display") == "flex"
    browser.find_element("link text", "the start").click()
    wait(browser).until(lambda b: b.current_url == f"{host}/index.html")
