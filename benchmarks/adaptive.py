"""Is the search for the k weakest images as good as 50 neighbours of every image, and how much cheaper? On real images.

    python benchmarks/adaptive.py --model resnet20@resnet20.th [--data cifar10] [--images 5000] [--eps 0.05 0.1] [--k 100 500] [--seeds 0 1 2]
                                  [--truth 200] [--precision bf16] [--threads 1] [--keep FOLDER] [--only recall time tolerance]

recall: share of the k weakest by `--truth` neighbours (another seed's) that are among the k highest scores of fixed numbers of neighbours, and of
searches (`top_k=`) with a sixth of the forward passes of fifty, and, for the first seed, a tenth and a third. Forwards count clean images too; 1/6 is a sixth of the 51 of fifty neighbours.
tolerance: a search (first eps, k and seed) that stops when, with 95 % confidence, no chosen image lies more than 0.2 below the k-th; `shortfall` is by how
much the least weak of them does, measured with the truth.
time: seconds for the images, best of `--repeats`, against the way of the authors' code: one image at a time from a data loader, which makes its 50
neighbours as 8-bit pictures and normalises each, one float32 forward pass an image. That is timed on `--authors-images` and multiplied.
`--keep` keeps run folders, from which an interrupted benchmark goes on; a row has the commit that its scores were made with. Writes benchmarks/adaptive.csv; the table of ratios comes last.
"""
import argparse, tempfile, time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as tv

from wrnb.runs import Run, provenance
from wrnb.data import load_data, subset
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness

CSV = Path(__file__).with_suffix(".csv")


class PictureNeighbors(Dataset):
    "The authors' way: an item is one image's neighbours as normalised 8-bit pictures, made one by one"
    def __init__(self, ds, eps, n, mean, std): self.ds, self.eps, self.n, self.norm = ds, eps, n, (mean, std)
    def __len__(self): return len(self.ds)
    def __getitem__(self, i):
        x, y = self.ds[i]; picture = (x.permute(1, 2, 0)*255).round().byte().numpy()
        noise = np.random.default_rng(i).uniform(-self.eps*255, self.eps*255, (self.n, *picture.shape))
        pictures = [picture, *np.clip(picture + noise, 0, 255).astype(np.uint8)]
        return torch.stack([tv.normalize(tv.to_tensor(p), *self.norm) for p in pictures]), y


def authors_way(net, ds, eps, n):
    "Seconds for a score of each image"
    mean, std = ([round(float(v), 6) for v in s.flatten()] for s in (net.mean, net.std))
    body, scores, start = net.body.to(memory_format=torch.contiguous_format).eval(), [], time.perf_counter()
    with torch.no_grad():
        for x, y in DataLoader(PictureNeighbors(ds, eps, n, mean, std), batch_size=1):
            confidence, pred = body(x[0]).softmax(1).max(1)
            scores.append(float((confidence*(pred != y[0]))[1:].mean()))
    return time.perf_counter() - start


def chosen(scores, k): return set(scores.table[scores.table.clean_correct].sort_values("score", ascending=False, kind="stable")["index"].head(k))


