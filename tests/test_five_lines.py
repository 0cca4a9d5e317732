"""The five lines of the README, on an ordinary fastai Learner that reads files, resizes, augments and normalises."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from PIL import Image

from wrnb.all import *
from wrnb.networks import digits_net


def save_digits(folder, digits):
    "Each digit as a picture of 40 px; returns a table of files and labels"
    for i in range(len(digits)):
        pixels = (digits[i][0].permute(1, 2, 0).numpy()*255).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder/f"{i}.png")
    files = [f"{i}.png" for i in range(len(digits))]
    return pd.DataFrame(dict(file=files, label=[str(y) for y in digits.labels]))


@pytest.fixture(scope="module")
def learn(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("digits")
    df = save_digits(folder, load_data("digits", limit=400)[0])
    augment = [*aug_transforms(do_flip=False, max_zoom=1.), Normalize.from_stats([.3]*3, [.35]*3, cuda=False)]
    dls = ImageDataLoaders.from_df(
        df, folder, fn_col="file", label_col="label", valid_pct=.2, seed=0, bs=32, device="cpu",
        item_tfms=Resize(32), batch_tfms=augment)
    learn = Learner(dls, digits_net(10), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(6, 1e-2)
    return learn


def test_five_lines(learn):
    before = weights_hash(learn.model)
    scores = score_robustness(learn, eps=.3, n_neighbors=8)
    assert len(scores) == 320 and scores.table.id[0] == learn.dls.train_ds.items.file.iloc[0]
    weak = scores.weakest(20)
    found = validate(learn, weak)
    types = {*FAMILY, *ATTACKS} - {"autoattack"}
    assert set(found.weaknesses) | set(found.strengths) == types and found.weaknesses
    better = enhance(learn, found, epochs=1)
    assert isinstance(better, Learner) and weights_hash(better.model) != before
    assert weights_hash(learn.model) == before, "enhance changes the Learner it is given"
    result = compare(learn, better, severities=(3,), eps=(8/255,), attack_names=("fgsm", "pgd"))
    assert result.models == ["base", "better"] and result.table.n.unique().tolist() == [80]
    for plot in (result.plot, found.plot, scores.plot_weakest): plot()


def test_a_learner_and_its_parts_score_alike(learn):
    "The Learner, and the pixel model with the pixels that the Learner's pipeline gives"
    a = score_robustness(learn, eps=.2, n_neighbors=4).table
    b = score_robustness(from_learner(learn), LearnerSet(learn), eps=.2, n_neighbors=4).table
    pd.testing.assert_frame_equal(a, b)
    p, y = learn.get_preds(dl=learn.dls.test_dl(learn.dls.train_ds.items, with_labels=True))
    assert (p.argmax(1).numpy() == a.pred).all() and (y.numpy() == a.label).all()
