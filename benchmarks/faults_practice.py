"""What people really have, for benchmarks/faults.py: datasets, items, labels, models, folders, numbers, paths.

Each case is a name, what is right, and a function of an empty folder that tries it and returns
whether the result is right. Many ask for the right scores, which a plain loop computes
(benchmarks/practice_kinds.py).
"""
import os, shutil, warnings
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset, TensorDataset

import practice_kinds as kinds
import wrnb.weak  # noqa: F401 (gives Scores its selection)
from practice_kinds import EPS, LABELS, LEVELS, N, NAMES, NEIGHBORS, Linear, Own, items_of
from wrnb.attacks import ATTACKS
from wrnb.benchmark import compare, evaluate
from wrnb.core import WrnbError
from wrnb.corruptions import corrupt
from wrnb.pictures import read_image
from wrnb.image_sets import subset
from wrnb.folders import load_data
from wrnb.enhancement import enhance
from wrnb.measurement import Clean
from wrnb.inference import logits_of
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.tables import read_table, write_table
from wrnb.runs import Run
from wrnb.scoring import score_robustness
from wrnb.validation import validate

SHORT = dict(device="cpu", severities=(1,), attack_names=())  # an evaluation that takes no time


class Case(NamedTuple):
    "What is tried, and what is right"
    name:str # what is tried
    attempt:object # a function of an empty folder that returns whether the result is right
    refused:str|None = None # what the line of an error must name; None if an error is wrong
    only_refused:bool = False # is an error the only right answer?
    warned:str|None = None # what a warning must name; None if none is asked for

    @property
    def right(self):
        "In words"
        line = f"one line{f' that names {self.refused}' if self.refused else ''}"
        if self.only_refused: return line
        value = f"the right result{f', and a warning of {self.warned}' if self.warned else ''}"
        return value if self.refused is None else f"{value}, or {line}"


def attempted(case, home):
    "(what came of it: right, wrong, refused or failed; the line; the warnings)"
    folder = home/"practice"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: result, line = ("right", "") if case.attempt(folder) else ("wrong", "another result")
        except WrnbError as e: result, line = "refused", str(e)
        except Exception as e: result, line = "failed", f"{type(e).__name__}: {e}"
    return result, line, [str(w.message) for w in caught if w.category is UserWarning]


def try_case(case, home):
    "(is the answer right? what was seen)"
    result, line, warned = attempted(case, home)
    seen = f"{result}: {line}" if line else result
    if warned: seen += f"; warned: {' | '.join(warned)}"
    if result == "refused": return case.refused is not None and case.refused in line and "\n" not in line, seen
    is_warned = case.warned is None or any(case.warned in w for w in warned)
    return result == "right" and not case.only_refused and is_warned, seen


def refuse(name, attempt, words=""): return Case(name, attempt, words, only_refused=True)


# --- scores ---------------------------------------------------------------------------------------

def score(model, ds, **how):
    how = dict(eps=EPS, n_neighbors=NEIGHBORS, device="cpu") | how
    return score_robustness(model, ds, **how)


def close(scores, expected, tolerance): return len(scores) == N and bool(np.allclose(scores, expected, atol=tolerance))


def scores_right(model="plain module", ds=None, image="float32 tensor", tolerance=1e-5):
    "Are the scores of a model and a dataset those of the plain loop?"
    expected = kinds.plain_scores(kinds.logits_of(model), kinds.pixels_of(image), LABELS)
    t = score(kinds.ALL_MODELS[model](), items_of() if ds is None else ds()).table
    return t.label.tolist() == LABELS and close(t.score, expected, tolerance)


def dataset_cases():
    def of_items(make): return lambda folder: scores_right(ds=lambda: make(items_of()))
    def whole(make): return lambda folder: scores_right(ds=make)
    taken = [Case(f"dataset: {name}", of_items(make)) for name, make in (kinds.ANY_ITEMS | kinds.OWN_IDS).items()]
    taken += [Case("dataset: TensorDataset", whole(kinds.tensor_dataset)),
              Case("dataset: ImageSet", whole(kinds.image_set))]
    return taken + [refuse(f"dataset: {name}", of_items(make)) for name, make in kinds.NO_DATASETS.items()]


