"""What leads to the pages: the first page of each section, the sidebar, llms.txt, the search."""
import ast, inspect, json, re
from html import unescape
from importlib import import_module
from pathlib import Path

from execnb.nbio import read_nb
from nbdev.doclinks import nbglob

from tools.pages import defined_names, page_name
from tools.results import overview_rows

SECTIONS = dict(  # folder: title, line, pages in the order of reading (others follow by name)
    tutorials=("Tutorials", "What to do with it, step by step",
               "own_learner torchvision_folder morning reading_report reproduce scale"),
    results=("Results", "What it does on real data, how sure that is, and how to do it again",
             "cifar10 cifar100 imagenet weak_vs_random guided_vs_unguided recipe weak_samples people "
             "evidence field corruptions attacks scoring peers"),
    reference=("Reference", "Every room of the package and what it gives", ""))
GROUPS = {  # group of rooms: its rooms, from left to right
    "Foundations": "late core progress randomness tables runs",
    "Images and classifiers":
        "pictures items columns images image_sets hub_data folders learners data loaders "
        "networks checkpoints zoo models hub_models sources pretrained catalogue named "
        "folding inference callbacks together training",
    "Weak samples": "neighbors precision search scoring weak corrections",
    "Perturbations":
        "splines exchange c_bar arrays corruptions imagecorruptions transforms autoattack attacks "
        "closeups shelf workbench",
    "Weaknesses":
        "estimation calibration outcomes measurement monitoring validation augmentation peers "
        "terms heads averaging fine_tuning guidance gains watch strategies step_back enhancement",
    "Evaluation":
        "archives corrupted_sets corrupted_copies shifted_sets evaluation rounds benchmark "
        "differences reliability checkup",
    "Doors":
        "setup loop shifts times checks findings words figures gallery sections report "
        "comparison gate commands cli all"}
ENTRIES_SHOWN = 6  # entries of a table that stand for it where its line of code says nothing


def first_lines(path):
    "Title and one-sentence summary of a notebook"
    text = next(c.source for c in read_nb(path).cells if c.cell_type == "markdown")
    return re.match(r"# (.+)\n+> (.+)", text).groups()


def contents(cfg):
    "Section by section the pages that exist: {folder: [(path in the site's sources, title, line)]}"
    pages = {folder: [] for folder in ("", *SECTIONS)}
    for path in sorted(map(Path, nbglob(cfg.nbs_path, as_path=True))):
        rel = path.relative_to(cfg.nbs_path)
        in_the_root = "" if rel.name == cfg.readme_nb else "reference"
        folder = rel.parts[0] if len(rel.parts) > 1 else in_the_root
        pages[folder].append((rel.with_name(page_name(rel.name)).as_posix(), *first_lines(path)))
    for folder, (*_, order) in SECTIONS.items():
        place = {f"{folder}/{name}.ipynb": i for i, name in enumerate(order.split())}
        pages[folder].sort(key=lambda page: place.get(page[0], len(place)))
    return pages


def grouped(pages):
    "The reference pages, group by group; a room that no group names is a mistake"
    by_room = {Path(page[0]).stem: page for page in pages}
    missing = by_room.keys() - set(" ".join(GROUPS.values()).split())
    if missing: raise ValueError(f"tools/overviews.py: GROUPS has no place for {', '.join(sorted(missing))}")
    def listed(rooms): return [by_room[room] for room in rooms.split() if room in by_room]
    return {group: listed(rooms) for group, rooms in GROUPS.items()}


def constant_line(module, name):
    "What a constant is: the comment on its first line of code, or else its first entries"
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        _, _, comment = source.splitlines()[node.lineno-1].partition("  # ")
        if name in targets and comment: return comment
    value = getattr(module, name)
    if not isinstance(value, (dict, list, tuple)): return f"`{value!r}`"
    more = ", ..." if len(value) > ENTRIES_SHOWN else ""
    return ", ".join(f"`{key}`" for key in list(value)[:ENTRIES_SHOWN]) + more


def line_of(module, name):
    "One documented name of a room in a list, with its link"
    value, room = getattr(module, name), module.__name__.split(".")[-1]
    defined = inspect.isfunction(value) or inspect.isclass(value)
    place = name.lower() if defined else name
    line = inspect.getdoc(value).splitlines()[0] if defined else constant_line(module, name)
    return f"  - [`{name}`](../{room}.ipynb#{place}): {line}"


