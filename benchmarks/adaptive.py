"""Is the search for the k weakest images as good as 50 neighbours per image, and how much cheaper? On real images.

    python benchmarks/adaptive.py --model resnet20@resnet20.th [--data cifar10] [--images 5000] [--eps 0.05 0.1]
                                  [--k 100 500] [--seeds 0 1 2] [--truth 200] [--precision bf16] [--threads 1]
                                  [--keep FOLDER] [--only recall time tolerance]

recall: share of the k weakest by `--truth` neighbours (another seed's) that are among the k
highest scores of fixed numbers of neighbours, and of searches (`top_k=`) with a sixth of the
forward passes of fifty, and, for the first seed, a tenth and a third. Forwards count clean images
too; 1/6 is a sixth of the 51 of fifty neighbours.

tolerance: a search (first eps, k and seed) that stops when, with 95 % confidence, no chosen image
is more than 0.2 below the k-th; `shortfall` is by how much the least weak of them is, measured
with the truth.

time: seconds for the images, best of `--repeats`, against the way of the authors' code: one image
at a time from a data loader, which makes its 50 neighbours as 8-bit pictures and normalises each,
one float32 forward pass per image. That is timed on `--authors-images` and multiplied.

`--keep` keeps run folders, from which an interrupted benchmark resumes; a row has the commit that
its scores were made with. Writes benchmarks/adaptive.csv; the table of ratios comes last.
"""
import tempfile, time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as tv

from common import add_options, origin, parser, show, write_csv
from wrnb.runs import Run
from wrnb.image_sets import subset
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness

CSV = Path(__file__).with_suffix(".csv")


class PictureNeighbors(Dataset):
    "The authors' way: an item is one image's neighbours as normalised 8-bit pictures, made one by one"
    def __init__(self, ds, eps, n, mean, std):
        self.ds, self.eps, self.n, self.norm = ds, eps, n, (mean, std)

    def __len__(self): return len(self.ds)

    def __getitem__(self, i):
        x, y = self.ds[i]
        picture, level = (x.permute(1, 2, 0)*255).round().byte().numpy(), self.eps*255
        noise = np.random.default_rng(i).uniform(-level, level, (self.n, *picture.shape))
        pictures = [picture, *np.clip(picture + noise, 0, 255).astype(np.uint8)]
        return torch.stack([tv.normalize(tv.to_tensor(p), *self.norm) for p in pictures]), y


def authors_way(net, ds, eps, n):
    "Seconds for a score of each image"
    mean, std = ([round(float(v), 6) for v in s.flatten()] for s in (net.mean, net.std))
    body, scores = net.body.to(memory_format=torch.contiguous_format).eval(), []
    pictures = DataLoader(PictureNeighbors(ds, eps, n, mean, std), batch_size=1)
    start = time.perf_counter()
    with torch.no_grad():
        for x, y in pictures:
            confidence, pred = body(x[0]).softmax(1).max(1)
            scores.append(float((confidence*(pred != y[0]))[1:].mean()))
    return time.perf_counter() - start


def chosen(scores, k):
    "The k images with the highest scores among those that are right when clean"
    right = scores.table[scores.table.clean_correct]
    return set(right.sort_values("score", ascending=False, kind="stable")["index"].head(k))


