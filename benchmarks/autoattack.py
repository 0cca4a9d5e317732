"""AutoAttack by three codes on a robust model: do they agree, and how far from PGD are they?

    python benchmarks/autoattack.py --checkpoint resnet20-cifar10.th --out runs/robust [--n 100] [--eps 8] [--seeds 0 1 2] [--threads 1] [--device auto]

The model is the published ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, trained on against PGD at 8/255 for 8 epochs on 20,000 training images
(strategy `adversarial`); where `--out` holds it already, it is taken from there. The images are n test images of CIFAR-10, all in one batch. Codes:

    wrnb            the parts of torchattacks 3.3.0 with the authors' settings: `wrnb.attacks.AutoAttack`
    pyautoattack    pyautoattack 0.2.0, the authors' code as a package
    torchattacks    torchattacks 3.3.0's own AutoAttack, which takes 10 iterations where the authors take 100
    PGD-10, PGD-50x10   this package's PGD with 10 steps of eps/4, and with 50 steps and 10 random starts

A row for each seed and code: n_wrong and error with its 95 % interval, `differs` the number of images on which it disagrees with pyautoattack at the same
seed, `more` the error less pyautoattack's in points, seconds by the clock and of the processor. Each row is kept in `--out` as soon as it is there, so the
script goes on where it was stopped. An image that stands costs fifteen seconds of one core for each full AutoAttack; the whole takes 40 minutes after the training,
which takes as long. Writes benchmarks/autoattack.csv.
"""
import argparse, time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import pyautoattack, torchattacks

from wrnb.attacks import ATTACKS, AutoAttack
from wrnb.core import pick_device, wilson
from wrnb.runs import in_parts, provenance
from wrnb.data import load_data
from wrnb.enhancement import enhance
from wrnb.models import weights_hash
from wrnb.pretrained import load_model


def robust_model(checkpoint, out, device):
    train, test = load_data("cifar10", limit=20_000, test_limit=1000)
    learn = enhance(load_model(f"resnet20@{checkpoint}", 10), None, "adversarial", train, test, epochs=8, lr=.05, bs=128, eps=8/255, seed=0, out=out, device=device, precision="bf16")
    return learn.model.eval().requires_grad_(False)


def official(net, x, y, eps, seed):
    return pyautoattack.AutoAttack(net, norm="Linf", eps=eps, seed=seed, device=x.device).run_standard_evaluation(x, y, batch_size=len(x))[0]


CODES = {
    "PGD-10": lambda net, x, y, eps, seed: ATTACKS["pgd"](eps, early_stop=True)(net, x, y, seed),
    "PGD-50x10": lambda net, x, y, eps, seed: ATTACKS["pgd"](eps, steps=50, restarts=10, early_stop=True)(net, x, y, seed),
    "torchattacks": lambda net, x, y, eps, seed: torchattacks.AutoAttack(net, eps=eps, n_classes=10, seed=seed)(x, y).detach(),
    "pyautoattack": official,
    "wrnb": lambda net, x, y, eps, seed: AutoAttack(eps)(net, x, y, seed)}


def attacked(code, net, x, y, eps, seed):
    "Which images are wrong, one a row, and what it took"
    start = time.perf_counter(), time.process_time()
    adv = CODES[code](net, x, y, eps/255, seed)
    if x.is_cuda: torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    assert (adv - x).abs().max() <= eps/255 + 1e-6 and adv.min() >= 0 and adv.max() <= 1, code
    with torch.no_grad(): wrong = (net(adv).argmax(1) != y).cpu()
    info = provenance(x.device)
    return pd.DataFrame(dict(wrong=wrong, pixels=(adv - x).abs().amax((1, 2, 3)).cpu(), code=code, eps=eps, seed=seed, seconds=wall, cpu_seconds=cpu, device=info["device"],
                             threads=info["threads"], torch=info["versions"]["torch"], commit=info["commit"]))


def summary(parts, **told):
    "A row a part"
    t, rows = pd.concat(parts), []
    for (eps, seed, code), g in t.groupby(["eps", "seed", "code"], sort=False):
        n, k = len(g), int(g.wrong.sum()); low, high = wilson(k/n, n)
        same = t[(t.code == "pyautoattack") & (t.eps == eps) & (t.seed == seed)].wrong
        differs = dict(differs=int((same.values != g.wrong.values).sum()), more=round(100*(k - int(same.sum()))/n, 3)) if len(same) else {}
        once = g.iloc[0][["seconds", "cpu_seconds", "device", "threads", "torch", "commit"]].to_dict()
        rows.append(dict(code=code, eps=eps, seed=seed, n=n, n_wrong=k, error=round(k/n, 6), low=round(float(low), 4), high=round(float(high), 4), **differs, **once, **told))
    df = pd.DataFrame(rows); df[["seconds", "cpu_seconds"]] = df[["seconds", "cpu_seconds"]].round(1)
    return df


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--checkpoint", required=True); p.add_argument("--out", required=True, type=Path); p.add_argument("--device", default="auto")
    p.add_argument("--n", type=int, default=100); p.add_argument("--threads", type=int, default=1)
    p.add_argument("--eps", type=float, nargs="+", default=[8]); p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    device = pick_device(a.device)
    net = robust_model(a.checkpoint, a.out, a.device).to(device, memory_format=torch.channels_last)
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    x, y = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    with torch.no_grad(): print(f"clean error {(net(x).argmax(1) != y).float().mean():.1%} of {a.n} images", flush=True)
    told = dict(model="resnet20", weights=weights_hash(net), torchattacks=version("torchattacks"), pyautoattack=version("pyautoattack"))
    folder, parts = a.out/"autoattack"/told["weights"]/str(a.n), []
    for key in [(e, s, c) for e in a.eps for s in a.seeds for c in CODES]:
        eps, seed, code = key
        parts.append(in_parts(folder, [f"{code}-{eps:g}-{seed}"], lambda _: attacked(code, net, x, y, eps, seed)))
        df = summary(parts, **told)
        df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
        print(df.iloc[-1][["code", "eps", "seed", "n_wrong", "cpu_seconds"]].to_dict(), flush=True)
    g = df.groupby(["eps", "code"], sort=False)
    print(g.agg(n=("n", "first"), seeds=("seed", "size"), lowest=("error", "min"), mean=("error", "mean"), highest=("error", "max"),
                differs=("differs", "max"), more=("more", "mean"), cpu_seconds=("cpu_seconds", "mean")).reset_index().to_string(index=False))


if __name__ == "__main__": main()
