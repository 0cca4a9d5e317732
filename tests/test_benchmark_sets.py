"""Corrupted sets on disk: every layout is written here by its own rules, and read back; then broken in every way that a download breaks."""
import json, shutil, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from torch.utils.data import TensorDataset

import wrnb.image_sets
from wrnb.corrupted_sets import C_BAR, corrupted_set, save_corrupted
from wrnb.benchmark import evaluate, read_evaluation
from wrnb.core import WrnbError
from wrnb.corruptions import CORRUPTIONS, EXTRA, FAMILY, corrupt
from wrnb.data import ImageSet, limited, load_data

FIFTEEN, ALL = sum(CORRUPTIONS.values(), []), [*sum(CORRUPTIONS.values(), []), *EXTRA.values()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_arrays(path, names=ALL, n=4, size=32, classes=2, dtype=np.uint8):
    "As CIFAR-10-C's generator: severities stacked, labels five times; returns the pixels"
    path.mkdir(parents=True); rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (5, n, size, size, 3), np.uint8) for name in names}
    for name, x in pixels.items(): np.save(path/f"{name}.npy", x.reshape(5*n, size, size, 3))
    np.save(path/"labels.npy", np.tile(np.arange(n) % classes, 5).astype(dtype))
    return pixels


def write_pictures(path, names=ALL, size=64, classes=("n01", "n02", "n03"), files=("a.JPEG", "b.JPEG"), severities=(1, 2, 3, 4, 5), families=False):
    "As ImageNet-C's generator: corruption/severity/class/file, quality 85; with `families` as its archives unpack"
    rng = np.random.default_rng(0)
    for name in names:
        top = path/("extra" if name in EXTRA.values() else FAMILY[name])/name if families else path/name
        for s in severities:
            for c in classes:
                (top/str(s)/c).mkdir(parents=True)
                for f in files: Image.fromarray(rng.integers(0, 256, (size//8, size//8, 3), np.uint8)).resize((size, size)).save(top/str(s)/c/f, quality=85, optimize=True)
    return path


# --- every layout, read back -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("names, classes, dtype, kind", [
    (ALL, 10, np.uint8, "CIFAR-C"), (FIFTEEN, 100, np.int64, "CIFAR-C"), (C_BAR["CIFAR-C-bar"], 10, np.int64, "CIFAR-C-bar")], ids=["CIFAR-10-C", "CIFAR-100-C", "CIFAR-10-C-bar"])
def test_arrays_are_read_back_bit_for_bit(names, classes, dtype, kind, tmp_path):
    "Mistake 9: a severity axis is returned, and the second severity is the second part of the file"
    pixels = write_arrays(tmp_path/"set", names, 200, 4, classes, dtype) if classes == 100 else write_arrays(tmp_path/"set", names, 20, 32, classes, dtype)
    got = corrupted_set(tmp_path/"set"); n = len(got)
    assert (got.kind, got.source, got.names, len(got.classes)) == (kind, "official .npy files", names, classes)
    for name in names:
        x = got.pixels(name)
        assert isinstance(x, np.memmap) and x.shape == pixels[name].shape and np.array_equal(x, pixels[name])
        ds = got.images(name, 2)
        assert np.array_equal((ds.pixels(range(n))*255).byte().permute(0, 2, 3, 1).numpy(), np.load(tmp_path/f"set/{name}.npy")[n:2*n])
        assert ds.labels.tolist() == [i % classes for i in range(n)] and len(set(ds.ids)) == n and [ds[i][1] for i in (0, 7)] == [0, 7]


@pytest.mark.parametrize("names, size, severities, families, kind", [
    (ALL, 64, range(1, 6), False, "Tiny-ImageNet-C"), (ALL, 64, range(1, 6), True, "Tiny-ImageNet-C"), (FIFTEEN, 224, range(1, 6), True, "ImageNet-C on 3 classes"),
    (C_BAR["ImageNet-C-bar"], 224, ["2.35", "3.20", "4.90", "6.60", "10.00"], False, "ImageNet-C-bar"), (C_BAR["ImageNet-C-bar"], 64, range(1, 6), False, "ImageNet-C-bar")],
    ids=["Tiny-ImageNet-C", "Tiny-ImageNet-C by family", "ImageNet-C", "ImageNet-C-bar by magnitude", "ImageNet-C-bar"])
def test_pictures_are_read_as_pillow_reads_them(names, size, severities, families, kind, tmp_path):
    got = corrupted_set(write_pictures(tmp_path/"set", names, size, severities=list(severities), families=families))
    assert (got.kind, got.source, got.names, got.classes, len(got)) == (kind, "official JPEG files", names, ["n01", "n02", "n03"], 6)
    for name in (names[0], names[-1]):
        top = next((tmp_path/"set").rglob(name)); x = got.pixels(name)
        assert x.shape == (5, 6, size, size, 3) and x.dtype == np.uint8
        for k, s in enumerate(severities):
            ds = got.images(name, k+1)
            for i, (c, f) in enumerate((c, f) for c in got.classes for f in ("a.JPEG", "b.JPEG")):
                want = np.asarray(Image.open(top/str(s)/c/f))
                assert ds.ids[i] == f"{c}/{f}" and got.classes[ds.labels[i]] == c
                assert np.array_equal(x[k, i], want) and np.array_equal((ds[i][0]*255).byte().permute(1, 2, 0), want)


def test_only_the_classes_asked_for_are_read(tmp_path):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16); (path/"fog/3/n02/a.JPEG").write_text("no picture")
    got = corrupted_set(path, ["n03", "n01"])
    assert got.classes == ["n03", "n01"] and got.ids == ["n03/a.JPEG", "n03/b.JPEG", "n01/a.JPEG", "n01/b.JPEG"] and got.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(WrnbError, match="n04 is missing or holds no images"): corrupted_set(path, ["n01", "n04"])


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path, monkeypatch):
    path = write_pictures(tmp_path/"set", FIFTEEN, 16); got, read = corrupted_set(path), []
    monkeypatch.setattr(wrnb.image_sets, "read_image", lambda p, size=None, f=wrnb.image_sets.read_image: (read.append(p), f(p, size))[1])
    ds = got.images("snow", 2); assert not read
    ds[3]; assert {p.relative_to(path).as_posix() for p in read} <= {"snow/2/n02/b.JPEG", "snow/2/n01/a.JPEG"}


