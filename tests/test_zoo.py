"""Checkpoints of CIFAR as their publishers lay them out: every name, shape and answer.

No such file is fetched. Instead each network is written down here a second time, from its publisher's
description, as a plain sequence of operations on named weights: a `File` makes a weight when an operation
first asks for it, under the name it has in the published file. So one pass through the network gives the
file and the answers; then the file is loaded by its name alone and has to give the same.
"""
from functools import partial
import warnings

import pytest
import torch
from torch.nn import functional as F

from wrnb.cli import main
from wrnb.checkpoints import STATS
from wrnb.core import WrnbError
from wrnb.models import save_weights
from wrnb.pretrained import load_model

CIFAR = [.4914, .4822, .4465], [.2023, .1994, .2010]
HALF = [.5]*3, [.5]*3
CIFAR100 = [.5070, .4865, .4409], [.2673, .2564, .2761]
IMAGENET = [.485, .456, .406], [.229, .224, .225]


class File:
    "A state dict that fills as a network is computed"
    def __init__(self): self.state, self.rng = {}, torch.Generator().manual_seed(0)

    def get(self, name, shape, low, high):
        if name not in self.state: self.state[name] = low + (high - low)*torch.rand(shape, generator=self.rng)
        return self.state[name]

    def conv(self, x, name, o, k=3, stride=1, pad=None, groups=1, bias=False):
        i = x.shape[1]//groups
        bound = (6/(i*k*k))**.5
        w = self.get(f"{name}.weight", (o, i, k, k), -bound, bound)
        b = self.get(f"{name}.bias", (o,), -.1, .1) if bias else None
        return F.conv2d(x, w, b, stride, k//2 if pad is None else pad, groups=groups)

    def bn(self, x, name):
        c = x.shape[1:2]
        mean, bias = (self.get(f"{name}.{k}", c, -.1, .1) for k in ("running_mean", "bias"))
        var, weight = (self.get(f"{name}.{k}", c, .8, 1.2) for k in ("running_var", "weight"))
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, x, name, o):
        bound = (6/x.shape[1])**.5
        w = self.get(f"{name}.weight", (o, x.shape[1]), -bound, bound)
        return F.linear(x, w, self.get(f"{name}.bias", (o,), -.1, .1))


def vgg_features(f, x, layout):
    k = 0
    for c in layout:
        if c == "M":
            x, k = F.max_pool2d(x, 2), k + 1
            continue
        x = F.relu(f.bn(f.conv(x, f"features.{k}", c, bias=True), f"features.{k+1}"))
        k += 3
    return x.flatten(1)


VGG11 = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
VGG16 = [64, 64, "M", 128, 128, "M", *[256]*3, "M", *[512]*3, "M", *[512]*3, "M"]


def hub_vgg(f, x, n, layout):
    x = vgg_features(f, x, layout)
    for k in (0, 3): x = F.relu(f.linear(x, f"classifier.{k}", 512))
    return f.linear(x, "classifier.6", n)


def kuangliu_vgg(f, x, n): return f.linear(vgg_features(f, x, VGG16), "classifier", n)


