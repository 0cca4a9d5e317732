"""Data as people really have it: taken with its plain meaning, or refused in one line; an identity that sees all."""
import copy, os, random, shutil, subprocess, sys, warnings
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import RandTransform, Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from wrnb.core import WrnbError
from wrnb.pictures import read_image
from wrnb.images import as_images, classes_of, ids_of, indices
from wrnb.image_sets import ImageSet, batches, limited, subset
from wrnb.folders import folder_set, load_data
from wrnb.learners import LearnerSet, class_order, images_of
from wrnb.loaders import pixel_loaders
from wrnb.data import data_hash
from wrnb.setup import Setup

RNG = np.random.default_rng(0)


def picture(path, levels=None, mode=None, **options):
    "Write a small picture, by default one of noise"
    path.parent.mkdir(parents=True, exist_ok=True)
    if levels is None: levels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    im = Image.fromarray(levels)
    (im.convert(mode) if mode else im).save(path, **options)
    return path


def pictures(folder, *names):
    for name in names: picture(folder/name)
    return folder


def refused(call, *says):
    "The message of a `WrnbError`, which is one line that says this"
    with pytest.raises(WrnbError) as e: call()
    line = str(e.value)
    assert "\n" not in line
    for s in says: assert s in line
    return line


def warned(call, *says):
    "What a call gives; it gives exactly one warning, of one line that says this"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        out = call()
    lines = [str(w.message) for w in said if w.category is UserWarning]
    assert len(lines) == 1 and "\n" not in lines[0], lines
    for s in says: assert s in lines[0]
    return out


class Own(Dataset):
    "A dataset that makes item i by a function, with any attributes"
    def __init__(self, item, n=6, **attributes):
        self.item, self.n = item, n
        vars(self).update(attributes)
    def __len__(self): return self.n
    def __getitem__(self, i): return self.item(i)


X = torch.rand(200, 3, 8, 8)
Y = torch.randint(0, 10, (200,))
GREY = torch.rand(6, 1, 8, 8)


# ---------------------------------------------------------------- identity

def arrays(): return TensorDataset(X.clone(), Y.clone())


class InMemory(Dataset):
    "As torchvision's CIFAR10 and MNIST are made"
    def __init__(self, transform=None):
        self.data, self.targets = (X*255).byte().permute(0, 2, 3, 1).numpy().copy(), Y.tolist()
        self.classes, self.transform = list("abcdefghij"), transform
    def __len__(self): return len(self.data)
    def __getitem__(self, i):
        im = Image.fromarray(self.data[i])
        return self.transform(im) if self.transform else im, self.targets[i]


class Rows(Dataset):
    "Rows of a table"
    def __init__(self): self.table = pd.DataFrame(dict(image=range(200), label=Y.tolist()))
    def __len__(self): return len(self.table)
    def __getitem__(self, i): return X[i], int(self.table.label.iloc[i])


def with_pairs(): return Own(lambda i: (X[i], int(Y[i])), 200, pairs=list(zip(X.clone(), Y.tolist())))


def correct_label(ds):
    "Another label for image 101, where the dataset keeps it"
    if hasattr(ds, "tensors"): ds.tensors[1][101] = (ds.tensors[1][101] + 1) % 10
    elif hasattr(ds, "targets"): ds.targets[101] = (ds.targets[101] + 1) % 10
    elif hasattr(ds, "table"): ds.table.loc[101, "label"] = (ds.table.label[101] + 1) % 10
    else: ds.pairs[101] = (ds.pairs[101][0], -1)
    return ds


def replace_pixel(ds):
    if hasattr(ds, "tensors"): ds.tensors[0][101, 0, 0, 0] = 1 - ds.tensors[0][101, 0, 0, 0]
    elif hasattr(ds, "data"): ds.data[101, 0, 0, 0] ^= 1
    else: ds.pairs[101][0][0, 0, 0] = 2
    return ds


@pytest.mark.parametrize("make", [arrays, InMemory, Rows, with_pairs])
def test_a_corrected_label_makes_another_identity(make):
    assert data_hash(make()) == data_hash(make()) != data_hash(correct_label(make()))


@pytest.mark.parametrize("make", [arrays, InMemory, with_pairs])
def test_another_pixel_makes_another_identity(make):
    assert data_hash(make()) != data_hash(replace_pixel(make()))


