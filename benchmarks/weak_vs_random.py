"""Do a model's weak samples foretell its errors better than random images do?

    python benchmarks/weak_vs_random.py --models base=resnet20@resnet20-cifar10.th
                                                 augmix=resnet20@runs/cifar10/augmix/model.safetensors ...
                                        [--limit 5000] [--test-limit 3000] [--eps .05 .02 .1] [--k 30 100 300 1000]
                                        [--seeds 0 1 2] [--neighbors 20] [--resamples 200] [--keep FOLDER] [--tables]
                                        [--csv FILE] [--precision bf16] [--device auto]

Measured once, one file per cell in --keep, so that a second start resumes: which of a pool of CIFAR-10 training
images, and which test images, each model gets wrong when clean and under the 15 corruptions x 5 severities, all
models on the same pixels; and each model's scores of the pool for each eps and seed.

All that follows is a look-up (--tables: only that, from the scores that are there). Each resample draws the test
images anew, as many as there are, with replacement: the truth; and so the pool. With the truth are compared errors
per perturbation on k images of five sources:

weak      the k weakest of the resampled pool by the model's own scores, among those it gets right when clean; ties, and
          scores of 0, in an order drawn with the seed
base weak the same by the scores of the first model: one set of images for all models
right     k of those in the pool that the model gets right when clean, drawn with replacement: what weak samples are
          drawn from
random    k of the pool, drawn with replacement, the same for all models
held-out  k of the test images, so drawn without regard to the truth's draw, the same for all models (a draw from what
          the truth leaves over would not be independent of it: if the truth has drawn easy images, hard ones are left)

weak_vs_random.csv         One row per model, source, eps, k and seed of the scores; means over the resamples, and 95 %
                           percentile intervals (_low, _high) if given. `error` and `error_1` to `error_5`: mean error
                           over the types, by severity. Spearman's rank correlation with the truth: `spearman75` over
                           types x severities, `spearman15` over the types' means, `first15` at severity 1 alone,
                           `early15` of severity 1 with the truth's means over all severities. Mean absolute error over
                           the 75 cells: `mae` as it is, `mae_affine` and `mae_isotonic` after a map fitted on the other
                           models' cells. `snr`: standard deviation of the types' errors at severity 1 without the
                           sampling error, over the sampling error. `more_...`: such a figure less that of the random
                           images of the same resample. `positive`: how many scores are above 0. `seconds` that scoring
                           took, or asking for all errors of the pool (random) or of the test images (held-out).
weak_vs_random_order.csv   One row per pair of models: share of the resamples in which the mean error on k images orders
                           the two as the truth does.
weak_vs_random_errors.csv  Error per perturbation, without resampling: mean over the seeds for weak samples, all images
                           of the pool and of the test set.

Training images and test images are drawn with seed 0. --models: the first is the base. Two hours on one core;
--limit 50 --test-limit 30 --k 3 10 --seeds 0: a minute.
"""
import json, tempfile, time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression

from common import add_options, begin, cross_product, named_models, origin, parser, write_csv
from wrnb.core import WrnbError
from wrnb.tables import write_atomic
from wrnb.corruptions import corruptions
from wrnb.folders import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from wrnb.inference import InferenceModel
from wrnb.scoring import score_robustness
from wrnb.measurement import Clean, wrong_under

KINDS = [Clean(), *corruptions()]
TYPES = list(dict.fromkeys(p.name for p in KINDS[1:]))
COMPARED_WITH_RANDOM = ("spearman75", "spearman15", "early15", "mae_affine")


# --- measured once --------------------------------------------------------------------------------

def note(keep, key, seconds, device, **more):
    "A line of the log: what a cell took, and where"
    where = origin("commit", "device", "threads", "torch", device=device)
    line = dict(key=key, seconds=round(seconds, 3), **where, **more)
    with open(keep/"log.jsonl", "a") as f: f.write(json.dumps(line) + "\n")


