"""The tools that build the site: what a page shows of a room, and the output forms of Quarto and smalldocs alike."""
import base64, io, json, re
from html import unescape

import pandas as pd
import pytest
from execnb.nbio import mk_cell, new_nb, read_nb
from nbdev.config import get_config
from PIL import Image

from helpers import ROOT
from tools.links import check_links
from tools.mend import mend_missing, mend_page, mend_style, with_mathml, with_whole_options
from tools.overviews import GROUPS, SECTIONS, complete_search, constant_line, contents, grouped, sidebar
from tools.pages import Pages, documentation, label, local_links
from tools.readme import from_the_root
from tools.results import BASES, FULL, RUNS, bases_table, of_table
from tools.site import build

CFG = get_config()


# What a page shows

def page_of(*cells):
    "The cells of a page made from these cells of code"
    nb = new_nb([mk_cell("# scoring\n\n> A line", "markdown"), *(mk_cell(c) for c in cells)])
    nb.path_ = CFG.nbs_path/"scoring.ipynb"
    for i, cell in enumerate(nb.cells): cell.idx_ = i
    Pages()(nb)
    return nb.cells


def code_of(cells): return [c.source for c in cells if c.cell_type == "code"]


def test_a_table_marked_exports_is_shown_as_it_is_with_a_place_to_link_to():
    cells = page_of("#| exports\nTABLE = dict(a=1)  # what it is")
    assert code_of(cells) == ["TABLE = dict(a=1)  # what it is"]
    assert '<a id="TABLE" class="constant"></a>' in "".join(c.source for c in cells)


def test_a_table_that_is_only_exported_is_folded():
    assert code_of(page_of("#| export\nTABLE = dict(a=1)")) == [
        '#| code-fold: true\n#| code-summary: "Code of TABLE"\nTABLE = dict(a=1)']


def test_private_helpers_share_the_fold_of_the_next_public_name():
    cells = page_of("#| export\n_A = 1", "#| export\ndef _b(): return _A", "#| hide\n1", "#| export\nTABLE = _b()")
    assert code_of(cells) == ['#| code-fold: true\n#| code-summary: "Code of TABLE and 2 helpers"\n'
                              "_A = 1\n\ndef _b(): return _A\n\nTABLE = _b()"]


def test_private_helpers_with_an_example_keep_their_own_fold():
    folds = code_of(page_of("#| export\ndef _a(): return 1", "_a()", "#| export\nTABLE = 2", "#| exporti\n_c = 3"))
    assert [m[1] if (m := re.search('summary: "(.*)"', f)) else f for f in folds] == [
        "Code of _a", "_a()", "Code of TABLE and _c"]


def test_imports_are_left_out():
    assert code_of(page_of("#| export\nimport os\nfrom sys import path")) == []


@pytest.mark.parametrize("names, helpers, text", [
    (["a"], [], "a"), (["a"], ["_b"], "a and _b"), (["a"], ["_b", "_c"], "a and 2 helpers"),
    (["a", "b"], [], "a and b"), (["a", "b", "c"], ["_d"], "a, b, c and _d"),
    (list("abcde"), [], "a, b, c and 2 more")])
def test_labels_of_folds(names, helpers, text): assert label(names, helpers) == f"Code of {text}"


class Doc:
    def __init__(self, text): self.text = text
    def _repr_markdown_(self): return self.text


def test_a_signature_has_no_address_and_a_docstring_keeps_its_stars():
    doc = Doc("---\n\n### f\n\n```python\ndef f(\n    ts:list=(<function crop at 0x7f0b81>, <b.C object at 0x1>),\n"
              "    say:builtin_function_or_method=print\n):\n```\n\n*x + eps * U, or `a * b`*\n\nMore.")
    text = documentation(doc)
    assert "ts:list=(crop, b.C)" in text and "say=print" in text
    assert text.endswith("*x + eps \\* U, or `a * b`*\n\nMore.")


def test_links_lead_to_what_has_a_place_on_a_page():
    site = "https://wrnb.github.io/wrnb"
    text = (f"[`Scores`]({site}/scoring.html#scores), [`_hash`]({site}/data.html#_hash), "
            f"[`Run._x`]({site}/runs.html#run._x)")
    assert local_links(text, site, 1) == "[`Scores`](../scoring.html#scores), `_hash`, `Run._x`"
    assert local_links(f"[`No`]({site}/core.html#no), [a](33_scoring.ipynb#x)", site, 0) == "`No`, [a](scoring.ipynb#x)"


