"""Are a model's weak samples the images on which people disagree?

    python benchmarks/disagreement.py --run RUN --model resnet20@resnet20-cifar10.th
                                      --labels cifar10n.npz --order cifar10-train-order.txt.gz
                                      [--resamples 300] [--csv FILE]

CIFAR-10N (Wei et al. 2022) has three more labels by people for each of CIFAR-10's 50,000 training images. --run is a
run folder of `wrnb score cifar10 --model ... --out RUN`. --labels has the arrays clean_label, aggre_label (the vote of
the three), random_label1 to random_label3; --order has CLASS/FILE of each row.

Compared are the score, the loss, the margin, the confidence in the label, and the self-confidence of confident learning
(Northcutt et al. 2021: out-of-fold probabilities on the model's own features), each signed so that high means weak.
Two questions: how well does it find images whose vote is another class than CIFAR-10's (AUROC and average precision),
and how does it go with the number of people, 0 to 3, who gave another class (Spearman's rank correlation)? Intervals
are 95 % percentiles over resampled images.

disagreement.csv         One row per indicator and group (all images, or those that the model gets right when clean).
disagreement_groups.csv  Share of images with another vote, by eighths of the score from strongest to weakest.
disagreement_images.csv  The weakest images with what people called them.

Five minutes on one core after the scoring.
"""
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch.nn import functional as F

from common import add_options, begin, origin, parser, write_csv
from indicator import auroc, average_precision
from weak_samples import confident, logits_and_features, of_label
from wrnb.core import WrnbError, wilson
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.runs import Run

INDICATORS = "score loss margin confidence self_confidence".split()
SIGN = dict(score=1, loss=1, margin=-1, confidence=-1, self_confidence=-1)  # of weakness
SHOWN = 60  # weakest images that are kept by name


def people(args):
    "A table by image id: CIFAR-10's label, the vote of three people, and what each of them said"
    with gzip.open(args.order, "rt") as f: ids = ["train/" + line.strip() for line in f]
    arrays = np.load(args.labels)
    names = ["clean_label", "aggre_label", *(f"random_label{i}" for i in (1, 2, 3))]
    t = pd.DataFrame({name: arrays[name] for name in names}, index=ids)
    others = t.filter(like="random_label").ne(t.clean_label, axis=0)
    return t.assign(n_other=others.sum(axis=1), other_vote=t.aggre_label.ne(t.clean_label).astype(int))


def indicators(args, device):
    "A table by image id: every indicator, high or low, and is the model right?"
    scores = pd.read_parquet(args.run/"scores.parquet")
    pool = load_data("cifar10", limit=Run(args.run).options("setup").get("limit"), test_limit=1)[0]
    if list(pool.ids) != list(scores.id): raise WrnbError(f"{args.run} is not of cifar10")
    net, y = load_model(args.model, 10).to(device), torch.as_tensor(pool.labels)
    parts = [logits_and_features(net, pool.pixels(idxs.tolist())) for idxs in torch.arange(len(pool)).split(5000)]
    logits, features = (torch.cat(v) for v in zip(*parts))
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return pd.DataFrame(dict(
        label=y, right=scores.clean_correct.to_numpy(), score=scores.score.to_numpy(),
        loss=F.cross_entropy(logits, y, reduction="none"), margin=of_label(logits, y) - others,
        confidence=of_label(F.softmax(logits, 1), y),
        self_confidence=confident(features.numpy(), y.numpy(), 0)[0]), index=pool.ids)


def figures(t, column):
    "AUROC, average precision and rank correlation of one indicator"
    weakness, other = SIGN[column]*t[column].to_numpy(), t.other_vote.to_numpy()[None].astype(float)
    ranks = rankdata(weakness), rankdata(t.n_other)
    return dict(auroc=auroc(weakness, other)[0], ap=average_precision(weakness, other)[0],
                spearman=np.corrcoef(*ranks)[0, 1])


def with_intervals(t, column, resamples):
    "The figures of one indicator, each with its interval over images"
    rng = np.random.default_rng(0)
    drawn = [figures(t.iloc[rng.integers(0, len(t), len(t))], column) for _ in range(resamples)]
    low, high = (pd.DataFrame(drawn).quantile(q).to_dict() for q in (.025, .975))
    value = figures(t, column)
    return {key: v for name in value for key, v in
            ((name, value[name]), (f"{name}_low", low[name]), (f"{name}_high", high[name]))}


def groups(t, parts=8):
    "Share of images with another vote by parts of the score, ties by chance, images wrong when clean apart"
    shuffled = t[t.right].sample(frac=1, random_state=0).sort_values("score", kind="stable")
    part = np.arange(len(shuffled))*parts//max(len(shuffled), 1)
    named = [(f"eighth {k + 1}", shuffled[part == k]) for k in range(parts)] + [("wrong when clean", t[~t.right])]
    for name, group in named:
        if not len(group): continue
        share = group.other_vote.mean()
        low, high = wilson(share, len(group))
        yield dict(group=name, n=len(group), score=group.score.mean(), other_vote=share, low=float(low),
                   high=float(high), n_other=group.n_other.mean())


def main(args):
    device = begin(args)
    t = indicators(args, device).join(people(args), how="inner")
    if (t.label != t.clean_label).any(): raise WrnbError(f"{args.labels} and {args.order} are not of these images")
    options = Run(args.run).options("score")
    where = dict(seed=options["seed"], eps=options["eps"], n_neighbors=options["n_neighbors"],
                 **origin("commit", "device", "torch", device=device))
    rows = [dict(indicator=c, images=name, n=len(g), **with_intervals(g, c, args.resamples))
            for name, g in (("all", t), ("right when clean", t[t.right])) for c in INDICATORS]
    def table(end): return args.csv.with_name(f"{args.csv.stem}{end}.csv")
    write_csv(pd.DataFrame(rows).assign(**where), args.csv, float_format="%.4f")
    write_csv(pd.DataFrame(groups(t)).assign(**where), table("_groups"), float_format="%.4f")
    weakest = t[t.right].sample(frac=1, random_state=0).sort_values("score", ascending=False, kind="stable")
    shown = weakest.head(SHOWN).rename_axis("id").reset_index()
    write_csv(shown.drop(columns=["right", "other_vote", "clean_label"]), table("_images"), float_format="%.4f")
    print(pd.DataFrame(rows).to_string(), pd.DataFrame(groups(t)).to_string(), sep="\n")


if __name__ == "__main__":
    p = parser(__doc__)
    add_options(p, run=Path("runs/cifar10"), model="resnet20", labels=Path("cifar10n.npz"),
                order=Path("cifar10-train-order.txt.gz"), resamples=300, csv=Path("disagreement.csv"),
                device="cpu", threads=1)
    main(p.parse_args())
