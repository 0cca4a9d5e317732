"""Models and data of Hugging Face's, with the real libraries: made small here, saved, read from disk, no network."""
from contextlib import contextmanager
from io import BytesIO
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers", reason="pip install 'wrnb[hf]'")
datasets = pytest.importorskip("datasets", reason="pip install 'wrnb[hf]'")

from transformers.models.auto import image_processing_auto as processors, modeling_auto as auto

from wrnb.cli import main
from wrnb.columns import image_and_label
from wrnb.core import WrnbError
from wrnb.corruptions import corruptions
from wrnb.folders import load_data
from wrnb.hub_data import hub_set
from wrnb.hub_models import AtSize, preparation_of
from wrnb.images import as_images
from wrnb.pretrained import input_size, knows_classes, load_model
from wrnb.scoring import score_robustness
from wrnb.sources import WNIDS, place_of, places_of
from wrnb.tables import read_table
from wrnb.validation import validate

PETS = ["dog", "cat", "bird"]
SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
RNG = np.random.default_rng(0)


@contextmanager
def refuses(match):
    "What is called raises `WrnbError` with one line"
    with pytest.raises(WrnbError, match=match) as e: yield e
    assert "\n" not in str(e.value)


# --- models ---------------------------------------------------------------------------------------

def named(names): return dict(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})


def vit(names=PETS, side=32):
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**SMALL, image_size=side, patch_size=8, **named(names)))


def resnet(names=PETS):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **named(names))
    return transformers.ResNetForImageClassification(config)


ODD = dict(image_mean=[.4, .5, .6], image_std=[.2, .3, .4])
def swiftformer(names=PETS):
    config = transformers.SwiftFormerConfig(depths=[1]*4, embed_dims=[8, 8, 8, 16], **named(names))
    return transformers.SwiftFormerForImageClassification(config)


def levit(names=PETS):
    config = transformers.LevitConfig(
        image_size=64, hidden_sizes=[16]*3, num_attention_heads=[2]*3, depths=[1]*3, key_dim=[8]*3, **named(names))
    return transformers.LevitForImageClassificationWithTeacher(config)


MADE = {  # name: network, processor
    "vit": (vit, lambda: transformers.ViTImageProcessor(size=dict(height=32, width=32), **ODD)),
    "resnet": (resnet, lambda: transformers.ConvNextImageProcessor(size=dict(shortest_edge=384), **ODD)),
    "blue first": (vit, lambda: transformers.MobileViTImageProcessor(
        size=dict(shortest_edge=32), crop_size=dict(height=32, width=32), do_flip_channel_order=True))}
SIDE_64 = lambda: transformers.ViTImageProcessor(size=dict(height=64, width=64), **ODD)
TWO_HEADS = dict(swiftformer=(swiftformer, SIDE_64), levit=(levit, SIDE_64))


def saved(folder, kind="vit", **options):
    "A model and its processor in a folder; returns the folder and both"
    torch.manual_seed(0)
    make, processor = (MADE | TWO_HEADS)[kind]
    net, processor = make(**options).eval(), processor()
    for p in net.parameters(): torch.nn.init.uniform_(p, -.1, .3)  # no dead layers
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, net, processor


def photo(side): return Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))
def view(values): return torch.tensor(values).view(3, 1, 1)
def pixels(image): return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]/255


@pytest.mark.parametrize("kind", MADE)
def test_logits_are_those_of_the_library_itself(tmp_path, kind):
    folder, net, processor = saved(tmp_path, kind)
    side = input_size(f"hf:{folder}")
    image = photo(side)
    model = load_model(f"hf:{folder}", 3, classes=PETS)
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits
        assert torch.allclose(model(pixels(image)), theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(model(pixels(image).flip(1)), theirs, rtol=1e-4, atol=1e-5)


OF_MODELS = processors.IMAGE_PROCESSOR_MAPPING_NAMES
PROCESSORS = sorted({name for model in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
                     for name in (OF_MODELS.get(model) or {}).values()})
OTHERWISE = {  # the classes that do something else with pictures, and how they are refused
    "MobileViT": "cuts 256 x 256 pixels out of 224 x 224", "Siglip2": "has no size of pictures",
    "ImageGPT": "cannot prepare a picture", "Donut": "in a way that is not known here"}
OWN, SMALLER = dict(shortest_edge=96), dict(height=61, width=54)
VARIANTS = [
    {}, dict(include_top=False), dict(rescale_offset=True), dict(do_normalize=False),
    dict(do_rescale=False), dict(ODD, rescale_factor=1/127.5), dict(image_mean=[.5], image_std=[.5]),
    dict(do_normalize=False, rescale_offset=True), dict(do_resize=False), dict(resample=0), dict(resample=1),
    dict(size=OWN, crop_size=SMALLER), dict(size=OWN, crop_size=SMALLER, do_center_crop=True),
    dict(size=SMALLER, do_center_crop=False), dict(size=OWN, crop_pct=.7), dict(crop_pct=1),
    dict(do_center_crop=True, crop_size=dict(height=400, width=400)),
    dict(do_pad=True), dict(do_pad=True, pad_size=dict(height=500, width=500)),
    dict(do_flip_channel_order=True), dict(do_flip_channel_order=False), dict(do_grayscale=True)]
FOR_DONUT = [{}, dict(size=SMALLER, do_pad=False, do_thumbnail=False)]  # its pictures are large


class Echo(torch.nn.Module):
    def forward(self, x): return SimpleNamespace(logits=x)


def what_the_network_gets(recipe, image):
    mean, std = map(view, (recipe.mean, recipe.std))
    return AtSize(Echo(), recipe)((pixels(image) - mean)/std)


def is_the_processors(processor, recipe, image, near):
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = what_the_network_gets(recipe, image)
    return ours.shape == theirs.shape and (ours - theirs).abs().max() <= near*(1/min(recipe.std))


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_network_gets_what_the_processor_makes(name):
    kind, family = getattr(transformers, name), name.partition("ImageProcessor")[0]
    if family == "TimmWrapper": return  # see test_a_model_of_timms_by_hf_is_refused
    agreed = 0
    for options in FOR_DONUT if family == "Donut" else VARIANTS:
        processor = kind(**options)
        try: recipe = preparation_of(processor)
        except WrnbError as e:
            assert "\n" not in str(e) and (options or OTHERWISE[family] in str(e))
            continue
        height, width = recipe.own
        image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert is_the_processors(processor, recipe, image, 1e-5), options
        if recipe.resample:
            larger = photo(3).resize((300, 240), Image.BICUBIC)
            assert is_the_processors(processor, recipe, larger, 4/255), options
        agreed += 1
    assert agreed >= (1 if family == "MobileViT" else 0 if family in OTHERWISE else 11)


OFFSET = dict(rescale_offset=True, rescale_factor=1/127.5)


@pytest.mark.parametrize("options", [{}, OFFSET, dict(include_top=False)])
def test_efficientnets_second_division_and_offset(tmp_path, options):
    config = transformers.EfficientNetConfig(
        image_size=32, width_coefficient=.1, depth_coefficient=.1, hidden_dim=128, **named(PETS))
    net = transformers.EfficientNetForImageClassification(config).eval()
    size = dict(height=32, width=32)
    processor = transformers.EfficientNetImageProcessor(size=size, **ODD, **options)
    for part in (net, processor): part.save_pretrained(tmp_path)
    image = photo(32)
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits
        ours = load_model(f"hf:{tmp_path}", 3, classes=PETS)(pixels(image))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5*theirs.abs().max())


