"""What happens when things go wrong: processes killed at random moments, bad input, a full or read-only disk, hostile files.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--sections kill bad room hostile]

kill: `wrnb score`, `validate` and `enhance` are killed (SIGKILL) at moments drawn uniformly over the time an undisturbed command takes, half of
them several times, and started again until they end. Right is: the bytes of the undisturbed run (a process of its own) in every file that a stage leaves,
the same set of files, and nothing computed again that was whole before a kill.
bad: commands with bad input, each on a whole run folder or a new one. Right is: exit code 2, one line on stderr that begins with `wrnb: ` and names the file
or option, and every table in the folder as it was.
room: a small tmpfs that is full, or a folder mounted read-only. Right is: one line and exit code 2, earlier tables as they were, and with room made the bytes
of the undisturbed run. Needs the right to mount; where that is missing the cases count as not measured.
hostile: files made to run code, to write or remove elsewhere, or to take all memory or time. Right is: refused in one line (or shown escaped), nothing
executed, nothing outside changed, below 2 GB and 60 seconds.

The commands run in forks of one process that has imported everything, with one thread, so that a kill hits the work and not the imports. Everything is on
the embedded digits. About twelve minutes on one core. Writes benchmarks/faults.csv, a row a case; the table of counts comes last.
"""
import argparse, hashlib, io, json, os, pickle, shutil, signal, struct, subprocess, sys, tempfile, time, traceback, zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from fastai.learner import Learner
from wrnb.cli import main as wrnb_main
from wrnb.runs import Run, provenance
from wrnb.models import save_weights
from wrnb.pretrained import load_model

LIMIT, MEMORY = 60, 2e9  # seconds and bytes that a case may take


# --- commands in forks ------------------------------------------------------------------------------------------------

def note(path):
    "Let this process write a line to a file for every file that it puts in place, and for every epoch that it trains"
    def write(line):
        with open(path, "a") as f: f.write(f"{line}\n")
    def replace(a, b, replace=os.replace): replace(a, b); write(b)
    def epoch(learn, epoch=Learner._do_epoch_train): epoch(learn); write(f"epoch {learn.epoch}")
    os.replace, Learner._do_epoch_train = replace, epoch


def begin(argv, talk, replaced=None):
    "Start a command in a fork: stderr goes to the file `talk`, what it has done to `replaced`"
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        for fd, path in ((1, os.devnull), (2, talk)): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False, errors="backslashreplace") for fd in (1, 2))
        if replaced: note(replaced)
        try: code = wrnb_main([str(a) for a in argv])
        except SystemExit as e: code = e.code
        except BaseException: traceback.print_exc()
        sys.stderr.flush()
    finally: os._exit(code)


def end(pid, seconds):
    "Wait for a fork, kill it after so many seconds; returns (exit code, -9 where it was killed, largest memory in bytes)"
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        got, status, usage = os.wait4(pid, os.WNOHANG)
        if got: return os.waitstatus_to_exitcode(status), usage.ru_maxrss*1024
        time.sleep(.0005)
    with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss*1024


class Desk:
    "Where the cases are worked on, and the rows they leave"
    def __init__(self, home, seed):
        self.home, self.rows, self.hits, self.rng = home, [], [], np.random.default_rng(seed)
        self.run, self.new, self.bad = home/"run", home/"new", home/"bad"

    def row(self, section, case, expected, seen, ok):
        seen = " ".join(seen.replace(str(self.home), "...").split())[:300]
        self.rows.append(dict(section=section, case=case, expected=expected, seen=seen, ok=ok))
        print(f"{'' if ok is None else 'ok   ' if ok else 'WRONG'} {section}: {case}{'' if ok else ' | ' + seen}", flush=True)

    def ask(self, *argv):
        "Run a command; returns what is wrong with how it refused (nothing, where it did in one line), and what it said"
        code, memory = end(begin(argv, self.home/"talk"), LIMIT); text = (self.home/"talk").read_text(errors="backslashreplace")
        wrong = [w for w, is_so in {f"took {LIMIT} s": code == -9, f"exit code {code}": code not in (2, -9), f"{memory/1e9:.1f} GB": memory > MEMORY,
                                    f"{text.count(chr(10))} lines": text.count("\n") != 1, "no wrnb: line": not text.startswith("wrnb: ")}.items() if is_so]
        return wrong, text

    def copy(self):
        "A fresh copy of the whole run folder"
        for p in (self.run, self.new): shutil.rmtree(p, ignore_errors=True)
        return Path(shutil.copytree(self.home/"base", self.run, symlinks=True))


def files(run):
    "Everything that a stage leaves as its result, as hashes"
    return {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.rglob("*"))
            if p.is_file() and (p.suffix in (".csv", ".parquet", ".safetensors") or p.name == "weaknesses.json") and "parts" not in p.parts}


