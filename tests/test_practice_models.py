"""Models and checkpoints as people have them: each gives its own logits and stays as it was, or gets one line"""
import threading, warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from wrnb.core import WrnbError
from wrnb.data import ImageSet, load_data
from wrnb.inference import InferenceModel, check_classifier, check_outputs, logits_of
from wrnb.models import STATS, PixelModel, load_weights, logits_in, save_weights, untouched, weights_hash
from wrnb.networks import MODELS, CifarResNet
from wrnb.pretrained import knows_classes, load_model, match_classes, warn_if_chance
from wrnb.sources import SOURCES, WNIDS, fit_heads

DIGITS, _ = load_data("digits", limit=20, test_limit=5)
X = torch.stack([DIGITS[i][0] for i in range(8)])
quiet = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*jit", "ignore:.*non-leaf|.*not a leaf")


def digits_net(channels=3):
    "A network with statistics in its batch norms, in training mode"
    torch.manual_seed(0)
    net = MODELS["digits_net"](10)
    if channels == 1: net[0] = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
    net(torch.rand(64, channels, 32, 32))
    return net


class Returns(nn.Module):
    "The network, with its logits returned in a way of somebody's own"
    def __init__(self, f):
        super().__init__()
        self.net, self.f = digits_net(), f

    def forward(self, x): return self.f(self.net(x))


class LeNet(nn.Module):
    "Flattens with view, as in the tutorials"
    def __init__(self, channels=3):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.linear = nn.Linear(400, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear(x.view(-1, 16*5*5))


class Locked(nn.Module):
    "Cannot be copied, and has no tensor of its own"
    def __init__(self):
        super().__init__()
        self.net, self.lock = digits_net(), threading.Lock()

    def forward(self, x): return self.net(x)


class Keeps(nn.Module):
    "Keeps its last logits, with their history"
    def __init__(self):
        super().__init__()
        self.net = digits_net()
        self(X)

    def forward(self, x):
        self.last = self.net(x)
        return self.last


class Counts(nn.Module):
    "Counts its calls in a buffer"
    def __init__(self):
        super().__init__()
        self.net = digits_net()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x):
        self.n += 1
        return self.net(x)


def normed(norm):
    net = digits_net()
    norm(net[0])
    return net


def quantised(): return torch.ao.quantization.quantize_dynamic(digits_net().eval(), {nn.Linear})
def grey(x): return x[:, :1]
def half(x): return x.half()
def double(x): return x.double()
def bfloat16(x): return x.bfloat16()
def unchanged(x): return x


# what makes the model, and what it takes if it is asked directly
ANSWER = dict(
    plain=(digits_net, unchanged),
    half=(lambda: digits_net().half(), half),
    bfloat16=(lambda: digits_net().bfloat16(), bfloat16),
    double=(lambda: digits_net().double(), double),
    weight_norm=(lambda: normed(nn.utils.weight_norm), unchanged),
    spectral_norm=(lambda: normed(nn.utils.spectral_norm), unchanged),
    new_weight_norm=(lambda: normed(nn.utils.parametrizations.weight_norm), unchanged),
    new_spectral_norm=(lambda: normed(nn.utils.parametrizations.spectral_norm), unchanged),
    quantised=(quantised, unchanged),
    data_parallel=(lambda: nn.DataParallel(digits_net()), unchanged),
    traced=(lambda: torch.jit.trace(digits_net().eval(), X), unchanged),
    scripted=(lambda: torch.jit.script(digits_net()), unchanged),
    frozen=(lambda: torch.jit.freeze(torch.jit.script(digits_net().eval())), unchanged),
    tuple=(lambda: Returns(lambda z: (z, "features")), unchanged),
    dict=(lambda: Returns(lambda z: dict(out=z)), unchanged),
    hugging_face=(lambda: Returns(lambda z: SimpleNamespace(logits=z, loss=None)), unchanged),
    one_channel=(lambda: digits_net(1), grey),
    one_channel_flat=(lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), grey),
    view=(LeNet, unchanged),
    view_one_channel=(lambda: LeNet(1), grey),
    locked=(Locked, unchanged),
    keeps=(Keeps, unchanged),
    counts=(Counts, unchanged),
    googlenet=(lambda: torchvision.models.googlenet(num_classes=10, init_weights=False), unchanged),
)


def state_of(net):
    "All that a caller can see of a model: modes, values, layout, gradients"
    modes = [getattr(m, "training", None) for m in net.modules()]
    weights = [(p.requires_grad, p.stride(), p.dtype, p.grad is None) for p in net.parameters()]
    return modes, weights, weights_hash(net)