# The groups of rooms

def test_every_room_is_in_a_group_and_in_the_sidebar():
    pages = contents(CFG)
    rooms = [p[0] for group in grouped(pages["reference"]).values() for p in group]
    assert sorted(rooms) == sorted(p[0] for p in pages["reference"])
    bar = sidebar(pages)
    assert [m for m in re.findall(r"- section: (.*)", bar)] == [s[0] for s in SECTIONS.values()] + list(GROUPS)
    assert all(f"- {room}\n" in bar for room in rooms)


def test_the_landing_page_lists_every_room():
    text = (CFG.nbs_path/CFG.readme_nb).read_text(encoding="utf-8")
    assert not [p.name for p in CFG.nbs_path.glob("[0-9]*.ipynb") if f"]({p.name})" not in text]


def test_a_room_without_a_group_is_a_mistake():
    with pytest.raises(ValueError, match="no place for attic"): grouped([("attic.ipynb", "attic", "")])


def test_the_line_of_a_constant_is_its_comment_or_its_first_entries(monkeypatch, tmp_path):
    import importlib
    (tmp_path/"room.py").write_text('A = 1  # a number\nB = {str(i): i for i in range(9)}\nC = "text"\n')
    monkeypatch.syspath_prepend(tmp_path)
    room = importlib.import_module("room")
    assert constant_line(room, "A") == "a number"
    assert constant_line(room, "B") == "`0`, `1`, `2`, `3`, `4`, `5`, ..."
    assert constant_line(room, "C") == "`'text'`"


# The output forms of the two renderers

def picture(dpi=200, size=(1400, 60), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind, **({"dpi": (dpi, dpi)} if dpi else {}))
    return file.getvalue()


def data_url(data, kind="png"): return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


QUARTO_HEAD = """<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" integrity="sha384-c9c+LnTb"
crossorigin="anonymous"></script>
<script src="https://cdn.jsdelivr.net/npm/jquery@3.5.1/dist/jquery.min.js" integrity="sha384-ZvpUoO"
crossorigin="anonymous" data-relocate-top="true"></script>
<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>
<script src="site_libs/quarto-html/quarto.js" type="module"></script>"""
SMALLDOCS_HEAD = """<link rel="stylesheet" href="https://cdn.jsdelivr.net/npm/katex@0.16.22/dist/katex.min.css">
<script defer src="https://cdn.jsdelivr.net/npm/katex@0.16.22/dist/katex.min.js"></script>
<script src="site_libs/smalldocs.js"></script>"""


@pytest.mark.parametrize("head", [QUARTO_HEAD, SMALLDOCS_HEAD], ids=["quarto", "smalldocs"])
def test_a_page_asks_no_other_host(head, tmp_path):
    mended = mend_page(f"<head>{head}</head>", tmp_path)
    assert "https:" not in mended and "define(" not in mended
    assert mended.count("site_libs") == 1


QUARTO_FIGURE = ('<figure class="figure">\n<p><img src="scoring_files/figure-html/cell-3-output-1.png" width="590" '
                 'height="311" class="figure-img" alt="Nine digits"></p>\n</figure>')
SMALLDOCS_FIGURE = '<figure class="figure">\n<p><img alt="Nine digits" src="{url}" class="img-fluid"></p>\n</figure>'


def test_figures_have_the_width_at_which_they_were_drawn(tmp_path):
    file = tmp_path/"scoring_files/figure-html/cell-3-output-1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(picture())
    for page in QUARTO_FIGURE, SMALLDOCS_FIGURE.format(url=data_url(picture())):
        tag = re.search("<img.*?>", mend_page(page, tmp_path))[0]
        assert 'width="700" style="--width: 700px"' in tag and 'alt="Nine digits"' in tag
        assert tag.count("width=") == 1 and "height=" not in tag


@pytest.mark.parametrize("dpi, width", [(110, 562), (130, 475), (200, 309)])
def test_a_photograph_is_not_simply_halved(dpi, width, tmp_path):
    page = SMALLDOCS_FIGURE.format(url=data_url(picture(dpi, (618, 171), "JPEG"), "jpeg"))
    assert f'width="{width}"' in mend_page(page, tmp_path)