def image_cases():
    def of(image):
        tolerance = kinds.TOLERANCE.get(image, 1e-5)
        return lambda folder: scores_right(ds=lambda: items_of(image=image), image=image, tolerance=tolerance)
    taken = [Case(f"image: {name}", of(name)) for name in kinds.IMAGES | kinds.GREYS]
    return taken + [refuse(f"image: {name}", lambda folder, name=name: score(Linear(), items_of(image=name)))
                    for name in kinds.NO_IMAGES]


def label_cases():
    def of(label): return lambda folder: scores_right(ds=lambda: items_of(label=label))
    def named(): return Own(items_of(label="text"), classes=NAMES)
    taken = [Case(f"label: {name}", of(name)) for name in kinds.LABELLED]
    unclear = [Case(f"label: {name}", of(name), refused="") for name in kinds.UNCLEAR]
    refused = [refuse(f"label: {name}", of(name)) for name in kinds.NO_LABELS]
    with_names = Case("label: text, with a list of classes", lambda folder: scores_right(ds=named))
    return [*taken, with_names, *unclear, *refused]


def item_cases():
    def of(item): return lambda folder: scores_right(ds=lambda: items_of(item=item))
    def pil_in_dicts(): return items_of("PIL picture", "NumPy int", "dict of image and label")
    return ([Case(f"item: {name}", of(name)) for name in kinds.ITEMS]
            + [Case("item: dict of a PIL picture", lambda folder: scores_right(ds=pil_in_dicts))]
            + [refuse(f"item: {name}", of(name)) for name in kinds.NO_ITEMS])


def model_cases():
    def of(name): return lambda folder: scores_right(model=name, tolerance=kinds.TOLERANCE.get(name, 1e-5))
    return ([Case(f"model: {name}", of(name)) for name in kinds.MODELS]
            + [Case(f"model: {name}", of(name), refused="") for name in kinds.ROUGH]
            + [Case(f"model: {name}", of(name), warned="softmax") for name in kinds.WARNED]
            + [refuse(f"model: {name}", of(name)) for name in kinds.NO_MODELS])


# --- folders --------------------------------------------------------------------------------------

def tree(folder, *names, size=(32, 32)):
    "Write a picture under each name, another one each time; other files are text"
    rng = np.random.default_rng(0)
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).suffix.lower() not in (".png", ".jpg", ".jpeg", ".gif"): (folder/name).write_text("no picture")
        else: Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder/name)
    return folder


def files(split, *classes, n=3, ext="png"): return [f"{split}/{c}/{i}.{ext}" for c in classes for i in range(n)]


PETS = [*files("train", "cat", "dog"), *files("test", "cat", "dog", n=2)]


def finds(names, classes=("cat", "dog"), n=(6, 4), **how):
    "Does a folder of these files have these classes and numbers of images?"
    def attempt(folder):
        train, test = load_data(str(tree(folder, *names)), **how)
        return list(train.classes) == list(test.classes) == list(classes) and (len(train), len(test)) == n
    return attempt


def split_as(name): return [f.replace("test/", f"{name}/") for f in PETS]


def deeper(name): return [f.replace("/cat/", f"/cat/{name}/").replace("/dog/", f"/dog/{name}/") for f in PETS]


WITHOUT_SPLIT = [f.removeprefix("train/") for f in files("train", "cat", "dog", n=10)]


def splits_alike(folder):
    "Is a folder without a split divided by the share, the same way each time?"
    parts = [load_data(str(tree(folder, *WITHOUT_SPLIT)), test_share=.25) for _ in range(2)]
    ids = [[sorted(ds.ids) for ds in pair] for pair in parts]
    return ids[0] == ids[1] and len(ids[0][1]) in (4, 5, 6) and not set(ids[0][0]) & set(ids[0][1])


def grey_pictures(folder):
    for name in PETS:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 100).save(folder/name)
    x, _ = load_data(str(folder))[0][0]
    return tuple(x.shape) == (3, 32, 32) and bool((x == 100/255).all())


