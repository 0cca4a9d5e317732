"""What `RobustnessCallback` costs: the share of an epoch's time that it takes, in the epoch that it takes it from.

    python benchmarks/callback.py [--sizes 50000] [--epochs 1] [--per-cell 20] [--threads 1] [--device auto] [--seed 0]

A ResNet-20 with fresh weights is trained on CIFAR-10 (all 10,000 test images to validate with)
with the callback as it is by default. `share` is the time of the measurement over the time of its
epoch without it, both by the wall clock within one run, so that a busy machine slows down both;
`setup_s` is what corrupting the images takes, once. The goal is a share of 0.05 at most with all
50,000 training images; smaller sets show how it grows.
"""
from time import perf_counter

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from common import HERE, add_options, begin, origin, parser, show, write_csv
from wrnb.folders import load_data
from wrnb.loaders import pixel_loaders
from wrnb.models import PixelModel
from wrnb.monitoring import RobustnessCallback
from wrnb.networks import MODELS


class ClockCallback(Callback):
    "Seconds of each epoch, from its first batch to its end"
    order = 80
    def before_fit(self): self.seconds = []
    def before_epoch(self): self.start = perf_counter()
    def after_epoch(self): self.seconds.append(perf_counter() - self.start)


def rows_of(train, test, a, device):
    "A row for each epoch"
    torch.manual_seed(a.seed)
    net = PixelModel(MODELS["resnet20"](10), "cifar10").to(device, memory_format=torch.channels_last)
    dls = pixel_loaders(train, test, bs=128, device=device)
    clock, watch = ClockCallback(), RobustnessCallback(per_cell=a.per_cell)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=[clock, watch])
    learn.remove_cbs([c for c in learn.cbs if isinstance(c, ProgressCallback)])
    with learn.no_logging(): learn.fit(a.epochs, .01)
    for row, seconds in zip(watch.rows, clock.seconds):
        training = seconds - row["seconds"]
        yield dict(n_train=len(train), epoch=row["epoch"], epoch_s=training, callback_s=row["seconds"],
                   share=row["seconds"]/training, setup_s=watch.prepared, corruption_error=row["corruption_error"],
                   corruption_low=row["corruption_low"], corruption_high=row["corruption_high"],
                   per_cell=a.per_cell, seed=a.seed, **origin("commit", "device", "threads", "torch", device=device))


def main():
    p = parser(__doc__)
    add_options(p, sizes=[50000], epochs=1, per_cell=20, threads=1, device="auto", seed=0, csv=HERE/"callback.csv")
    a = p.parse_args()
    device, rows = begin(a), []
    for n in a.sizes:
        rows += rows_of(*load_data("cifar10", limit=n), a, device)
        write_csv(pd.DataFrame(rows), a.csv, float_format="%.4g")
        show(pd.DataFrame(rows)[["n_train", "epoch", "epoch_s", "callback_s", "share", "setup_s"]])


if __name__ == "__main__": main()
