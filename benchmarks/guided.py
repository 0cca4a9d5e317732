"""Does guidance help? REVa guided by the measured weaknesses, by nothing, and by the strengths, at equal budget.

    python benchmarks/guided.py --model resnet20@resnet20.th --run runs/cifar10 [--data cifar10] [--limit 2500] [--test-limit 500] [--epochs 2] [--seeds 0 1 2] [--keep FOLDER]

--run is a run folder that was validated; its validation.csv says what the model is weak to. Three guides for one and the same training:
weaknesses (what `guidance` draws from protocol `extra`), uniform (every family of the protocol as often as every other), strengths (a placebo: the types of
the protocol that are no weaknesses, their families equally often). All have the same images, order, epochs, steps and loss; only what the third view is
perturbed with differs. augmix, last, has no such view. Each model, and the base, is measured on test images: clean, 15 corruptions at three severities, and
PGD-10 on itself. Writes benchmarks/guided.csv, a row a guide, seed and perturbation (what is there is not measured again), and benchmarks/guided_chances.csv,
how often each guide draws what. Seeds go outermost: an interrupted benchmark has whole seeds. --keep has the trained models, from which it goes on.
A quarter of an hour on an idle core; `--limit 256 --test-limit 64 --epochs 1 --csv small.csv` shows the tables' shape in a minute or two.
"""
import argparse, tempfile
from pathlib import Path

import pandas as pd
import torch

from wrnb.attacks import ATTACKS
from wrnb.benchmark import evaluate
from wrnb.runs import Run, provenance, read_table
from wrnb.data import load_data
from wrnb.enhancement import PROTOCOLS, enhance, guidance
from wrnb.pretrained import load_model
from wrnb.validation import Validation

GUIDES = ("weaknesses", "uniform", "strengths")


def split_of(found):
    "What of the protocol is a weakness and what a strength, by the first rule that leaves something on both sides"
    for rule in ("mean", "median"):
        parts = Validation(found.table, rule).split([*PROTOCOLS["extra"], *ATTACKS])
        if parts["weaknesses"] and parts["strengths"]: return parts
    raise SystemExit("the protocol has weaknesses or strengths only: there is nothing to compare")


def told(found, names):
    "A validation that calls these types, and no others, weaknesses of equal weight"
    t = found.table.copy(); weak = t.subset == "weak"
    t.loc[weak, "error"] = t.perturbation[weak].isin(names).astype(float)
    return Validation(t, .5)


def guides(found):
    parts = split_of(found); weak, strong = ([r["perturbation"] for r in parts[k]] for k in ("weaknesses", "strengths"))
    return dict(weaknesses=Validation(found.table, parts["rule"]), uniform=told(found, weak + strong), strengths=told(found, strong))


def chances(found, eps):
    "How often each guide draws what: a row a guide and type"
    errors = found.types().set_index("perturbation").error
    rule = split_of(found)["rule"]
    for guide, v in guides(found).items():
        kinds, share = guidance(v, "extra", eps)
        t = pd.DataFrame(dict(perturbation=[k.name for k in kinds], family=[{"attack": "white_box"}.get(k.family, k.family) for k in kinds], share=share))
        t = t.groupby(["family", "perturbation"], as_index=False, sort=False).share.sum()
        yield t.assign(guide=guide, weak_error=t.perturbation.map(errors), rule=rule)[["guide", "perturbation", "family", "weak_error", "share", "rule"]].round(6)


class Bench:
    def __init__(self, a):
        torch.set_num_threads(a.threads)
        self.a, (self.train, self.test) = a, load_data(a.data, limit=a.limit, test_limit=a.test_limit)
        self.net = load_model(a.model, len(self.train.classes)).eval()
        self.found = Validation(read_table(Path(a.run)/"validation.csv"))
        self.keep = Path(a.keep or tempfile.mkdtemp())
        info = provenance("cpu")
        self.where = dict(n_train=len(self.train), epochs=a.epochs, lr=a.lr, bs=a.bs, precision=a.precision, model=Path(a.model.split("@")[0]).name, data=a.data, n=len(self.test))
        self.now = dict(commit=info["commit"], device=info["device"], threads=info["threads"], torch=info["versions"]["torch"])

    def trained(self, guide, seed):
        "The fine-tuned model, and the seconds its training took"
        if guide == "base": return self.net, 0.
        out, strategy = self.keep/f"{guide}-{seed}", "augmix" if guide == "augmix" else "reva"
        learn = enhance(self.net, guides(self.found).get(guide), strategy, self.train, self.test, self.a.epochs, self.a.lr, self.a.bs, eps=self.a.eps/255, seed=seed,
                        out=out, device="cpu", precision=self.a.precision)
        stage = Run(out).config["stages"][f"enhance {strategy}"]
        return learn.model.eval(), (pd.Timestamp(stage["finished"]) - pd.Timestamp(stage["started"])).total_seconds()

    def rows(self, guide, seed):
        net, seconds = self.trained(guide, seed)
        t = evaluate({guide: net}, self.test, severities=(1, 3, 5), eps=[self.a.eps/255], attack_names=("pgd",), seed=0, out=self.keep/f"{guide}-{seed}",
                     batch_size=64, device="cpu", precision=self.a.precision).table
        t = t[t.perturbation.ne("worst_case") & t.family.ne("transfer")]
        return t[["perturbation", "family", "severity", "n_wrong", "error"]].assign(guide=guide, seed=seed, train_seconds=seconds, **self.where, **self.now)


def has(csv, where, guide, seed):
    if not csv.is_file(): return False
    t = pd.read_csv(csv)
    return bool(((t.guide == guide) & (t.seed == seed) & (t[list(where)] == pd.Series(where)).all(axis=1)).any())


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True); p.add_argument("--run", required=True, help="a run folder that was validated"); p.add_argument("--data", default="cifar10")
    for name, default in dict(limit=2500, test_limit=500, epochs=2, bs=128, threads=1).items(): p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    p.add_argument("--lr", type=float, default=.01); p.add_argument("--eps", type=float, default=2, help="radius trained and tested with, in grey levels"); p.add_argument("--precision", default="bf16")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2]); p.add_argument("--keep"); p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    a = p.parse_args()
    bench = Bench(a)
    drawn = pd.concat(chances(bench.found, a.eps/255)); drawn.to_csv(a.csv.with_name(f"{a.csv.stem}_chances.csv"), index=False, lineterminator="\n")
    print(drawn.to_string(index=False), flush=True)
    for guide, seed in [("base", 0), *((g, s) for s in a.seeds for g in GUIDES), *(("augmix", s) for s in a.seeds)]:
        if has(a.csv, bench.where, guide, seed): continue
        new = bench.rows(guide, seed)
        new.to_csv(a.csv, mode="a", header=not a.csv.is_file(), index=False, lineterminator="\n")
        print(guide, seed, f"clean {100*new.error[new.family == 'clean'].mean():.1f}, corruptions {100*new.error[~new.family.isin(['clean', 'white_box'])].mean():.1f}, "
              f"pgd {100*new.error[new.family == 'white_box'].mean():.1f}, {new.train_seconds.iloc[0]:.0f} s", flush=True)
    t = pd.read_csv(a.csv); t["what"] = t.family.where(t.family.isin(["clean", "white_box"]), "corruptions")
    print((100*t.pivot_table(index=["guide", "seed"], columns="what", values="error", sort=False)).round(1).to_string())


if __name__ == "__main__": main()