def listing(run): return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.relative_to(run).as_posix() != "parts")


def whole(path, *argv):
    "An undisturbed command, as a process of its own"
    done = subprocess.run([sys.executable, "-m", "wrnb.cli", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def undo(run, *stages):
    "Forget stages and remove what they left"
    made = dict(score=["scores.parquet"], weak=["weak.csv"], validate=["validation.csv", "weaknesses.json"], evaluate=["evaluation.csv"])
    config = json.loads((run/"config.json").read_text())
    for stage in stages:
        config["stages"].pop(stage, None)
        for f in made.get(stage, [f"{stage.split()[-1]}/{n}" for n in ("log.csv", "model.safetensors")]): (run/f).unlink(missing_ok=True)
    (run/"config.json").write_text(json.dumps(config, indent=2) + "\n")


def configure(run, change):
    "Let `change` alter the stages in config.json"
    config = json.loads((run/"config.json").read_text()); change(config["stages"])
    (run/"config.json").write_text(json.dumps(config))


# --- killed -----------------------------------------------------------------------------------------------------------

EPOCHS = 6
SETUP = ["--limit", "400", "--test-limit", "60"]
MEASURE = ["--severities", "1", "3", "5", "--attacks", "fgsm", "pgd", "--attack-eps", "8"]
TRAIN = ["--epochs", str(EPOCHS)]
SCORE = ["score", "digits", *SETUP, "--n-neighbors", "120", "--out"]
COMMANDS = {"score": (SCORE, []), "validate": (["validate"], MEASURE), "enhance reva": (["enhance"], ["--strategy", "reva", *TRAIN]),
            "evaluate": (["evaluate"], MEASURE)}


def command(stage, run):
    first, last = COMMANDS[stage]
    return [*first, run, *last]


def kept(run, stage):
    "Finished parts of a stage, and epochs of a training"
    checkpoint = run/stage.split()[-1]/"checkpoint.pt"; epochs = torch.load(checkpoint, weights_only=True)["epoch"] if checkpoint.is_file() else 0
    return {str(p) for p in (run/"parts"/stage).glob("[!.]*.parquet")} | {f"epoch {e}" for e in range(epochs)}


def moment(run, stage):
    "Where a kill hit"
    told = json.loads((run/"config.json").read_text())["stages"].get(stage, {}) if (run/"config.json").is_file() else {}
    return "after" if told.get("finished") else "in" if told else "before"


def struck(desk, stage, run, seconds):
    "Kill a command, start it again, kill it perhaps again; returns where the kills hit, and what was computed again"
    hits, redone, log = [], [], desk.home/"replaced"
    while True:
        there = kept(run, stage); log.write_text("")
        again = not hits or len(hits) < 5 and desk.rng.random() < .5
        code, _ = end(begin(command(stage, run), desk.home/"talk", log), desk.rng.uniform(0, seconds) if again else 10*LIMIT)
        redone += sorted(there & set(log.read_text().splitlines()))
        if code == 0 and not hits: return struck(desk, stage, undone(desk, stage), seconds)  # it was faster than the moment drawn
        if code == 0: desk.hits += hits; return hits, redone
        assert code == -signal.SIGKILL, (desk.home/"talk").read_text()
        hits.append(moment(run, stage))


def undone(desk, stage):
    run = desk.copy(); undo(run, stage); shutil.rmtree(run/"parts", ignore_errors=True)
    if stage == "score": shutil.rmtree(run); shutil.copytree(desk.home/"base"/"base", run/"base")  # the first stage, in a folder that is new but for the model
    return run


def kills(desk, n):
    for stage in ("score", "validate", "enhance reva"):
        run = undone(desk, stage); start = time.monotonic(); code, _ = end(begin(command(stage, run), desk.home/"talk"), 10*LIMIT)
        seconds = time.monotonic() - start; assert code == 0, (desk.home/"talk").read_text()
        want, there = files(run), listing(run)
        real = files(desk.home/"base"); same = {f: h for f, h in real.items() if f in want} == want
        desk.row(f"kill {stage.split()[0]}", "undisturbed, forked", "the bytes of a process of its own", "the same" if same else "others", same)
        for i in range(n):
            hits, redone = struck(desk, stage, run := undone(desk, stage), seconds)
            got, left = files(run), sorted(set(listing(run)) ^ set(there))
            seen = [f"killed {len(hits)} times ({', '.join(hits)})", "same bytes" if got == want else "other bytes", f"computed again: {', '.join(redone) or 'nothing'}", f"left: {', '.join(left) or 'nothing'}"]
            desk.row(f"kill {stage.split()[0]}", f"run {i+1} of {n}", f"same bytes, nothing computed again, nothing left ({seconds:.1f} s undisturbed)", "; ".join(seen), got == want and not redone and not left)


# --- bad input --------------------------------------------------------------------------------------------------------

def pictures(folder, n=3, classes=("cat", "dog"), splits=("train", "test")):
    rng = np.random.default_rng(0)
    for s in splits:
        for c in classes:
            (folder/s/c).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder/s/c/f"{i}.png")
    return folder


def cut(path, n=200): path.write_bytes(path.read_bytes()[:-n])


def flip(path):
    "Damage a file in its middle"
    raw = bytearray(path.read_bytes()); raw[len(raw)//2] ^= 255; path.write_bytes(raw)


def put(path, **columns):
    "Other values in the first row of a table"
    df = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    for c, v in columns.items(): df[c] = [v, *df[c].tolist()[1:]]
    df.to_parquet(path, index=False) if path.suffix == ".parquet" else df.to_csv(path, index=False)


def make_bad(d):
    "Data and checkpoints that are not as they should be"
    torch.manual_seed(0)
    for classes, name in ((10, "ten"), (100, "hundred"), (2, "two")): save_weights(load_model("digits_net", classes), d/f"{name}.safetensors")
    net = load_model("digits_net", 10)
    for p in net.parameters(): p.data.fill_(float("nan"))
    save_weights(net, d/"nan.safetensors"); shutil.copy(d/"ten.safetensors", d/"cut.safetensors"); cut(d/"cut.safetensors"); (d/"file").write_text("")
    for name in ("good", "empty", "cut", "zero", "text", "other", "gone"): pictures(d/name)
    pictures(d/"no_test", splits=("train",)); (d/"empty/train/fish").mkdir(); cut(d/"cut/train/dog/1.png"); (d/"zero/train/dog/1.png").write_bytes(b"")
    (d/"text/test/cat/2.png").write_text("no picture"); (d/"other/test/dog").rename(d/"other/test/wolf")
    (d/"gone/train/cat/0.png").unlink(); (d/"gone/train/cat/0.png").symlink_to(d/"nowhere.png")


NEW = "score digits --model digits_net@{bad}/ten.safetensors --out {new} --limit 20 --test-limit 20 --n-neighbors 2"
MODEL = "score digits --model %s --out {new} --limit 20 --test-limit 20"
FOLDER = "score {bad}/%s --model digits_net@{bad}/two.safetensors --out {new}"
SCORED = "score digits --limit 400 --test-limit 60 --n-neighbors 120 --out {run}"
VALIDATE, REVA = "validate {run} " + " ".join(MEASURE), "enhance {run} --strategy reva " + " ".join(TRAIN)
BAD = {  # what is bad: (command, what the line names, what is done to the run folder before)
    "no such data": ("score cifar11 --model resnet20 --out {new}", "cifar11"), "truncated image": (FOLDER % "cut", "cut/train/dog/1.png"), "empty image file": (FOLDER % "zero", "zero/train/dog/1.png"),
    "text for an image": (FOLDER % "text", "text/test/cat/2.png"), "missing image": (FOLDER % "gone", "gone/train/cat/0.png"), "no test folder": (FOLDER % "no_test", "no_test has no test/"),
    "empty class folder": (FOLDER % "empty", "empty/train/fish"), "unknown class": (FOLDER % "other", "other/test/wolf"), "size 0": (FOLDER % "good" + " --size 0", "size=0"),
    "unknown model": (MODEL % "resnet21", "resnet21"), "missing checkpoint": (MODEL % "digits_net@{bad}/nothing.pt", "nothing.pt"), "truncated checkpoint": (MODEL % "digits_net@{bad}/cut.safetensors", "cut.safetensors"),
    "checkpoint of another network": (MODEL % "resnet20@{bad}/ten.safetensors", "ten.safetensors"), "wrong number of outputs": (MODEL % "digits_net@{bad}/hundred.safetensors", "100 outputs"),
    "NaN weights": (MODEL % "digits_net@{bad}/nan.safetensors", "NaN"), "eps 0": (NEW + " --eps 0", "eps=0"), "eps -1": (NEW + " --eps -1", "eps=-1"), "eps 2": (NEW + " --eps 2", "eps=2"), "eps nan": (NEW + " --eps nan", "eps=nan"),
    "no neighbours": (NEW + " --n-neighbors 0", "neighbors=0"), "unknown noise": (NEW + " --noise salt", "salt"), "unknown precision": (NEW + " --precision fp64", "fp64"), "batch size 0": (NEW + " --batch-size 0", "batch_size=0"),
    "workers -1": (NEW + " --workers -1", "workers=-1"), "unknown device": (NEW + " --device abacus", "abacus"), "limit 0": (NEW + " --limit 0", "limit=0"), "negative seed": (NEW + " --seed -1", "seed=-1"),
    "top-k 0": (NEW + " --top-k 0", "top"), "top-k above the set": (NEW + " --top-k 21", "top"), "certificate of uniform noise": (NEW + " --certify", "certify"), "out is a file": (NEW.replace("{new}", "{bad}/file"), "bad/file"),
    "k above the set": ("weak {run} -k 9999", "k=9999"), "severity 6": ("validate {run} --severities 6", "severity=6"), "unknown family": ("validate {run} --families sound", "sound"), "unknown attack": ("validate {run} --attacks fgms", "fgms"),
    "unknown rule": (VALIDATE + " --rule feeling", "feeling"), "attack eps nan": ("validate {run} --attack-eps nan", "eps=nan"), "unknown strategy": ("enhance {run} --strategy luck", "luck"), "unknown protocol": ("enhance {run} --strategy reva --protocol mine", "mine"),
    "guide eps -1": ("enhance {run} --strategy adversarial --guide-eps -1", "guide_eps=-1"), "no such corruption": ("corrupt digits --out {new} --corruptions rain", "rain"), "no corrupted set": ("evaluate {run} --on {bad}/good", "bad/good"),
    "folder of other data": ("score cifar10 --model digits_net --limit 400 --test-limit 60 --out {run}", "setup data"), "folder of another model": (SCORED + " --model resnet20", "setup model"), "folder of another seed": (SCORED + " --seed 1", "setup seed"),
    "folder of another eps": (SCORED + " --eps .2", "score eps"), "damaged config.json": ("weak {run}", "config.json", lambda r: flip(r/"config.json")), "config.json of another kind": ("weak {run}", "config.json", lambda r: (r/"config.json").write_text("[]")),
    "truncated scores.parquet": ("weak {run} -k 5", "scores.parquet", lambda r: (undo(r, "weak"), cut(r/"scores.parquet"))), "damaged scores.parquet": ("weak {run} -k 5", "scores.parquet", lambda r: (undo(r, "weak"), flip(r/"scores.parquet"))),
    "score above 1": ("weak {run} -k 5", "scores.parquet", lambda r: (undo(r, "weak"), put(r/"scores.parquet", score=7.))), "scores of other images": ("report {run}", "scores.parquet", lambda r: put(r/"scores.parquet", id="another")),
    "weak.csv with text for a number": (VALIDATE, "weak.csv", lambda r: (undo(r, "validate"), put(r/"weak.csv", index="seven"))), "weak.csv with an image outside": (VALIDATE, "weak.csv", lambda r: (undo(r, "validate"), put(r/"weak.csv", index=400))),
    "weak.csv with a negative index": ("report {run}", "weak.csv", lambda r: put(r/"weak.csv", index=-1)), "truncated validation.csv": (REVA, "validation.csv", lambda r: (undo(r, "enhance reva"), cut(r/"validation.csv", 9))),
    "validation.csv without rows": ("report {run}", "validation.csv", lambda r: (r/"validation.csv").write_text((r/"validation.csv").read_text().splitlines()[0] + "\n")), "damaged weaknesses.json": (REVA, "weaknesses.json", lambda r: (undo(r, "enhance reva"), cut(r/"weaknesses.json", 5))),
    "damaged model": ("evaluate {run}", "reva/model.safetensors", lambda r: cut(r/"reva/model.safetensors")), "table without its columns": ("report {run}", "evaluation.csv", lambda r: (r/"evaluation.csv").write_text("a,b\n1,2\n")),
}


def bad_input(desk):
    for case, (words, says, *damage) in BAD.items():
        run = desk.copy()
        for f in damage: f(run)
        before = files(run); wrong, text = desk.ask(*(w.format(run=run, new=desk.new, bad=desk.bad) for w in words.split()))
        wrong += [f"does not name {says}"]*(says not in text) + ["changed tables"]*(files(run) != before or desk.new.is_dir() and bool(files(desk.new)))
        desk.row("bad input", case, f"one line that names {says}, exit code 2, tables unchanged", f"{', '.join(wrong)}: {text[-200:]}" if wrong else text, not wrong)


# --- no room ----------------------------------------------------------------------------------------------------------

def mount(*argv): return subprocess.run(["mount", *map(str, argv)], capture_output=True, text=True) if shutil.which("mount") else None


@contextmanager
def mounted(*argv):
    "A mount for a while; gives what is in the way where there is something"
    done = mount(*argv)
    try: yield "no mount command" if done is None else done.stderr.strip() if done.returncode else ""
    finally:
        if done and not done.returncode: subprocess.run(["umount", argv[-1]], check=True)


def fill(place, room):
    "Leave only so many bytes free"
    free = os.statvfs(place); (place/"ballast").write_bytes(bytes(max(0, free.f_bavail*free.f_bsize - room)))


PAGES = {"score": 7, "validate": 40, "enhance reva": 50, "evaluate": 40}  # of 4 KiB: less than each stage needs


def no_room(desk):
    want, disk = files(desk.home/"base"), desk.home/"disk"; disk.mkdir()
    for stage in COMMANDS:
        for room in (0, *sorted(4096*desk.rng.choice(np.arange(1, PAGES[stage]), 3, replace=False))):
            with mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", disk) as hindrance:
                case, run = f"{stage.split()[0]} with {room//1024} KiB left", disk/"run"
                if hindrance: desk.row("no room", case, "", f"not measured: {hindrance}", None); continue
                shutil.copytree(undone(desk, stage), run); before = files(run); fill(disk, room)
                wrong, text = desk.ask(*command(stage, run))
                wrong += ["tables lost"]*any(files(run).get(f) != h for f, h in before.items()) + ["does not name the folder"]*(str(run) not in text)
                (disk/"ballast").unlink(); code, _ = end(begin(command(stage, run), desk.home/"talk"), LIMIT); got = files(run)
                wrong += ["did not go on"]*(code != 0) + ["other bytes"]*any(want[f] != h for f, h in got.items())
                desk.row("no room", case, "one line, exit code 2, earlier tables unchanged; with room the bytes of the undisturbed run", f"{', '.join(wrong)}: {text}" if wrong else text, not wrong)


def read_only(desk):
    disk = desk.home/"still"; disk.mkdir()
    for stage in (*COMMANDS, "report"):
        run, words = (desk.copy(), ["report"]) if stage == "report" else (undone(desk, stage), None)
        (run/"report.html").unlink(missing_ok=True); before = files(run)
        with mounted("--bind", run, disk) as hindrance:
            hindrance = hindrance or (mount("-o", "remount,ro,bind", disk).stderr.strip())
            if hindrance: desk.row("read-only", stage, "", f"not measured: {hindrance}", None); continue
            wrong, text = desk.ask(*([*words, disk] if words else command(stage, disk)))
            wrong += ["tables changed"]*(files(run) != before) + ["does not name the folder"]*(str(disk) not in text)
            desk.row("read-only", stage.split()[0], "one line, exit code 2, tables unchanged", f"{', '.join(wrong)}: {text}" if wrong else text, not wrong)


# --- hostile ----------------------------------------------------------------------------------------------------------

class Trap:
    "Unpickled, it makes a file"
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, "w")


def png(width, height, *chunks, data=b""):
    "A PNG file that claims to be so large"
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tensors(header, size=None):
    "A safetensors file with this header, or one that claims to be so long"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(64)


def rows_of_nothing(path, groups=20):
    "A Parquet file of a few kilobytes with so many million rows"
    import pyarrow as pa, pyarrow.parquet as pq
    many = pa.Table.from_pandas(pd.read_parquet(path).head(1), preserve_index=False).take(np.zeros(10**6, np.int64))
    with pq.ParquetWriter(path, many.schema) as w:
        for _ in range(groups): w.write_table(many, row_group_size=len(many))


def unfinished(run, obj=None, raw=None):
    "A fine-tuning that was cut off, with this for its checkpoint"
    configure(run, lambda s: s["enhance reva"].pop("finished"))
    for f in ("log.csv", "model.safetensors"): (run/"reva"/f).unlink()
    (run/"reva/checkpoint.pt").write_bytes(raw) if raw is not None else torch.save(obj, run/"reva/checkpoint.pt")


def link(path, to):
    "A link in the place of a file or folder"
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    path.unlink(missing_ok=True); path.parent.mkdir(exist_ok=True, parents=True); path.symlink_to(to)


def weights(): return load_model("digits_net", 10).state_dict()


def resized():
    "Unpickled, a tensor of 64 GB on a storage of 4 bytes"
    class Sized:
        def __reduce__(self): return torch._utils._rebuild_tensor_v2, (torch.storage.TypedStorage(wrap_storage=torch.zeros(1).untyped_storage(), dtype=torch.float32, _internal=True), 0, (2**34,), (1,), False, {})
    return dict(weights(), more=Sized())


def checkpoints(trap):
    "name -> what writes the file: those that would run code, and those of absurd sizes"
    out = {}
    for e in ("pth", "pt", "safetensors"):
        out[f"pickle.{e}"] = lambda p: p.write_bytes(pickle.dumps(Trap(trap)))
        out[f"trap.{e}"] = lambda p: torch.save(dict(weights(), more=Trap(trap)), p)
        out[f"legacy.{e}"] = lambda p: torch.save(dict(weights(), more=Trap(trap)), p, _use_new_zipfile_serialization=False)
    sizes = dict(header=tensors(b"{}", 2**63), long=tensors(b"{}", 10**8), shape=tensors(dict(a=dict(dtype="F32", shape=[2**40, 2**40], data_offsets=[0, 4]))),
                 overflow=tensors(dict(a=dict(dtype="F32", shape=[2**62, 4], data_offsets=[0, 0]))), beyond=tensors(dict(a=dict(dtype="F32", shape=[1], data_offsets=[2**60, 2**60+4]))), nested=tensors(b"["*10**6))
    for name, raw in sizes.items(): out[f"{name}.safetensors"] = lambda p, raw=raw: p.write_bytes(raw)
    return out | {"module.pt": lambda p: torch.save(load_model("digits_net", 10), p), "script.pt": lambda p: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), p), "resized.pt": lambda p: torch.save(resized(), p),
                  "meta.pt": lambda p: torch.save({k: v.to("meta") for k, v in weights().items()}, p), "complex.pt": lambda p: torch.save({k: v.to(torch.complex64) for k, v in weights().items()}, p),
                  "numbers.pt": lambda p: torch.save({1: torch.zeros(1)}, p), "stretched.pt": lambda p: torch.save(dict(a=torch.zeros(1).expand(2**20, 2**20)), p), "pipe.pt": os.mkfifo,
                  "names.pt": lambda p: torch.save(dict(weights(), **{"\x1b[2J\nwrnb: all is well": torch.zeros(1)}), p)}


