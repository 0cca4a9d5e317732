"""Make README.md from nbs/index.ipynb: its prose, its code, and its outputs as text or tables.

    python -m tools.readme            writes README.md
    python -m tools.readme --check    exit code 1 where README.md is out of date

nbdev_readme needs Quarto; this doesn't.
"""
import re, sys
from html import unescape

from execnb.nbio import read_nb
from nbdev.config import get_config
from nbdev.process import extract_directives


def markdown_table(html):
    "A table that pandas wrote as HTML, in Markdown"
    rows = [[unescape(re.sub("<[^>]+>", "", c)).strip() for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
            for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.S)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"]*len(rows[0])] + rows[1:])


def output_text(out):
    "One output as Markdown"
    if out.output_type == "stream": return "```\n" + "".join(out.text).rstrip() + "\n```"
    data = {kind: "".join(value) for kind, value in out.data.items()}
    if "text/markdown" in data: return data["text/markdown"]
    if "<table" in data.get("text/html", ""): return markdown_table(data["text/html"])
    if any(kind.startswith("image/") for kind in data): return ""  # a figure is on the site, not in the README
    return "```\n" + data["text/plain"].rstrip() + "\n```"


def cell_text(cell):
    "One cell as Markdown; hidden cells are left out"
    if cell.cell_type != "code": return cell.source.strip()
    directives = extract_directives(cell)
    if "hide" in directives: return ""
    code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    show = code and directives.get("echo:") != ["false"]
    return "\n\n".join(([f"```python\n{code}\n```"] if show else []) + [output_text(o) for o in cell.get("outputs", [])])


def readme():
    "The text of README.md"
    cfg = get_config()
    parts = [cell_text(cell) for cell in read_nb(cfg.nbs_path/cfg.readme_nb).cells]
    text = "\n\n".join(p for p in parts if p)
    text = re.sub(r"\]\((?!https?:|#|mailto:)([^)]+)\)", rf"]({cfg.nbs_path.name}/\1)", text)  # links stand relative to the notebook
    return f"<!-- Made from nbs/index.ipynb by `python -m tools.readme`: edit that. -->\n\n{text}\n"


def main():
    path = get_config().config_path/"README.md"
    if "--check" not in sys.argv: path.write_text(readme(), encoding="utf-8")
    elif path.read_text(encoding="utf-8") != readme(): sys.exit("README.md is out of date: run python -m tools.readme")


if __name__ == "__main__": main()
