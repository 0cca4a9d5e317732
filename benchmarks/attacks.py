"""PGD-10 on CIFAR-10 test images with ResNet-20: ours, ours with early stop, and torchattacks 3.3.0, in the same run.

    python benchmarks/attacks.py CHECKPOINT [--n 1000] [--eps 8] [--batch-size 100] [--repeats 3] [--threads 1] [--device auto]

CHECKPOINT is the published resnet20 of github.com/akamaster/pytorch_resnet_cifar10; the images come from fastai's data folder
(`untar_data(URLs.CIFAR)`). The three take turns at each batch; the best of the repeats counts, by the wall clock (`speed`, 1 = torchattacks)
and by processor time (`cpu_speed`), which other work on the machine disturbs less. Writes benchmarks/attacks.csv.
"""
import argparse, time
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import torchattacks

from wrnb.attacks import ATTACKS
from wrnb.core import pick_device, provenance
from wrnb.data import load_data
from wrnb.models import load_model


def timed(f, x, y, device):
    start = time.perf_counter(), time.process_time()
    adv = f(x, y)
    if device.type == "cuda": torch.cuda.synchronize()
    return adv, time.perf_counter() - start[0], time.process_time() - start[1]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint")
    for name, default in dict(n=1000, eps=8, batch_size=100, repeats=3, threads=1, seed=0).items():
        p.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    p.add_argument("--device", default="auto")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    device, eps = pick_device(a.device), a.eps/255
    _, ds = load_data("cifar10", limit=10, test_limit=a.n)
    net = load_model(f"resnet20@{a.checkpoint}", 10).to(device)
    x, y = ds.pixels(range(len(ds))).to(device), torch.as_tensor(ds.labels).to(device)
    batches = list(zip(x.split(a.batch_size), y.split(a.batch_size)))
    ours, early = ATTACKS["pgd"](eps), ATTACKS["pgd"](eps, early_stop=True)
    peer = torchattacks.PGD(net, eps, ours.alpha, ours.steps)
    todo = {"torchattacks": peer, "wrnb": lambda x, y: ours(net, x, y, a.seed), "wrnb, early stop": lambda x, y: early(net, x, y, a.seed)}
    for f in todo.values(): f(*batches[0])  # warm up
    wall, cpu, errors = ({k: [] for k in todo} for _ in range(3))
    for _ in range(a.repeats):
        total = {k: [0, 0, 0] for k in todo}
        torch.manual_seed(a.seed)
        for xb, yb in batches:
            for k, f in todo.items():
                adv, w, c = timed(f, xb, yb, device)
                with torch.no_grad(): n_wrong = (net(adv).argmax(1) != yb).sum().item()
                total[k] = [t + v for t, v in zip(total[k], (w, c, n_wrong))]
        for k, (w, c, n_wrong) in total.items(): wall[k].append(w); cpu[k].append(c); errors[k].append(n_wrong/len(x))
    wall, cpu = ({k: min(v) for k, v in d.items()} for d in (wall, cpu))
    info = provenance(device)
    df = pd.DataFrame([dict(attack=f"PGD-{ours.steps}", code=k, eps=a.eps, n=len(x), batch_size=a.batch_size, seconds=round(wall[k], 3), cpu_seconds=round(cpu[k], 3),
        images_per_second=round(len(x)/wall[k], 1), error=errors[k][0], speed=round(wall["torchattacks"]/wall[k], 3), cpu_speed=round(cpu["torchattacks"]/cpu[k], 3), seed=a.seed, repeats=a.repeats,
        device=info["device"], threads=a.threads, torch=info["versions"]["torch"], torchattacks=version("torchattacks"), commit=info["commit"]) for k in todo])
    df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    print(df[["code", "n", "seconds", "cpu_seconds", "images_per_second", "error", "speed", "cpu_speed"]].to_string(index=False))


if __name__ == "__main__": main()
