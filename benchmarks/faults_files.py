"""The bad and hostile files of benchmarks/faults.py: pictures, checkpoints, corrupted sets, run folders."""
import io, json, os, pickle, shutil, struct, zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from faults_desk import MEASURE, SETUP, TRAIN, configure, cut, flip, link, made_by, put, rename, undo
from wrnb.corruptions import CORRUPTIONS
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.runs import provenance

SMALL = "--limit 20 --test-limit 20"
NEW = f"score digits --model digits_net@{{bad}}/ten.safetensors --out {{new}} {SMALL} --n-neighbors 2"
MODEL = f"score digits --model %s --out {{new}} {SMALL}"
FOLDER = "score {bad}/%s --model digits_net@{bad}/two.safetensors --out {new}"
SCORED = f"score digits {' '.join(SETUP)} --n-neighbors 120 --out {{run}}"
VALIDATE = f"validate {{run}} {' '.join(MEASURE)}"
REVA = f"enhance {{run}} --strategy reva {' '.join(TRAIN)}"


# --- bad input ------------------------------------------------------------------------------------

def pictures(folder, n=3, classes=("cat", "dog"), splits=("train", "test")):
    "A folder of small pictures of noise"
    rng = np.random.default_rng(0)
    for s in splits:
        for c in classes:
            (folder/s/c).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder/s/c/f"{i}.png")
    return folder


def make_bad_checkpoints(folder):
    torch.manual_seed(0)
    for classes, name in ((10, "ten"), (100, "hundred"), (2, "two")):
        save_weights(load_model("digits_net", classes), folder/f"{name}.safetensors")
    net = load_model("digits_net", 10)
    for p in net.parameters(): p.data.fill_(float("nan"))
    save_weights(net, folder/"nan.safetensors")
    shutil.copy(folder/"ten.safetensors", folder/"cut.safetensors")
    cut(folder/"cut.safetensors")


def make_bad_folders(folder):
    for name in ("good", "empty", "cut", "zero", "text", "other", "gone"): pictures(folder/name)
    pictures(folder/"no_test", splits=("train",))
    (folder/"empty/train/fish").mkdir()
    cut(folder/"cut/train/dog/1.png")
    (folder/"zero/train/dog/1.png").write_bytes(b"")
    (folder/"text/test/cat/2.png").write_text("no picture")
    (folder/"other/test/dog").rename(folder/"other/test/wolf")
    link(folder/"gone/train/cat/0.png", folder/"nowhere.png")


def make_bad(folder):
    "Data and checkpoints that are not as they should be"
    make_bad_checkpoints(folder)
    make_bad_folders(folder)
    (folder/"file").write_text("")


def after(stage, name, damage, *args, **kwargs):
    "Undo a stage, then damage a file that it reads"
    def change(run):
        undo(run, stage)
        damage(run/name, *args, **kwargs)
    return change


def to(name, damage, *args, **kwargs):
    "Damage a file"
    return lambda run: damage(run/name, *args, **kwargs)


def keep_header(path): path.write_text(path.read_text().splitlines()[0] + "\n")


def overwrite(path, text): path.write_text(text)