def median_size(folder):
    "One large picture first, the others of 48 px"
    tree(folder, *PETS, size=(48, 48))
    tree(folder, "train/cat/0.png", size=(200, 200))
    return tuple(load_data(str(folder))[0][0][0].shape) == (3, 48, 48)


def folder_cases():
    stray = "train/poster.png"
    return [
        Case("folder: train and test", finds(PETS)),
        *[Case(f"folder: train and {name}", finds(split_as(name))) for name in ("val", "valid", "validation")],
        Case("folder: sessions within classes", finds(deeper("monday"))),
        Case("folder: Tiny-ImageNet's images/ in each class", finds(deeper("images"))),
        Case("folder: two levels within classes", finds(deeper("2024/may"))),
        Case("folder: hidden folder in train", finds([*PETS, "train/.cache/0.png"])),
        Case("folder: .ipynb_checkpoints", finds([*PETS, "train/.ipynb_checkpoints/0-checkpoint.png"])),
        Case("folder: .ipynb_checkpoints in a class", finds([*PETS, "train/cat/.ipynb_checkpoints/0.png"])),
        Case("folder: __MACOSX", finds([*PETS, "__MACOSX/train/cat/0.png", "train/__MACOSX/0.png"])),
        Case("folder: stray picture next to the classes", finds([*PETS, stray]), refused="poster"),
        Case("folder: text next to the classes", finds([*PETS, "train/README.txt", "train/.DS_Store"])),
        Case("folder: text in a class", finds([*PETS, "train/cat/notes.txt"])),
        Case("folder: upper-case extensions", finds([f.replace("png", "JPG") for f in PETS])),
        Case("folder: a GIF among them", finds([*PETS, "train/cat/stray.gif"], n=(7, 4))),
        Case("folder: spaces and other scripts",
             finds([f.replace("cat", "my cat").replace("dog", "собака") for f in PETS], classes=("my cat", "собака"))),
        Case("folder: no split, with a share", splits_alike),
        refuse("folder: no split", finds(WITHOUT_SPLIT)),
        refuse("folder: an empty class", lambda folder: ((folder/"train"/"fish").mkdir(parents=True),
                                                         finds(PETS)(folder)), "fish"),
        refuse("folder: another class in test", finds([*PETS, "test/wolf/0.png"]), "wolf"),
        refuse("folder: no pictures", finds(["train/cat/a.txt", "test/cat/a.txt"])),
        refuse("folder: nothing there", lambda folder: load_data(str(folder/"nowhere"))),
        Case("folder: grey pictures", grey_pictures),
        Case("folder: the size is the median's", median_size)]


# --- pictures -------------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 255, 40).round(), (30, 1))  # grey levels, 30 rows and 40 columns


def reads(save, expected=RAMP, tolerance=2, name="picture.png"):
    "Is the picture that `save` writes read as these grey levels?"
    def attempt(folder):
        save(folder/name)
        got = read_image(folder/name).astype(float)
        return got.shape[:2] == expected.shape[:2] and bool((abs(got - np.atleast_3d(expected)) <= tolerance).all())
    return attempt


def saves(array, mode=None, **how):
    def save(path):
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(path, **how)
    return save


def on_transparent(path):
    "Black on the right half, nothing on the left"
    alpha = (RAMP > 127)*255
    Image.fromarray(np.dstack([np.zeros((30, 40, 3)), alpha]).astype(np.uint8)).save(path)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(np.dstack([RAMP]*3).astype(np.uint8)).save(path, exif=exif)


def animated(path):
    first, second = (Image.fromarray(a.astype(np.uint8)) for a in (RAMP, 255 - RAMP))
    first.save(path, save_all=True, append_images=[second])


def cut_off(path):
    saves(RAMP.astype(np.uint8))(path)
    path.write_bytes(path.read_bytes()[:-60])


