"""Build the site into _docs/: the notebooks as nbdev prepares them, rendered by Quarto where it is installed and by smalldocs otherwise, then checked.

    python -m tools.site

No network: formulas become MathML, and no page asks another host for anything. Overviews, sidebar and llms.txt are made from the notebooks that are there.
The build fails on a broken link, a request to another host, and a picture without an alt text.
"""
import inspect, io, re, shutil, subprocess, sys
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import nbdev.processors as steps
from execnb.nbio import mk_cell, read_nb, write_nb
from latex2mathml.converter import convert
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import Processor
from nbdev.quarto import refresh_quarto_yml
from nbdev.showdoc import show_doc
from PIL import Image
from smalldocs.highlight import highlight
from smalldocs.site import build

IGNORED = "format.html.html-math-method is ignored"  # this option of _quarto.yml is for Quarto alone
SECTIONS = dict(  # folder: title, line, pages in the order of reading (others follow by name)
    tutorials=("Tutorials", "What to do with it, step by step", "own_learner torchvision_folder reading_report reproduce scale"),
    results=("Results", "What it does on real data, how sure that is, and how to do it again", "cifar10 cifar100 imagenet weak_vs_random guided_vs_unguided weak_samples corruptions attacks scoring"),
    reference=("Reference", "Every room of the package and what it gives", ""))


def page_name(name):
    "The page of a notebook, named as nbdev's own links name it: 09_scoring.ipynb -> scoring.ipynb"
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", name.lower())


def local_links(text, site, depth):
    "Links to the published site, and to notebooks by file name, become links between pages; a private helper has no page"
    text = re.sub(rf"\[`([^`]+)`\]\({re.escape(site)}/?([^)\s]*)\)",
                  lambda m: f"`{m[1]}`" if re.search(r"(^|\.)_(?!_)", m[1]) else f"[`{m[1]}`]({'../'*depth}{m[2]})", text)
    return re.sub(r"(\]\((?:[\w./-]*/)?)(\d+\w*_[\w-]+\.ipynb)", lambda m: m[1] + page_name(m[2]), text)


def source_links(text, code, depth):
    "Links to the code on the repository's host become links to the site's own copy of it"
    return re.sub(rf"{re.escape(code)}/wrnb/(\w+)\.py#L(\d+)", rf"{'../'*depth}source/\1.html#L-\2", text)


class FoldCode(Processor):
    "The code of a definition stays on the page, folded, under its documentation where it has one"
    def cell(self, cell):
        kind = cell.cell_type == "code" and cell.directives_.keys() & {"export", "exporti"}
        if kind and (name := re.search(r"^(?:def|class) (\w+)", cell.source, re.M)):
            cell.directives_["exports"] = cell.directives_.pop(*kind)
            cell.source = f"#| code-fold: true\n#| code-summary: Code of {name[1]}\n{cell.source}"


class ShowDocs(Processor):
    "Documentation comes from the module, so that no cell has to run"
    def begin(self):
        module = steps._default_exp(self.nb)
        self.names = dict(vars(import_module(f"wrnb.{module}")), show_doc=show_doc) if module else {}

    def cell(self, cell):
        if cell.cell_type == "code" and cell.source.startswith("show_doc("):
            doc = eval(cell.source, self.names)
            line = inspect.getsourcelines(inspect.unwrap(getattr(doc.sym, "fget", doc.sym)))[1]
            cell.cell_type, cell.source = "markdown", re.sub("#L(None|[0-9]+)", f"#L{line or 1}", doc._repr_markdown_())


class Pages(steps.FilterDefaults):
    "nbdev's processors, with these two where it would run the cells"
    def base_procs(self):
        ours = {"add_show_docs": [steps.add_show_docs, FoldCode], "exec_show_docs": [ShowDocs], "clean_show_doc": [], "add_fold": []}
        return [q for p in super().base_procs() for q in ours.get(p.__name__, [p])]