def test_pictures_have_the_size_before_the_cut(tmp_path):
    net = resnet().eval()
    processor = transformers.ConvNextImageProcessor(size=dict(shortest_edge=32), crop_pct=.8)
    for part in (net, processor): part.save_pretrained(tmp_path)
    assert input_size(f"hf:{tmp_path}") == 40
    image = photo(40)
    centre = image.crop((4, 4, 36, 36))
    with torch.no_grad():
        ours = load_model(f"hf:{tmp_path}", 3, classes=PETS)(pixels(image))
        theirs = net((pixels(centre) - view(processor.image_mean))/view(processor.image_std)).logits
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_pictures_that_cannot_be_resized_as_the_processor_does_are_refused(tmp_path):
    net = vit().eval()
    processor = transformers.ViTImageProcessor(size=dict(height=32, width=32), resample=1)
    for part in (net, processor): part.save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}", 3, classes=PETS)
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    with refuses("have 40 x 32 pixels.*: give pictures of 32 x 32 pixels"):
        model(torch.rand(1, 3, 40, 32))


@pytest.mark.parametrize("options, wrong", [
    (dict(do_pad=True, pad_size=dict(height=64, width=64)), "ViTImageProcessor that changes pictures of 32 x 32"),
    (dict(image_std=[.5, 0, .5]), r"has image_std=\(0.5, 0, 0.5\)"), (dict(image_mean=None), "has image_mean=None"),
    (dict(rescale_factor=0), "has rescale_factor=0"), (dict(size=dict(longest_edge=32)), "has no size of pictures")])
def test_processors_that_cannot_be_followed_are_refused_with_the_models_name(tmp_path, options, wrong):
    folder, *_ = saved(tmp_path)
    file = tmp_path/"preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    refused(f"model=hf:{folder}.*{wrong}", f"hf:{folder}")


def test_pictures_of_another_size_are_brought_to_the_networks(tmp_path):
    folder, net, processor = saved(tmp_path)
    image = photo(8).resize((64, 64), Image.BICUBIC)  # smooth: the library resizes bytes, we floats
    model = load_model(f"hf:{folder}", 3, classes=PETS)
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits
        assert abs(model(pixels(image)) - theirs).max() < .05*theirs.abs().max()
        assert model(torch.rand(2, 3, 20, 24)).shape == (2, 3)


def test_labels_are_matched_by_name(tmp_path):
    folder, net, _ = saved(tmp_path)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        whole = load_model(f"hf:{folder}", 3, classes=PETS)(x)
        some = load_model(f"hf:{folder}", 2, classes=["bird", "dog"])(x)
    assert torch.allclose(some, whole[:, [2, 0]], atol=1e-5)
    assert knows_classes(f"hf:{folder}", ["bird"]) and not knows_classes(f"hf:{folder}", ["horse"])
    with pytest.raises(WrnbError, match="class 'horse' is none of the 3"):
        load_model(f"hf:{folder}", 2, classes=["dog", "horse"])
    assert load_model(f"hf:{folder}", 5)(x).shape == (4, 5)  # a fresh last layer


@pytest.mark.parametrize("kind, n", [("swiftformer", 3), ("swiftformer", 16), ("levit", 3), ("vit", 16)])
def test_all_heads_and_nothing_else_are_brought_to_the_datas_classes(tmp_path, kind, n):
    "Of several layers with as many outputs, here 16, those that answer are found"
    names = [f"class {i}" for i in range(n)]
    folder, net, processor = saved(tmp_path, kind, names=names)
    image = photo(64)
    model = load_model(f"hf:{folder}", 2, classes=["class 2", "class 0"])
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits[:, [2, 0]]
        assert torch.allclose(model(pixels(image)), theirs, atol=.01*theirs.abs().max().item())