def picture_cases():
    whole, white_left = RAMP.astype(np.uint8), np.where(RAMP > 127, 0, 255)
    tif = dict(name="picture.tif")
    return [
        Case("picture: 8-bit grey", reads(saves(whole))),
        Case("picture: RGB", reads(saves(whole, "RGB"))),
        Case("picture: palette", reads(saves(whole, "P"))),
        Case("picture: grey with transparency", reads(saves(whole, "LA"))),
        Case("picture: CMYK", reads(saves(whole, "CMYK"), tolerance=3, **tif)),
        Case("picture: 16-bit grey", reads(saves((RAMP*257).astype(np.uint16)))),
        Case("picture: float TIFF from 0 to 1", reads(saves((RAMP/255).astype(np.float32)), **tif)),
        Case("picture: float TIFF from 0 to 65535", reads(saves((RAMP*257).astype(np.float32)), **tif), refused=""),
        Case("picture: 32-bit TIFF from 0 to 255", reads(saves(RAMP.astype(np.int32)), **tif), refused=""),
        refuse("picture: float TIFF with negative values", reads(saves((RAMP - 100).astype(np.float32)), **tif)),
        refuse("picture: float TIFF of NaN", reads(saves(np.full((30, 40), np.nan, np.float32)), **tif)),
        Case("picture: a drawing on transparent ground is on white", reads(on_transparent, white_left, 130)),
        Case("picture: EXIF orientation", reads(turned, np.rot90(RAMP, -1), 8, "phone.jpg")),
        Case("picture: an animated GIF's first frame", reads(animated, name="picture.gif")),
        Case("picture: one bit", reads(saves(whole > 127), np.where(RAMP > 127, 255, 0))),
        Case("picture: WebP", reads(saves(whole, "RGB", lossless=True), name="picture.webp")),
        refuse("picture: cut off", reads(cut_off), "picture.png"),
        refuse("picture: text", reads(lambda path: path.write_text("no picture")), "picture.png")]


# --- checkpoints ----------------------------------------------------------------------------------

def weights(prefix="", **more):
    torch.manual_seed(0)
    return {prefix + k: v for k, v in load_model("digits_net", 10).body.state_dict().items()} | more


def loads(make, **how):
    "Does a checkpoint of these contents give the logits of the weights in it?"
    def attempt(folder):
        torch.save(make(), folder/"net.pt")
        expected = load_model("digits_net", 10)
        expected.body.load_state_dict(weights())
        x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        got = load_model(f"digits_net@{folder}/net.pt", 10, **how)
        with torch.no_grad(): return torch.allclose(got.eval()(x), expected.eval()(x), atol=1e-2)
    return attempt


def averaged():
    torch.manual_seed(0)
    return torch.optim.swa_utils.AveragedModel(load_model("digits_net", 10).body).state_dict()


ANIMALS = "ant bee cat dog elk fox gnu hen ibex jay".split()


def reordered(folder):
    "The file says that its outputs are in another order: they are put into the data's"
    torch.save(dict(state_dict=weights(), classes=ANIMALS[::-1]), folder/"net.pt")
    plain = load_model("digits_net", 10)
    plain.body.load_state_dict(weights())
    net, x = load_model(f"digits_net@{folder}/net.pt", 10, classes=ANIMALS), torch.rand(2, 3, 32, 32)
    with torch.no_grad(): return torch.allclose(net.eval()(x), plain.eval()(x).flip(1), atol=1e-5)


def saved_again(folder):
    "Weights that were saved by the package, under a name with ~"
    with mock.patch.dict(os.environ, HOME=str(folder)):
        save_weights(load_model("digits_net", 10), "~/net.safetensors")
        return load_model("digits_net@~/net.safetensors", 10) is not None and (folder/"net.safetensors").is_file()


