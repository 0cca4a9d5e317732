"""What are the weak samples like? Per image: scores, loss, margin, distances, and whether its label looks wrong.

    python benchmarks/weak_samples.py --models base=resnet20@resnet20-cifar10.th augmix=... [--limit 5000] [--k 500]
                                      [--keep FOLDER] [--csv FILE] [--seed 0]

Reads the scores that benchmarks/weak_vs_random.py left in --keep, whose --models, --limit and
--test-limit it takes. Needs cleanlab (Northcutt et al. 2021).

weak_samples.csv          One row per image of the pool (CIFAR-10's training images, drawn with seed 0):
                          `score_MODEL_EPS`, mean over the seeds (of the first model, the base, every eps; of the others
                          0.05), `right_MODEL` when clean. Of the base: `loss`, cross-entropy, `margin`, logit of the
                          label less the highest other. `pixel_distance` and `feature_distance`, L2 to the mean of the
                          class's images in the pool, features being what the base's last layer takes; `feature_ratio`,
                          that distance over the one to the nearest other class's mean. `self_confidence`, probability
                          of the label, and `label_issue`, by confident learning, from out-of-fold probabilities (5
                          folds, logistic regression on the features), and the same with `other_` before it, on the
                          features of an ImageNet classifier (--other), which has never seen these images or labels.
weak_samples_overlap.csv  One row per pair of rankings (model, eps, seed): how many of their k weakest are the same
                          (`shared`; ties in an order drawn anew for each ranking, so that scores of 0 are shared by
                          chance alone), `positive`, how many scores of the first are above 0, and Spearman's rank
                          correlation of the scores of images that both models get right. `probe_error` and
                          `other_probe_error`: what these logistic regressions get wrong.

Ten minutes on one core; with --limit 200 --test-limit 30 --k 20, for both scripts, a minute each.
"""
import tempfile, time
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import add_options, named_models, origin, parser, write_csv
from weak_vs_random import ranked
from wrnb.core import WrnbError
from wrnb.folders import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model

EPS = .05


def read_scores(keep, names):
    "(model, eps, seed) -> table of scores"
    scores = {}
    for path in sorted((keep/"scores").glob("*.parquet")):
        name, eps, seed = path.stem.rsplit("-", 2)
        if name in names: scores[name, float(eps), int(seed)] = pd.read_parquet(path)
    if not any(eps == EPS for _, eps, _ in scores):
        raise WrnbError(f"{keep}/scores has no scores for eps {EPS}: run benchmarks/weak_vs_random.py first")
    return scores


def resized(x, pixels):
    "Images at another size, in the layout that is fastest on a CPU"
    if pixels != x.shape[-1]: x = F.interpolate(x, pixels, mode="bicubic").clamp(0, 1)
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def logits_and_features(net, x, pixels=32, size=125):
    "Logits of the pictures enlarged to a number of pixels, and what the last linear layer takes"
    last, features = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1], []
    hook = last.register_forward_hook(lambda m, args, out: features.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16, pixels > 32):
        logits = torch.cat([net(resized(b, pixels)) for b in x.split(size)])
    hook.remove()
    return logits.float(), torch.cat(features).flatten(1).float()


def to_means(v, y):
    "L2 distance of each row to the mean of every class, [N, classes]"
    means = [v[y == c].double().mean(0) for c in range(int(y.max()) + 1)]
    return torch.cdist(v.double(), torch.stack(means))


def confident(features, y, seed):
    """Confident learning: probability of the label, whether it is taken for wrong, and the share that the out-of-fold
    probabilities get wrong"""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    p = cross_val_predict(probe, features, y, cv=folds, method="predict_proba")
    return p[np.arange(len(y)), y], find_label_issues(y, p, n_jobs=1), (p.argmax(1) != y).mean()


def of_label(v, y): return v.gather(1, y[:, None])[:, 0]


def score_columns(scores, base):
    "Mean scores over the seeds, and which images are right when clean"
    keys = dict.fromkeys((m, eps) for m, eps, _ in scores if m == base or eps == EPS)
    keys = sorted(keys, key=lambda key: key[0] != base)
    def mean(m, eps): return np.mean([t.score for (n, f, _), t in scores.items() if (n, f) == (m, eps)], axis=0)
    def right(m): return next(t.clean_correct for (n, _, _), t in scores.items() if n == m).astype(int)
    return {f"right_{m}": right(m) for m, _ in keys} | {f"score_{m}_{eps:g}": mean(m, eps) for m, eps in keys}


