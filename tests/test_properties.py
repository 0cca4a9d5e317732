"""What must hold for any images, tables, counts and bytes: scoring, selection, intervals, and the readers of files (hypothesis, always the same examples)."""
import io, json, shutil, tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from scipy.special import rel_entr
from scipy.stats import binomtest
from torch import nn

import wrnb.weak  # noqa: F401 (gives Scores its selection)
from benchmarks.faults import arrays
from test_loop import one_thread  # noqa: F401 (a fixture)
from wrnb.corrupted_sets import corrupted_set
from wrnb.core import WrnbError, wilson
from wrnb.runs import COLUMNS, Run, read_table, write_table
from wrnb.data import ImageSet, folder_set, read_image, subset
from wrnb.models import load_weights, save_weights
from wrnb.pretrained import load_model
from wrnb.scoring import Scores, kl_bounds, misprediction, neighbor_keys, neighbors, score_robustness


def some(n): return settings(max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def unless_refused(read):
    "What a reader gives for a damaged file, or None where it refuses it; anything but `WrnbError` is a fault"
    try: return read()
    except WrnbError as e: assert str(e)


seeds, shares = st.integers(0, 2**31), st.integers(0, 1000).map(lambda k: k/1000)


# --- scoring ----------------------------------------------------------------------------------------------------------

class Linear(nn.Module):
    "A linear classifier of centred pixels, sure enough of itself to be wrong under some of the noise only"
    def __init__(self, seed, classes=3, side=6):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 3*side*side, generator=torch.Generator().manual_seed(seed)))
    def forward(self, x): return (x - .5).flatten(1)@self.weight.T


@st.composite
def problems(draw, classes=3, side=6):
    "A classifier, and images that are labelled as it sees them, but for some"
    seed, n = draw(seeds), draw(st.integers(2, 12)); rng = torch.Generator().manual_seed(seed)
    x, net = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8), Linear(seed, classes, side)
    y = net(x/255).argmax(1); y = torch.where(torch.rand(n, generator=rng) < .2, (y + 1) % classes, y)
    return net, ImageSet(x, y.numpy(), [str(c) for c in range(classes)], [f"{i:02d}" for i in range(n)], "random")


def scores(net, ds, n_neighbors=7, **options): return score_robustness(net, ds, n_neighbors=n_neighbors, device="cpu", **dict(dict(eps=.4), **options)).table


@some(25)
@given(problems(), st.sampled_from(["uniform", "gaussian"]), st.integers(1, 20))
def test_scores_are_shares_within_their_intervals(problem, noise, n):
    net, ds = problem; t = scores(net, ds, n, noise=noise)
    assert ((0 <= t.score_low) & (t.score_low <= t.score) & (t.score <= t.score_high) & (t.score_high <= 1)).all()
    assert ((t.score == 0) == (t.n_wrong == 0)).all() and (t.score <= t.n_wrong/n + 1e-12).all() and (t.score >= t.n_wrong/n/3 - 1e-6).all()  # a wrong class has more than one third
    np.testing.assert_allclose(np.array(wilson(t.score, n)).T, t[["score_low", "score_high"]])


@some(25)
@given(problems(), st.integers(1, 6))
def test_the_score_is_the_mean_over_the_first_neighbours(problem, n):
    "One neighbour at a time, written out; fewer neighbours are the first of more"
    net, ds = problem; x, y = ds.pixels(range(len(ds))), torch.tensor(ds.labels); keys = neighbor_keys(x, n + 3, 5)
    assert torch.equal(keys[:, :n], neighbor_keys(x, n, 5))
    with torch.no_grad(): ms = torch.stack([misprediction(net(neighbors(x, keys[:, q], .4)), y) for q in range(n + 3)], 1).double()
    for m in (n, n + 3):
        t = scores(net, ds, m, seed=5)
        np.testing.assert_allclose(t.score, ms[:, :m].mean(1), atol=1e-6); assert (t.n_wrong == (ms[:, :m] > 0).sum(1).numpy()).all()