def room_lines(page):
    "One room in the overview of the reference: its line, and below it the names it gives"
    path, title, summary = page
    room = Path(path).stem
    module = import_module(f"wrnb.{room}")
    own = sum(defined_names(inspect.getsource(module)), [])  # a room may pass on names of another
    names = [name for name in module.__all__ if name in own] if room != "all" else []
    return [f"- **[{title}](../{path})**: {summary}", *(line_of(module, n) for n in names)]


def overview(folder, pages):
    "The Markdown of a section's first page"
    title, line, _ = SECTIONS[folder]
    toc = "true" if folder == "reference" else "false"
    rows = [f"---\ntitle: {title}\ndescription: {line}\ntoc: {toc}\n---\n"]
    if folder == "results": rows += overview_rows(pages, Path(__file__).resolve().parent.parent)
    elif folder != "reference": rows += [f"- **[{name}](../{path})**: {summary}" for path, name, summary in pages]
    else:
        for group, rooms in grouped(pages).items():
            rows += [f"## {group}\n", *(line for page in rooms for line in room_lines(page)), ""]
    return "\n".join(rows) + "\n"


def sidebar(pages):
    "The sidebar as YAML: the sections, the reference in its groups"
    rows = ["website:", "  sidebar:", "    contents:"]
    rows += ["      - text: Start", "        href: index.ipynb"]
    for folder, (title, *_) in SECTIONS.items():
        rows += [f"      - section: {title}", f"        href: {folder}/index.md", "        contents:"]
        if folder != "reference": rows += [f"          - {page[0]}" for page in pages[folder]]
        else:
            for group, rooms in grouped(pages[folder]).items():
                rows += [f"          - section: {group}", "            contents:"]
                rows += [f"              - {page[0]}" for page in rooms]
    return "\n".join(rows) + "\n"


def write_overviews(pages, proc):
    "Write the first page of each section, and the sidebar"
    for folder in SECTIONS:
        (proc/folder).mkdir(exist_ok=True)
        (proc/folder/"index.md").write_text(overview(folder, pages[folder]))
    (proc/"sidebar.yml").write_text(sidebar(pages))


def llms(pages, cfg):
    "llms.txt: what the package is, its five lines, and every page with its line"
    cells = read_nb(cfg.nbs_path/cfg.readme_nb).cells
    index = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    about = re.search(r"\n> .+\n+(.+)", index)[1]
    five_lines = re.search(r"```py\n.*?```", index, re.S)[0]
    parts = [f"# {cfg.title}", f"> {cfg.description}", about, five_lines]
    site = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/")
    for folder, listed in pages.items():
        parts.append(f"## {SECTIONS[folder][0] if folder else 'Start'}")
        def address(path): return f"{site}/{path.removesuffix('.ipynb')}.html"
        parts.append("\n".join(f"- [{name}]({address(path)}): {line}" for path, name, line in listed))
    return "\n\n".join(parts) + "\n"


def plain(html):
    "The words of a piece of HTML"
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


HEADING = re.compile(r'<h3\b[^>]*\bdata-anchor-id="([^"]+)"[^>]*>(.*?)</h3>(.*?)(?=<h[123]\b|\Z)', re.S)


def search_entries(text, name):
    "What a search should find by name on a rendered page: functions and classes (h3), and constants"
    def first(pattern, text): return plain(m[1]) if (m := re.search(pattern, text, re.S)) else ""
    title = first(r"<h1\b[^>]*>(.*?)</h1>", text) or name
    marks = [(mark, mark, "") for mark in re.findall(r'<a id="([^"]+)" class="constant"></a>', text)]
    entries = []
    for place, section, after in HEADING.findall(text) + marks:
        href, section = f"{name}#{place}", plain(section)
        line = first(r"<p><em>(.*?)</em></p>", after) or section
        entries.append(dict(objectID=href, href=href, title=title, section=section, text=line))
    return entries


def complete_search(out):
    "Add to search.json the names that the renderer left out: Quarto's index ends at level 2"
    index = json.loads((out/"search.json").read_text())
    known = {entry["href"] for entry in index}
    for page in sorted(out.rglob("*.html")):
        name = page.relative_to(out).as_posix()
        if name.startswith("source/"): continue
        index += [e for e in search_entries(page.read_text(), name) if e["href"] not in known]
    (out/"search.json").write_text(json.dumps(index, ensure_ascii=False))
