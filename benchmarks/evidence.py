"""How many forward passes does a robustness figure need, by design and estimator, and do its intervals hold?

    python benchmarks/evidence.py --models "cifar10:resnet20=resnet20@resnet20-cifar10.th"
                                           "cifar10:pgd=resnet20@cifar10-resnet20-pgd.pth"
                                           "cifar100:resnet56=resnet56@cifar100-resnet56.pth mean=cifar100" ...
                                  [--per-cell 20 50 100 300] [--resamples 300] [--keep FOLDER] [--measure | --tables]
                                  [--test-limit 10000] [--csv FILE] [--device auto]

A model is DATA:NAME=SPEC, with `mean=NAME` behind it if its file's normalisation is not ImageNet's. Each model is asked
once about all test images under the 15 corruptions x 5 severities: a matrix of outcomes, kept in --keep cell by cell,
so that a second start resumes. Its mean is the truth. All that follows is a look-up (--tables: that alone,
from the matrices that are there): which images a design deals, what an estimator makes of their outcomes.

Designs: `same` asks about the same n images in every cell, `spread` about others in each. Estimators: `plain` is the
mean; `adjusted` regresses on the clean margin, its sign and the confidence in the label, cross-fitted; `adjusted+base`
also on the outcomes of the data set's first model, if another one is measured.

evidence.csv          One row per model, target, design, estimator and n per cell. Targets: the corruption error, the
                      mean of a family (`noise`, ...), and `minus NAME`, the corruption error minus that of another
                      model on the same data and pairs. `truth`, `bias`, `rmse`, `half_width` (mean) in points;
                      `coverage` of the 95 % intervals, `wider`: share of the samples in which the interval is wider
                      than the plain one.
evidence_passes.csv   One row per model, target, design and estimator: n per cell and passes for a half
                      width of --half-width points, found by search on the mean half width of 20
                      samples, beside the passes of "all images, all cells" (`times` fewer).
evidence_forest.csv   Paired differences to the first model of the data set, per corruption, with
                      intervals, from one sample (the largest --per-cell), beside the `truth`.
evidence_rounds.csv   Images added until the interval is +- `half_width`: coverage, bias, mean n per cell.
evidence_cells.csv    Where the matrices came from: model, cell, n, error, CPU seconds, commit, device.

Four models: some four hours on one core, nearly all for the matrices; --test-limit 200 --resamples 5: minutes.
"""
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from common import DATA, add_options, begin, origin, parser, write_csv
from wrnb.corruptions import corruptions
from wrnb.estimation import Dealer, Pairs, design, estimate, figure
from wrnb.folders import load_data
from wrnb.inference import InferenceModel, logits_of
from wrnb.measurement import wrong_under
from wrnb.pretrained import load_model

KINDS = corruptions()
CELLS = [(p.name, p.severity) for p in KINDS]
FOLDERS = dict(cifar100="cifar100-sample", imagenette="imagenette-sample")


# --- the matrices -----------------------------------------------------------------------------------

def parse_model(text):
    "DATA:NAME=SPEC mean=NAME as (data, name, spec, options)"
    where, _, rest = text.partition("=")
    data, _, name = where.partition(":")
    spec, *options = rest.split()
    return data, name, spec, dict(o.split("=", 1) for o in options)


@lru_cache
def test_images(data, limit):
    "The test images of a data set by its name here"
    where = data if data in ("digits", "cifar10") else DATA/FOLDERS.get(data, data)
    return load_data(str(where), limit=1, test_limit=limit)[1]


def measure(args, text, device):
    "Ask one model about every image in every cell that is not in its file yet"
    data, name, spec, options = parse_model(text)
    ds = test_images(data, args.test_limit)
    path = args.keep/f"{data}-{name}.npz"
    known = dict(np.load(path)) if path.exists() else {}
    if len(known) >= len(CELLS) + 2: return
    net = load_model(spec, len(ds.classes), classes=ds.classes, **options).to(device)
    if not known: known = dict(labels=np.asarray(ds.labels), logits=logits_of(net, ds).cpu().numpy())
    fast = InferenceModel(net, device)
    for p in KINDS:
        key = f"{p.name}-{p.severity}"
        if key in known: continue
        start = time.process_time()
        wrong = wrong_under(p, {name: fast}, ds, device=device)[name]
        known[key] = np.packbits(wrong)
        note(args.keep, data, name, p, wrong, time.process_time() - start, device)
        np.savez(path, **known)


def note(keep, data, name, p, wrong, seconds, device):
    "A row of the log of cells"
    row = dict(data=data, model=name, perturbation=p.name, severity=p.severity, n=len(wrong), error=wrong.mean(),
               cpu_seconds=round(seconds, 2), **origin("commit", "device", "torch", device=device))
    log = keep/"cells.csv"
    pd.DataFrame([row]).to_csv(log, mode="a", header=not log.exists(), index=False, lineterminator="\n")
    print(f"{data} {name} {p.name} {p.severity}: {wrong.mean():.4f}, {seconds:.0f} s", flush=True)