@some(25)
@given(problems(), st.data())
def test_a_row_hangs_on_its_image_alone(problem, data):
    net, ds = problem; idxs = data.draw(st.lists(st.integers(0, len(ds)-1), min_size=1, max_size=12))
    want, got = scores(net, ds).iloc[idxs].reset_index(drop=True), scores(net, subset(ds, idxs))
    assert got["index"].tolist() == list(range(len(idxs)))
    pd.testing.assert_frame_equal(got.drop(columns="index"), want.drop(columns="index"), rtol=0, atol=1e-6)


@some(25)
@given(problems(), st.integers(1, 90))
def test_batch_size_changes_no_more_than_rounding(problem, batch_size):
    net, ds = problem
    pd.testing.assert_frame_equal(scores(net, ds, batch_size=batch_size), scores(net, ds), rtol=0, atol=1e-5)


@some(25)
@given(problems(), st.permutations(range(3)))
def test_the_names_of_classes_do_not_matter(problem, order):
    net, ds = problem; other, back = Linear(0), np.argsort(order); other.weight.data = net.weight.data[list(order)]
    got = scores(other, ImageSet(ds.items, back[ds.labels], ds.classes, ds.ids, "renamed")); want = scores(net, ds)
    np.testing.assert_allclose(got.score, want.score, atol=1e-6); assert (got.n_wrong == want.n_wrong).all() and (got.pred == back[want.pred]).all()


@some(25)
@given(problems(), st.sampled_from(["uniform", "gaussian"]))
def test_without_noise_the_score_is_that_of_the_image(problem, noise):
    net, ds = problem; t = scores(net, ds, eps=1e-9, noise=noise)
    with torch.no_grad(): clean = misprediction(net(ds.pixels(range(len(ds)))), torch.tensor(ds.labels))
    assert (t.score[t.clean_correct] == 0).all() and (t.score[~t.clean_correct] > 0).all()
    np.testing.assert_allclose(t.score, clean, atol=1e-5)


# --- selection --------------------------------------------------------------------------------------------------------

@st.composite
def tables(draw):
    "Scores with many ties"
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=40))
    label, right, score = (np.array(c) for c in zip(*rows)); n = len(rows)
    t = pd.DataFrame(dict(index=range(n), id=[f"{i}" for i in range(n)], label=label, pred=np.where(right, label, label + 1), clean_correct=right, n_neighbors=4, n_wrong=score, score=score/4))
    return Scores(t.assign(score_low=0., score_high=1.)[COLUMNS["scores"]], None)


def brute(t, keep=lambda r: True):
    "Indices of the rows to choose from, weakest first, by Python's own sort"
    return [r.index for r in sorted((r for r in t.rename(columns=dict(index="i")).rename_axis("index").reset_index().itertuples(index=False) if r.clean_correct and keep(r)), key=lambda r: -r.score)]


@some(40)
@given(tables(), st.integers(0, 4).map(lambda v: v/4))
def test_the_weakest_are_those_of_a_plain_sort(found, threshold):
    order = brute(found.table)
    for k in range(1, len(order) + 1): assert found.weakest(k).tolist() == order[:k]  # so each is a prefix of the next, and sorted
    with pytest.raises(WrnbError, match=f"larger than the {len(order)} images"): found.weakest(len(order) + 1)
    above = brute(found.table, lambda r: r.score > threshold)
    assert found.weakest(threshold=threshold).tolist() == above
    if above: assert found.weakest(1, threshold=threshold).tolist() == above[:1]


@some(60)
@given(tables(), st.integers(1, 3))
def test_so_many_of_each_class(found, k):
    classes = sorted(set(found.table.label)); own = [brute(found.table, lambda r, c=c: r.label == c) for c in classes]
    if k > min(map(len, own)):
        with pytest.raises(WrnbError, match="of class"): found.weakest(k, per_class=True)
    else: assert found.weakest(k, per_class=True).tolist() == sum((o[:k] for o in own), [])


# --- intervals --------------------------------------------------------------------------------------------------------

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
    assert width(mean, n*times) < width(mean, n) and width(mean, n, .8) < width(mean, n, .95) < width(mean, n, .99)