@pytest.mark.parametrize("tag", ['<img src="logo.svg" alt="x">', '<img src="https://a.org/x.png">', "<img alt='x'>",
                                 f'<img src="{data_url(picture(dpi=None))}" alt="x">', '<img src="gone.png" alt="x">'])
def test_other_pictures_stay_as_they_are(tag, tmp_path): assert mend_page(tag, tmp_path) == tag


def test_formulas_of_smalldocs_become_mathml_and_those_of_quarto_stay():
    inline = r'<span class="math inline">\(a &lt; b\)</span>'
    block = r'<span class="math display">\[\sum_j w_j\]</span>'
    quarto = '<math display="inline"><mi>a</mi></math>'
    assert "<mo>&#x0003C;</mo>" in with_mathml(inline)
    assert re.match(r'<math [^>]*display="block">.*&#x02211;', with_mathml(block))
    assert with_mathml(quarto) == quarto


@pytest.mark.parametrize("option", ["--out", '<span class="at">--out</span>'], ids=["smalldocs", "quarto"])
def test_an_option_of_a_command_stays_on_one_line(option):
    command = f'<pre class="sourceCode bash code-with-copy"><code>wrnb score a-b {option} runs --top-k 5</code></pre>'
    page = command + "<p>--out</p>"
    mended = with_whole_options(page)
    assert mended.count('<span class="at">--out</span>') == 1 and '<span class="at">--top-k</span>' in mended
    assert "a-b" in mended and "<p>--out</p>" in mended


FONT = "https://fonts.googleapis.com/css2?family=Lato:ital,wght@0,400;0,700;1,400&display=swap"
IMPORTS = [f'@import"{FONT}";', f"@import '{FONT}';", f"@import url({FONT});", f'@import url("{FONT}") screen;']


@pytest.mark.parametrize("line", IMPORTS)
def test_fonts_of_another_host_are_seen_and_taken_out(line, tmp_path):
    (tmp_path/"bootstrap.min.css").write_text(line + "body{color:red}")
    assert any("asks another host: https://fonts.googleapis.com" in w for w in check_links(tmp_path))
    assert mend_style(line + "body{color:red}") == "body{color:red}"


def test_style_sheets_of_the_site_itself_stay():
    css = '@import"theme.css";@font-face{src:url("fonts/x.woff2")}a{background:url(data:image/png;base64,AA)}'
    assert mend_style(css) == css


def test_every_mistake_of_a_page_is_reported(tmp_path):
    (tmp_path/"a.html").write_text("""<link rel="canonical" href="https://wrnb.github.io/a.html"><p id="here">
        <style>@import"//fonts.org/x.css";</style><script src="https://cdn.org/x.js"></script><img src="b.html">
        <a href="#here">1</a><a href="/wrnb/b.html#there">2</a><a href="b.html">3</a><a href="https://a.org">4</a>
        <a href="#gone">5</a><a href="gone.html">6</a><a href="/wrnb/gone.html">7</a><a href="b.html#gone">8</a>""")
    (tmp_path/"b.html").write_text('<p id="there">')
    assert [w.removeprefix("a.html: ") for w in check_links(tmp_path, "/wrnb/")] == [
        "asks another host: //fonts.org/x.css", "asks another host: https://cdn.org/x.js",
        "1 picture(s) without alt text: add #| fig-alt", "no such place on the page: #gone",
        "no such file: gone.html", "no such file: /wrnb/gone.html", "no such place on the page: b.html#gone"]


def test_the_page_for_missing_addresses_finds_its_styles_at_any_depth():
    page = mend_missing('<head lang="en"><link href="x.css">', "/wrnb/")
    assert page == '<head lang="en"><base href="/wrnb/"><link href="x.css">'


QUARTO_SECTION = """<h1 class="title">scoring</h1><section id="score" class="level2">
<h2 class="anchored" data-anchor-id="score">The score</h2><section id="score_robustness" class="level3">
<h3 class="anchored" data-anchor-id="score_robustness">score_robustness</h3><div class="sourceCode">def f(</div>
<p><em>Score of every image</em></p></section></section><a id="NOISES" class="constant"></a>"""


