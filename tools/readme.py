"""Make README.md from nbs/index.ipynb: prose and pictures, code, and outputs as text or tables.

    python -m tools.readme            writes README.md
    python -m tools.readme --check    exit code 1 if README.md is out of date

nbdev_readme needs Quarto; this doesn't.
"""
import re, sys
from html import unescape

from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives

MADE = "<!-- Made from nbs/index.ipynb by `python -m tools.readme`: edit that. -->"


def markdown_table(html):
    "A table that pandas wrote as HTML, in Markdown"
    def plain(cell): return unescape(re.sub("<[^>]+>", "", cell)).strip()
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    head, *body = [[plain(cell) for cell in row] for row in cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"]*len(head), *body])


def fenced(text, language=""):
    "Text in a block of code"
    return f"```{language}\n{text.rstrip()}\n```"


def output_text(out):
    "One output as Markdown"
    if out.output_type == "stream": return fenced("".join(out.text))
    data = {kind: "".join(value) for kind, value in out.data.items()}
    if "text/markdown" in data: return data["text/markdown"]
    if "<table" in data.get("text/html", ""): return markdown_table(data["text/html"])
    if any(kind.startswith("image/") for kind in data): return ""  # README shows those that are files
    return fenced(data["text/plain"])


def cell_text(cell):
    "One cell as Markdown; hidden cells are left out"
    if cell.cell_type != "code": return cell.source.strip()
    directives = extract_directives(cell)
    if "hide" in directives: return ""
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    shown = [fenced(code, "python")] if code and directives.get("echo:") != ["false"] else []
    return "\n\n".join(shown + [output_text(o) for o in cell.get("outputs", [])])


def from_the_root(text, folder):
    "The links and pictures of a notebook in `folder`, as seen from README.md: GitHub resolves those"
    elsewhere = r"(?!https?:|#|mailto:|data:)"
    text = re.sub(rf"\]\({elsewhere}([^)]+)\)", rf"]({folder}/\1)", text)
    return re.sub(rf'(<(?:img|a)\b[^>]*\b(?:src|href)="){elsewhere}', rf"\1{folder}/", text)


def readme():
    "The text of README.md"
    cfg = get_config()
    parts = [cell_text(cell) for cell in read_nb(cfg.nbs_path/cfg.readme_nb).cells]
    text = "\n\n".join(part for part in parts if part)
    return f"{MADE}\n\n{from_the_root(text, cfg.nbs_path.name)}\n"


def main():
    path = get_config().config_path/"README.md"
    if "--check" not in sys.argv: path.write_text(readme(), encoding="utf-8")
    elif path.read_text(encoding="utf-8") != readme():
        sys.exit("README.md is out of date: run python -m tools.readme")


if __name__ == "__main__": main()