def wrong_file(keep, part, p, model): return keep/"wrong"/f"{part}-{p.name}-{p.severity}-{model}.npy"


def write_bits(path, wrong): write_atomic(path, lambda part: np.save(open(part, "wb"), np.packbits(wrong)))
def read_bits(path, n): return np.unpackbits(np.load(path), count=n)


def measure_wrong(keep, sets, nets, a, device):
    "Which images of each set each model gets wrong under each perturbation, a file of bits each"
    (keep/"wrong").mkdir(parents=True, exist_ok=True)
    fast = {name: InferenceModel(net, device, a.precision) for name, net in nets.items()}
    for cell in cross_product(p=KINDS, part=list(sets)):
        p, part = cell["p"], cell["part"]
        missing = {m: f for m, f in fast.items() if not wrong_file(keep, part, p, m).exists()}
        if not missing: continue
        ds, start = sets[part], time.perf_counter()
        wrong = wrong_under(p, missing, ds, batch_size=a.batch_size, device=device)
        for m, w in wrong.items(): write_bits(wrong_file(keep, part, p, m), w)
        took = time.perf_counter() - start
        note(keep, f"wrong-{part}-{p.name}-{p.severity}", took, device, n=len(ds), models=list(missing))
        print(f"{part} {p.name} {p.severity}: {took:.1f} s", flush=True)


def score_file(keep, model, eps, seed): return keep/"scores"/f"{model}-{eps:g}-{seed}.parquet"


def measure_scores(keep, pool, nets, a, device):
    "Scores of the pool for each seed, radius and model, a file each"
    (keep/"scores").mkdir(parents=True, exist_ok=True)
    how = dict(batch_size=a.batch_size, device=str(device), precision=a.precision)
    for cell in cross_product(seed=a.seeds, eps=a.eps, model=list(nets)):
        path = score_file(keep, **cell)
        if path.exists(): continue
        m, start = cell["model"], time.perf_counter()
        t = score_robustness(nets[m], pool, cell["eps"], a.neighbors, seed=cell["seed"], **how).table
        write_atomic(path, lambda part: t.to_parquet(part))
        took = time.perf_counter() - start
        note(keep, path.stem, took, device, n=len(pool), models=[m], seed=cell["seed"])
        print(f"{path.stem}: {took:.1f} s, mean score {t.score.mean():.4f}", flush=True)


def check_same_models(keep, nets):
    "Raise `WrnbError` if a name was another model's when the folder was begun"
    path, now = keep/"models.json", {m: weights_hash(n) for m, n in nets.items()}
    before = json.loads(path.read_text()) if path.exists() else {}
    other = [m for m in now if before.get(m, now[m]) != now[m]]
    if other:
        raise WrnbError(f"{keep} holds another model by the name {other[0]}: give another --keep, or another name")
    keep.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(before | now, indent=2) + "\n")


# --- looked up ------------------------------------------------------------------------------------

def look_up(keep, part, nets, n):
    "Which images are wrong: model -> 0 or 1, [n, types, severities]"
    def read(m): return [read_bits(wrong_file(keep, part, p, m), n).astype(np.float32) for p in KINDS[1:]]
    return {m: np.stack(read(m), 1).reshape(n, len(TYPES), 5) for m in nets}


def centred_ranks(v):
    ranks = rankdata(v.reshape(len(v), -1), axis=1)
    return ranks - ranks.mean(1, keepdims=True)


def rho(a, b):
    "Spearman's rank correlation of rows, 0 if a row is constant"
    a, b = centred_ranks(a), centred_ranks(b)
    return (a*b).sum(1)/np.maximum(np.sqrt((a*a).sum(1)*(b*b).sum(1)), 1e-12)


def mean_of(weights, wrong):
    "Error of each resample, [resamples, types, severities], if row r gives image i the weight [r, i]"
    flat = wrong.reshape(len(wrong), -1)
    return (weights @ flat/weights.sum(1, keepdims=True)).reshape(-1, *wrong.shape[1:])


