"""What guided.py and recipe.py share: bases, fine-tunings, and what is measured of them."""
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.torch_core import set_seed

import wrnb.weak  # gives `Scores` its methods
from common import DATA, add_options, begin, origin, parser, write_csv
from wrnb.augmentation import random_crop, random_flip
from wrnb.averaging import interpolate
from wrnb.benchmark import evaluate
from wrnb.differences import pool
from wrnb.enhancement import enhance, equal_epochs, passes
from wrnb.folders import load_data
from wrnb.gains import probes_per_image
from wrnb.guidance import guidance
from wrnb.image_sets import limited, subset
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness
from wrnb.setup import Setup
from wrnb.step_back import choose_alpha, how_to_choose, set_apart
from wrnb.terms import TermsCallback
from wrnb.training import train
from wrnb.validation import all_perturbations, validate


# --- bases ----------------------------------------------------------------------------------------

@dataclass
class Source:
    "Where a base comes from, and how it is trained further"
    data:str # as `load_data` takes it
    classes:int # number of classes
    model:str # a name, with the file in --models that has its weights
    radius:float=.05 # of the neighbours, in [0,1] pixel units
    eps:float=2. # radius of the attacks, in grey levels
    bs:int=128 # images per step
    lr:float=.02 # peak learning rate
    select:float=.5 # share of the test images that the step back is chosen by; the others are reported
    transforms:tuple=(random_crop, random_flip)
    stats:str=None # name in `STATS` of the publisher's mean and deviation; None: the architecture's


BASES = dict(
    digits_net=Source("digits", 10, "digits_net", radius=.3, eps=8., bs=64, select=0.,
                      transforms=(random_crop,)),
    resnet20=Source("cifar10", 10, "resnet20@resnet20-cifar10.th"),
    resnet20_b=Source("cifar10", 10, "resnet20@cifar10-resnet20-b.pth", stats="cifar10_per_image"),
    pgd=Source("cifar10", 10, "resnet20@cifar10-resnet20-pgd.pth"),
    cifar100=Source(str(DATA/"cifar100-sample"), 100, "resnet20@cifar100-resnet20.pth",
                    stats="cifar100"),
    cifar100_56=Source(str(DATA/"cifar100-sample"), 100, "resnet56@cifar100-resnet56.pth",
                       stats="cifar100"),
    lite0=Source(str(DATA/"imagenette-sample"), 10, "efficientnet_lite0"))


