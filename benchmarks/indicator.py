"""What are robustness scores good for: figures from few images, and which images fail next?

    python benchmarks/indicator.py --keep FOLDER [--per-cell 300] [--resamples 300] [--csv FILE]
                                   [--eps .05] [--n-neighbors 50]
                                   --models "cifar10:resnet20=resnet20@resnet20-cifar10.th"
                                            "cifar10:pgd=resnet20@cifar10-resnet20-pgd.pth"

Reads the outcomes of all test images in all cells that `benchmarks/evidence.py --measure` left in
--keep, and scores the same images, which no model was trained on (kept in --keep, too).

indicator.csv          One row per model, sample and severity (0: all). Samples of --per-cell images
                       per cell: `random` (the spread design), `adjusted` by the clean margin,
                       rightness and confidence, `adjusted+score` by the score also, and `weakest`,
                       the images with the highest scores, the same in each cell. `bias` and `rmse`
                       per cell, in points, over cells and resamples; `gain`: the variance of `random`
                       over the mean squared error; `mean_bias` and `mean_rmse`, of the mean over
                       these cells; `spearman`: rank correlation of the 15 types' errors with the
                       truth, mean over resamples.
indicator_next.csv     Of the images that are right when clean: how well does an indicator (score,
                       loss, margin, confidence in the label) find those that fail in a cell? One row
                       per model, indicator and cell, and the means over the types of each severity
                       (`mean`): AUROC and average precision with 95 % percentiles over resampled
                       images, and `share`, of the images that fail.
indicator_eighths.csv  Error by severity of eighths of the score, of images right when clean,
                       strongest first.

Ten minutes on one core for two models; --test-limit and --resamples 5 as in evidence.py: seconds.
"""
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

import wrnb.weak  # gives `Scores` its methods
from common import add_options, begin, origin, parser, write_csv
from evidence import CELLS, Matrix, dealt, parse_model, test_images
from wrnb.core import WrnbError, wilson
from wrnb.estimation import Pairs
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness

SEVERITY = np.array([severity for _, severity in CELLS])
NAMES = list(dict.fromkeys(name for name, _ in CELLS))
OF_TYPE = np.array([[name == own for own, _ in CELLS] for name in NAMES])/5  # [types, cells]


def scored(args, text, device):
    "Scores of the test images of one model, read if they were computed before"
    data, name, spec, options = parse_model(text)
    ds = test_images(data, args.test_limit)
    net = load_model(spec, len(ds.classes), classes=ds.classes, **options).to(device)
    return score_robustness(net, ds, eps=args.eps, n_neighbors=args.n_neighbors, seed=0,
                            device=device, out=args.keep/f"scores-{data}-{name}")


# --- figures from few images ----------------------------------------------------------------------

def cell_means(m, known, per_cell, seed):
    "The estimate of each cell's error from one sample of the spread design"
    cell, image = dealt(m.labels.tobytes(), "spread", per_cell, seed)
    return Pairs(m.wrong[cell, image], cell, image, m.labels, known, "set").means


def samples(m, scores, per_cell, resamples):
    "Name -> estimates of every cell, [resamples, cells]"
    score = scores.table.score.to_numpy(float)[:, None]
    with_score = np.column_stack([m.clean, score, score > 0])
    known = {"random": None, "adjusted": m.clean, "adjusted+score": with_score}
    found = {name: np.stack([cell_means(m, x, per_cell, seed) for seed in range(resamples)])
             for name, x in known.items()}
    weakest = [m.wrong[:, scores.weakest(per_cell, seed=seed)].mean(1) for seed in range(resamples)]
    return found | dict(weakest=np.stack(weakest))


def estimate_rows(m, scores, args):
    "How far off every kind of sample is, per cell and in the mean"
    truth, found = m.wrong.mean(1), samples(m, scores, args.per_cell, args.resamples)
    order = OF_TYPE @ truth
    for name, values in found.items():
        spearman = np.mean([spearmanr(OF_TYPE @ v, order).statistic for v in values])
        for severity in (0, 1, 2, 3, 4, 5):
            own = (SEVERITY == severity) | (severity == 0)
            off, base = (100*(v - truth)[:, own] for v in (values, found["random"]))
            yield dict(
                model=m.name, sample=name, severity=severity, per_cell=args.per_cell,
                resamples=len(off), bias=off.mean(), rmse=(off**2).mean()**.5,
                gain=base.var(0).mean()/(off**2).mean(), mean_bias=off.mean(1).mean(),
                mean_rmse=(off.mean(1)**2).mean()**.5, spearman=spearman)


