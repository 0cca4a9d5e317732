"""Can the attacks be trusted on a real model? Error against radius, steps, restarts and the model the attack was made on, beside random noise.

    python benchmarks/sanity.py --checkpoint resnet20-cifar10.th --robust RUN [--n 1000] [--few 500] [--eps 0.5 1 2 4 8 16 32] [--seed 0] [--device auto]

Two models: the published ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, which nobody defended, and the one that benchmarks/autoattack.py trained
against PGD at 8/255 and left in RUN. A row a measurement on 1,000 test images of CIFAR-10, drawn with seed 0, or on every second of them: `model` asked,
`source` the model the attack was made on, attack, eps in grey levels, steps and restarts, n_wrong and error with its 95 % interval, `fooled` the share of
images seen as another class than before, `loss` the mean cross-entropy, `clean_error` that of the same images. Radii are varied on --n images; steps, restarts
and the source on --few, at 1/255 for the published model and at 8/255 for the other. The universal perturbation is found on 500 training images. `noise` adds
a random sign times eps to each pixel. Each row is kept in RUN as soon as it is there. Writes benchmarks/sanity.csv; a quarter of an hour on one core.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from wrnb.attacks import ATTACKS
from wrnb.core import pick_device, wilson
from wrnb.randomness import fold_in, image_keys, uniform
from wrnb.runs import in_parts, provenance
from wrnb.data import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model

STEPS, RESTARTS = (1, 2, 5, 10, 20, 50), (1, 2, 5, 10)


def noise(eps, seed):
    "As an attack is called, but it asks nothing"
    return lambda model, x, y, **_: (x + uniform(fold_in(image_keys(x, seed), "noise"), x.shape[1:], -1, 1).sign()*eps).clamp(0, 1)


def pgd(eps, **options): return ATTACKS["pgd"](eps, early_stop=True, **options)


def todo(models, levels, fit, n, few, seed):
    "(model asked, source, attack's name, eps, steps, restarts, images, a function that gives the attack)"
    for m, net in models.items():
        for e in levels:
            yield m, m, "noise", e, 0, 1, n, lambda: noise(e/255, seed)
            yield m, m, "fgsm", e, 1, 1, n, lambda: ATTACKS["fgsm"](e/255)
            yield m, m, "pgd", e, 10, 1, n, lambda: pgd(e/255)
            yield m, m, "uap", e, 5, 1, n, lambda: ATTACKS["uap"](e/255).fit(net, *fit, seed=seed)
    for m, e in zip(models, (1, 8)):
        for k in STEPS: yield m, m, "pgd", e, k, 1, few, lambda: pgd(e/255, steps=k)
        for r in RESTARTS: yield m, m, "pgd", e, 10, r, few, lambda: pgd(e/255, restarts=r)
        for source in models:
            for e in (1, 8): yield m, source, "pgd", e, 10, 1, few, lambda: ATTACKS["pgd"](e/255)


def measure(models, x, y, m, source, name, eps, steps, restarts, attack, seed):
    def ask(x): return torch.cat([models[m](b) for b in x.split(250)])
    adv = torch.cat([attack(models[source], *b, seed=seed) for b in zip(x.split(250), y.split(250))])
    with torch.no_grad(): clean, logits = ask(x), ask(adv)
    k, n, info = int((logits.argmax(1) != y).sum()), len(y), provenance(x.device); low, high = wilson(k/n, n)
    return pd.DataFrame([dict(model=m, source=source, attack=name, eps=float(eps), steps=steps, restarts=restarts, n=n, n_wrong=k, error=round(k/n, 6), low=round(float(low), 4),
                              high=round(float(high), 4), fooled=round((logits.argmax(1) != clean.argmax(1)).float().mean().item(), 6), loss=round(F.cross_entropy(logits, y).item(), 4),
                              clean_error=round((clean.argmax(1) != y).float().mean().item(), 6), weights=weights_hash(models[m]), seed=seed, device=info["device"], threads=info["threads"],
                              torch=info["versions"]["torch"], commit=info["commit"])])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--checkpoint", required=True); p.add_argument("--robust", required=True, type=Path); p.add_argument("--device", default="auto")
    p.add_argument("--n", type=int, default=1000); p.add_argument("--few", type=int, default=500); p.add_argument("--seed", type=int, default=0); p.add_argument("--threads", type=int, default=1)
    p.add_argument("--eps", type=float, nargs="+", default=[.5, 1, 2, 4, 8, 16, 32])
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    device = pick_device(a.device)
    train, test = load_data("cifar10", limit=500, test_limit=1000)
    fit, (x, y) = ((ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)) for ds in (train, test))
    files = dict(published=a.checkpoint, robust=a.robust/"adversarial/model.safetensors")
    models = {m: load_model(f"resnet20@{f}", 10).to(device, memory_format=torch.channels_last).eval() for m, f in files.items()}
    folder, rows = a.robust/"sanity"/"-".join(weights_hash(net) for net in models.values()), {}
    for *what, n, attack in todo(models, a.eps, fit, a.n, a.few, a.seed):
        key = "-".join(map(str, (*what, n, a.seed)))
        if key in rows: continue
        rows[key] = in_parts(folder, [key], lambda _: measure(models, x[::len(x)//n], y[::len(x)//n], *what, attack(), a.seed))
        print(key, rows[key].error[0], flush=True)
    df = pd.concat(rows.values())
    df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    curves = df[(df.restarts == 1) & (df.model == df.source) & (df.steps == df.attack.map(dict(noise=0, fgsm=1, pgd=10, uap=5)))].drop_duplicates(["model", "attack", "eps"])
    print((100*curves.pivot(index=["model", "attack"], columns="eps", values="error")).round(1).to_string())


if __name__ == "__main__": main()