def test_the_search_finds_names_that_quarto_leaves_out(tmp_path):
    (tmp_path/"scoring.html").write_text(QUARTO_SECTION)
    href = "scoring.html#score"
    known = dict(objectID=href, href=href, title="scoring", section="The score", text="")
    (tmp_path/"search.json").write_text(json.dumps([known]))
    for _ in range(2): complete_search(tmp_path)
    found = {e["href"]: (e["title"], e["section"], e["text"]) for e in json.loads((tmp_path/"search.json").read_text())}
    assert found == {"scoring.html#score": ("scoring", "The score", ""),
                     "scoring.html#score_robustness": ("scoring", "score_robustness", "Score of every image"),
                     "scoring.html#NOISES": ("scoring", "NOISES", "NOISES")}
    assert len(json.loads((tmp_path/"search.json").read_text())) == 3


def test_readme_links_to_files_of_the_notebooks_folder():
    text = 'See [x](results/a.ipynb), ![y](images/b.png), <img src="images/c.png">, [z](https://a.org), [w](#w)'
    assert from_the_root(text, "nbs") == ('See [x](nbs/results/a.ipynb), ![y](nbs/images/b.png), '
                                          '<img src="nbs/images/c.png">, [z](https://a.org), [w](#w)')


# The whole site

@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site as smalldocs renders it, with the mistakes found in it"
    from nbdev.quarto import refresh_quarto_yml
    refresh_quarto_yml()
    folder = tmp_path_factory.mktemp("site")
    (folder/"_quarto.yml").write_bytes((CFG.config_path/"_quarto.yml").read_bytes())
    return folder/"out", build(folder/"out", folder/"_proc", "smalldocs", CFG)


def test_the_site_has_no_mistakes(site): assert not site[1]


ANNOUNCED = [("corruptions", "CONSTANTS"), ("attacks", "ATTACKS"), ("strategies", "STRATEGIES"),
             ("validation", "RULES"), ("benchmark", "ALEXNET_ERRORS"),
             ("corrupted_sets", "C_BAR"), ("commands", "DEFAULTS")]


@pytest.mark.parametrize("room, name", ANNOUNCED)
def test_a_page_shows_the_table_that_its_text_announces(room, name, site):
    page = (site[0]/f"{room}.html").read_text()
    shown = re.sub(r'<details class="code-fold">.*?</details>', "", page, flags=re.S)
    assert re.search(rf"^{name} = ", unescape(re.sub(r"<[^>]+>", "", shown)), re.M)
    assert f'href="../{room}.html#{name}"' in (site[0]/"reference/index.html").read_text()


def test_no_page_piles_up_folds(site):
    for page in sorted(site[0].rglob("*.html")):
        text = re.sub(r'<a id="\w+" class="constant"></a>|</?div[^>]*>|\s', "", page.read_text())
        private = r'<detailsclass="code-fold"><summary>Codeof_(?:(?!</details>).)*</details>'
        assert not re.search(f"{private}{private}", text), page.name


def test_no_signature_shows_an_address(site):
    for page in sorted(site[0].glob("*.html")):
        assert not re.search(r"&gt; at 0x|function \w+ at 0x", re.sub(r"<[^>]+>", "", page.read_text())), page.name


def test_formulas_have_one_backslash():
    for path in sorted(CFG.nbs_path.rglob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]
        formulas = [f for c in cells for f in re.findall(r"\$+[^$`]+\$+", "".join(c["source"]))]
        assert not [f for f in formulas if re.search(r"\\\\[a-zA-Z]", f)], path.name


IMAGES = {50_000: "all images", 10_000: "10,000 images"}  # as the first page says it


def with_images(name):
    "The bases of a table of long trainings, each with its number of training images"
    t = pd.read_csv(ROOT/f"benchmarks/{name}.csv").drop_duplicates("base")
    return [f"{BASES[base]}, {IMAGES[n]}" for base, n in zip(t.base, t.n_train)]


def on_the_first_page(base, model):
    "What the table of the results' first page says of a model"
    head, _, *lines = [line.split("|") for line in bases_table(ROOT).splitlines()]
    line = next(line for line in lines if base in line[1])
    return dict(zip(map(str.strip, head), map(str.strip, line)))[model]