def checkpoint_cases():
    makes = {
        "state_dict": weights,
        "{'state_dict': ...}": lambda: dict(state_dict=weights(), epoch=3),
        "{'model_state_dict': ...}": lambda: dict(model_state_dict=weights(), epoch=3),
        "{'net': ...}": lambda: dict(net=weights(), acc=92.1),
        "{'model': ...}": lambda: dict(model=weights()),
        "{'model_ema': ...}": lambda: dict(model_ema=weights()),
        "AveragedModel": averaged,
        "Lightning's prefix model.": lambda: dict(state_dict=weights("model.")),
        "Lightning's prefix net.": lambda: dict(state_dict=weights("net.")),
        "Lightning with a loss": lambda: dict(state_dict=weights("model.", **{"criterion.weight": torch.ones(10)})),
        "DataParallel's prefix": lambda: weights("module."),
        "torch.compile's prefix": lambda: weights("_orig_mod."),
        "thop's counters": lambda: weights(total_ops=torch.zeros(1), total_params=torch.zeros(1)),
        "half precision": lambda: {k: v.half() for k, v in weights().items()}}
    refused = {
        "nothing in it": lambda: {},
        "an optimizer alone": lambda: dict(optimizer=dict(state={}, param_groups=[])),
        "a key is missing": lambda: dict(list(weights().items())[1:]),
        "a list": lambda: [torch.zeros(3)]}
    other_classes = lambda: dict(state_dict=weights(), classes=[f"plant {i}" for i in range(10)])
    return ([Case(f"checkpoint: {name}", loads(make)) for name, make in makes.items()]
            + [Case("checkpoint: classes in the same order", loads(
                lambda: dict(state_dict=weights(), classes=ANIMALS), classes=ANIMALS)),
               Case("checkpoint: classes in another order", reordered),
               refuse("checkpoint: other classes", loads(other_classes, classes=ANIMALS)),
               Case("checkpoint: ~ in its path", saved_again)]
            + [refuse(f"checkpoint: {name}", loads(make), "net.pt") for name, make in refused.items()])


# --- numbers --------------------------------------------------------------------------------------

def same_scores(**how):
    "Are the scores those with Python's own numbers?"
    plain = {k: (int(v) if float(v).is_integer() else float(v)) for k, v in how.items()}
    return lambda folder: score(Linear(), items_of(), **how).table.equals(score(Linear(), items_of(), **plain).table)


def weakest_is(k): return lambda folder: len(score(Linear(), items_of()).weakest(k)) == 1


def evaluated(**how):
    return lambda folder: len(evaluate(dict(a=Linear()), kinds.image_set(), **(SHORT | how)).table) > 0


def number_cases():
    taken = dict(
        eps=[np.float32(.25), np.float64(.3), torch.tensor(.25), Fraction(1, 4)],
        n_neighbors=[np.int64(4), np.uint8(4), 4., np.float64(4), torch.tensor(4)],
        batch_size=[np.int64(8), 8.], seed=[np.int64(3), 3., torch.tensor(3)], workers=[np.int64(0)])
    refused = dict(
        eps=["0.1", float("nan"), -1, 2, None], n_neighbors=[4.5, True, "4", 0], batch_size=[0, 2.5], seed=[.5, "0"])
    def describe(name, value): return f"number: {name}={value!r} ({type(value).__name__})"
    def attempt(name, value): return lambda folder: score(Linear(), items_of(), **{name: value})
    return (
        [Case(describe(k, v), same_scores(**{k: v})) for k, values in taken.items() for v in values]
        + [refuse(describe(k, v), attempt(k, v), f"{k}=") for k, values in refused.items() for v in values]
        + [Case(f"number: weakest({k!r})", weakest_is(k)) for k in (np.int64(1), 1.)]
        + [refuse(f"number: weakest({k!r})", weakest_is(k), "k=") for k in (1.5, 0, "1")]
        + [Case("number: severities=1", evaluated(severities=1), refused="severit"),
           Case("number: one radius", evaluated(eps=4/255, attack_names=("fgsm",)), refused="eps"),
           Case("number: NumPy severities", evaluated(severities=np.array([1]))),
           refuse("number: severity 6", evaluated(severities=(6,)), "severity=6")])


# --- paths ----------------------------------------------------------------------------------------

class PathLike:
    "A path of another library"
    def __init__(self, path): self.path = path
    def __fspath__(self): return str(self.path)


def at_home(attempt):
    "Try with an empty folder as the home folder, and look that no folder is named ~"
    def wrapped(folder):
        here = Path.cwd()
        with mock.patch.dict(os.environ, HOME=str(folder)):
            os.chdir(folder)
            try: return attempt(folder) and not (folder/"~").exists()
            finally: os.chdir(here)
    return wrapped