def arrays(folder, **changed):
    "An official CIFAR-C of few images, with something changed"
    from wrnb.corruptions import CORRUPTIONS
    folder.mkdir(parents=True); np.save(folder/"labels.npy", np.tile(np.arange(10), 5))
    for name in sum(CORRUPTIONS.values(), []): np.save(folder/f"{name}.npy", np.zeros((50, 32, 32, 3), np.uint8))
    for name, raw in changed.items(): (folder/f"{name}.npy").write_bytes(raw)


def npy(header, body=b""): return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def objects(trap):
    data = io.BytesIO(); np.save(data, np.array([Trap(trap)]*50, object), allow_pickle=True); return data.getvalue()


def images(trap):
    "name -> what is put into train/cat"
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    return {"60,000 x 60,000 pixels": lambda d: (d/"b.png").write_bytes(png(60000, 60000)), "2^31 x 2^31 pixels": lambda d: (d/"b.png").write_bytes(png(2**31-1, 2**31-1)), "100 MB of text in a PNG": lambda d: (d/"b.png").write_bytes(png(32, 32, text, data=bytes(32*97))),
            "PostScript": lambda d: (d/"b.png").write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n({trap}) (w) file closefile\nshowpage\n"), "a pipe": lambda d: os.mkfifo(d/"b.png"), "an endless device": lambda d: link(d/"b.png", "/dev/zero"),
            "a link to itself": lambda d: link(d/"b.png", "b.png"), "folders linked in a loop": lambda d: (link(d/"loop", ".."), link(d/"again", "..")), "a link to the root": lambda d: link(d/"root", "/"),
            "a name that is not UTF-8": lambda d: os.rename(bytes(d/"0.png"), bytes(d) + b"/\xff\xfe.png"), "control characters in a name": lambda d: (d/"\x1b[2J\nwrnb: all is well.png").write_text("no picture")}


