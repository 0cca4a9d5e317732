"""Datasets, items, labels and models as people have them, each a small named kind, and the right score by a plain loop.

`benchmarks/faults.py` tries them one by one, tests/test_practice_everything.py draws combinations
of them. Everything is on nine images of 16 px in three classes, which a linear model sees.
"""
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from wrnb.image_sets import ImageSet
from wrnb.models import PixelModel
from wrnb.neighbors import neighbor_keys, neighbors

N, SIDE, CLASSES, EPS, NEIGHBORS = 9, 16, 3, .3, 5
NAMES = ["ant", "bee", "cat"]


def draw_levels():
    "8-bit pixels of nine images, [N, 3, height, width]"
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (N, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8)


LEVELS = draw_levels()


class Linear(nn.Module):
    "A linear classifier of centred pixels, wrong under some of the noise"
    def __init__(self, classes=CLASSES, channels=3):
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.head = nn.Linear(channels*SIDE*SIDE, classes)
        self.head.weight.data = torch.randn(self.head.weight.shape, generator=rng)*.25
        self.head.bias.data.zero_()

    def forward(self, x): return self.head((x - .5).flatten(1))


def label_as_seen():
    "The classes that the model sees, except for two images"
    with torch.no_grad(): labels = Linear()(LEVELS/255).argmax(1).tolist()
    return [(y + 1) % CLASSES if i in (2, 6) else y for i, y in enumerate(labels)]


LABELS = label_as_seen()


def plain_scores(logits, pixels, labels, seed=0):
    "The right scores, one image and one neighbour at a time: how sure the model is of a wrong class, on average"
    scores = []
    for x, y in zip(pixels, labels):
        sure = []
        for key in neighbor_keys(x[None], NEIGHBORS, seed)[0]:
            with torch.no_grad(): p = logits(neighbors(x[None], key[None], EPS)).softmax(1)[0]
            sure.append(float(p.max()) if p.argmax() != y else 0.)
        scores.append(np.mean(sure))
    return np.array(scores)


# --- images: level [channels, h, w] as what an item holds ------------------------------------------

def as_pil(level, mode="RGB"):
    hwc = level.permute(1, 2, 0).numpy()
    return Image.fromarray(hwc[..., 0] if hwc.shape[2] == 1 else hwc).convert(mode)


def hwc(level): return level.permute(1, 2, 0).numpy()


IMAGES = {  # kind -> from 8-bit levels [3, h, w]; the right pixels are levels/255
    "float32 tensor": lambda level: level/255,
    "float64 tensor": lambda level: level.double()/255,
    "float16 tensor": lambda level: (level/255).half(),
    "uint8 tensor": lambda level: level,
    "uint8 array, channels last": hwc,
    "float32 array, channels first": lambda level: (level/255).numpy(),
    "PIL picture": as_pil,
    "PIL picture, palette of greys": lambda level: as_pil(level[:1].expand(3, -1, -1)).convert("L").convert("P"),
    "PIL picture, opaque RGBA": lambda level: as_pil(level, "RGBA")}
GREYS = {  # as above, for pictures of one channel: three equal channels are right
    "grey float tensor": lambda level: level[:1]/255,
    "grey uint8 array": lambda level: level[0].numpy(),
    "grey PIL picture": lambda level: as_pil(level[:1], "L")}
NO_IMAGES = {  # refused in one line
    "normalised tensor": lambda level: level/255*4 - 2,
    "NaN tensor": lambda level: torch.full(level.shape, float("nan")),
    "five channels": lambda level: torch.zeros(5, SIDE, SIDE),
    "a vector": lambda level: torch.zeros(7),
    "text": lambda level: "picture.png",
    "nothing": lambda level: None}
ALL_IMAGES = IMAGES | GREYS | NO_IMAGES


def pixels_of(kind):
    "The right pixels of an image kind, [N, 3, h, w]; None if it is refused"
    if kind in NO_IMAGES: return None
    is_grey = kind in GREYS or "greys" in kind
    return (LEVELS[:, :1].expand(-1, 3, -1, -1) if is_grey else LEVELS)/255


# --- labels ---------------------------------------------------------------------------------------

def one_hot(y): return torch.nn.functional.one_hot(torch.tensor(y), CLASSES)