def scores_into(make_out, *parts):
    def attempt(folder):
        score(Linear(), items_of(), out=make_out(folder))
        return folder.joinpath(*parts, "scores.parquet").is_file()
    return at_home(attempt)


def table_at_home(folder):
    df = pd.DataFrame(dict(x=[1]))
    write_table(df, "~/tables/a.csv")
    return read_table("~/tables/a.csv").equals(df) and (folder/"tables"/"a.csv").is_file()


def path_cases():
    def into_number(folder): return score(Linear(), items_of(), out=5)
    return [
        Case("path: out as text", scores_into(lambda folder: str(folder/"run"), "run")),
        Case("path: out as Path", scores_into(lambda folder: folder/"run", "run")),
        Case("path: out as a path of another library", scores_into(lambda folder: PathLike(folder/"run"), "run")),
        Case("path: out under ~", scores_into(lambda folder: "~/run", "run")),
        Case("path: out as Path under ~", scores_into(lambda folder: Path("~/deep/run"), "deep", "run")),
        Case("path: a relative out", scores_into(lambda folder: "run", "run")),
        Case("path: a table under ~", at_home(table_at_home)),
        Case("path: Run under ~", at_home(lambda folder: Run("~/run").path == folder/"run")),
        Case("path: data under ~", at_home(lambda folder: len(load_data(str(tree(folder/"pets", *PETS)).replace(
            str(folder), "~"))[0]) == 6)),
        Case("path: data as Path", lambda folder: len(load_data(tree(folder, *PETS))[0]) == 6),
        refuse("path: out is a number", into_number, "5"),
        refuse("path: out is a file", lambda folder: ((folder/"file").write_text(""), score(
            Linear(), items_of(), out=folder/"file")), "file")]


# --- which images ---------------------------------------------------------------------------------

MASK = np.isin(np.arange(N), [1, 4, 7])


def chooses(make, ids=("i1", "i4", "i7")):
    return lambda folder: list(subset(kinds.image_set(), make()).ids) == list(ids)


def validated_on(make, n):
    "Does a validation take n weak images?"
    def attempt(folder):
        ds = kinds.image_set()
        t = validate(Linear(), make(), ds, ds, perturbations=[Clean()], device="cpu").table
        return t.n[t.subset == "weak"].tolist() == [n]
    return attempt


def index_cases():
    taken = {
        "list": lambda: [1, 4, 7], "array": lambda: np.array([1, 4, 7]), "tensor": lambda: torch.tensor([1, 4, 7]),
        "Series": lambda: pd.Series([1, 4, 7], index=[9, 8, 7]), "range": lambda: range(1, 9, 3),
        "boolean array": lambda: MASK, "boolean list": MASK.tolist, "boolean tensor": lambda: torch.tensor(MASK),
        "boolean Series": lambda: pd.Series(MASK), "whole floats": lambda: np.array([1., 4., 7.])}
    refused = {
        "outside": lambda: [1, N], "mask of another length": lambda: MASK[:5], "text": lambda: ["i1"],
        "half": lambda: [1.5]}
    return ([Case(f"images: {name}", chooses(make)) for name, make in taken.items()]
            + [refuse(f"images: {name}", chooses(make)) for name, make in refused.items()]
            + [Case("images: a mask in validate", validated_on(lambda: MASK, 3)),
               Case("images: a Series mask in validate", validated_on(lambda: pd.Series(MASK), 3)),
               refuse("images: none in validate", validated_on(lambda: [], 0))])


# --- what else happens ----------------------------------------------------------------------------

def run_of_other_data(change):
    "A run folder of one data set, then another one in it"
    def attempt(folder):
        score(Linear(), items_of(), out=folder/"run")
        before = (folder/"run"/"scores.parquet").read_bytes()
        try: score(Linear(), change(items_of()), out=folder/"run")
        finally: assert (folder/"run"/"scores.parquet").read_bytes() == before, "the table was overwritten"
    return attempt


def corrected_label(items): return [(items[0][0], (items[0][1] + 1) % 3), *items[1:]]
def other_pixels(items): return [(1 - items[0][0], items[0][1]), *items[1:]]
def other_order(items): return items[::-1]
def as_tensors(items): return TensorDataset(torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items]))