def bad_arrays(trap):
    "name -> bytes of fog.npy"
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 32, 32, 3)}          \n"
    return {"object array": objects(trap), "2^60 images": npy(head % 2**60), "negative size": npy(head % -1), "header of code": npy(b"open('%s', 'w')\n" % str(trap).encode()),
            "nested header": npy(b"("*9000 + b")"*9000 + b"\n"), "archive": b"PK\x03\x04" + bytes(60)}


def rename(path, old, new): path.write_text(path.read_text().replace(old, new))


def hostile_files(desk, trap):
    "Yield (case, command): checkpoints, images, corrupted sets"
    for name, write in checkpoints(trap).items():
        p = desk.bad/name; write(p); yield f"checkpoint {name}", MODEL % f"digits_net@{p}"
    for name, put_in in images(trap).items():
        d = desk.bad/"images"; shutil.rmtree(d, ignore_errors=True); pictures(d); put_in(d/"train/cat"); yield f"images: {name}", FOLDER % "images"
    for name, raw in bad_arrays(trap).items():
        d = desk.bad/"set"; shutil.rmtree(d, ignore_errors=True); arrays(d, fog=raw); yield f"corrupted set: {name}", f"evaluate {{run}} --on {d}"


def elsewhere(folder, **told):
    "A corrupted set that wrnb seems to have made, told in its config.json with names that lead outside, or otherwise"
    shutil.rmtree(folder, ignore_errors=True); arrays(folder)
    made = dict(name="digits", data="0"*16, n=10, size=[32, 32], classes=["../../outside"]*10, corruptions=["../../outside/precious"], preset="cifar-c", seed=0) | told
    (folder/"config.json").write_text(json.dumps(dict(format=1, stages=dict(corrupt=dict(options=made, started="", finished="x", **provenance())))))