def mobilenet(f, x, n):
    "The width 1: channels are the paper's own"
    def relu6(x, name, *args, **more):
        return F.relu6(f.bn(f.conv(x, f"{name}.0", *args, **more), f"{name}.1"))

    x, k = relu6(x, "features.0", 32), 1
    for t, c, times, stride in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2),
                                (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for step in [stride] + [1]*(times-1):
            name, wide, j, y = f"features.{k}.conv", t*x.shape[1], 0, x
            if t > 1: y, j = relu6(y, f"{name}.0", wide, 1), 1
            y = relu6(y, f"{name}.{j}", wide, stride=step, groups=wide)
            y = f.bn(f.conv(y, f"{name}.{j+1}", c, 1), f"{name}.{j+2}")
            x, k = (x + y if step == 1 and x.shape == y.shape else y), k + 1
    x = relu6(x, f"features.{k}", 1280, 1)
    return f.linear(x.mean((2, 3)), "classifier.1", n)


def shufflenet(f, x, n):
    "The width 0.5"
    x = F.relu(f.bn(f.conv(x, "conv1.0", 24), "conv1.1"))
    for stage, (c, times) in enumerate(((48, 4), (96, 8), (192, 4)), 2):
        for k in range(times):
            name, half, stride = f"stage{stage}.{k}", c//2, 1 if k else 2
            a, b = x.chunk(2, 1) if k else (x, x)
            if not k:
                n_in = a.shape[1]
                a = f.bn(f.conv(a, f"{name}.branch1.0", n_in, stride=2, groups=n_in), f"{name}.branch1.1")
                a = F.relu(f.bn(f.conv(a, f"{name}.branch1.2", half, 1), f"{name}.branch1.3"))
            b = F.relu(f.bn(f.conv(b, f"{name}.branch2.0", half, 1), f"{name}.branch2.1"))
            b = f.conv(b, f"{name}.branch2.3", half, stride=stride, groups=half)
            b = f.bn(b, f"{name}.branch2.4")
            b = F.relu(f.bn(f.conv(b, f"{name}.branch2.5", half, 1), f"{name}.branch2.6"))
            x = torch.stack([a, b], 2).flatten(1, 2)  # one channel of each in turn
    x = F.relu(f.bn(f.conv(x, "conv5.0", 1024, 1), "conv5.1"))
    return f.linear(x.mean((2, 3)), "fc", n)


def repvgg(f, x, n):
    "A0"
    sizes = (1, 48, 2), (2, 96, 4), (3, 192, 14), (4, 1280, 1)
    stages = [(f"stage{s}.{k}", c, 2 if k == 0 and s > 1 else 1) for s, c, times in sizes for k in range(times)]
    stages = [("stage0", 48, 1), *stages]
    for name, c, stride in stages:
        y = f.bn(f.conv(x, f"{name}.rbr_dense.conv", c, stride=stride), f"{name}.rbr_dense.bn")
        y = y + f.bn(f.conv(x, f"{name}.rbr_1x1.conv", c, 1, stride), f"{name}.rbr_1x1.bn")
        if x.shape == y.shape: y = y + f.bn(x, f"{name}.rbr_identity")
        x = F.relu(y)
    return f.linear(x.mean((2, 3)), "linear", n)


def preact(f, x, n):
    x = f.conv(x, "conv1", 64)
    for s, c in enumerate((64, 128, 256, 512), 1):
        for k in range(2):
            name, stride = f"layer{s}.{k}", 2 if s > 1 and k == 0 else 1
            a = F.relu(f.bn(x, f"{name}.bn1"))
            short = f.conv(a, f"{name}.shortcut.0", c, 1, 2) if stride == 2 else x
            y = f.conv(a, f"{name}.conv1", c, stride=stride)
            x = f.conv(F.relu(f.bn(y, f"{name}.bn2")), f"{name}.conv2", c) + short
    return f.linear(F.avg_pool2d(x, 4).flatten(1), "linear", n)


def kuangliu_resnet(f, x, n, blocks, wide=False):
    x = F.relu(f.bn(f.conv(x, "conv1", 64), "bn1"))
    for s, (c, times) in enumerate(zip((64, 128, 256, 512), blocks), 1):
        for k in range(times):
            name, stride = f"layer{s}.{k}", 2 if s > 1 and k == 0 else 1
            narrow, sizes = [(c, 3, stride), (c, 3, 1)], [(c, 1, 1), (c, 3, stride), (4*c, 1, 1)]
            y = x
            for j, (o, side, step) in enumerate(sizes if wide else narrow, 1):
                if j > 1: y = F.relu(y)
                y = f.bn(f.conv(y, f"{name}.conv{j}", o, side, step), f"{name}.bn{j}")
            short = x
            if x.shape != y.shape:
                short = two_layers(f, x, f"{name}.shortcut", o, stride)
            x = F.relu(y + short)
    return f.linear(F.avg_pool2d(x, 4).flatten(1), "linear", n)


def two_layers(f, x, name, o, stride):
    "A convolution of 1 x 1 and a batch norm"
    return f.bn(f.conv(x, f"{name}.0", o, 1, stride), f"{name}.1")


def cifar_resnet(f, x, n, names, option):
    "ResNet-20 of akamaster (option A) and of chenyaofo (option B)"
    short_name, last = names
    x = F.relu(f.bn(f.conv(x, "conv1", 16), "bn1"))
    for s, c in enumerate((16, 32, 64), 1):
        for k in range(3):
            name, stride = f"layer{s}.{k}", 2 if s > 1 and k == 0 else 1
            y = F.relu(f.bn(f.conv(x, f"{name}.conv1", c, stride=stride), f"{name}.bn1"))
            y = f.bn(f.conv(y, f"{name}.conv2", c), f"{name}.bn2")
            if stride == 1: short = x
            elif option == "A": short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, c//4, c//4))
            else: short = two_layers(f, x, f"{name}.{short_name}", c, 2)
            x = F.relu(y + short)
    return f.linear(x.mean((2, 3)), last, n)


def augmix_allconv(f, x, n):
    k, pools = 0, []
    for c, side, pad in [(96, 3, 1)]*3 + [(192, 3, 1)]*3 + [(192, 3, 0), (192, 1, 1), (192, 1, 1)]:
        x = f.bn(f.conv(x, f"features.{k}", c, side, pad=pad, bias=True), f"features.{k+1}")
        x, k = x*torch.sigmoid(1.702*x), k + 3
        if k in (9, 20): x, k = F.max_pool2d(x, 2), k + 2  # a pooling and a dropout
    return f.linear(F.avg_pool2d(x, 8).flatten(1), "classifier", n)


def augmix_densenet(f, x, n):
    x = f.conv(x, "module.conv1", 24)
    for block in (1, 2, 3):
        for k in range(12):
            name = f"module.dense{block}.{k}"
            x = torch.cat((x, f.conv(F.relu(f.bn(x, f"{name}.bn1")), f"{name}.conv1", 12)), 1)
        if block == 3: break
        name = f"module.trans{block}"
        x = F.avg_pool2d(f.conv(F.relu(f.bn(x, f"{name}.bn1")), f"{name}.conv1", x.shape[1], 1), 2)
    return f.linear(F.avg_pool2d(F.relu(f.bn(x, "module.bn1")), 8).flatten(1), "module.fc", n)


def augmix_resnext(f, x, n):
    x = F.relu(f.bn(f.conv(x, "module.conv_1_3x3", 64), "module.bn_1"))
    for s, c in enumerate((64, 128, 256), 1):
        for k in range(3):
            name, stride = f"module.stage_{s}.{k}", 2 if s > 1 and k == 0 else 1
            y = F.relu(f.bn(f.conv(x, f"{name}.conv_reduce", 2*c, 1), f"{name}.bn_reduce"))
            y = f.conv(y, f"{name}.conv_conv", 2*c, stride=stride, groups=4)
            y = F.relu(f.bn(y, f"{name}.bn"))
            y = f.bn(f.conv(y, f"{name}.conv_expand", 4*c, 1), f"{name}.bn_expand")
            short = x
            if k == 0: short = two_layers(f, x, f"{name}.downsample", 4*c, stride)
            x = F.relu(y + short)
    return f.linear(F.avg_pool2d(x, 8).flatten(1), "module.classifier", n)


def augmix_wrn(f, x, n):
    x = f.conv(x, "module.conv1", 16)
    for s, c in enumerate((32, 64, 128), 1):
        for k in range(6):
            name, stride = f"module.block{s}.layer.{k}", 2 if s > 1 and k == 0 else 1
            a = F.relu(f.bn(x, f"{name}.bn1"))
            y = F.relu(f.bn(f.conv(a, f"{name}.conv1", c, stride=stride), f"{name}.bn2"))
            short = x if k else f.conv(a, f"{name}.convShortcut", c, 1, stride)
            x = f.conv(y, f"{name}.conv2", c) + short
    return f.linear(F.avg_pool2d(F.relu(f.bn(x, "module.bn1")), 8).flatten(1), "module.fc", n)


RESNET20 = partial(cifar_resnet, names=("shortcut", "linear"), option="A")
HUB_RESNET20 = partial(cifar_resnet, names=("downsample", "fc"), option="B")
KL_18, KL_50 = (partial(kuangliu_resnet, blocks=blocks, wide=wide)
                for blocks, wide in (((2, 2, 2, 2), False), ((3, 4, 6, 3), True)))
FILES = {  # what it is: (network, its name here, classes, normalisation)
    "chenyaofo vgg11_bn": (partial(hub_vgg, layout=VGG11), "vgg11_bn", 10, CIFAR),
    "chenyaofo vgg16_bn": (partial(hub_vgg, layout=VGG16), "vgg16_bn", 100, CIFAR100),
    "chenyaofo mobilenetv2_x1_0": (mobilenet, "mobilenetv2_x1_0", 10, CIFAR),
    "chenyaofo shufflenetv2_x0_5": (shufflenet, "shufflenetv2_x0_5", 100, CIFAR100),
    "chenyaofo repvgg_a0": (repvgg, "repvgg_a0", 10, CIFAR),
    "chenyaofo resnet20": (HUB_RESNET20, "resnet20", 10, CIFAR),
    "chenyaofo resnet20 of CIFAR-100": (HUB_RESNET20, "resnet20", 100, CIFAR100),
    "kuangliu PreActResNet18": (preact, "preact_resnet18", 10, CIFAR),
    "kuangliu ResNet18": (KL_18, "resnet18", 10, CIFAR),
    "kuangliu ResNet50": (KL_50, "resnet50", 10, CIFAR),
    "kuangliu VGG16": (kuangliu_vgg, "vgg16", 10, CIFAR),
    "akamaster resnet20": (RESNET20, "resnet20", 10, IMAGENET),
    "AugMix allconv": (augmix_allconv, "allconv_augmix", 10, HALF),
    "AugMix densenet": (augmix_densenet, "densenet_augmix", 10, HALF),
    "AugMix densenet of CIFAR-100": (augmix_densenet, "densenet_augmix", 100, HALF),
    "AugMix resnext29": (augmix_resnext, "resnext29", 10, HALF),
    "AugMix WRN-40-2 of CIFAR-10": (augmix_wrn, "wrn40_2", 10, HALF),
    "AugMix WRN-40-2": (augmix_wrn, "wrn40_2", 100, HALF)}


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gives_its_own_answers(name, tmp_path):
    network, ours, n, (mean, std) = FILES[name]
    x, file = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)), File()
    pixels = (x - torch.tensor(mean)[:, None, None])/torch.tensor(std)[:, None, None]
    theirs = network(file, pixels, n)
    torch.save(dict(state_dict=file.state, epoch=3), tmp_path/"file.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(f"{ours}@{tmp_path/'file.pt'}", n)
    with torch.no_grad(): answers = model(x)
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)
    assert theirs.std() > .05
    assert torch.allclose(answers, theirs, rtol=1e-3, atol=1e-3*theirs.abs().max().item())