def test_the_first_page_of_the_results_has_the_figures_of_the_run_folder():
    "Recomputed from evaluation.csv alone, without what a clean pass tells of the images (some tenths of a point)"
    t = pd.read_csv(ROOT/"nbs/results/imagenet/evaluation.csv")
    corrupted = t[t.family.isin(["noise", "blur", "weather", "digital"]) & (t.model == "reva")]
    shown = on_the_first_page("Imagenette", "REVa")
    assert float(shown.split("**")[1]) == pytest.approx(100*corrupted.error.mean(), abs=.3)


def test_the_first_page_of_the_results_has_the_figures_of_the_cells():
    "All images were in every cell of the digits, so their plain mean is the figure"
    t = pd.read_csv(ROOT/"benchmarks/recipe_cells.csv")
    t = t[(t.base == "digits_net") & (t.model == "reva")]
    corrupted = t[t.family.isin(["noise", "blur", "weather", "digital"])].error.mean()
    clean = t[t.family == "clean"].error.mean()
    assert on_the_first_page("digits", "REVa") == f"**{100*corrupted:.1f}** ({100*clean:.1f})"


def test_the_first_page_has_every_base_that_was_measured():
    "Those of both tables, each once"
    tables = [pd.read_csv(ROOT/f"benchmarks/{name}.csv") for name in ("recipe", "guided")]
    bases = {base for table in tables for base in table.base}
    names = [line.split(" | ")[0].split(" (")[0] for line in bases_table(ROOT).splitlines()]
    expected = [BASES[base] for base in bases] + list(RUNS.values())
    expected += [line for name in FULL for line in with_images(name)]
    assert "ResNet-20, CIFAR-10, all images" in expected
    assert "ResNet-56, CIFAR-100, 10,000 images" in expected
    assert sorted(names[2:]) == sorted(f"| {name}" for name in expected)


def test_a_row_of_a_table_is_told_as_it_is(tmp_path):
    "Differences to another case are left out"
    rows = [dict(base="b", case="reva", against=other, figure=figure, value=value, seeds=2)
            for other, values in (("", (10., 30., 50.)), ("base", (1., 2., 3.)))
            for figure, value in zip(("clean", "the 15", "C-bar"), values)]
    pd.DataFrame(rows).to_csv(tmp_path/"recipe.csv")
    expected = dict(base="b", case="reva", clean=10., corrupted=30., seeds=2)
    assert list(of_table(tmp_path/"recipe.csv")) == [expected]


# Badges

TUTORIALS = sorted((CFG.nbs_path/"tutorials").glob("*.ipynb"))
PLACES = dict(  # badge -> the start of its address, before the notebook's path in the repository
    colab="https://colab.research.google.com/github/{repo}/blob/{branch}/",
    binder="https://mybinder.org/v2/gh/{repo}/{branch}?urlpath=lab/tree/")


def badges(path):
    "The badges of a notebook: {name of its picture: address}"
    text = "".join(json.loads(path.read_text())["cells"][0]["source"])
    return dict(re.findall(r"\[!\[[^]]+\]\(\.\./images/(\w+)\.svg\)\]\(([^)]+)\)", text))


def code_in(path): return "\n".join(c.source for c in read_nb(path).cells if c.cell_type == "code")


def needs_your_images(path): return bool(re.search(r"#\| *slow|\.fastai|WRNB_", code_in(path)))


def test_what_needs_images_of_yours():
    "All tutorials but one make their images themselves"
    assert [path.stem for path in TUTORIALS if needs_your_images(path)] == ["hymenoptera"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_badge_opens_this_tutorial(path):
    "Colab has the notebook alone: not for those that read the repository's tables. None for those that need images"
    repo = CFG.git_url.removeprefix("https://github.com/")
    needs_repository = "../.." in path.read_text()
    places = {"binder"} if needs_repository else {"binder", "colab"}
    found = badges(path)
    assert set(found) == (set() if needs_your_images(path) else places)
    for name, address in found.items():
        start = PLACES[name].format(repo=repo, branch=CFG.branch)
        assert address.startswith(start)
        assert (ROOT/address.removeprefix(start)).samefile(path)
        assert (CFG.nbs_path/"images"/f"{name}.svg").is_file()