def ranked(table, seed):
    """Indices of the images that are right when clean, weakest first, ties in an order drawn with `seed`: the data
    set's own goes by class"""
    drawn = table[table.clean_correct].sample(frac=1, random_state=seed)
    return drawn.sort_values("score", ascending=False, kind="stable")["index"].to_numpy()


def weakest(counts, table, k, seed):
    "Weights of the k weakest of each resampled pool, in which an image may be drawn more than once"
    order = ranked(table, seed)
    if len(order) < k:
        raise WrnbError(f"k={k} is larger than the {len(order)} images that are right when clean: lower --k")
    weights = np.zeros(counts.shape, np.float32)
    weights[:, order] = np.diff(np.minimum(counts[:, order].cumsum(1), k), axis=1, prepend=0)
    return weights


def fitted_map(kind, x, y):
    "A map from errors to errors that was fitted on these pairs"
    if kind == "isotonic": return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y).predict
    line = np.polyfit(x, y, 1)
    return lambda v: np.clip(np.polyval(line, v), 0, 1)


def calibrated(errors, truths, model, kind):
    "Mean absolute error of the model's 75 cells, in each resample, after a map fitted on the other models"
    others = [m for m in errors if m != model]
    def one(r):
        x, y = (np.concatenate([v[m][r].ravel() for m in others]) for v in (errors, truths))
        guess = fitted_map(kind, x, y)(errors[model][r].ravel())
        return np.abs(guess - truths[model][r].ravel()).mean()
    return np.array([one(r) for r in range(len(truths[model]))])


def signal(e, k):
    "Spread of the types' errors at severity 1 beyond the sampling error, over the sampling error"
    p = (k*e[:, :, 0] + 1)/(k + 2)
    noise = (p*(1 - p)).mean(1)/k
    return np.sqrt(np.maximum(e[:, :, 0].var(1, ddof=1) - noise, 0)/noise)


def with_interval(name, v):
    return {name: v.mean(), f"{name}_low": np.quantile(v, .025), f"{name}_high": np.quantile(v, .975)}


def compared(errors, truths, model, k):
    "What each resample says of one model's errors on k images of one source, compared with the truth"
    e, t = errors[model], truths[model]
    first, means = e[:, :, 0], t.mean(2)
    out = dict(spearman75=rho(e, t), spearman15=rho(e.mean(2), means), first15=rho(first, t[:, :, 0]),
               early15=rho(first, means), mae=np.abs(e - t).mean((1, 2)))
    if len(errors) > 1:
        for kind in ("affine", "isotonic"): out[f"mae_{kind}"] = calibrated(errors, truths, model, kind)
    return out | dict(snr=signal(e, k))


def figures(e, now, random):
    "Means and intervals, and what is more than with random images"
    names = [] if now is random else [name for name in COMPARED_WITH_RANDOM if name in now]
    more = {f"more_{name}": now[name] - random[name] for name in names}
    row = dict(error=e.mean()) | {f"error_{s+1}": e[:, :, s].mean() for s in range(5)}
    for name, v in (now | more).items(): row |= with_interval(name, v)
    return row


def ordered(errors, truths):
    "Rows of the table of pairs: how often the errors order two models as the truth does, a tie counting half"
    for a, b in combinations(errors, 2):
        gap, true = (v[a].mean((1, 2)) - v[b].mean((1, 2)) for v in (errors, truths))
        right = np.where(gap == 0, .5, np.sign(gap) == np.sign(true))
        yield dict(first=a, second=b, gap=true.mean(), seen=gap.mean(), right=right.mean())


# --- tables ---------------------------------------------------------------------------------------

