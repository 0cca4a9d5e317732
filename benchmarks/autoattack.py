"""AutoAttack by three codes: do they agree, how far from PGD are they, and what do they cost?

    python benchmarks/autoattack.py --checkpoint resnet20-cifar10.th --out runs/robust [--robust FILE] [--n 100]
                                    [--eps 8] [--seeds 0 1 2]

Two models: `published` is the ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10. `robust` is
the checkpoint of a ResNet-20 that `--robust` names; without it, the published one is trained
further against PGD at 8/255 for 8 epochs on 20,000 training images (strategy `adversarial`), and
taken from `--out` if that holds it already. The images are n test images of CIFAR-10, all in one
batch. Codes:

    wrnb            the parts of torchattacks 3.3.0 with the authors' settings: `wrnb.attacks.AutoAttack`
    pyautoattack    pyautoattack 0.2.0, the authors' code as a package
    torchattacks    torchattacks 3.3.0's own AutoAttack, which takes 10 iterations where the authors take 100
    PGD-10, PGD-50x10   this package's PGD with 10 steps of eps/4, and with 50 steps and 10 random starts

A row for each model, seed and code: n_wrong and error with its 95 % interval, `differs` the number of
images on which it disagrees with pyautoattack at the same seed, `more` the error less
pyautoattack's in points, seconds by the clock and of the processor. `forwards` is how many images
went through the network, `backwards` how many of them with a gradient, and `passes_seconds` what the
same passes take by themselves, sixteen images at a time through a network whose batch norms are
folded into its convolutions: a code that asks the network as often can hardly be faster. Each row is
kept in `--out` at once, so that the script resumes if it is interrupted. An image that is not fooled costs fifteen
seconds of one core for each full AutoAttack; the whole takes 40 minutes (the training, if there is
one, as long). Writes benchmarks/autoattack.csv.
"""
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyautoattack
import torch
import torchattacks

from common import add_options, begin, cross_product, origin, parser, show, wait_for_gpu, write_csv
from wrnb.attacks import ATTACKS, AutoAttack
from wrnb.attacks import _attacked as attacked_copy
from wrnb.core import wilson
from wrnb.tables import in_parts
from wrnb.folders import load_data
from wrnb.enhancement import enhance
from wrnb.models import weights_hash
from wrnb.pretrained import load_model


def trained_against_pgd(base, out, device):
    "The published model, trained further against PGD"
    train, test = load_data("cifar10", limit=20_000, test_limit=1000)
    how = dict(epochs=8, lr=.05, bs=128, eps=8/255, seed=0, precision="bf16")
    return enhance(base, None, "adversarial", train, test, out=out, device=device, **how).model


def models(a):
    "The two models by name, without gradients of their weights"
    base = load_model(f"resnet20@{a.checkpoint}", 10)
    robust = load_model(f"resnet20@{a.robust}", 10) if a.robust else trained_against_pgd(base, a.out, a.device)
    return {name: net.eval().requires_grad_(False) for name, net in dict(published=base, robust=robust).items()}


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


@contextmanager
def counted(net):
    "How many images go through a network, `forwards`, and how many of them with a gradient, `backwards`"
    seen = dict(forwards=0, backwards=0)
    def count(module, x, logits):
        seen["forwards"] += len(logits)
        seen["backwards"] += len(logits)*logits.requires_grad
    hook = net.register_forward_hook(count)
    try: yield seen
    finally: hook.remove()


def seconds_per_image(ask, x, repeats=20):
    "Seconds of the processor for one image of a batch, the least of some repeats"
    ask(x)
    def once():
        start = time.process_time()
        ask(x)
        wait_for_gpu()
        return (time.process_time() - start)/len(x)
    return min(once() for _ in range(repeats))


def passes_alone(net, x, forwards, backwards):
    "Seconds of the processor that these passes take by themselves, in a network with folded batch norms"
    x = x[:16]
    with attacked_copy(net, x, passes=10_000) as folded:
        @torch.no_grad()
        def forward(x): folded(x)
        def both(x):
            x = x.clone().requires_grad_()
            torch.autograd.grad(folded(x).sum(), x)
        alone, with_gradient = seconds_per_image(forward, x), seconds_per_image(both, x)
    return alone*(forwards - backwards) + with_gradient*backwards


def attacked(code, net, x, y, eps, seed):
    "Which images are wrong, one per row, and what it took"
    with counted(net) as passes:
        wall, cpu = time.perf_counter(), time.process_time()
        adv = CODES[code](net, x, y, eps/255, seed)
        wait_for_gpu()
    took = dict(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
    took |= passes | dict(passes_seconds=passes_alone(net, x, **passes))
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


ONCE = ["seconds", "cpu_seconds", "forwards", "backwards", "passes_seconds", "device", "threads", "torch", "commit"]


def summary(parts, **about):
    "One row per part"
    t, rows = pd.concat(parts), []
    for (eps, seed, code), g in t.groupby(["eps", "seed", "code"], sort=False):
        n, n_wrong = len(g), int(g.wrong.sum())
        low, high = (round(float(v), 4) for v in wilson(n_wrong/n, n))
        official = t[(t.code == "pyautoattack") & (t.eps == eps) & (t.seed == seed)].wrong
        once = g.iloc[0][ONCE].to_dict()
        error = dict(n=n, n_wrong=n_wrong, error=round(n_wrong/n, 6), low=low, high=high)
        rows.append(dict(code=code, eps=eps, seed=seed, **error, **compared(g.wrong, official), **once, **about))
    return pd.DataFrame(rows).round(dict(seconds=1, cpu_seconds=1, passes_seconds=1))


def over_seeds(df):
    "The table that is printed last: one row per model and code, over the seeds"
    return df.groupby(["model", "eps", "code"], sort=False).agg(
        n=("n", "first"), seeds=("seed", "size"), lowest=("error", "min"), mean=("error", "mean"),
        highest=("error", "max"), differs=("differs", "max"), more=("more", "mean"),
        cpu_seconds=("cpu_seconds", "mean")).reset_index()


def rows_of(name, net, images, a):
    "The rows of one model, as far as they are measured: a growing table after each code"
    x, y = images
    with torch.no_grad(): print(f"{name}: clean error {(net(x).argmax(1) != y).float().mean():.1%}", flush=True)
    about = dict(model=name, weights=weights_hash(net))
    about |= {package: version(package) for package in ("torchattacks", "pyautoattack")}
    folder, parts = a.out/"autoattack"/about["weights"]/str(a.n), []
    for case in cross_product(eps=a.eps, seed=a.seeds, code=list(CODES)):
        part = f"{case['code']}-{case['eps']:g}-{case['seed']}"
        parts.append(in_parts(folder, [part], lambda _: attacked(net=net, x=x, y=y, **case)))
        yield summary(parts, **about)


def main():
    p = parser(__doc__)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--robust")
    p.add_argument("--out", required=True, type=Path)
    add_options(p, n=100, threads=1, seeds=[0, 1, 2], device="auto", csv=Path(__file__).with_suffix(".csv"))
    p.add_argument("--eps", type=float, nargs="+", default=[8])
    a = p.parse_args()
    device = begin(a)
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    images = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    done = pd.DataFrame()
    for name, net in models(a).items():
        for rows in rows_of(name, net.to(device, memory_format=torch.channels_last), images, a):
            write_csv(pd.concat([done, rows]), a.csv)
            print(rows.iloc[-1][["code", "eps", "seed", "n_wrong", "cpu_seconds"]].to_dict(), flush=True)
        done = pd.concat([done, rows])
    show(over_seeds(done))


if __name__ == "__main__": main()