@some(60)
@given(st.lists(shares, min_size=1, max_size=5), st.integers(1, 1000), st.floats(.1, 20))
def test_kl_bounds_solve_their_equation(mean, n, rate):
    mean = np.array(mean); low, high = kl_bounds(mean, np.full(len(mean), n), rate)
    assert ((0 <= low) & (low <= mean) & (mean <= high) & (high <= 1)).all()
    kl = lambda q: rel_entr(mean, q) + rel_entr(1 - mean, 1 - q)
    for bound, end in ((low, 0), (high, 1)): assert all(abs(d*n - rate) < 1e-3*max(1, rate) or b == end for b, d in zip(bound, kl(bound)) if 1e-6 < b < 1 - 1e-6)


# --- tables -----------------------------------------------------------------------------------------------------------

letters = st.sampled_from("\r\n\t ,;'\"") | st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names, counts = st.text(letters, max_size=12), st.integers(0, 10**9)
CELLS = dict(dict.fromkeys("rank index label pred n_neighbors n_wrong n".split(), counts), **dict.fromkeys("id subset model family perturbation".split(), names), clean_correct=st.booleans(),
             severity=st.integers(0, 5), **dict.fromkeys("score score_low score_high error low high".split(), shares))


@st.composite
def any_table(draw):
    stem = draw(st.sampled_from(sorted(set(COLUMNS) & {"scores", "weak", "validation", "evaluation"})))
    rows = draw(st.lists(st.tuples(*(CELLS[c] for c in COLUMNS[stem])), min_size=1, max_size=8))
    return stem, pd.DataFrame(rows, columns=COLUMNS[stem])


@pytest.fixture(scope="module")
def tmp(tmp_path_factory): return tmp_path_factory.mktemp("properties")


@pytest.mark.parametrize("ext", ["csv", "parquet"])
@some(40)
@given(any_table())
def test_a_table_is_read_as_it_was_written(ext, tmp, table):
    stem, df = table
    if ext == "csv" and stem == "scores": df = df.drop(columns="clean_correct").assign(clean_correct=True)[list(df)]
    pd.testing.assert_frame_equal(read_table(write_table(df, tmp/f"{stem}.{ext}")), df.astype(read_table(tmp/f"{stem}.{ext}").dtypes), check_exact=True)


@st.composite
def damage(draw):
    "A function that changes some bytes, or cuts the end off, or adds some"
    kind, where, byte = draw(st.sampled_from(["change", "change", "change", "cut", "add"])), draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3)), draw(st.binary(min_size=1, max_size=9))
    def change(raw):
        raw = bytearray(raw)
        if kind == "cut": return bytes(raw[:int(where[0][0]*len(raw))])
        if kind == "add": at = int(where[0][0]*len(raw)); return bytes(raw[:at] + byte + raw[at:])
        for share, bits in where: raw[int(share*len(raw))] ^= bits
        return bytes(raw)
    return change


@some(200)
@given(damage())
def test_a_damaged_parquet_table_is_refused(tmp, change):
    "Its checksums leave no wrong table"
    path = tmp/"damaged"/"scores.parquet"; n = 40
    if not path.parent.is_dir():
        df = pd.DataFrame({c: np.arange(n)/n if c.startswith("score") else [f"train/{i}.png" for i in range(n)] if c == "id" else np.arange(n) % 2 == 0 if c == "clean_correct" else np.arange(n) for c in COLUMNS["scores"]})
        write_table(df, path); shutil.copy(path, path.with_suffix(".whole"))
    whole = path.with_suffix(".whole").read_bytes(); path.write_bytes(whole); want = read_table(path); path.write_bytes(change(whole))
    got = unless_refused(lambda: read_table(path))
    if got is not None: pd.testing.assert_frame_equal(got, want, check_exact=True)


