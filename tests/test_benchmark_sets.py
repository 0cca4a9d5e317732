"""Corrupted sets on disk: every layout is written here by its own rules and read back, then broken as downloads are."""
import dataclasses, json, shutil, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch.utils.data import TensorDataset

import wrnb.differences, wrnb.image_sets  # the first gives evaluations their `difference`
from helpers import cut
from wrnb.corrupted_sets import C_BAR, corrupted_set
from wrnb.corrupted_copies import save_corrupted
from wrnb.benchmark import evaluate, read_evaluation
from wrnb.core import WrnbError
from wrnb.corruptions import CORRUPTIONS, EXTRA, FAMILY, corrupt
from wrnb.image_sets import ImageSet, limited
from wrnb.folders import load_data
from wrnb.sources import WNIDS

FIFTEEN = sum(CORRUPTIONS.values(), [])
ALL = [*FIFTEEN, *EXTRA.values()]
BAR = dict(cifar=C_BAR["CIFAR-C-bar"], imagenet=C_BAR["ImageNet-C-bar"])


def write_arrays(path, names=ALL, n=4, size=32, classes=2, dtype=np.uint8):
    "As CIFAR-10-C's generator: severities stacked, labels five times; returns the pixels"
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (5, n, size, size, 3), np.uint8) for name in names}
    for name, x in pixels.items(): np.save(path/f"{name}.npy", x.reshape(5*n, size, size, 3))
    np.save(path/"labels.npy", np.tile(np.arange(n) % classes, 5).astype(dtype))
    return pixels


def folder_of(name, by_family):
    "Where a corruption lies: at the top, or under its family as in ImageNet-C's archives"
    family = "extra" if name in EXTRA.values() else FAMILY.get(name)
    return Path(family, name) if by_family else Path(name)


CLASSES, FILES = ("n01", "n02", "n03"), ("a.JPEG", "b.JPEG")


def write_pictures(path, names=ALL, size=64, severities=(1, 2, 3, 4, 5), by_family=False):
    "As ImageNet-C's generator: corruption/severity/class/file, quality 85"
    rng = np.random.default_rng(0)
    for name in names:
        for s in severities:
            for c in CLASSES:
                folder = path/folder_of(name, by_family)/str(s)/c
                folder.mkdir(parents=True)
                for f in FILES:
                    small = Image.fromarray(rng.integers(0, 256, (size//8, size//8, 3), np.uint8))
                    small.resize((size, size)).save(folder/f, quality=85, optimize=True)
    return path


def grey_levels(x):
    "Pixels [N, 3, h, w] as 8-bit levels [N, h, w, 3]"
    return (x*255).byte().permute(0, 2, 3, 1).numpy()


# --- every layout, read back ----------------------------------------------------------------------

@pytest.mark.parametrize("names, n, size, classes, dtype, kind", [
    pytest.param(ALL, 20, 32, 10, np.uint8, "CIFAR-C", id="CIFAR-10-C"),
    pytest.param(FIFTEEN, 200, 4, 100, np.int64, "CIFAR-C", id="CIFAR-100-C"),
    pytest.param(BAR["cifar"], 20, 32, 10, np.int64, "CIFAR-C-bar", id="CIFAR-10-C-bar")])
def test_arrays_are_read_back_bit_for_bit(names, n, size, classes, dtype, kind, tmp_path):
    "Mistake 9: a severity axis is returned, and the second severity is the second part of the file"
    pixels = write_arrays(tmp_path/"set", names, n, size, classes, dtype)
    got = corrupted_set(tmp_path/"set")
    assert (got.kind, got.source, got.names, len(got)) == (kind, "official .npy files", names, n)
    assert len(got.classes) == classes
    for name in names:
        x, ds = got.pixels(name), got.images(name, 2)
        assert isinstance(x, np.memmap) and x.shape == pixels[name].shape and np.array_equal(x, pixels[name])
        assert np.array_equal(grey_levels(ds.pixels(range(n))), np.load(tmp_path/f"set/{name}.npy")[n:2*n])
        assert ds.labels.tolist() == [i % classes for i in range(n)]
        assert len(set(ds.ids)) == n and [ds[i][1] for i in (0, 7)] == [0, 7]


FIVE, MAGNITUDES = range(1, 6), ["2.35", "3.20", "4.90", "6.60", "10.00"]


@pytest.mark.parametrize("names, size, severities, by_family, kind", [
    pytest.param(ALL, 64, FIVE, False, "Tiny-ImageNet-C", id="Tiny-ImageNet-C"),
    pytest.param(ALL, 64, FIVE, True, "Tiny-ImageNet-C", id="Tiny-ImageNet-C by family"),
    pytest.param(FIFTEEN, 224, FIVE, True, "ImageNet-C on 3 classes", id="ImageNet-C"),
    pytest.param(BAR["imagenet"], 224, MAGNITUDES, False, "ImageNet-C-bar", id="ImageNet-C-bar by magnitude"),
    pytest.param(BAR["imagenet"], 64, FIVE, False, "ImageNet-C-bar", id="ImageNet-C-bar")])
def test_pictures_are_read_as_pillow_reads_them(names, size, severities, by_family, kind, tmp_path):
    got = corrupted_set(write_pictures(tmp_path/"set", names, size, list(severities), by_family))
    assert (got.kind, got.source, got.names) == (kind, "official JPEG files", names)
    assert (got.classes, len(got)) == (list(CLASSES), 6)
    files = [(c, f) for c in CLASSES for f in FILES]
    for name in (names[0], names[-1]):
        folder, x = tmp_path/"set"/folder_of(name, by_family), got.pixels(name)
        assert x.shape == (5, 6, size, size, 3) and x.dtype == np.uint8
        for k, s in enumerate(severities):
            ds = got.images(name, k+1)
            for i, (c, f) in enumerate(files):
                picture = np.asarray(Image.open(folder/str(s)/c/f))
                assert ds.ids[i] == f"{c}/{f}" and got.classes[ds.labels[i]] == c
                assert np.array_equal(x[k, i], picture) and np.array_equal(grey_levels(ds[i][0][None])[0], picture)


def test_pictures_of_any_suffix_are_read(tmp_path):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16)
    for p in [*path.rglob("b.JPEG")]: p.rename(p.with_name("b.webp"))
    assert len(corrupted_set(path)) == 6


def test_only_the_classes_asked_for_are_read(tmp_path):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16)
    (path/"fog/3/n02/a.JPEG").write_text("no picture")
    got = corrupted_set(path, ["n03", "n01"])
    assert got.classes == ["n03", "n01"] and got.labels.tolist() == [0, 0, 1, 1]
    assert got.ids == ["n03/a.JPEG", "n03/b.JPEG", "n01/a.JPEG", "n01/b.JPEG"]
    with pytest.raises(WrnbError, match="the classes n01, n02, n03; the data n01, n04"):
        corrupted_set(path, ["n01", "n04"])


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path, monkeypatch):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16)
    got, opened, real = corrupted_set(path), [], wrnb.image_sets.read_image
    def read_image(p, *args, **kwargs):
        opened.append(p)
        return real(p, *args, **kwargs)
    monkeypatch.setattr(wrnb.image_sets, "read_image", read_image)
    ds = got.images("snow", 2)
    assert not opened
    ds[3]
    assert {p.relative_to(path).as_posix() for p in opened} == {"snow/2/n02/b.JPEG", "snow/2/n01/a.JPEG"}


