"""`Corrupt` and `RandomCorruption` in samples of every structure, next to torchvision's `ColorJitter`.

torchvision decides which parts of a sample are pictures; `ColorJitter` shows its decision, since it changes
every picture that it touches and returns the rest as it is.
"""
from collections import OrderedDict, namedtuple
import copy, pickle

import numpy as np
from PIL import Image
import pytest
import torch
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1, tv_tensors
from torchvision.transforms import v2

from wrnb.core import WrnbError
from wrnb.corruptions import corrupt
from wrnb.transforms import Corrupt, RandomCorruption

LEVELS = torch.randint(60, 200, (3, 40, 48), generator=torch.Generator().manual_seed(0)).byte()
PHOTO = v2.functional.to_pil_image(LEVELS)
Pair = namedtuple("Pair", "image label")


def boxes(): return tv_tensors.BoundingBoxes([[2, 3, 20, 30]], format="XYXY", canvas_size=(40, 48))
def mask(): return tv_tensors.Mask(torch.ones(1, 40, 48, dtype=torch.uint8))
def image(): return tv_tensors.Image(LEVELS.clone())


SAMPLES = {
    "an image": image,
    "a Pillow image": PHOTO.copy,
    "a tensor": LEVELS.clone,
    "floats": lambda: LEVELS/255,
    "one channel": lambda: LEVELS[:1].clone(),
    "one channel, floats": lambda: tv_tensors.Image(LEVELS[:1]/255),
    "a batch": lambda: torch.stack([LEVELS]*2),
    "a grey batch": lambda: torch.stack([LEVELS[1:2]]*2)/255,
    "a video": lambda: tv_tensors.Video(torch.stack([LEVELS]*3)),
    "videos": lambda: tv_tensors.Video(torch.stack([torch.stack([LEVELS]*3)]*2)),
    "a pair": lambda: (image(), 3),
    "a list": lambda: [LEVELS.clone(), torch.tensor(3)],
    "a named tuple": lambda: Pair(PHOTO.copy(), 3),
    "a dict": lambda: dict(image=image(), boxes=boxes(), mask=mask(), label=3, name="cat", none=None),
    "an ordered dict": lambda: OrderedDict(label=1, image=image()),
    "nested": lambda: ([image(), dict(second=image(), other=boxes())], (PHOTO.copy(), "name")),
    "an image and tensors": lambda: (torch.rand(3, 8, 8), image(), torch.rand(5)),
    "two tensors": lambda: (LEVELS.clone(), torch.rand(3, 40, 48)),
    "a Pillow image and a tensor": lambda: (torch.rand(3, 40, 48), PHOTO.copy()),
    "a Pillow image and an array": lambda: dict(a=np.zeros((40, 48), np.uint8), b=PHOTO.copy()),
    "only a mask": mask,
    "only boxes": lambda: dict(boxes=boxes(), labels=torch.tensor([1]))}


def changed(transform, sample):
    "For each part: its type before and after, and was it touched?"
    before, _ = tree_flatten(sample)
    after, structure = tree_flatten(transform(sample))
    assert structure == tree_flatten(sample)[1]
    return [(type(b), type(a), a is not b) for b, a in zip(before, after)]


@pytest.mark.parametrize("transform", [Corrupt("contrast", 3), RandomCorruption(["fog", "gaussian_noise"])], ids=str)
@pytest.mark.parametrize("what", SAMPLES)
def test_the_same_parts_as_with_color_jitter(what, transform):
    ours = changed(transform, SAMPLES[what]())
    if "only boxes" == what: theirs = [(type(x), type(x), False) for x in tree_flatten(SAMPLES[what]())[0]]
    else: theirs = changed(v2.ColorJitter((.3, .4)), SAMPLES[what]())
    assert [(b, b, touched) for b, _, touched in theirs] == ours


@pytest.mark.parametrize("what", SAMPLES)
def test_each_picture_is_what_corrupt_makes_of_it(what):
    "Shape and numeric type are kept, and the pixels are those of the picture alone"
    sample = SAMPLES[what]()
    for before, after in zip(tree_flatten(sample)[0], tree_flatten(Corrupt("fog", 2)(sample))[0]):
        if after is before: continue
        if isinstance(before, Image.Image):
            assert np.array_equal(np.array(after), np.array(corrupt(before, "fog", 2)))
            continue
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        levels = before if before.dtype == torch.uint8 else (before*255).round().byte()
        made = after if after.dtype == torch.uint8 else (after*255).round().byte()
        for a, b in zip(levels.reshape(-1, *levels.shape[-3:]), made.reshape(-1, *made.shape[-3:])):
            picture = a.permute(1, 2, 0).squeeze(-1).numpy()
            assert np.array_equal(b.permute(1, 2, 0).squeeze(-1).numpy(), corrupt(picture, "fog", 2))


def test_several_inputs_are_a_sample():
    both = v2.Compose([v2.RandomHorizontalFlip(0), Corrupt("fog", 3)])(image(), 5)
    assert isinstance(both, tuple) and both[1] == 5
    assert torch.equal(both[0], Corrupt("fog", 3)(image()))
    alone = RandomCorruption(p=0)(image(), 5)
    assert isinstance(alone, tuple) and torch.equal(alone[0], image())


