"""`RobustnessCallback`, by a clock that only the classifier moves: what it costs, and what it does if it is too dear"""
import random, re

import fastai.callback.progress  # noqa: F401 (gives Learners `no_bar`)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from wrnb.folders import load_data
from wrnb.loaders import pixel_loaders
import wrnb.monitoring as monitoring
from wrnb.monitoring import RobustnessCallback

COLUMNS = ["corruption_error", "corruption_low", "corruption_high", "weak_share", "weak_low", "weak_high"]


class Clock:
    "Seconds that pass while a classifier is asked"
    now = 0.
    def __call__(self): return self.now


class Slow(nn.Module):
    "A classifier that takes a millisecond per image, and three while it learns"
    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 10))

    def __deepcopy__(self, memo):
        copied = Slow(self.clock)
        copied.load_state_dict(self.state_dict())
        return copied.train(self.training)

    def forward(self, x):
        self.clock.now += len(x)*(.003 if self.training else .001)
        return self.body(x)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(monitoring, "perf_counter", clock := Clock())
    return clock


def fitted(clock, n_epoch=3, n_train=1000, cbs=(), **options):
    "A Learner after its training, the callback, and the seconds that the training alone takes"
    torch.manual_seed(0)
    random.seed(0)
    train, test = load_data("digits", limit=n_train, test_limit=300)
    net = Slow(clock)
    learn = Learner(pixel_loaders(train, test, bs=50), net, loss_func=CrossEntropyLossFlat(), cbs=[*cbs])
    watch = RobustnessCallback(eps=.3, **options)
    with learn.no_bar(), learn.no_logging(): learn.fit(n_epoch, 1e-2, cbs=watch)
    return learn, watch, n_epoch*(3*n_train + 300)/1000


def table(learn): return learn.recorder.robustness_table


@pytest.mark.parametrize("n_epoch, budget", [(3, .4), (3, .2), (10, .05)])
def test_all_measurements_together_keep_within_the_budget(clock, n_epoch, budget, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "_SHORT", 0)
    learn, watch, training = fitted(clock, n_epoch, budget=budget)
    assert clock.now - training <= budget*training
    t, said = table(learn), capsys.readouterr().out
    assert t.per_cell.nunique() == 1 and 2 <= t.per_cell[0] < 20 and t.epoch.iloc[-1] == n_epoch - 1
    assert f"{t.per_cell[0]} of 20 images" in said and f"budget={budget:g}" in said and said.count("\n") == 1


def test_what_is_measured_with_less_is_what_that_many_images_give(clock, capsys):
    learn, watch, _ = fitted(clock, budget=.3)
    t = table(learn)
    assert t.per_cell[0] < 20
    same, _, _ = fitted(clock, per_cell=int(t.per_cell[0]), n_images=int(t.n_images[0]), budget=None)
    pd.testing.assert_frame_equal(t[COLUMNS], table(same)[COLUMNS])


@pytest.mark.parametrize("options", [dict(budget=None), dict(budget=1), dict(per_cell=2, n_images=10)])
def test_what_is_within_the_budget_is_measured_in_silence(clock, options, capsys):
    learn, watch, _ = fitted(clock, **options)
    t, asked = table(learn), dict(per_cell=20, n_images=200) | options
    assert t.epoch.tolist() == [0, 1, 2] and set(t.per_cell) == {asked["per_cell"]}
    assert set(t.n_images) == {asked["n_images"]} and not capsys.readouterr().out


def test_if_even_the_fewest_images_are_too_dear_some_epochs_are_left_out(clock, monkeypatch, capsys):
    monkeypatch.setattr(monitoring, "_SHORT", 0)
    learn, watch, _ = fitted(clock, 7, budget=.03)
    every = int(re.search(r"every (\d) epochs and the last", capsys.readouterr().out)[1])
    assert every > 1 and table(learn).per_cell.max() <= 3
    due = {e for e in range(7) if (e + 1) % every == 0} | {6}
    assert table(learn).epoch.tolist() == sorted(due)
    assert {e for e, row in enumerate(learn.recorder.values) if not np.isnan(row[-1])} == due


def test_a_wish_for_fewer_epochs_is_kept(clock, capsys):
    learn, _, _ = fitted(clock, 5, every=2, budget=.3)
    assert table(learn).epoch.tolist() == [1, 3, 4]


def test_the_training_is_the_same_whatever_the_budget(clock, capsys):
    nets = [fitted(clock, 2, budget=b)[0].model.state_dict() for b in (None, .2)]
    for name, value in nets[0].items(): assert torch.equal(value, nets[1][name])


def test_an_image_is_weak_if_any_of_its_neighbours_is_wrong():
    "Against asking about all neighbours of all images"
    digits, _ = load_data("digits", limit=100)
    torch.manual_seed(0)
    weights, asked = torch.randn(3*32*32, 10), []
    def predict(x):
        asked.append(len(x))
        return (x.flatten(1) @ weights).argmax(1).numpy()
    near = monitoring._Near(digits, 100, .3, 8, 0)
    near.y = torch.from_numpy(predict(near.x)).where(torch.arange(100) % 3 > 0, 0)  # two of three are right
    asked.clear()
    weak = near.weak(predict)
    n_asked = sum(asked)
    views = [predict(monitoring.neighbors(near.x, keys, .3)) for keys in near.keys.T]
    y = near.y.numpy()
    expected = (predict(near.x) == y) & np.any([v != y for v in views], 0)
    assert 0 < expected.sum() < 100 and (weak == expected).all() and n_asked < 900


def test_columns_of_a_training_that_was_interrupted_do_not_come_again(clock):
    from fastai.callback.core import Callback

    class Stop(Callback):
        order, stops = 46, True
        def after_validate(self):
            if self.stops: raise KeyboardInterrupt

    stop = Stop()
    with pytest.raises(KeyboardInterrupt): fitted(clock, cbs=[stop], per_cell=2)
    stop.stops, learn = False, stop.learn
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2, cbs=RobustnessCallback(per_cell=2, n_images=5))
    names = learn.recorder.metric_names
    assert all(names.count(name) == 1 for name in ("corruption_error", "weak_share"))


def test_other_data_in_the_same_learner_are_watched_anew(clock, capsys):
    learn, watch, _ = fitted(clock, 1, per_cell=2, budget=None)
    train, test = load_data("digits", limit=100, test_limit=30)
    learn.dls = pixel_loaders(train, test, bs=50)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2, cbs=watch)
    assert len(watch.pool) == 100 and len(watch.all_corrupted.labels) == 30
    assert table(learn).n_images[0] == 100
