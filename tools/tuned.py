"""What the result pages on fine-tuned bases share: tables, pictures, parts of sentences.

The tables are those of benchmarks/recipe.py and guided.py: a row per base, case and figure, with
its 95 % interval, as it is (`against` is empty) or as a paired difference to another case; and a
row per model, seed, perturbation and severity. A run folder can be read as such tables, too.
"""
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

import wrnb.differences  # gives an evaluation its paired differences
from wrnb.benchmark import read_evaluation
from wrnb.core import wilson
from wrnb.corruptions import CORRUPTIONS
from wrnb.runs import Run
from wrnb.strategies import passes

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ["the 15", "worst three", "C-bar", "clean", "PGD"]
STRATEGIES = ["standard", "augmix", "prime", "hybrid", "adversarial", "unguided", "reva"]
WORDS = dict(
    augmix="AugMix", prime="PRIME", hybrid="HybridAugment++", reva="REVa", unguided="REVa unguided")
GUIDED = dict(weaknesses="reva", uniform="unguided")  # cases of guided.csv: their names here
EXTRA = {"reva, extra": "reva"}  # where REVa by protocol `extra` is the only one
NO_BREAK = "\u00a0"  # a space at which no line ends
ABOUT = dict(  # what a reader has to know of a way of fine-tuning
    standard="*Standard* fine-tuning has no extra views.",
    adversarial="*Adversarial* trains against PGD alone.",
    unguided="*REVa unguided* draws all types of corruption equally often.")
OF_OTHERS = "augmix", "prime", "hybrid"  # augmentations of other papers
MARKERS = "os"  # of the first base and of the second


def has_width(r):
    "Has a figure in percent an interval? A clean error of all images has none, if it is said of these images"
    return r.high - r.low > .1


def with_ends(r):
    "A row whose error has no interval with Wilson's, for images like those; a difference stays as it is"
    if r.against or has_width(r): return r
    low, high = wilson(r.value/100, r.n_images)
    return pd.Series(r.to_dict() | dict(low=100*low, high=100*high))


def word(case): return WORDS.get(case, case)


def breakable(case):
    "The same, with a place where a long name may be broken"
    return word(case).replace("Augment", "\u00adAugment")


def in_words(n):
    "A small number as a word"
    words = "none one two three four five six seven eight nine".split()
    return words[n] if n < len(words) else f"{n:,}"


def in_seeds(n):
    "A number of seeds in words"
    return "one seed" if n == 1 else f"{in_words(n)} seeds"