@quiet
@pytest.mark.parametrize("name", ANSWER)
def test_it_gives_its_own_logits_and_stays_as_it_was(name):
    make, given = ANSWER[name]
    net = make()
    before, drawn = state_of(net), torch.random.get_rng_state()
    check_classifier(net, DIGITS)
    answers = logits_of(net, DIGITS)[:8], InferenceModel(net)(X)
    assert state_of(net) == before and torch.equal(torch.random.get_rng_state(), drawn)
    with untouched(net), torch.no_grad(): want = logits_in(net(given(X))).float()
    close = 1e-2 if name in ("half", "bfloat16") else 1e-4
    for got in answers: assert (got - want).abs().max() < close*want.abs().max()


REFUSED = {
    "one output": (lambda: Returns(lambda z: z[:, :1]), "two classes or more"),
    "no dimension of classes": (lambda: Returns(lambda z: z[:, 0]), "two classes or more"),
    "two tensors without names": (lambda: Returns(lambda z: dict(a=z, b=z)), "returns a dict, not logits"),
    "nothing": (lambda: Returns(lambda z: None), "returns a NoneType, not logits"),
    "NaN": (lambda: Returns(lambda z: z*float("nan")), "are not finite"),
    "three rows per image": (lambda: Returns(lambda z: z.repeat(3, 1)), "8 images with 24 rows"),
    "another number of classes": (lambda: MODELS["digits_net"](7), "7 outputs and the data 10 classes"),
    "another size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3*28*28, 10)), "cannot take images of 32 x 32 px"),
    "a batch alone": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10),
                                            nn.BatchNorm1d(10, track_running_stats=False)), "an image by itself"),
    "no weights": (lambda: MODELS["digits_net"](10).to("meta"), "cannot take images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_gets_one_line(name):
    make, why = REFUSED[name]
    net = make()
    modes = [m.training for m in net.modules()]
    with pytest.raises(WrnbError, match=why) as e: check_classifier(net, DIGITS)
    assert "\n" not in str(e.value) and [m.training for m in net.modules()] == modes


def test_a_vision_transformer_of_fixed_size_gets_one_line():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    with pytest.raises(WrnbError, match="images of 32 x 32 px"): check_classifier(net, DIGITS)


def without_statistics(net):
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.track_running_stats, m.running_mean, m.running_var = False, None, None
    return net


def random_in_evaluation(z): return F.dropout(z, training=True)


@pytest.mark.parametrize("make, why", [
    (lambda: Returns(lambda z: z.softmax(1)), "probabilities"),
    (lambda: Returns(lambda z: z.half().softmax(1)), "probabilities"),
    (lambda: without_statistics(digits_net()), "depend on the other images"),
    (lambda: Returns(lambda z: z - z.mean(0)), "depend on the other images"),
    (lambda: Returns(random_in_evaluation), "change from call to call")])
def test_odd_answers_are_warned_about(make, why):
    with pytest.warns(UserWarning, match=why) as told: check_outputs(make(), 10, X)
    assert all("\n" not in str(w.message) for w in told)


def test_an_honest_model_is_not_warned_about():
    for make in (digits_net, lambda: Returns(lambda z: z.log_softmax(1)), lambda: digits_net().bfloat16()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_outputs(make(), 10, X)


def test_coloured_images_for_one_channel_are_warned_about():
    with pytest.warns(UserWarning, match="their red alone"): check_outputs(digits_net(1), 10, torch.rand(4, 3, 32, 32))


def test_a_model_that_standardises_each_image_is_tried_with_real_ones():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net()

        def forward(self, x):
            return self.net((x - x.mean((1, 2, 3), keepdim=True))/x.std((1, 2, 3), keepdim=True))

    net = Standardised().eval()
    assert not torch.isfinite(net(torch.zeros(1, 3, 32, 32))).all()
    check_classifier(net, DIGITS)
    torch.testing.assert_close(InferenceModel(net)(X), logits_of(net, DIGITS)[:8], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labels", [torch.rand(8), torch.full((8,), 10), torch.full((8,), -1)])
def test_labels_that_are_no_classes_get_one_line(labels):
    data = torch.utils.data.TensorDataset(X, labels)
    with pytest.raises(WrnbError, match="label|class"): check_classifier(digits_net(), data)


def test_training_continues_as_if_nothing_had_been_asked():
    "Between two steps of one's own loop: modes, gradients, generators, layout and shared weights"
    def trained(ask):
        torch.manual_seed(1)
        net = nn.Sequential(digits_net(), nn.Dropout(.5), nn.Linear(10, 10))
        net[0][1].eval()
        opt = torch.optim.SGD(net.parameters(), .1, momentum=.9)
        for step in range(3):
            F.cross_entropy(net(X + .01*torch.rand(1)), torch.tensor(DIGITS.labels[:8])).backward()
            if ask: ask(net)
            opt.step()
            if step: opt.zero_grad()
        return weights_hash(net), np.random.rand(), torch.rand(1).item()

    def asks(net):
        logits_of(net, DIGITS)
        check_classifier(net, DIGITS)
        InferenceModel(net)(X)
        with untouched(net):
            net.double().requires_grad_(False).to(memory_format=torch.channels_last)
            np.random.rand()

    np.random.seed(0)
    alone = trained(None)
    np.random.seed(0)
    assert trained(asks) == alone


def test_untouched_gives_back_even_if_something_fails():
    net = digits_net()
    before = state_of(net)
    with pytest.raises(ZeroDivisionError), untouched(net):
        net.half()
        1/0
    assert state_of(net) == before
    with pytest.raises(WrnbError, match="a str is no classifier"), untouched("resnet20"): pass


def test_a_wrapper_with_a_model_in_it_is_given_back_as_a_whole():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.head = digits_net(), nn.Linear(10, 10)

        def forward(self, x): return self.head(self.model(x))

    net = Wrapper()
    with untouched(net): assert not net.head.training
    assert net.training and net.head.training and net.model.training


def test_a_path_that_depends_on_the_image_is_not_folded():
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.rest = digits_net(), nn.Linear(64, 10)

        def forward(self, x): return self.net(x) if x.mean() > .5 else self.net[:2](x).mean((2, 3))[:, :10]

    net = Chooses().eval()
    fast = InferenceModel(net)
    dark, bright = X*.1, 1 - X*.1
    with torch.no_grad():
        for x in (bright, dark): torch.testing.assert_close(fast(x), net(x), rtol=1e-5, atol=1e-5)


TWO_HEADS = dict(deit_tiny_distilled_patch16_224=224, levit_128s=224, pit_ti_distilled_224=224, volo_d1_224=224,
                 efficientformer_l1=224, efficientformerv2_s0=224, repvit_m0_9=224, crossvit_tiny_240=240,
                 mobilenetv3_small_050=64, rdnet_tiny=64)


@pytest.mark.parametrize("name", TWO_HEADS)
def test_all_last_layers_of_timms_networks_are_cut(name):
    pytest.importorskip("timm")
    network = SOURCES["timm:"](name, pretrained=False)
    x = torch.rand(1, 3, TWO_HEADS[name], TWO_HEADS[name])
    rows = [7, 3, 500]
    with torch.no_grad():
        full = network.net.eval()(x)
        fit_heads(network, 3, rows)
        torch.testing.assert_close(network.net.eval()(x), full[:, rows], rtol=1e-4, atol=1e-4)
        fit_heads(network._replace(names=range(3)), 5, None)
        assert network.net.eval()(x).shape == (1, 5)


def test_heads_without_a_bias_are_cut():
    network = SOURCES["torchvision:"]("maxvit_t", pretrained=False)
    fit_heads(network, 2, [1, 0])
    assert network.net.classifier[-1].bias is None and network.net.classifier[-1].out_features == 2


@pytest.fixture(scope="module")
def own():
    return digits_net().eval().state_dict()


def below(prefix, state): return {prefix + k: v for k, v in state.items()}


FILES = dict(
    tutorial=lambda s: dict(model_state_dict=s, epoch=3, optimizer_state_dict=dict(state={}, param_groups=[])),
    net=lambda s: dict(net=s, acc=92.1, epoch=199),
    model=lambda s: dict(model=s, epoch=torch.tensor(3)),
    ema=lambda s: dict(model_ema=s),
    nested=lambda s: dict(state=dict(network=s)),
    unknown_place=lambda s: dict(backbone=s, epoch=3),
    averaged=lambda s: below("module.", s) | dict(n_averaged=torch.tensor(5)),
    lightning=lambda s: dict(state_dict=below("classifier.", s), hyper_parameters=dict(lr=.1)),
    lightning_loss=lambda s: dict(state_dict=below("model.", s) | {"criterion.weight": torch.ones(10)}),
    flat_loss=lambda s: s | {"loss_fn.weight": torch.ones(10)},
    wrapped_twice=lambda s: below("_orig_mod.module.net.", s),
    thop=lambda s: s | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    old=lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_is_read_wherever_its_weights_are(name, own, tmp_path):
    torch.save(FILES[name](own), tmp_path/"net.pth")
    model = load_model(f"digits_net@{tmp_path/'net.pth'}", 10)
    for k, v in model.body.state_dict().items(): assert torch.equal(v, own[k]) or "num_batches" in k


@pytest.mark.parametrize("copy", ["model_ema", "ema_model", "teacher", "model_averaged"])
def test_the_average_next_to_the_weights_is_left_with_a_warning(own, tmp_path, copy):
    torch.save({"model": own, copy: {k: v*0 for k, v in own.items()}}, tmp_path/"net.pth")
    with pytest.warns(UserWarning, match=f"model is loaded, {copy} is not"):
        model = load_model(f"digits_net@{tmp_path/'net.pth'}", 10)
    assert torch.equal(model.body[0].weight, own["0.weight"])


@pytest.mark.parametrize("content, found", [
    (dict(epoch=3, history=[1, 2]), "holds no weights but epoch, history"),
    (dict(generator=dict(w=torch.ones(1)), critic=dict(w=torch.ones(1))), "holds generator, critic"),
    ({**below("student.", digits_net().state_dict()), **below("other.", digits_net().state_dict())},
     "holds other., student."),
    (dict(features=torch.ones(3)), "has no 0.weight but features"),
    ([1, 2], "holds no weights but list")])
def test_a_refusal_names_what_the_file_has(content, found, tmp_path):
    torch.save(content, tmp_path/"net.pth")
    with pytest.raises(WrnbError, match=found) as e: load_model(f"digits_net@{tmp_path/'net.pth'}", 10)
    assert "net.pth" in str(e.value) and "\n" not in str(e.value)


def test_a_normalisation_next_to_the_network_is_read(own, tmp_path):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in STATS["cifar10"])
    torch.save(below("net.", own) | {"normalize.mean": mean, "normalize.std": std}, tmp_path/"net.pth")
    model = load_model(f"digits_net@{tmp_path/'net.pth'}", 10)
    assert torch.equal(model.mean, mean) and torch.equal(model.std, std)
    with pytest.raises(WrnbError, match="load it into a PixelModel"): load_weights(digits_net(), tmp_path/"net.pth")


def test_what_is_no_part_of_the_network_is_named(own, tmp_path):
    torch.save(below("net.", own) | {"queue": torch.zeros(2, 2)}, tmp_path/"net.pth")
    with pytest.warns(UserWarning, match="queue is no part of the network"):
        load_model(f"digits_net@{tmp_path/'net.pth'}", 10)


LETTERS = list("jihgfedcba")


@pytest.mark.parametrize("classes", [
    dict(classes=LETTERS), dict(class_names=tuple(LETTERS)), dict(class_to_idx={c: i for i, c in enumerate(LETTERS)}),
    dict(idx_to_class=dict(enumerate(LETTERS))), dict(classes=10, class_to_idx={c: i for i, c in enumerate(LETTERS)}),
    dict(classes=dict(a="letter"), vocab=LETTERS)])
def test_classes_in_a_file_are_put_in_the_order_of_the_data(classes, own, tmp_path):
    torch.save(dict(state_dict=own) | classes, tmp_path/"net.pth")
    name = f"digits_net@{tmp_path/'net.pth'}"
    with torch.no_grad():
        want = load_model(name, 10)(X).flip(1)
        torch.testing.assert_close(load_model(name, 10, classes=sorted(LETTERS))(X), want)
        torch.testing.assert_close(match_classes(load_model(name, 10), sorted(LETTERS))(X), want)
    with pytest.raises(WrnbError, match="net.pth has the classes"): load_model(name, 10, classes=list("klmnopqrst"))
    letters = ImageSet(DIGITS.items, DIGITS.labels, sorted(LETTERS), DIGITS.ids, "letters")
    with pytest.raises(WrnbError, match="in another order"): check_classifier(load_model(name, 10), letters)
    check_classifier(load_model(name, 10, classes=letters.classes), letters)


def test_a_file_may_list_all_classes_of_imagenet_in_another_order(tmp_path):
    net, own = torchvision.models.resnet18(weights=None).eval(), list(WNIDS)
    torch.save(dict(state_dict=net.state_dict(), classes=own[::-1]), tmp_path/"net.pth")
    for classes in (own[:3], list(WNIDS.values())[:3]):
        model = load_model(f"torchvision:resnet18@{tmp_path/'net.pth'}", 3, classes=classes)
        assert torch.equal(model.body.fc.weight, net.fc.weight[[999, 998, 997]])


@pytest.mark.parametrize("rename", [
    lambda k: k.replace("linear", "fc"),
    lambda k: k.replace("conv", "conv_").replace("bn", "bn_").replace("layer", "stage_"),
    lambda k: k.replace("downsample", "shortcut")])
def test_shortcuts_and_names_of_others_are_told_by_the_keys(rename, tmp_path):
    torch.manual_seed(0)
    net = CifarResNet(3, 10, shortcut="B").eval()
    torch.save({rename(k): v for k, v in net.state_dict().items()}, tmp_path/"b.pth")
    with torch.no_grad():
        model = load_model(f"resnet20@{tmp_path/'b.pth'}", 10, mean=[0]*3, std=[1]*3)
        assert torch.equal(model(X), net(X))
    again = load_model(f"resnet20@{save_weights(model, tmp_path/'again.safetensors')}", 10)
    assert weights_hash(again) == weights_hash(model)


@pytest.mark.parametrize("n", [1000, 10])
def test_auxiliary_heads_in_a_file_are_left_out(n, tmp_path):
    net = torchvision.models.googlenet(weights=None, num_classes=n, init_weights=False)
    torch.save(net.state_dict(), tmp_path/"net.pth")
    names = ["tench", "church", *range(8)]
    model = load_model(f"torchvision:googlenet@{tmp_path/'net.pth'}", 10, classes=names if n == 1000 else None)
    x = torch.rand(2, 3, 64, 64)
    rows = [0, 497, *range(8)] if n == 1000 else range(10)
    mean, std = STATS["half" if n == 1000 else "imagenet"]  # from nothing, it has no normalisation of its own
    pixels = (x - torch.tensor(mean).view(3, 1, 1))/torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net.eval()(pixels)[:, list(rows)], rtol=1e-4, atol=1e-4)
        assert model.train()(x).shape == (2, 10)  # a tensor while training, too


def test_imagenets_outputs_from_a_file_are_cut_or_made_anew(tmp_path):
    net = torchvision.models.squeezenet1_1(num_classes=1000)
    torch.save(dict(state_dict=below("module.", net.state_dict())), tmp_path/"net.pth")
    name = f"torchvision:squeezenet1_1@{tmp_path/'net.pth'}"
    known, unknown = ["n03888257", "tench"], ["dots", "stripes"]
    assert knows_classes(name, known) and not knows_classes(name, unknown)
    biases = load_model(name, 2, classes=known).body.classifier[1].bias
    assert biases.tolist() == net.classifier[1].bias[[701, 0]].tolist()
    with pytest.warns(UserWarning, match="the last layer is made anew"): load_model(name, 2)
    with pytest.raises(WrnbError, match="'dots' is none of the 1000"): load_model(name, 2, classes=unknown)
    two = torchvision.models.squeezenet1_1(num_classes=2)
    torch.save(two.state_dict(), tmp_path/"two.pth")
    assert knows_classes(f"torchvision:squeezenet1_1@{tmp_path/'two.pth'}", unknown)


def test_paths_and_numbers_of_any_kind(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(own, tmp_path/"net.pth")
    want = weights_hash(load_model(f"digits_net@{tmp_path/'net.pth'}", 10))
    assert weights_hash(load_model("digits_net@~/net.pth", np.int64(10))) == want
    stats = np.array(STATS["imagenet"])
    assert weights_hash(load_model("digits_net@~/net.pth", 10., mean=stats[0], std=torch.tensor(stats[1]))) == want
    load_weights(PixelModel(digits_net()), "~/net.pth")
    for n in (1, 0, 2.5, "10", True):
        with pytest.raises(WrnbError, match="n_classes="): load_model("digits_net", n)
    for stats in (dict(mean="cifar"), dict(std=[1, 0, 1]), dict(mean=[.5]), dict(mean=[float("nan")]*3)):
        with pytest.raises(WrnbError, match="(mean|std)="): load_model("digits_net", 10, **stats)


def test_a_clean_error_near_chance_or_far_from_the_files_is_warned_about(own, tmp_path):
    torch.save(dict(net=own, acc=92.5), tmp_path/"net.pth")
    model = load_model(f"digits_net@{tmp_path/'net.pth'}", 10)
    assert model.published_error == pytest.approx(.075)
    for error, n_classes in ((.9, 10), (.85, 10), (.5, 2), (.99, 100)):
        with pytest.warns(UserWarning, match=r"chance.*normalisation \(mean=, std=\), classes in another order"):
            warn_if_chance(error, n_classes)
    with pytest.warns(UserWarning, match="40.0%, and 7.5% in the model's file"): warn_if_chance(.4, 10, model, n=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_chance(.6, 10)
        warn_if_chance(.1, 10, model, n=1000)
        warn_if_chance(.4, 10, model, n=5)  # five images don't tell
        warn_if_chance(.3, 2)
