"""What must hold for any images, tables, counts and bytes: scoring, selection, intervals, and the readers of files.

By hypothesis, always with the same examples.
"""
import io, json, shutil, tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from scipy.special import rel_entr
from scipy.stats import binomtest
from torch import nn

import wrnb.weak  # noqa: F401 (gives Scores its selection)
from faults_files import arrays
from helpers import some
from wrnb.corrupted_sets import corrupted_set
from wrnb.core import WrnbError, wilson
from wrnb.tables import COLUMNS, read_table, write_table
from wrnb.runs import Run
from wrnb.pictures import read_image
from wrnb.image_sets import ImageSet, subset
from wrnb.folders import folder_set
from wrnb.models import load_weights, save_weights
from wrnb.pretrained import load_model
from wrnb.search import kl_bounds
from wrnb.neighbors import misprediction, neighbor_keys, neighbors
from wrnb.scoring import Scores, score_robustness


def unless_refused(read):
    "What a reader gives for a damaged file, or None if it refuses it; anything but `WrnbError` is a fault"
    try: return read()
    except WrnbError as e: assert str(e)


seeds, shares = st.integers(0, 2**31), st.integers(0, 1000).map(lambda k: k/1000)


# --- scoring --------------------------------------------------------------------------------------

class Linear(nn.Module):
    "A linear classifier of centred pixels, sure enough of itself to be wrong under some of the noise only"
    def __init__(self, seed, classes=3, side=6):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 3*side*side, generator=rng))
    def forward(self, x): return (x - .5).flatten(1)@self.weight.T


@st.composite
def problems(draw, classes=3, side=6):
    "A classifier, and images that are labelled as it sees them, except for some"
    seed, n = draw(seeds), draw(st.integers(2, 12))
    rng, net = torch.Generator().manual_seed(seed), Linear(seed, classes, side)
    x = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    y = net(x/255).argmax(1)
    y = torch.where(torch.rand(n, generator=rng) < .2, (y + 1) % classes, y)
    names, ids = [str(c) for c in range(classes)], [f"{i:02d}" for i in range(n)]
    return net, ImageSet(x, y.numpy(), names, ids, "random")


def scores(net, ds, n_neighbors=7, eps=.4, **options):
    return score_robustness(net, ds, eps=eps, n_neighbors=n_neighbors, device="cpu", **options).table


@some(25)
@given(problems(), st.sampled_from(["uniform", "gaussian"]), st.integers(1, 20))
def test_scores_are_shares_within_their_intervals(problem, noise, n):
    net, ds = problem
    t = scores(net, ds, n, noise=noise)
    assert (0 <= t.score_low).all() and (t.score_high <= 1).all()
    assert ((t.score_low <= t.score) & (t.score <= t.score_high)).all()
    assert ((t.score == 0) == (t.n_wrong == 0)).all()
    assert (t.score <= t.n_wrong/n + 1e-12).all()
    assert (t.score >= t.n_wrong/n/3 - 1e-6).all()  # a wrong class has more than one third
    np.testing.assert_allclose(np.array(wilson(t.score, n)).T, t[["score_low", "score_high"]])


@some(25)
@given(problems(), st.integers(1, 6))
def test_the_score_is_the_mean_over_the_first_neighbours(problem, n):
    "One neighbour at a time, written out; fewer neighbours are the first of more"
    net, ds = problem
    x, y = ds.pixels(range(len(ds))), torch.tensor(ds.labels)
    keys = neighbor_keys(x, n + 3, 5)
    assert torch.equal(keys[:, :n], neighbor_keys(x, n, 5))
    with torch.no_grad():
        each = [misprediction(net(neighbors(x, keys[:, q], .4)), y) for q in range(n + 3)]
    each = torch.stack(each, 1).double()
    for m in (n, n + 3):
        t = scores(net, ds, m, seed=5)
        np.testing.assert_allclose(t.score, each[:, :m].mean(1), atol=1e-6)
        assert (t.n_wrong == (each[:, :m] > 0).sum(1).numpy()).all()


@some(25)
@given(problems(), st.data())
def test_a_row_hangs_on_its_image_alone(problem, data):
    net, ds = problem
    idxs = data.draw(st.lists(st.integers(0, len(ds)-1), min_size=1, max_size=12))
    expected, got = scores(net, ds).iloc[idxs].reset_index(drop=True), scores(net, subset(ds, idxs))
    assert got["index"].tolist() == list(range(len(idxs)))
    pd.testing.assert_frame_equal(got.drop(columns="index"), expected.drop(columns="index"), rtol=0, atol=1e-6)