BAD = {  # what is bad: (command, what the line names, what is done to the run folder before)
    "no such data": ("score cifar11 --model resnet20 --out {new}", "cifar11"),
    "truncated image": (FOLDER % "cut", "cut/train/dog/1.png"),
    "empty image file": (FOLDER % "zero", "zero/train/dog/1.png"),
    "text for an image": (FOLDER % "text", "text/test/cat/2.png"),
    "missing image": (FOLDER % "gone", "gone/train/cat/0.png"),
    "no test folder": (FOLDER % "no_test", "no_test has no test/"),
    "empty class folder": (FOLDER % "empty", "empty/train/fish"),
    "unknown class": (FOLDER % "other", "other/test/wolf"),
    "size 0": (FOLDER % "good" + " --size 0", "size=0"),
    "unknown model": (MODEL % "resnet21", "resnet21"),
    "missing checkpoint": (MODEL % "digits_net@{bad}/nothing.pt", "nothing.pt"),
    "truncated checkpoint": (MODEL % "digits_net@{bad}/cut.safetensors", "cut.safetensors"),
    "checkpoint of another network": (MODEL % "resnet20@{bad}/ten.safetensors", "ten.safetensors"),
    "wrong number of outputs": (MODEL % "digits_net@{bad}/hundred.safetensors", "100 outputs"),
    "NaN weights": (MODEL % "digits_net@{bad}/nan.safetensors", "finite"),
    "eps 0": (NEW + " --eps 0", "eps=0"),
    "eps -1": (NEW + " --eps -1", "eps=-1"),
    "eps 2": (NEW + " --eps 2", "eps=2"),
    "eps nan": (NEW + " --eps nan", "eps=nan"),
    "no neighbours": (NEW + " --n-neighbors 0", "neighbors=0"),
    "unknown noise": (NEW + " --noise salt", "salt"),
    "unknown precision": (NEW + " --precision fp64", "fp64"),
    "batch size 0": (NEW + " --batch-size 0", "batch_size=0"),
    "workers -1": (NEW + " --workers -1", "workers=-1"),
    "unknown device": (NEW + " --device abacus", "abacus"),
    "limit 0": (NEW + " --limit 0", "limit=0"),
    "negative seed": (NEW + " --seed -1", "seed=-1"),
    "top-k 0": (NEW + " --top-k 0", "top"),
    "top-k above the set": (NEW + " --top-k 21", "top"),
    "certificate of uniform noise": (NEW + " --certify", "certify"),
    "out is a file": (NEW.replace("{new}", "{bad}/file"), "bad/file"),
    "k above the set": ("weak {run} -k 9999", "k=9999"),
    "severity 6": ("validate {run} --severities 6", "severity=6"),
    "unknown family": ("validate {run} --families sound", "sound"),
    "unknown attack": ("validate {run} --attacks fgms", "fgms"),
    "unknown rule": (VALIDATE + " --rule feeling", "feeling"),
    "attack eps nan": ("validate {run} --attack-eps nan", "eps=nan"),
    "unknown strategy": ("enhance {run} --strategy luck", "luck"),
    "unknown protocol": ("enhance {run} --strategy reva --protocol mine", "mine"),
    "guide eps -1": ("enhance {run} --strategy adversarial --guide-eps -1", "guide_eps=-1"),
    "no such corruption": ("corrupt digits --out {new} --corruptions rain", "rain"),
    "no corrupted set": ("evaluate {run} --on {bad}/good", "bad/good"),
    "folder of other data": (f"score cifar10 --model digits_net {' '.join(SETUP)} --out {{run}}", "setup data"),
    "folder of another model": (SCORED + " --model resnet20", "setup model"),
    "folder of another seed": (SCORED + " --seed 1", "setup seed"),
    "folder of another eps": (SCORED + " --eps .2", "score eps"),
    "damaged config.json": ("weak {run}", "config.json", to("config.json", flip)),
    "config.json of another kind": ("weak {run}", "config.json", to("config.json", overwrite, "[]")),
    "truncated scores.parquet": ("weak {run} -k 5", "scores.parquet", after("weak", "scores.parquet", cut)),
    "damaged scores.parquet": ("weak {run} -k 5", "scores.parquet", after("weak", "scores.parquet", flip)),
    "score above 1": ("weak {run} -k 5", "scores.parquet", after("weak", "scores.parquet", put, score=7.)),
    "scores of other images": ("report {run}", "scores.parquet", to("scores.parquet", put, id="another")),
    "weak.csv with text for a number": (VALIDATE, "weak.csv", after("validate", "weak.csv", put, index="seven")),
    "weak.csv with an image outside": (VALIDATE, "weak.csv", after("validate", "weak.csv", put, index=400)),
    "weak.csv with a negative index": ("report {run}", "weak.csv", to("weak.csv", put, index=-1)),
    "truncated validation.csv": (REVA, "validation.csv", after("enhance reva", "validation.csv", cut, 9)),
    "validation.csv without rows": ("report {run}", "validation.csv", to("validation.csv", keep_header)),
    "damaged weaknesses.json": (REVA, "weaknesses.json", after("enhance reva", "weaknesses.json", cut, 5)),
    "damaged model": ("evaluate {run}", "reva/model.safetensors", to("reva/model.safetensors", cut)),
    "table without its columns": ("report {run}", "evaluation.csv", to("evaluation.csv", overwrite, "a,b\n1,2\n"))}


