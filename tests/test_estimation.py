"""Are the intervals right? Figures from dealt images against those of a real network's outcomes on all of them.

tests/data/outcomes.npz: which of 2,000 test images of CIFAR-10 (200 per class, drawn with seed 0) the published
ResNet-20 of chenyaofo got wrong under 15 corruptions at five severities, packed as bits; its clean margins and
confidences. benchmarks/evidence.py does the same with all 10,000 images and more models.
"""
from pathlib import Path

import numpy as np
import pytest

from wrnb.estimation import Dealer, Pairs, design, figure, ratio

DATA = np.load(Path(__file__).parent/"data"/"outcomes.npz")
LABELS = DATA["labels"].astype(int)
N = len(LABELS)
WRONG = np.unpackbits(DATA["wrong"], axis=1)[:, :N].T.astype(float)  # [N, 75]
C = WRONG.shape[1]
KNOWN = np.column_stack([DATA["margins"], DATA["margins"] > 0, DATA["confidences"]]).astype(float)
NOISE = np.array(["noise" in name for name in DATA["names"]])
EVEN = np.full(C, 1/C)
FIGURES = dict(mean=EVEN, family=NOISE/NOISE.sum())
DEALS = 300  # per number of images
SIMULATION = 2.5*(.95*.05/DEALS)**.5  # what a share of so many may be off by


def another_model():
    "Outcomes of a better model on the same images: a third of the errors mended, two in a hundred answers spoilt"
    rng = np.random.default_rng(1)
    mended, spoilt = rng.random((N, C)) < .33, rng.random((N, C)) < .02
    return np.where(WRONG == 1, ~mended, spoilt).astype(float)


OTHER = another_model()


def dealt(n, seed, kind="spread"):
    "Cell and image of each pair, for n images per cell"
    cells = design(LABELS, C, n, kind, seed)
    return np.repeat(np.arange(C), n), np.concatenate(cells)


def pairs(outcomes, cell, image, known=None): return Pairs(outcomes[image, cell], cell, image, LABELS, known)


def share_inside(estimates, truth): return np.mean([e.low <= truth <= e.high for e in estimates])


def check(estimates, truth, least=.93, most=.97):
    "The share of the intervals that hold the truth is between 93 and 97 %, and the estimates are right on average"
    inside, off = share_inside(estimates, truth), np.array([e.value for e in estimates]) - truth
    assert least - SIMULATION <= inside <= most + SIMULATION, f"{inside:.3f} of the intervals hold the truth"
    assert abs(off.mean()) < 4*off.std()/len(off)**.5, f"off by {100*off.mean():.3f} points on average"


@pytest.mark.parametrize("n", [20, 50, 100, 300])
def test_95_of_100_intervals_hold_the_truth(n):
    found = {name: [] for name in (*FIGURES, "difference")}
    for seed in range(DEALS):
        cell, image = dealt(n, seed)
        one = pairs(WRONG, cell, image)
        for name, weight in FIGURES.items(): found[name].append(figure(one, weight))
        found["difference"].append(figure(pairs(OTHER - WRONG, cell, image)))
    for name, weight in FIGURES.items(): check(found[name], (WRONG.mean(0)*weight).sum())
    check(found["difference"], OTHER.mean() - WRONG.mean())


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("n", [20, 100])
def test_adjusted_intervals_hold_the_truth_and_are_narrower(n, name):
    plain, adjusted, weight = [], [], FIGURES[name]
    for seed in range(DEALS//2):
        cell, image = dealt(n, seed)
        plain.append(figure(pairs(WRONG, cell, image), weight))
        adjusted.append(figure(pairs(WRONG, cell, image, KNOWN), weight))
    check(adjusted, (WRONG.mean(0)*weight).sum(), least=.93 - SIMULATION*.4, most=.97 + SIMULATION*.4)
    wider = np.mean([a.se > p.se for a, p in zip(adjusted, plain)])
    assert wider <= .05, f"adjusted is wider in {wider:.1%} of the cases"


def test_the_same_images_in_all_cells_say_less():
    spread, same = ([figure(pairs(WRONG, *dealt(100, s, kind))) for s in range(100)] for kind in ("spread", "same"))
    check(same, WRONG.mean(), least=.93 - SIMULATION, most=.97 + SIMULATION)
    half_width = [np.mean([e.high - e.low for e in found])/2 for found in (spread, same)]
    assert half_width[1] > 3*half_width[0]


def test_a_paired_ratio_holds_the_truth():
    truth = OTHER.mean()/WRONG.mean()
    found = []
    for seed in range(DEALS//2):
        cell, image = dealt(50, seed)
        found.append(ratio(pairs(OTHER, cell, image), pairs(WRONG, cell, image)))
    check(found, truth, least=.93 - SIMULATION*.4, most=.97 + SIMULATION*.4)


def test_a_mean_of_paired_ratios_holds_the_truth_and_one_ratio_is_a_mean_of_one():
    groups = np.kron(np.eye(15), np.full(5, 1/5))  # a row of weights for each corruption
    truth = np.mean([(OTHER.mean(0)*w).sum()/(WRONG.mean(0)*w).sum() for w in groups])
    found = []
    for seed in range(DEALS//2):
        two = [pairs(y, *dealt(50, seed)) for y in (OTHER, WRONG)]
        found.append(ratio(*two, groups))
    check(found, truth, least=.93 - SIMULATION*.4, most=.97 + SIMULATION*.4)
    assert ratio(*two, groups[:1]) == ratio(*two, groups[0])


def until(half_width, seed):
    "The estimate of the first round that is narrow enough, with 20, 40, 80, ... images per cell"
    dealer, n = Dealer(LABELS, C, "spread", seed), 20
    while True:
        dealer.deal(n)
        cell = np.repeat(np.arange(C), [len(had) for had in dealer.had])
        e = figure(pairs(WRONG, cell, np.concatenate(dealer.had)))
        if e.high - e.low <= 2*half_width: return e
        n = len(dealer.had[0])


def test_stopping_once_it_is_narrow_enough_keeps_the_intervals_honest():
    found = [until(.009, seed) for seed in range(DEALS//2)]
    assert {e.n_pairs//C for e in found} != {20}
    check(found, WRONG.mean(), least=.93 - SIMULATION*.4, most=.97 + SIMULATION*.4)