def per_image(pool, net, other_net, scores, base, seed):
    "The table of images, and the errors of the two probes"
    x, y = pool.pixels(range(len(pool))), torch.as_tensor(pool.labels)
    logits, features = logits_and_features(net, x)
    others = logits_and_features(other_net, x, 128)[1]
    highest_other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    pixel, feature = to_means(x.flatten(1), y), to_means(features, y)
    own, nearest = of_label(feature, y), feature.scatter(1, y[:, None], torch.inf).amin(1)
    confidence, issue, error = confident(features.numpy(), y.numpy(), seed)
    other_confidence, other_issue, other_error = confident(others.numpy(), y.numpy(), seed)
    t = pd.DataFrame(dict(
        index=range(len(pool)), id=pool.ids, label=y, **score_columns(scores, base),
        loss=F.cross_entropy(logits, y, reduction="none"), margin=of_label(logits, y) - highest_other,
        pixel_distance=of_label(pixel, y), feature_distance=own, feature_ratio=own/nearest,
        self_confidence=confidence, label_issue=issue.astype(int),
        other_self_confidence=other_confidence, other_label_issue=other_issue.astype(int)))
    return t, dict(probe_error=error, other_probe_error=other_error)


def overlap(scores, k):
    "How many of the k weakest two rankings share"
    weak = {key: set(ranked(t, n)[:k]) for n, (key, t) in enumerate(scores.items())}
    for a, b in combinations_with_replacement(scores, 2):
        first, second = scores[a], scores[b]
        both = first.clean_correct & second.clean_correct
        yield dict(
            model_a=a[0], eps_a=a[1], seed_a=a[2], model_b=b[0], eps_b=b[1], seed_b=b[2], k=k,
            shared=len(weak[a] & weak[b]), positive=int((first.score[first.clean_correct] > 0).sum()),
            spearman=first.score[both].corr(second.score[both], method="spearman"))


def show_findings(t, shared, base, k):
    "What the scores go with, label issues, and what seeds share"
    right = t[t[f"right_{base}"] == 1]
    score, measures = right[f"score_{base}_{EPS:g}"], """loss margin pixel_distance feature_distance feature_ratio
        self_confidence other_self_confidence""".split()
    print(right[measures].corrwith(score, method="spearman").round(3).to_string())
    of_base = shared[(shared.model_a == base) & (shared.model_b == base) & (shared.eps_a == shared.eps_b)]
    between = of_base[of_base.seed_a != of_base.seed_b].shared.mean()
    print(f"{int(t.label_issue.sum())} and {int(t.other_label_issue.sum())} label issues; "
          f"{between:.0f} of {k} shared between seeds")


def options():
    p = parser(__doc__)
    p.add_argument("--models", nargs="+", required=True, metavar="NAME=SPEC",
                   help="as benchmarks/weak_vs_random.py took them, the first the base")
    add_options(p, limit=5000, test_limit=3000, k=500, seed=0, other="efficientnet_lite0",
                keep=Path(tempfile.gettempdir())/"weak_vs_random", csv=Path(__file__).with_suffix(".csv"))
    return p.parse_args()


def main():
    a = options()
    torch.set_num_threads(1)
    start, specs = time.perf_counter(), named_models(a.models)
    base = next(iter(specs))
    scores = read_scores(a.keep/f"{a.limit}-{a.test_limit}", specs)
    pool, net = load_data("cifar10", limit=a.limit, test_limit=1)[0], load_model(specs[base], 10)
    t, errors = per_image(pool, net, load_model(a.other, 1000), scores, base=base, seed=a.seed)
    shared = pd.DataFrame(overlap(scores, a.k)).round(4)
    write_csv(t.round(4), a.csv)
    about = dict(n=len(pool), **errors, weights=weights_hash(net), seconds=round(time.perf_counter() - start, 1))
    about |= origin("device", "torch", "commit")
    write_csv(shared.assign(**about), a.csv.with_stem(a.csv.stem + "_overlap"))
    show_findings(t, shared, base, a.k)


if __name__ == "__main__": main()