# --- hostile checkpoints --------------------------------------------------------------------------

class Trap:
    "Unpickled, it makes a file"
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, "w")


class Sized:
    "Unpickled, a tensor of 64 GB on a storage of 4 bytes"
    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True)
        offset, size, stride, requires_grad, hooks = 0, (2**34,), (1,), False, {}
        return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, requires_grad, hooks)


def weights(**more): return load_model("digits_net", 10).state_dict() | more


def tensors(header, size=None):
    "A safetensors file with this header, or one that claims to be of another length"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(64)


def claim(shape, start, stop): return tensors(dict(a=dict(dtype="F32", shape=shape, data_offsets=[start, stop])))


ABSURD_SIZES = dict(
    header=tensors(b"{}", 2**63), long=tensors(b"{}", 10**8), shape=claim([2**40, 2**40], 0, 4),
    overflow=claim([2**62, 4], 0, 0), beyond=claim([1], 2**60, 2**60+4), nested=tensors(b"["*10**6))


def save(make, **how):
    "A function that saves what `make` gives"
    return lambda path: torch.save(make(), path, **how)


def write(make): return lambda path: path.write_bytes(make())


def save_script(path): torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def checkpoints(trap):
    "name -> what writes the file: those that would run code, and those of absurd sizes"
    out = {}
    for ext in ("pth", "pt", "safetensors"):
        out[f"pickle.{ext}"] = write(lambda: pickle.dumps(Trap(trap)))
        out[f"trap.{ext}"] = save(lambda: weights(more=Trap(trap)))
        out[f"legacy.{ext}"] = save(lambda: weights(more=Trap(trap)), _use_new_zipfile_serialization=False)
    for name, raw in ABSURD_SIZES.items(): out[f"{name}.safetensors"] = write(lambda raw=raw: raw)
    return out | {
        "module.pt": save(lambda: load_model("digits_net", 10)),
        "script.pt": save_script,
        "resized.pt": save(lambda: weights(more=Sized())),
        "meta.pt": save(lambda: {k: v.to("meta") for k, v in weights().items()}),
        "complex.pt": save(lambda: {k: v.to(torch.complex64) for k, v in weights().items()}),
        "numbers.pt": save(lambda: {1: torch.zeros(1)}),
        "stretched.pt": save(lambda: dict(a=torch.zeros(1).expand(2**20, 2**20))),
        "pipe.pt": os.mkfifo,
        "names.pt": save(lambda: weights(**{"\x1b[2J\nwrnb: all is well": torch.zeros(1)}))}


# --- hostile pictures -----------------------------------------------------------------------------

def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *chunks, data=b""):
    "A PNG file that claims to have this size"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def text_bomb():
    "A PNG with 100 MB of text in a few kilobytes"
    return png(32, 32, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))), data=bytes(32*97))


def postscript(trap):
    head = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
    return f"{head}({trap}) (w) file closefile\nshowpage\n".encode()


def loop_of_folders(folder):
    for name in ("loop", "again"): link(folder/name, "..")


def rename_badly(folder): os.rename(bytes(folder/"0.png"), bytes(folder) + b"/\xff\xfe.png")