WRAPPERS = {
    "a part": lambda ds: Subset(ds, range(50, 150)),
    "two in one": lambda ds: ConcatDataset([ds, ds]),
    "a part in two": lambda ds: ConcatDataset([Subset(ds, [101, 5]), ds]),
    "as images": as_images,
    "one's own wrapper": lambda ds: Own(lambda i: ds[i], len(ds), inner=ds),
    "a list of pairs": lambda ds: [ds[i] for i in range(200)],
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_an_identity_sees_through_wrappers(kind):
    wrap = WRAPPERS[kind]
    assert data_hash(wrap(arrays())) == data_hash(wrap(arrays()))
    assert data_hash(wrap(arrays())) != data_hash(wrap(correct_label(arrays())))
    assert data_hash(wrap(arrays())) != data_hash(wrap(replace_pixel(arrays())))


def test_order_length_ids_and_classes_belong_to_the_identity():
    ds = arrays()
    first, names = ds.__getitem__, list("abcdefghij")
    kinds = [ds, Subset(ds, [3, 4]), Subset(ds, [4, 3]), Subset(ds, [3, 4, 5]), Own(first, 6), Own(first, 7),
             Own(first, 6, ids=names[:6]), Own(first, 6, classes=names)]
    assert len({data_hash(d) for d in kinds}) == len(kinds)


def test_a_dataset_and_its_images_have_one_identity():
    assert data_hash(as_images(arrays())) == data_hash(images_of(None, arrays())) == data_hash(arrays())


def blur(sigma): return lambda im: tv.functional.gaussian_blur(im, 3, sigma)


@pytest.mark.parametrize("one, other", [
    (None, tv.RandomHorizontalFlip(1.)), (tv.Resize(6), tv.Resize(7)), (tv.ToTensor(), tv.Grayscale()),
    (blur(.5), blur(2.)), (tv.RandomHorizontalFlip(.2), tv.RandomHorizontalFlip(.8)),
    (tv.RandomCrop(6), tv.RandomCrop(7)),
    (lambda im: im.rotate(random.choice([0, 90])), lambda im: im.rotate(random.choice([0, 180])))])
def test_another_transform_makes_another_identity(one, other):
    assert data_hash(InMemory(one)) == data_hash(InMemory(one)) != data_hash(InMemory(other))


NOISE = np.random.default_rng()  # a dataset's own random numbers, never the same


@pytest.mark.parametrize("item", [
    lambda i: (torch.rand(3, 8, 8), 1), lambda i: (np.random.rand(3, 8, 8), 1),
    lambda i: (NOISE.random((3, 8, 8)), 1),
    lambda i: (X[i] if random.random() < .5 else X[i].flip(-1), 1)], ids=["torch", "NumPy", "own", "Python"])
def test_random_items_leave_the_identity_and_the_random_numbers_alone(item):
    ds = Own(item, 100)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first = data_hash(ds)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1][1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
    torch.rand(5), np.random.rand(5), random.random()
    assert data_hash(ds) == first


PRINT_IDENTITY = """
import sys, random
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder
from wrnb.data import data_hash
from wrnb.setup import Setup

class Faded:
    def __init__(self, by): self.by = by
    def __call__(self, x): return x*(1 - self.by*random.random())

print(data_hash(ImageFolder(sys.argv[1], tv.Compose([tv.ToTensor(), tv.Lambda(lambda x: x*.5)]))))
print(data_hash(ImageFolder(sys.argv[1], tv.Compose([tv.RandomHorizontalFlip(), tv.ToTensor(), Faded(.1)]))))
"""


def test_an_identity_is_the_same_in_every_process(tmp_path):
    pictures(tmp_path/"d", *[f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)])
    command = [sys.executable, "-W", "ignore", "-c", PRINT_IDENTITY, str(tmp_path/"d")]
    runs = []
    for seed in "12":  # of the hashes of text
        env = dict(os.environ, PYTHONHASHSEED=seed)
        runs.append(subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout)
    assert runs[0] == runs[1] and len(set(runs[0].split())) == 2


def test_a_dataset_is_left_as_it_was():
    "One that opens its file at the first item, since such files do not survive the start of worker processes"
    class Lazy(Dataset):
        file, asked = None, 0
        def __len__(self): return 100
        def __getitem__(self, i):
            if self.file is None: self.file = object()
            self.asked += 1
            return X[i], int(Y[i])
    ds = Lazy()
    assert data_hash(ds) == data_hash(ds) and ds.file is None and ds.asked == 0


def test_a_cache_that_fills_does_not_change_the_identity():
    class Cached(Dataset):
        def __init__(self): self.cache = [None]*100
        def __len__(self): return 100
        def __getitem__(self, i):
            if self.cache[i] is None: self.cache[i] = X[i]
            return self.cache[i], int(Y[i])
    ds = Cached()
    first = data_hash(ds)
    assert [ds[i] for i in range(100)] and data_hash(ds) == first


FILES = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(70)]  # more than the images that are asked for


def in_folder(folder): return ImageFolder(folder, tv.ToTensor())


def in_files(folder):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    return ImageSet([folder/n for n in names], [n[0] == "d" for n in names], ["cat", "dog"], names, "files", 8)


def move(folder): (folder/"cat/69.png").rename(folder/"dog/cat69.png")
def rename(folder): (folder/"cat/3.png").rename(folder/"cat/03.png")
def rewrite(folder): picture(folder/"dog/33.png")
def touch(folder): os.utime(folder/"dog/33.png", (1e9, 1e9))


@pytest.mark.parametrize("change", [move, rename, rewrite, touch])
@pytest.mark.parametrize("make", [in_folder, in_files])
def test_a_changed_file_makes_another_identity(make, change, tmp_path):
    folder = pictures(tmp_path/"d", *FILES)
    before = data_hash(make(folder))
    assert data_hash(make(folder)) == before
    change(folder)
    assert data_hash(make(folder)) != before


def test_a_folder_may_be_called_by_another_path(tmp_path, monkeypatch):
    pictures(tmp_path/"d", *FILES)
    monkeypatch.chdir(tmp_path)
    assert data_hash(in_folder("d")) == data_hash(in_folder(tmp_path/"d"))
    shutil.copytree(tmp_path/"d", tmp_path/"e")  # with its times
    assert data_hash(in_folder(tmp_path/"e")) == data_hash(in_folder(tmp_path/"d"))


def test_a_folder_may_be_called_like_a_known_set(tmp_path, monkeypatch):
    pictures(tmp_path/"digits", *FILES)
    monkeypatch.chdir(tmp_path)
    for data in ("./digits", "digits/", Path("digits")):
        setup = Setup(data, "digits_net", test_share=.5)
        assert Setup(setup.data, "digits_net") == Setup(data, "digits_net")
        assert setup.images(None)[0].classes == ["cat", "dog"]
    assert Setup("digits", "digits_net").data == "digits"


def test_files_that_are_brought_to_another_size_are_other_data(tmp_path):
    ds = in_files(pictures(tmp_path/"d", *FILES[:3]))
    small = copy.copy(ds)
    small.size = 4
    assert data_hash(small) != data_hash(ds)


def test_a_missing_file_is_named(tmp_path):
    ds = in_files(pictures(tmp_path/"d", *FILES[:3]))
    (tmp_path/"d/cat/1.png").unlink()
    refused(lambda: data_hash(ds), "cat/1.png does not exist")


def table_learner(folder, labels, **options):
    "A Learner on a table of files and labels"
    df = pd.DataFrame(dict(file=[p.name for p in sorted(folder.glob("*.png"))], label=labels))
    options = dict(valid_pct=.2, seed=0, bs=4, device="cpu") | options
    dls = ImageDataLoaders.from_df(df, folder, fn_col="file", label_col="label", **options)
    return SimpleNamespace(dls=dls)