LABELLED = {  # kind -> from a class number; taken as that number
    "int": int,
    "NumPy int": np.int64,
    "small NumPy int": np.uint8,
    "0-d tensor": torch.tensor,
    "0-d array": np.array,
    "tensor of shape (1,)": lambda y: torch.tensor([y]),
    "array of shape (1,)": lambda y: np.array([y]),
    "one-hot floats": lambda y: one_hot(y).float(),
    "one-hot ints": one_hot,
    "one-hot array": lambda y: one_hot(y).numpy()}
UNCLEAR = {  # taken as that number, or refused in one line
    "whole float": float,
    "whole float tensor": lambda y: torch.tensor(float(y)),
    "text": lambda y: NAMES[y],
    "list of one": lambda y: [y]}
NO_LABELS = {  # refused in one line
    "float target": lambda y: y + .25,
    "float target tensor": lambda y: torch.tensor(y + .25),
    "NaN": lambda y: float("nan"),
    "multi-label": lambda y: torch.tensor([1., 1., 0.]),
    "negative": lambda y: -1,
    "outside the classes": lambda y: y + 7,
    "no label": lambda y: None,
    "a mask": lambda y: torch.zeros(SIDE, SIDE, dtype=torch.long)}
ALL_LABELS = LABELLED | UNCLEAR | NO_LABELS


# --- items ----------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "image label")
ITEMS = {  # kind -> from an image and a label
    "(image, label)": lambda x, y, i: (x, y),
    "[image, label]": lambda x, y, i: [x, y],
    "(image, label, more)": lambda x, y, i: (x, y, f"photo {i}"),
    "named tuple": lambda x, y, i: Pair(x, y),
    "dict of image and label": lambda x, y, i: dict(image=x, label=y),
    "dict of img and label": lambda x, y, i: dict(img=x, label=y),
    "dict of pixel_values and labels": lambda x, y, i: dict(pixel_values=x, labels=y)}
NO_ITEMS = {  # refused in one line
    "image alone": lambda x, y, i: x,
    "(image,)": lambda x, y, i: (x,),
    "dict without a label": lambda x, y, i: dict(image=x),
    "nothing": lambda x, y, i: None}
ALL_ITEMS = ITEMS | NO_ITEMS


# --- datasets -------------------------------------------------------------------------------------

class Own(Dataset):
    "A map-style dataset of one's own"
    def __init__(self, items, **attributes):
        self._items = items
        vars(self).update(attributes)

    def __len__(self): return len(self._items)
    def __getitem__(self, i): return self._items[i]


class Plain:
    "A dataset that inherits from nothing"
    def __init__(self, items): self._items = items
    def __len__(self): return len(self._items)
    def __getitem__(self, i): return self._items[i]


class Stream(IterableDataset):
    def __init__(self, items): self._items = items
    def __iter__(self): return iter(self._items)


def shuffled_part(items):
    "A Subset in another order than the set it is taken from"
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).tolist()
    whole = [None]*N
    for place, item in zip(order, items): whole[place] = item
    return Subset(Own(whole), order)


ANY_ITEMS = {  # kind -> from a list of items of any kind
    "list": list,
    "tuple of items": tuple,
    "own class": Own,
    "class without a base": Plain,
    "Subset": shuffled_part,
    "Subset of a Subset": lambda items: Subset(shuffled_part(items), range(N)),
    "ConcatDataset": lambda items: ConcatDataset([Own(items[:4]), Own(items[4:])])}
OWN_IDS = {
    "ids in an array": lambda items: Own(items, ids=np.array([f"i{k}" for k in range(N)])),
    "ids as numbers": lambda items: Own(items, ids=list(range(N)))}
NO_DATASETS = {  # refused in one line
    "IterableDataset": Stream,
    "DataLoader": lambda items: DataLoader(Own(items), batch_size=3),
    "generator": lambda items: (item for item in items),
    "empty list": lambda items: [],
    "empty Subset": lambda items: Subset(Own(items), []),
    "mixed sizes": lambda items: [*items[:-1], (torch.rand(3, SIDE + 2, SIDE), 0)],
    "ids of another number": lambda items: Own(items, ids=["a", "b"]),
    "a number": lambda items: 5}
ALL_DATASETS = ANY_ITEMS | OWN_IDS | NO_DATASETS


def tensor_dataset(): return TensorDataset(LEVELS/255, torch.tensor(LABELS))


def image_set(): return ImageSet(LEVELS, LABELS, NAMES, [f"i{k}" for k in range(N)], "drawn")