# --- what is known without measuring a cell ------------------------------------------------------------

class Matrix:
    "Outcomes of one model in all cells, and what a clean pass tells of every image"

    def __init__(self, keep, data, name):
        file = np.load(keep/f"{data}-{name}.npz")
        self.data, self.name, self.labels = data, name, file["labels"].astype(int)
        n = len(self.labels)
        rows = [np.unpackbits(file[f"{cell}-{severity}"])[:n] for cell, severity in CELLS]
        self.wrong = np.stack(rows).astype(float)  # [C, N]
        self.clean = clean_facts(file["logits"], self.labels)  # [N, 3]


def clean_facts(logits, labels):
    "Margin, is it right, and the confidence in the label, per image"
    logits = torch.from_numpy(logits).float()
    own = logits.gather(1, torch.from_numpy(labels)[:, None])[:, 0]
    others = logits.scatter(1, torch.from_numpy(labels)[:, None], -torch.inf).amax(1)
    margin = own - others
    confidence = F.softmax(logits, 1).gather(1, torch.from_numpy(labels)[:, None])[:, 0]
    return torch.stack([margin.clamp(-8, 12), (margin > 0).float(), confidence], 1).numpy().astype(float)


# --- samples and what estimators make of them ------------------------------------------------------------

def targets(m, first):
    "Name, weight of each cell, and the matrix of outcomes, for each figure that is wanted of a model"
    even = np.full(len(CELLS), 1/len(CELLS))
    noise = np.array([p.family == "noise" for p in KINDS], float)
    yield "corruption error", even, m.wrong
    yield "noise", noise/noise.sum(), m.wrong
    if first is not m: yield f"minus {first.name}", even, m.wrong - first.wrong


def known_facts(m, first, is_difference):
    "What each estimator knows of every image"
    if is_difference: return dict(plain=None, adjusted=np.column_stack([m.clean, first.clean]))
    facts = dict(plain=None, adjusted=m.clean)
    if first is not m: facts["adjusted+base"] = np.column_stack([m.clean, first.clean, first.wrong.mean(0)])
    return facts


@lru_cache(8)
def dealt(labels, kind, per_cell, seed):
    "Cell and image of each pair of a design; the labels come as bytes, so that they can be remembered by"
    cells = design(np.frombuffer(labels, int), len(CELLS), per_cell, kind, seed)
    return np.repeat(np.arange(len(CELLS)), per_cell), np.concatenate(cells)


def sample(m, outcomes, weight, known, kind, per_cell, seed):
    "The estimate that one sample of a design gives"
    cell, image = dealt(m.labels.tobytes(), kind, per_cell, seed)
    return estimate(outcomes[cell, image], cell, image, m.labels, weight, known, "set")


def combinations(m, first):
    "Every figure of a model with every design and estimator"
    of_model = dict(data=m.data, model=m.name, n=len(m.labels))
    for name, weight, outcomes in targets(m, first):
        truth = (weight*outcomes.mean(1)).sum()
        for estimator, known in known_facts(m, first, name.startswith("minus")).items():
            what = of_model | dict(target=name, design="spread", estimator=estimator)
            yield what, truth, (m, outcomes, weight, known, "spread")
        what = of_model | dict(target=name, design="same", estimator="plain")
        yield what, truth, (m, outcomes, weight, None, "same")


def coverage_rows(m, first, sizes, resamples):
    "How far off the estimates are, and how many of their intervals hold the truth"
    for what, truth, how in combinations(m, first):
        for per_cell in sizes:
            found = [sample(*how, per_cell, seed) for seed in range(resamples)]
            off = 100*(np.array([e.value for e in found]) - truth)
            width = 100*np.array([e.high - e.low for e in found])
            plain = width if how[3] is None else widths(how, per_cell, resamples)
            yield what | dict(per_cell=per_cell, resamples=resamples, truth=100*truth, bias=off.mean(),
                              bias_se=off.std(ddof=1)/resamples**.5, rmse=(off**2).mean()**.5,
                              half_width=width.mean()/2, wider=(width > plain + 1e-9).mean(),
                              coverage=np.mean([e.low <= truth <= e.high for e in found]))


def widths(how, per_cell, resamples):
    "Widths of the plain intervals of the same samples, in points"
    m, outcomes, weight, _, kind = how
    found = [sample(m, outcomes, weight, None, kind, per_cell, seed) for seed in range(resamples)]
    return 100*np.array([e.high - e.low for e in found])


def narrow_enough(how, per_cell, wanted, samples=20):
    "Is the mean half width at most the one that is wanted, in points?"
    found = [sample(*how, per_cell, 1000 + seed) for seed in range(samples)]
    return np.mean([50*(e.high - e.low) for e in found]) <= wanted