class Tables:
    "What was measured, resampled, and the three tables made from it"
    def __init__(self, keep, nets, specs, a):
        self.keep, self.nets, self.specs, self.a = keep, nets, specs, a
        self.names, self.rng = list(nets), np.random.default_rng(0)
        self.base = self.names[0]
        self.sizes = dict(pool=a.limit, test=a.test_limit)
        self.wrong = {part: look_up(keep, part, nets, n) for part, n in self.sizes.items()}
        self.scores = self.read_scores()
        clean = {m: read_bits(wrong_file(keep, "pool", KINDS[0], m), a.limit) for m in self.names}
        self.right = {m: ~wrong.astype(bool) for m, wrong in clean.items()}
        truth, self.counts = self.draw("test", a.test_limit), self.draw("pool", a.limit)
        self.truths = {m: mean_of(truth, self.wrong["test"][m]) for m in self.names}
        self.log = [json.loads(line) for line in open(keep/"log.jsonl")]

    def read_scores(self):
        "(eps, seed) -> model -> scores, if all models have them"
        files = {(eps, seed): {m: score_file(self.keep, m, eps, seed) for m in self.names}
                 for seed in self.a.seeds for eps in self.a.eps}
        whole = {cell: paths for cell, paths in files.items() if all(p.exists() for p in paths.values())}
        return {cell: {m: pd.read_parquet(p) for m, p in paths.items()} for cell, paths in whole.items()}

    def draw(self, part, k, among=None):
        "How often each image is drawn in each resample"
        among = np.ones(self.sizes[part]) if among is None else among
        return self.rng.multinomial(k, among/among.sum(), self.a.resamples).astype(np.float32)

    def errors_of_all(self, weights, part): return {m: mean_of(weights, self.wrong[part][m]) for m in self.names}

    def of_pool(self, weights_of): return {m: mean_of(weights_of(m), self.wrong["pool"][m]) for m in self.names}

    def sources(self):
        "(what the tables say of the images, model -> errors of each resample)"
        def about(source, k, eps=np.nan, seed=np.nan): return dict(source=source, eps=eps, seed=seed, k=k)
        for k in self.a.k:
            yield about("random", k), self.errors_of_all(self.draw("pool", k), "pool")
            yield about("held-out", k), self.errors_of_all(self.draw("test", k), "test")
            yield about("right", k), self.of_pool(lambda m: self.draw("pool", k, self.right[m]))
            for (eps, seed), t in self.scores.items():
                own = self.of_pool(lambda m: weakest(self.counts, t[m], k, seed))
                yield about("weak", k, eps, seed), own
                base = weakest(self.counts, t[self.base], k, seed)
                yield about("base weak", k, eps, seed), self.errors_of_all(base, "pool")

    def seconds(self, model, source, eps, seed):
        "What the images of a source cost: scoring them, or asking for all errors; None if it is not in the log"
        def total(part): return sum(r["seconds"] for r in self.log if r["key"].startswith(f"wrong-{part}"))
        took = {part: total(part) for part in self.sizes}
        took |= {r["key"]: r["seconds"] for r in self.log}
        scored_by = model if source == "weak" else self.base
        part = {"random": "pool", "right": "pool", "held-out": "test"}
        return took.get(part.get(source, f"{scored_by}-{eps:g}-{seed}"))

    def positive(self, model, source, eps, seed):
        "How many scores are above 0"
        tables = self.scores.get((eps, seed), {})
        t = tables.get(model if source == "weak" else self.base)
        return None if t is None else int((t.score[t.clean_correct] > 0).sum())

    def make(self):
        "The table of sources, and that of pairs of models"
        rows, pairs = [], []
        for about, errors in self.sources():
            now = {m: compared(errors, self.truths, m, about["k"]) for m in self.names}
            if about["source"] == "random": random = now
            images = {name: about[name] for name in ("source", "eps", "seed")}
            for m in self.names:
                cost = dict(seconds=self.seconds(m, **images), positive=self.positive(m, **images))
                rows.append(dict(model=m, **about, **figures(errors[m], now[m], random[m]), **cost))
            pairs += [about | pair for pair in ordered(errors, self.truths)]
        weights = {m: weights_hash(n) for m, n in self.nets.items()}
        table = pd.DataFrame(rows).assign(
            spec=lambda t: t.model.map(self.specs), weights=lambda t: t.model.map(weights), **self.origin())
        return table.round(4), pd.DataFrame(pairs).round(4).assign(resamples=self.a.resamples)

    def origin(self):
        "The options, and where the cells were measured"
        a, where = self.a, {}
        for c in ("device", "threads", "torch", "commit"):
            where[c] = "/".join(dict.fromkeys(str(r[c]) for r in self.log))
        return dict(n_pool=a.limit, n_test=a.test_limit, n_neighbors=a.neighbors, precision=a.precision,
                    resamples=a.resamples, **where)

    def errors(self):
        "Error per perturbation, one row per cell"
        rows = []
        def add(model, source, eps, k, e):
            about = dict(model=model, source=source, eps=eps, k=k)
            rows.extend(about | dict(perturbation=p.name, family=p.family, severity=p.severity, error=v)
                        for p, v in zip(KINDS[1:], e.ravel()))
        for m in self.names:
            for part, wrong in self.wrong.items():
                n = len(wrong[m])
                add(m, part, np.nan, n, mean_of(np.ones((1, n)), wrong[m]))
            for cell in cross_product(eps=list(dict.fromkeys(eps for eps, _ in self.scores)), k=self.a.k):
                add(m, "weak", e=self.weak_errors(m, **cell), **cell)
        return pd.DataFrame(rows).round(4)

    def weak_errors(self, m, eps, k):
        "Mean error over the seeds on the k weakest"
        tables = [(seed, t[m]) for (e, seed), t in self.scores.items() if e == eps]
        errors = [mean_of(weakest(np.ones((1, len(t))), t, k, seed), self.wrong["pool"][m]) for seed, t in tables]
        return np.mean(errors, axis=0)


