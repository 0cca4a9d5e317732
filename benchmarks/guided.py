"""Does guidance help? REVa guided by the measured weaknesses, and by nothing, with the same recipe and passes.

    python benchmarks/guided.py --models FOLDER [--only digits_net resnet20 ...] [--guides weaknesses uniform online]
                                [--protocol all] [--seeds 0 1 2] [--epochs 5] [--limit 5000] [--test-limit 2000]
                                [--device cuda] [--keep RUNS]

--models is a folder with resnet20-cifar10.th, cifar10-resnet20-pgd.pth and cifar100-resnet20.pth; the base
digits_net is trained here and needs none. Each fine-tuned model and its base are measured on test images that chose
nothing: clean, the 15 corruptions, the four extra ones, C-bar, and PGD-10 on itself. Writes one row per base, guide,
seed and perturbation to benchmarks/guided_bases.csv; what is there is not measured again, and --keep has the run
folders, from which a fine-tuning resumes. Five minutes of one core for digits and three seeds.
"""
from pathlib import Path

import pandas as pd

from common import add_options, begin, parser
from tuning import BASES, Base, figures, measure, summary

KEYS = ["base", "case", "seed"]


def differences(csv, one="weaknesses", other="uniform"):
    "The first guide's figures minus the second's, seed by seed: mean and 95 % interval over the seeds (t)"
    t = pd.read_csv(csv)
    rows = {key: figures(g) for key, g in t.groupby(KEYS)}
    pairs = [(base, seed) for base, case, seed in rows if case == one and (base, other, seed) in rows]
    gaps = pd.DataFrame([{"base": b} | {k: v - rows[b, other, s][k] for k, v in rows[b, one, s].items()}
                         for b, s in pairs])
    if gaps.empty: return gaps
    quantile = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
    grouped = gaps.groupby("base")
    half = grouped.sem().mul(grouped.size().map(quantile), axis=0)
    return pd.concat({"mean": grouped.mean(), "half width": half}, axis=1).round(2)


def main():
    p = parser(__doc__)
    p.add_argument("--only", nargs="+", choices=BASES, default=["digits_net"])
    p.add_argument("--guides", nargs="+", default=["weaknesses", "uniform"])
    p.add_argument("--protocol", default="all")
    p.add_argument("--keep", type=Path)
    p.add_argument("--limit", type=int)
    p.add_argument("--test-limit", type=int)
    p.add_argument("--csv", type=Path, default=Path(__file__).with_name("guided_bases.csv"))
    add_options(p, models=".", epochs=5, lr=.02, threads=1, precision="fp32", seeds=[0, 1, 2], severities=[1, 3, 5],
                device="cpu")
    a = p.parse_args()
    a.device = begin(a)
    for name in a.only:
        base = Base(name, a)
        measure(base, a.csv, "base", 0, "base", None)
        for seed in a.seeds:
            for guide in a.guides:
                out = a.keep and a.keep/f"{name}-{a.protocol}-{guide}-{seed}"
                case = guide if a.protocol == "all" else f"{guide}, {a.protocol}"
                measure(base, a.csv, case, seed, "reva", out, guide=guide, protocol=a.protocol)
    print(summary(a.csv).to_string())
    print(differences(a.csv).to_string())


if __name__ == "__main__": main()