def test_labels_that_read_the_same_are_matched_too(tmp_path):
    folder, *_ = saved(tmp_path, names=["polar bear", "Dog", "dog", "CAT"])
    x = torch.rand(4, 3, 32, 32)
    def outputs(*classes):
        with torch.no_grad(): return load_model(f"hf:{folder}", len(classes), classes=list(classes))(x)

    whole = outputs("polar bear", "Dog", "dog", "CAT")
    assert torch.allclose(outputs("cat", "Polar_Bear", "dog"), whole[:, [3, 0, 2]], atol=1e-5)
    assert torch.allclose(outputs("polar-bear", "Dog"), whole[:, [0, 1]], atol=1e-5)
    assert knows_classes(f"hf:{folder}", ["Cat", "polarbear"]) and not knows_classes(f"hf:{folder}", ["DOG"])
    for classes, wrong in ((["DOG", "cat"], "class 'DOG' is none of the 4"),
                           (["cat", "Cat"], "both read like .* 'CAT'"),
                           (["horse", "dog", "cow"], r"class 'horse' is none .* \(nor: 'cow'\)")):
        with refuses(wrong): outputs(*classes)
    with refuses("has no weights for the classes horse, cow: "):
        score_robustness(f"hf:{folder}", table(3, names=["dog", "horse", "cow"]))


def test_imagenets_synonyms_count_as_its_classes(tmp_path):
    timm = pytest.importorskip("timm")
    info = timm.data.ImageNetInfo()
    synonyms = [info.index_to_description(i, detailed=False) for i in range(1000)]
    folder, net, _ = saved(tmp_path, names=synonyms)
    wnids = ["n01443537", "n01440764"]
    model = load_model(f"hf:{folder}", 2, classes=wnids)
    places = [synonyms.index(s) for s in ("goldfish, Carassius auratus", "tench, Tinca tinca")]
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(x), load_model(f"hf:{folder}", 1000, classes=range(1000))(x)[:, places], atol=1e-5)


def test_imagenets_data_may_be_called_by_all_synonyms():
    "As Hugging Face's imagenet-1k is: two of its classes are called crane, and two begin with maillot"
    info = pytest.importorskip("timm").data.ImageNetInfo()
    theirs = [info.index_to_description(i, detailed=False) for i in range(1000)]
    ours, all_places = list(WNIDS.values()), list(range(1000))
    assert theirs.count("crane") == 2 and theirs[639] == "maillot, tank suit"
    assert places_of(theirs, ours) == places_of(ours, theirs) == places_of(theirs, theirs) == all_places
    clear = [i for i, name in enumerate(theirs) if name != "crane"]
    assert [place_of(theirs[i], ours) for i in clear] == clear
    assert [place_of(ours[i], theirs) for i in clear] == clear
    assert [place_of(wnid, theirs) for wnid in ("n02012849", "n03126707")] == [None, None]


@pytest.mark.parametrize("names, classes, places", [
    (["tench, Tinca tinca", "goldfish, Carassius auratus", "cat"], ["Goldfish", "Tinca_tinca"], [1, 0]),
    (["tench", "cat", "goldfish"], ["goldfish, Carassius auratus", "tench, Tinca tinca"], [2, 0]),
    (["n01443537", "cat", "n01440764"], ["tench", "Goldfish"], [2, 0]),
    (["cat", "goldfish, Carassius auratus", "tench"], ["n01440764", "n01443537"], [2, 1]),
    (["Cardigan, Cardigan Welsh corgi", "cardigan"], ["cardigan", "Cardigan"], [1, 0])])
def test_classes_are_matched_by_synonyms_and_ids(tmp_path, names, classes, places):
    folder, net, processor = saved(tmp_path, names=names)
    image = photo(32)
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits[:, places]
        ours = load_model(f"hf:{folder}", len(classes), classes=classes)(pixels(image))
    assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("names, classes, wrong", [
    (["cat", "cat", "dog"], ["cat", "dog"], "class 'cat' is none of the 3"),
    (["shark, white shark", "shark, tiger shark"], ["shark"], "class 'shark' is none of the 2"),
    (["tench", "dog"], ["tench", "n01440764"], "'tench' and 'n01440764' both read like the model's 'tench'"),
    (["tench", "dog"], ["tench", "tench"], "'tench' and 'tench' both read like the model's 'tench'")])
def test_classes_that_could_be_several_are_refused(tmp_path, names, classes, wrong):
    folder, *_ = saved(tmp_path, names=names)
    with refuses(wrong): load_model(f"hf:{folder}", max(2, len(classes)), classes=classes)


def test_scoring_takes_such_a_model_and_such_data(tmp_path):
    folder, *_ = saved(tmp_path/"model")
    ds = table(12)
    scores = score_robustness(load_model(f"hf:{folder}", 3, classes=ds.features["label"].names), ds, n_neighbors=4)
    assert len(scores) == 12


def test_scoring_takes_their_names(tmp_path):
    folder, net, _ = saved(tmp_path/"model")
    datasets.DatasetDict(train=table(9), test=table(6, side=40)).save_to_disk(tmp_path/"pets")
    scores = score_robustness(f"hf:{folder}", f"hf:{tmp_path/'pets'}", n_neighbors=4)
    train, test = load_data(f"hf:{tmp_path/'pets'}")
    by_hand = score_robustness(load_model(f"hf:{folder}", 3, classes=PETS), train, n_neighbors=4)
    assert scores.table.equals(by_hand.table) and len(scores) == 9
    some = corruptions("noise", [1])
    found = validate(f"hf:{folder}", [0, 1], train, f"hf:{tmp_path/'pets'}", perturbations=some)
    assert len(found.test) == 6 and found.ds is train
    with pytest.raises(WrnbError, match="has no weights for the classes horse"):
        score_robustness(f"hf:{folder}", table(4, names=["horse", "cow"]))


def ds_pixels(ds): return torch.cat([pixels(image) for image in ds.pictures])


