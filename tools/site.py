"""Build the site into _docs/ from the notebooks, by Quarto if it is installed or else by smalldocs.

    python -m tools.site                         with the renderer that is there
    python -m tools.site --renderer smalldocs    with this one

It needs no network: formulas become MathML, and no page asks another host for anything. Overviews, sidebar
and llms.txt are made from the notebooks. The build fails on a broken link, a request to another host, or a
picture without an alt text.
"""
import argparse, shutil, subprocess, sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.quarto import refresh_quarto_yml
from smalldocs.site import build as build_smalldocs

from tools.links import check_links
from tools.mend import mend
from tools.overviews import complete_search, contents, llms, write_overviews
from tools.pages import missing_page, prepare, source_page

UNKNOWN = {f"format.html.{option} is ignored" for option in ("grid", "html-math-method")}  # to smalldocs


def write_pages(proc, cfg):
    "Write into `proc` all that a renderer needs: pages, sources, overviews, sidebar"
    shutil.copytree(cfg.nbs_path, proc, ignore=shutil.ignore_patterns("*.ipynb", ".*"))
    for path in nbglob(cfg.nbs_path, as_path=True): prepare(Path(path), proc, cfg)
    (proc/"source").mkdir()
    for path in sorted(cfg.lib_path.glob("[a-z]*.py")): source_page(path, proc/"source")
    write_overviews(contents(cfg), proc)
    missing_page(proc)


def render(proc, renderer):
    "Render the prepared pages; returns the folder with the site and what the renderer complains of"
    if renderer == "quarto":
        subprocess.run(["quarto", "render", str(proc)], check=True)
        return proc/"_docs", []
    site = build_smalldocs(proc, quiet=True)
    return site.out, [w for w in site.warnings if w not in UNKNOWN]


def build(out, proc, renderer, cfg):
    "Build the site in `out` by way of `proc`, a folder next to _quarto.yml; returns a line for each mistake"
    for folder in (proc, out): shutil.rmtree(folder, ignore_errors=True)
    write_pages(proc, cfg)
    site, wrong = render(proc, renderer)
    shutil.move(site, out)
    shutil.rmtree(proc)
    mend(out, cfg.doc_baseurl)
    complete_search(out)
    (out/"llms.txt").write_text(llms(contents(cfg), cfg))
    return wrong + check_links(out, cfg.doc_baseurl)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = "quarto" if shutil.which("quarto") else "smalldocs"
    parser.add_argument("--renderer", choices=("quarto", "smalldocs"), default=there, help=f"here: {there}")
    args, cfg = parser.parse_args(), get_config()
    refresh_quarto_yml()
    out = cfg.config_path/cfg.doc_path.name
    wrong = build(out, cfg.config_path/"_proc", args.renderer, cfg)
    if wrong: sys.exit("\n".join(["The site has mistakes:"] + wrong))
    pages = len(list(out.rglob("*.html")))
    print(f"{pages} pages by {args.renderer}, every link works, every picture has its alt text: {out/'index.html'}")


if __name__ == "__main__": main()