def items_of(image="float32 tensor", label="int", item="(image, label)"):
    "A list of items"
    make_image, make_label, join = ALL_IMAGES[image], ALL_LABELS[label], ALL_ITEMS[item]
    return [join(make_image(LEVELS[i]), make_label(y), i) for i, y in enumerate(LABELS)]


# --- models ---------------------------------------------------------------------------------------

class Wrapped(nn.Module):
    "A model whose answer is wrapped, or whose input is changed"
    def __init__(self, net, after=lambda out: out, before=lambda x: x):
        super().__init__()
        self.net, self.after, self.before = net, after, before

    def forward(self, x): return self.after(self.net(self.before(x)))


class Viewing(nn.Module):
    "Flattens by `view`, as tutorials do, which channels-last tensors refuse"
    def __init__(self):
        super().__init__()
        self.net = Linear()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, x):
        x = self.conv(x) - .5
        return self.net.head(x.view(x.size(0), -1))


class Keeping(nn.Module):
    "Keeps the logits of its last pass, which cannot be copied"
    def __init__(self):
        super().__init__()
        self.net = Linear()
        self(LEVELS/255)

    def forward(self, x):
        self.last = self.net(x)
        return self.last


class Standardising(nn.Module):
    "Standardises each image by itself, which divides 0 by 0 on a black one"
    def __init__(self):
        super().__init__()
        self.net = Linear()

    def forward(self, x):
        return self.net((x - x.mean((1, 2, 3), keepdim=True))/x.std((1, 2, 3), keepdim=True))


def normed():
    net = Linear()
    nn.utils.weight_norm(net.head)
    return net


def pixel_model(): return PixelModel(Linear(), [.1, .2, .3], [.9, .8, .7])


def wrapping(after): return lambda: Wrapped(Linear(), after)


def training(): return nn.Sequential(nn.Dropout(.5), Linear()).train()


MODELS = {  # kind -> (makes the model, the logits that are right)
    "plain module": Linear,
    "PixelModel": pixel_model,
    "training mode": training,
    "tuple": wrapping(lambda out: (out, out.mean())),
    "list": wrapping(lambda out: [out, out*2]),
    "dict of logits": wrapping(lambda out: dict(loss=out.mean(), logits=out)),
    ".logits": wrapping(lambda out: SimpleNamespace(logits=out, hidden_states=None)),
    "double": lambda: Linear().double(),
    "Sequential": lambda: nn.Sequential(Wrapped(nn.Identity()), Linear()),
    "DataParallel": lambda: nn.DataParallel(Linear()),
    "torch.compile": lambda: torch.compile(Linear(), backend="eager"),
    "view": Viewing,
    "keeps its last logits": Keeping,
    "standardises": Standardising,
    "weight norm": normed,
    "frozen": lambda: Linear().requires_grad_(False)}
ROUGH = {  # as above, to the rounding of their type
    "half": lambda: Linear().half(),
    "bfloat16": lambda: Linear().bfloat16(),
    "quantised": lambda: torch.ao.quantization.quantize_dynamic(Linear(), {nn.Linear})}
WARNED = {  # scored as they answer, with a warning
    "softmax": wrapping(lambda out: out.softmax(1))}
NO_MODELS = {  # refused in one line
    "one output": lambda: Linear(classes=1),
    "NaN": wrapping(lambda out: out*float("nan")),
    "infinite": wrapping(lambda out: out/0),
    "features, not logits": wrapping(lambda out: out[:, :, None, None].expand(-1, -1, 2, 2)),
    "text": wrapping(lambda out: "cat"),
    "nothing": wrapping(lambda out: None),
    "dict of two tensors": wrapping(lambda out: dict(a=out, b=out)),
    "another size": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, CLASSES)),
    "two outputs, three classes": lambda: Linear(classes=2),
    "a class, not a model": lambda: Linear,
    "a path": lambda: "model.pt"}
ALL_MODELS = MODELS | ROUGH | WARNED | NO_MODELS
TOLERANCE = {"half": .02, "bfloat16": .1, "quantised": .1, "float16 tensor": .01}


def logits_of(kind):
    "The right logits of a model kind, as a function of float pixels"
    if kind == "PixelModel":
        net = pixel_model()
        return lambda x: net.body((x - net.mean)/net.std)
    if kind == "standardises": return Standardising()
    if kind == "softmax": return lambda x: Linear()(x).softmax(1)
    return Linear()