def test_the_identity_of_a_learners_images(tmp_path):
    pictures(tmp_path, *[f"{i:03}.png" for i in range(150)])
    labels = ["cat", "dog"]*75
    def identity(labels=labels, **options): return data_hash(images_of(table_learner(tmp_path, labels, **options)))
    first = identity()
    assert identity() == first
    augmented = dict(batch_tfms=[*aug_transforms(), Normalize.from_stats([.5]*3, [.2]*3, cuda=False)])
    assert identity(**augmented) == identity(**augmented)
    assert identity(item_tfms=Resize(6)) != first
    rows = [k for k in table_learner(tmp_path, labels).dls.splits[0] if labels[k] == "cat"]
    assert len({identity([*labels[:k], "dog", *labels[k+1:]]) for k in rows[:9]} | {first}) == 10
    picture(tmp_path/f"{rows[20]:03}.png")
    assert identity() != first


# ---------------------------------------------------------------- folders

PETS = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(2)]
TRAIN = [n for n in PETS if n.startswith("train")]


def test_the_class_is_the_folder_below_train_however_deep(tmp_path):
    sessions = [f"{c}/{day}/{i}.png" for c in ("cat", "dog") for day in ("mon", "tue/am") for i in range(2)]
    pictures(tmp_path, *[f"{split}/{name}" for split in ("train", "val") for name in sessions])
    train, test = load_data(tmp_path)
    assert train.classes == test.classes == ["cat", "dog"] and len(train) == len(test) == 8
    assert [train.classes[y] for y in train.labels] == [name.split("/")[1] for name in train.ids]


@pytest.mark.parametrize("stray", [
    "train/.ipynb_checkpoints/0.png", "train/__MACOSX/cat/0.png", "train/.cache/cat/0.jpg", "train/overview.png",
    "train/cat/.ipynb_checkpoints/0.png", "train/cat/._0.png", "test/@eaDir/0.png", "test/readme.gif"])
def test_stray_pictures_are_left_out_with_a_word(stray, tmp_path):
    pictures(tmp_path, *PETS, stray)
    train, test = warned(lambda: load_data(tmp_path), "left out", "1 (", Path(stray).name)
    assert train.classes == ["cat", "dog"] and len(train) == len(test) == 4


def test_other_files_and_folders_need_no_word(tmp_path):
    pictures(tmp_path, *PETS)
    for name in ("train/labels.csv", "train/cat/notes.txt", "train/.DS_Store", "train/.git/x"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load_data(tmp_path)[0].classes == ["cat", "dog"]


def test_only_stray_pictures_are_refused(tmp_path):
    pictures(tmp_path, "train/0.png", "train/1.png", *[n for n in PETS if "test" in n])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: load_data(tmp_path), "train holds no images: it needs a sub-folder of images for each class")


def test_one_class_is_refused(tmp_path):
    pictures(tmp_path, *[f"{s}/images/{c}/0.png" for s in ("train", "test") for c in ("cat", "dog")],
        "test/more/0.png")
    refused(lambda: load_data(tmp_path), "has one class, images")


TINY = [f"train/n{c}/images/n{c}_{i}.JPEG" for c in range(3) for i in range(2)]


def tiny_imagenet(folder, table):
    pictures(folder, *TINY, *[f"{s}/images/{s}_{i}.JPEG" for s in ("val", "test") for i in range(3)])
    (folder/"val/val_annotations.txt").write_text(table)
    for c in range(3): (folder/f"train/n{c}/n{c}_boxes.txt").write_text("boxes")
    return folder


def test_tiny_imagenet_as_it_is_published(tmp_path):
    folder = tiny_imagenet(tmp_path, "".join(f"val_{i}.JPEG\tn{2-i}\t0\t0\t62\t62\n" for i in range(3)))
    train, test = warned(lambda: load_data(folder), "test has no class folders: val/ is taken")
    assert train.classes == ["n0", "n1", "n2"] and test.labels.tolist() == [2, 1, 0]
    assert test.ids == [f"val/images/val_{i}.JPEG" for i in range(3)] and len(train) == 6


@pytest.mark.parametrize("table, says", [
    (b"1.png\tcat\n", "holds no images"), (b"1.png\tcaf\xe9\n", "cannot be read as text")])
def test_annotations_without_pictures_or_in_another_encoding_are_refused(tmp_path, table, says):
    pictures(tmp_path, "train/cat/0.png", "train/dog/0.png")
    (tmp_path/"val").mkdir()
    (tmp_path/"val/val_annotations.txt").write_bytes(table)
    refused(lambda: load_data(tmp_path), says)


def test_a_file_whose_name_is_not_utf_8_is_refused_before_the_work(tmp_path):
    pictures(tmp_path, *[f"{c}/{name}.png" for c in ("cat", "dog") for name in ("0", os.fsdecode(b"caf\xe9"))])
    refused(lambda: data_hash(ImageFolder(tmp_path)), "has a name that is not UTF-8")