def passes_rows(m, first, wanted):
    "The fewest images per cell that are enough; a clean pass over the set counts if it is used"
    n_images = len(m.labels)
    for what, _, how in combinations(m, first):
        low, high = 4, n_images
        while high - low > max(1, .01*high):
            middle = max(int((low*high)**.5), low + 1)
            low, high = (low, middle) if narrow_enough(how, middle, wanted) else (middle, high)
        n_models = 2 if what["target"].startswith("minus") else 1
        clean = n_images if how[3] is not None else 0
        passes, everything = n_models*(high*len(CELLS) + clean), n_models*n_images*len(CELLS)
        yield what | dict(half_width=wanted, per_cell=high, passes=passes, all_passes=everything,
                          times=everything/passes)


def forest_rows(m, first, per_cell):
    "Paired differences per corruption from one sample, beside what all images give"
    if first is m: return
    cell, image = dealt(m.labels.tobytes(), "spread", per_cell, 0)
    outcomes = m.wrong - first.wrong
    known = known_facts(m, first, True)["adjusted"]
    pairs = Pairs(outcomes[cell, image], cell, image, m.labels, known, "set")
    for name in ("corruption error", *dict.fromkeys(name for name, _ in CELLS)):
        weight = np.array([name in (own, "corruption error") for own, _ in CELLS], float)
        weight /= weight.sum()
        e = figure(pairs, weight)
        yield dict(data=m.data, model=m.name, against=first.name, figure=name, n=len(m.labels),
                   per_cell=per_cell, seed=0, truth=100*(weight*outcomes.mean(1)).sum(),
                   value=100*e.value, low=100*e.low, high=100*e.high)


def until_narrow(m, wanted, seed):
    "The estimate at which rounds end, as `evaluate(half_width=)` adds images, and n per cell"
    n, more, weight = 0, 50, np.full(len(CELLS), 1/len(CELLS))
    dealer, cells, images = Dealer(m.labels, len(CELLS), "spread", seed), [], []
    while more > n:
        for k, idxs in enumerate(dealer.deal(more - n)):
            cells.append(np.full(len(idxs), k))
            images.append(idxs)
        n, cell, image = more, np.concatenate(cells), np.concatenate(images)
        e = estimate(m.wrong[cell, image], cell, image, m.labels, weight, m.clean, "set")
        missing = 50*(e.high - e.low)/wanted
        if missing > 1: more = min(int(n*min(max(missing**2, 1.2), 3)) + 1, len(m.labels))
    return e, n


def rounds_rows(m, resamples, wanted):
    "How many intervals hold the truth if images are added until they are narrow"
    truth = m.wrong.mean()
    for width in (2*wanted, wanted):
        found = [until_narrow(m, width, seed) for seed in range(resamples)]
        holds = np.mean([e.low <= truth <= e.high for e, _ in found])
        bias, per_cell = np.mean([(100*(e.value - truth), n) for e, n in found], 0)
        yield dict(data=m.data, model=m.name, half_width=width, resamples=resamples, coverage=holds,
                   bias=bias, per_cell=per_cell)


def tables(args):
    "All tables from the matrices that are there"
    matrices = [Matrix(args.keep, *parse_model(text)[:2]) for text in args.models]
    first = {m.data: m for m in reversed(matrices)}
    coverage, passes, forest, rounds = [], [], [], []
    for m in matrices:
        coverage += coverage_rows(m, first[m.data], args.per_cell, args.resamples)
        passes += passes_rows(m, first[m.data], args.half_width)
        forest += forest_rows(m, first[m.data], max(args.per_cell))
        rounds += rounds_rows(m, args.resamples, args.half_width)
        print(m.data, m.name, flush=True)
    origins = origin("commit", "device", device="cpu")
    suffix = args.csv.with_suffix("")
    write_csv(pd.DataFrame(coverage).assign(**origins), args.csv, float_format="%.4f")
    for name, rows in dict(passes=passes, forest=forest, rounds=rounds).items():
        path = Path(f"{suffix}_{name}.csv")
        write_csv(pd.DataFrame(rows).assign(**origins), path, float_format="%.3f")
    cells = pd.read_csv(args.keep/"cells.csv")
    named = pd.MultiIndex.from_tuples([(m.data, m.name) for m in matrices])
    own = pd.MultiIndex.from_frame(cells[["data", "model"]]).isin(named)
    write_csv(cells[own], Path(f"{suffix}_cells.csv"))


if __name__ == "__main__":
    p = parser(__doc__)
    add_options(p, models=["digits:net=digits_net"], per_cell=[20, 50, 100, 300], resamples=300, test_limit=10000,
                half_width=.5, keep=Path("evidence"), csv=Path("evidence.csv"), device="cpu", threads=1)
    p.add_argument("--measure", action="store_true", help="only measure")
    p.add_argument("--tables", action="store_true", help="only make the tables, from what was measured")
    args = p.parse_args()
    device = begin(args)
    args.keep.mkdir(parents=True, exist_ok=True)
    if not args.tables:
        for text in args.models: measure(args, text, device)
    if not args.measure: tables(args)