def prepare(path, proc, cfg):
    "Write one notebook as a page for smalldocs: documented, cleaned, named as its links name it"
    nb, rel = read_nb(path), path.relative_to(cfg.nbs_path)
    first = next(c for c in nb.cells if c.cell_type == "markdown")
    if (m := re.match(r"(# [^\n]*\n+(?:> [^\n]*(?:\n+|\Z))?)(.*)", first.source, re.S)) and m[2]:  # nbdev takes the whole first cell for the title
        first.source = m[1]
        nb.cells.insert(nb.cells.index(first)+1, mk_cell(m[2], "markdown"))
    for i, cell in enumerate(nb.cells): cell.idx_ = i
    Pages()(nb)
    site, code, depth = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/"), f"{cfg.git_url}/blob/{cfg.branch}", len(rel.parts)-1
    for cell in nb.cells:
        if cell.cell_type == "raw": cell.source = re.sub(r"^output-file: .*\n", "", cell.source, flags=re.M)
        if cell.cell_type == "markdown": cell.source = source_links(local_links(cell.source, site, depth), code, depth)
    dest = proc/rel.with_name(page_name(rel.name))
    dest.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, dest)


def source_page(path, folder):
    "A page with one module's code, an anchor a line"
    lines = highlight(path.read_text().rstrip(), "python").split("\n")
    code = "\n".join(f'<a class="line" id="L-{i}" href="#L-{i}">{i:4}</a>  {line}' for i, line in enumerate(lines, 1))
    page = f"---\ntitle: {path.stem}.py\ntoc: false\nsearch: false\npage-navigation: false\n---\n\n"
    (folder/f"{path.stem}.md").write_text(f'{page}`````{{=html}}\n<div class="sourceCode"><pre class="sourceCode python"><code>{code}</code></pre></div>\n`````\n')


def finish(text):
    "Mend one rendered page: formulas as MathML, no request to a CDN, figures at half their pixels (they are drawn for sharp screens)"
    text = re.sub(r'<(link|script)\b[^>]*https://cdn\.jsdelivr\.net/npm/katex[^>]*>(</script>)?', "", text)
    text = re.sub(r'<span class="math inline">\\\((.*?)\\\)</span>', lambda m: convert(unescape(m[1])), text, flags=re.S)
    text = re.sub(r'<span class="math display">\\\[(.*?)\\\]</span>', lambda m: convert(unescape(m[1]), display="block"), text, flags=re.S)
    return re.sub(r'<img (?:alt="[^"]*" )?src="data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)"', sharp, text)


def sharp(picture):
    "The size at which a picture shows: half its pixels; one that a telephone could not show legibly scrolls there"
    width = Image.open(io.BytesIO(b64decode(picture[1]))).width//2
    return f'<img width="{width}"{" data-wide" if width > 640 else ""} {picture[0][5:]}'


class Links(HTMLParser):
    "The links, the ids, the other hosts that one page asks for something, and how many pictures have no alt text"
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.hosts, self.mute = [], set(), set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = {k: v for k, v in attrs if v}
        self.mute += tag == "img" and not attrs.get("alt")
        self.ids |= {attrs[k] for k in ("id", "name") if k in attrs}
        url = attrs.get("src") or attrs.get("href")
        if not url or url.startswith(("data:", "mailto:", "javascript:")): return
        if not urlsplit(url).netloc: self.links.append(url)
        elif tag != "a": self.hosts.add(url)


