"""Do a model's weak samples foretell its errors better than random images do?

    python benchmarks/weak_vs_random.py --models base=resnet20@resnet20-cifar10.th augmix=resnet20@runs/cifar10/augmix/model.safetensors ...
                                        [--limit 5000] [--test-limit 3000] [--eps .05 .02 .1] [--k 30 100 300 1000] [--seeds 0 1 2] [--neighbors 20]
                                        [--resamples 200] [--keep FOLDER] [--tables] [--csv FILE] [--precision bf16] [--device auto]

Measured once, a file a cell in --keep, so that a second start goes on: which of a pool of CIFAR-10 training images, and which test images, each model gets
wrong when clean and under the 15 corruptions x 5 severities, all models on the same pixels; and each model's scores of the pool for each eps and seed.
All that follows is a look-up (--tables: only that, from the scores that are there). Each resample draws the test images anew, as many as there are, with
replacement: the truth; and so the pool. Against the truth stand errors per perturbation on k images of five sources:

weak      the k weakest of the resampled pool by the model's own scores, among those it gets right when clean; ties, and scores of 0, in an order drawn with the seed
base weak the same by the scores of the first model: one set of images for all models
right     k of those in the pool that the model gets right when clean, drawn with replacement: what weak samples are drawn from
random    k of the pool, drawn with replacement, the same for all models
held-out  k of the test images, so drawn without regard to the truth's draw, the same for all models (a draw from what the truth leaves over would not be
          independent of it: where the truth has drawn easy images, hard ones are left)

weak_vs_random.csv         A row a model, source, eps, k and seed of the scores; means over the resamples, and 95 % percentile intervals (_low, _high) where given.
                           `error` and `error_1` to `error_5`: mean error over the types, by severity. Spearman's rank correlation with the truth: `spearman75` over
                           types x severities, `spearman15` over the types' means, `first15` at severity 1 alone, `early15` of severity 1 with the truth's means over
                           all severities. Mean absolute error over the 75 cells: `mae` as it is, `mae_affine` and `mae_isotonic` after a map fitted on the other
                           models' cells. `snr`: standard deviation of the types' errors at severity 1 without the sampling error, over the sampling error.
                           `more_...`: such a figure less that of the random images of the same resample. `positive`: how many scores are above 0.
                           `seconds` that scoring took, or asking for all errors of the pool (random) or of the test images (held-out).
weak_vs_random_order.csv   A row a pair of models: share of the resamples in which the mean error on k images orders the two as the truth does.
weak_vs_random_errors.csv  Error per perturbation, without resampling: mean over the seeds for weak samples, all images of the pool and of the test set.

Training images and test images are drawn with seed 0. --models: the first is the base. Two hours on one core; --limit 50 --test-limit 30 --k 3 10 --seeds 0: a minute.
"""
import argparse, json, tempfile, time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression

from wrnb.core import WrnbError, pick_device

from wrnb.runs import provenance, write_atomic
from wrnb.corruptions import corruptions
from wrnb.data import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from wrnb.inference import InferenceModel
from wrnb.scoring import score_robustness
from wrnb.measurement import Clean, wrong_under

KINDS = [Clean(), *corruptions()]
TYPES = list(dict.fromkeys(p.name for p in KINDS[1:]))


def note(keep, key, seconds, device, **more):
    "A line of the log: what a cell took, and where"
    info = provenance(device)
    with open(keep/"log.jsonl", "a") as f: f.write(json.dumps(dict(key=key, seconds=round(seconds, 3), commit=info["commit"], device=info["device"], threads=info["threads"], torch=info["versions"]["torch"], **more)) + "\n")


def wrong_file(keep, part, p, model): return keep/"wrong"/f"{part}-{p.name}-{p.severity}-{model}.npy"


def measure_wrong(keep, sets, nets, a, device):
    "Which images of each set each model gets wrong under each perturbation, a file of bits each"
    (keep/"wrong").mkdir(parents=True, exist_ok=True)
    fast = {name: InferenceModel(net, device, a.precision) for name, net in nets.items()}
    for p in KINDS:
        for part, ds in sets.items():
            missing = {m: f for m, f in fast.items() if not wrong_file(keep, part, p, m).exists()}
            if not missing: continue
            start = time.perf_counter()
            for m, w in wrong_under(p, missing, ds, batch_size=a.batch_size, device=device).items():
                write_atomic(wrong_file(keep, part, p, m), lambda path: np.save(open(path, "wb"), np.packbits(w)))
            note(keep, f"wrong-{part}-{p.name}-{p.severity}", time.perf_counter() - start, device, n=len(ds), models=list(missing))
            print(f"{part} {p.name} {p.severity}: {time.perf_counter()-start:.1f} s", flush=True)