@some(80)
@given(damage(), any_table())
def test_a_damaged_csv_has_the_right_kinds_or_is_refused(tmp, change, table):
    stem, df = table; path = write_table(df, tmp/f"{stem}.csv"); path.write_bytes(change(path.read_bytes()))
    got = unless_refused(lambda: read_table(path))
    if got is not None:
        assert list(got) == COLUMNS[stem] and len(got)
        for c in got: assert c not in ("error", "low", "high", "score") or got[c].between(0, 1).all()


# --- other files ------------------------------------------------------------------------------------------------------

@some(120)
@given(damage())
def test_a_damaged_config_is_read_or_refused(tmp, change):
    run = Run(tmp/"run"); run.path.mkdir(exist_ok=True)
    stage = dict(options=dict(eps=.1, noise="uniform"), started="2026", versions=dict(wrnb="1"), device="cpu", commit="0", finished="2026")
    (run/"config.json").write_bytes(change(json.dumps(dict(format=1, stages=dict(score=stage, weak=stage)), indent=2).encode()))
    config = unless_refused(lambda: run.config)
    if config: assert all(isinstance(s["options"], dict) and isinstance(s["device"], str) for s in config["stages"].values()) and run.done("nothing") is False


@pytest.mark.parametrize("ext", ["safetensors", "pt"])
@some(60)
@given(damage())
def test_a_damaged_checkpoint_is_read_or_refused(ext, tmp, change):
    torch.manual_seed(0); net = load_model("digits_net", 10); path = tmp/f"net.{ext}"
    save_weights(net, path) if ext == "safetensors" else torch.save(net.state_dict(), path)
    path.write_bytes(change(path.read_bytes())); unless_refused(lambda: load_weights(net, path))


@some(60)
@given(damage(), st.sampled_from(["fog", "labels"]), st.floats(0, .02))
def test_a_damaged_array_is_read_or_refused(tmp, change, name, head):
    "Also where the damage lies within the header"
    folder = tmp/"set"
    if not folder.is_dir(): arrays(folder); shutil.copytree(folder, tmp/"whole")
    raw = (tmp/"whole"/f"{name}.npy").read_bytes(); (folder/f"{name}.npy").write_bytes(change(raw[:128]) + raw[128:] if head < .01 else change(raw))
    got = unless_refused(lambda: corrupted_set(folder)); shutil.copy(tmp/"whole"/f"{name}.npy", folder)
    if got is not None: assert len(got) == 10 and got.pixels("fog").shape == (5, 10, 32, 32, 3) and got.labels.min() >= 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF"])
@some(30)
@given(damage(), st.booleans())
def test_a_damaged_picture_is_read_or_refused(kind, tmp, change, head):
    data = io.BytesIO(); Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(data, kind); raw = data.getvalue()
    path = tmp/"picture.png"; path.write_bytes(change(raw[:60]) + raw[60:] if head else change(raw))
    got = unless_refused(lambda: read_image(path, 16))
    if got is not None: assert got.shape == (16, 16, 3) and got.dtype == np.uint8


file_names = st.text(letters.filter(lambda c: c != "/"), min_size=1, max_size=15).filter(lambda s: s[0] != "." and len(s.encode()) < 100)


@some(25)
@given(st.dictionaries(file_names, st.lists(file_names, min_size=1, max_size=2, unique=True), min_size=1, max_size=3))
def test_files_and_classes_may_have_any_name(tree):
    "Spaces, line breaks, quotes, any script; ids come back from both kinds of tables"
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        for c, files in tree.items():
            (home/"train"/c).mkdir(parents=True)
            for f in files: Image.new("RGB", (4, 4)).save(home/"train"/c/f"{f}.png", "PNG")
        ds = folder_set(home, "train")
        assert ds.classes == sorted(tree) and sorted(ds.ids) == sorted(f"train/{c}/{f}.png" for c in tree for f in tree[c])
        assert all(i.split("/")[1] == ds.classes[y] for i, y in zip(ds.ids, ds.labels))
        t = pd.DataFrame(dict(rank=1, index=0, id=ds.ids, label=ds.labels, score=.5))
        for ext in ("csv", "parquet"): assert read_table(write_table(t, home/f"weak.{ext}")).id.tolist() == ds.ids