class Bench:
    "The images, the model, and a method per part of the table, which gives its rows"
    def __init__(self, a):
        torch.set_num_threads(a.threads)
        self.a, self.ds = a, load_data(a.data, limit=a.images, test_limit=1)[0]
        self.n = len(self.ds)
        self.net = self.load()
        self.keep = Path(a.keep or tempfile.mkdtemp())
        model = Path(a.model.split("@")[0]).name
        self.about = dict(model=model, data=a.data, n=self.n, threads=a.threads, **origin("torch"))

    def load(self): return load_model(self.a.model, len(self.ds.classes))

    def score(self, name, **how):
        "Scores in a run folder, with what the folder records of them"
        s = score_robustness(self.net, self.ds, out=self.keep/name, device="cpu", precision=self.a.precision, **how)
        s.made = Run(self.keep/name).record("score")
        return s

    def row(self, what, s, eps, seed, k, **more):
        forwards = self.n + int(s.table.n_neighbors.sum())
        share = round(forwards/(51*self.n), 4)
        return dict(what=what, eps=eps, k=k, seed=seed, precision=s.options["precision"], forwards=forwards,
                    share=share, **more, **self.about, commit=s.made["commit"], device=s.made["device"])

    def found(self, s, true, k):
        "Share of the true k weakest that these scores choose"
        return dict(recall=len(chosen(s, k) & chosen(true, k))/k)

    def search_found(self, s, true, k):
        "The same, and what the search itself expected"
        last = s.search.iloc[-1]
        expected = dict(expected_recall=last.recall, tolerance=last.tolerance, width=last.width)
        return self.found(s, true, k) | {n: round(v, 4) for n, v in expected.items()} | dict(rounds=len(s.search))

    def truth(self, eps): return self.score(f"truth-{eps}-1000", eps=eps, n_neighbors=self.a.truth, seed=1000)

    def fixed(self, eps, seed, true):
        for n in (50, 8, 4, 16):
            name = f"fixed-{eps}-{seed}" + (f"-{n}" if n != 50 else "")
            s = self.score(name, eps=eps, n_neighbors=n, seed=seed)
            for k in self.a.k: yield self.row(f"fixed {n}", s, eps, seed, k=k, **self.found(s, true, k))

    def searches(self, eps, seed, true):
        parts = (6, 10, 3) if seed == self.a.seeds[0] else (6,)
        for k in self.a.k:
            for part in parts:
                budget = 51*self.n//part
                name = f"search-{eps}-{seed}-{k}-{budget}"
                s = self.score(name, eps=eps, top_k=k, budget=budget, seed=seed)
                yield self.row(f"search 1/{part}", s, eps, seed, k=k, **self.search_found(s, true, k))

    def recall(self):
        for eps in self.a.eps:
            true = self.truth(eps)
            for seed in self.a.seeds:
                yield from self.fixed(eps, seed, true)
                yield from self.searches(eps, seed, true)

    def tolerance(self):
        eps, k, seed = self.a.eps[0], self.a.k[0], self.a.seeds[0]
        s, true = self.score(f"tolerance-{eps}-{k}", eps=eps, top_k=k, tolerance=.2, seed=seed), self.truth(eps)
        score = true.table.set_index("index").score
        lowest = [score[list(chosen(by, k))].min() for by in (true, s)]
        shortfall = dict(shortfall=round(lowest[0] - lowest[1], 4))
        yield self.row("tolerance 0.2", s, eps, seed, k=k, **self.search_found(s, true, k), **shortfall)

    def timed(self, eps, **how):
        start = time.perf_counter()
        score_robustness(self.net, self.ds, eps=eps, device="cpu", **how)
        return time.perf_counter() - start

    def time(self):
        eps, k = self.a.eps[0], self.a.k[-1]
        few = subset(self.ds, range(min(self.a.authors_images, self.n)))
        ways = {"search 1/6": dict(top_k=k), "fixed 50": dict(n_neighbors=50)}
        best = {}
        def keep_best(way, precision, seconds):
            best[way, precision] = min(best.get((way, precision), np.inf), seconds)
        for repeat in range(self.a.repeats):
            keep_best("authors", "fp32", authors_way(self.load(), few, eps, 50)*self.n/len(few))
            for way, how in ways.items():
                for precision in ("fp32", "bf16"):
                    if way == "fixed 50" and repeat: continue  # once: it is long
                    keep_best(way, precision, self.timed(eps, precision=precision, **how))
        for (way, precision), seconds in best.items():
            faster = round(best["authors", "fp32"]/seconds, 2)
            yield dict(what=f"time, {way}", eps=eps, k=k, seed=0, precision=precision, seconds=round(seconds, 2),
                       times_faster=faster, **self.about, **origin("commit", "device"))


def replace_part(part, new, threads):
    "Write the rows of a part in place of those that the CSV has of it"
    old = pd.read_csv(CSV) if CSV.is_file() else pd.DataFrame(columns=["part", "threads"])
    same = (old.part == part) & ((old.threads == threads) | (part != "time"))
    write_csv(pd.concat([old[~same], new]).sort_values(["part"], kind="stable"), CSV)


def main():
    p = parser(__doc__)
    p.add_argument("--model", required=True)
    p.add_argument("--keep")
    add_options(p, data="cifar10", precision="bf16", images=5000, truth=200, threads=1, repeats=3, authors_images=500,
                eps=[.05, .1], k=[100, 500], seeds=[0, 1, 2], only=["recall", "tolerance", "time"])
    a = p.parse_args()
    bench, parts = Bench(a), {}
    for part in a.only:
        parts[part] = pd.DataFrame(getattr(bench, part)()).assign(part=part)
        replace_part(part, parts[part], a.threads)
    if "recall" in parts:
        df = parts["recall"]
        print(df.pivot_table(index=["eps", "k"], columns="what", values="recall").round(3).to_string())
        print(df.groupby("what").share.max().round(4).to_string())
    if "tolerance" in parts: show(parts["tolerance"][["eps", "k", "share", "recall", "tolerance", "shortfall"]])
    if "time" in parts: show(parts["time"][["what", "precision", "threads", "seconds", "times_faster"]])


if __name__ == "__main__": main()