def state_of(network, n):
    "What is in a file of this network"
    file = File()
    network(file, torch.rand(1, 3, 32, 32), n)
    return file.state


def read_with_warnings(name, n, **named):
    "The model's mean, and what was said in warnings"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = load_model(name, n, **named)
    return model.mean.flatten().tolist(), [str(w.message) for w in told]


DXY = partial(cifar_resnet, names=("downsample", "fc"), option="B")
ANYBODYS = {  # what it is: (network, what its names are changed to, its name here, classes, what is taken)
    "a WRN that was saved without DataParallel": (augmix_wrn, ("module.", ""), "wrn40_2", 10, "half"),
    "a ResNet-18 by torchvision's names": (
        KL_18, ("shortcut.", "downsample."), "resnet18", 10, "imagenet"),
    "kuangliu's ResNet-18 on other data": (KL_18, ("", ""), "resnet18", 100, "cifar10_per_image"),
    "kuangliu's VGG-16 on other data": (kuangliu_vgg, ("", ""), "vgg16", 7, "cifar10_per_image"),
    "akamaster's ResNet on other data": (RESNET20, ("", ""), "resnet20", 100, "imagenet"),
    "chenyaofo's ResNet on other data": (HUB_RESNET20, ("", ""), "resnet20", 20, "cifar10_per_image"),
    "a ResNet by other names": (DXY, ("layer", "stage_"), "resnet20", 10, "imagenet")}