def images(trap):
    "name -> what is put into train/cat"
    def as_b(raw): return lambda folder: (folder/"b.png").write_bytes(raw())
    return {
        "60,000 x 60,000 pixels": as_b(lambda: png(60000, 60000)),
        "2^31 x 2^31 pixels": as_b(lambda: png(2**31-1, 2**31-1)),
        "100 MB of text in a PNG": as_b(text_bomb),
        "PostScript": as_b(lambda: postscript(trap)),
        "a pipe": lambda folder: os.mkfifo(folder/"b.png"),
        "an endless device": lambda folder: link(folder/"b.png", "/dev/zero"),
        "a link to itself": lambda folder: link(folder/"b.png", "b.png"),
        "folders linked in a loop": loop_of_folders,
        "a link to the root": lambda folder: link(folder/"root", "/"),
        "a name that is not UTF-8": rename_badly,
        "control characters in a name":
            lambda folder: (folder/"\x1b[2J\nwrnb: all is well.png").write_text("no picture")}


# --- hostile corrupted sets -----------------------------------------------------------------------

def arrays(folder, **changed):
    "An official CIFAR-C of few images, with something changed"
    folder.mkdir(parents=True)
    np.save(folder/"labels.npy", np.tile(np.arange(10), 5))
    for name in sum(CORRUPTIONS.values(), []): np.save(folder/f"{name}.npy", np.zeros((50, 32, 32, 3), np.uint8))
    for name, raw in changed.items(): (folder/f"{name}.npy").write_bytes(raw)


def npy(header, body=b""): return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def objects(trap):
    "An array of objects that run code"
    data = io.BytesIO()
    np.save(data, np.array([Trap(trap)]*50, object), allow_pickle=True)
    return data.getvalue()


def bad_arrays(trap):
    "name -> bytes of fog.npy"
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 32, 32, 3)}          \n"
    return {
        "object array": objects(trap), "2^60 images": npy(head % 2**60), "negative size": npy(head % -1),
        "header of code": npy(b"open('%s', 'w')\n" % str(trap).encode()),
        "nested header": npy(b"("*9000 + b")"*9000 + b"\n"), "archive": b"PK\x03\x04" + bytes(60)}


def elsewhere(folder, **options):
    "A corrupted set that wrnb seems to have made, whose config.json has names that lead outside, or other options"
    shutil.rmtree(folder, ignore_errors=True)
    arrays(folder)
    made = dict(name="digits", data="0"*16, n=10, size=[32, 32], classes=["../../outside"]*10,
                corruptions=["../../outside/precious"], preset="cifar-c", seed=0) | options
    stage = dict(options=made, started="", finished="x", **provenance())
    (folder/"config.json").write_text(json.dumps(dict(format=1, stages=dict(corrupt=stage))))


# --- hostile run folders --------------------------------------------------------------------------

def rows_of_nothing(path, groups=20):
    "A Parquet file of a few kilobytes with a million rows per group"
    one = pa.Table.from_pandas(pd.read_parquet(path).head(1), preserve_index=False)
    many = one.take(np.zeros(10**6, np.int64))
    with pq.ParquetWriter(path, many.schema) as w:
        for _ in range(groups): w.write_table(many, row_group_size=len(many))


def unfinish(run):
    "A fine-tuning that was interrupted"
    configure(run, lambda stages: stages["enhance reva"].pop("finished"))
    for name in made_by("enhance reva"): (run/name).unlink()


def checkpoint(obj):
    "Leave this in the checkpoint of an interrupted fine-tuning"
    def change(run):
        unfinish(run)
        torch.save(obj, run/"reva/checkpoint.pt")
    return change


def checkpoint_bytes(raw):
    def change(run):
        unfinish(run)
        (run/"reva/checkpoint.pt").write_bytes(raw)
    return change


def state_of(epoch, model): return dict(epoch=epoch, model=model, opt={}, log=[])