def test_timms_models_are_scored_by_name(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(net, tmp_path, safe_serialization=True, model_config=dict(label_names=PETS))
    mean, std = (net.pretrained_cfg[k] for k in ("mean", "std"))
    for order in (["0", "1", "2"], PETS[::-1]):  # counted, or matched by name
        ds = table(6, side=160, names=order)
        scores = score_robustness(f"timm:local-dir:{tmp_path}", ds, n_neighbors=4).table
        places = torch.tensor([2, 1, 0] if order[0] in PETS else [0, 1, 2])
        x = (ds_pixels(ds) - view(mean))/view(std)
        with torch.no_grad(): theirs = net(x)[:, places].argmax(1)
        assert scores.pred.tolist() == theirs.tolist()


def test_the_command_line_takes_their_names(tmp_path, capsys, monkeypatch):
    folder, *_ = saved(tmp_path/"model")
    datasets.DatasetDict(train=table(9), test=table(6)).save_to_disk(tmp_path/"pets")
    monkeypatch.chdir(tmp_path)
    words = "--n-neighbors 4 --eps 0.1 --workers 0 --device cpu --out run".split()
    assert main(["score", "hf:pets", "--model", "hf:model", *words]) == 0
    train, _ = load_data("hf:pets", 32)
    scores = score_robustness("hf:model", train, eps=.1, n_neighbors=4)
    kept = read_table(tmp_path/"run/scores.parquet")
    assert kept.id.tolist() == train.ids and kept.score.tolist() == scores.table.score.tolist()
    words = ["--model", "hf:model", *words[:-1], "other"]
    assert main(["score", f"hf:{tmp_path}/nowhere", *words]) == 2
    assert "nowhere cannot be loaded" in capsys.readouterr().err.splitlines()[-1]


def refused(match, name, n=3):
    with pytest.raises(WrnbError, match=match) as e: load_model(name, n)
    assert "\n" not in str(e.value)


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path):
    refused("cannot be loaded", f"hf:{tmp_path/'nowhere'}")
    folder, net, processor = saved(tmp_path/"base")
    torch.save(net.state_dict(), tmp_path/"x.pth")
    refused("leave out @CHECKPOINT", f"hf:{folder}@{tmp_path/'x.pth'}")
    net.vit.save_pretrained(folder)  # no last layer
    refused("has no weights for classifier", f"hf:{folder}")
    multi, net, _ = saved(tmp_path/"multi")
    net.config.problem_type = "multi_label_classification"
    net.config.save_pretrained(multi)
    refused("is for multi_label_classification", f"hf:{multi}")
    (folder/"model.safetensors").write_bytes(b"\0"*100)
    refused("cannot be loaded", f"hf:{folder}")


