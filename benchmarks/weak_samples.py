"""What are the weak samples like? Per image of a pool: scores, loss, margin, distance to the class mean, and what confident learning says of its label.

    python benchmarks/weak_samples.py --models base=resnet20@resnet20-cifar10.th augmix=... [--limit 5000] [--k 500] [--keep FOLDER] [--csv FILE] [--seed 0]

Reads the scores that benchmarks/weak_vs_random.py left in --keep, whose --models, --limit and --test-limit it takes. Needs cleanlab (Northcutt et al. 2021).

weak_samples.csv          A row an image of the pool (CIFAR-10's training images, drawn with seed 0): `score_MODEL_EPS`, mean over the seeds (of the first model, the
                          base, every eps; of the others 0.05), `right_MODEL` when clean. Of the base: `loss`, cross-entropy, `margin`, logit of the label less the
                          highest other. `pixel_distance` and `feature_distance`, L2 to the mean of the class's images in the pool, features being what the base's
                          last layer takes; `feature_ratio`, that distance over the one to the nearest other class's mean. `self_confidence`, probability of the
                          label, and `label_issue`, by confident learning, from out-of-fold probabilities (5 folds, logistic regression on the features), and
                          the same with `other_` before it, on the features of an ImageNet classifier (--other), which has never seen these images or labels.
weak_samples_overlap.csv  A row a pair of rankings (model, eps, seed): how many of their k weakest are the same (`shared`; ties in an order drawn anew for each ranking, so that scores
                          of 0 are shared by chance alone), `positive`, how many scores of the first are above 0, and Spearman's rank correlation of the scores of images that both
                          models get right. `probe_error` and `other_probe_error`: what these logistic regressions get wrong.

Ten minutes on one core; with --limit 200 --test-limit 30 --k 20, for both scripts, a minute each.
"""
import argparse, tempfile, time
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wrnb.core import WrnbError

from wrnb.runs import provenance
from wrnb.data import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model
from weak_vs_random import ranked

EPS = .05


def read_scores(keep, names):
    "(model, eps, seed) -> table of scores"
    found = {}
    for path in sorted((keep/"scores").glob("*.parquet")):
        name, eps, seed = path.stem.rsplit("-", 2)
        if name in names: found[name, float(eps), int(seed)] = pd.read_parquet(path)
    if not any(eps == EPS for _, eps, _ in found): raise WrnbError(f"{keep}/scores has no scores for eps {EPS}: run benchmarks/weak_vs_random.py first")
    return found


@torch.inference_mode()
def logits_and_features(net, x, pixels=32, size=125):
    "Logits, and what the last linear layer takes, of the pictures enlarged to so many pixels"
    last, seen = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1], []
    hook = last.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    def ask(b): return net((b if pixels == b.shape[-1] else F.interpolate(b, pixels, mode="bicubic").clamp(0, 1)).contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16, pixels > 32): logits = torch.cat([ask(b) for b in x.split(size)])
    hook.remove()
    return logits.float(), torch.cat(seen).flatten(1).float()


def to_means(v, y):
    "L2 distance of each row to the mean of every class, [N, classes]"
    return torch.cdist(v.double(), torch.stack([v[y == c].double().mean(0) for c in range(int(y.max()) + 1)]))


def confident(features, y, seed):
    "Confident learning: probability of the label, whether it is taken for wrong, and the share that the out-of-fold probabilities get wrong"
    from cleanlab.filter import find_label_issues
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    p = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), features, y, cv=folds, method="predict_proba")
    return p[np.arange(len(y)), y], find_label_issues(y, p, n_jobs=1), (p.argmax(1) != y).mean()


