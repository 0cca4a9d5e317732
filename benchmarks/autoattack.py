"""AutoAttack by three codes on a robust model: do they agree, and how far from PGD are they?

    python benchmarks/autoattack.py --checkpoint resnet20-cifar10.th --out runs/robust [--n 100] [--eps 8]
                                    [--seeds 0 1 2]

The model is the published ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, trained
further against PGD at 8/255 for 8 epochs on 20,000 training images (strategy `adversarial`); if
`--out` holds it already, it is taken from there. The images are n test images of CIFAR-10, all in
one batch. Codes:

    wrnb            the parts of torchattacks 3.3.0 with the authors' settings: `wrnb.attacks.AutoAttack`
    pyautoattack    pyautoattack 0.2.0, the authors' code as a package
    torchattacks    torchattacks 3.3.0's own AutoAttack, which takes 10 iterations where the authors take 100
    PGD-10, PGD-50x10   this package's PGD with 10 steps of eps/4, and with 50 steps and 10 random starts

A row for each seed and code: n_wrong and error with its 95 % interval, `differs` the number of
images on which it disagrees with pyautoattack at the same seed, `more` the error less
pyautoattack's in points, seconds by the clock and of the processor. Each row is kept in `--out` at
once, so that the script resumes if it is interrupted. An image that is not fooled costs fifteen
seconds of one core for each full AutoAttack; the whole takes 40 minutes after the training, which
takes as long. Writes benchmarks/autoattack.csv.
"""
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyautoattack
import torch
import torchattacks

from common import add_options, begin, cross_product, origin, parser, show, wait_for_gpu, write_csv
from wrnb.attacks import ATTACKS, AutoAttack
from wrnb.core import wilson
from wrnb.tables import in_parts
from wrnb.folders import load_data
from wrnb.enhancement import enhance
from wrnb.models import weights_hash
from wrnb.pretrained import load_model


def robust_model(checkpoint, out, device):
    "The published model, trained further against PGD"
    train, test = load_data("cifar10", limit=20_000, test_limit=1000)
    base = load_model(f"resnet20@{checkpoint}", 10)
    learn = enhance(base, None, "adversarial", train, test, epochs=8, lr=.05, bs=128, eps=8/255, seed=0, out=out,
                    device=device, precision="bf16")
    return learn.model.eval().requires_grad_(False)


def official(net, x, y, eps, seed):
    attack = pyautoattack.AutoAttack(net, norm="Linf", eps=eps, seed=seed, device=x.device)
    return attack.run_standard_evaluation(x, y, batch_size=len(x))[0]


def pgd_10(net, x, y, eps, seed): return ATTACKS["pgd"](eps, early_stop=True)(net, x, y, seed)


def pgd_50x10(net, x, y, eps, seed):
    return ATTACKS["pgd"](eps, steps=50, restarts=10, early_stop=True)(net, x, y, seed)


def of_torchattacks(net, x, y, eps, seed):
    return torchattacks.AutoAttack(net, eps=eps, n_classes=10, seed=seed)(x, y).detach()


def ours(net, x, y, eps, seed): return AutoAttack(eps)(net, x, y, seed)


CODES = {"PGD-10": pgd_10, "PGD-50x10": pgd_50x10, "torchattacks": of_torchattacks, "pyautoattack": official,
         "wrnb": ours}


def attacked(code, net, x, y, eps, seed):
    "Which images are wrong, one per row, and what it took"
    wall, cpu = time.perf_counter(), time.process_time()
    adv = CODES[code](net, x, y, eps/255, seed)
    wait_for_gpu()
    took = dict(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
    assert (adv - x).abs().max() <= eps/255 + 1e-6 and adv.min() >= 0 and adv.max() <= 1, code
    with torch.no_grad(): wrong = (net(adv).argmax(1) != y).cpu()
    pixels = (adv - x).abs().amax((1, 2, 3)).cpu()
    where = origin("device", "threads", "torch", "commit", device=x.device)
    return pd.DataFrame(dict(wrong=wrong, pixels=pixels, code=code, eps=eps, seed=seed, **took, **where))


def compared(wrong, official):
    "How far the wrong images are from those of the authors' code; nothing if that has not run yet"
    if not len(official): return {}
    more = 100*(int(wrong.sum()) - int(official.sum()))/len(wrong)
    return dict(differs=int((official.values != wrong.values).sum()), more=round(more, 3))


def summary(parts, **about):
    "One row per part"
    t, rows = pd.concat(parts), []
    for (eps, seed, code), g in t.groupby(["eps", "seed", "code"], sort=False):
        n, n_wrong = len(g), int(g.wrong.sum())
        low, high = (round(float(v), 4) for v in wilson(n_wrong/n, n))
        official = t[(t.code == "pyautoattack") & (t.eps == eps) & (t.seed == seed)].wrong
        once = g.iloc[0][["seconds", "cpu_seconds", "device", "threads", "torch", "commit"]].to_dict()
        error = dict(n=n, n_wrong=n_wrong, error=round(n_wrong/n, 6), low=low, high=high)
        rows.append(dict(code=code, eps=eps, seed=seed, **error, **compared(g.wrong, official), **once, **about))
    return pd.DataFrame(rows).round(dict(seconds=1, cpu_seconds=1))


def over_seeds(df):
    "The table that is printed last: one row per code, over the seeds"
    return df.groupby(["eps", "code"], sort=False).agg(
        n=("n", "first"), seeds=("seed", "size"), lowest=("error", "min"), mean=("error", "mean"),
        highest=("error", "max"), differs=("differs", "max"), more=("more", "mean"),
        cpu_seconds=("cpu_seconds", "mean")).reset_index()


def main():
    p = parser(__doc__)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--out", required=True, type=Path)
    add_options(p, n=100, threads=1, seeds=[0, 1, 2], device="auto")
    p.add_argument("--eps", type=float, nargs="+", default=[8])
    a = p.parse_args()
    device = begin(a)
    net = robust_model(a.checkpoint, a.out, a.device).to(device, memory_format=torch.channels_last)
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    x, y = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    with torch.no_grad(): print(f"clean error {(net(x).argmax(1) != y).float().mean():.1%} of {a.n} images", flush=True)
    versions = {name: version(name) for name in ("torchattacks", "pyautoattack")}
    about = dict(model="resnet20", weights=weights_hash(net), **versions)
    folder, parts = a.out/"autoattack"/about["weights"]/str(a.n), []
    for case in cross_product(eps=a.eps, seed=a.seeds, code=list(CODES)):
        name = f"{case['code']}-{case['eps']:g}-{case['seed']}"
        parts.append(in_parts(folder, [name], lambda _: attacked(net=net, x=x, y=y, **case)))
        df = summary(parts, **about)
        write_csv(df, Path(__file__).with_suffix(".csv"))
        print(df.iloc[-1][["code", "eps", "seed", "n_wrong", "cpu_seconds"]].to_dict(), flush=True)
    show(over_seeds(df))


if __name__ == "__main__": main()