def test_a_part_of_a_set(tmp_path):
    pixels = write_arrays(tmp_path/"set", n=40, size=16, classes=4)
    got = corrupted_set(tmp_path/"set")
    part = got.limited(10)
    fog, snow = part.images("fog", 2), part.images("snow", 5)
    assert len(part) == 10 and fog.ids == snow.ids == limited(got.images("fog", 2), 10).ids
    idxs = [int(i) for i in fog.ids]
    assert np.array_equal(part.pixels("fog"), pixels["fog"][:, idxs]) and fog.labels.tolist() == [i % 4 for i in idxs]
    assert len({part.identity, got.identity, got.limited(10, seed=1).identity}) == 3 and got.limited(40) is got


def test_another_picture_makes_another_identity(tmp_path):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16)
    before, first = corrupted_set(path).identity, path/"fog/3/n01/a.JPEG"
    assert corrupted_set(path).identity == before
    first.write_bytes((path/"fog/4/n01/a.JPEG").read_bytes())
    assert corrupted_set(path).identity != before


# --- what we write --------------------------------------------------------------------------------

quiet = pytest.mark.filterwarnings("ignore:preset .* does not fit")  # another preset's constants for 32 px


def jpeg_bytes(x, path):
    "One image [3, h, w] as the official generator writes it"
    Image.fromarray(grey_levels(x[None])[0]).save(path, quality=85, optimize=True)
    return path.read_bytes()


def check_arrays(got, test, expected, name, s):
    ds = got.images(name, s)
    assert [test.classes[y] for y in test.labels] == [ds.classes[y] for y in ds.labels]
    assert torch.equal(ds.pixels(range(len(test))), expected)


def check_jpegs(got, test, expected, name, s, home):
    ds = got.images(name, s)
    order = [test.ids.index("digits/" + Path(i).stem) for i in ds.ids]
    assert [test.classes[test.labels[i]] for i in order] == [ds.classes[y] for y in ds.labels]
    for k, i in enumerate(order):
        assert (home/"set"/name/str(s)/ds.ids[k]).read_bytes() == jpeg_bytes(expected[i], home/"one.JPEG")


@quiet
@pytest.mark.parametrize("preset, kind, source", [
    ("cifar-c", "CIFAR-C", "made by wrnb, .npy"), ("tiny-imagenet-c", "Tiny-ImageNet-C", "made by wrnb, JPEG")])
def test_what_is_written_is_what_the_corruptions_give(preset, kind, source, tmp_path):
    test, names = limited(load_data("digits")[1], 12), ["fog", "gaussian_noise", "saturate"]
    got = save_corrupted(test, tmp_path/"set", names, preset, seed=3, batch_size=5)
    for name in names:
        for s in (1, 5):
            expected = corrupt(test.pixels(range(12)), name, s, preset, 3)
            if "JPEG" in source: check_jpegs(got, test, expected, name, s, tmp_path)
            else: check_arrays(got, test, expected, name, s)
    assert (got.kind, got.source, got.names) == (kind, source, names)
    assert got.made_from(test) and not got.made_from(limited(test, 11))
    stage = json.loads((tmp_path/"set/config.json").read_text())["stages"]["corrupt"]
    options = {"preset": preset, "seed": 3, "n": 12, "name": "digits", "corruptions": names}
    assert options.items() <= stage["options"].items() and {"versions", "commit"} <= set(stage)


