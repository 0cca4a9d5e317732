"""Does fine-tuning help against an attacker who knows the model? PGD-10 and AutoAttack on the models of recipe.py.

    python benchmarks/tuned_attacks.py --models FOLDER --keep RUNS --table cifar10_full.csv
                                       [--base resnet20] [--cases "reva, extra" prime] [--seed 0] [--n 1000]

`--models` has the bases' checkpoints, `--keep` and `--table` are what benchmarks/recipe.py left with
`--keep` and `--csv`: the fine-tuned weights, and how far each case went from the base to them
(`alpha`). The base and the cases are attacked on n of the test images that neither trained nor chose
anything, all at the radius of the other figures (2/255 on CIFAR). All attacks are made on the model
that is asked, in float32.

A row per model and attack: n, n_wrong and error with its 95 % interval, and `to_base`, the
difference to the base's error on the same images in points, with its paired interval. What is
measured is kept in RUNS, so that the script resumes. An image that is not fooled costs five seconds
and more of one core. Puts its rows into benchmarks/tuned_attacks.csv, in place of old ones of this base.
"""
import copy
from pathlib import Path

import pandas as pd

from common import add_options, begin, origin, parser, show
from tuning import BASES, Base, kept_name, put
from wrnb.averaging import interpolate
from wrnb.benchmark import evaluate
from wrnb.image_sets import limited
from wrnb.models import load_weights

ATTACKS = dict(pgd="PGD-10", autoattack="AutoAttack")


def tuned(base, case, seed, keep, alpha):
    "A fine-tuned model, this far from the base"
    weights, = (keep/kept_name(base, case, seed)).glob("*/model.safetensors")
    whole = load_weights(copy.deepcopy(base.net), weights)
    return interpolate(base.net, whole, alpha)


def figures(evaluation, eps):
    "A row per model and attack, with the paired difference to the base"
    white_box = evaluation.table[evaluation.table.family == "white_box"].set_index(["model", "perturbation"])
    for model in evaluation.models:
        for attack, name in ATTACKS.items():
            own = white_box.loc[(model, attack), ["n", "n_wrong", "error", "low", "high"]].to_dict()
            yield dict(case=model, attack=name, eps=eps) | own | to_base(evaluation, model, f"{attack} {eps:g}/255")


def to_base(evaluation, model, figure):
    "The paired difference to the base, in points; nothing for the base itself"
    if model == "base": return {}
    d = evaluation.difference(model, "base", figure)
    return dict(to_base=100*d.value, to_base_low=100*d.low, to_base_high=100*d.high)


def main():
    p = parser(__doc__)
    p.add_argument("--keep", type=Path, required=True)
    p.add_argument("--table", type=Path, required=True)
    p.add_argument("--base", choices=BASES, default="resnet20")
    p.add_argument("--cases", nargs="+", default=["reva, extra", "prime"])
    p.add_argument("--test-limit", type=int)
    p.set_defaults(limit=10)  # training images, which nothing here looks at
    add_options(p, csv=Path(__file__).with_suffix(".csv"), models=".", seed=0, n=1000, threads=1, device="cpu")
    a = p.parse_args()
    a.device = begin(a)
    base, known = Base(a.base, a), pd.read_csv(a.table, keep_default_na=False).query("base == @a.base")
    alphas = known[known.alpha != ""].drop_duplicates("case").set_index("case").alpha
    nets = {case: tuned(base, case, a.seed, a.keep, float(alphas[case])) for case in a.cases}
    eps, out = base.source.eps, a.keep/f"{a.base}-tuned_attacks-{a.seed}"
    how = dict(attack_names=tuple(ATTACKS), eps=(eps/255,), families=(), device=a.device, out=out)
    measured = evaluate(dict(base=base.net) | nets, limited(base.test, a.n), **how)
    about = dict(base=a.base, seed=a.seed) | origin("commit", "device", "threads", "torch", device=a.device)
    df = pd.DataFrame(figures(measured, eps)).assign(**about)
    put(df, a.csv, a.base, "case")
    show(df["case attack n error low high to_base to_base_low to_base_high".split()])


if __name__ == "__main__": main()
