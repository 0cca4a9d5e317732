"""Scores in other people's tools, each tested against the real library; skipped if it is not installed."""
import sys

import numpy as np
import pytest

from wrnb.core import WrnbError
from wrnb.data import classes_of, data_hash
from wrnb.folders import load_data
from wrnb.pretrained import load_model
from wrnb.scoring import score_robustness
import wrnb.exchange, wrnb.weak  # give `Scores` its methods


@pytest.fixture(scope="module")
def scores(digits_model):
    digits, _ = load_data("digits", limit=120)
    return score_robustness(load_model(digits_model, 10), digits, eps=.3, n_neighbors=10)


def test_datalab_takes_weak_images_as_an_issue(scores):
    cleanlab = pytest.importorskip("cleanlab")
    pytest.importorskip("datasets", reason="Datalab needs it")
    lab = cleanlab.Datalab(dict(label=scores.table.label.tolist()), label_name="label", verbosity=0)
    p = np.full((120, 10), .01)
    p[np.arange(120), scores.table.pred] = .91
    lab.find_issues(pred_probs=p, issue_types=dict(label={}))
    weak = scores.to_cleanlab()
    lab.issues = lab.issues.join(weak[["is_weak_issue", "weak_score"]])
    issues = lab.get_issues()
    assert {"is_label_issue", "label_score", "is_weak_issue", "weak_score"} <= set(issues)
    assert issues.weak_score.between(0, 1).all()
    assert issues.is_weak_issue.sum() == (scores.table.score > .5).sum()
    given = lab.get_issues("label")[["given_label", "predicted_label"]]
    names = scores.ds.classes
    assert [names[y] for y in given.given_label] == weak.given_label.tolist()
    assert weak.weak_score.idxmin() == scores.table.score.idxmax(), "both say which image is the worst"


def test_hugging_face_has_the_same_images(scores):
    pytest.importorskip("datasets")
    idxs = scores.weakest(20)
    hf = scores.to_hf(idxs)
    assert hf["score"] == scores.table.score[idxs].tolist() and hf["id"] == [scores.ds.ids[i] for i in idxs]
    assert classes_of(hf) == scores.ds.classes
    assert hf.sort("score", reverse=True)["id"][0] == hf["id"][0]
    pixels = np.stack([np.asarray(im) for im in hf["image"]]).transpose(0, 3, 1, 2)
    assert (pixels == scores.ds.items[idxs].numpy()).all()
    assert len(scores.to_hf()) == 120


def test_what_comes_back_from_hugging_face_scores_the_same(scores, digits_model):
    pytest.importorskip("datasets")
    hf = scores.to_hf(range(40))
    again = score_robustness(load_model(digits_model, 10), hf, eps=.3, n_neighbors=10)
    assert np.allclose(again.table.score, scores.table.score[:40], atol=1e-5)
    assert data_hash(hf) != data_hash(scores.ds)


def test_fiftyone_takes_samples_with_score_and_tag(scores, tmp_path):
    fo = pytest.importorskip("fiftyone")
    idxs = scores.weakest(6)
    rows = scores.table.iloc[idxs].rename(columns={"index": "index_"}).itertuples()
    paths = wrnb.exchange._files(scores.ds, idxs, tmp_path)
    samples = [wrnb.exchange._sample(fo, r, p, scores.ds.classes.__getitem__, .5) for r, p in zip(rows, paths)]
    assert [s.score for s in samples] == scores.table.score[idxs].tolist()
    assert [s.tags == ["weak"] for s in samples] == (scores.table.score[idxs] > .5).tolist()
    assert [s.ground_truth.label for s in samples] == [scores.ds.classes[y] for y in scores.table.label[idxs]]
    assert samples[0].wrnb_id == scores.ds.ids[idxs[0]] and (tmp_path/samples[0].filename).is_file()


def test_fiftyone_keeps_them_as_a_data_set(scores, tmp_path):
    fo = pytest.importorskip("fiftyone")
    try: fo.list_datasets()
    except fo.core.config.FiftyOneConfigError: pytest.skip("FiftyOne has no database here (mongod)")
    ds = scores.to_fiftyone(scores.weakest(6), tmp_path, name="wrnb-test")
    try: assert len(ds.match_tags("weak")) == (scores.table.score[scores.weakest(6)] > .5).sum()
    finally: fo.delete_dataset("wrnb-test")


@pytest.mark.parametrize("method, package", [("to_hf", "datasets"), ("to_fiftyone", "fiftyone")])
def test_a_missing_package_is_named(scores, method, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WrnbError, match=f'{package} is not installed: pip install "{package}"'):
        getattr(scores, method)()