def options():
    p = parser(__doc__)
    p.add_argument("--models", nargs="+", required=True, metavar="NAME=SPEC",
                   help="classifiers, the first the base: base=resnet20@resnet20-cifar10.th ...")
    p.add_argument("--tables", action="store_true", help="only compute the tables, from the scores that are there")
    add_options(p, limit=5000, test_limit=3000, eps=[.05, .02, .1], seeds=[0, 1, 2], neighbors=20, batch_size=64,
                precision="bf16", k=[30, 100, 300, 1000], resamples=200, threads=1, device="auto",
                csv=Path(__file__).with_suffix(".csv"), keep=Path(tempfile.gettempdir())/"weak_vs_random")
    return p.parse_args()


def main():
    a = options()
    device, specs = begin(a), named_models(a.models)
    nets = {name: load_model(spec, 10) for name, spec in specs.items()}
    keep = a.keep/f"{a.limit}-{a.test_limit}"
    check_same_models(keep, nets)
    if not a.tables:
        pool, test = load_data("cifar10", limit=a.limit, test_limit=a.test_limit)
        measure_wrong(keep, dict(pool=pool, test=test), nets, a, device)
        measure_scores(keep, pool, nets, a, device)
    tables = Tables(keep, nets, specs, a)
    t, pairs = tables.make()
    for end, table in {"": t, "_order": pairs, "_errors": tables.errors()}.items():
        write_csv(table, a.csv.with_stem(a.csv.stem + end))
    by_source = t.pivot_table(index=["source", "eps"], columns="k", values=["spearman75", "mae_affine"], dropna=False)
    print(by_source.dropna(how="all").round(3).to_string())
    by_pair = pairs.pivot_table(index=["first", "second", "gap"], columns=["source", "k"], values="right")
    print(by_pair.round(2).to_string())


if __name__ == "__main__": main()