def test_official_readers_read_what_we_write(tmp_path):
    "As RobustBench slices CIFAR-10-C: file[(severity-1)*n : severity*n], labels[:n]"
    test = limited(load_data("digits")[1], 10)
    save_corrupted(test, tmp_path/"set", ["contrast"])
    x, y = np.load(tmp_path/"set/contrast.npy"), np.load(tmp_path/"set/labels.npy")
    assert x.shape == (50, 32, 32, 3) and y.tolist() == 5*test.labels.tolist()
    for s in range(1, 6):
        part = torch.tensor(x[(s-1)*10:s*10]).permute(0, 3, 1, 2)/255
        assert torch.equal(part, corrupt(test.pixels(range(10)), "contrast", s))


@quiet
@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
def test_any_dataset_of_any_shape(preset, tmp_path):
    "A plain dataset of rectangular images has neither names nor classes"
    x, y = torch.rand(5, 3, 40, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1, 2, 0])
    got = save_corrupted(TensorDataset(x, y), tmp_path/"set", ["contrast"], preset)
    assert got.pixels("contrast").shape == (5, 5, 40, 24, 3) and got.classes == ["0", "1", "2"]
    ds = got.images("contrast", 2)
    if preset == "cifar-c":
        assert torch.equal(ds.pixels(range(5)), corrupt(x, "contrast", 2, preset)) and ds.labels.tolist() == y.tolist()
    else:
        assert ds.ids == ["0/00001.JPEG", "0/00004.JPEG", "1/00002.JPEG", "2/00000.JPEG", "2/00003.JPEG"]


@quiet
def test_names_of_pictures(tmp_path):
    ids = ["test/cat/x.JPG", "test/cat/y.v2.png", "test/dog/x.jpeg", "test/dog/z"]
    def save(ids, folder):
        ds = ImageSet(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), [0, 0, 1, 1], ["cat", "dog"], ids, "pets")
        return save_corrupted(ds, tmp_path/folder, ["contrast"], "imagenet-c")
    assert save(ids, "set").ids == ["cat/x.JPG", "cat/y.v2.JPEG", "dog/x.jpeg", "dog/z.JPEG"]
    with pytest.raises(WrnbError, match="two images would both be saved as cat/x.JPEG"):
        save(["test/cat/x.tif", "test/cat/x.png", *ids[2:]], "other")
    assert not (tmp_path/"other").exists()


def test_the_same_images_or_not(tmp_path):
    "By hash for ours, by names for pictures, by number and labels for official arrays"
    def images(ids, labels):
        return ImageSet(torch.zeros(len(ids), 3, 16, 16, dtype=torch.uint8), labels, CLASSES, ids, "x")
    ids, right, wrong = [f"val/{c}/{f}.png" for c in CLASSES for f in "ba"], [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 2]
    renamed = [i.replace("/a", "/c") for i in ids]
    got = corrupted_set(write_pictures(tmp_path/"pictures", FIFTEEN, 16))
    assert got.made_from(images(ids, right))
    assert not got.made_from(images(renamed, right)) and not got.made_from(images(ids, wrong))
    write_arrays(tmp_path/"arrays", FIFTEEN, n=6, classes=3)
    got = corrupted_set(tmp_path/"arrays")
    assert got.made_from(images(ids, right)) and not got.made_from(images(ids, wrong))
    assert not got.limited(3).made_from(images(ids[:3], [0, 1, 2]))


# --- evaluated ------------------------------------------------------------------------------------

class Mean(torch.nn.Module):
    "Wrong on dark pictures: it answers 1 for a mean above a half, else 0"
    def forward(self, x): return torch.stack([x.new_full((len(x),), .5), x.mean((1, 2, 3))], 1)


def write_bright_shares(path, n):
    "Arrays in which each cell has its own number of bright pictures; returns these numbers. All labels are 0"
    path.mkdir()
    bright = {(name, s): 5*(s-1) + k for k, name in enumerate(FIFTEEN) for s in FIVE}
    for name in FIFTEEN:
        x = np.zeros((5, n, 16, 16, 3), np.uint8)
        for s in FIVE: x[s-1, :bright[name, s]] = 255
        np.save(path/f"{name}.npy", x.reshape(5*n, 16, 16, 3))
    np.save(path/"labels.npy", np.zeros(5*n, np.uint8))
    return bright


def test_an_evaluation_reads_the_cell_that_it_names(tmp_path):
    "The error in a cell is that of a model that answers 1 for bright pictures"
    n, model = 50, dict(mean=Mean())
    bright = write_bright_shares(tmp_path/"set", n)
    black = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
    clean = ImageSet(black, [0]*n, ["dark", "bright"], [str(i) for i in range(n)], "dark")
    got = corrupted_set(tmp_path/"set")
    got.classes, got.clean = clean.classes, clean
    found = evaluate(model, got, out=tmp_path/"run", device="cpu", batch_size=7)
    t = found.table.set_index(["perturbation", "severity"])
    assert {k: t.n_wrong[k] for k in bright} == bright
    assert (t.n == n).all() and t.n_wrong["clean", 0] == 0 and len(t) == 76
    assert (found.source, found.kind) == ("official .npy files", "CIFAR-C")
    assert found.corruption_error().source["mean"].startswith("official .npy files, all images")
    assert read_evaluation(tmp_path/"run").source == found.source
    some = evaluate(model, got, severities=(5,), families=("noise",), device="cpu").table
    assert some.perturbation.tolist() == ["clean", *CORRUPTIONS["noise"]] and set(some.severity) == {0, 5}
    with pytest.raises(WrnbError, match="evaluate n=50, not 20"):
        evaluate(model, got.limited(20), out=tmp_path/"run", device="cpu")