def hostile_runs(outside, trap):
    "case -> (command, what is done to the run folder before); {outside} is what must stay as it is"
    state, value = weights(), lambda k, v: lambda r: configure(r, lambda s: s["setup"]["options"].update({k: v}))
    def checkpoint(obj): return lambda r: unfinished(r, obj)
    return {
        "checkpoint.pt that runs code": (REVA, checkpoint(Trap(trap))), "checkpoint.pt with code for weights": (REVA, checkpoint(dict(epoch=1, model=Trap(trap), opt={}, log=[]))), "checkpoint.pt, a bare pickle": (REVA, lambda r: unfinished(r, raw=pickle.dumps(Trap(trap)))),
        "checkpoint.pt without what it needs": (REVA, checkpoint({})), "checkpoint.pt of another model": (REVA, checkpoint(dict(epoch=1, model={}, opt={}, log=[]))), "checkpoint.pt that claims 10^9 epochs": (REVA, checkpoint(dict(epoch=10**9, model=state, opt={}, log=[]))),
        "model.safetensors that is a pickle": ("evaluate {run}", lambda r: (r/"reva/model.safetensors").write_bytes(pickle.dumps(Trap(trap)))), "base/model.safetensors that is a pickle": (VALIDATE, lambda r: (undo(r, "validate"), (r/"base/model.safetensors").write_bytes(pickle.dumps(Trap(trap))))),
        "scores.parquet that is a pickle": ("weak {run} -k 5", lambda r: (undo(r, "weak"), (r/"scores.parquet").write_bytes(pickle.dumps(Trap(trap))))), "scores.parquet of 20 million rows": ("weak {run} -k 5", lambda r: (undo(r, "weak"), rows_of_nothing(r/"scores.parquet"))),
        "path traversal in the ids": ("report {run}", lambda r: put(r/"scores.parquet", id="../../outside/precious")), "weak.csv with an index of 30 digits": ("report {run}", lambda r: put(r/"weak.csv", index=10**30)), "weak.csv with an index of 10^15": (VALIDATE, lambda r: (undo(r, "validate"), put(r/"weak.csv", index=10**15))),
        "config.json nested 100,000 deep": ("weak {run}", lambda r: (r/"config.json").write_text("["*100000)), "config.json with a number of 100,000 digits": ("weak {run}", lambda r: (r/"config.json").write_text('{"stages": ' + "1"*100000 + "}")),
        "config.json that is a pipe": ("weak {run} -k 5", lambda r: ((r/"config.json").unlink(), os.mkfifo(r/"config.json"))), "weaknesses.json that is a pipe": ("report {run}", lambda r: ((r/"weaknesses.json").unlink(), os.mkfifo(r/"weaknesses.json"))),
        "config.json whose stage leads outside": ("evaluate {run}", lambda r: configure(r, lambda s: s.update({"enhance ../../outside": s["enhance reva"]}))), "config.json with data outside": (VALIDATE, lambda r: (undo(r, "validate"), value("data", str(outside))(r))),
        "config.json with a model outside": (VALIDATE, lambda r: (undo(r, "validate"), value("model", f"digits_net@{outside}/precious")(r))), "config.json with lists for numbers": ("weak {run} -k 5", lambda r: (undo(r, "weak"), value("limit", [10**9])(r))),
        "parts linked outside": (VALIDATE, lambda r: (undo(r, "validate"), link(r/"parts", outside))), "figures linked outside": ("report {run}", lambda r: link(r/"figures", outside)), "model folder linked outside": (REVA, lambda r: (undo(r, "enhance reva"), link(r/"reva", outside))),
        "corrupted set with classes outside": ("evaluate {run} --on {bad}/set", lambda r: None)}


