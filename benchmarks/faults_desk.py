"""Where the cases of benchmarks/faults.py are worked on: commands in forks, a run folder to copy, damage to it."""
import hashlib, json, os, shutil, signal, subprocess, sys, time, traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.learner import Learner

from wrnb.cli import main as wrnb_main

LIMIT, MEMORY = 60, 2e9  # seconds and bytes that a case may take
MADE = dict(score=["scores.parquet"], weak=["weak.csv"], validate=["validation.csv", "weaknesses.json"],
            evaluate=["evaluation.csv"])  # the files of a stage
RESULTS = (".csv", ".parquet", ".safetensors")

EPOCHS = 6
SETUP = ["--limit", "400", "--test-limit", "60"]
MEASURE = ["--severities", "1", "3", "5", "--attacks", "fgsm", "pgd", "--attack-eps", "8"]
TRAIN = ["--epochs", str(EPOCHS)]
SCORE = ["score", "digits", *SETUP, "--n-neighbors", "120", "--out"]
COMMANDS = {  # stage -> the command before and after its run folder
    "score": (SCORE, []),
    "validate": (["validate"], MEASURE),
    "enhance reva": (["enhance"], ["--strategy", "reva", *TRAIN]),
    "evaluate": (["evaluate"], MEASURE)}


def command(stage, run):
    first, last = COMMANDS[stage]
    return [*first, run, *last]


# --- commands in forks ----------------------------------------------------------------------------

def note_what_is_done(path):
    "Let this process write a line to a file for every file that it puts in place and every epoch that it trains"
    real_replace, real_epoch = os.replace, Learner._do_epoch_train
    def write(line):
        with open(path, "a") as f: f.write(f"{line}\n")
    def replace(a, b):
        real_replace(a, b)
        write(b)
    def epoch(learn):
        real_epoch(learn)
        write(f"epoch {learn.epoch}")
    os.replace, Learner._do_epoch_train = replace, epoch


def redirect(talk):
    "Let this process say nothing on stdout, and write its stderr to a file"
    for fd, path in ((1, os.devnull), (2, talk)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    sys.stdout, sys.stderr = (open(fd, "w", closefd=False, errors="backslashreplace") for fd in (1, 2))


def begin(argv, talk, done=None):
    "Start a command in a fork: stderr goes to the file `talk`, what it has done to the file `done`"
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        redirect(talk)
        if done: note_what_is_done(done)
        try: code = wrnb_main([str(a) for a in argv])
        except SystemExit as e: code = e.code
        except BaseException: traceback.print_exc()
        sys.stderr.flush()
    finally: os._exit(code)


def end(pid, seconds):
    "Wait for a fork, kill it after a time; returns its exit code (-9 if killed) and its largest memory in bytes"
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        got, status, usage = os.wait4(pid, os.WNOHANG)
        if got: return os.waitstatus_to_exitcode(status), usage.ru_maxrss*1024
        time.sleep(.0005)
    with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss*1024


def refusal_faults(code, memory, text):
    "What is wrong with how a command refused; nothing if it did so in one line"
    faults = {
        f"took {LIMIT} s": code == -9, f"exit code {code}": code not in (2, -9),
        f"{memory/1e9:.1f} GB": memory > MEMORY,
        f"{text.count(chr(10))} lines": text.count("\n") != 1, "no wrnb: line": not text.startswith("wrnb: ")}
    return [fault for fault, is_so in faults.items() if is_so]


class Desk:
    "Where the cases are worked on, and the rows they leave"
    def __init__(self, home, seed):
        self.home, self.rng = home, np.random.default_rng(seed)
        self.run, self.new, self.bad, self.talk = home/"run", home/"new", home/"bad", home/"talk"
        self.rows, self.hits = [], []

    def row(self, section, case, expected, seen, ok):
        "Add a row and print it; `ok` is None if it could not be measured"
        seen = " ".join(seen.replace(str(self.home), "...").split())[:300]
        self.rows.append(dict(section=section, case=case, expected=expected, seen=seen, ok=ok))
        mark = "" if ok is None else "ok   " if ok else "WRONG"
        print(f"{mark} {section}: {case}{'' if ok else ' | ' + seen}", flush=True)

    def judge(self, section, case, expected, faults, text):
        "Add a row: right if there are no faults"
        self.row(section, case, expected, f"{', '.join(faults)}: {text[-200:]}" if faults else text, not faults)

    def do(self, *argv, seconds=LIMIT):
        "Run a command; returns its exit code and its largest memory"
        return end(begin(argv, self.talk), seconds)

    def said(self): return self.talk.read_text(errors="backslashreplace")

    def ask(self, *argv):
        "Run a command that should refuse; returns what is wrong with how it did, and what it said"
        code, memory = self.do(*argv)
        return refusal_faults(code, memory, self.said()), self.said()

    def words(self, text, **names):
        "The words of a command, with the places filled in"
        places = dict(run=self.run, new=self.new, bad=self.bad) | names
        return [word.format(**places) for word in text.split()]

    def copy(self):
        "A fresh copy of the whole run folder"
        for p in (self.run, self.new): shutil.rmtree(p, ignore_errors=True)
        return Path(shutil.copytree(self.home/"base", self.run, symlinks=True))


# --- run folders ----------------------------------------------------------------------------------

def is_result(path): return path.is_file() and (path.suffix in RESULTS or path.name == "weaknesses.json")


def files(run):
    "Everything that a stage leaves as its result, as hashes"
    paths = [p for p in sorted(run.rglob("*")) if is_result(p) and "parts" not in p.parts]
    return {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def listing(run): return sorted(p for p in (q.relative_to(run).as_posix() for q in run.rglob("*")) if p != "parts")


def whole(path, *argv):
    "What an undisturbed command leaves, as a process of its own"
    done = subprocess.run([sys.executable, "-m", "wrnb.cli", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def made_by(stage): return MADE.get(stage, [f"{stage.split()[-1]}/{n}" for n in ("log.csv", "model.safetensors")])


def configure(run, change):
    "Let `change` alter the stages in config.json"
    config = json.loads((run/"config.json").read_text())
    change(config["stages"])
    (run/"config.json").write_text(json.dumps(config, indent=2) + "\n")


def undo(run, *stages):
    "Forget stages and remove what they left"
    for stage in stages:
        configure(run, lambda records: records.pop(stage, None))
        for name in made_by(stage): (run/name).unlink(missing_ok=True)


def undone(desk, stage):
    "A copy of the whole run folder in which a stage is still to be done"
    run = desk.copy()
    undo(run, stage)
    shutil.rmtree(run/"parts", ignore_errors=True)
    if stage == "score":  # the first stage, in a folder that is new but for the model
        shutil.rmtree(run)
        shutil.copytree(desk.home/"base"/"base", run/"base")
    return run


# --- damage ---------------------------------------------------------------------------------------

def cut(path, n=200): path.write_bytes(path.read_bytes()[:-n])


def flip(path):
    "Damage a file in its middle"
    raw = bytearray(path.read_bytes())
    raw[len(raw)//2] ^= 255
    path.write_bytes(raw)


def put(path, **columns):
    "Other values in the first row of a table"
    is_parquet = path.suffix == ".parquet"
    df = pd.read_parquet(path) if is_parquet else pd.read_csv(path)
    for c, v in columns.items(): df[c] = [v, *df[c].tolist()[1:]]
    df.to_parquet(path, index=False) if is_parquet else df.to_csv(path, index=False)


def rename(path, old, new): path.write_text(path.read_text().replace(old, new))


def link(path, to):
    "A link in the place of a file or folder"
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.symlink_to(to)
