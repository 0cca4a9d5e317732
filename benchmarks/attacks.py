"""PGD-10 on CIFAR-10 test images with ResNet-20: ours, ours with early stop, and torchattacks 3.3.0, in the same run.

    python benchmarks/attacks.py CHECKPOINT [--robust FILE] [--n 1000] [--eps 8] [--batch-size 100] [--repeats 3]
                                 [--threads 1]

CHECKPOINT is the published resnet20 of github.com/akamaster/pytorch_resnet_cifar10; the images
come from fastai's data folder (`untar_data(URLs.CIFAR)`). The three take turns at each batch; the
best of the repeats counts, by the wall clock (`speed`, 1 = torchattacks) and by processor time
(`cpu_speed`), which other work on the machine disturbs less. On an undefended model early stop has
little left to do after two or three steps; with `--robust FILE`, a checkpoint of a ResNet-20 that
was trained against PGD, that model is timed as well. Five minutes or so on one core, and as much
again for the robust model. Writes benchmarks/attacks.csv; the table of ratios comes last.
"""
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import torchattacks

from common import add_options, origin, parser, show, wait_for_gpu, write_csv
from wrnb.attacks import ATTACKS
from wrnb.core import pick_device
from wrnb.folders import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model


def timed(f, x, y):
    "What an attack gives, and its seconds by the clock and of the processor"
    wait_for_gpu()
    wall, cpu = time.perf_counter(), time.process_time()
    adv = f(x, y)
    wait_for_gpu()
    return adv, time.perf_counter() - wall, time.process_time() - cpu


def once(net, codes, batches):
    "Totals of each code, which take turns at each batch: seconds by the clock and of the processor, wrong images"
    total = {name: [0, 0, 0] for name in codes}
    for x, y in batches:
        for name, attack in codes.items():
            adv, wall, cpu = timed(attack, x, y)
            with torch.no_grad(): n_wrong = (net(adv).argmax(1) != y).sum().item()
            total[name] = [t + v for t, v in zip(total[name], (wall, cpu, n_wrong))]
    return total


def codes_for(net, eps, seed):
    "The three codes, each a function of images and labels; and the settings of ours"
    ours, early = ATTACKS["pgd"](eps), ATTACKS["pgd"](eps, early_stop=True)
    codes = {
        "torchattacks": torchattacks.PGD(net, eps, ours.alpha, ours.steps),
        "wrnb": lambda x, y: ours(net, x, y, seed),
        "wrnb, early stop": lambda x, y: early(net, x, y, seed)}
    return codes, ours


def measure(a, name, net, threads, batches, device):
    "One row per code"
    torch.set_num_threads(threads)
    torch.manual_seed(a.seed)
    n, (codes, ours) = sum(len(y) for _, y in batches), codes_for(net, a.eps/255, a.seed)
    once(net, codes, batches[:1])  # warm up
    runs = [once(net, codes, batches) for _ in range(a.repeats)]
    wall, cpu = ({code: min(r[code][i] for r in runs) for code in codes} for i in (0, 1))
    about = dict(attack=f"PGD-{ours.steps}", model=name, weights=weights_hash(net))
    setting = dict(eps=a.eps, n=n, batch_size=a.batch_size, threads=threads)
    ends = dict(seed=a.seed, repeats=a.repeats, **origin("device", "torch", device=device),
                torchattacks=version("torchattacks"), **origin("commit"))
    for code in codes:
        yield dict(
            **about, code=code, **setting,
            seconds=round(wall[code], 3),
            cpu_seconds=round(cpu[code], 3),
            images_per_second=round(n/wall[code], 1),
            error=runs[0][code][2]/n,
            speed=round(wall["torchattacks"]/wall[code], 3),
            cpu_speed=round(cpu["torchattacks"]/cpu[code], 3),
            **ends)


def main():
    p = parser(__doc__)
    p.add_argument("checkpoint")
    p.add_argument("--robust")
    add_options(p, n=1000, eps=8, batch_size=100, repeats=3, seed=0, threads=[1], device="auto",
                csv=Path(__file__).with_suffix(".csv"))
    a = p.parse_args()
    device = pick_device(a.device)
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    x, y = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    batches = list(zip(x.split(a.batch_size), y.split(a.batch_size)))
    files = dict(published=a.checkpoint)
    if a.robust: files["robust"] = a.robust
    models = {name: load_model(f"resnet20@{file}", 10).to(device).eval() for name, file in files.items()}
    rows = [row for name, net in models.items() for t in a.threads for row in measure(a, name, net, t, batches, device)]
    df = pd.DataFrame(rows)
    write_csv(df, a.csv)
    show(df["model threads code n seconds cpu_seconds images_per_second error speed cpu_speed".split()])


if __name__ == "__main__": main()
