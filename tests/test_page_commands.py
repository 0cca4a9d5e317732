"""The commands on the result pages, word by word: a shell reads them as you would paste them, and the script that each
names knows its options. What they do is run small in test_benchmarks.py, for most of them.
"""
import argparse, json, os, re, runpy, subprocess

import pytest

import wrnb.cli
from helpers import ROOT

PAGES = sorted((ROOT/"nbs"/"results").glob("*.ipynb"))
BLOCK = re.compile(r"```sh\n(.*?)```", re.S)
STUB = """#!/bin/bash
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\n'; } >> "$CALLS"
"""


def blocks(page):
    "The commands that a page has, as text"
    cells = json.loads(page.read_text())["cells"]
    return "\n".join(b for c in cells if c["cell_type"] == "markdown" for b in BLOCK.findall("".join(c["source"])))


def calls(text, folder):
    "The words of each command, as a shell gives them; nothing is run but a stub that writes them down"
    stubs = folder/"bin"
    stubs.mkdir()
    for name in ("python", "wrnb", "cp"):
        (stubs/name).write_text(STUB)
        (stubs/name).chmod(0o755)
    env = dict(PATH=f"{stubs}{os.pathsep}/usr/bin{os.pathsep}/bin", CALLS=str(folder/"calls"))
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=env, check=True)
    lines = (folder/"calls").read_text().split("\0\n")
    return [line.split("\0") for line in lines if line]


class Parsed(Exception): "The options were read"


def parse(script, words, monkeypatch):
    "Start a script of benchmarks/ with these options, as far as it reads them"
    own = argparse.ArgumentParser.parse_args
    def parsed(self, *given):
        own(self, *given)
        raise Parsed
    with monkeypatch.context() as m:
        m.setattr(argparse.ArgumentParser, "parse_args", parsed)
        m.setattr("sys.argv", [str(script), *words])
        m.syspath_prepend(script.parent)
        with pytest.raises(Parsed): runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_the_scripts_know_the_options_of_a_page(page, tmp_path, monkeypatch):
    done = calls(blocks(page), tmp_path)
    assert done
    monkeypatch.setattr(wrnb.cli, "_run_with", lambda command, given: 0)
    for program, *words in done:
        if program == "wrnb": assert wrnb.cli.main(words) == 0, words
        if program == "python": parse(ROOT/words[0], words[1:], monkeypatch)


@pytest.mark.parametrize("command", [
    "python benchmarks/recipe.py --no-such-option 1", "python benchmarks/recipe.py --bases nothing",
    "wrnb score digits --no-such-option 1"])
def test_an_option_that_is_gone_is_found(command, tmp_path, monkeypatch):
    (program, *words), = calls(command, tmp_path)
    with pytest.raises(SystemExit):
        if program == "wrnb": wrnb.cli.main(words)
        else: parse(ROOT/words[0], words[1:], monkeypatch)


def test_a_shell_reads_the_lines(tmp_path):
    "Variables, several lines, loops and quoted words"
    text = 'P="--a 1"\nfor s in x y; do wrnb enhance $s \\\n  $P; done\npython b.py "reva, extra"\n'
    assert calls(text, tmp_path) == [
        ["wrnb", "enhance", "x", "--a", "1"], ["wrnb", "enhance", "y", "--a", "1"], ["python", "b.py", "reva, extra"]]