def fill_with(path, raw): path.write_bytes(raw)


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def set_up(name, value, *undone):
    "Another value in the setup of a run, after some stages are undone"
    def change(run):
        undo(run, *undone)
        configure(run, lambda stages: stages["setup"]["options"].update({name: value}))
    return change


def stage_outside(run):
    configure(run, lambda stages: stages.update({"enhance ../../outside": stages["enhance reva"]}))


def after_linking(stage, name, outside): return after(stage, name, link, outside)


def hostile_runs(outside, trap):
    "case -> (command, what is done to the run folder before); `outside` is what must stay as it is"
    code, weak, scores = pickle.dumps(Trap(trap)), "weak {run} -k 5", "scores.parquet"
    number = '{"stages": ' + "1"*100000 + "}"
    return {
        "checkpoint.pt that runs code": (REVA, checkpoint(Trap(trap))),
        "checkpoint.pt with code for weights": (REVA, checkpoint(state_of(1, Trap(trap)))),
        "checkpoint.pt, a bare pickle": (REVA, checkpoint_bytes(code)),
        "checkpoint.pt without what it needs": (REVA, checkpoint({})),
        "checkpoint.pt of another model": (REVA, checkpoint(state_of(1, {}))),
        "checkpoint.pt that claims 10^9 epochs": (REVA, checkpoint(state_of(10**9, weights()))),
        "model.safetensors that is a pickle": ("evaluate {run}", to("reva/model.safetensors", fill_with, code)),
        "base/model.safetensors that is a pickle":
            (VALIDATE, after("validate", "base/model.safetensors", fill_with, code)),
        "scores.parquet that is a pickle": (weak, after("weak", scores, fill_with, code)),
        "scores.parquet of 20 million rows": (weak, after("weak", scores, rows_of_nothing)),
        "path traversal in the ids": ("report {run}", to(scores, put, id="../../outside/precious")),
        "weak.csv with an index of 30 digits": ("report {run}", to("weak.csv", put, index=10**30)),
        "weak.csv with an index of 10^15": (VALIDATE, after("validate", "weak.csv", put, index=10**15)),
        "config.json nested 100,000 deep": ("weak {run}", to("config.json", overwrite, "["*100000)),
        "config.json with a number of 100,000 digits": ("weak {run}", to("config.json", overwrite, number)),
        "config.json that is a pipe": (weak, to("config.json", replace_by_pipe)),
        "weaknesses.json that is a pipe": ("report {run}", to("weaknesses.json", replace_by_pipe)),
        "config.json whose stage leads outside": ("evaluate {run}", stage_outside),
        "config.json with data outside": (VALIDATE, set_up("data", str(outside), "validate")),
        "config.json with a model outside": (VALIDATE, set_up("model", f"digits_net@{outside}/precious", "validate")),
        "config.json with lists for numbers": (weak, set_up("limit", [10**9], "weak")),
        "parts linked outside": (VALIDATE, after_linking("validate", "parts", outside)),
        "figures linked outside": ("report {run}", to("figures", link, outside)),
        "model folder linked outside": (REVA, after_linking("enhance reva", "reva", outside)),
        "corrupted set with classes outside": ("evaluate {run} --on {bad}/set", lambda run: None)}


SCRIPT = "<script>alert(1)</script>"
HARMLESS = {  # done, with nothing outside changed: case -> (command, what is done before, what the page must not hold)
    "a temporary file linked outside":
        ("report {run}", lambda run, outside: link(run/".report.html.part.html", outside/"precious"), "\0"),
    "a table linked outside":
        (VALIDATE, lambda run, outside: after("validate", "validation.csv", link, outside/"precious")(run), "\0"),
    "script in the names of perturbations":
        ("report {run}", lambda run, outside: rename(run/"validation.csv", "fog", SCRIPT), SCRIPT),
    "script in the names of models":
        ("report {run}", lambda run, outside: rename(run/"evaluation.csv", "reva", SCRIPT), SCRIPT),
    "script and formula in the names of classes": ("report {odd}", lambda run, outside: None, "<script>x")}