@some(25)
@given(problems(), st.integers(1, 90))
def test_batch_size_changes_no_more_than_rounding(problem, batch_size):
    net, ds = problem
    pd.testing.assert_frame_equal(scores(net, ds, batch_size=batch_size), scores(net, ds), rtol=0, atol=1e-5)


@some(25)
@given(problems(), st.permutations(range(3)))
def test_the_names_of_classes_do_not_matter(problem, order):
    net, ds = problem
    other, back = Linear(0), np.argsort(order)
    other.weight.data = net.weight.data[list(order)]
    renamed = ImageSet(ds.items, back[ds.labels], ds.classes, ds.ids, "renamed")
    got, expected = scores(other, renamed), scores(net, ds)
    np.testing.assert_allclose(got.score, expected.score, atol=1e-6)
    assert (got.n_wrong == expected.n_wrong).all() and (got.pred == back[expected.pred]).all()


@some(25)
@given(problems(), st.sampled_from(["uniform", "gaussian"]))
def test_without_noise_the_score_is_that_of_the_image(problem, noise):
    net, ds = problem
    t = scores(net, ds, eps=1e-9, noise=noise)
    with torch.no_grad(): clean = misprediction(net(ds.pixels(range(len(ds)))), torch.tensor(ds.labels))
    assert (t.score[t.clean_correct] == 0).all() and (t.score[~t.clean_correct] > 0).all()
    np.testing.assert_allclose(t.score, clean, atol=1e-5)


# --- selection ------------------------------------------------------------------------------------

@st.composite
def tables(draw):
    "Scores with many ties"
    row = st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4))
    label, right, score = (np.array(c) for c in zip(*draw(st.lists(row, min_size=1, max_size=40))))
    n, pred = len(label), np.where(right, label, label + 1)
    t = pd.DataFrame(dict(index=range(n), id=[f"{i}" for i in range(n)], label=label, pred=pred, clean_correct=right,
                          n_neighbors=4, n_wrong=score, score=score/4, score_low=0., score_high=1.))
    return Scores(t[COLUMNS["scores"]], None)


def by_hand(t, keep=lambda row: True):
    "Rows to choose from, weakest first, by Python's own sort"
    rows = [row for row in t.to_dict("records") if row["clean_correct"] and keep(row)]
    return sorted(rows, key=lambda row: -row["score"])


def check_choice(chosen, rows, k):
    "Are these the indices of the first of these rows? Images of the same score may change places"
    score = {row["index"]: row["score"] for row in rows}
    harmed = sum(s > 0 for s in score.values())
    assert len(chosen) in (k, min(k, harmed)) and len(set(chosen)) == len(chosen) and set(chosen) <= set(score)
    assert [score[i] for i in chosen] == [row["score"] for row in rows[:len(chosen)]]


@pytest.mark.filterwarnings("ignore::UserWarning")  # fewer than k images have a score above 0
@some(40)
@given(tables(), st.integers(0, 4).map(lambda v: v/4))
def test_the_weakest_are_those_of_a_plain_sort(found, threshold):
    rows = by_hand(found.table)
    for k in range(1, len(rows) + 1): check_choice(found.weakest(k).tolist(), rows, k)
    with pytest.raises(WrnbError, match=f"larger than the {len(rows)} images"): found.weakest(len(rows) + 1)
    above = by_hand(found.table, lambda row: row["score"] > threshold)
    check_choice(found.weakest(threshold=threshold).tolist(), above, len(above))
    if above: check_choice(found.weakest(1, threshold=threshold).tolist(), above, 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
@some(60)
@given(tables(), st.integers(1, 3))
def test_k_of_each_class(found, k):
    classes = sorted(set(found.table.label))
    of_class = {c: by_hand(found.table, lambda row: row["label"] == c) for c in classes}
    if k > min(map(len, of_class.values())):
        with pytest.raises(WrnbError, match="of class"): found.weakest(k, per_class=True)
        return
    chosen, label = found.weakest(k, per_class=True), found.table.label
    for c in classes: check_choice([i for i in chosen.tolist() if label[i] == c], of_class[c], k)


# --- intervals ------------------------------------------------------------------------------------

@some(200)
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(.5, .999))
def test_wilson_is_scipys(n, share, confidence):
    k = round(share*n); low, high = wilson(k/n, n, confidence)
    want = binomtest(k, n).proportion_ci(confidence, "wilson")
    np.testing.assert_allclose([low, high], want, atol=1e-9)
    assert 0 <= low <= k/n <= high <= 1


