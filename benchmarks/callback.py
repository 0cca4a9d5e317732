"""What `RobustnessCallback` costs: the share of an epoch's time that it takes, in the epoch that it takes it from.

    python benchmarks/callback.py [--sizes 2000 5000 50000] [--epochs 2 2 1] [--budget 0.05] [--threads 1]

A ResNet-20 with fresh weights is trained on CIFAR-10 (all 10,000 test images to validate with)
with the callback as it is by default, for as many epochs as are given for each size. `share` is the
time of the measurement over the time of its epoch without it, both by the wall clock within one run,
so that a busy machine slows down both.
`setup_s` is what the plan and corrupting the images take, once; `share_all` is the time of
everything that the callback does over that of the training without it; `price_all` is what it
thinks a measurement of all images would add. The goal is 0.05 at most, for every size.
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


class PricedCallback(RobustnessCallback):
    "Remembers what all images would cost, and what was done before the first epoch"
    def before_fit(self):
        super().before_fit()
        self.early = self.prepared

    def _price(self):
        self.price = super()._price()
        return self.price


def rows_of(train, test, n_epoch, a, device):
    "A row for each epoch"
    torch.manual_seed(a.seed)
    net = PixelModel(MODELS["resnet20"](10), "cifar10").to(device, memory_format=torch.channels_last)
    dls = pixel_loaders(train, test, bs=128, device=device)
    clock, watch = ClockCallback(), PricedCallback(budget=a.budget)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=[clock, watch])
    learn.remove_cbs([c for c in learn.cbs if isinstance(c, ProgressCallback)])
    with learn.no_logging(): learn.fit(n_epoch, .01)
    clock.seconds[0] -= watch.prepared - watch.early
    measured = sum(row["seconds"] for row in watch.rows)
    training = sum(clock.seconds) - measured
    total = dict(setup_s=watch.prepared, share_all=(watch.prepared + measured)/training)
    for row in watch.rows:
        epoch_s = clock.seconds[row["epoch"]] - row["seconds"]
        price_all = watch.price.seconds(1, n_epoch)/epoch_s
        yield dict(n_train=len(train), epoch=row["epoch"], epoch_s=epoch_s, callback_s=row["seconds"],
                   share=row["seconds"]/epoch_s, **total, price_all=price_all,
                   corruption_error=row["corruption_error"], corruption_low=row["corruption_low"],
                   corruption_high=row["corruption_high"], per_cell=row["per_cell"], n_images=row["n_images"],
                   budget=a.budget, seed=a.seed, **origin("commit", "device", "threads", "torch", device=device))


def main():
    p = parser(__doc__)
    add_options(p, sizes=[2000, 5000, 50000], epochs=[2, 2, 1], budget=.05, threads=1, device="auto", seed=0,
                csv=HERE/"callback.csv")
    a = p.parse_args()
    device, rows = begin(a), []
    for n, n_epoch in zip(a.sizes, a.epochs, strict=True):
        rows += rows_of(*load_data("cifar10", limit=n), n_epoch, a, device)
        write_csv(pd.DataFrame(rows), a.csv, float_format="%.4g")
        show(pd.DataFrame(rows)[["n_train", "epoch", "per_cell", "epoch_s", "callback_s", "share", "share_all"]])


if __name__ == "__main__": main()
