"""Prepare the notebooks as pages: documentation, code and links; and write the pages of source."""
import ast, inspect, json, re
from functools import cache
from importlib import import_module

import nbdev.processors as steps
from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.showdoc import show_doc, showdoc_nm
from smalldocs.highlight import highlight

EXPORTS = {"export", "exporti", "exports"}  # nbdev's directives that put a cell into the module
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NAMES_SHOWN = 3  # names of private helpers in the label of a fold; the rest is only counted


def page_name(name):
    "The page of a notebook, named as nbdev's own links name it: 33_scoring.ipynb -> scoring.ipynb"
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", name.lower())


@cache
def documented_names():
    "What the rooms give to users: only these have a place on a page"
    rooms = [f"wrnb.{path.stem}" for path in get_config().lib_path.glob("[a-z]*.py")]
    return {name for room in rooms for name in getattr(import_module(room), "__all__", [])}


def local_links(text, site, depth):
    "Turn links to the published site and to notebooks into links between pages; private helpers get none"
    def link(m):
        name, place = m.groups()
        private = re.search(r"\._(?!_)", name) or name.split(".")[0] not in documented_names()
        return f"`{name}`" if private else f"[`{name}`]({'../'*depth}{place})"
    text = re.sub(rf"\[`([^`]+)`\]\({re.escape(site)}/?([^)\s]*)\)", link, text)
    return re.sub(r"(\]\((?:[\w./-]*/)?)(\d+\w*_[\w-]+\.ipynb)", lambda m: m[1] + page_name(m[2]), text)


def source_links(text, code, depth):
    "Turn links to the code on the repository's host into links to the site's own copy of it"
    return re.sub(rf"{re.escape(code)}/wrnb/(\w+)\.py#L(\d+)", rf"{'../'*depth}source/\1.html#L-\2", text)


def defined_names(source):
    "The names that a cell defines at its top level: (functions, methods and classes; constants)"
    tree = ast.parse(source).body
    targets = [t for node in tree if isinstance(node, (ast.Assign, ast.AnnAssign))
               for t in getattr(node, "targets", None) or [node.target]]
    definitions = [showdoc_nm(node) for node in tree if isinstance(node, DEFINITIONS)]
    constants = [name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)]
    return definitions, constants


def public(names):
    "The names among these that a user may use; a method counts by its last part"
    return [n for n in names if not n.split(".")[-1].startswith("_")]


def label(names, helpers):
    "The label of folded code"
    if len(names) == 1 and len(helpers) > 1: return f"Code of {names[0]} and {len(helpers)} helpers"
    *listed, last = names + helpers
    if len(listed) > NAMES_SHOWN: listed, last = listed[:NAMES_SHOWN], f"{len(listed)+1-NAMES_SHOWN} more"
    return f"Code of {', '.join(listed)} and {last}" if listed else f"Code of {last}"


def fold(cells):
    "Put the code of these exported cells, the one with the public name last, into one fold"
    sources = [re.sub(r"^#\|.*\n?", "", c.source, flags=re.M).strip() for c in cells]
    names = [sum(defined_names(s), []) for s in sources]
    main, helpers = public(names[-1]), sum(names[:-1], [])
    if not main: main, helpers = helpers + names[-1], []
    options = f"#| code-fold: true\n#| code-summary: {json.dumps(label(main, helpers))}\n"
    shown = mk_cell(options + "\n\n".join(sources))
    shown.directives_ = {}
    return shown


def anchors(names):
    "Places on the page that a link to a constant leads to"
    marks = "".join(f'<a id="{n}" class="constant"></a>' for n in names)
    return [mk_cell(f"```{{=html}}\n{marks}\n```", "markdown")] if names else []


def arrange(run):
    """What the page shows of exported cells in a row, each with the documentation nbdev made for it.

    A cell marked `exports` is shown as it is. A public function has its documentation and, folded, its
    code. Private helpers share the fold of the next public name, or of the last one, so that folds don't
    pile up. Imports are left out.
    """
    shown, helpers = [], []
    for cell, docs in run:
        definitions, constants = defined_names(cell.source)
        if "exports" in cell.directives_:
            cell.directives_ = {}
            shown += [*anchors(public(constants)), *docs, cell]
        elif public(definitions + constants):
            shown += [*anchors(public(constants)), *docs, helpers + [cell]]
            helpers = []
        elif definitions or constants: helpers.append(cell)
    folds = [i for i, item in enumerate(shown) if isinstance(item, list)]
    if helpers and folds: shown[folds[-1]][:0] = helpers
    elif helpers: shown.append(helpers)
    return [fold(item) if isinstance(item, list) else item for item in shown]


