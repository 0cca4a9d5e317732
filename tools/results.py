"""The first page of the results: one line and one small picture per page, and a table of all bases and strategies."""
import re
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import pandas as pd
from execnb.nbio import read_nb
from PIL import Image

from wrnb.benchmark import read_evaluation
from wrnb.corruptions import CORRUPTIONS
from wrnb.runs import Run

STRATEGIES = ["base", "standard", "augmix", "adversarial", "prime", "hybrid", "reva"]
WIDTH = 260  # pixels of a small picture


def first_picture(path):
    "The first picture that a notebook shows and what its cell says of it; None if there is none"
    for cell in read_nb(path).cells:
        for output in cell.get("outputs", []):
            data = {k: v for k, v in output.get("data", {}).items() if k in ("image/png", "image/jpeg")}
            said = re.search(r"fig-alt: *\"(.+)\"", cell.source)
            if data: return b64decode("".join(*data.values())), said[1] if said else "Its first figure"


def small_picture(path):
    "The first picture of a notebook as Markdown, small; empty if it has none"
    found = first_picture(path)
    if found is None: return ""
    im, data = Image.open(BytesIO(found[0])).convert("RGB"), BytesIO()
    im.thumbnail((2*WIDTH, 2*WIDTH), Image.Resampling.LANCZOS)
    im.quantize(64).save(data, "PNG", optimize=True)
    uri = f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"
    alt = re.sub(r"[\[\]]", "", found[1])
    return f'![{alt}]({uri}){{width="{im.size[0]//2}"}}'


def of_runs(folder):
    "Base, model, seed, clean and corruption error of every run folder of the results"
    for file in sorted(folder.rglob("evaluation.csv")):
        home = file.parent.relative_to(folder).parts[0]
        if file.parent != folder/home and not file.parent.name.isdigit(): continue
        if file.parent == folder/home and any(p.name.isdigit() for p in (folder/home).glob("*/*")): continue
        setup, errors = Run(folder/home).options("setup"), read_evaluation(file.parent).summary()
        base = f"{setup['model'].partition('@')[0]} on {setup['data'].removesuffix('-sample')}"
        for model, row in errors.iterrows():
            yield dict(base=base, case=model.split(" (")[0], clean=row.clean, corrupted=row.corruption_error)


def of_table(file):
    "The same of a table in benchmarks/ with one row per base, model, seed, perturbation and severity"
    t, by = pd.read_csv(file), ["base", "model", "seed"]
    corrupted = 100*t[t.family.isin(list(CORRUPTIONS))].groupby(by).error.mean()
    clean = 100*t[t.family == "clean"].groupby(by).error.mean()
    for (base, model, seed), error in corrupted.items():
        name = f"{base.replace('_', ' ')}, protocol all"
        yield dict(base=name, case=model, clean=clean.get((base, model, seed)), corrupted=error)


def _cell(own):
    "Corruption error and clean error, as means over seeds"
    return f"**{own.corrupted.mean():.1f}** ({own.clean.mean():.1f})" if len(own) else ""


def bases_table(root):
    "Corruption error of every base and strategy that was measured, as Markdown"
    rows = list(of_runs(root/"nbs"/"results"))
    recipe = root/"benchmarks"/"recipe_cells.csv"
    if recipe.is_file(): rows += of_table(recipe)
    t = pd.DataFrame(rows)
    known = [name for name in STRATEGIES if (t.case == name).any()]
    lines = ["| | " + " | ".join(known) + " |", "| --- |" + " ---: |"*len(known)]
    for base, own in t.groupby("base", sort=False):
        cells = [_cell(own[own.case == name]) for name in known]
        seeds = own.case.value_counts().max()
        name = f"{base}, mean of {seeds} seeds" if seeds > 1 else base
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def overview_rows(pages, root):
    "The body of the first page: the table, then each page with its line and its picture"
    yield ("**Corruption error** in percent on test images, the mean over the 15 corruptions; in brackets the error on "
           "clean images. Each row is a classifier, as it came (base) and fine-tuned in several ways.\n")
    yield bases_table(root) + "\n"
    for path, name, summary in pages:
        yield f"## [{name}](../{path})\n\n{summary}\n"
        picture = small_picture(root/"nbs"/path)
        if picture: yield f"{picture}\n"