@pytest.mark.parametrize("what", ANYBODYS)
def test_a_file_that_could_be_anybodys_is_loaded_with_a_warning(what, tmp_path):
    network, (old, new), ours, n, taken = ANYBODYS[what]
    state = {k.replace(old, new): v for k, v in state_of(network, n).items()}
    torch.save(state, tmp_path/"file.pt")
    mean, told = read_with_warnings(f"{ours}@{tmp_path/'file.pt'}", n)
    assert mean == pytest.approx(STATS[taken][0]) and len(told) == 1
    assert "file.pt does not say how its images were normalised" in told[0]
    assert f"mean={taken} is taken, give mean= if it was another" in told[0]
    mean, told = read_with_warnings(f"{ours}@{tmp_path/'file.pt'}", n, mean="cifar100")
    assert mean == pytest.approx(STATS["cifar100"][0]) and not told


@pytest.mark.parametrize("what", ANYBODYS)
def test_a_file_with_its_own_normalisation_keeps_it(what, tmp_path):
    network, (old, new), ours, n, _ = ANYBODYS[what]
    state = {f"net.{k.replace(old, new)}": v for k, v in state_of(network, n).items()}
    own = dict(mu=torch.tensor([.1, .2, .3]), sigma=torch.tensor([.4, .5, .6]))
    torch.save(state | own, tmp_path/"file.pt")
    mean, told = read_with_warnings(f"{ours}@{tmp_path/'file.pt'}", n)
    assert mean == pytest.approx([.1, .2, .3]) and not told