class ShowExports(Processor):
    "Put what the room exports on its page, as `arrange` says"
    def begin(self):
        cells, run = [], []
        for cell in self.nb.cells:
            if cell.get("has_sd"): run[-1][1].append(cell)
            elif EXPORTS & cell.directives_.keys(): run.append((cell, []))
            elif "hide" not in cell.directives_:
                cells += [*arrange(run), cell]
                run = []
        self.nb.cells[:] = cells + arrange(run)


def documentation(doc):
    "nbdev's documentation, the same at each build; its italics end where the docstring ends"
    head, fence, docs = doc._repr_markdown_().rpartition("\n```\n\n")
    head = re.sub(r"<(?:bound method |function )?([\w.<>]+?)(?: object)? at 0x[0-9a-f]+>", r"\1", head)
    head = head.replace(":builtin_function_or_method=", "=").replace(":function=", "=")
    if m := re.match(r"\*([^\n]*)\*", docs):
        escaped = re.sub(r"(`[^`]*`)|([*_])", lambda c: c[1] or "\\" + c[2], m[1])
        docs = f"*{escaped}*{docs[m.end():]}"
    return head + fence + docs


class ShowDocs(Processor):
    "Documentation comes from the module, so that no cell has to run"
    def begin(self):
        module = steps._default_exp(self.nb)
        self.names = dict(show_doc=show_doc)
        if module: self.names |= vars(import_module(f"wrnb.{module}"))

    def cell(self, cell):
        if cell.cell_type != "code" or not cell.source.startswith("show_doc("): return
        doc = eval(cell.source, self.names)
        code = inspect.unwrap(getattr(doc.sym, "fget", doc.sym))
        line = inspect.getsourcelines(code)[1] or 1
        cell.cell_type = "markdown"
        cell.source = re.sub("#L(None|[0-9]+)", f"#L{line}", documentation(doc))


class Pages(steps.FilterDefaults):
    "nbdev's processors, with ours in the place of those that run cells or show code in another way"
    def base_procs(self):
        ours = {"add_show_docs": [steps.add_show_docs, ShowExports], "exec_show_docs": [ShowDocs],
                "clean_show_doc": [], "add_fold": [], "mv_exports": []}
        return [q for p in super().base_procs() for q in ours.get(p.__name__, [p])]


def split_title(nb):
    "Give the title a cell of its own: nbdev takes the whole first cell for the title"
    first = next(c for c in nb.cells if c.cell_type == "markdown")
    m = re.match(r"(# [^\n]*\n+(?:> [^\n]*(?:\n+|\Z))?)(.*)", first.source, re.S)
    if m and m[2]:
        first.source = m[1]
        nb.cells.insert(nb.cells.index(first)+1, mk_cell(m[2], "markdown"))
    for i, cell in enumerate(nb.cells): cell.idx_ = i


def prepare(path, proc, cfg):
    "Write one notebook as a page for the renderer: documented, cleaned, named as its links name it"
    nb, rel = read_nb(path), path.relative_to(cfg.nbs_path)
    split_title(nb)
    Pages()(nb)
    site, code = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/"), f"{cfg.git_url}/blob/{cfg.branch}"
    depth = len(rel.parts)-1
    for cell in nb.cells:
        if cell.cell_type == "raw": cell.source = re.sub(r"^output-file: .*\n", "", cell.source, flags=re.M)
        if cell.cell_type == "markdown":
            cell.source = source_links(local_links(cell.source, site, depth), code, depth)
    dest = proc/rel.with_name(page_name(rel.name))
    dest.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, dest)


def source_page(path, folder):
    "Write a page with one module's code and an anchor at each line"
    lines = highlight(path.read_text().rstrip(), "python").split("\n")
    def anchored(i, line): return f'<a class="line" id="L-{i}" href="#L-{i}">{i:4}</a>  {line}'
    code = "\n".join(anchored(i, line) for i, line in enumerate(lines, 1))
    front = f"---\ntitle: {path.stem}.py\ntoc: false\nsearch: false\npage-navigation: false\n---"
    block = f'<div class="sourceCode"><pre class="sourceCode python"><code>{code}</code></pre></div>'
    (folder/f"{path.stem}.md").write_text(f"{front}\n\n`````{{=html}}\n{block}\n`````\n")


def missing_page(proc):
    "Write the page that a host shows for an address that doesn't exist"
    front = "---\ntitle: Page not found\ntoc: false\nsearch: false\npage-navigation: false\n---"
    text = "There is no page at this address. Search for it above, or go back to [the start](index.ipynb)."
    (proc/"404.md").write_text(f"{front}\n\n{text}\n")