def score_file(keep, model, eps, seed): return keep/"scores"/f"{model}-{eps:g}-{seed}.parquet"


def measure_scores(keep, pool, nets, a, device):
    "Scores of the pool for each seed, radius and model, a file each"
    (keep/"scores").mkdir(parents=True, exist_ok=True)
    for seed in a.seeds:
        for eps in a.eps:
            for m, net in nets.items():
                path = score_file(keep, m, eps, seed)
                if path.exists(): continue
                start = time.perf_counter()
                t = score_robustness(net, pool, eps, a.neighbors, seed=seed, batch_size=a.batch_size, device=str(device), precision=a.precision).table
                write_atomic(path, lambda path: t.to_parquet(path))
                note(keep, path.stem, time.perf_counter() - start, device, n=len(pool), models=[m], seed=seed)
                print(f"{path.stem}: {time.perf_counter()-start:.1f} s, mean score {t.score.mean():.4f}", flush=True)


def look_up(keep, part, nets, n):
    "Which images are wrong: model -> 0 or 1, [n, types, severities]"
    read = lambda p, m: np.unpackbits(np.load(wrong_file(keep, part, p, m)), count=n).astype(np.float32)
    return {m: np.stack([read(p, m) for p in KINDS[1:]], 1).reshape(n, len(TYPES), 5) for m in nets}


def rho(a, b):
    "Spearman's rank correlation of rows, 0 where a row is constant"
    a, b = (rankdata(v.reshape(len(v), -1), axis=1) for v in (a, b)); a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    return (a*b).sum(1)/np.maximum(np.sqrt((a*a).sum(1)*(b*b).sum(1)), 1e-12)


def mean_of(weights, wrong):
    "Error of each resample, [resamples, types, severities], where row r gives image i the weight [r, i]"
    return (weights @ wrong.reshape(len(wrong), -1)/weights.sum(1, keepdims=True)).reshape(-1, *wrong.shape[1:])


def ranked(table, seed):
    "Indices of the images that are right when clean, weakest first, ties in an order drawn with `seed`: the data set's own goes by class"
    return table[table.clean_correct].sample(frac=1, random_state=seed).sort_values("score", ascending=False, kind="stable")["index"].to_numpy()


def weakest(counts, table, k, seed):
    "Weights of the k weakest of each resampled pool, where an image may be drawn more than once"
    order = ranked(table, seed)
    if len(order) < k: raise WrnbError(f"k={k} is larger than the {len(order)} images that are right when clean: lower --k")
    weights = np.zeros(counts.shape, np.float32)
    weights[:, order] = np.diff(np.minimum(counts[:, order].cumsum(1), k), axis=1, prepend=0)
    return weights


def calibrated(errors, truths, model, kind):
    "Mean absolute error of the model's 75 cells, each resample, after a map fitted on the other models"
    out, others = [], [m for m in errors if m != model]
    for r in range(len(truths[model])):
        x, y = (np.concatenate([v[m][r].ravel() for m in others]) for v in (errors, truths))
        q = errors[model][r].ravel()
        if kind == "affine": guess = np.clip(np.polyval(np.polyfit(x, y, 1), q), 0, 1)
        else: guess = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y).predict(q)
        out.append(np.abs(guess - truths[model][r].ravel()).mean())
    return np.array(out)


def signal(e, k):
    "Spread of the types' errors at severity 1 beyond the sampling error, over the sampling error"
    p = (k*e[:, :, 0] + 1)/(k + 2); noise = (p*(1 - p)).mean(1)/k
    return np.sqrt(np.maximum(e[:, :, 0].var(1, ddof=1) - noise, 0)/noise)


def with_interval(name, v): return {name: v.mean(), f"{name}_low": np.quantile(v, .025), f"{name}_high": np.quantile(v, .975)}


