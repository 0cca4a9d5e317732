"""The first page of the results: a line and a small picture per page, and a table of all bases."""
import re
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import pandas as pd
from execnb.nbio import read_nb
from PIL import Image

from tools.tuned import EXTRA, breakable
from wrnb.benchmark import read_evaluation

STRATEGIES = ["base", "reva", "standard", "augmix", "adversarial", "prime", "hybrid"]
BASES = dict(  # bases of benchmarks/: what people call them
    digits_net="small network, digits", resnet20="ResNet-20, CIFAR-10",
    resnet20_b="second ResNet-20, CIFAR-10", pgd="ResNet-20 trained with PGD, CIFAR-10",
    cifar100="ResNet-20, CIFAR-100", cifar100_56="ResNet-56, CIFAR-100",
    lite0="EfficientNet-Lite0, Imagenette")
RUNS = dict(imagenet="EfficientNet-Lite0, Imagenette")  # folder: its line
FULL = "cifar10_full", "cifar100_full"  # tables of long trainings by protocol `extra`
ALL = 50_000  # training images of CIFAR-10, and of CIFAR-100
GUIDES = {"weaknesses": "reva"}  # REVa's own guide; another one is another case
ABOUT = """
**Corruption error** in percent on test images, the mean over the 15 corruptions; in brackets the
error on clean images. Each row is a classifier, as it came (base) and fine-tuned in several ways,
each with at least as many passes per image as REVa. In rows that say how many training images there
were (*all* are 50,000) REVa was trained against four other corruptions (protocol `extra`), in the
others against the 15 (protocol `all`).
"""
WIDTH, HEIGHT = 330, 200  # pixels of a small picture, at most


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
    im.thumbnail((2*WIDTH, 2*HEIGHT), Image.Resampling.LANCZOS)
    im.quantize(64).save(data, "PNG", optimize=True)
    uri = f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"
    alt = re.sub(r"[\[\]]", "", found[1])
    return f'![{alt}]({uri}){{width="{im.size[0]//2}"}}'


def of_runs(folder):
    "Base, model, clean and corruption error of the run folders that a page is about"
    for name, title in RUNS.items():
        for model, row in read_evaluation(folder/name).summary().iterrows():
            own = dict(clean=row.clean, corrupted=row.corruption_error, seeds=1)
            yield dict(base=title, case=model.split(" (")[0]) | own


def of_table(file):
    "The same of a table that recipe.py or guided.py wrote, as means over the seeds"
    t = pd.read_csv(file, keep_default_na=False).query("against == ''")
    by = dict(index=["base", "case", "seeds"], columns="figure", values="value", sort=False)
    for (base, case, seeds), row in t.pivot_table(**by).iterrows():
        own = dict(clean=row["clean"], corrupted=row["the 15"], seeds=seeds)
        yield dict(base=BASES.get(base, base), case=case) | own


def with_images(bases, file):
    "Names of bases, each with the number of training images that a table of recipe.py has for it"
    n_train = pd.read_csv(file).groupby("base").n_train.max().rename(BASES)
    said = n_train.map(lambda n: "all images" if n == ALL else f"{n:,} images")
    return bases + ", " + bases.map(said)


def measured(root):
    "Every base that was fine-tuned: long, as recipe.csv or only guided.csv has it, in run folders"
    def file(name): return root/"benchmarks"/f"{name}.csv"
    def rows(name, cases=None):
        "A table's rows, with REVa called so"
        table = pd.DataFrame(of_table(file(name)))
        return table.assign(case=table.case.replace(cases or {}))
    long = {name: rows(name, EXTRA) for name in FULL}
    full = pd.concat([t.assign(base=with_images(t.base, file(name))) for name, t in long.items()])
    compared, guided = rows("recipe"), rows("guided", GUIDES)
    more = guided[~guided.base.isin(compared.base)]
    return pd.concat([full, compared, more, pd.DataFrame(of_runs(root/"nbs"/"results"))])


def _cell(own):
    "Corruption error and clean error"
    return "".join(f"**{row.corrupted:.1f}** ({row.clean:.1f})" for row in own.itertuples())


def bases_table(root):
    "Corruption error of every base and strategy that was measured, as Markdown"
    t = measured(root)
    known = [name for name in STRATEGIES if (t.case == name).any()]
    heads = [breakable(name) for name in known]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: |"*len(known)]
    for base, own in t.groupby("base", sort=False):
        cells, seeds = [_cell(own[own.case == name]) for name in known], own.seeds.max()
        name = f"{base} ({seeds} seeds)" if seeds > 1 else base
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


CARD = """::: {{.page-card}}
[{picture}](../{path})

### [{name}](../{path})

{summary}
:::
"""


def overview_rows(pages, root):
    "The body of the first page: the table, then a card per page with its picture and its line"
    yield ABOUT
    yield bases_table(root) + "\n"
    yield ":::: {.page-cards}\n"
    for path, name, summary in pages:
        yield CARD.format(picture=small_picture(root/"nbs"/path), path=path, name=name, summary=summary)
    yield "::::\n"