def test_all_pictures_of_a_sample_get_the_same():
    "Its name, severity and seed, as seen on two equal pictures, in forty draws of which many differ"
    torch.manual_seed(0)
    draws = [RandomCorruption(p=.7)([image(), dict(again=image())]) for _ in range(40)]
    assert all(torch.equal(a, rest["again"]) for a, rest in draws)
    kinds = {a.numpy().tobytes() for a, _ in draws}
    assert len(kinds) > 20 and LEVELS.numpy().tobytes() in kinds


def test_the_draws_are_those_of_a_picture_alone():
    torch.manual_seed(3)
    alone = [RandomCorruption(p=.8)(LEVELS) for _ in range(10)]
    torch.manual_seed(3)
    in_sample = [RandomCorruption(p=.8)((LEVELS, 1))[0] for _ in range(10)]
    assert all(map(torch.equal, alone, in_sample))


@pytest.mark.parametrize("transform", [Corrupt("fog", 3), RandomCorruption("fog")], ids=str)
def test_they_are_torchvisions(transform):
    assert isinstance(transform, v2.Transform)
    for again in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(0)
        first = transform(LEVELS)
        torch.manual_seed(0)
        assert torch.equal(again(LEVELS), first) and str(again) == str(transform)
    steps = v2.RandomApply([v2.RandomChoice([transform]), v2.RandomOrder([transform])], p=1.)
    assert steps(dict(image=image(), label=2))["label"] == 2
    old = v1.Compose([v1.Resize(40), transform, v1.ToTensor(), transform])(PHOTO)
    assert old.shape[0] == 3 and old.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_precision(dtype):
    made = Corrupt("contrast", 3)(tv_tensors.Image((LEVELS/255).to(dtype)))
    assert made.dtype == dtype and isinstance(made, tv_tensors.Image)
    assert (made.float() - Corrupt("contrast", 3)(LEVELS)/255).abs().max() < 2e-2


class Samples(Dataset):
    "Samples as a detection set has them"
    steps = v2.Compose([v2.ToImage(), RandomCorruption(p=.8)])
    def __len__(self): return 8
    def __getitem__(self, i): return self.steps(dict(image=PHOTO.copy(), label=i))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(start):
    def epoch():
        torch.manual_seed(0)
        return [b["image"] for b in DataLoader(Samples(), 4, num_workers=2, multiprocessing_context=start)]
    first = torch.cat(epoch())
    assert torch.equal(first, torch.cat(epoch()))
    assert len({x.numpy().tobytes() for x in first}) > 4


@pytest.mark.parametrize("given, shown", [
    (3, "int"), (("a.png", 3), "str, int"), ([], "nothing"), (dict(a=None), "NoneType")])
def test_a_sample_without_a_picture_is_refused(given, shown):
    for transform in (Corrupt("fog", 3), RandomCorruption()):
        with pytest.raises(WrnbError, match=f"was given no picture but {shown}: give a Pillow image"): transform(given)


@pytest.mark.parametrize("given, shown", [
    (LEVELS[0], r"shape \(40, 48\)"), (torch.rand(2, 40, 48), "shape"), (torch.rand(4, 40, 48), "shape"),
    (LEVELS.int(), "torch.int32"), (LEVELS.float(), r"\[0,1\]|outside|above"),
    (np.zeros((40, 48, 3)), "float64"), (PHOTO.convert("RGBA"), "mode RGBA")])
def test_what_is_no_picture_of_colours_is_refused(given, shown):
    for sample in (given, (given, 1), dict(image=given)):
        with pytest.raises(WrnbError, match=shown) as e: Corrupt("fog", 3)(sample)
        assert "\n" not in str(e.value)


def test_an_array_in_a_sample():
    a = np.array(PHOTO)
    made = Corrupt("fog", 3)(dict(image=a, label=3, mask=np.ones((40, 48), np.uint8)))
    assert np.array_equal(made["image"], corrupt(a, "fog", 3)) and made["mask"].all() and made["label"] == 3
    made = Corrupt("fog", 3)((np.array([1, 2]), a[..., 0]))
    assert np.array_equal(made[1], corrupt(a[..., 0], "fog", 3)) and made[0].tolist() == [1, 2]


def test_in_a_fastai_data_loader(tmp_path):
    from fastai.vision.all import ImageDataLoaders
    small = PHOTO.resize((32, 32))
    for name in "ab":
        (tmp_path/name).mkdir()
        for i in range(4): small.save(tmp_path/name/f"{i}.png")
    def batch(**given):
        dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=.5, bs=4, num_workers=0, device="cpu", **given)
        return dls.train.one_batch()
    plain, _ = batch()
    for where in (dict(item_tfms=Corrupt("fog", 3)), dict(batch_tfms=Corrupt("fog", 3))):
        x, y = batch(**where)
        assert type(x) is type(plain) and y.max() <= 1
        assert (x - torch.as_tensor(Corrupt("fog", 3)(plain))).abs().max() < 1e-6