def resumed(folder):
    "The same data in the same folder: the same table again"
    first, again = (score(Linear(), items_of(), out=folder/"run").table for _ in range(2))
    return first.equals(again)


def modes_kept(call):
    "Is a model in training mode as it was, its requires_grad and the random state too?"
    def attempt(folder):
        net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(.5), Linear()).train()
        net[0].eval()
        net[2].requires_grad_(False)
        modes, grads = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
        state, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
        call(net, kinds.image_set())
        same = all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        same_modes = [m.training for m in net.modules()] == modes
        same_grads = [p.requires_grad for p in net.parameters()] == grads
        return same and same_modes and same_grads and torch.equal(torch.get_rng_state(), random)
    return attempt


def fine_tuned(net, ds):
    enhance(net, strategy="standard", ds=ds, test=ds, epochs=1, bs=3, device="cpu")


MODES = dict(
    score=lambda net, ds: score(net, ds),
    validate=lambda net, ds: validate(net, [0, 1], ds, ds, perturbations=[Clean()], device="cpu"),
    evaluate=lambda net, ds: evaluate(dict(a=net), ds, **SHORT),
    logits_of=lambda net, ds: logits_of(net, ds),
    enhance=fine_tuned)


def rounding(net): return kinds.Wrapped(net, before=lambda x: (x*255).round()/255)


def batch_dependent(): return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Linear())


def compared_twice(folder):
    ds = kinds.image_set()
    return compare(Linear(), Linear(), names=("m", "m"), test=ds, severities=(1,), attack_names=(), device="cpu")


def attacked(model, labels):
    return lambda folder: ATTACKS["fgsm"](.01)(model, LEVELS/255, labels).shape == LEVELS.shape


def other_cases():
    ds, pixels = kinds.image_set, LEVELS[:2]/255
    gradients = lambda folder: len(evaluate(dict(a=rounding(Linear())), ds(), severities=(), attack_names=("fgsm",),
                                            eps=(4/255,), device="cpu").table) > 0
    return [
        *[refuse(f"run folder: {name}", run_of_other_data(change), "was made with") for name, change in {
            "a corrected label": corrected_label, "other pixels": other_pixels, "another order": other_order,
            "another type with other pixels": lambda items: as_tensors(other_pixels(items)),
            "fewer images": lambda items: Subset(items, range(5))}.items()],
        Case("run folder: the same data", resumed),
        *[Case(f"left as it was: {name}", modes_kept(call)) for name, call in MODES.items()],
        Case("warned: gradients of zero", gradients, warned="gradient"),
        Case("warned: logits that depend on the batch", lambda folder: len(score(batch_dependent(), ds())) == N,
             warned="batch"),
        Case("one model in place of a dict", lambda folder: len(evaluate(Linear(), ds(), **SHORT).models) == 1,
             refused="models"),
        refuse("equal names in compare", compared_twice, "m"),
        Case("attack: a model with .logits", attacked(kinds.MODELS[".logits"](), torch.tensor(LABELS))),
        Case("attack: labels in a list", attacked(Linear(), LABELS), refused="label"),
        Case("corrupt: an array of bytes", lambda folder: corrupt(
            np.zeros((32, 32, 3), np.uint8), "fog", 3) is not None, refused=""),
        Case("corrupt: grey images", lambda folder: corrupt(pixels[:, :1], "contrast", 3) is not None, refused="grey"),
        refuse("score: a model and nothing else", lambda folder: score(Linear(), None)),
        refuse("score: an unknown noise", lambda folder: score(Linear(), ds(), noise="pink"), "noise="),
        refuse("score: an unknown device", lambda folder: score(Linear(), ds(), device="abacus"), "device="),
        refuse("score: an unknown precision", lambda folder: score(Linear(), ds(), precision="fp64"), "precision=")]


CASES = [*dataset_cases(), *image_cases(), *label_cases(), *item_cases(), *model_cases(), *folder_cases(),
         *picture_cases(), *checkpoint_cases(), *number_cases(), *path_cases(), *index_cases(), *other_cases()]