def per_image(pool, net, other_net, scores, base, seed):
    x, y = pool.pixels(range(len(pool))), torch.as_tensor(pool.labels)
    logits, features = logits_and_features(net, x)
    own = logits.gather(1, y[:, None])[:, 0]; other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    pixel, feature = (to_means(v, y) for v in (x.flatten(1), features))
    mine = feature.gather(1, y[:, None])[:, 0]; nearest = feature.scatter(1, y[:, None], torch.inf).amin(1)
    (confidence, issue, error), (other_confidence, other_issue, other_error) = (confident(f.numpy(), y.numpy(), seed) for f in (features, logits_and_features(other_net, x, 128)[1]))
    keys = sorted(dict.fromkeys((m, e) for m, e, _ in scores if m == base or e == EPS), key=lambda key: key[0] != base)
    mean = {f"score_{m}_{e:g}": np.mean([t.score for (n, f, _), t in scores.items() if (n, f) == (m, e)], axis=0) for m, e in keys}
    right = {f"right_{m}": next(t.clean_correct for (n, _, _), t in scores.items() if n == m).astype(int) for m, _ in keys}
    return pd.DataFrame(dict(index=range(len(pool)), id=pool.ids, label=y, **right, **mean, loss=F.cross_entropy(logits, y, reduction="none"), margin=own - other, pixel_distance=pixel.gather(1, y[:, None])[:, 0],
                             feature_distance=mine, feature_ratio=mine/nearest, self_confidence=confidence, label_issue=issue.astype(int), other_self_confidence=other_confidence, other_label_issue=other_issue.astype(int))), dict(probe_error=error, other_probe_error=other_error)


def overlap(scores, k):
    "How many of the k weakest two rankings share"
    weak = {key: set(ranked(t, n)[:k]) for n, (key, t) in enumerate(scores.items())}
    for a, b in combinations_with_replacement(scores, 2):
        both = scores[a].clean_correct & scores[b].clean_correct
        yield dict(model_a=a[0], eps_a=a[1], seed_a=a[2], model_b=b[0], eps_b=b[1], seed_b=b[2], k=k, shared=len(weak[a] & weak[b]), positive=int((scores[a].score[scores[a].clean_correct] > 0).sum()), spearman=scores[a].score[both].corr(scores[b].score[both], method="spearman"))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--models", nargs="+", required=True, metavar="NAME=SPEC", help="as benchmarks/weak_vs_random.py took them, the first the base")
    p.add_argument("--limit", type=int, default=5000, help="training images in the pool (default 5000)"); p.add_argument("--test-limit", type=int, default=3000)
    p.add_argument("--k", type=int, default=500, help="the weakest that are compared (default 500)"); p.add_argument("--seed", type=int, default=0, help="of the folds")
    p.add_argument("--other", default="efficientnet_lite0", metavar="SPEC", help="an ImageNet classifier (default efficientnet_lite0)")
    p.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir())/"weak_vs_random", metavar="FOLDER"); p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    a = p.parse_args()
    torch.set_num_threads(1); start = time.perf_counter()
    specs = dict(m.split("=", 1) for m in a.models); base = next(iter(specs))
    scores = read_scores(a.keep/f"{a.limit}-{a.test_limit}", specs)
    pool, net = load_data("cifar10", limit=a.limit, test_limit=1)[0], load_model(specs[base], 10)
    t, errors = per_image(pool, net, load_model(a.other, 1000), scores, base, a.seed)
    info = provenance("cpu"); shared = pd.DataFrame(overlap(scores, a.k)).round(4)
    t.round(4).to_csv(a.csv, index=False, lineterminator="\n")
    shared.assign(n=len(pool), **errors, weights=weights_hash(net), seconds=round(time.perf_counter() - start, 1), device=info["device"], torch=info["versions"]["torch"], commit=info["commit"]).to_csv(
        a.csv.with_stem(a.csv.stem + "_overlap"), index=False, lineterminator="\n")
    right = t[t[f"right_{base}"] == 1]
    print(right[["loss", "margin", "pixel_distance", "feature_distance", "feature_ratio", "self_confidence", "other_self_confidence"]].corrwith(right[f"score_{base}_{EPS:g}"], method="spearman").round(3).to_string())
    print(f"{int(t.label_issue.sum())} and {int(t.other_label_issue.sum())} label issues; {shared[(shared.model_a == base) & (shared.model_b == base) & (shared.eps_a == shared.eps_b) & (shared.seed_a != shared.seed_b)].shared.mean():.0f} of {a.k} shared between seeds")


if __name__ == "__main__": main()