@dataclass
class Base:
    "A base, its images, and what validation found"
    name:str # a key of `BASES`
    a:object # the options

    def __post_init__(self):
        self.source = BASES[self.name]
        s, a = self.source, self.a
        self.train, test = load_data(s.data, limit=a.limit, test_limit=a.test_limit)
        setup = Setup(s.data, s.model, select=int(s.select*len(test)) or None)
        self.select, self.test = setup.laid_aside(test)

    @cached_property
    def net(self):
        arch, _, file = self.source.model.partition("@")
        if file: return self.published(arch, file)
        if self.name == "lite0": return load_model(arch, classes=self.train.classes).eval()
        set_seed(0)
        cbs = [TermsCallback(transforms=[random_crop])]
        how = dict(epochs=15, lr=.2, bs=64, cbs=cbs, device=self.a.device)
        new = load_model(arch, self.source.classes)
        return train(new, self.train, self.test, **how).model.eval()

    def published(self, arch, file):
        "The checkpoint with the mean and deviation that its publisher trained with"
        name, stats = f"{arch}@{Path(self.a.models)/file}", self.source.stats
        return load_model(name, self.source.classes, mean=stats, std=stats).eval()

    @cached_property
    def weak(self):
        "Indices of the weakest images among at most 5,000, which are a tenth of them"
        few = limited(self.train, 5000, seed=1)
        how = dict(eps=self.source.radius, n_neighbors=self.a.neighbors, device=self.a.device)
        scores = score_robustness(self.net, few, **how)
        number = {image: i for i, image in enumerate(self.train.ids)}
        return np.array([number[few.ids[i]] for i in scores.weakest(max(1, len(few)//10))])

    @cached_property
    def found(self):
        "The errors on weak and on random training images; a few test images will do: they don't guide"
        how = dict(perturbations=all_perturbations(attack_names=()), device=self.a.device)
        return validate(self.net, self.weak, self.train, limited(self.test, 100), **how)

    def tuned(self, strategy, seed, out, ds=None, **more):
        "The model after a fine-tuning at equal passes, before the step back"
        s, a = self.source, self.a
        learn = enhance(
            self.net, self.found, strategy, self.train if ds is None else ds, limited(self.test, 500),
            epochs=equal_epochs(strategy, a.epochs), select=self.select, transforms=list(s.transforms),
            lr=s.lr, bs=s.bs, eps=s.eps/255, seed=seed, out=out, device=a.device,
            precision=a.precision, alpha=1., **more)
        return learn.model.eval()

    def step(self, tuned, strategy, seed, ds=None, protocol="all"):
        "The step back that `enhance` would choose"
        _, apart = set_apart(self.train if ds is None else ds, self.select, seed)
        how = how_to_choose(strategy, protocol, unseen=self.select is not None)
        return choose_alpha(self.net, tuned, apart, device=self.a.device, **how)


def half_weak(base):
    "As many images as there are: half of them the weakest, again and again, half of them random"
    n, rng = len(base.train), np.random.default_rng(0)
    weak = np.resize(base.weak, n//2)
    return subset(base.train, np.concatenate([weak, rng.choice(n, n - n//2, replace=False)]))


# --- what is measured -----------------------------------------------------------------------------

def evaluated(base, nets, out):
    "Every model on the same test images: the 15 corruptions with PGD-10, and C-bar"
    a = base.a
    how = dict(per_cell=a.per_cell, severities=a.severities, device=a.device, batch_size=500)
    attack = dict(attack_names=("pgd",), eps=base.source.eps/255)
    bar = dict(attack_names=(), families="c-bar")
    return (evaluate(nets, base.test, out=out and out/"fifteen", **attack, **how),
            evaluate(nets, base.test, out=out and out/"c_bar", **bar, **how))


def cost(base, strategy, more):
    "Passes per image, those of the guide's probes among them"
    own = passes(strategy, more.get("attack_share", .1))*equal_epochs(strategy, base.a.epochs)
    if more.get("guide") != "gain": return own
    kinds, _ = guidance(None, more.get("protocol", "all"), guide="gain")
    return own + probes_per_image(kinds, len(base.train), base.a.epochs)


WHOLE_STEP = ", alpha 1"  # the end of a case's name: the same training, without the step back


def kept_name(base, training, seed):
    "The run folder of a training within --keep"
    return f"{base.name}-{training.replace(', ', '-').replace(' ', '_')}-{seed}"


def with_seed(base, cases, seed, keep):
    "The base and its fine-tuned copies of one seed: what each cost, and their two evaluations"
    nets, about, whole = {"base": base.net}, {}, {}
    for case, (strategy, more) in cases.items():
        if case == "half weak": more = dict(ds=half_weak(base))
        training = case.removesuffix(WHOLE_STEP)
        out = keep and keep/kept_name(base, training, seed)
        if training not in whole: whole[training] = base.tuned(strategy, seed, out, **more)
        about_step = {name: more[name] for name in ("ds", "protocol") if name in more}
        alpha = 1. if training != case else base.step(whole[training], strategy, seed, **about_step)
        nets[case] = interpolate(base.net, whole[training], alpha)
        about[case] = dict(alpha=alpha, passes=cost(base, strategy, more))
        print(base.name, case, seed, about[case], flush=True)
    name = f"{base.name}-evaluation-{'-'.join(cases)[:40]}-{seed}"
    return about, evaluated(base, nets, keep and keep/name)


FIGURES = [  # name in the table, which evaluation, its figure
    ("clean", 0, "clean"), ("the 15", 0, "corruption_error"), ("worst three", 0, "worst_three"),
    ("C-bar", 1, "corruption_error"), ("PGD", 0, "pgd")]


def for_images_like_these(evaluation):
    "The same, with intervals for images like these; all images have a clean answer, so for the set it is exact"
    return replace(evaluation, outcomes=replace(evaluation.outcomes, per_cell=None))


def pooled(seeds, case, against=None):
    "The figures of a case over the seeds, or its paired differences to another: percent or points"
    for name, which, what in FIGURES:
        own = [evaluations[which] for _, evaluations in seeds]
        pairs = pool([*map(for_images_like_these, own)] if what == "clean" else own)
        if what == "pgd": what = f"pgd {pairs.evaluations[0].attack_settings[0]['severity']:g}/255"
        e = pairs.difference(case, against, what) if against else pairs.estimate(case, what)
        yield dict(figure=name, value=100*e.value, low=100*e.low, high=100*e.high, seeds=len(seeds),
                   n_images=e.n_images)


def others_of(case, against, cases):
    "What a case is compared with: nothing, the base, `against`, and, without a step back, its like"
    its_like = against + WHOLE_STEP if case.endswith(WHOLE_STEP) else against
    named = [other for other in (against, its_like) if other in cases]
    return [other for other in dict.fromkeys((None, "base", *named)) if other != case]


def figures(base, seeds, against):
    "A row per case and figure, as it is and as differences to the base and to the case `against`"
    cases = "base", *seeds[0][0]
    for case in cases:
        about = pd.DataFrame([own[case] for own, _ in seeds if case in own])
        costs = dict(alpha=about.alpha.mean(), passes=about.passes.mean()) if len(about) else {}
        for other in others_of(case, against, cases):
            for row in pooled(seeds, case, other):
                yield dict(case=case, against=other or "") | row | costs


def rows_of(numbers, seeds):
    "The errors of each seed's models, a row per perturbation and severity"
    for seed, (_, evaluations) in zip(numbers, seeds):
        for e in evaluations: yield e.table.drop(columns=["subset", "low", "high"]).assign(seed=seed)


def study(name, cases, a, against, csv):
    "Fine-tune a base in all the ways, measure, and put its rows into the tables in place of old ones"
    base = Base(name, a)
    sizes = dict(n_train=len(base.train), n_test=len(base.test), epochs=a.epochs, per_cell=a.per_cell,
                 precision=a.precision)
    seeds = []
    for seed in a.seeds:
        seeds.append(with_seed(base, cases, seed, a.keep))
        where = origin("commit", "device", "threads", "torch", device=a.device)
        about = dict(base=name) | sizes | where
        put(pd.DataFrame(figures(base, seeds, against)).assign(**about), csv, name, "case")
        put(pd.concat(rows_of(a.seeds, seeds)).assign(base=name, **where), cells_csv(csv), name, "model")


def cells_csv(csv): return csv.with_name(f"{csv.stem}_cells.csv")


def put(rows, csv, base, case):
    "Write the rows of a base's cases in place of the old ones"
    if csv.is_file():
        old = pd.read_csv(csv, keep_default_na=False)
        again = (old.base == base) & old[case].isin(rows[case])
        rows = pd.concat([old[~again], rows])[list(rows.columns)]
    write_csv(rows, csv, float_format="%.6g")


def show_figures(csv):
    "The table as people read it"
    t = pd.read_csv(csv, keep_default_na=False)
    text = [f"{r.value:.1f} ({r.low:.1f} to {r.high:.1f})" for r in t.itertuples()]
    order = [name for name, _, _ in FIGURES]
    rows = dict(index=["base", "case", "against"], columns="figure", values="text", sort=False)
    t = t.assign(text=text).pivot_table(aggfunc="first", **rows)
    print(t[order].to_string())


def options(doc, csv, cases):
    "The options of both scripts, after what they share is set"
    p = parser(doc)
    p.add_argument("--bases", nargs="+", choices=BASES, default=["digits_net"])
    p.add_argument("--only", nargs="+", default=list(cases))
    for name in ("limit", "test-limit", "per-cell"): p.add_argument(f"--{name}", type=int)
    p.add_argument("--keep", type=Path)
    p.add_argument("--protocol", default="all")
    add_options(p, csv=csv, models=".", epochs=5, neighbors=20, threads=1, precision="fp32",
                seeds=[0, 1, 2], severities=[1, 2, 3, 4, 5], device="cpu")
    a = p.parse_args()
    a.device = begin(a)
    return a
