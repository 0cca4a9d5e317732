"""Datasets, items, labels and models as people combine them: the right score, or one line that says what is wrong.

Hypothesis draws combinations of the kinds in benchmarks/practice_kinds.py; the right score is that of a plain loop.
"""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import practice_kinds as kinds
from helpers import some
from wrnb.core import WrnbError
from wrnb.measurement import Clean
from wrnb.scoring import score_robustness
from wrnb.validation import validate

pytestmark = pytest.mark.filterwarnings("ignore")


def score(model, ds):
    return score_robustness(model, ds, eps=kinds.EPS, n_neighbors=kinds.NEIGHBORS, device="cpu").table


def tried(f):
    "What a function gives, None if it is refused in one line, and the warnings; anything else is a fault"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: result = f()
        except WrnbError as e:
            assert str(e) and "\n" not in str(e)
            result = None
    return result, [str(w.message) for w in caught if w.category is UserWarning]


def mostly(all_kinds, refused):
    "A kind; one of seven is to be refused, so that most combinations have none or one of these"
    taken = [kind for kind in all_kinds if kind not in refused]
    return st.integers(0, 6).flatmap(lambda n: st.sampled_from(list(refused) if n == 6 else taken))


image_kinds, label_kinds = mostly(kinds.ALL_IMAGES, kinds.NO_IMAGES), mostly(kinds.ALL_LABELS, kinds.NO_LABELS)
item_kinds, model_kinds = mostly(kinds.ALL_ITEMS, kinds.NO_ITEMS), mostly(kinds.ALL_MODELS, kinds.NO_MODELS)
dataset_kinds = mostly(kinds.ALL_DATASETS, kinds.NO_DATASETS)


def tolerance(*names): return max(kinds.TOLERANCE.get(name, 1e-5) for name in names)


def must_be_refused(dataset, image, label, item, model):
    parts = (dataset, kinds.NO_DATASETS), (image, kinds.NO_IMAGES), (label, kinds.NO_LABELS), (item, kinds.NO_ITEMS)
    return any(kind in refused for kind, refused in (*parts, (model, kinds.NO_MODELS)))


def check(table, dataset, image, label, item, model):
    "A score that was given is the right one"
    assert not must_be_refused(dataset, image, label, item, model), "scored what is no classification"
    expected = kinds.plain_scores(kinds.logits_of(model), kinds.pixels_of(image), kinds.LABELS)
    assert table.label.tolist() == kinds.LABELS
    np.testing.assert_allclose(table.score, expected, atol=tolerance(model, image))


@some(150)
@given(dataset_kinds, image_kinds, label_kinds, item_kinds, model_kinds)
def test_any_combination_gives_the_right_score_or_one_line(dataset, image, label, item, model):
    ds = kinds.ALL_DATASETS[dataset](kinds.items_of(image, label, item))
    table, warned = tried(lambda: score(kinds.ALL_MODELS[model](), ds))
    if table is None: return
    check(table, dataset, image, label, item, model)
    assert model not in kinds.WARNED or any("softmax" in w for w in warned)


PLAIN = dict(dataset="list", image="float32 tensor", label="int", item="(image, label)", model="plain module")


@pytest.mark.parametrize("part, kind", [
    *[("dataset", k) for k in kinds.ANY_ITEMS | kinds.OWN_IDS], *[("image", k) for k in kinds.IMAGES | kinds.GREYS],
    *[("label", k) for k in kinds.LABELLED], *[("item", k) for k in kinds.ITEMS],
    *[("model", k) for k in kinds.MODELS | kinds.WARNED]])
def test_what_is_plain_is_taken(part, kind):
    "One part is unusual, the others are as in a tutorial: it is scored, not refused"
    chosen = PLAIN | {part: kind}
    items = kinds.items_of(chosen["image"], chosen["label"], chosen["item"])
    table = score(kinds.ALL_MODELS[chosen["model"]](), kinds.ALL_DATASETS[chosen["dataset"]](items))
    check(table, **chosen)


@pytest.mark.parametrize("make", [kinds.tensor_dataset, kinds.image_set])
@pytest.mark.parametrize("model", kinds.MODELS)
def test_whole_sets_are_taken(make, model):
    check(score(kinds.MODELS[model](), make()), **(PLAIN | dict(model=model)))


@some(40)
@given(dataset_kinds, image_kinds, label_kinds, item_kinds, model_kinds)
def test_any_combination_is_validated_rightly_or_refused(dataset, image, label, item, model):
    "The clean error of the weak images is that of a plain loop"
    def validated():
        ds = kinds.ALL_DATASETS[dataset](kinds.items_of(image, label, item))
        net = kinds.ALL_MODELS[model]()
        return validate(net, [0, 4, 5], ds, ds, perturbations=[Clean()], device="cpu").table
    table, _ = tried(validated)
    if table is None: return
    assert not must_be_refused(dataset, image, label, item, model), "validated what is no classification"
    if model in kinds.ROUGH or "float16" in image: return  # a rounded logit may be another class
    with torch.no_grad(): pred = kinds.logits_of(model)(kinds.pixels_of(image)).argmax(1).tolist()
    n_wrong = sum(pred[i] != kinds.LABELS[i] for i in (0, 4, 5))
    assert table.n_wrong[table.subset == "weak"].tolist() == [n_wrong]


def test_the_plain_loop_sees_something():
    "Scores differ, also those of images that are right when clean, and all classes are there"
    scores = kinds.plain_scores(kinds.Linear(), kinds.LEVELS/255, kinds.LABELS)
    assert len(set(scores.round(6))) > 5 and ((0 < scores) & (scores < .9)).sum() > 3
    assert set(kinds.LABELS) == set(range(kinds.CLASSES))
