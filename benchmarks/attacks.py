"""PGD-10 on CIFAR-10 test images with ResNet-20: ours, ours with early stop, and torchattacks 3.3.0, in the same run.

    python benchmarks/attacks.py CHECKPOINT [--n 1000] [--eps 8] [--batch-size 100] [--repeats 3] [--threads 1 2] [--device auto]

CHECKPOINT is the published resnet20 of github.com/akamaster/pytorch_resnet_cifar10; the images come from fastai's data folder
(`untar_data(URLs.CIFAR)`). The three take turns at each batch; the best of the repeats counts, by the wall clock (`speed`, 1 = torchattacks)
and by processor time (`cpu_speed`), which other work on the machine disturbs less. On an undefended model early stop has little left to do after two
or three steps; with `--robust RUN`, the folder of benchmarks/autoattack.py, the model trained against PGD is timed as well. Five minutes or so on one
core, and as much again for the robust model. Writes benchmarks/attacks.csv; the table of ratios comes last.
"""
import argparse, time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import torchattacks

from wrnb.attacks import ATTACKS
from wrnb.core import pick_device
from wrnb.runs import provenance
from wrnb.data import load_data
from wrnb.models import weights_hash
from wrnb.pretrained import load_model


def timed(f, x, y):
    if x.is_cuda: torch.cuda.synchronize()
    start = time.perf_counter(), time.process_time()
    adv = f(x, y)
    if x.is_cuda: torch.cuda.synchronize()
    return adv, time.perf_counter() - start[0], time.process_time() - start[1]


def once(net, todo, batches):
    "Seconds by the clock and of the processor, and the share of images wrong, of each code, which take turns at each batch"
    total = {k: [0, 0, 0] for k in todo}
    for x, y in batches:
        for k, f in todo.items():
            adv, wall, cpu = timed(f, x, y)
            with torch.no_grad(): n_wrong = (net(adv).argmax(1) != y).sum().item()
            total[k] = [t + v for t, v in zip(total[k], (wall, cpu, n_wrong))]
    return total


def measure(a, name, net, threads, batches, device):
    torch.set_num_threads(threads); torch.manual_seed(a.seed)
    eps, n = a.eps/255, sum(len(y) for _, y in batches)
    ours, early = ATTACKS["pgd"](eps), ATTACKS["pgd"](eps, early_stop=True)
    todo = {"torchattacks": torchattacks.PGD(net, eps, ours.alpha, ours.steps), "wrnb": lambda x, y: ours(net, x, y, a.seed), "wrnb, early stop": lambda x, y: early(net, x, y, a.seed)}
    once(net, todo, batches[:1])  # warm up
    runs = [once(net, todo, batches) for _ in range(a.repeats)]
    wall, cpu = ({k: min(r[k][i] for r in runs) for k in todo} for i in (0, 1))
    info = provenance(device)
    return [dict(attack=f"PGD-{ours.steps}", model=name, weights=weights_hash(net), code=k, eps=a.eps, n=n, batch_size=a.batch_size, threads=threads, seconds=round(wall[k], 3),
                 cpu_seconds=round(cpu[k], 3), images_per_second=round(n/wall[k], 1), error=runs[0][k][2]/n, speed=round(wall["torchattacks"]/wall[k], 3),
                 cpu_speed=round(cpu["torchattacks"]/cpu[k], 3), seed=a.seed, repeats=a.repeats, device=info["device"], torch=info["versions"]["torch"],
                 torchattacks=version("torchattacks"), commit=info["commit"]) for k in todo]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint")
    for name, default in dict(n=1000, eps=8, batch_size=100, repeats=3, seed=0).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--robust", type=Path); p.add_argument("--device", default="auto")
    a = p.parse_args()
    device = pick_device(a.device)
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    x, y = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    batches = list(zip(x.split(a.batch_size), y.split(a.batch_size)))
    models = dict(published=load_model(f"resnet20@{a.checkpoint}", 10))
    if a.robust: models["robust"] = load_model(f"resnet20@{a.robust}/adversarial/model.safetensors", 10)
    df = pd.DataFrame([row for name, net in models.items() for t in a.threads for row in measure(a, name, net.to(device).eval(), t, batches, device)])
    df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    print(df[["model", "threads", "code", "n", "seconds", "cpu_seconds", "images_per_second", "error", "speed", "cpu_speed"]].to_string(index=False))


if __name__ == "__main__": main()