def test_a_picture_without_annotation_is_named(tmp_path):
    folder = tiny_imagenet(tmp_path, "val_0.JPEG\tn2\nval_2.JPEG\tn2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: load_data(folder), "val_1.JPEG has no class in")


def test_test_images_without_classes_are_not_used(tmp_path):
    pictures(tmp_path, *[f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(10)], "test/1.png", "test/2.png")
    train, test = warned(lambda: load_data(tmp_path), "test has no class folders: 20% of the training images")
    assert (len(train), len(test)) == (16, 4) and not set(train.ids) & set(test.ids)


@pytest.mark.parametrize("split", ["test", "val", "valid", "validation"])
def test_the_test_images_may_lie_in(split, tmp_path):
    pictures(tmp_path, *TRAIN, *[n.replace("train", split) for n in TRAIN])
    train, test = load_data(tmp_path)
    assert len(test) == 4 and test.ids[0] == f"{split}/cat/0.png" and test.origin.startswith(f"{split}/ of ")


def test_a_folder_of_class_folders(tmp_path):
    pictures(tmp_path, *[f"{c}/{i}.png" for c, n in (("cat", 20), ("dog", 10), ("owl", 1)) for i in range(n)])
    refused(lambda: load_data(tmp_path), "has no train/ (but cat, dog, owl)", "test_share=0.2")
    train, test = load_data(tmp_path, test_share=.2)
    assert np.bincount(test.labels).tolist() == [4, 2] and np.bincount(train.labels).tolist() == [16, 8, 1]
    assert sorted(train.ids + test.ids) == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert load_data(tmp_path, test_share=.2)[1].ids == test.ids != load_data(tmp_path, test_share=.2, seed=1)[1].ids
    assert "20%" in test.origin and "seed 0" in test.origin
    for share in (0, 1, -1, "a"): refused(lambda: load_data(tmp_path, test_share=share), "test_share=")


def test_a_share_of_train(tmp_path):
    pictures(tmp_path, *[f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(10)])
    refused(lambda: load_data(tmp_path), "has no test/ or val/", "test_share=0.2")
    train, test = load_data(tmp_path, test_share=.3)
    assert (len(train), len(test)) == (14, 6)


def test_a_share_is_not_drawn_beside_a_test_set(tmp_path):
    refused(lambda: load_data(pictures(tmp_path, *PETS), test_share=.2), "has test/")


@pytest.mark.parametrize("names", [["Train", "Test"], ["training", "testing"], ["Training", "val"]])
def test_parts_of_another_name_never_become_classes(names, tmp_path):
    pictures(tmp_path, *[f"{s}/{c}/{i}.png" for s in names for c in ("cat", "dog") for i in range(2)])
    for share in (None, .2): refused(lambda: load_data(tmp_path, test_share=share), "has no train/", names[0])


def test_an_archive_that_was_unpacked_twice(tmp_path):
    refused(lambda: load_data(pictures(tmp_path, *[f"pets/{n}" for n in PETS])), "has no train/ (but pets)")


def test_classes_without_test_images_are_said(tmp_path):
    pictures(tmp_path, *PETS, "train/owl/0.png")
    _, test = warned(lambda: load_data(tmp_path), "no pictures of 1 of the 3 classes", "owl")
    assert test.classes == ["cat", "dog", "owl"]


def test_the_size_is_the_medians_and_is_said(tmp_path):
    def cat(i, height, width): picture(tmp_path/f"train/cat/{i}.png", np.zeros((height, width, 3), np.uint8))
    for i, side in enumerate([500, 24, 32, 32, 40]): cat(i, side, side+9)
    pictures(tmp_path, "train/dog/0.png", "test/dog/0.png", "test/cat/0.png")
    train, test = load_data(tmp_path)
    assert train.size == test.size == 32 and train[0][0].shape == (3, 32, 32)
    assert train.origin == f"train/ of {tmp_path.name}: pictures of 32 pixels, the median of their shorter sides is 32"
    assert test.origin.endswith("32 pixels, as in train/")
    assert load_data(tmp_path, size=20)[0].origin.endswith("20 pixels, as you asked")
    assert folder_set(tmp_path, "train", size=20).origin.endswith("20 pixels, as you asked")
    for i in range(5): cat(i, 300, 400)
    train, _ = load_data(tmp_path)
    assert train.size == 224 and "224 pixels, the median of their shorter sides is 300" in train.origin
    refused(lambda: load_data(tmp_path, size=2.5), "size=2.5")


def origins(tmp_path, model, **setup):
    "The lines about the training and the test images of a setup"
    return [ds.origin for ds in Setup(str(pictures(tmp_path, *PETS)), model, **setup).images(None)]


def test_a_size_that_the_model_brings_is_not_called_asked(tmp_path):
    train, test = origins(tmp_path, "efficientnet_lite0")
    assert train.endswith("224 pixels, the size the model was pretrained for")
    assert test.endswith("224 pixels, the size the model was pretrained for")
    train, test = origins(tmp_path, "efficientnet_lite0", size=64)
    assert train.endswith("64 pixels, as you asked") and test.endswith("64 pixels, as you asked")
    train, _ = origins(tmp_path, "resnet20")  # which was pretrained for no size
    assert "the median of their shorter sides is" in train


def test_drawn_test_images_tell_the_same_size(tmp_path):
    pictures(tmp_path, *[f"{c}/{i}.png" for c in ("cat", "dog") for i in range(4)])
    for ds in Setup(str(tmp_path), "efficientnet_lite0", test_share=.3).images(None):
        assert "pictures of 224 pixels, the size the model was pretrained for" in ds.origin and "asked" not in ds.origin


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path/"pets", *PETS)
    assert len(load_data("~/pets")[0]) == len(load_data(Path("~/pets"))[0]) == len(folder_set("~/pets", "train")) == 4
    refused(lambda: load_data("~/birds"), "no data set '~/birds'")
    refused(lambda: load_data(None), "None is not a path")


# ---------------------------------------------------------------- pictures

RAMP = np.tile(np.linspace(0, 1, 40), (30, 1))
LEVELS = (RAMP*255).round()


FILES_OF_LEVELS = {
    "8 bits.tif": LEVELS.astype("uint8"),
    "16 bits.png": (LEVELS*257).astype("uint16"),
    "16 bits.tif": (LEVELS*257).astype("uint16"),
    "16 bits.jp2": (LEVELS*257).astype("uint16"),
    "whole numbers.tif": LEVELS.astype("int32"),
    "floats to 1.tif": (LEVELS/255).astype("float32"),
    "floats to 255.tif": LEVELS.astype("float32"),
    "floats to 65535.tif": (LEVELS*257).astype("float32"),
}


@pytest.mark.parametrize("name", FILES_OF_LEVELS)
def test_levels_are_scaled_by_what_the_file_holds(name, tmp_path):
    read = read_image(picture(tmp_path/name, FILES_OF_LEVELS[name]))
    assert read.shape == (30, 40, 3) and np.abs(read[..., 0] - LEVELS).max() <= 1 and (read == read[..., :1]).all()


def test_a_file_in_which_0_is_white(tmp_path):
    read = read_image(picture(tmp_path/"a.tif", ((255-LEVELS)*257).astype("uint16"), tiffinfo={262: 0}))
    assert np.abs(read[..., 0] - LEVELS).max() <= 1


UNKNOWN = [RAMP*40, RAMP*1.02, RAMP*4095, RAMP - .5, np.where(RAMP > .5, np.nan, RAMP)]
WHOLE_UNKNOWN = [RAMP*4095, RAMP > .5, LEVELS - 9]


@pytest.mark.parametrize("levels",
    [v.astype("float32") for v in UNKNOWN] + [v.astype("int32") for v in WHOLE_UNKNOWN])
def test_an_unknown_scale_is_refused(levels, tmp_path):
    path = picture(tmp_path/"unknown.tif", levels)
    refused(lambda: read_image(path), "unknown.tif", "nothing says which is white", "save it with 8 or 16 bits")