# --- one set of each layout, to be copied ------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "One set of each layout, to be copied and broken"
    home = tmp_path_factory.mktemp("whole")
    write_arrays(home/"arrays", FIFTEEN, size=16)
    write_arrays(home/"bar", BAR["cifar"], size=16)
    write_pictures(home/"pictures", FIFTEEN, 16)
    write_pictures(home/"families", ALL, 16, by_family=True)
    write_pictures(home/"magnitudes", BAR["imagenet"], 16, ["1.00", "2.50", "3.00", "10.00", "9.00"])
    digits = limited(load_data("digits")[1], 4)
    save_corrupted(digits, home/"ours", ["fog", "snow"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        save_corrupted(digits, home/"our pictures", ["fog", "snow"], "imagenet-c")
    return home


def unfinish(path):
    config = json.loads(path.read_text())
    del config["stages"]["corrupt"]["finished"]
    path.write_text(json.dumps(config))


def first_picture(p): return sorted((p/"fog/3").rglob("*.JPEG"))[0]
def remove(name): return lambda p: shutil.rmtree(p/name) if (p/name).is_dir() else (p/name).unlink()
def array(name, values): return lambda p: np.save(p/name, values, allow_pickle=True)
def replace_by_archive(p): np.savez(open(p/"fog.npy", "wb"), a=1)
def keep_bytes(n): return lambda p: (p/"fog.npy").write_bytes((p/"fog.npy").read_bytes()[:n])
def add_byte(p): (p/"fog.npy").write_bytes((p/"fog.npy").read_bytes() + b"x")
def rename(old, new): return lambda p: (p/old).rename(p/new)
def remove_all_named(p): return [f.unlink() for f in p.rglob(first_picture(p).name)]


# --- parts ----------------------------------------------------------------------------------------

def keep(*names): return lambda p: [remove(d.name)(p) for d in p.iterdir() if d.stem not in names]
def remove_severities(*severities): return lambda p: [shutil.rmtree(p/n/s) for n in FIFTEEN for s in severities]
def remove_everywhere(name): return lambda p: [f.unlink() for f in p.rglob(name)]
def remove_class(name): return lambda p: [shutil.rmtree(d) for d in p.glob(f"*/*/{name}")]
def empty(folder): return lambda p: [f.unlink() for f in (p/folder).rglob("*.JPEG")]


ONLY_FOG = "1 of 15 corruptions (only fog)"
PARTS = {  # what is done to a set -> (which, how, how it is called, its cells, the fewest images in one)
    "one array": ("arrays", keep("fog", "labels"), ONLY_FOG, 5, 4),
    "an array is missing": ("arrays", remove("fog.npy"), "14 of 15 corruptions (without fog)", 70, 4),
    "C-bar has lost one": ("bar", remove("ripple.npy"), "9 of 10 corruptions (without ripple)", 45, 4),
    "one corruption": ("pictures", keep("fog"), ONLY_FOG, 5, 6),
    "one corruption, in its family": ("families", keep("blur"), "4 of 15 corruptions (only defocus_blur,", 20, 6),
    "some severities": ("pictures", remove_severities("2", "4"), "severities 1, 3, 5", 45, 6),
    "a severity is missing": ("pictures", remove("fog/4"), "74 of their 75 cells", 74, 6),
    "a severity is empty": ("pictures", empty("fog/4"), "74 of their 75 cells", 74, 6),
    "a corruption is empty": ("pictures", empty("fog"), "14 of 15 corruptions (without fog)", 70, 6),
    "the mildest severity": ("pictures", remove("gaussian_noise/1"), "74 of their 75 cells", 74, 6),
    "a class is missing": ("pictures", remove("fog/3/n02"), "4 to 6 images per cell", 75, 4),
    "a class is empty": ("pictures", empty("fog/3/n02"), "4 to 6 images per cell", 75, 4),
    "a file is missing": ("pictures", remove("fog/3/n02/a.JPEG"), "5 to 6 images per cell", 75, 5),
    "a file in the first cell": ("pictures", remove("gaussian_noise/1/n02/a.JPEG"), "5 to 6 images", 75, 5),
    "another name": ("pictures", rename("fog/3/n02/a.JPEG", "fog/3/n02/z.JPEG"), "6 to 7 images per cell", 75, 6),
    "one picture of a corruption": ("pictures", lambda p: [keep("3")(p/"fog"), keep("n02")(p/"fog/3"),
                                                           remove("fog/3/n02/a.JPEG")(p)],
                                    "71 of their 75 cells; 1 to 6 images per cell", 71, 1)}


class Dark(torch.nn.Module):
    "Three outputs from the mean of a picture"
    def forward(self, x):
        m = x.mean((1, 2, 3))
        return torch.stack([m, 1 - m, (m - .5).abs()*3], 1)


@pytest.mark.parametrize("case", PARTS)
def test_a_part_is_measured_and_called_partial(case, whole, tmp_path):
    name, how, words, n_cells, fewest = PARTS[case]
    path = Path(shutil.copytree(whole/name, tmp_path/"set"))
    kind = corrupted_set(path).kind
    how(path)
    with pytest.warns(UserWarning, match="is a part of the set: .*; its corruption error is over these alone"):
        got = corrupted_set(path)
    assert got.kind == f"{kind}, partial" and f" files, partial: {words}" in got.source
    model = Mean() if got.path.joinpath("labels.npy").is_file() else Dark()
    found = evaluate(model, got, device="cpu", out=tmp_path/"run")
    assert len(found.table) == n_cells and found.table.n.min() == fewest
    figure = found.corruption_error().iloc[0]
    assert (figure.cells, figure.n) == (n_cells, fewest) and words in figure.source
    assert figure.error == pytest.approx(found.table.error.mean())
    again = read_evaluation(tmp_path/"run")
    assert (again.source, again.kind) == (got.source, got.kind) and again.table.equals(found.table)
    with pytest.raises(WrnbError, match="AlexNet's errors on ImageNet-C, and this table"): found.mce()


@pytest.mark.parametrize("name", ["arrays", "bar", "pictures", "families", "magnitudes", "ours", "our pictures"])
def test_a_whole_set_is_not_called_partial(name, whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = corrupted_set(whole/name)
    assert "partial" not in got.kind + got.source + repr(got)


def counted_by_hand(path, model):
    "For each cell the ids of its pictures that the model gets wrong, and of all"
    cells = {}
    for folder in sorted(path.glob("*/*")):
        files = sorted(folder.glob("*/*.JPEG"))
        x = torch.stack([torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1)/255 for f in files])
        answers = model(x).argmax(1).tolist()
        ids = [f"{f.parent.name}/{f.name}" for f in files]
        wrong = [i for i, f, a in zip(ids, files, answers) if CLASSES.index(f.parent.name) != a]
        cells[folder.parent.name, int(folder.name)] = set(wrong), set(ids)
    return cells


def with_holes(whole, path):
    "A set of three corruptions that lacks a picture here and there"
    shutil.copytree(whole/"pictures", path)
    keep("fog", "snow", "contrast")(path)
    for f in ("fog/1/n01/a.JPEG", "fog/3/n02/a.JPEG", "snow/3/n03/b.JPEG"): (path/f).unlink()
    for d in ("snow/5/n01", "contrast/2", "contrast/4"): shutil.rmtree(path/d)
    return path


@pytest.mark.filterwarnings("ignore:.*is a part of the set")
@pytest.mark.parametrize("how", [{}, dict(per_cell=4), dict(per_cell=5, design="same")])
def test_each_cell_has_its_own_images_and_no_others(whole, tmp_path, how):
    path, models = with_holes(whole, tmp_path/"set"), dict(a=Dark(), b=torch.nn.Sequential(Dark(), Flip()))
    by_hand = {name: counted_by_hand(path, model) for name, model in models.items()}
    got = corrupted_set(path)
    assert len(got.ids) == 6
    found = evaluate(models, got, device="cpu", out=tmp_path/"run", **how)
    for c, index in zip(found.outcomes.cells.itertuples(), found.outcomes.cells["index"]):
        wrong, there = by_hand[c.model][c.perturbation, c.severity]
        asked = {got.ids[i] for i in index}
        assert asked <= there and (how or asked == there) and len(asked) == len(index)
        assert {got.ids[i] for i, w in zip(index, c.wrong) if w} == wrong & asked
    t = found.table
    assert len(t) == 2*13 and set(zip(t.perturbation, t.severity)) == set(by_hand["a"])
    assert t[t.severity == 2].perturbation.unique().tolist() == ["snow", "fog"]
    a, b = (t[t.model == m].error.to_numpy() for m in "ab")
    assert found.difference("a", "b").value == pytest.approx((a - b).mean(), abs=1e-6)
    assert read_evaluation(tmp_path/"run").table.equals(t)


class Flip(torch.nn.Module):
    "The outputs backwards"
    def forward(self, x): return x.flip(1)


@pytest.mark.filterwarnings("ignore:.*is a part of the set")
def test_a_part_that_lost_one_more_picture_is_another_set(whole, tmp_path):
    path = with_holes(whole, tmp_path/"set")
    evaluate(Dark(), corrupted_set(path), device="cpu", out=tmp_path/"run")
    (path/"fog/4/n01/a.JPEG").unlink()
    (path/"fog/1/n01/a.JPEG").write_bytes((path/"fog/2/n01/a.JPEG").read_bytes())
    with pytest.raises(WrnbError, match="evaluate .*data="):
        evaluate(Dark(), corrupted_set(path), device="cpu", out=tmp_path/"run")


@pytest.mark.filterwarnings("ignore:.*is a part of the set")
def test_what_a_part_lacks_is_refused_by_name(whole, tmp_path):
    got = corrupted_set(with_holes(whole, tmp_path/"set"))
    with pytest.raises(WrnbError, match="has no contrast at severity=2: give one of 1, 3, 5"):
        got.images("contrast", 2)
    for name in ("contrast", "fog"):
        with pytest.raises(WrnbError, match=f"has no {name} at|lacks images of {name}"): got.pixels(name)
    only = replace_files(got, {"contrast": got.files["contrast"]})
    with pytest.raises(WrnbError, match="has no images at severities="):
        evaluate(Dark(), only, severities=(2, 4), device="cpu")
    assert set(evaluate(Dark(), only, severities=(1, 2), device="cpu").table.severity) == {1}
    few = got.limited(3, seed=2)
    for name, s in (("fog", 1), ("fog", 3), ("snow", 3), ("fog", 2)):
        there = {got.ids[i] for i in few.idxs if (tmp_path/"set"/name/str(s)/got.ids[i]).is_file()}
        assert set(few.images(name, s).ids) == there


def replace_files(test, files): return dataclasses.replace(test, files=files)


FISH = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark"}


def fish_set(path, wnids, names=("fog",)):
    "Pictures of fish, a shade for each class"
    for name in names:
        for s in FIVE:
            for k, wnid in enumerate(wnids):
                (path/name/str(s)/wnid).mkdir(parents=True)
                Image.new("RGB", (64, 64), (60*k + s,)*3).save(path/name/str(s)/wnid/"a.JPEG")
    return path


class Shades(torch.nn.Module):
    "A thousand classes, answered by the shade: 60 k is class k, 61 to 65 the same"
    def forward(self, x): return -(x.mean((1, 2, 3))[:, None]*255 - 60*torch.arange(1000.)).abs()


@pytest.mark.filterwarnings("ignore:.*is a part of the set")
@pytest.mark.parametrize("classes", [list(WNIDS), list(WNIDS.values())], ids=["ids", "names"])
@pytest.mark.parametrize("names", [("fog",), FIFTEEN[:1]])
def test_some_classes_of_imagenet_c_for_a_model_of_all(tmp_path, classes, names):
    "Its answers are over all thousand classes, as in the whole set"
    got = corrupted_set(fish_set(tmp_path/"set", list(FISH), names), classes)
    assert got.classes == classes and got.labels.tolist() == [0, 1, 2] and "3 of 1000 classes" in got.source
    assert evaluate(Shades(), got, device="cpu").table.n_wrong.tolist() == [0]*5
    class Other(Shades):
        def forward(self, x): return torch.cat([super().forward(x)[:, :-1], torch.ones(len(x), 1)], 1)
    assert evaluate(Other(), got, device="cpu").table.n_wrong.tolist() == [3]*5


@pytest.mark.filterwarnings("ignore:.*is a part of the set")
@pytest.mark.parametrize("own, classes, labels", [
    (list(FISH), ["goldfish", "tench"], {"n01443537": 0, "n01440764": 1}),
    (list(FISH), ["great white shark", "goldfish", "tench"], {"n01440764": 2, "n01443537": 1, "n01484850": 0}),
    (["goldfish", "tench"], ["n01440764", "n01443537"], {"goldfish": 1, "tench": 0}),
    (list(FISH), ["n01443537", "n01491361"], {"n01443537": 0}),  # a tiger shark was not downloaded
    (["cat", "dog"], ["dog", "cat", "frog"], {"cat": 1, "dog": 0})])
def test_classes_are_matched_by_name_and_id(tmp_path, own, classes, labels):
    got = corrupted_set(fish_set(tmp_path/"set", own), classes)
    assert {i.split("/")[0]: y for i, y in zip(got.ids, got.labels)} == labels
    k = len(labels)
    assert (f"{k} of {len(classes)} classes" in got.source) == (k < len(classes))


@pytest.mark.parametrize("own, classes", [
    (list(FISH), ["cat", "dog"]), (["cat", "dog"], ["cat", "frog"]), (["goldfish", "n01443537"], ["goldfish"])])
def test_classes_that_do_not_fit_are_refused(tmp_path, own, classes):
    with pytest.raises(WrnbError, match="classes|two folders for one class"):
        corrupted_set(fish_set(tmp_path/"set", own), classes)


# --- broken ---------------------------------------------------------------------------------------


ARRAYS = {  # what is done to an official set of arrays -> (how, what the line says)
    "the labels are missing": (remove("labels.npy"), "{p}/labels.npy is missing"),
    "an array is cut off": (lambda p: cut(p/"fog.npy", 100), "{p}/fog.npy cannot be read"),
    "an array is cut off in its header": (keep_bytes(40), "{p}/fog.npy cannot be read"),
    "an array is empty": (keep_bytes(0), "{p}/fog.npy cannot be read"),
    "an array has more than its header says": (add_byte, "{p}/fog.npy has 15489 bytes, not 15488"),
    "a page of the web": (lambda p: (p/"fog.npy").write_text("<!doctype html>"), "{p}/fog.npy cannot be read"),
    "an archive instead of an array": (replace_by_archive, "{p}/fog.npy is an archive"),
    "a pickle": (array("fog.npy", np.array([{}])), "{p}/fog.npy cannot be read"),
    "labels that are a pickle": (array("labels.npy", np.array([{}])), "{p}/labels.npy cannot be read"),
    "floats": (array("fog.npy", np.zeros((20, 16, 16, 3))),
               "{p}/fog.npy holds float64 [20, 16, 16, 3], not uint8 [20, height, width, 3]"),
    "channels first": (array("fog.npy", np.zeros((20, 3, 16, 16), np.uint8)),
                       "{p}/fog.npy holds uint8 [20, 3, 16, 16]"),
    "one severity": (array("fog.npy", np.zeros((4, 16, 16, 3), np.uint8)),
                     "{p}/fog.npy holds uint8 [4, 16, 16, 3], not uint8 [20, "),
    "a severity axis": (array("fog.npy", np.zeros((5, 4, 16, 16, 3), np.uint8)),
                        "{p}/fog.npy holds uint8 [5, 4, 16, 16, 3]"),
    "another size": (array("fog.npy", np.zeros((20, 32, 32, 3), np.uint8)),
                     "{p}/fog.npy has pictures of another size"),
    "labels of one severity": (array("labels.npy", np.arange(4)),
                               "{p}/labels.npy holds 4 labels that do not repeat five times"),
    "labels in another order": (array("labels.npy", np.repeat([0, 1, 0, 1], 5)),
                                "{p}/labels.npy holds 20 labels that do not repeat"),
    "labels that are floats": (array("labels.npy", np.zeros(20)),
                               "{p}/labels.npy holds float64 [20], not integers"),
    "a label below 0": (array("labels.npy", np.tile([-1, 0, 1, 2], 5)), "{p}/labels.npy has label -1: number"),
    "labels in rows": (array("labels.npy", np.zeros((5, 4), int)), "{p}/labels.npy holds int64 [5, 4]"),
    "all of them but the labels": (lambda p: [f.unlink() for f in p.iterdir() if f.stem != "labels"],
                                   "{p} holds no corrupted set"),
    "C-bar among the fifteen": (lambda p: shutil.copy(p/"fog.npy", p/"ripple.npy"), "holds ripple of C-bar"),
    "nothing": (lambda p: [f.unlink() for f in p.iterdir()], "{p} holds no corrupted set")}
PICTURES = {  # as above, of an official set of pictures
    "a severity too many": (lambda p: (p/"fog/6").mkdir(), "{p}/fog holds 6 severities, not 5"),
    "a severity twice": (lambda p: [(p/"fog/4").rename(p/"fog/4x"), (p/"fog/01").mkdir()],
                         "{p}/fog has severity 1 twice"),
    "no severity": (lambda p: (p/"fog/4").rename(p/"fog/9"), "{p}/fog/9 is not a severity from 1 to 5"),
    "no picture anywhere": (lambda p: [f.unlink() for f in p.rglob("*.JPEG")], "holds no images"),
    "a picture of another size": (lambda p: Image.new("RGB", (32, 32)).save(first_picture(p)),
                                  "{p}/fog/3/n01/a.JPEG is of another size"),
    "a cut picture": (lambda p: cut(first_picture(p), 100), "{p}/fog/3/n01/a.JPEG cannot be read as an image")}
OTHERS = {  # as above, with the set's name first
    "a magnitude is missing": ("magnitudes", remove("sparkles/2.50"), "{p}/sparkles"),
    "ours was not finished": ("ours", lambda p: unfinish(p/"config.json"), "{p} "),
    "ours has lost an array": ("ours", remove("fog.npy"), "{p}/fog.npy is missing"),
    "ours has another config": ("ours", lambda p: (p/"config.json").write_text("{"),
                                "{p}/config.json is missing or damaged"),
    "our pictures have lost a class": ("our pictures", lambda p: shutil.rmtree(first_picture(p).parent),
                                       "is missing: the set is not whole"),
    "our pictures have lost a severity": ("our pictures", remove("fog/4"), "{p}/fog/4 is missing"),
    "our pictures have lost a corruption": ("our pictures", remove("fog"), "{p}/fog is missing"),
    "our pictures have lost one": ("our pictures", lambda p: first_picture(p).unlink(),
                                   "is missing: the set is not whole"),
    "our pictures have lost one in every cell": ("our pictures", remove_all_named, "holds 3 images")}
BROKEN = ({case: ("arrays", *how) for case, how in ARRAYS.items()}
          | {case: ("pictures", *how) for case, how in PICTURES.items()} | OTHERS)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_says_which_file(case, whole, tmp_path):
    name, break_it, words = BROKEN[case]
    path = Path(shutil.copytree(whole/name, tmp_path/"set"))
    corrupted_set(path)
    break_it(path)
    with pytest.raises(WrnbError) as e: corrupted_set(path)
    assert words.format(p=path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("how, words", [
    pytest.param(lambda p: cut(p, 100), "cannot be read as an image", id="cut off"),
    pytest.param(lambda p: Image.new("RGB", (32, 16)).save(p), "is 16 x 32 pixels, not 16 x 16", id="of another size")])
def test_a_broken_picture_is_named_when_it_is_read(how, words, whole, tmp_path):
    "A file that is not the first of its cell is not decoded before its turn"
    path = Path(shutil.copytree(whole/"pictures", tmp_path/"set"))
    how(path/"fog/3/n02/b.JPEG")
    got = corrupted_set(path)
    models = dict(m=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3)))
    for workers in (0, 1):
        with pytest.raises(WrnbError, match=words) as e:
            evaluate(models, got, severities=(3,), families=("weather",), device="cpu", workers=workers)
        assert str(e.value).startswith(f"{path}/fog/3/n02/b.JPEG") and "\n" not in str(e.value)


@pytest.mark.parametrize("name, classes, words", [
    ("arrays", list("abcde"), "labels.npy counts 2 classes, the data 5"),
    ("ours", ["cat", "dog"], "the classes 0, 1, .*; the data cat, dog"),
    ("pictures", ["cat"], "the classes n01, n02, n03; the data cat")])
def test_other_classes(name, classes, words, whole):
    with pytest.raises(WrnbError, match=words): corrupted_set(whole/name, classes)


def test_labels_from_1_are_refused(whole, tmp_path):
    path = Path(shutil.copytree(whole/"arrays", tmp_path/"set"))
    np.save(path/"labels.npy", np.load(path/"labels.npy") + 1)
    with pytest.raises(WrnbError, match="labels.npy has label 2, but 2 classes: number them from 0"):
        corrupted_set(path, ["cat", "dog"])


def test_what_a_set_does_not_have(whole):
    for path in (whole/"nowhere", whole/"arrays/fog.npy"):
        with pytest.raises(WrnbError, match=str(path)): corrupted_set(path)
    got = corrupted_set(whole/"arrays")
    for args, words in ((("rain", 1), "rain"), (("fog", 0), "severity=0"), (("fog", 6), "severity=6")):
        with pytest.raises(WrnbError, match=words): got.images(*args)
    with pytest.raises(WrnbError, match="sound.* blur, digital, noise, weather"):
        evaluate(dict(m=Mean()), got, families=("sound",), device="cpu")


def test_the_folder_of_something_else_is_refused(whole):
    digits = limited(load_data("digits")[1], 4)
    for path in ("arrays", "pictures"):
        with pytest.raises(WrnbError, match="is not empty and was not made by wrnb corrupt"):
            save_corrupted(digits, whole/path, ["fog"])
    right = dict(ds=digits, out=whole/"ours", names=["fog", "snow"])
    for wrong, words in ((dict(seed=1), "seed=0, not 1"), (dict(names=["fog"]), "corruptions="),
                         (dict(ds=limited(digits, 3)), "data=")):
        with pytest.raises(WrnbError, match=words): save_corrupted(**(right | wrong))


def test_bad_options_leave_no_folder(tmp_path):
    digits = limited(load_data("digits")[1], 4)
    right = dict(ds=digits, out=tmp_path/"new")
    for wrong, words in ((dict(names=["rain"]), "rain"), (dict(preset="mnist-c"), "mnist-c"),
                         (dict(batch_size=0), "batch_size=0"), (dict(seed=-1), "seed=-1"),
                         (dict(ds=digits.take([])), "no images")):
        with pytest.raises(WrnbError, match=words): save_corrupted(**(right | wrong))
    for x in (torch.zeros(3, 12, 32), torch.full((3, 32, 32), 2.)):  # too small for some, and too bright
        with pytest.raises(WrnbError): save_corrupted([(x, 0)], tmp_path/"new")
    assert not (tmp_path/"new").exists()


# --- properties -----------------------------------------------------------------------------------

same_folder = [HealthCheck.function_scoped_fixture]


@settings(max_examples=25, deadline=None, suppress_health_check=same_folder)
@given(n=st.integers(1, 9), size=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 99),
       name=st.sampled_from(FIFTEEN), severity=st.integers(1, 5), fortran=st.booleans())
