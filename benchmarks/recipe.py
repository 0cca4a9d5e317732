"""What is each piece of the recipe worth? Each taken away by itself, and all strategies at equal passes.

    python benchmarks/recipe.py --models FOLDER [--bases digits_net resnet20 ...] [--only reva augmix ...]
                                [--seeds 0 1 2] [--epochs 5] [--limit 5000] [--test-limit 2000] [--device cuda]

As guided.py, with its bases. Cases: `base`; the six strategies, each with at least as many passes as REVa, and as
`NAME, alpha 1` without the step back to the base; REVa without one of its pieces; and REVa with weak images more
often (`half weak`: half of the training images are the weakest tenth, again and again). Writes one row per base,
case, seed and perturbation to benchmarks/recipe.csv; what is there is not measured again.
"""
from pathlib import Path

from common import add_options, begin, parser
from tuning import BASES, Base, half_weak, measure, summary
from wrnb.enhancement import Recipe, STRATEGIES

CASES = {name: (name, {}) for name in ("reva", *(s for s in STRATEGIES if s != "reva"))} | {
    "reva, alpha 1": ("reva", dict(alpha=1.)),
    "augmix, alpha 1": ("augmix", dict(alpha=1.)),
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
    p = parser(__doc__)
    p.add_argument("--bases", nargs="+", choices=BASES, default=["digits_net"])
    p.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--keep", type=Path)
    p.add_argument("--limit", type=int)
    p.add_argument("--test-limit", type=int)
    p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    add_options(p, models=".", epochs=5, lr=.02, threads=1, precision="fp32", seeds=[0, 1, 2], severities=[1, 3, 5],
                device="cpu")
    a = p.parse_args()
    a.device = begin(a)
    for name in a.bases:
        base = Base(name, a)
        measure(base, a.csv, "base", 0, "base", None)
        for seed in a.seeds:
            for case in a.only:
                strategy, more = CASES[case]
                if case == "half weak": more = dict(ds=half_weak(base))
                out = a.keep and a.keep/f"{name}-{case.replace(', ', '-').replace(' ', '_')}-{seed}"
                measure(base, a.csv, case, seed, strategy, out, **more)
    print(summary(a.csv).to_string())


if __name__ == "__main__": main()
