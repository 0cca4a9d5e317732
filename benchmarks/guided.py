"""Does guidance help? REVa guided by the measured weaknesses, by nothing, and by the strengths, at equal budget.

    python benchmarks/guided.py --model resnet20@resnet20.th --run runs/cifar10 [--data cifar10] [--limit 2500]
                                [--test-limit 500] [--epochs 2] [--seeds 0 1 2] [--keep FOLDER]

--run is a run folder that was validated; its validation.csv records what the model is weak to. Three guides for one
and the same training: weaknesses (what `guidance` draws from protocol `extra`), uniform (every family of the
protocol as often as every other), strengths (a placebo: the types of the protocol that are no weaknesses, their
families equally often). All have the same images, order, epochs, steps and loss; only what the third view is
perturbed with differs. augmix, last, has no such view. Each model, and the base, is measured on test images: clean,
15 corruptions at three severities, and PGD-10 on itself. Writes benchmarks/guided.csv, one row per guide, seed and
perturbation (what is there is not measured again), and benchmarks/guided_chances.csv, how often each guide draws
what. Seeds go outermost: an interrupted benchmark has whole seeds. --keep has the trained models, from which it
resumes. A quarter of an hour on an idle core; `--limit 256 --test-limit 64 --epochs 1 --csv small.csv` shows the
tables' shape in a minute or two.
"""
import tempfile
from pathlib import Path

import pandas as pd

from common import add_options, begin, origin, parser, show, write_csv
from wrnb.attacks import ATTACKS
from wrnb.benchmark import evaluate
from wrnb.tables import read_table
from wrnb.runs import Run
from wrnb.folders import load_data
from wrnb.enhancement import PROTOCOLS, enhance, guidance
from wrnb.pretrained import load_model
from wrnb.validation import Validation

GUIDES = ("weaknesses", "uniform", "strengths")
NOT_CORRUPTIONS = ["clean", "white_box"]


def split_of(found):
    "What of the protocol is a weakness and what a strength, by the first rule that leaves something on both sides"
    for rule in ("mean", "median"):
        parts = Validation(found.table, rule).split([*PROTOCOLS["extra"], *ATTACKS])
        if parts["weaknesses"] and parts["strengths"]: return parts
    raise SystemExit("the protocol has weaknesses or strengths only: there is nothing to compare")


def weak_to(found, names):
    "A validation that calls these types, and no others, weaknesses of equal weight"
    t = found.table.copy()
    weak = t.subset == "weak"
    t.loc[weak, "error"] = t.perturbation[weak].isin(names).astype(float)
    return Validation(t, .5)


def guides(found):
    "The three guides as validations"
    parts = split_of(found)
    weak, strong = ([row["perturbation"] for row in parts[k]] for k in ("weaknesses", "strengths"))
    measured = Validation(found.table, parts["rule"])
    return dict(weaknesses=measured, uniform=weak_to(found, weak + strong), strengths=weak_to(found, strong))


def chances(found, eps):
    "How often each guide draws what: one row per guide and type"
    errors, rule = found.types().set_index("perturbation").error, split_of(found)["rule"]
    families = dict(attack="white_box")
    for guide, v in guides(found).items():
        kinds, share = guidance(v, "extra", eps)
        family = [families.get(k.family, k.family) for k in kinds]
        t = pd.DataFrame(dict(perturbation=[k.name for k in kinds], family=family, share=share))
        t = t.groupby(["family", "perturbation"], as_index=False, sort=False).share.sum()
        t = t.assign(guide=guide, weak_error=t.perturbation.map(errors), rule=rule)
        yield t[["guide", "perturbation", "family", "weak_error", "share", "rule"]].round(6)


