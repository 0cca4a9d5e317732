"""What is each piece of the recipe worth? Each taken away by itself, and all strategies at equal passes.

    python benchmarks/recipe.py --models FOLDER [--bases digits_net resnet20 ...] [--only reva augmix ...]
                                [--seeds 0 1 2] [--epochs 5] [--limit 5000] [--test-limit 2000] [--per-cell 300]
                                [--device cuda] [--keep RUNS]

As guided.py, with its bases and columns. Cases: `base`; the six strategies, each with at least as
many passes as REVa, and as `NAME, alpha 1` without the step back to the base; REVa without one of
its pieces; `reva, extra`, trained on the four extra corruptions alone; and REVa with weak images
more often (`half weak`: half of the training images are the weakest tenth, again and again).
Differences are to the base and to the first of --only, which is `reva`. Writes
benchmarks/recipe.csv and recipe_cells.csv.
"""
from pathlib import Path

from tuning import options, show_figures, study
from wrnb.enhancement import Recipe, STRATEGIES

CASES = {name: (name, {}) for name in ("reva", *(s for s in STRATEGIES if s != "reva"))} | {
    "reva, alpha 1": ("reva", {}),
    "augmix, alpha 1": ("augmix", {}),
    "reva, extra": ("reva", dict(protocol="extra")),
    "reva, extra, alpha 1": ("reva", dict(protocol="extra")),
    "prime, alpha 1": ("prime", {}),
    "uniform shares": ("reva", dict(guide="uniform")),
    "online shares": ("reva", dict(guide="online")),
    "no consistency of the perturbed view": ("reva", dict(recipe=Recipe(together=False))),
    "no consistency": ("reva", dict(recipe=Recipe(consistency=0.))),
    "4 groups": ("reva", dict(recipe=Recipe(groups=4))),
    "no watch": ("reva", dict(recipe=Recipe(watch=False))),
    "no attack": ("reva", dict(attack_share=0.)),
    "attack half": ("reva", dict(attack_share=.5)),
    "half weak": ("reva", {})}


def main():
    a = options(__doc__, Path(__file__).with_suffix(".csv"), CASES)
    for name in a.bases: study(name, {case: CASES[case] for case in a.only}, a, a.only[0], a.csv)
    show_figures(a.csv)


if __name__ == "__main__": main()