def compared(errors, truths, model, k):
    "What each resample says of one model's errors on k images of one source, against the truth"
    e, t = errors[model], truths[model]
    out = dict(spearman75=rho(e, t), spearman15=rho(e.mean(2), t.mean(2)), first15=rho(e[:, :, 0], t[:, :, 0]), early15=rho(e[:, :, 0], t.mean(2)), mae=np.abs(e - t).mean((1, 2)))
    if len(errors) > 1: out |= {f"mae_{kind}": calibrated(errors, truths, model, kind) for kind in ("affine", "isotonic")}
    return out | dict(snr=signal(e, k))


def row(e, now, random):
    "Means and intervals, and what is more than with random images"
    more = {} if now is random else {f"more_{name}": now[name] - random[name] for name in ("spearman75", "spearman15", "early15", "mae_affine") if name in now}
    return dict(error=e.mean(), **{f"error_{s+1}": e[:, :, s].mean() for s in range(5)}, **{n: x for name, v in (now | more).items() for n, x in with_interval(name, v).items()})


def ordered(errors, truths):
    "Rows of the table of pairs: how often the errors order two models as the truth does, a tie counting half"
    for a, b in combinations(errors, 2):
        gap, true = (v[a].mean((1, 2)) - v[b].mean((1, 2)) for v in (errors, truths))
        yield dict(first=a, second=b, gap=true.mean(), seen=gap.mean(), right=np.where(gap == 0, .5, np.sign(gap) == np.sign(true)).mean())


def sources(wrong, right, tables, counts, draw, ks, names):
    "(source, eps, seed, k, model -> errors of each resample)"
    def all_of(weights, part): return {m: mean_of(weights, wrong[part][m]) for m in names}
    for k in ks:
        yield "random", np.nan, np.nan, k, all_of(draw("pool", k), "pool")
        yield "held-out", np.nan, np.nan, k, all_of(draw("test", k), "test")
        yield "right", np.nan, np.nan, k, {m: mean_of(draw("pool", k, right[m]), wrong["pool"][m]) for m in names}
        for (eps, seed), t in tables.items():
            yield "weak", eps, seed, k, {m: mean_of(weakest(counts, t[m], k, seed), wrong["pool"][m]) for m in names}
            yield "base weak", eps, seed, k, all_of(weakest(counts, t[names[0]], k, seed), "pool")


def tables_of(keep, nets, specs, a):
    "The three tables"
    names, rng = list(nets), np.random.default_rng(0)
    sizes = dict(pool=a.limit, test=a.test_limit); wrong = {part: look_up(keep, part, nets, n) for part, n in sizes.items()}
    cells = [(eps, seed) for seed in a.seeds for eps in a.eps if all(score_file(keep, m, eps, seed).exists() for m in names)]
    tables = {c: {m: pd.read_parquet(score_file(keep, m, *c)) for m in names} for c in cells}
    right = {m: ~np.unpackbits(np.load(wrong_file(keep, "pool", KINDS[0], m)), count=a.limit).astype(bool) for m in names}
    def draw(part, k, among=None):
        among = np.ones(sizes[part]) if among is None else among
        return rng.multinomial(k, among/among.sum(), a.resamples).astype(np.float32)
    truth, counts = draw("test", a.test_limit), draw("pool", a.limit)
    truths = {m: mean_of(truth, wrong["test"][m]) for m in names}
    log = [json.loads(line) for line in open(keep/"log.jsonl")]
    took = {part: sum(r["seconds"] for r in log if r["key"].startswith(f"wrong-{part}")) for part in sizes} | {r["key"]: r["seconds"] for r in log}
    rows, pairs = [], []
    for source, eps, seed, k, errors in sources(wrong, right, tables, counts, draw, a.k, names):
        about = dict(source=source, eps=eps, seed=seed, k=k)
        now = {m: compared(errors, truths, m, k) for m in names}
        if source == "random": random = now
        for m in names:
            seconds = took.get(dict(random="pool", right="pool", weak=f"{m}-{eps:g}-{seed}").get(source, "test" if source == "held-out" else f"{names[0]}-{eps:g}-{seed}"))
            own = tables.get((eps, seed), {}).get(m if source == "weak" else names[0])
            rows.append(dict(model=m, **about, **row(errors[m], now[m], random[m]), seconds=seconds, positive=None if own is None else int((own.score[own.clean_correct] > 0).sum())))
        pairs += [dict(**about, **p) for p in ordered(errors, truths)]
    info = dict(n_pool=a.limit, n_test=a.test_limit, n_neighbors=a.neighbors, precision=a.precision, resamples=a.resamples, **{c: "/".join(dict.fromkeys(str(r[c]) for r in log)) for c in ("device", "threads", "torch", "commit")})
    table = pd.DataFrame(rows).assign(spec=lambda t: t.model.map(specs), weights=lambda t: t.model.map({m: weights_hash(n) for m, n in nets.items()}), **info)
    return table.round(4), pd.DataFrame(pairs).round(4).assign(resamples=a.resamples), errors_table(wrong, tables, a.k, names).round(4)