def test_a_part_of_a_set(tmp_path):
    pixels = write_arrays(tmp_path/"set", n=40, size=16, classes=4); got = corrupted_set(tmp_path/"set"); part = got.limited(10)
    assert len(part) == 10 and part.images("fog", 2).ids == part.images("snow", 5).ids == limited(got.images("fog", 2), 10).ids
    i = [int(i) for i in part.images("fog", 2).ids]
    assert np.array_equal(part.pixels("fog"), pixels["fog"][:, i]) and part.images("fog", 2).labels.tolist() == [k % 4 for k in i]
    assert len({part.identity, got.identity, got.limited(10, seed=1).identity}) == 3 and got.limited(40) is got


# --- what we write -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("preset, kind, source", [("cifar-c", "CIFAR-C", "made by wrnb, .npy"), ("tiny-imagenet-c", "Tiny-ImageNet-C", "made by wrnb, JPEG")])
def test_what_is_written_is_what_the_corruptions_give(preset, kind, source, tmp_path):
    test = limited(load_data("digits")[1], 12); names = ["fog", "gaussian_noise", "saturate"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tiny-imagenet-c's constants for 32 px
        got = save_corrupted(test, tmp_path/"set", names, preset, seed=3, batch_size=5)
        for name in names:
            for s in (1, 5):
                want, ds = corrupt(test.pixels(range(12)), name, s, preset, 3), got.images(name, s)
                order = [test.ids.index("digits/" + Path(i).stem) for i in ds.ids] if "JPEG" in source else range(12)
                assert [test.classes[test.labels[i]] for i in order] == [ds.classes[y] for y in ds.labels]
                if "JPEG" not in source: assert torch.equal(ds.pixels(range(12)), want)
                else:
                    for k, i in enumerate(order):
                        Image.fromarray((want[i]*255).byte().permute(1, 2, 0).numpy()).save(tmp_path/"one.JPEG", quality=85, optimize=True)
                        assert (tmp_path/f"set/{name}/{s}"/ds.ids[k]).read_bytes() == (tmp_path/"one.JPEG").read_bytes()
    assert (got.kind, got.source, got.names) == (kind, source, names) and got.made_from(test) and not got.made_from(limited(test, 11))
    options = json.loads((tmp_path/"set/config.json").read_text())["stages"]["corrupt"]
    assert {"preset": preset, "seed": 3, "n": 12, "name": "digits", "corruptions": names}.items() <= options["options"].items() and {"versions", "commit"} <= set(options)


def test_official_readers_read_what_we_write(tmp_path):
    "As RobustBench slices CIFAR-10-C: file[(severity-1)*n : severity*n], labels[:n]"
    test = limited(load_data("digits")[1], 10); save_corrupted(test, tmp_path/"set", ["contrast"])
    x, y = np.load(tmp_path/"set/contrast.npy"), np.load(tmp_path/"set/labels.npy")
    assert x.shape == (50, 32, 32, 3) and y.tolist() == 5*test.labels.tolist()
    for s in range(1, 6): assert torch.equal(torch.tensor(x[(s-1)*10:s*10]).permute(0, 3, 1, 2)/255, corrupt(test.pixels(range(10)), "contrast", s))


@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
def test_any_dataset_of_any_shape(preset, tmp_path):
    "A plain dataset of rectangular images has neither names nor classes"
    x, y = torch.rand(5, 3, 40, 24, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1, 2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        got = save_corrupted(TensorDataset(x, y), tmp_path/"set", ["contrast"], preset)
        assert got.pixels("contrast").shape == (5, 5, 40, 24, 3) and got.classes == ["0", "1", "2"]
        ds = got.images("contrast", 2)
        if preset == "cifar-c": assert torch.equal(ds.pixels(range(5)), corrupt(x, "contrast", 2, preset)) and ds.labels.tolist() == y.tolist()
        else: assert ds.ids == ["0/00001.JPEG", "0/00004.JPEG", "1/00002.JPEG", "2/00000.JPEG", "2/00003.JPEG"]


def test_names_of_pictures(tmp_path):
    ids = ["test/cat/x.JPG", "test/cat/y.v2.png", "test/dog/x.jpeg", "test/dog/z"]
    ds = ImageSet(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), [0, 0, 1, 1], ["cat", "dog"], ids, "pets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert save_corrupted(ds, tmp_path/"set", ["contrast"], "imagenet-c").ids == ["cat/x.JPG", "cat/y.v2.JPEG", "dog/x.jpeg", "dog/z.JPEG"]
        ds.ids[1] = "test/cat/x.png"; ds.ids[0] = "test/cat/x.tif"
        with pytest.raises(WrnbError, match="two images would both be saved as cat/x.JPEG"): save_corrupted(ds, tmp_path/"other", ["contrast"], "imagenet-c")
    assert not (tmp_path/"other").exists()


def test_the_same_images_or_not(tmp_path):
    "By hash for ours, by names for pictures, by number and labels for official arrays"
    path = write_pictures(tmp_path/"pictures", FIFTEEN, 16); got = corrupted_set(path)
    def images(ids, labels, classes=("n01", "n02", "n03")): return ImageSet(torch.zeros(len(ids), 3, 16, 16, dtype=torch.uint8), labels, classes, ids, "x")
    ids = [f"val/{c}/{f}.png" for c in ("n01", "n02", "n03") for f in "ba"]
    assert got.made_from(images(ids, [0, 0, 1, 1, 2, 2]))
    assert not got.made_from(images([i.replace("/a", "/c") for i in ids], [0, 0, 1, 1, 2, 2])) and not got.made_from(images(ids, [0, 0, 0, 1, 2, 2]))
    write_arrays(tmp_path/"arrays", FIFTEEN, n=6, classes=3); got = corrupted_set(tmp_path/"arrays")
    assert got.made_from(images(ids, [0, 0, 1, 1, 2, 2])) and not got.made_from(images(ids, [0, 0, 0, 1, 2, 2])) and not got.limited(3).made_from(images(ids[:3], [0, 1, 2]))


# --- evaluated ---------------------------------------------------------------------------------------------------------

class Mean(torch.nn.Module):
    "Wrong on dark pictures: it answers 1 for a mean above a half, else 0"
    def forward(self, x): return torch.stack([x.new_full((len(x),), .5), x.mean((1, 2, 3))], 1)


def test_an_evaluation_reads_the_cell_that_it_names(tmp_path):
    "Each cell has its own share of bright pictures, which is the error of a model that answers 1 for these; all labels are 0"
    n, names = 50, FIFTEEN; (tmp_path/"set").mkdir(); want = {}
    for k, name in enumerate(names):
        x = np.zeros((5, n, 16, 16, 3), np.uint8)
        for s in range(5): want[name, s+1] = 5*s + k; x[s, :5*s + k] = 255
        np.save(tmp_path/f"set/{name}.npy", x.reshape(5*n, 16, 16, 3))
    np.save(tmp_path/"set/labels.npy", np.zeros(5*n, np.uint8))
    clean = ImageSet(torch.zeros(n, 3, 16, 16, dtype=torch.uint8), [0]*n, ["dark", "bright"], [str(i) for i in range(n)], "dark")
    got = corrupted_set(tmp_path/"set"); got.classes = clean.classes; got.clean = clean
    found = evaluate(dict(mean=Mean()), got, out=tmp_path/"run", device="cpu", batch_size=7); t = found.table.set_index(["perturbation", "severity"])
    assert {k: t.n_wrong[k] for k in want} == want and (t.n == n).all() and t.n_wrong["clean", 0] == 0 and len(t) == 76
    assert (found.source, found.kind, found.corruption_error().source["mean"]) == ("official .npy files", "CIFAR-C", "official .npy files")
    assert read_evaluation(tmp_path/"run") .source == found.source
    some = evaluate(dict(mean=Mean()), got, severities=(5,), families=("noise",), device="cpu").table
    assert some.perturbation.tolist() == ["clean", *CORRUPTIONS["noise"]] and set(some.severity) == {0, 5}
    other = got.limited(20)
    with pytest.raises(WrnbError, match="evaluate n=50, not 20"): evaluate(dict(mean=Mean()), other, out=tmp_path/"run", device="cpu")


# --- broken ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "One set of each layout, to be copied and broken"
    home = tmp_path_factory.mktemp("whole")
    write_arrays(home/"arrays", FIFTEEN, size=16); write_arrays(home/"bar", C_BAR["CIFAR-C-bar"], size=16)
    write_pictures(home/"pictures", FIFTEEN, 16); write_pictures(home/"families", ALL, 16, families=True)
    write_pictures(home/"magnitudes", C_BAR["ImageNet-C-bar"], 16, severities=["1.00", "2.50", "3.00", "10.00", "9.00"])
    digits = limited(load_data("digits")[1], 4)
    save_corrupted(digits, home/"ours", ["fog", "snow"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning); save_corrupted(digits, home/"our pictures", ["fog", "snow"], "imagenet-c")
    return home


def cut(p, n=100): p.write_bytes(p.read_bytes()[:-n])
def unfinish(p): c = json.loads(p.read_text()); del c["stages"]["corrupt"]["finished"]; p.write_text(json.dumps(c))
def first_picture(p): return sorted((p/"fog/3").rglob("*.JPEG"))[0]


BROKEN = {  # what is done -> (the set, how, what the line says)
    "an array is missing": ("arrays", lambda p: (p/"fog.npy").unlink(), "{p}/fog.npy is missing"),
    "the labels are missing": ("arrays", lambda p: (p/"labels.npy").unlink(), "{p}/labels.npy is missing"),
    "an array is cut off": ("arrays", lambda p: cut(p/"fog.npy"), "{p}/fog.npy cannot be read"),
    "an array is cut off in its header": ("arrays", lambda p: (p/"fog.npy").write_bytes((p/"fog.npy").read_bytes()[:40]), "{p}/fog.npy cannot be read"),
    "an array is empty": ("arrays", lambda p: (p/"fog.npy").write_bytes(b""), "{p}/fog.npy cannot be read"),
    "an array has more than its header says": ("arrays", lambda p: (p/"fog.npy").write_bytes((p/"fog.npy").read_bytes() + b"x"), "{p}/fog.npy has 15489 bytes, not 15488"),
    "a page of the web instead of an array": ("arrays", lambda p: (p/"fog.npy").write_text("<!doctype html>"), "{p}/fog.npy cannot be read"),
    "an archive instead of an array": ("arrays", lambda p: (np.savez(p/"x.npz", a=1), (p/"x.npz").rename(p/"fog.npy")), "{p}/fog.npy is an archive"),
    "a pickle": ("arrays", lambda p: np.save(p/"fog.npy", np.array([{}]), allow_pickle=True), "{p}/fog.npy cannot be read"),
    "labels that are a pickle": ("arrays", lambda p: np.save(p/"labels.npy", np.array([{}]), allow_pickle=True), "{p}/labels.npy cannot be read"),
    "floats": ("arrays", lambda p: np.save(p/"fog.npy", np.zeros((20, 16, 16, 3))), "{p}/fog.npy holds float64 [20, 16, 16, 3], not uint8 [20, height, width, 3]"),
    "channels first": ("arrays", lambda p: np.save(p/"fog.npy", np.zeros((20, 3, 16, 16), np.uint8)), "{p}/fog.npy holds uint8 [20, 3, 16, 16]"),
    "one severity": ("arrays", lambda p: np.save(p/"fog.npy", np.zeros((4, 16, 16, 3), np.uint8)), "{p}/fog.npy holds uint8 [4, 16, 16, 3], not uint8 [20, "),
    "a severity axis": ("arrays", lambda p: np.save(p/"fog.npy", np.zeros((5, 4, 16, 16, 3), np.uint8)), "{p}/fog.npy holds uint8 [5, 4, 16, 16, 3]"),
    "another size": ("arrays", lambda p: np.save(p/"fog.npy", np.zeros((20, 32, 32, 3), np.uint8)), "{p}/fog.npy has pictures of another size"),
    "labels of one severity": ("arrays", lambda p: np.save(p/"labels.npy", np.arange(4)), "{p}/labels.npy holds 4 labels that do not repeat five times"),
    "labels in another order": ("arrays", lambda p: np.save(p/"labels.npy", np.repeat([0, 1, 0, 1], 5)), "{p}/labels.npy holds 20 labels that do not repeat"),
    "labels that are floats": ("arrays", lambda p: np.save(p/"labels.npy", np.zeros(20)), "{p}/labels.npy holds float64 [20], not integers"),
    "labels in rows": ("arrays", lambda p: np.save(p/"labels.npy", np.zeros((5, 4), int)), "{p}/labels.npy holds int64 [5, 4]"),
    "C-bar has lost one": ("bar", lambda p: (p/"ripple.npy").unlink(), "{p}/ripple.npy is missing"),
    "C-bar among the fifteen": ("arrays", lambda p: shutil.copy(p/"fog.npy", p/"ripple.npy"), "holds ripple of C-bar next to the common corruptions"),
    "nothing": ("arrays", lambda p: [f.unlink() for f in p.iterdir()], "{p} holds no corrupted set"),
    "a corruption is missing": ("pictures", lambda p: shutil.rmtree(p/"fog"), "{p}/fog is missing"),
    "a family is missing": ("families", lambda p: shutil.rmtree(p/"blur"), "defocus_blur is missing"),
    "a severity is missing": ("pictures", lambda p: shutil.rmtree(p/"fog/4"), "{p}/fog/4 is missing"),
    "a severity too many": ("pictures", lambda p: (p/"fog/6").mkdir(), "{p}/fog holds 6 severities, not 5"),
    "a magnitude is missing": ("magnitudes", lambda p: shutil.rmtree(p/"sparkles/2.50"), "{p}/sparkles"),
    "a class is missing": ("pictures", lambda p: shutil.rmtree(p/"fog/3/n02"), "{p}/fog/3/n02 is missing or holds no images"),
    "a file is missing": ("pictures", lambda p: (p/"fog/3/n02/a.JPEG").unlink(), "{p}/fog/3/n02/a.JPEG is missing"),
    "a file is missing in the first cell": ("pictures", lambda p: (p/"gaussian_noise/1/n02/a.JPEG").unlink(), "{p}/gaussian_noise/1/n02/a.JPEG is missing"),
    "a file under another name": ("pictures", lambda p: (p/"fog/3/n02/a.JPEG").rename(p/"fog/3/n02/z.JPEG"), "{p}/fog/3/n02/a.JPEG is missing"),
    "a picture of another size": ("pictures", lambda p: Image.new("RGB", (32, 32)).save(first_picture(p)), "{p}/fog/3/n01/a.JPEG is of another size"),
    "a cut picture": ("pictures", lambda p: cut(first_picture(p)), "{p}/fog/3/n01/a.JPEG cannot be read as an image"),
    "ours was not finished": ("ours", lambda p: unfinish(p/"config.json"), "{p} is incomplete: run the same wrnb corrupt command again"),
    "ours has lost an array": ("ours", lambda p: (p/"fog.npy").unlink(), "{p}/fog.npy is missing"),
    "ours has another config": ("ours", lambda p: (p/"config.json").write_text("{"), "{p}/config.json is missing or damaged"),
    "our pictures have lost one": ("our pictures", lambda p: first_picture(p).unlink(), "is missing: the set is not whole"),
    "our pictures have lost one in every cell": ("our pictures", lambda p: [f.unlink() for f in p.rglob(first_picture(p).name)], "holds 3 images per severity, not 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_set_says_which_file(case, whole, tmp_path):
    name, break_it, says = BROKEN[case]; path = Path(shutil.copytree(whole/name, tmp_path/"set"))
    corrupted_set(path); break_it(path)
    with pytest.raises(WrnbError) as e: corrupted_set(path)
    assert says.format(p=path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("how, says", [(lambda p: cut(p), "cannot be read as an image"), (lambda p: Image.new("RGB", (32, 16)).save(p), "is 16 x 32 pixels, not 16 x 16")], ids=["cut off", "of another size"])
def test_a_broken_picture_is_named_when_it_is_read(how, says, whole, tmp_path):
    "A file that is not the first of its cell is not decoded before its turn"
    path = Path(shutil.copytree(whole/"pictures", tmp_path/"set")); how(path/"fog/3/n02/b.JPEG"); got = corrupted_set(path)
    for workers in (0, 1):
        with pytest.raises(WrnbError, match=says) as e: evaluate(dict(m=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))), got, severities=(3,), families=("weather",), device="cpu", workers=workers)
        assert str(e.value).startswith(f"{path}/fog/3/n02/b.JPEG") and "\n" not in str(e.value)


def test_other_classes(whole):
    for path, classes, says in (("arrays", list("abcde"), "labels.npy counts 2 classes, the data 5"), ("ours", ["cat", "dog"], "was made from digits, whose 10 classes are not these 2"), ("pictures", ["cat"], "cat is missing or holds no images")):
        with pytest.raises(WrnbError, match=says): corrupted_set(whole/path, classes)
    for path in (whole/"nowhere", whole/"arrays/fog.npy"):
        with pytest.raises(WrnbError, match="is not a folder"): corrupted_set(path)
    got = corrupted_set(whole/"arrays")
    for args, says in ((("rain", 1), "has no rain: give one of"), (("fog", 0), "severity=0"), (("fog", 6), "severity=6")):
        with pytest.raises(WrnbError, match=says): got.images(*args)
    with pytest.raises(WrnbError, match="has no corruptions of family sound: give blur, digital, noise, weather"): evaluate(dict(m=Mean()), got, families=("sound",), device="cpu")


def test_the_folder_of_something_else_is_refused(whole, tmp_path):
    digits = limited(load_data("digits")[1], 4)
    for path in ("arrays", "pictures"):
        with pytest.raises(WrnbError, match="is not empty and was not made by wrnb corrupt"): save_corrupted(digits, whole/path, ["fog"])
    for options, says in ((dict(seed=1), "seed=0, not 1"), (dict(names=["fog"]), "corruptions="), (dict(ds=limited(digits, 3)), "data=")):
        with pytest.raises(WrnbError, match=says): save_corrupted(**dict(dict(ds=digits, out=whole/"ours", names=["fog", "snow"]), **options))
    for options, says in ((dict(names=["rain"]), "no corruption is called rain"), (dict(preset="mnist-c"), "no preset is called mnist-c"), (dict(batch_size=0), "batch_size=0"), (dict(seed=-1), "seed=-1"), (dict(ds=digits.take([])), "no images")):
        with pytest.raises(WrnbError, match=says): save_corrupted(**dict(dict(ds=digits, out=tmp_path/"new"), **options))
    for x in (torch.zeros(3, 12, 32), torch.full((3, 32, 32), 2.), torch.zeros(1, 32, 32)):
        with pytest.raises(WrnbError): save_corrupted([(x, 0)], tmp_path/"new")
    assert not (tmp_path/"new").exists()


# --- properties --------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 9), size=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 99), name=st.sampled_from(FIFTEEN), severity=st.integers(1, 5), fortran=st.booleans())
def test_any_arrays_come_back(n, size, seed, name, severity, fortran, tmp_path):
    shutil.rmtree(tmp_path/"set", ignore_errors=True); (tmp_path/"set").mkdir(); rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, (5*n, *size, 3), np.uint8), rng.integers(0, 9, n)
    for c in FIFTEEN: np.save(tmp_path/f"set/{c}.npy", np.asfortranarray(x) if fortran and c == name else x)
    np.save(tmp_path/"set/labels.npy", np.tile(y, 5))
    ds = corrupted_set(tmp_path/"set").images(name, severity)
    assert np.array_equal((ds.pixels(range(n))*255).byte().permute(0, 2, 3, 1), x[(severity-1)*n:severity*n]) and ds.labels.tolist() == y.tolist()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_array_is_refused_or_still_whole(data, whole, tmp_path):
    "Any bytes of the header changed, or the file cut anywhere: one line, or an array of the right shape, and nothing is run"
    path = tmp_path/"set"; path.exists() or shutil.copytree(whole/"arrays", path)
    b = bytearray((whole/"arrays/fog.npy").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))): b[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    b = b[:data.draw(st.sampled_from([len(b)]*3 + [data.draw(st.integers(0, len(b)))]))]
    (path/"fog.npy").write_bytes(b)
    try: got = corrupted_set(path)
    except WrnbError as e: assert "\n" not in str(e) and "fog.npy" in str(e)
    else: assert got.pixels("fog").shape == (5, 4, 16, 16, 3) and got.pixels("fog").dtype == np.uint8