def test_a_black_picture_is_black(tmp_path):
    for kind in ("int32", "float32", "uint16"):
        path = picture(tmp_path/f"{kind}.tif", np.zeros((8, 8), kind))
        assert not read_image(path).any()


def test_twelve_bits(tmp_path):
    "As cameras of microscopes write them; Pillow reads such files and cannot write them"
    from wrnb.pictures import _white
    im = Image.fromarray((RAMP*4095).astype("uint16"))
    im.tag_v2 = {258: (12,)}
    assert _white(im) == 4095


HOLE = np.dstack([np.zeros((8, 8, 3)), np.eye(8)*255]).astype("uint8")  # black on transparent ground


@pytest.mark.parametrize("mode, name", [
    ("RGBA", "a.png"), ("LA", "a.png"), ("RGBA", "a.tif"), ("RGBA", "a.webp"), ("palette", "a.png")])
def test_transparent_ground_is_white(mode, name, tmp_path):
    im = Image.fromarray(HOLE)
    im = im.quantize(4) if mode == "palette" else im.convert(mode)
    im.save(tmp_path/name, **dict(lossless=True, exact=True) if "webp" in name else {})
    assert (read_image(tmp_path/name)[..., 0] == 255*(1-np.eye(8))).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparent_level_is_white(mode, tmp_path):
    im = Image.fromarray(np.eye(8, dtype="uint8")*200).convert("RGB").convert(mode)
    key = (0, 0, 0) if mode == "RGB" else im.getpixel((0, 1))
    im.save(tmp_path/"a.png", transparency=key)
    assert read_image(tmp_path/"a.png")[0, 1].tolist() == [255]*3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "YCbCr"])