HARMLESS = {  # done, with nothing outside changed: case -> (command, what is done before, what report.html must not hold)
    "a temporary file linked outside": ("report {run}", lambda r, o: link(r/".report.html.part.html", o/"precious"), "\0"),
    "a table linked outside": (VALIDATE, lambda r, o: (undo(r, "validate"), link(r/"validation.csv", o/"precious")), "\0"),
    "script in the names of perturbations": ("report {run}", lambda r, o: rename(r/"validation.csv", "fog", "<script>alert(1)</script>"), "<script"),
    "script in the names of models": ("report {run}", lambda r, o: rename(r/"evaluation.csv", "reva", "<script>alert(1)</script>"), "<script"),
    "script and formula in the names of classes": ("report {odd}", lambda r, o: None, "<script")}


def hostile(desk):
    outside, trap = desk.home/"outside", desk.home/"executed"; (outside/"validate").mkdir(parents=True)
    for f in ("precious", "validate/precious", "reva.csv"): (outside/f).write_text("precious")
    safe = lambda: [] + ["EXECUTED"]*trap.exists() + ["changed outside"]*(sorted(p.read_text() for p in outside.rglob("*") if p.is_file()) != ["precious"]*3 or len(list(outside.rglob("*"))) != 4)
    def refused(case, words):
        wrong, text = desk.ask(*(w.format(run=desk.run, new=desk.new, bad=desk.bad) for w in words.split())); wrong += safe()
        desk.row("hostile", case, "refused in one line, nothing executed, nothing outside changed", f"{', '.join(wrong)}: {text[-200:]}" if wrong else text, not wrong)
    for case, words in hostile_files(desk, trap): desk.copy(); refused(case, words)
    elsewhere(desk.bad/"set")
    for case, (words, damage) in hostile_runs(outside, trap).items(): damage(desk.copy()); refused(case, words)
    odd = {s: pictures(desk.home/"odd", 6, ("$\\frac{$ <script>x", "dog"), (s,)) for s in ("train", "test")}["test"]
    words = f"run {{odd}} --model digits_net --out {desk.home}/oddrun --n-neighbors 2 -k 2 --severities 1 --attacks fgsm --attack-eps 8 --base-epochs 4 --epochs 1 --strategies standard"
    end(begin([w.format(odd=odd) for w in words.split()], desk.home/"talk"), LIMIT)
    for case, (words, damage, never) in HARMLESS.items():
        run = desk.copy(); damage(run, outside); (run/"report.html").unlink(missing_ok=True)
        folder = desk.home/"oddrun" if "{odd}" in words else run
        code, _ = end(begin([w.format(run=run, odd=folder) for w in words.split()], desk.home/"talk"), LIMIT); text = (desk.home/"talk").read_text()
        page = (folder/"report.html").read_text() if (folder/"report.html").is_file() else "" if "report" not in words else never
        wrong = safe() + [f"exit code {code}"]*(code not in (0, 2)) + [f"{never} in the page"]*(never in page)
        desk.row("hostile", case, "done or refused, nothing outside changed, names escaped", f"{', '.join(wrong)}: {text[-200:]}" if wrong else "as expected", not wrong)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=20); p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sections", nargs="+", default=["kill", "bad", "room", "hostile"], choices=["kill", "bad", "room", "hostile"])
    a = p.parse_args(); os.environ["OMP_NUM_THREADS"] = "1"; torch.set_num_threads(1)
    import fastai.vision.all, sklearn.datasets, wrnb.all  # noqa: F401 (once, before the forks)
    home = Path(tempfile.mkdtemp(prefix="faults")); desk = Desk(home, a.seed); desk.bad.mkdir(); make_bad(desk.bad); start = time.monotonic()
    try:
        whole(home/"base", "run", "digits", "--out", home/"base", *SETUP, "--n-neighbors", "120", "-k", "20", *MEASURE, *TRAIN, "--base-epochs", "10", "--strategies", "reva")
        for section, do in dict(kill=lambda: kills(desk, a.kills), bad=lambda: bad_input(desk), room=lambda: (no_room(desk), read_only(desk)), hostile=lambda: hostile(desk)).items():
            if section in a.sections: do()
    finally: shutil.rmtree(home, ignore_errors=True)
    df, info = pd.DataFrame(desk.rows), provenance()
    df = df.assign(n=df.groupby("section").section.transform("size"), seed=a.seed, device=info["device"], threads=info["threads"], commit=info["commit"])
    df.to_csv(Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n")
    counts = df.assign(measured=df.ok.notna(), ok=df.ok.eq(True)).groupby("section", sort=False)[["measured", "ok"]].sum().rename(columns=dict(ok="as expected"))
    hits = {w: desk.hits.count(w) for w in ("before", "in", "after")}
    print(f"\n{time.monotonic()-start:.0f} s, seed {a.seed}, commit {info['commit']}; {len(desk.hits)} kills: {', '.join(f'{n} {w} the stage' for w, n in hits.items())}\n{counts.to_string()}")


if __name__ == "__main__": main()