def test_any_arrays_come_back(n, size, seed, name, severity, fortran, tmp_path):
    folder, rng = tmp_path/"set", np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    x, y = rng.integers(0, 256, (5*n, *size, 3), np.uint8), rng.integers(0, 9, n)
    for c in FIFTEEN: np.save(folder/f"{c}.npy", np.asfortranarray(x) if fortran and c == name else x)
    np.save(folder/"labels.npy", np.tile(y, 5))
    ds = corrupted_set(folder).images(name, severity)
    assert np.array_equal(grey_levels(ds.pixels(range(n))), x[(severity-1)*n:severity*n])
    assert ds.labels.tolist() == y.tolist()


@st.composite
def damaged(draw, raw):
    "Bytes with some of the header changed, and perhaps cut off anywhere"
    b = bytearray(raw)
    for _ in range(draw(st.integers(0, 3))): b[draw(st.integers(0, 127))] = draw(st.integers(0, 255))
    end = draw(st.sampled_from([len(b)]*3 + [draw(st.integers(0, len(b)))]))
    return bytes(b[:end])


@settings(max_examples=150, deadline=None, suppress_health_check=same_folder)
@given(data=st.data())
def test_a_damaged_array_is_refused_or_still_whole(data, whole, tmp_path):
    "One line, or an array of the right shape, and nothing is run"
    path = tmp_path/"set"
    if not path.exists(): shutil.copytree(whole/"arrays", path)
    (path/"fog.npy").write_bytes(data.draw(damaged((whole/"arrays/fog.npy").read_bytes())))
    try: got = corrupted_set(path)
    except WrnbError as e: assert "\n" not in str(e) and "fog.npy" in str(e)
    else: assert got.pixels("fog").shape == (5, 4, 16, 16, 3) and got.pixels("fog").dtype == np.uint8