class Bench:
    "The images, the base, and what was found of it"
    def __init__(self, a):
        begin(a)
        self.a, (self.train, self.test) = a, load_data(a.data, limit=a.limit, test_limit=a.test_limit)
        self.net = load_model(a.model, len(self.train.classes)).eval()
        self.found = Validation(read_table(Path(a.run)/"validation.csv"))
        self.keep = Path(a.keep or tempfile.mkdtemp())
        training = dict(n_train=len(self.train), epochs=a.epochs, lr=a.lr, bs=a.bs, precision=a.precision)
        self.about = training | dict(model=Path(a.model.split("@")[0]).name, data=a.data, n=len(self.test))

    def trained(self, guide, seed):
        "The fine-tuned model, and the seconds its training took"
        if guide == "base": return self.net, 0.
        a, out, strategy = self.a, self.keep/f"{guide}-{seed}", "augmix" if guide == "augmix" else "reva"
        learn = enhance(self.net, guides(self.found).get(guide), strategy, self.train, self.test, epochs=a.epochs,
                        lr=a.lr, bs=a.bs, eps=a.eps/255, seed=seed, out=out, device="cpu", precision=a.precision)
        return learn.model.eval(), float(round(60*Run(out).minutes(f"enhance {strategy}")))

    def rows(self, guide, seed):
        "The errors of one fine-tuned model"
        net, seconds = self.trained(guide, seed)
        found = evaluate({guide: net}, self.test, severities=(1, 3, 5), eps=[self.a.eps/255], attack_names=("pgd",),
                         seed=0, out=self.keep/f"{guide}-{seed}", batch_size=64, device="cpu",
                         precision=self.a.precision)
        t = found.table[found.table.perturbation.ne("worst_case") & found.table.family.ne("transfer")]
        t = t[["perturbation", "family", "severity", "n_wrong", "error"]]
        return t.assign(guide=guide, seed=seed, train_seconds=seconds, **self.about,
                        **origin("commit", "device", "threads", "torch"))


def is_measured(csv, about, guide, seed):
    "Does the CSV have the rows of this guide and seed?"
    if not csv.is_file(): return False
    t = pd.read_csv(csv)
    same = (t[list(about)] == pd.Series(about)).all(axis=1)
    return bool((same & (t.guide == guide) & (t.seed == seed)).any())


def in_words(guide, seed, rows):
    clean, corruptions, pgd = (100*rows.error[mask].mean() for mask in (
        rows.family == "clean", ~rows.family.isin(NOT_CORRUPTIONS), rows.family == "white_box"))
    seconds = rows.train_seconds.iloc[0]
    return f"{guide} {seed} clean {clean:.1f}, corruptions {corruptions:.1f}, pgd {pgd:.1f}, {seconds:.0f} s"


def main():
    p = parser(__doc__)
    p.add_argument("--model", required=True)
    p.add_argument("--run", required=True, help="a run folder that was validated")
    p.add_argument("--keep")
    p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    p.add_argument("--eps", type=float, default=2, help="radius trained and tested with, in grey levels")
    add_options(p, data="cifar10", limit=2500, test_limit=500, epochs=2, bs=128, threads=1, lr=.01, precision="bf16",
                seeds=[0, 1, 2], device="cpu")
    a = p.parse_args()
    bench = Bench(a)
    drawn = pd.concat(chances(bench.found, a.eps/255))
    write_csv(drawn, a.csv.with_name(f"{a.csv.stem}_chances.csv"))
    show(drawn)
    guided, augmix = ([(g, s) for s in a.seeds for g in names] for names in (GUIDES, ["augmix"]))
    for guide, seed in [("base", 0), *guided, *augmix]:
        if is_measured(a.csv, bench.about, guide, seed): continue
        new = bench.rows(guide, seed)
        write_csv(new, a.csv, mode="a", header=not a.csv.is_file())
        print(in_words(guide, seed, new), flush=True)
    t = pd.read_csv(a.csv)
    t["what"] = t.family.where(t.family.isin(NOT_CORRUPTIONS), "corruptions")
    percent = 100*t.pivot_table(index=["guide", "seed"], columns="what", values="error", sort=False)
    print(percent.round(1).to_string())


if __name__ == "__main__": main()