# --- which images fail next -----------------------------------------------------------------------

def indicators(m, scores):
    "Name -> what is known of every image, high = weak"
    margin, _, confidence = m.clean.T
    loss = -np.log(np.maximum(confidence, 1e-30))
    score = scores.table.score.to_numpy(float)
    return dict(score=score, loss=loss, margin=-margin, confidence=-confidence)


def auroc(indicator, failed):
    "Area under the ROC curve of each cell, [cells], NaN where all or none failed"
    n, k = failed.shape[1], failed.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (failed @ rankdata(indicator) - k*(k + 1)/2)/(k*(n - k))


def average_precision(indicator, failed):
    "Average precision of each cell, [cells], equal values of the indicator taken together"
    order = np.argsort(-indicator, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(indicator[order]) != 0, True))
    hits = failed[:, order].cumsum(1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        return (gained*hits/(ends + 1)).sum(1)/hits[:, -1]


def both(indicator, failed):
    "AUROC and average precision of every cell, and their means per severity, [2, cells + 5]"
    each = np.stack([auroc(indicator, failed), average_precision(indicator, failed)])
    means = [each[:, s == SEVERITY].mean(1, keepdims=True) for s in range(1, 6)]
    return np.concatenate([each, *means], 1)


def next_rows(m, scores, resamples):
    "How well every indicator finds the images that fail in a cell"
    right = m.clean[:, 1] == 1
    failed = m.wrong[:, right]
    shares = np.concatenate([failed.mean(1), [failed[s == SEVERITY].mean() for s in range(1, 6)]])
    cells = [*CELLS, *(("mean", s) for s in range(1, 6))]
    for name, x in indicators(m, scores).items():
        x, rng = x[right], np.random.default_rng(0)
        drawn = (rng.integers(0, len(x), len(x)) for _ in range(resamples))
        low, high = np.nanquantile([both(x[i], failed[:, i]) for i in drawn], [.025, .975], axis=0)
        value = both(x, failed)
        for k, (cell, severity) in enumerate(cells):
            row = dict(model=m.name, indicator=name, perturbation=cell, severity=severity, n=len(x),
                       share=shares[k])
            yield row | {f"{figure}{end}": v[j, k] for j, figure in enumerate(("auroc", "ap"))
                         for end, v in (("", value), ("_low", low), ("_high", high))}


def eighth_rows(m, scores, parts=8):
    "Error of each eighth of the score by severity, ties by chance"
    right = np.flatnonzero(m.clean[:, 1] == 1)
    shuffled = np.random.default_rng(0).permutation(right)
    order = shuffled[np.argsort(scores.table.score.to_numpy()[shuffled], kind="stable")]
    for k, own in enumerate(np.array_split(order, parts), 1):
        for severity in range(1, 6):
            each = m.wrong[severity == SEVERITY][:, own].mean(0)
            low, high = wilson(each.mean(), len(own))
            yield dict(model=m.name, eighth=k, severity=severity, n=len(own), error=each.mean(),
                       low=float(low), high=float(high))


def main(args):
    device = begin(args)
    tables = {"": [], "_next": [], "_eighths": []}
    for text in args.models:
        m, scores = Matrix(args.keep, *parse_model(text)[:2]), scored(args, text, device)
        if len(scores) != len(m.labels):
            raise WrnbError(f"{text}: give the --test-limit of its outcomes")
        tables[""] += estimate_rows(m, scores, args)
        tables["_next"] += next_rows(m, scores, args.resamples)
        tables["_eighths"] += eighth_rows(m, scores)
        print(m.name, flush=True)
    where = origin("commit", "device", device=device)
    where = dict(seed=0, eps=args.eps, n_neighbors=args.n_neighbors) | where
    for end, rows in tables.items():
        path = args.csv.with_name(f"{args.csv.stem}{end}.csv")
        write_csv(pd.DataFrame(rows).assign(**where), path, float_format="%.4f")


if __name__ == "__main__":
    p = parser(__doc__)
    add_options(p, models=["digits:net=digits_net"], per_cell=300, resamples=300, test_limit=10000,
                eps=.05, n_neighbors=50, keep=Path("evidence"), csv=Path("indicator.csv"),
                device="cpu", threads=1)
    main(p.parse_args())
