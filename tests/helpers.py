"""What several test files do: start, strike and refuse commands, hash what they leave, write pictures, find data"""
import hashlib, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from wrnb.cli import main

ROOT = Path(__file__).resolve().parent.parent
ENV = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
SETUP = ["--limit", "200", "--test-limit", "60"]  # a part of the digits

CHECKPOINT = Path(os.environ.get("WRNB_RESNET20") or "none").absolute()
DATA = Path(os.environ.get("FASTAI_HOME", "~/.fastai")).expanduser()/"data"
CIFAR10, CIFAR100, IMAGENETTE = DATA/"cifar10", DATA/"cifar100-sample", DATA/"imagenette-sample"
MODELS = Path(os.environ.get("WRNB_MODELS") or "none").absolute()
needs_checkpoint = pytest.mark.skipif(not CHECKPOINT.is_file(), reason="WRNB_RESNET20 names no checkpoint")
needs_cifar10 = pytest.mark.skipif(not (CIFAR10/"test").is_dir(), reason="CIFAR-10 is not in fastai's data folder")
needs_imagenette = pytest.mark.skipif(
    not (IMAGENETTE/"val").is_dir(), reason="the sample of Imagenette is not in fastai's data folder")


def some(n):
    "Hypothesis settings: always the same `n` examples"
    return settings(max_examples=n, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


# --- commands -------------------------------------------------------------------------------------

def start(*argv):
    "A command in a process group of its own, which minds Ctrl-C even if the tests were started in the background"
    command = [sys.executable, "-m", "wrnb.cli", *map(str, argv)]
    mind_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True, preexec_fn=mind_ctrl_c)


def run_command(*argv):
    "Run a command to its end; returns what it printed"
    process = start(*argv)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == ""
    return out


def strike(sig, ready, *argv):
    "Start a command, send its group a signal as soon as `ready()`, and return the process when it is gone"
    process, end = start(*argv), time.monotonic() + 300
    while not ready():
        assert process.poll() is None, f"it ended before it could be struck: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(.005)
    os.killpg(process.pid, sig)
    process.out, process.err = process.communicate(timeout=60)
    return process


def has_parts(folder, n):
    "Asks whether a folder has n finished parts"
    return lambda: len(list(folder.glob("[!.]*.parquet"))) >= n


def complaint(capsys, *argv):
    "The one line of a command that refuses"
    capsys.readouterr()
    try: code = main([str(a) for a in argv])
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2, (code, err)
    assert err.startswith("wrnb: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
    return err


# --- what is left ---------------------------------------------------------------------------------

def hashes(folder, keep=lambda path: True):
    "Files of a folder by name, as hashes (a failed comparison of megabytes takes minutes to print)"
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and keep(p)]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def tables(run):
    "Everything that a stage leaves as its result, as hashes"
    return hashes(run, lambda p: p.suffix in (".csv", ".parquet", ".safetensors") or p.name == "weaknesses.json")


def same_bytes(name, *folders):
    "Does a file have the same bytes in all these folders?"
    return len({(folder/name).read_bytes() for folder in folders}) == 1


# --- pictures -------------------------------------------------------------------------------------

def pictures(folder, n=3, classes=("cat", "dog"), splits=("train", "test")):
    "A folder of small grey pictures, saved as RGB"
    rng = np.random.default_rng(0)
    for split in splits:
        for c in classes:
            (folder/split/c).mkdir(parents=True)
            for i in range(n):
                grey = Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8))
                grey.convert("RGB").save(folder/split/c/f"{i}.png")
    return folder


def spoil(path, n=200):
    "Overwrite the end of a file; returns what mends it, with the size and the times that are part of a set's identity"
    whole, times = path.read_bytes(), path.stat()
    def put(raw):
        path.write_bytes(raw)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    put(whole[:-n] + b"\xff"*n)  # zeros can be read as a picture
    return lambda: put(whole)


def save_again(path):
    "A whole picture in place of a broken one: a file of another size and another time"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)


def cut(path, n=200):
    "Cut the end of a file off, as a download that broke"
    path.write_bytes(path.read_bytes()[:-n])
    return path