def test_modes_without_transparency(mode, tmp_path):
    im = Image.fromarray(np.where(RAMP > .5, 255, 0).astype("uint8")).convert("RGB").convert(mode)
    path = tmp_path/("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    im.save(path)
    assert np.abs(read_image(path)[..., 1].astype(int) - 255*(RAMP > .5)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_picture_is_turned_as_its_camera_noted(orientation, name, tmp_path):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # the light comes from the left above
    mirrored = upright.transpose(1, 0, 2)
    stored = [upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1],
              mirrored, np.rot90(upright), np.rot90(mirrored, 2), np.rot90(upright, -1)][orientation-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path/name, exif=exif)
    read = read_image(tmp_path/name)
    assert read.shape == (16, 24, 3) and np.abs(read.astype(int) - upright).mean() < 12


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    for name, options in (("a.gif", {}), ("a.webp", dict(lossless=True)), ("a.png", {})):
        frames[0].save(tmp_path/name, save_all=True, append_images=frames[1:], **options)
        assert read_image(tmp_path/name)[0, 0].tolist() == [255, 0, 0]


def test_damaged_notes_of_a_camera_do_not_matter(tmp_path):
    for k, exif in enumerate((b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"Exif\0\0")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(picture(tmp_path/f"{k}.jpg", exif=exif)).shape == (8, 8, 3)


# ---------------------------------------------------------------- indices

MASK = np.zeros(40, bool)
MASK[[5, 9, 20]] = True


THREE = {
    "mask": MASK,
    "list of booleans": MASK.tolist(),
    "mask tensor": torch.from_numpy(MASK),
    "Series of booleans": pd.Series(MASK),
    "Series with an own index": pd.Series(MASK, index=range(100, 140)),
    "Series with names": pd.Series(MASK, index=[f"i{k}" for k in range(40)]),
    "booleans of pandas": pd.Series(MASK).astype("boolean"),
    "list": [5, 9, 20],
    "tuple": (5, 9, 20),
    "bytes": np.array([5, 9, 20], np.uint8),
    "tensor": torch.tensor([5, 9, 20]),
    "Series": pd.Series([5, 9, 20], index=[7, 0, 1]),
    "Index": pd.Index([5, 9, 20]),
    "whole floats": np.array([5., 9., 20.]),
    "numbers of several types": [np.int64(5), torch.tensor(9), 20],
    "keys": dict.fromkeys([5, 9, 20]).keys(),
}


@pytest.mark.parametrize("kind", THREE)
def test_masks_and_numbers_select_what_they_mean(kind):
    ds, idxs = load_data("digits", limit=40, test_limit=2)[0], THREE[kind]
    assert indices(idxs, 40).tolist() == indices(iter(list(idxs)), 40).tolist() == [5, 9, 20]
    want = [ds.ids[i] for i in (5, 9, 20)]
    assert ds.take(idxs).ids == ids_of(subset(ds, idxs)) == want
    assert ids_of(subset(as_images(Own(ds.__getitem__, 40, ids=ds.ids)), idxs)) == want
    assert torch.equal(ds.pixels(idxs), ds.pixels([5, 9, 20]))
    assert [y for _, y in subset(Own(ds.__getitem__, 40), idxs)] == ds.labels[[5, 9, 20]].tolist()


@pytest.mark.parametrize("idxs, want", [
    (7, [7]), (np.int64(7), [7]), (torch.tensor(7), [7]), (range(2, 5), [2, 3, 4]), (slice(2, 5), [2, 3, 4]),
    ([], []), (np.zeros(0), []), (np.zeros(40, bool), []), ([3, 3], [3, 3])])
def test_other_ways_to_say_which(idxs, want): assert indices(idxs, 40).tolist() == want


@pytest.mark.parametrize("idxs, says", [
    ([40], "40, outside the 40"), ([-1], "-1, outside"), (MASK[:39], "mask of 39 for 40"),
    (np.append(MASK, True), "mask of 41"), ([.5], "does not say which"),
    ("all", "does not say"), (None, "does not say"), (True, "does not say"), ([[1, 2]], "does not say"),
    ([[1], [2, 3]], "does not say"), ([None, 1], "does not say"),
    (MASK.astype(int), "like a mask"), (torch.from_numpy(MASK).byte(), "like a mask"),
    (pd.Series([True, None]*20), "does not say"),
    (pd.Series(MASK).sample(frac=1, random_state=0), "index is in another order"),
    (pd.DataFrame(dict(a=[1], b=[2])), "does not say")], ids=lambda v: str(v)[:20].replace("\n", " "))
def test_what_does_not_say_which_images_is_refused(idxs, says):
    refused(lambda: indices(idxs, 40, "weak"), "weak", says)


def test_a_set_ends_as_a_list_does():
    ds = load_data("digits", limit=20, test_limit=2)[0]
    for d in (ds, as_images(Own(lambda i: (X[i], 1)))):
        assert len(list(d)) == len(d) and torch.equal(d[-1][0], d[len(d)-1][0])
        for i in (len(d), -len(d)-1):
            with pytest.raises(IndexError): d[i]


# ---------------------------------------------------------------- items of datasets

PIL = Image.fromarray((X[0]*255).byte().permute(1, 2, 0).numpy())
BYTES = np.asarray(PIL)
Pair = namedtuple("Pair", "image label")

def to_pil(i): return tv.functional.to_pil_image(X[i])
def levels(i): return (X[i]*255).byte()


TAKEN = dict(
    tensor=lambda i: (X[i], 1),
    array=lambda i: (X[i].numpy(), 1),
    half=lambda i: (X[i].half(), 1),
    double=lambda i: (X[i].double(), 1),
    float_array=lambda i: (X[i].double().numpy(), 1),
    big_endian=lambda i: (X[i].numpy().astype(">f4"), 1),
    bytes_last=lambda i: (levels(i).permute(1, 2, 0).numpy(), 1),
    bytes_first=lambda i: (levels(i), 1),
    floats_last=lambda i: (X[i].permute(1, 2, 0).numpy(), 1),
    nested_list=lambda i: (X[i].tolist(), 1),
    pil=lambda i: (to_pil(i), 1),
    flipped_array=lambda i: (X[i].flip(-1).numpy()[..., ::-1], 1),
    needs_grad=lambda i: (X[i].clone().requires_grad_(), 1),
    hugging_face=lambda i: dict(image=X[i], label=1),
    cifar_of_hugging_face=lambda i: dict(img=to_pil(i), fine_label=1, coarse_label=0),
    processed_by_hugging_face=lambda i: dict(pixel_values=X[i], labels=1),
    named=lambda i: Pair(X[i], 1),
    triple=lambda i: (X[i], 1, f"file{i}"),
    a_list=lambda i: [X[i], 1],
)


@pytest.mark.parametrize("kind", TAKEN)
def test_images_of_any_kind_are_taken(kind):
    (x, y), = batches(Own(TAKEN[kind]), [[0, 3]])
    assert x.dtype == torch.float32 and x.shape == (2, 3, 8, 8) and y.tolist() == [1, 1]
    assert torch.allclose(x, X[[0, 3]], atol=1/255)


BINARY = torch.eye(8)[None] > 0


@pytest.mark.parametrize("x", [
    GREY[0], GREY[0, 0], GREY[0].numpy(), (GREY[0, 0]*255).byte().numpy(),
    (GREY[0]*255).byte().permute(1, 2, 0).numpy(),
    tv.functional.to_pil_image(GREY[0]), BINARY], ids=lambda v: type(v).__name__)
def test_grey_becomes_three_equal_channels(x):
    (got, _), = batches(Own(lambda i: (x, 0)), [[0, 1]])
    assert got.shape == (2, 3, 8, 8) and torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
    want = torch.eye(8) if x is BINARY else GREY[0, 0]
    assert torch.allclose(got[0, 0], want, atol=1/255)


CLASSES = ["cat", "dog", "owl"]


@pytest.mark.parametrize("label, classes", [
    (2, None), (np.int64(2), None), (np.array(2), None), (np.array([2]), None), (torch.tensor(2), None),
    (torch.tensor([2]), None), (torch.tensor([[2]]), None), ([2], None),
    ("owl", CLASSES), (np.str_("owl"), CLASSES), (np.array("owl"), CLASSES), (torch.eye(3)[2], None),
    (np.eye(3)[2], CLASSES), ([0, 0, 1], CLASSES), (np.eye(3, dtype=bool)[2], None)], ids=repr)
def test_labels_of_any_kind_are_taken(label, classes):
    (_, y), = batches(Own(lambda i: (X[i], label), classes=classes), [[0, 3]])
    assert y.tolist() == [2, 2] and y.dtype == torch.int64


@pytest.mark.parametrize("label, classes, says", [
    (1.5, None, "label 1.5, a float"), (1., None, "label 1.0, a float"), (torch.tensor(1.), None, "a float"),
    (np.array([.2]), None, "a float"), (-1, None, "label -1"), (3, CLASSES, "label 3, outside the 3 classes"),
    ("fish", CLASSES, "'fish', which is not one of the classes cat, dog, owl"), ("cat", None, "a list `classes`"),
    (None, None, "the label None"), ({}, None, "label {}"),
    (torch.tensor([1., 1, 0]), None, "not one-hot"), (torch.tensor([.2, .8, 0]), None, "not one-hot"),
    ([0, 1], None, "not one-hot"), (np.eye(4)[1], CLASSES, "not one-hot"), ([], None, "label []")], ids=repr)
def test_labels_without_a_plain_meaning_are_refused(label, classes, says):
    ds = Own(lambda i: (X[i], label if i == 3 else 0), classes=classes, ids=[f"picture {i}" for i in range(6)])
    for workers in (0, 1): refused(lambda: list(batches(ds, [[0, 1], [2, 3]], workers)), "picture 3", says)


@pytest.mark.parametrize("item, says", [
    (X[0], "of type Tensor, not a pair"), ((X[0],), "of type tuple, not a pair"),
    (dict(image=X[0]), "none of label"), (dict(image=X[0], img=X[0], label=1), "more than one of image"),
    (dict(image=X[0], label=1, labels=1), "more than one of label"), (("a.png", 1), "of type str, not an image"),
    ((Path("a.png"), 1), "not an image"), ((1, X[0]), "of type int"), (None, "of type NoneType"),
    ((torch.zeros(4, 8, 8), 1), "shape 4 x 8 x 8"), ((torch.zeros(1, 3, 8, 8), 1), "shape 1 x 3 x 8 x 8"),
    ((torch.zeros(8), 1), "shape 8"), ((torch.zeros(3, 0, 8), 1), "shape 3 x 0 x 8"),
    ((torch.zeros(3, 8, 8).long(), 1), "type int64"), ((np.zeros((8, 8, 3), np.uint16), 1), "type uint16"),
    ((np.array(["a"]), 1), "not an image"), ((X[0]*255, 1), "pixels run from"), ((X[0] - .5, 1), "not within [0,1]"),
    ((X[0]*torch.nan, 1), "not within [0,1]"), ((torch.zeros(3, 8, 7), 1), "8 x 7 pixels"),
    ((Image.fromarray((RAMP*40).astype("float32")), 1), "nothing says which is white")],
    ids=lambda v: str(type(v)) if not isinstance(v, str) else v)
def test_items_without_a_plain_meaning_are_refused(item, says):
    ds = Own(lambda i: item if i == 3 else (X[i], 0))
    for lists in ([[0, 1], [2, 3]], [[0], [3]]):
        refused(lambda: list(batches(ds, lists)), "image 3", says)


class Stream(IterableDataset):
    def __iter__(self): return iter(zip(X, Y))


@pytest.mark.parametrize("ds, says", [
    (Stream(), "list(ds)"), (DataLoader(TensorDataset(X, Y)), "loader.dataset"), ((X, Y), "TensorDataset(x, y)"),
    ([X, Y], "TensorDataset(x, y)"), ((X.numpy(), Y.numpy()), "TensorDataset(x, y)"), (X, "has no labels"),
    (X.numpy(), "has no labels"), (pd.DataFrame(dict(a=[1])), "is a table"),
    (dict(train=[], test=[]), "has several parts"), ("digits", "load_data(path)"),
    (Path("x"), "load_data(path)"), (iter([]), "list(ds)"),
    (7, "list(ds)"), ([], "there are no images"), (Subset(TensorDataset(X, Y), []), "there are no images"),
    (TensorDataset(X[:0], Y[:0]), "there are no images")], ids=lambda v: type(v).__name__)
def test_what_is_not_a_dataset_is_refused(ds, says):
    for call in (as_images, lambda ds: images_of(None, ds), lambda ds: list(batches(ds, [[0]])), data_hash):
        refused(lambda: call(ds), says)


def test_images_that_are_almost_right_in_memory_are_refused():
    x, ids = (X[:2]*255).byte(), ["a", "b"]
    refused(lambda: ImageSet(X[:2], [0, 1], ids, ids, "x"), "items are torch.float32")
    refused(lambda: ImageSet(x.permute(0, 2, 3, 1), [0, 1], ids, ids, "x"), "give uint8 pixels [N, 3, height, width]")
    refused(lambda: ImageSet(x, [.5, 1], ids, ids, "x"), "labels are not class numbers")
    refused(lambda: ImageSet(x, [0], ids, ids, "x"), "2 items, 1 labels and 2 ids")
    ds = ImageSet(x.numpy(), pd.Series([0., 1.], index=[5, 3]), np.array(ids), [Path("a"), 7], "x")
    assert ds.ids == ["a", "7"] and ds.labels.tolist() == [0, 1] and ds.held


# ---------------------------------------------------------------- ids and classes

@pytest.mark.parametrize("ids", [
    np.array(list("abcdef")), pd.Series(list("abcdef"), index=range(6, 0, -1)), [Path(c) for c in "abcdef"],
    tuple("abcdef"), [c.encode() for c in "abcdef"]], ids=lambda v: type(v).__name__)
def test_ids_become_text(ids):
    ds = Own(None, ids=ids)
    assert ids_of(ds) == as_images(ds).ids == list("abcdef")


def test_ids_of_parts_and_numbers():
    ds = Own(None, ids=np.arange(10, 16))
    assert ids_of(ds) == ["10", "11", "12", "13", "14", "15"] and ids_of(Subset(ds, [5, 0])) == ["15", "10"]
    assert ids_of(ConcatDataset([ds, Subset(ds, [1])]))[-1] == "11"
    assert ids_of(Own(None)) == ids_of(Own(None, ids=None)) == list("012345")
    assert ids_of(ConcatDataset([ds, Own(None)]))[0] == "0"  # not all have names


@pytest.mark.parametrize("ids, says", [
    (["a"], "1 ids for 6 images"), ("abcdef", "is not a list"), (5, "is not a list"),
    (["a"]*5 + ["\udcff"], "not UTF-8")])
def test_ids_that_cannot_be_are_refused_before_the_work(ids, says):
    refused(lambda: as_images(Own(None, ids=ids)), says)


@pytest.mark.parametrize("classes, want", [
    (np.array(["cat", "dog"]), ["cat", "dog"]), (np.arange(3), ["0", "1", "2"]), (3, ["0", "1", "2"]),
    (np.int64(2), ["0", "1"]), (("cat", "dog"), ["cat", "dog"]), (pd.Index(["cat", "dog"]), ["cat", "dog"]),
    ({"dog": 1, "cat": 0}, ["cat", "dog"]),
    ({1: "dog", 0: "cat"}, ["cat", "dog"]), (None, None), ([], None),
    ([("tench", "Tinca tinca"), ("shark",)], ["tench", "shark"]), (dict(cat=0, dog=1).keys(), ["cat", "dog"])],
    ids=repr)
def test_classes_become_text(classes, want):
    ds = Own(None, classes=classes)
    assert classes_of(ds) == as_images(ds).classes == want


def test_classes_of_hugging_face_and_of_parts():
    hf = Own(None, features=dict(image=object(), label=SimpleNamespace(names=["cat", "dog"])))
    assert classes_of(hf) == classes_of(Subset(hf, [1])) == classes_of(ConcatDataset([hf, hf])) == ["cat", "dog"]
    refused(lambda: classes_of(ConcatDataset([hf, Own(None, classes=["dog", "cat"])])), "different classes")
    refused(lambda: classes_of(Own(None, classes={"cat": 1, "dog": 2})), "number them from 0")


def test_names_of_classes_are_compared():
    assert class_order(["cat", "dog", "owl"], np.array(["owl", "cat", "dog"]), "the model") == [2, 0, 1]
    for theirs in (["plane", "car"], ["airplane"], ["airplane", "automobile", "bird"]):
        says = "the model has the classes", *theirs, "airplane, automobile"
        refused(lambda: class_order(theirs, ["airplane", "automobile"], "the model"), *says)
    for theirs, ours in ((None, ["cat", "dog"]), (["cat", "dog"], None), (["0", "1"], ["cat", "dog"])):
        assert warned(lambda: class_order(theirs, ours, "the model"), "only numbers") == [0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert class_order(None, None, "the model") == []


# ---------------------------------------------------------------- Learners

def digits_learner(folder, n=60, **options):
    ds = limited(load_data("digits")[0], n)
    for i, x in enumerate(ds.items): picture(folder/f"{i:03}.png", x.permute(1, 2, 0).numpy())
    return table_learner(folder, [f"digit {y}" for y in ds.labels], **options), ds


def test_images_given_beside_a_learner_are_counted_as_it_counts(tmp_path):
    learn, ds = digits_learner(tmp_path)
    names = [f"digit {i}" for i in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    mixed = ImageSet(ds.items, [names.index(f"digit {y}") for y in ds.labels], names, ds.ids, "mixed")
    numbered = Own(lambda i: mixed[i], len(mixed), classes=names)
    named = Own(lambda i: (mixed[i][0], names[mixed[i][1]]), len(mixed), classes=np.array(names))
    for given in (mixed, numbered, named):
        got = images_of(learn, given)
        assert [y for _, y in got] == ds.labels.tolist() and got.classes == [f"digit {i}" for i in range(10)]
        assert len(got.ids) == 60
    others = ImageSet(ds.items, ds.labels, [f"number {i}" for i in range(10)], ds.ids, "others")
    refused(lambda: images_of(learn, others), "the Learner has the classes digit 0", "number 9")
    warned(lambda: images_of(learn, Own(lambda i: (X[i], 1))), "the data has no class names")


class Late(RandTransform):
    "A transform of validation batches, after Normalize (99)"
    order, split_idx = 100, None
    def encodes(self, x: torch.Tensor): return x


def test_a_transform_after_normalize_is_refused(tmp_path):
    normalize = Normalize.from_stats([.5]*3, [.2]*3, cuda=False)
    learn, _ = digits_learner(tmp_path, batch_tfms=[normalize, Late()])
    refused(lambda: LearnerSet(learn), "Late comes after Normalize")
    Late.order, Late.split_idx = 100, 0  # of training alone
    learn, _ = digits_learner(tmp_path, batch_tfms=[normalize, Late()])
    assert len(LearnerSet(learn)) == 48
    Late.order, Late.split_idx = 50, None
    learn, _ = digits_learner(tmp_path, batch_tfms=[normalize, Late()])
    assert len(LearnerSet(learn)) == 48


def test_a_learner_on_loaders_of_torch():
    a, b = load_data("digits", limit=40, test_limit=20)
    for train in (a, TensorDataset(a.pixels(range(40)), torch.from_numpy(a.labels))):
        learn = SimpleNamespace(dls=DataLoaders(DataLoader(train, 8), DataLoader(b, 8)))
        got = images_of(learn)
        assert len(got) == 40 and torch.equal(got[7][0], a[7][0]) and got[7][1] == a.labels[7]
        assert len(images_of(learn, split="valid")) == 20
        assert images_of(learn, a) is a  # no names on the Learner's side


def test_a_learner_without_images_says_so(tmp_path):
    learn, ds = digits_learner(tmp_path)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    whole = Learner(learn.dls, net, loss_func=CrossEntropyLossFlat(), path=tmp_path)
    whole.export("x.pkl")
    exported = load_learner(tmp_path/"x.pkl")
    refused(lambda: images_of(exported), "no training images (an exported one carries none)")
    refused(lambda: images_of(exported, split="valid"), "no validation images")
    named = ImageSet(ds.items, ds.labels, [f"digit {i}" for i in range(10)], ds.ids, "named")
    assert len(images_of(exported, named)) == 60
    one = SimpleNamespace(dls=DataLoaders(learn.dls.train))
    refused(lambda: images_of(one, split="valid"), "no validation images")
    assert len(images_of(one)) == 48 and torch.equal(images_of(one)[3][0], images_of(learn)[3][0])
    none, _ = digits_learner(tmp_path, valid_pct=0)
    refused(lambda: images_of(none, split="valid"), "no validation images")
    streams = SimpleNamespace(dls=DataLoaders(DataLoader(Stream()), DataLoader(Stream())))
    refused(lambda: images_of(streams), "list(ds)")


def test_a_learners_images_are_not_augmented(tmp_path):
    normalize = Normalize.from_stats([.5]*3, [.2]*3, cuda=False)
    learn, ds = digits_learner(tmp_path, batch_tfms=[*aug_transforms(p_affine=1., p_lighting=1.), normalize])
    got = images_of(learn)
    for i in range(5):
        original = ds[int(got.ids[i][:3])][0]
        assert torch.allclose(got[i][0], original, atol=1e-6)


def test_loaders_for_training_take_any_dataset():
    train = Own(lambda i: dict(image=to_pil(i), label="owl"), 20, classes=CLASSES)
    valid = Own(lambda i: (GREY[i], np.array([1])))
    dls = pixel_loaders(train, valid, bs=4)
    x, y = dls.one_batch()
    assert x.shape == (4, 3, 8, 8) and y.tolist() == [2]*4
    assert dls.vocab == CLASSES and sum(len(y) for _, y in dls.valid) == 6


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["junk", "cut", "gone"])
def test_a_damaged_file_in_anybodys_dataset_is_named_in_one_line(tmp_path, how, workers):
    for name in ("a/0", "a/1", "b/0", "b/1"): picture(tmp_path/f"{name}.png")
    ds = ImageFolder(tmp_path, tv.ToTensor())
    file = tmp_path/"b/0.png"
    if how == "gone": file.unlink()
    else: file.write_bytes(b"junk" if how == "junk" else file.read_bytes()[:60])
    with pytest.raises(WrnbError, match="image 2 cannot be read .*: replace or remove it") as e:
        list(batches(ds, [[0, 1], [2, 3]], workers=workers))
    assert "\n" not in str(e.value)


def test_an_error_of_a_datasets_own_code_stays_as_it_is():
    class Faulty(Dataset):
        def __len__(self): return 3
        def __getitem__(self, i): raise TypeError("a fault in the dataset's code")
    with pytest.raises(TypeError, match="a fault in"): as_images(Faulty())[0]
