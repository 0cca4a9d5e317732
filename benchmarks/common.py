"""What the benchmarks share: options, where a row was computed, times, CSV files, and the marks of real data."""
import argparse, os, time
from pathlib import Path

import torch

from wrnb.core import pick_device
from wrnb.runs import provenance

COMMIT = provenance()["commit"]  # as the process began: a table that it writes is itself a change
HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("FASTAI_HOME", "~/.fastai")).expanduser()/"data"


# --- options --------------------------------------------------------------------------------------

def parser(doc):
    "A parser of options that is described by the first line of a script's docstring"
    return argparse.ArgumentParser(description=doc.splitlines()[0])


def add_options(p, **defaults):
    "Add an option for each name=default; a value has the type of the default, a list takes several"
    for name, default in defaults.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        if issubclass(kind, Path): kind = Path
        p.add_argument(f"--{name.replace('_', '-')}", type=kind, nargs="+" if several else None, default=default)


def begin(args):
    "Set the threads that the options ask for, and return the device"
    torch.set_num_threads(args.threads)
    return pick_device(args.device)


def named_models(specs):
    "NAME=SPEC NAME=SPEC ... as a dict"
    return dict(spec.split("=", 1) for spec in specs)


# --- rows and tables ------------------------------------------------------------------------------

def origin(*columns, device="cpu"):
    "Where a row was computed: these columns, of commit, device, threads and torch"
    info = provenance(device)
    known = dict(commit=COMMIT, device=info["device"], threads=info["threads"], torch=info["versions"]["torch"])
    return {c: known[c] for c in columns}


def write_csv(df, path, **how):
    "Write a table as the benchmarks do: no index, the same line ends everywhere"
    df.to_csv(path, index=False, lineterminator="\n", **how)


def show(df): print(df.to_string(index=False), flush=True)


def cross_product(**values):
    "A dict for each combination; the last name changes fastest"
    rows = [{}]
    for name, several in values.items(): rows = [row | {name: v} for row in rows for v in several]
    return rows


# --- time -----------------------------------------------------------------------------------------

def wait_for_gpu():
    "Until what was started on a GPU is done"
    if torch.cuda.is_available(): torch.cuda.synchronize()


def seconds(f, clock=time.perf_counter):
    "Seconds that a function takes by the wall clock (or by another)"
    wait_for_gpu()
    start = clock()
    f()
    wait_for_gpu()
    return clock() - start


def best_seconds(fs, repeats):
    """Seconds of each function, the best of the repeats, taken in turn so that a busy moment hits all; a first round
    warms up"""
    rounds = [[seconds(f) for f in fs] for _ in range(repeats + 1)]
    return [min(times) for times in zip(*rounds[1:])]