@some(200)
@given(shares, st.integers(1, 10**6), st.integers(2, 50))
def test_more_neighbours_and_less_confidence_give_narrower_intervals(mean, n, times):
    width = lambda *args: np.subtract(*wilson(*args)[::-1])
    assert width(mean, n*times) < width(mean, n)
    assert width(mean, n, .8) < width(mean, n, .95) < width(mean, n, .99)


@some(60)
@given(st.lists(shares, min_size=1, max_size=5), st.integers(1, 1000), st.floats(.1, 20))
def test_kl_bounds_solve_their_equation(mean, n, rate):
    mean = np.array(mean); low, high = kl_bounds(mean, np.full(len(mean), n), rate)
    assert ((0 <= low) & (low <= mean) & (mean <= high) & (high <= 1)).all()
    divergence = lambda q: rel_entr(mean, q) + rel_entr(1 - mean, 1 - q)
    for bound in (low, high):
        inside = (1e-6 < bound) & (bound < 1 - 1e-6)
        assert (abs(divergence(bound)*n - rate) < 1e-3*max(1, rate))[inside].all()


# --- tables ---------------------------------------------------------------------------------------

letters = st.sampled_from("\r\n\t ,;'\"") | st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names, counts = st.text(letters, max_size=12), st.integers(0, 10**9)
CELLS = dict(clean_correct=st.booleans(), severity=st.integers(0, 5))
CELLS |= dict.fromkeys("rank index label pred n_neighbors n_wrong n".split(), counts)
CELLS |= dict.fromkeys("id subset model family perturbation".split(), names)
CELLS |= dict.fromkeys("score score_low score_high error low high".split(), shares)


@st.composite
def any_table(draw):
    "A table's name, and a table that it can have"
    stem = draw(st.sampled_from(["scores", "weak", "validation", "evaluation"]))
    row = st.tuples(*(CELLS[c] for c in COLUMNS[stem]))
    return stem, pd.DataFrame(draw(st.lists(row, min_size=1, max_size=8)), columns=COLUMNS[stem])


@pytest.fixture(scope="module")
def tmp(tmp_path_factory): return tmp_path_factory.mktemp("properties")


@pytest.mark.parametrize("ext", ["csv", "parquet"])
@some(40)
@given(any_table())
def test_a_table_is_read_as_it_was_written(ext, tmp, table):
    stem, df = table
    if ext == "csv" and stem == "scores": df = df.assign(clean_correct=True)
    got = read_table(write_table(df, tmp/f"{stem}.{ext}"))
    pd.testing.assert_frame_equal(got, df.astype(got.dtypes), check_exact=True)


@st.composite
def damage(draw):
    "A function that changes some bytes, or cuts the end off, or adds some"
    kind = draw(st.sampled_from(["change", "change", "change", "cut", "add"]))
    place = st.floats(0, 1, exclude_max=True)
    changes = draw(st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=3))
    added = draw(st.binary(min_size=1, max_size=9))
    def apply(raw):
        raw, at = bytearray(raw), int(changes[0][0]*len(raw))
        if kind == "cut": return bytes(raw[:at])
        if kind == "add": return bytes(raw[:at] + added + raw[at:])
        for share, bits in changes: raw[int(share*len(raw))] ^= bits
        return bytes(raw)
    return apply


def plain_scores(n):
    "A table of scores in which every column can be told from the others"
    columns = dict.fromkeys(COLUMNS["scores"], np.arange(n))
    columns |= dict.fromkeys(["score", "score_low", "score_high"], np.arange(n)/n)
    columns |= dict(id=[f"train/{i}.png" for i in range(n)], clean_correct=np.arange(n) % 2 == 0)
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def parquet(tmp): return write_table(plain_scores(40), tmp/"whole"/"scores.parquet")


@some(200)
@given(damage())
def test_a_damaged_parquet_table_is_refused(tmp, parquet, change):
    "Its checksums leave no wrong table"
    path = tmp/"damaged"/"scores.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(change(parquet.read_bytes()))
    got = unless_refused(lambda: read_table(path))
    if got is not None: pd.testing.assert_frame_equal(got, read_table(parquet), check_exact=True)