@pytest.mark.parametrize("name", ["digits_net", "resnet20", "wrn40_2", "resnet18", "vgg16_bn", "densenet_augmix"])
def test_what_was_saved_here_comes_back_as_it_was(name, tmp_path):
    "The whole model with its normalisation, whoever else uses the names"
    model = load_model(name, 10, mean="cifar10")
    save_weights(model, tmp_path/"model.safetensors")
    mean, told = read_with_warnings(f"{name}@{tmp_path/'model.safetensors'}", 10)
    assert mean == pytest.approx(STATS["cifar10"][0]) and not told


@pytest.mark.parametrize("theirs, ours", [
    ("chenyaofo vgg16_bn", "vgg16"), ("kuangliu VGG16", "vgg16_bn"), ("AugMix allconv", "allconvnet"),
    ("chenyaofo mobilenetv2_x1_0", "mobilenetv2_x1_4"), ("kuangliu PreActResNet18", "resnet18"),
    ("AugMix resnext29", "resnet50"), ("AugMix densenet", "densenet")])
def test_a_file_of_another_network_is_refused(theirs, ours, tmp_path):
    network, _, n, *_ = FILES[theirs]
    torch.save(state_of(network, n), tmp_path/"file.pt")
    with pytest.raises(WrnbError, match="give model= another name or file"):
        load_model(f"{ours}@{tmp_path/'file.pt'}", n)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integers_in_place_of_weights_are_refused(tmp_path, dtype):
    "Those of a quantised network mean nothing without their scale"
    state = {k: v.to(dtype) for k, v in load_model("resnet20", 10).body.state_dict().items()}
    torch.save(state, tmp_path/"file.pt")
    with pytest.raises(WrnbError, match="conv1.weight is of type u?int.*, as in a quantised file"):
        load_model(f"resnet20@{tmp_path/'file.pt'}", 10)


def test_the_command_line_lists_the_models(capsys):
    assert main(["models"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "vgg16_bn 15,253,578 32 cifar10_per_image chenyaofo" in lines
    assert "resnet20 269,722 32 imagenet, cifar10_per_image akamaster, chenyaofo" in lines
    assert "resnet18 11,173,962 32 cifar10_per_image kuangliu" in lines
    assert "wrn40_2 2,243,546 32 half AugMix" in lines
    assert "digits_net 24,346 32 imagenet" in lines
    assert any("cifar100_chenyaofo for chenyaofo's files" in line for line in lines)
    assert main(["models", "--source", "torchvision"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "torchvision:resnet18 11,689,512 224 torchvision" in [" ".join(line.split()) for line in lines]
    assert main(["models", "--source", "hub"]) == 2
    assert "--source hub is not known" in capsys.readouterr().err