def test_pickled_weights_and_code_are_not_read(tmp_path):
    folder, net, _ = saved(tmp_path/"pickled")
    (folder/"model.safetensors").unlink()
    torch.save(net.state_dict(), folder/"pytorch_model.bin")
    refused("cannot be loaded", f"hf:{folder}")
    coded, *_ = saved(tmp_path/"coded")
    config = json.loads((coded/"config.json").read_text())
    config |= dict(model_type="strange", auto_map=dict(AutoConfig="code.C", AutoModelForImageClassification="code.M"))
    (coded/"config.json").write_text(json.dumps(config))
    (coded/"code.py").write_text(f"open({str(tmp_path/'ran')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    refused("cannot be loaded", f"hf:{coded}")
    assert not (tmp_path/"ran").exists()


def test_timms_models_from_a_folder(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(net, tmp_path, safe_serialization=True)
    model = load_model(f"timm:local-dir:{tmp_path}", 3, classes=[0, 1, 2])
    x = torch.rand(2, 3, 160, 160)
    mean, std = (view(net.pretrained_cfg[k]) for k in ("mean", "std"))
    with torch.no_grad(): assert torch.allclose(model(x), net((x - mean)/std), atol=1e-4)
    refused("its weights cannot be fetched", f"timm:local-dir:{tmp_path/'nowhere'}")


def test_a_model_of_timms_by_hf_is_refused(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
    save_for_hf(timm.create_model("test_resnet", num_classes=3), tmp_path, safe_serialization=True)
    refused(f"model=hf:{tmp_path} is a model of timm's: give model=timm:local-dir:{tmp_path}$", f"hf:{tmp_path}")


def config_with(folder, **options):
    config = json.loads((folder/"config.json").read_text())
    (folder/"config.json").write_text(json.dumps(config | options))


@pytest.mark.parametrize("numbers", [(0, 1, 3), (1, 2, 3), (-1, 0, 1)])
def test_classes_that_are_not_numbered_as_the_outputs_are_refused(tmp_path, numbers):
    folder, *_ = saved(tmp_path)
    config_with(folder, id2label={str(k): name for k, name in zip(numbers, PETS)})
    refused(f"numbers its classes {', '.join(map(str, numbers))}: number them from 0", f"hf:{folder}")


def test_a_model_of_one_output_is_refused(tmp_path):
    folder, *_ = saved(tmp_path, names=["LABEL_0"])
    refused("has one output: give one that chooses among classes", f"hf:{folder}")


def test_a_model_without_names_of_classes_takes_their_numbers(tmp_path):
    folder, net, processor = saved(tmp_path, names=[f"LABEL_{i}" for i in range(3)])
    image = photo(32)
    with torch.no_grad():
        theirs = net(**processor(image, return_tensors="pt")).logits
        for classes in ([0, 1, 2], ["0", "1", "2"]):
            ours = load_model(f"hf:{folder}", 3, classes=classes)(pixels(image))
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for classes in (PETS, ["1", "0", "2"], ["1", "2", "3"]):
        with refuses("whose 3 classes have no names: call it by its number, 0 to 2"):
            load_model(f"hf:{folder}", 3, classes=classes)


def test_it_says_what_to_do_about_a_folder_that_lacks_something(tmp_path):
    folder, net, _ = saved(tmp_path/"processor")
    (folder/"preprocessor_config.json").unlink()
    refused("save the image processor in the folder too", f"hf:{folder}")
    folder, net, _ = saved(tmp_path/"weights")
    (folder/"model.safetensors").unlink()
    torch.save(net.state_dict(), folder/"pytorch_model.bin")
    refused("weights are pickled, .* save_pretrained writes safetensors", f"hf:{folder}")


def test_timms_model_of_a_thousand_classes_of_its_own_is_not_imagenets(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
    own = [f"part {i}" for i in range(1000)]
    for place, labels in (("own", own), ("imagenet", None), ("ids", list(WNIDS))):
        torch.manual_seed(0)
        net = timm.create_model("test_resnet", num_classes=1000).eval()
        save_for_hf(net, tmp_path/place, model_config=dict(label_names=labels), safe_serialization=True)
    x = torch.rand(2, 3, 64, 64)
    mean, std = (view(net.pretrained_cfg[k]) for k in ("mean", "std"))
    with torch.no_grad():
        theirs = net((x - mean)/std)[:, [1, 0]]
        fish = ["goldfish", "tench"]
        for place, classes in (("own", own[1::-1]), ("imagenet", fish), ("ids", fish)):
            ours = load_model(f"timm:local-dir:{tmp_path/place}", 2, classes=classes)(x)
            assert torch.allclose(ours, theirs, atol=1e-4)
    with refuses("class 'goldfish' is none of the 1000"):
        load_model(f"timm:local-dir:{tmp_path/'own'}", 2, classes=["goldfish", "tench"])


def test_timms_grey_models_and_unknown_tags_are_refused(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf
    save_for_hf(timm.create_model("test_resnet", num_classes=3, in_chans=1), tmp_path, safe_serialization=True)
    refused("takes pictures of 1 channels: give one that takes 3", f"timm:local-dir:{tmp_path}")
    refused("has no such weights; timm.list_pretrained..resnet18", "timm:resnet18.no_tag")


# --- data -----------------------------------------------------------------------------------------

def table(n, image="image", label="label", side=32, names=PETS, **more):
    images = [photo(side) for _ in range(n)]
    features = {image: datasets.Image(), label: datasets.ClassLabel(names=names)}
    columns = {image: images, label: [i % len(names) for i in range(n)]} | more
    ds = datasets.Dataset.from_dict({k: columns[k] for k in features}, features=datasets.Features(features))
    ds.pictures = images
    return ds


@pytest.mark.parametrize("image, label", [("image", "label"), ("img", "fine"), ("jpg", "fine_label")])
def test_a_dataset_object_is_taken_with_its_columns_found(image, label):
    raw = table(6, image, label)
    ds = as_images(raw)
    assert ds.classes == PETS and [ds[i][1] for i in range(6)] == [0, 1, 2]*2
    for i in range(6): assert torch.equal(ds[i][0], pixels(raw.pictures[i])[0])


def test_columns_that_are_not_clear_are_named():
    raw = table(4).add_column("again", [1]*4).cast_column("again", datasets.ClassLabel(names=["a", "b"]))
    raw = raw.rename_column("label", "first")
    with pytest.raises(WrnbError, match="2 columns may be the label among image, first, again"): as_images(raw)
    assert list(image_and_label(raw, label="again")["label"]) == [1]*4
    assert as_images(image_and_label(raw, label="first")).classes == PETS


def test_a_stream_is_refused_in_one_line():
    with pytest.raises(WrnbError, match="load it without streaming=True"): as_images(table(3).to_iterable_dataset())


def test_a_saved_set_by_its_folder(tmp_path):
    train, hidden, test = table(9), table(3), table(6, side=40)
    hidden = datasets.Dataset.from_dict(dict(image=hidden["image"], label=[-1]*3), features=train.features)
    datasets.DatasetDict(train=train, test=hidden, validation=test).save_to_disk(tmp_path)
    ours, others = load_data(f"hf:{tmp_path}")
    assert (len(ours), len(others), ours.size, ours.classes) == (9, 6, 32, PETS)
    assert ours.ids[:2] == ["train/0", "train/1"] and others.ids[0] == "validation/0"
    assert torch.equal(ours[4][0], pixels(train.pictures[4])[0]) and others[0][0].shape == (3, 32, 32)
    assert ours.origin.startswith(f"train of hf:{tmp_path}: pictures of 32 pixels, the median of the first")
    wanted, _ = load_data(f"hf:{tmp_path}", model_size=24)
    assert wanted.origin.endswith("24 pixels, the size the model was pretrained for")
    few, _ = load_data(f"hf:{tmp_path}", size=16, limit=5)
    assert few.origin.endswith("16 pixels, as you asked")
    assert len(few) == 5 and few[0][0].shape == (3, 16, 16)
    again, _ = load_data(f"hf:{tmp_path}", limit=5)
    assert [torch.equal(x, ours.pixels([ours.ids.index(i)])[0]) for (x, _), i in zip(again, again.ids)] == [True]*5


def test_parquet_files_in_a_folder(tmp_path):
    for part, n in (("train", 6), ("test", 3)): table(n, "img").to_parquet(tmp_path/f"{part}-0.parquet")
    train, test = load_data(f"hf:{tmp_path}")
    assert (len(train), len(test), test.classes) == (6, 3, PETS)


def test_labels_as_words_and_as_numbers():
    image = table(4)["image"]
    def made(name, values, kind):
        features = datasets.Features({"image": datasets.Image(), name: datasets.Value(kind)})
        return datasets.Dataset.from_dict({"image": image, name: values}, features=features)

    ds = hub_set(made("label", ["b", "a", "b", "c"], "string"))
    assert (ds.classes, ds.labels.tolist()) == (["a", "b", "c"], [1, 0, 1, 2])
    ds = hub_set(made("target", [0, 2, 1, 0], "int8"))
    assert (ds.classes, ds.labels.tolist()) == (["0", "1", "2"], [0, 2, 1, 0])


def column(kind, values): return datasets.Dataset.from_dict(
    {"image": table(len(values))["image"][:], "label": values},
    features=datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)}))


def file_of(picture):
    "A picture's file as bytes"
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


BLUE = Image.fromarray(np.full((32, 32, 3), (10, 20, 240), np.uint8))
KINDS = dict(palette=BLUE.convert("P", palette=Image.Palette.ADAPTIVE), rgb=BLUE, alpha=BLUE.convert("RGBA"))


@pytest.mark.parametrize("form", ["torch", "numpy", "arrow", "pandas", None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_format_that_was_set_does_not_change_the_pictures(kind, form):
    "A palette's numbers are no grey levels"
    files = [dict(bytes=file_of(KINDS[kind]), path=None)]*4
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    ds = datasets.Dataset.from_dict(dict(image=files, label=[0, 1, 0, 1]), features=features).with_format(form)
    x, y = as_images(ds)[1]
    assert (x*255).round()[:, 5, 5].tolist() == pytest.approx([10, 20, 240], abs=3) and y == 1


@pytest.mark.parametrize("column", ["bytes", "bytes and path"])
def test_a_column_of_files_as_bytes(column):
    pictures = [photo(32) for _ in range(4)]
    values, feature = [file_of(im) for im in pictures], datasets.Value("binary")
    if column != "bytes":
        values = [dict(bytes=v, path="a.png") for v in values]
        feature = dict(bytes=datasets.Value("binary"), path=datasets.Value("string"))
    features = datasets.Features(image=feature, label=datasets.ClassLabel(names=["a", "b"]))
    ds = datasets.Dataset.from_dict(dict(image=values, label=[0, 1, 1, 0]), features=features)
    for images in (as_images(ds), hub_set(ds, 32)):
        assert images.classes == ["a", "b"] and [int(y) for _, y in images] == [0, 1, 1, 0]
        assert all(torch.equal(images[i][0], pixels(im)[0]) for i, im in enumerate(pictures))


DAMAGED = dict(junk=lambda data: b"junk", cut=lambda data: data[:200])


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_picture_is_named(how):
    files = [file_of(photo(32)) for _ in range(4)]
    files[2] = DAMAGED[how](files[2])
    values = dict(image=[dict(bytes=f, path=None) for f in files], label=[0, 1, 0, 1])
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    ds = as_images(datasets.Dataset.from_dict(values, features=features))
    with refuses(r"image 2 cannot be read \(.*\): replace or remove it"): ds.__getitems__([0, 1, 2, 3])
    assert len(ds.__getitems__([0, 1, 3])) == 3


def test_names_of_files_are_to_be_cast(tmp_path):
    photo(32).save(tmp_path/"a.png")
    ds = datasets.Dataset.from_dict(dict(picture=[str(tmp_path/"a.png")]*2, label=[0, 1]))
    with refuses(r"give ds.cast_column\('picture', datasets.Image\(\)\)"): image_and_label(ds, image="picture")
    assert as_images(ds.cast_column("picture", datasets.Image()))[1][1] == 1


@pytest.mark.parametrize("kind, values, classes, labels", [
    ("large_string", ["b", "a", "b"], ["a", "b"], [1, 0, 1]), ("float64", [2., 0., 1.], ["0", "1", "2"], [2, 0, 1]),
    ("float32", [1, 0, 1], ["0", "1"], [1, 0, 1]), ("bool", [True, False], ["0", "1"], [1, 0]),
    ("uint8", [0, 1], ["0", "1"], [0, 1])])
def test_labels_of_many_types(tmp_path, kind, values, classes, labels):
    ds = column(kind, values)
    ours = hub_set(ds, label="label")
    assert (ours.classes, ours.labels.tolist()) == (classes, labels)
    assert [as_images(ds)[i][1] for i in range(len(ds))] == labels
    assert as_images(ds).classes in (classes, None)
    datasets.DatasetDict(train=ds, test=ds).save_to_disk(tmp_path)
    for part in load_data(f"hf:{tmp_path}"): assert (part.classes, part.labels.tolist()) == (classes, labels)


def test_a_table_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(dict(image=[dict(bytes=None, path=str(tmp_path/f"{i}.png")) for i in range(4)],
                                  label=["b", "a", "b", "c"]))
    for i in range(4): photo(8).save(tmp_path/f"{i}.png")
    ds = datasets.Dataset.from_pandas(frame)
    ds = ds.cast_column("image", datasets.Image())
    assert hub_set(ds).labels.tolist() == [1, 0, 1, 2] == [as_images(ds)[i][1] for i in range(4)]
    assert torch.equal(hub_set(ds)[2][0], as_images(ds)[2][0])


@pytest.mark.parametrize("kind, values, wrong", [
    ("int64", [0, None], "data/1 has no label"), ("string", ["a", None], "data/1 has no label"),
    ("float64", [1, .5], "data/1 has the label 0.5"), ("float64", [float("nan")], "data/0 has the label nan"),
    ("int64", [0, -2], "data/1 has label -2"), ("null", [None], "holds null")])
def test_labels_that_are_missing_or_fractions_are_refused_with_their_row(kind, values, wrong):
    ds = image_and_label(column(kind, values), label="label")
    with refuses(wrong): hub_set(ds, label="label")
    with refuses("label"): list(as_images(ds))


GRIDS = {  # feature, and what is done to the levels [height, width, 3]
    "uint8": (datasets.Array3D((8, 8, 3), "uint8"), lambda v: v),
    "channels first": (datasets.Array3D((3, 8, 8), "uint8"), lambda v: v.transpose(2, 0, 1)),
    "floats": (datasets.Array3D((8, 8, 3), "float32"), lambda v: (v/255).astype(np.float32)),
    "grey": (datasets.Array2D((8, 8), "uint8"), lambda v: v[..., 0]),
    "lists": (datasets.List(datasets.List(datasets.List(datasets.Value("int64")))), lambda v: v),
    "grey lists": (datasets.List(datasets.List(datasets.Value("uint8"))), lambda v: v[..., 0])}


def grid_table(feature, grids, label=None):
    features = datasets.Features({"pixels": feature, "label": datasets.ClassLabel(names=PETS)})
    rows = dict(pixels=[g.tolist() for g in grids], label=[i % 3 for i in range(len(grids))])
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", GRIDS)
def test_pixels_in_arrays_and_lists(kind, tmp_path):
    feature, change = GRIDS[kind]
    levels = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    ds = grid_table(feature, [change(v) for v in levels])
    expected = torch.from_numpy(levels).permute(0, 3, 1, 2)/255
    if "grey" in kind: expected = expected[:, :1].expand(-1, 3, -1, -1)
    datasets.DatasetDict(train=ds, test=ds).save_to_disk(tmp_path)
    for ours in (hub_set(ds), hub_set(ds, image="pixels"), as_images(ds), load_data(f"hf:{tmp_path}")[1]):
        assert torch.allclose(torch.stack([ours[i][0] for i in range(3)]), expected, atol=1e-6)
        assert [ours[i][1] for i in range(3)] == [0, 1, 2]
    assert hub_set(ds, size=4)[0][0].shape == (3, 4, 4)


@pytest.mark.parametrize("feature, grid", [
    (datasets.Array3D((8, 8, 5), "uint8"), np.zeros((8, 8, 5), np.uint8)),
    (datasets.Array2D((2, 2), "float32"), np.full((2, 2), 2.)),
    (datasets.Array2D((2, 2), "int64"), np.full((2, 2), 300)),
    (datasets.List(datasets.List(datasets.Value("int64"))), np.eye(2, dtype=int))])
def test_arrays_that_are_no_pictures_are_refused(feature, grid):
    with refuses("data/0"): hub_set(grid_table(feature, [grid]))


def test_sizes_limits_and_empty_sets_are_refused_in_one_line(tmp_path):
    ds = table(6)
    for options in (dict(size=0), dict(size=-4), dict(size=2.5), dict(limit=0), dict(limit=-1), dict(limit=True)):
        (name, value), = options.items()
        with refuses(f"{name}={value}"): hub_set(ds, **options)
    empty = ds.select([])
    with refuses("there are no images in data of hf"): hub_set(empty)
    for what in (dict(train=empty, test=ds), dict(train=ds, test=empty)):
        datasets.DatasetDict(what).save_to_disk(tmp_path/"-".join(str(len(v)) for v in what.values()))
    with refuses("there are no images in train of hf:"): load_data(f"hf:{tmp_path/'0-6'}")
    with refuses("there are no images in test of hf:"): load_data(f"hf:{tmp_path/'6-0'}")
    for part, rows in (("train", ds), ("test", empty)): rows.to_parquet(tmp_path/f"files/{part}.parquet")
    with refuses("cannot be loaded .*no data"): load_data(f"hf:{tmp_path/'files'}")
    for options in (dict(limit=-1), dict(test_limit=-1), dict(size=0)):
        datasets.DatasetDict(train=ds, test=ds).save_to_disk(tmp_path/"full")
        (name, value), = options.items()
        with refuses(f"^{name}={value}"): load_data(f"hf:{tmp_path/'full'}", **options)
    for name in ("hf:", "hf: ", "hf::small", "hf:[img,label]", "hf:a[b"):
        with refuses("data=hf:"): load_data(name)
    with refuses("has several parts"): hub_set(datasets.DatasetDict(train=ds))
    with refuses("load it without streaming"): hub_set(ds.to_iterable_dataset())
    with refuses("the column label holds int64, not pictures"):
        hub_set(ds, image="label", label="image")


def two_labels():
    ds = table(6, "img", "fine")
    ds = ds.add_column("coarse", [i % 2 for i in range(6)])
    return ds.cast_column("coarse", datasets.ClassLabel(names=["x", "y"]))


def test_columns_are_named_in_a_sets_name(tmp_path):
    datasets.DatasetDict(train=two_labels(), test=two_labels()).save_to_disk(tmp_path/"pets")
    name = f"hf:{tmp_path/'pets'}"
    with pytest.raises(WrnbError) as e: load_data(name)
    assert str(e.value) == ("2 columns may be the label among img, fine, coarse (fine or coarse): "
                            f"name it, as in {name}[img,label]")
    for end, classes in (("[img,fine]", PETS), ("[ img , fine ]", PETS),
                         ("[img,coarse]", ["x", "y"]), ("[,coarse]", ["x", "y"])):
        train, test = load_data(name + end)
        assert train.classes == classes and len(test) == 6 and train.name == name + end
        assert train.labels.tolist() == [i % len(classes) for i in range(6)]
    with refuses("label='nothing' is not one of the columns img, fine, coarse: name it, as in hf"):
        load_data(name + "[img,nothing]")
    with refuses("saved without configurations: leave out :small"): load_data(name + ":small")
    bracket = tmp_path/"a[b]"  # a folder of that very name
    datasets.DatasetDict(train=table(3), test=table(3)).save_to_disk(bracket)
    assert load_data(f"hf:{bracket}")[0].classes == PETS


def test_configurations_are_named_in_a_sets_name(tmp_path):
    configs = []
    for config, names in (("small", PETS), ("large", ["x", "y"])):
        for part in ("train", "test"): table(6, names=names).to_parquet(tmp_path/f"{config}/{part}.parquet")
        files = [dict(split=part, path=f"{config}/{part}.parquet") for part in ("train", "test")]
        configs.append(dict(config_name=config, data_files=files))
    (tmp_path/"README.md").write_text("---\n" + json.dumps(dict(configs=configs)) + "\n---\n")
    assert load_data(f"hf:{tmp_path}:small")[0].classes == PETS
    assert load_data(f"hf:{tmp_path}:large[image,label]")[1].classes == ["x", "y"]
    for end in ("", ":medium"):
        with refuses("name one of its configurations small, large, as in hf:.*:small$"):
            load_data(f"hf:{tmp_path}{end}")


def test_text_in_a_dataset_object_and_columns_of_unusual_names():
    for label in ("class", "animal"):
        ds = column("string", ["dog", "cat", "dog", "bird"]).rename_column("label", label)
        for ours in (as_images(ds), hub_set(ds)):
            assert ours.classes == ["bird", "cat", "dog"] and [ours[i][1] for i in range(4)] == [2, 1, 2, 0]
        assert as_images(table(3, label="animal")).classes == PETS
    two = ds.add_column("place", ["x"]*4)
    assert hub_set(two.rename_column("animal", "class")).classes == ["bird", "cat", "dog"]
    for ask in (as_images, hub_set):
        with refuses(r"2 columns may be the label among image, animal, place \(animal or place\)"):
            ask(two)
    scores = score_robustness(Mean(), ds, n_neighbors=2).table
    assert scores.label.tolist() == [2, 1, 2, 0]


class Mean(torch.nn.Module):
    def forward(self, x): return x.mean((2, 3))


def parts(tmp_path, train, test):
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path)
    return load_data(f"hf:{tmp_path}")


@pytest.mark.parametrize("kind, train, test, labels", [
    ("string", ["b", "a", "c"], ["c", "b"], [2, 1]), ("int64", [0, 1, 2], [1, 0, 1], [1, 0, 1])])
def test_the_test_part_may_lack_a_class(tmp_path, kind, train, test, labels):
    ours, others = parts(tmp_path, column(kind, train), column(kind, test))
    assert others.classes == ours.classes and others.labels.tolist() == labels


def test_test_labels_are_matched_by_name(tmp_path):
    _, test = parts(tmp_path/"a", table(6), table(6, names=PETS[::-1] + ["unused"]).select(range(3)))
    assert test.classes == PETS and test.labels.tolist() == [2, 1, 0]
    for kind, train, other in (("string", "ab", "abd"), ("int64", [0, 1], [0, 2])):
        with refuses(r"has other classes in test than in train \([d2]\)"):
            parts(tmp_path/kind, column(kind, list(train)), column(kind, list(other)))


def test_hidden_test_labels_of_text_or_none_are_passed_over(tmp_path):
    for kind, none in (("string", ""), ("string", None), ("int64", -1), ("int64", None), ("float32", -1)):
        values = ["a", "b"] if kind == "string" else [0, 1]
        place = tmp_path/f"{kind}{none}"
        datasets.DatasetDict(train=column(kind, values), test=column(kind, [none]*3),
                             validation=column(kind, values)).save_to_disk(place)
        assert load_data(f"hf:{place}")[1].ids[0] == "validation/0"
    no_labels = table(3).remove_columns("label")
    datasets.DatasetDict(train=table(3), test=no_labels, val=table(3)).save_to_disk(tmp_path/"none")
    assert load_data(f"hf:{tmp_path/'none'}")[1].ids[0] == "val/0"


def test_bad_sets_are_refused_in_one_line(tmp_path):
    with pytest.raises(WrnbError, match="cannot be loaded"): load_data(f"hf:{tmp_path/'nowhere'}")
    datasets.DatasetDict(train=table(3)).save_to_disk(tmp_path/"lonely")
    with pytest.raises(WrnbError, match="has no part called test or validation"): load_data(f"hf:{tmp_path/'lonely'}")
    rows = dict(image=[dict(bytes=b"nothing", path=None)], label=[0])
    broken = datasets.Dataset.from_dict(rows, features=table(1).features)
    with pytest.raises(WrnbError, match="data/0 cannot be read as an image"): hub_set(broken)
    with pytest.raises(WrnbError, match="test_share= is for folders"): load_data(f"hf:{tmp_path}", test_share=.2)


def test_rows_that_a_transform_of_their_own_makes_stay_so(tmp_path):
    pictures = [Image.new("RGB", (40, 40), (k,)*3) for k in range(4)]
    ds = datasets.Dataset.from_dict(dict(image=pictures, label=list("abab")))
    def turned(rows):
        images = [im.resize((32, 32)) for im in rows["image"]]
        return dict(image=images, label=[dict(a=1, b=0)[name] for name in rows["label"]])
    for own, side, labels in ((ds, 40, [0, 1, 0, 1]), (ds.with_transform(turned), 32, [1, 0, 1, 0])):
        images = as_images(own)
        assert images[0][0].shape == (3, side, side) and [int(y) for _, y in images] == labels


def test_an_image_column_that_is_not_decoded_is_read_all_the_same(tmp_path):
    raw = table(4)
    for i, im in enumerate(raw.pictures): im.save(tmp_path/f"{i}.png")
    by_name = dict(image=[str(tmp_path/f"{i}.png") for i in range(4)], label=raw["label"])
    for ds in (raw, datasets.Dataset.from_dict(by_name, features=raw.features)):
        images = as_images(ds.cast_column("image", datasets.Image(decode=False)))
        assert images.classes == PETS and [int(y) for _, y in images] == [0, 1, 2, 0]
        assert all(torch.equal(images[i][0], pixels(im)[0]) for i, im in enumerate(raw.pictures))
