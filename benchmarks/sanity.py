"""Can the attacks be trusted on a real model? Error against radius, steps, restarts and source, next to random noise.

    python benchmarks/sanity.py --checkpoint resnet20-cifar10.th --robust FILE --keep FOLDER
                                [--n 1000] [--few 500] [--seed 0] [--eps 0.5 1 2 4 8 16 32] [--device auto]

Two models: the published ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, which nobody
defended, and the checkpoint of a ResNet-20 trained against PGD that `--robust` names.
One row per measurement on 1,000 test images of CIFAR-10, drawn with seed 0, or on every second of
them: `model` asked, `source` the model the attack was made on, attack, eps in grey levels, steps
and restarts, n_wrong and error with its 95 % interval, `fooled` the share of images seen as
another class than before, `loss` the mean cross-entropy, `clean_error` that of the same images.
Radii are varied on --n images; steps, restarts and the source on --few, at 1/255 for the published
model and at 8/255 for the other. The universal perturbation is found on 500 training images.
`noise` adds a random sign times eps to each pixel. Each row is kept in FOLDER at once, so
that the script resumes if it is interrupted. Writes benchmarks/sanity.csv; a quarter of an hour on
one core.
"""
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from common import add_options, begin, origin, parser, write_csv
from wrnb.attacks import ATTACKS
from wrnb.core import wilson
from wrnb.randomness import fold_in, image_keys, uniform
from wrnb.tables import in_parts
from wrnb.folders import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model

STEPS, RESTARTS = (1, 2, 5, 10, 20, 50), (1, 2, 5, 10)
STEPS_OF = dict(noise=0, fgsm=1, pgd=10, uap=5)  # when the radius is varied


def noise(eps, seed):
    "As an attack is called, but it asks nothing"
    def add(model, x, y, **_):
        sign = uniform(fold_in(image_keys(x, seed), "noise"), x.shape[1:], -1, 1).sign()
        return (x + sign*eps).clamp(0, 1)
    return add


def make_attack(name, eps, net, fit, seed, **options):
    "An attack by name; the universal one is found first"
    if name == "noise": return noise(eps, seed)
    if name == "uap": return ATTACKS["uap"](eps).fit(net, *fit, seed=seed)
    return ATTACKS[name](eps, **options)


def measurements(models, levels, n, few):
    "What is measured, each as (what the table says of it, number of images, the attack's options)"
    stop = dict(early_stop=True)
    def about(model, attack, eps, steps=10, restarts=1, source=None):
        return dict(model=model, source=source or model, attack=attack, eps=eps, steps=steps, restarts=restarts)
    for m in models:
        for e in levels:
            for attack, steps in STEPS_OF.items(): yield about(m, attack, e, steps), n, stop if attack == "pgd" else {}
    for m, e in zip(models, (1, 8)):
        for k in STEPS: yield about(m, "pgd", e, steps=k), few, dict(steps=k, **stop)
        for r in RESTARTS: yield about(m, "pgd", e, restarts=r), few, dict(restarts=r, **stop)
        for source in models:
            for eps in (1, 8): yield about(m, "pgd", eps, source=source), few, {}


def measure(models, x, y, about, attack, seed):
    "One row: the errors of a model under an attack on its source"
    source, asked = models[about["source"]], models[about["model"]]
    def ask(x): return torch.cat([asked(b) for b in x.split(250)])
    adv = torch.cat([attack(source, xb, yb, seed=seed) for xb, yb in zip(x.split(250), y.split(250))])
    with torch.no_grad(): clean, logits = ask(x), ask(adv)
    pred, n = logits.argmax(1), len(y)
    k = int((pred != y).sum())
    low, high = (round(float(v), 4) for v in wilson(k/n, n))
    return pd.DataFrame([dict(
        about | dict(eps=float(about["eps"])), n=n, n_wrong=k, error=round(k/n, 6), low=low, high=high,
        fooled=round((pred != clean.argmax(1)).float().mean().item(), 6),
        loss=round(F.cross_entropy(logits, y).item(), 4),
        clean_error=round((clean.argmax(1) != y).float().mean().item(), 6),
        weights=weights_hash(asked), seed=seed, **origin("device", "threads", "torch", "commit", device=x.device))])


def curves(df):
    "Error in percent by radius"
    by_radius = (df.restarts == 1) & (df.model == df.source) & (df.steps == df.attack.map(STEPS_OF))
    t = df[by_radius].drop_duplicates(["model", "attack", "eps"])
    return (100*t.pivot(index=["model", "attack"], columns="eps", values="error")).round(1)


def pixels_and_labels(ds, device): return ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)


def load_networks(files, device):
    nets = {m: load_model(f"resnet20@{f}", 10) for m, f in files.items()}
    return {m: net.to(device, memory_format=torch.channels_last).eval() for m, net in nets.items()}


def main():
    p = parser(__doc__)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--robust", required=True)
    p.add_argument("--keep", required=True, type=Path)
    add_options(p, n=1000, few=500, seed=0, threads=1, eps=[.5, 1, 2, 4, 8, 16, 32], device="auto",
                csv=Path(__file__).with_suffix(".csv"))
    a = p.parse_args()
    device = begin(a)
    fit, (x, y) = (pixels_and_labels(ds, device) for ds in load_data("cifar10", limit=500, test_limit=1000))
    files = dict(published=a.checkpoint, robust=a.robust)
    models = load_networks(files, device)
    folder, rows = a.keep/"sanity"/"-".join(weights_hash(net) for net in models.values()), {}
    for about, n, options in measurements(models, a.eps, a.n, a.few):
        key = "-".join(map(str, (*about.values(), n, a.seed)))
        if key in rows: continue
        every = len(x)//n
        def compute(_):
            source, eps = models[about["source"]], about["eps"]/255
            attack = make_attack(about["attack"], eps, source, fit, seed=a.seed, **options)
            return measure(models, x[::every], y[::every], about, attack=attack, seed=a.seed)
        rows[key] = in_parts(folder, [key], compute)
        print(key, rows[key].error[0], flush=True)
    df = pd.concat(rows.values())
    write_csv(df, a.csv)
    print(curves(df).to_string())


if __name__ == "__main__": main()