class Bench:
    def __init__(self, a):
        torch.set_num_threads(a.threads)
        self.a, self.ds = a, load_data(a.data, limit=a.images, test_limit=1)[0]
        self.net = load_model(a.model, len(self.ds.classes))
        self.keep = Path(a.keep or tempfile.mkdtemp())
        info = provenance("cpu")
        self.where = dict(model=Path(a.model.split("@")[0]).name, data=a.data, n=len(self.ds), threads=a.threads, torch=info["versions"]["torch"])
        self.now = dict(commit=info["commit"], device=info["device"])

    def score(self, name, **how):
        s = score_robustness(self.net, self.ds, out=self.keep/name, device="cpu", precision=self.a.precision, **how)
        s.made = Run(self.keep/name).config["stages"]["score"]
        return s

    def row(self, what, s, eps, seed, k, **more):
        forwards = len(self.ds) + int(s.table.n_neighbors.sum())
        return dict(what=what, eps=eps, k=k, seed=seed, precision=s.options["precision"], forwards=forwards, share=round(forwards/(51*len(self.ds)), 4), **more, **self.where, commit=s.made["commit"], device=s.made["device"])

    def truth(self, eps): return self.score(f"truth-{eps}-1000", eps=eps, n_neighbors=self.a.truth, seed=1000)

    def recall(self):
        for eps in self.a.eps:
            true = self.truth(eps)
            for seed in self.a.seeds:
                for n in (50, 8, 4, 16):
                    s = self.score(f"fixed-{eps}-{seed}" + (f"-{n}" if n != 50 else ""), eps=eps, n_neighbors=n, seed=seed)
                    for k in self.a.k: yield self.row(f"fixed {n}", s, eps, seed, k, recall=len(chosen(s, k) & chosen(true, k))/k)
                for k in self.a.k:
                    for part in (6, 10, 3) if seed == self.a.seeds[0] else (6,):
                        budget = 51*len(self.ds)//part
                        s = self.score(f"search-{eps}-{seed}-{k}-{budget}", eps=eps, top_k=k, budget=budget, seed=seed); last = s.search.iloc[-1]
                        yield self.row(f"search 1/{part}", s, eps, seed, k, recall=len(chosen(s, k) & chosen(true, k))/k, expected_recall=round(last.recall, 4), tolerance=round(last.tolerance, 4),
                                       width=round(last.width, 4), rounds=len(s.search))

    def tolerance(self):
        eps, k, seed = self.a.eps[0], self.a.k[0], self.a.seeds[0]
        s, true = self.score(f"tolerance-{eps}-{k}", eps=eps, top_k=k, tolerance=.2, seed=seed), self.truth(eps)
        by, last = true.table.set_index("index").score, s.search.iloc[-1]
        yield self.row("tolerance 0.2", s, eps, seed, k, recall=len(chosen(s, k) & chosen(true, k))/k, expected_recall=round(last.recall, 4), tolerance=round(last.tolerance, 4),
                       width=round(last.width, 4), rounds=len(s.search), shortfall=round(by[list(chosen(true, k))].min() - by[list(chosen(s, k))].min(), 4))

    def time(self):
        eps, k, n = self.a.eps[0], self.a.k[-1], len(self.ds)
        few = subset(self.ds, range(min(self.a.authors_images, n)))
        def timed(**how): start = time.perf_counter(); s = score_robustness(self.net, self.ds, eps=eps, device="cpu", **how); return time.perf_counter() - start, s
        ways = {"search 1/6": dict(top_k=k), "fixed 50": dict(n_neighbors=50)}
        best = {}
        for _ in range(self.a.repeats):
            authors = authors_way(load_model(self.a.model, len(self.ds.classes)), few, eps, 50)*n/len(few)
            best["authors", "fp32"] = min(best.get(("authors", "fp32"), np.inf), authors)
            for what, how in ways.items():
                for precision in ("fp32", "bf16"):
                    if what == "fixed 50" and _: continue  # once: it is long
                    seconds, s = timed(precision=precision, **how)
                    best[what, precision] = min(best.get((what, precision), np.inf), seconds)
        for (what, precision), seconds in best.items():
            yield dict(what=f"time, {what}", eps=eps, k=k, seed=0, precision=precision, seconds=round(seconds, 2), times_faster=round(best["authors", "fp32"]/seconds, 2), **self.where, **self.now)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True); p.add_argument("--data", default="cifar10"); p.add_argument("--precision", default="bf16")
    for name, default in dict(images=5000, truth=200, threads=1, repeats=3, authors_images=500).items(): p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    p.add_argument("--eps", type=float, nargs="+", default=[.05, .1]); p.add_argument("--k", type=int, nargs="+", default=[100, 500]); p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--keep"); p.add_argument("--only", nargs="+", default=["recall", "tolerance", "time"])
    a = p.parse_args()
    bench, parts = Bench(a), []
    for part in a.only:
        new = pd.DataFrame(getattr(bench, part)()); parts.append(new.assign(part=part))
        old = pd.read_csv(CSV) if CSV.is_file() else pd.DataFrame(columns=["part", "threads"])
        same = (old.part == part) & ((old.threads == a.threads) | (part != "time"))
        pd.concat([old[~same], parts[-1]]).sort_values(["part"], kind="stable").to_csv(CSV, index=False, lineterminator="\n")
    df = pd.concat(parts)
    if "recall" in a.only:
        print(df[df.part == "recall"].pivot_table(index=["eps", "k"], columns="what", values="recall").round(3).to_string())
        print(df[df.part == "recall"].groupby("what").share.max().round(4).to_string())
    if "tolerance" in a.only: print(df[df.part == "tolerance"][["eps", "k", "share", "recall", "tolerance", "shortfall"]].to_string(index=False))
    if "time" in a.only: print(df[df.part == "time"][["what", "precision", "threads", "seconds", "times_faster"]].to_string(index=False))


if __name__ == "__main__": main()