def listed(names):
    "Names as a part of a sentence"
    *first, last = [word(name) for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def read(name):
    "A table of benchmarks/, empty if it doesn't exist (yet)"
    path = ROOT/"benchmarks"/f"{name}.csv"
    if not path.is_file(): return pd.DataFrame(columns=["base"])
    return pd.read_csv(path, keep_default_na=False)


@dataclass
class Tuned:
    "A base and its fine-tuned copies, as measured"
    name:str # of the base, as people read it
    rows:pd.DataFrame # a row per case and figure
    cells:pd.DataFrame # a row per model, seed, perturbation and severity

    @property
    def strategies(self): return [case for case in STRATEGIES if case in set(self.rows.case)]

    @property
    def peers(self): return [case for case in self.strategies if case != "reva"]

    def about(self, case="reva"):
        "What one case was made with: images, epochs, seeds, passes, commit, device"
        return self.rows[self.rows.case == case].iloc[0]

    def at(self, case, figure, against=""):
        "One figure of a case, in percent; `against` another case the difference to it, in points"
        rows = self.rows[self.rows.figure == figure]
        own = rows[(rows.case == case) & (rows.against == against)]
        if len(own): return with_ends(own.iloc[0])
        other = rows[(rows.case == against) & (rows.against == case)].iloc[0]
        ends = dict(value=-other.value, low=-other.high, high=-other.low)
        return pd.Series(other.to_dict() | ends)

    def text(self, case, figure, against=""):
        "The same with its interval, if it has one, as text"
        r, sign = self.at(case, figure, against), "+" if against else ""
        ends = f" ({r.low:{sign}.1f} to {r.high:{sign}.1f})" if has_width(r) else ""
        return f"{r.value:{sign}.1f}{ends}"

    def give_or_take(self, case, figure, against=""):
        "The same with half of its interval, if it has one, as text for a table"
        r, sign = self.at(case, figure, against), "+" if against else ""
        half = f" ± {(r.high - r.low)/2:.1f}" if has_width(r) else ""
        return f"{r.value:{sign}.1f}{half}".replace(" ", NO_BREAK)

    def step(self, case, figure):
        "From the base's error to that of the case, as text"
        start, end = (self.at(name, figure).value for name in ("base", case))
        return f"from {start:.1f} to {end:.1f} %"

    def lower(self, figure, against):
        "The strategies whose error is lower than another one's, by an interval off zero"
        others = [case for case in self.strategies if case != against]
        return [case for case in others if self.at(case, figure, against).high < 0]

    def higher(self, figure, against):
        "The strategies whose error is higher, by an interval off zero"
        others = [case for case in self.strategies if case != against]
        return [case for case in others if self.at(case, figure, against).low > 0]

    def standing(self, figure):
        "How REVa's error compares with the other strategies', as a part of a sentence"
        worse, better = self.higher(figure, "reva"), self.lower(figure, "reva")
        same = [case for case in self.peers if case not in (*worse, *better)]
        all_others = f"lower than with each of the {in_words(len(worse))} others"
        if len(worse) == len(self.peers) > 1: return all_others
        parts = [("lower than with {}", worse), ("not told apart from that with {}", same),
                 ("higher than with {}", better)]
        return ", ".join(said.format(listed(names)) for said, names in parts if names)

    def winner(self):
        "Which strategy lowers the error under the 15 most, as a part of a sentence"
        better, worse = self.lower("the 15", "reva"), self.higher("the 15", "reva")
        verb = "lowers" if len(better) == 1 else "lower"
        if better: return f"{listed(better)} {verb} it more than REVa"
        if len(worse) == len(self.peers): return "REVa lowers it most"
        return "none lowers it more than REVa"

    def errors(self, cases=None):
        "Every figure of every case with half of its interval, and its passes per image"
        passes = self.rows.drop_duplicates("case").set_index("case").passes
        def row(case):
            own = {figure: self.give_or_take(case, figure) for figure in FIGURES}
            return own | dict(passes=f"{float(passes[case]):.1f}" if passes[case] != "" else "")
        return pd.DataFrame({breakable(case): row(case) for case in cases or self.models}).T

    @property
    def models(self): return ["base", *self.strategies]

    def values(self):
        "Every figure of every model in percent, without intervals"
        def column(figure): return {word(m): self.at(m, figure).value for m in self.models}
        return pd.DataFrame({figure: column(figure) for figure in FIGURES})

    def by_family(self):
        "Error in percent: clean, under each family of corruptions, under C-bar and under PGD"
        errors = 100*self.cells.groupby(["family", "model"]).error.mean().unstack()
        shown = ["clean", *CORRUPTIONS, "c-bar", "white_box"]
        return errors.loc[shown, self.models].rename({"c-bar": "C-bar", "white_box": "PGD"})

    def by_type(self):
        "Error in percent under each of the 15 corruptions and of C-bar, over severities and seeds"
        c = self.cells[self.cells.model.isin(self.models)]
        errors = 100*c.groupby(["family", "perturbation", "model"]).error.mean().unstack()
        order = [(f, p) for f, types in CORRUPTIONS.items() for p in types]
        order += [pair for pair in errors.index if pair[0] == "c-bar"]
        return errors.loc[order, self.models].droplevel("family")

    def seed_by_seed(self):
        "The error under the 15 corruptions that each seed gave each strategy, as a sentence; empty for one seed"
        c = self.cells[self.cells.family.isin(CORRUPTIONS) & self.cells.model.isin(self.strategies)]
        errors = 100*c.groupby(["model", "seed"]).error.mean().unstack()
        if len(errors.columns) < 2: return ""
        def said(case): return f"{word(case)} {listed([f'{e:.1f}' for e in errors.loc[case]])} %"
        return f"Seed by seed, for {self.name}, the error under the 15 is: {'; '.join(map(said, self.strategies))}."

    def explained(self):
        "What its strategies are, in a sentence or two"
        others = [case for case in self.strategies if case in OF_OTHERS]
        said = [ABOUT[case] for case in self.strategies if case in ABOUT]
        what = "is another paper's way" if len(others) == 1 else "are the ways of other papers"
        if others: said.append(f"{listed(others)} {what}.")
        return " ".join(said)

    @property
    def pgd_radius(self):
        "The radius of PGD, in grey levels"
        return f"{self.cells.severity[self.cells.perturbation == 'pgd'].iloc[0]:g}/255"


def set_up(bases):
    "With what each base was fine-tuned and measured, a column per base"
    columns = dict(
        n_train="training images", epochs="epochs of REVa", seeds="seeds",
        passes="passes per image", alpha="mean alpha", n_test="test images",
        per_cell="of them per cell", device="device", commit="commit")
    def described(base):
        tuned = [case for case in base.rows.case.unique() if case != "base"]
        row = base.about("reva" if "reva" in tuned else tuned[0]).copy()
        row["alpha"], row["passes"] = f"{float(row.alpha):.2f}", f"{float(row.passes):.1f}"
        for name in ("n_train", "n_test"): row[name] = f"{row[name]:,}"
        return row[list(columns)].rename(columns)
    return pd.DataFrame({base.name: described(base) for base in bases})


def read_tuned(names, table="recipe"):
    "The bases of this table that were measured, in this order: {key: `Tuned`}"
    rows, cells = read(table), read(f"{table}_cells")
    known = [key for key in names if key in set(rows.base)]
    def own(key): return rows[rows.base == key], cells[cells.base == key]
    return {key: Tuned(names[key], *own(key)) for key in known}


def by_guide(names, figure, end=""):
    "The bases on which the guide lowers a figure, those on which it raises it, and all that were compared"
    t = read("guided")
    t = t[(t.case == f"weaknesses{end}") & (t.against == f"uniform{end}") & (t.figure == figure)]
    t = t.set_index("base").reindex([base for base in names if base in set(t.base)])
    return [list(part.index) for part in (t[t.high < 0], t[t.low > 0], t)]


def guide_helps(lower, higher, compared):
    "Does the guide help, by the bases on which it lowers and raises an error?"
    if len(lower) > len(compared)/2 and not higher: return "Yes"
    return "In part" if len(lower) > len(higher) else "No"


def counted(part, compared, names):
    "How many of the bases and which, as a part of a sentence"
    which = f" ({'; '.join(names[base] for base in part)})" if part else ""
    return f"{in_words(len(part))} of {in_words(len(compared))} bases{which}"


def renamed(base, cases):
    "A base whose cases have other names in its table"
    rows, cells = base.rows.replace(dict(case=cases, against=cases)), base.cells.replace(dict(model=cases))
    return replace(base, rows=rows, cells=cells)


def read_best(names):
    "The bases as recipe.csv has them, and those that only guided.csv has, as if it were the same"
    compared, guided = read_tuned(names), read_tuned(names, "guided")
    guided = {key: renamed(base, GUIDED) for key, base in guided.items()}
    return {key: (guided | compared)[key] for key in names if key in guided | compared}


def read_full(names, table):
    "The bases that were trained on all images by protocol `extra`, whose REVa has no other name there"
    return {key: renamed(base, EXTRA) for key, base in read_tuned(names, table).items()}


# --- run folders ---------------------------------------------------------------------------------

def figures_of(main, bar):
    "Which evaluation has each figure, and under which name; the clean one for images like these"
    alike = replace(main, outcomes=replace(main.outcomes, per_cell=None))
    pgd = next(name for name in main._figures("base") if name.startswith("pgd"))
    return {"the 15": (main, "corruption_error"), "worst three": (main, "worst_three"),
            "C-bar": (bar, "corruption_error"), "clean": (alike, "clean"), "PGD": (main, pgd)}


def made_with(run, case):
    "What a model of a run folder was made with"
    how, measured = run.config["stages"]["evaluate"], run.options("evaluate")
    known = dict.fromkeys(["epochs", "n_selection", "lr", "bs", "alpha", "passes"], "")
    known |= dict(commit=how["commit"], device=how["device"], n_test=measured["n"], seeds=1,
                  per_cell=measured["per_cell"], n_train=run.options("score")["n"])
    if case == "base": return known
    tuned, alpha = run.options(f"enhance {case}"), run.record(f"enhance {case}").get("alpha", 1.)
    cost = tuned["epochs"]*passes(case, tuned["attack_share"])
    pace = {name: tuned["pace"][name] for name in ("lr", "bs")}
    how = dict(epochs=tuned["epochs"], n_selection=tuned["n_selection"], alpha=alpha, passes=cost)
    return known | pace | how


def read_run(name, folder):
    "A run folder, with what was measured on C-bar in its bar/, as if it were in such tables"
    main, bar = read_evaluation(folder), read_evaluation(folder/"bar")
    known = {case: made_with(Run(folder), case) for case in main.models}
    def row(case, against, figure, evaluation, what):
        e = evaluation.difference(case, against, what) if against else evaluation.estimate(case, what)
        ends = dict(value=100*e.value, low=100*e.low, high=100*e.high, n_images=e.n_images)
        return dict(case=case, against=against, figure=figure) | ends | known[case]
    pairs = [(a, b) for a, b in product(main.models, ["", *main.models]) if a != b]
    rows = [row(*pair, figure, *at) for figure, at in figures_of(main, bar).items() for pair in pairs]
    without_clean = bar.table[bar.table.family != "clean"]
    return Tuned(name, pd.DataFrame(rows), pd.concat([main.table, without_clean], ignore_index=True))


def published_bases():
    "Published bases by their names in tables: file, network, the publisher's accuracy, how many answers are wrong"
    table = pd.read_csv(ROOT/"nbs"/"results"/"published_models.csv", keep_default_na=False)
    return table.set_index("base")


FULL = """
**{epochs} epochs of REVa on {images} take the error of the published {base.name} under the 15
corruptions, none of which it saw in training, {fifteen}**: {change} points ({seeds}). Over C-bar the
error goes {bar}, under PGD at {base.pgd_radius} {pgd}, and without any corruption {clean}.
"""
RIVAL = """
{name}, with {passes} passes per image to REVa's {own}, takes the error under the 15 {fifteen}. Compared
with REVa that is {more} points{over}, on the worst three {worst} and over C-bar {bar}; its clean error is {clean}.
"""


def about_full(base, images):
    "The answer of a page: what REVa did with all images, and what each other way did with them"
    reva = base.about()
    steps = {name: base.step("reva", figure)
             for name, figure in dict(fifteen="the 15", bar="C-bar", pgd="PGD", clean="clean").items()}
    said = FULL.format(epochs=in_words(reva.epochs).capitalize(), images=images, base=base,
                       change=base.text("reva", "the 15", "base"), seeds=in_seeds(reva.seeds), **steps)
    return " ".join(part.strip() for part in [said, *(_about_rival(base, case) for case in base.peers)])


def _about_rival(base, case):
    "What another way did with all images, and what that is minus REVa"
    def minus(figure): return base.text(case, figure, "reva")
    def cost(of): return f"{float(base.about(of).passes):.1f}"
    clean = f"{base.at(case, 'clean').value:.1f} %"
    over = " (over images alone)" if base.about(case).seeds == 1 else ""
    return RIVAL.format(
        over=over, name=word(case), passes=cost(case), own=cost("reva"), fifteen=base.step(case, "the 15"),
        more=minus("the 15"), worst=minus("worst three"), bar=minus("C-bar"), clean=clean)


CLEAN = ("The error that {by} gives for the {base.name} is {published:.2f} %; on all {n:,} test "
         "images we count {counted:.2f} %, on {here.n_test:,} of them here {here.value:.2f} %.")
MISREAD = ("That is more than the draw explains: for this table the base got pixels that were not "
           "normalised as its publisher did it, so it starts weaker than it is.")


def off_by(p, here):
    "By how many points a row's clean error is off what we count of a published base; 0 if the draw may explain it"
    counted, left_out = p.n_wrong/p.n, 1 - here.n_test/p.n
    chance = 3*(counted*(1 - counted)/here.n_test*left_out)**.5  # three standard deviations
    off = here.value/100 - counted
    return 100*off if abs(off) > chance else 0.


def clean_errors(bases):
    "The published error of each base, what we count, and what its table has: a sentence or two"
    table = published_bases()
    for key, base in bases.items():
        p, here = table.loc[key], base.at("base", "clean")
        counted, said = 100*p.n_wrong/p.n, dict(by=p.publisher, published=100 - p.accuracy, n=p.n)
        yield CLEAN.format(base=base, here=here, counted=counted, **said)
        if off_by(p, here): yield MISREAD


# --- pictures ------------------------------------------------------------------------------------

def interval(ax, r, y, marker, good_below):
    "A difference with its interval: green if it speaks for what is shown, red if against, grey without an interval"
    below, above = ("C2", "C3") if good_below else ("C3", "C2")
    known = has_width(r)
    color = below if known and r.high < 0 else above if known and r.low > 0 else "grey"
    ends = [[r.value - r.low], [r.high - r.value]]
    ax.errorbar(r.value, y, xerr=ends, fmt=marker, ms=4, capsize=2, color=color)


def panels(labels):
    "A panel per figure, with a row per label"
    size = dict(figsize=(8, 1 + .3*len(labels)), layout="constrained")
    fig, axs = plt.subplots(1, len(FIGURES), sharey=True, **size)
    for ax, figure in zip(axs, FIGURES):
        ax.axvline(0, color="black", lw=.8)
        ax.set(yticks=range(len(labels)), yticklabels=labels[::-1])
        ax.set(ylim=(-.6, len(labels) - .4))
        ax.set_title(figure, fontsize=10)
        ax.tick_params(labelsize=8)
        ax.grid(axis="y", visible=False)
    return fig, axs


def forest(bases, against="base"):
    "Each strategy minus the base, or minus REVa: differences with intervals, a panel per figure"
    first, *_ = bases = list(bases)
    cases = first.strategies if against == "base" else ["base", *first.peers]
    fig, axs = panels([word(case) for case in cases])
    for ax, figure in zip(axs, FIGURES):
        for k, base in enumerate(bases):
            for row, case in enumerate(reversed(cases)):
                r, y = base.at(case, figure, against), row + .12*(len(bases) - 1) - .24*k
                interval(ax, r, y, MARKERS[k], good_below=against == "base")
    side = "left of zero: more robust" if against == "base" else "right of zero: REVa is better"
    fig.supxlabel(f"minus {word(against)}, in points of error ({side})", fontsize=9)
    return fig


def relative(evaluation, case):
    "How much more or less often than the base a model is wrong, in percent of the base's error"
    names = evaluation.by_corruption().index
    each = {name: evaluation.ratio_of(case, "base", name) for name in names}
    each |= {"mean": evaluation.mean_ratio(case, "base")}
    ends = {name: dict(value=e.value, low=e.low, high=e.high) for name, e in each.items()}
    return 100*(pd.DataFrame(ends).T - 1)


def draw_relative(ax, tables):
    "A row per corruption, the worst for the last model on top, the mean at the bottom"
    *_, last = tables
    order = ["mean", *last.value.drop("mean").sort_values().index]
    for k, (marker, t) in enumerate(zip(MARKERS, tables)):
        y = np.arange(len(order)) + .24*k - .12*(len(tables) - 1)
        for at, name in zip(y, order): interval(ax, t.loc[name], at, marker, good_below=True)
    ax.axvline(0, color="black", lw=.8)
    ax.axhline(.5, color="grey", lw=.8)
    ax.set(yticks=range(len(order)), yticklabels=[name.replace("_", " ") for name in order])
    ax.set(ylim=(-.6, len(order) - .4))
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", visible=False)


def relative_forest(evaluations, cases):
    "Each corruption's error relative to the base's, with intervals; a panel per evaluation"
    size = dict(figsize=(8, 4.6), layout="constrained")
    fig, axs = plt.subplots(1, len(evaluations), **size)
    for ax, (title, evaluation) in zip(axs, evaluations.items()):
        draw_relative(ax, [relative(evaluation, case) for case in cases])
        ax.set_title(title, fontsize=10)
    fig.supxlabel("errors more or fewer than the base's, in percent of these (left: fewer)", fontsize=9)
    return fig


def type_map(base):
    "Error under each type of corruption and each model"
    errors = base.by_type()
    fig, ax = plt.subplots(figsize=(2.4 + .52*errors.shape[1], 1 + .24*len(errors)), layout="constrained")
    labels = dict(yticklabels=[name.replace("_", " ") for name in errors.index],
                  xticklabels=[word(case).replace("Augment", "-\nAugment").replace(" ", "\n") for case in errors])
    numbers = dict(annot=True, fmt=".0f", annot_kws=dict(size=8))
    sns.heatmap(errors, cmap="rocket_r", cbar=False, ax=ax, **labels, **numbers)
    ax.axhline(sum(map(len, CORRUPTIONS.values())), color="white", lw=4)  # above: trained against
    ax.set(xlabel="", ylabel="")
    ax.tick_params(labelsize=8, rotation=0)
    return fig


def gallery(images, titles, columns=8):
    "Images with their titles, from left to right"
    rows = -(-len(images)//columns)
    fig, axs = plt.subplots(rows, columns, figsize=(7.2, 1.3*rows), layout="constrained")
    for ax in axs.flat: ax.axis("off")
    for ax, image, title in zip(axs.flat, images, titles):
        ax.imshow(image.permute(1, 2, 0), interpolation="nearest")
        ax.set_title(title, fontsize=7)
    return fig