@some(80)
@given(damage(), any_table())
def test_a_damaged_csv_has_the_right_kinds_or_is_refused(tmp, change, table):
    stem, df = table
    path = write_table(df, tmp/f"{stem}.csv")
    path.write_bytes(change(path.read_bytes()))
    got = unless_refused(lambda: read_table(path))
    if got is None: return
    assert list(got) == COLUMNS[stem] and len(got)
    for c in {"error", "low", "high", "score"} & set(got): assert got[c].between(0, 1).all()


# --- other files ----------------------------------------------------------------------------------

STAGE = dict(options=dict(eps=.1, noise="uniform"), started="2026", finished="2026", versions=dict(wrnb="1"),
             device="cpu", commit="0")
CONFIG = json.dumps(dict(format=1, stages=dict(score=STAGE, weak=STAGE)), indent=2).encode()


@some(120)
@given(damage())
def test_a_damaged_config_is_read_or_refused(tmp, change):
    run = Run(tmp/"run")
    run.path.mkdir(exist_ok=True)
    (run/"config.json").write_bytes(change(CONFIG))
    config = unless_refused(lambda: run.config)
    if not config: return
    for stage in config["stages"].values():
        assert isinstance(stage["options"], dict) and isinstance(stage["device"], str)
    assert run.done("nothing") is False


@pytest.mark.parametrize("ext", ["safetensors", "pt"])
@some(60)
@given(damage())
def test_a_damaged_checkpoint_is_read_or_refused(ext, tmp, change):
    torch.manual_seed(0)
    net, path = load_model("digits_net", 10), tmp/f"net.{ext}"
    save_weights(net, path) if ext == "safetensors" else torch.save(net.state_dict(), path)
    path.write_bytes(change(path.read_bytes()))
    unless_refused(lambda: load_weights(net, path))


@pytest.fixture(scope="module")
def whole_set(tmp):
    arrays(tmp/"whole set")
    return tmp/"whole set"


@some(60)
@given(damage(), st.sampled_from(["fog", "labels"]), st.booleans())
def test_a_damaged_array_is_read_or_refused(tmp, whole_set, change, name, in_header):
    folder = tmp/"set"
    shutil.copytree(whole_set, folder, dirs_exist_ok=True)
    raw = (whole_set/f"{name}.npy").read_bytes()
    (folder/f"{name}.npy").write_bytes(change(raw[:128]) + raw[128:] if in_header else change(raw))
    got = unless_refused(lambda: corrupted_set(folder))
    if got is None: return
    assert len(got) == 10 and got.pixels("fog").shape == (5, 10, 32, 32, 3) and got.labels.min() >= 0


def picture_bytes(kind):
    data, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF"])
@some(30)
@given(damage(), st.booleans())
def test_a_damaged_picture_is_read_or_refused(kind, tmp, change, in_header):
    path, raw = tmp/"picture.png", picture_bytes(kind)
    path.write_bytes(change(raw[:60]) + raw[60:] if in_header else change(raw))
    got = unless_refused(lambda: read_image(path, 16))
    if got is not None: assert got.shape == (16, 16, 3) and got.dtype == np.uint8


def is_file_name(text): return text[0] != "." and len(text.encode()) < 100


file_names = st.text(letters.filter(lambda c: c != "/"), min_size=1, max_size=15).filter(is_file_name)
two_files = st.lists(file_names, min_size=1, max_size=2, unique=True)


@some(25)
@given(st.dictionaries(file_names, two_files, min_size=1, max_size=3))
def test_files_and_classes_may_have_any_name(tree):
    "Spaces, line breaks, quotes, any script; ids come back from both kinds of tables"
    paths = [f"train/{c}/{f}.png" for c, files in tree.items() for f in files]
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        for p in paths:
            (home/p).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(home/p, "PNG")
        ds = folder_set(home, "train")
        assert ds.classes == sorted(tree) and sorted(ds.ids) == sorted(paths)
        assert all(i.split("/")[1] == ds.classes[y] for i, y in zip(ds.ids, ds.labels))
        t = pd.DataFrame(dict(rank=1, index=0, id=ds.ids, label=ds.labels, score=.5))
        for ext in ("csv", "parquet"): assert read_table(write_table(t, home/f"weak.{ext}")).id.tolist() == ds.ids