def check_links(out):
    "What is wrong with the site in `out`: missing files, missing anchors, requests to other hosts, pictures without alt text"
    pages, wrong = {p: Links(p.read_text()) for p in sorted(out.rglob("*.html"))}, []
    for page, links in pages.items():
        name = page.relative_to(out)
        wrong += [f"{name}: asks another host: {url}" for url in links.hosts]
        if links.mute: wrong.append(f"{name}: {links.mute} picture(s) without alt text: give their cells #| fig-alt")
        for url in links.links:
            path, anchor = urldefrag(url)
            target = (page.parent/unquote(urlsplit(path).path)).resolve() if path else page
            if target.is_dir(): target /= "index.html"
            if not target.is_file(): wrong.append(f"{name}: no such file: {url}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids: wrong.append(f"{name}: no such place on the page: {url}")
    for css in out.rglob("*.css"):
        wrong += [f"{css.relative_to(out)}: asks another host: {url}" for url in re.findall(r"""(?:url\(|@import\s)\s*['"]?(https?:[^)'"]+)""", css.read_text())]
    return wrong


def first_lines(path):
    "Title and one-sentence summary of a notebook"
    text = next(c.source for c in read_nb(path).cells if c.cell_type == "markdown")
    return re.match(r"# (.+)\n+> (.+)", text).groups()


def contents(cfg):
    "Section by section the pages that are there: {folder: [(path in the site's sources, title, line)]}"
    found = {folder: [] for folder in ("", *SECTIONS)}
    for path in sorted(map(Path, nbglob(cfg.nbs_path, as_path=True))):
        rel = path.relative_to(cfg.nbs_path)
        folder = rel.parts[0] if len(rel.parts) > 1 else "" if rel.name == cfg.readme_nb else "reference"
        found[folder].append((rel.with_name(page_name(rel.name)).as_posix(), *first_lines(path)))
    for folder, (*_, order) in SECTIONS.items():
        order = [f"{folder}/{name}.ipynb" for name in order.split()]
        found[folder].sort(key=lambda page: order.index(page[0]) if page[0] in order else len(order))
    return found


def names_of(module):
    "The documented names of one room, a list with links"
    room = import_module(f"wrnb.{module}")
    names = [n for n in room.__all__ if inspect.isfunction(f := getattr(room, n)) or inspect.isclass(f)] if module != "all" else []
    return [f"  - [`{n}`](../{module}.ipynb#{n.lower()}): {inspect.getdoc(getattr(room, n)).splitlines()[0]}" for n in names]


def overviews(pages, proc):
    "Write the first page of each section, and the sidebar"
    bar = ["website:", "  sidebar:", "    contents:", "      - text: Start", "        href: index.ipynb"]
    for folder, (title, line, _) in SECTIONS.items():
        rows = [f"---\ntitle: {title}\ndescription: {line}\ntoc: false\n---\n"]
        bar += [f"      - section: {title}", f"        href: {folder}/index.md", "        contents:"]
        for path, name, summary in pages[folder]:
            rows += [f"- **[{name}](../{path})**: {summary}", *(names_of(Path(path).stem) if folder == "reference" else [])]
            bar.append(f"          - {path}")
        (proc/folder).mkdir(exist_ok=True)
        (proc/folder/"index.md").write_text("\n".join(rows) + "\n")
    (proc/"sidebar.yml").write_text("\n".join(bar) + "\n")


def llms(pages, cfg):
    "llms.txt: what the package is, its five lines, and every page with its line"
    index = "\n".join(c.source for c in read_nb(cfg.nbs_path/cfg.readme_nb).cells if c.cell_type == "markdown")
    site, about = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/"), re.search(r"\n> .+\n+(.+)", index)[1]
    rows = [f"# {cfg.title}", f"> {cfg.description}", about, re.search(r"```py\n.*?```", index, re.S)[0]]
    for folder, found in pages.items():
        rows += [f"## {SECTIONS[folder][0] if folder else 'Start'}", "\n".join(f"- [{name}]({site}/{path.removesuffix('.ipynb')}.html): {line}" for path, name, line in found)]
    return "\n\n".join(rows) + "\n"


def render(proc):
    "Render the prepared pages; returns the folder with the site and what the renderer complains of"
    if shutil.which("quarto"):
        subprocess.run(["quarto", "render", str(proc)], check=True)
        return proc/"_docs", []
    site = build(proc, quiet=True)
    return site.out, [w for w in site.warnings if w != IGNORED]


def main():
    cfg = get_config()
    refresh_quarto_yml()
    proc, out, pages = cfg.config_path/"_proc", cfg.config_path/cfg.doc_path.name, contents(cfg)
    for folder in (proc, out): shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(cfg.nbs_path, proc, ignore=shutil.ignore_patterns("*.ipynb", ".*"))
    for path in nbglob(cfg.nbs_path, as_path=True): prepare(Path(path), proc, cfg)
    (proc/"source").mkdir()
    for path in sorted(cfg.lib_path.glob("[a-z]*.py")): source_page(path, proc/"source")
    overviews(pages, proc)
    site, wrong = render(proc)
    shutil.move(site, out)
    shutil.rmtree(proc)
    for page in out.rglob("*.html"): page.write_text(finish(page.read_text()))
    for css in out.rglob("*.css"): css.write_text(re.sub(r"@import url\(https?:[^)]*\);?", "", css.read_text()))
    (out/"llms.txt").write_text(llms(pages, cfg))
    wrong += check_links(out)
    if wrong: sys.exit("\n".join(["The site has mistakes:"] + wrong))
    print(f"{len(list(out.rglob('*.html')))} pages, every link works, every picture has its alt text: {out/'index.html'}")


if __name__ == "__main__": main()