def errors_table(wrong, tables, ks, names):
    "Error per perturbation, a row a cell"
    one, out = lambda n: np.ones((1, n)), []
    def add(model, source, eps, k, e): out.extend(dict(model=model, source=source, eps=eps, k=k, perturbation=p.name, family=p.family, severity=p.severity, error=v) for p, v in zip(KINDS[1:], e.ravel()))
    for m in names:
        for part, w in wrong.items(): add(m, part, np.nan, len(w[m]), mean_of(one(len(w[m])), w[m]))
        for eps in dict.fromkeys(e for e, _ in tables):
            for k in ks:
                ts = [(seed, t[m]) for (e, seed), t in tables.items() if e == eps]
                add(m, "weak", eps, k, np.mean([mean_of(weakest(one(len(t)), t, k, seed), wrong["pool"][m]) for seed, t in ts], axis=0))
    return pd.DataFrame(out)


def same_weights(keep, nets):
    "Raise where a name stood for another model when the folder was begun"
    path, now = keep/"models.json", {m: weights_hash(n) for m, n in nets.items()}
    before = json.loads(path.read_text()) if path.exists() else {}
    other = [m for m in now if before.get(m, now[m]) != now[m]]
    if other: raise WrnbError(f"{keep} holds another model by the name {other[0]}: give another --keep, or another name")
    keep.mkdir(parents=True, exist_ok=True); path.write_text(json.dumps(before | now, indent=2) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--models", nargs="+", required=True, metavar="NAME=SPEC", help="classifiers, the first the base: base=resnet20@resnet20-cifar10.th ...")
    p.add_argument("--limit", type=int, default=5000, help="training images in the pool (default 5000)")
    p.add_argument("--test-limit", type=int, default=3000, help="test images (default 3000)")
    p.add_argument("--eps", type=float, nargs="+", default=[.05, .02, .1]); p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--neighbors", type=int, default=20); p.add_argument("--batch-size", type=int, default=64); p.add_argument("--precision", default="bf16")
    p.add_argument("--k", type=int, nargs="+", default=[30, 100, 300, 1000]); p.add_argument("--resamples", type=int, default=200)
    p.add_argument("--tables", action="store_true", help="only compute the tables, from the scores that are there")
    p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"), help="where the tables go; the other two beside it")
    p.add_argument("--threads", type=int, default=1); p.add_argument("--device", default="auto")
    p.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir())/"weak_vs_random", metavar="FOLDER", help="correctness and scores, kept cell by cell")
    a = p.parse_args()
    torch.set_num_threads(a.threads); device = pick_device(a.device)
    specs = dict(m.split("=", 1) for m in a.models); nets = {name: load_model(spec, 10) for name, spec in specs.items()}
    keep = a.keep/f"{a.limit}-{a.test_limit}"
    same_weights(keep, nets)
    if not a.tables:
        pool, test = load_data("cifar10", limit=a.limit, test_limit=a.test_limit)
        measure_wrong(keep, dict(pool=pool, test=test), nets, a, device)
        measure_scores(keep, pool, nets, a, device)
    tables = dict(zip(("", "_order", "_errors"), tables_of(keep, nets, specs, a)))
    for end, t in tables.items(): t.to_csv(a.csv.with_stem(a.csv.stem + end), index=False, lineterminator="\n")
    t, pairs = tables[""], tables["_order"]
    print(t.pivot_table(index=["source", "eps"], columns="k", values=["spearman75", "mae_affine"], dropna=False).dropna(how="all").round(3).to_string())
    print(pairs.pivot_table(index=["first", "second", "gap"], columns=["source", "k"], values="right").round(2).to_string())


if __name__ == "__main__": main()
