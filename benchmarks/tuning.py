"""What guided.py and recipe.py share: bases, fine-tunings, and what is measured of them."""
import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.torch_core import set_seed

import wrnb.weak  # gives `Scores` its methods
from common import origin, write_csv
from wrnb.attacks import ATTACKS
from wrnb.augmentation import random_crop, random_flip
from wrnb.corruptions import corruptions
from wrnb.enhancement import enhance, equal_epochs, passes
from wrnb.folders import load_data
from wrnb.image_sets import limited, subset
from wrnb.measurement import Clean, wrong_under
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness
from wrnb.terms import TermsCallback
from wrnb.training import train
from wrnb.validation import all_perturbations, validate

CLASSES = dict(digits=10, cifar10=10, cifar100=100)
BASES = dict(  # name: data, model with its file in --models, radius of the neighbours, radius of attacks in grey levels
    digits_net=("digits", "digits_net", .3, 8),
    resnet20=("cifar10", "resnet20@resnet20-cifar10.th", .05, 2),
    pgd=("cifar10", "resnet20@cifar10-resnet20-pgd.pth", .05, 2),
    cifar100=("cifar100", "resnet20@cifar100-resnet20.pth", .05, 2))


def measured_kinds(severities):
    "Clean, the 15 corruptions, the four extra ones, and C-bar"
    sets = [corruptions(severities=severities, **which) for which in ({}, dict(extra=True), dict(bar=True))]
    return [Clean(), *sum(sets, [])]


@dataclass
class Base:
    "A base, its images, and what validation found"
    name:str # a key of `BASES`
    a:object # the options

    def __post_init__(self):
        self.data, self.model, self.radius, self.eps = BASES[self.name]
        self.train, self.test = load_data(self.data, limit=self.a.limit, test_limit=self.a.test_limit)

    @cached_property
    def net(self):
        arch, _, file = self.model.partition("@")
        if file: return load_model(f"{arch}@{Path(self.a.models)/file}", CLASSES[self.data]).eval()
        set_seed(0)
        cbs = [TermsCallback(transforms=[random_crop])]
        how = dict(epochs=15, lr=.2, bs=64, cbs=cbs, device=self.a.device)
        return train(load_model(arch, CLASSES[self.data]), self.train, self.test, **how).model.eval()

    @cached_property
    def weak(self):
        "Indices of the weakest images among at most 5,000, which are a tenth of them"
        few = limited(self.train, 5000, seed=1)
        scores = score_robustness(self.net, few, eps=self.radius, n_neighbors=20, device=self.a.device)
        number = {image: i for i, image in enumerate(self.train.ids)}
        return np.array([number[few.ids[i]] for i in scores.weakest(max(1, len(few)//10))])

    @cached_property
    def found(self):
        kinds = all_perturbations(attack_names=())
        return validate(self.net, self.weak, self.train, self.test, perturbations=kinds, device=self.a.device)

    def tuned(self, strategy, seed, out, ds=None, **more):
        "The Learner after a fine-tuning at equal passes"
        transforms = [random_crop] if self.data == "digits" else [random_crop, random_flip]
        how = dict(lr=self.a.lr, bs=64 if self.data == "digits" else 128, eps=self.eps/255, transforms=transforms)
        epochs = equal_epochs(strategy, self.a.epochs)
        ds = self.train if ds is None else ds
        return enhance(self.net, self.found, strategy, ds, self.test, epochs=epochs, seed=seed, out=out,
                       device=self.a.device, precision=self.a.precision, **how, **more)

    def rows(self, net):
        "The errors of a model: clean, corruptions, C-bar, and PGD-10 on itself"
        attack, few = ATTACKS["pgd"](self.eps/255), limited(self.test, 500)
        how = dict(batch_size=500, device=self.a.device)
        cells = [(p, wrong_under(p, {"": net}, self.test, **how)[""]) for p in measured_kinds(self.a.severities)]
        cells.append((attack, wrong_under(attack, {"": net}, few, attacked=net, **how)[""]))
        return pd.DataFrame([dict(family=p.family, perturbation=p.name, severity=p.severity, n=len(w),
                                  n_wrong=int(w.sum())) for p, w in cells])


def half_weak(base):
    "As many images as there are: half of them the weakest, again and again, half of them random"
    n, rng = len(base.train), np.random.default_rng(0)
    weak = np.resize(base.weak, n//2)
    return subset(base.train, np.concatenate([weak, rng.choice(n, n - n//2, replace=False)]))


def is_measured(csv, **key):
    "Does the CSV have rows with these values?"
    if not csv.is_file(): return False
    t = pd.read_csv(csv)
    return bool(np.logical_and.reduce([t[name] == value for name, value in key.items()]).any())


def measure(base, csv, case, seed, strategy, out, **more):
    "Fine-tune one case, and write what became of it"
    limit, epochs = len(base.train), base.a.epochs
    key = dict(base=base.name, case=case, seed=seed, n_train=limit, epochs=epochs, n_test=len(base.test))
    if is_measured(csv, **key): return
    if strategy == "base": net, alpha, cost = base.net, 0., 0.
    else:
        learn = base.tuned(strategy, seed, out, **more)
        net, alpha = copy.deepcopy(learn.model).eval(), learn.alpha
        cost = passes(strategy, more.get("attack_share", .1))*equal_epochs(strategy, epochs)
    rows = base.rows(net.to(base.a.device))
    about = key | dict(alpha=alpha, passes=cost, **origin("commit", "device", "threads", device=base.a.device))
    write_csv(rows.assign(**about), csv, mode="a", header=not csv.is_file())
    print(base.name, case, seed, "alpha", alpha, *(f"{k} {v:.1f}" for k, v in figures(rows).items()), flush=True)


EXTRA = {k.name for k in corruptions(extra=True)}


def figures(rows):
    "The figures of one model in percent"
    t = rows.assign(error=100*rows.n_wrong/rows.n)
    types = t[~t.family.isin(["clean", "c-bar", "attack"]) & ~t.perturbation.isin(EXTRA)]
    types = types.groupby("perturbation").error.mean()
    part = {name: t.error[t.family == family].mean() for name, family in
            (("clean", "clean"), ("c_bar", "c-bar"), ("pgd", "attack"))}
    return dict(clean=part["clean"], the15=types.mean(), worst_three=types.nlargest(3).mean(),
                c_bar=part["c_bar"], pgd=part["pgd"])


def summary(csv):
    "The figures of each base, case and seed, and their means over the seeds"
    t = pd.read_csv(csv)
    by = ["base", "case", "seed", "alpha", "passes"]
    one = pd.DataFrame([dict(zip(by, key)) | figures(rows) for key, rows in t.groupby(by, sort=False)])
    return one.drop(columns="seed").groupby(["base", "case"], sort=False).mean().round(2)
