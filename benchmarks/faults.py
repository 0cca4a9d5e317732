"""What happens when things go wrong: processes killed at random, bad input, a full disk, hostile files, normal use.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--sections kill bad room hostile practice]

kill: `wrnb score`, `validate` and `enhance` are killed (SIGKILL) at moments drawn uniformly over
the time an undisturbed command takes, half of them several times, and started again until they
end. Right is: the bytes of the undisturbed run (a process of its own) in every file that a stage
leaves, the same set of files, and nothing computed again that was whole before a kill.

bad: commands with bad input, each on a whole run folder or a new one. Right is: exit code 2, one
line on stderr that begins with `wrnb: ` and names the file or option, and every table in the
folder as it was.

room: a small tmpfs that is full, or a folder mounted read-only. Right is: one line and exit code
2, earlier tables as they were, and with room made the bytes of the undisturbed run. Needs the
right to mount; without it the cases count as not measured.

hostile: files made to run code, to write or remove elsewhere, or to take all memory or time. Right
is: refused in one line (or shown escaped), nothing executed, nothing outside changed, below 2 GB
and 60 seconds.

practice: datasets, items, labels, models, folders, pictures, checkpoints, numbers and paths as
people really have them. What is right stands in each case: the right value, a line that names what
is wrong, or a warning. The cases are in benchmarks/faults_practice.py.

The commands run in forks of one process that has imported everything, with one thread, so that a
kill hits the work and not the imports. Everything is on the embedded digits. About fifteen minutes
on one core. Writes benchmarks/faults.csv, one row per case; the table of counts comes last.
"""
import importlib, os, re, shutil, signal, subprocess, tempfile, time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common import add_options, origin, parser, write_csv
from faults_desk import COMMANDS, LIMIT, MEASURE, SETUP, TRAIN, Desk, begin, command, end, files, listing, undone, whole
from faults_files import (
    BAD, FOLDER, HARMLESS, MODEL, arrays, bad_arrays, checkpoints, elsewhere, hostile_runs, images, make_bad, pictures)
from faults_practice import CASES, try_case
from wrnb.runs import Run

REFUSED = "refused in one line, nothing executed, nothing outside changed"


# --- killed ---------------------------------------------------------------------------------------

def kept(run, stage):
    "Finished parts of a stage, and epochs of a training"
    checkpoint = run/stage.split()[-1]/"checkpoint.pt"
    epochs = torch.load(checkpoint, weights_only=True)["epoch"] if checkpoint.is_file() else 0
    parts = {str(p) for p in (run/"parts"/stage).glob("[!.]*.parquet")}
    return parts | {f"epoch {e}" for e in range(epochs)}


def moment(run, stage):
    "Where a kill hit"
    record = Run(run).record(stage)
    if not record: return "before"
    return "after" if record.get("finished") else "in"


def strike(desk, stage, run, seconds):
    "Kill a command, start it again, perhaps kill it again; returns where the kills hit, and what was computed again"
    hits, redone, done = [], [], desk.home/"done"
    while True:
        there = kept(run, stage)
        done.write_text("")
        is_killed = not hits or len(hits) < 5 and desk.rng.random() < .5
        limit = desk.rng.uniform(0, seconds) if is_killed else 10*LIMIT
        code, _ = end(begin(command(stage, run), desk.talk, done), limit)
        redone += sorted(there & set(done.read_text().splitlines()))
        if code == 0 and not hits: return strike(desk, stage, undone(desk, stage), seconds)  # it ended too soon
        if code == 0: return hits, redone
        assert code == -signal.SIGKILL, desk.said()
        hits.append(moment(run, stage))


def undisturbed(desk, stage):
    "An undisturbed command in a fork: what it leaves, and its seconds"
    run, start = undone(desk, stage), time.monotonic()
    code, _ = desk.do(*command(stage, run), seconds=10*LIMIT)
    assert code == 0, desk.said()
    seconds, expected = time.monotonic() - start, files(run)
    real = {name: h for name, h in files(desk.home/"base").items() if name in expected}
    same = real == expected
    desk.row(f"kill {stage.split()[0]}", "undisturbed, forked", "the bytes of a process of its own",
             "the same" if same else "others", same)
    return expected, listing(run), seconds


def kills(desk, n):
    for stage in ("score", "validate", "enhance reva"):
        expected, there, seconds = undisturbed(desk, stage)
        right = f"same bytes, nothing computed again, nothing left ({seconds:.1f} s undisturbed)"
        for i in range(n):
            run = undone(desk, stage)
            hits, redone = strike(desk, stage, run, seconds)
            desk.hits += hits
            same, left = files(desk.run) == expected, sorted(set(listing(desk.run)) ^ set(there))
            seen = [f"killed {len(hits)} times ({', '.join(hits)})", "same bytes" if same else "other bytes",
                    f"computed again: {', '.join(redone) or 'nothing'}", f"left: {', '.join(left) or 'nothing'}"]
            desk.row(f"kill {stage.split()[0]}", f"run {i+1} of {n}", right, "; ".join(seen),
                     same and not redone and not left)


# --- bad input ------------------------------------------------------------------------------------

def bad_input(desk):
    for case, (words, named, *damage) in BAD.items():
        run = desk.copy()
        for change in damage: change(run)
        before = files(run)
        faults, text = desk.ask(*desk.words(words))
        if not named_in(text, named): faults.append(f"does not name {named}")
        if files(run) != before or desk.new.is_dir() and files(desk.new): faults.append("changed tables")
        desk.judge("bad input", case, f"one line that names {named}, exit code 2, tables unchanged", faults, text)


def named_in(text, name):
    "Does a line name this, as the option or as the argument?"
    as_arguments = re.sub(r"(?<![\w-])--?([a-z][a-z-]*)[= ]", lambda m: m[1].replace("-", "_") + "=", text)
    return name in text or name in as_arguments.replace("DATA ", "data=")


# --- no room --------------------------------------------------------------------------------------

def mount(*argv):
    "What is in the way of a mount, if anything is"
    if not shutil.which("mount"): return "no mount command"
    done = subprocess.run(["mount", *map(str, argv)], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


@contextmanager
def mounted(*argv):
    "A mount for a while; gives what is in the way, if anything is"
    hindrance = mount(*argv)
    try: yield hindrance
    finally:
        if not hindrance: subprocess.run(["umount", argv[-1]], check=True)


def fill(place, room):
    "Leave only some bytes free"
    free = os.statvfs(place)
    (place/"ballast").write_bytes(bytes(max(0, free.f_bavail*free.f_bsize - room)))


PAGES = {"score": 7, "validate": 40, "enhance reva": 50, "evaluate": 40}  # of 4 KiB: less than each stage needs
WITH_ROOM = "one line, exit code 2, earlier tables unchanged; with room the bytes of the undisturbed run"


def without_room(desk, stage, disk, room):
    "A stage on a full disk, and again with room: what is wrong, and what was said"
    expected, run = files(desk.home/"base"), disk/"run"
    shutil.copytree(undone(desk, stage), run)
    before = files(run)
    fill(disk, room)
    faults, text = desk.ask(*command(stage, run))
    now = files(run)
    if any(now.get(name) != h for name, h in before.items()): faults.append("tables lost")
    if str(run) not in text: faults.append("does not name the folder")
    (disk/"ballast").unlink()
    code, _ = desk.do(*command(stage, run))
    if code: faults.append("did not resume")
    if any(expected[name] != h for name, h in files(run).items()): faults.append("other bytes")
    return faults, text


def no_room(desk):
    disk = desk.home/"disk"
    disk.mkdir()
    for stage in COMMANDS:
        few = desk.rng.choice(np.arange(1, PAGES[stage]), 3, replace=False)
        for room in (0, *sorted(4096*few)):
            case = f"{stage.split()[0]} with {room//1024} KiB left"
            with mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", disk) as hindrance:
                if hindrance: desk.row("no room", case, "", f"not measured: {hindrance}", None)
                else: desk.judge("no room", case, WITH_ROOM, *without_room(desk, stage, disk, room))


def read_only(desk):
    disk = desk.home/"still"
    disk.mkdir()
    for stage in (*COMMANDS, "report"):
        run = desk.copy() if stage == "report" else undone(desk, stage)
        words = ["report", disk] if stage == "report" else command(stage, disk)
        (run/"report.html").unlink(missing_ok=True)
        before = files(run)
        with mounted("--bind", run, disk) as hindrance:
            hindrance = hindrance or mount("-o", "remount,ro,bind", disk)
            if hindrance:
                desk.row("read-only", stage, "", f"not measured: {hindrance}", None)
                continue
            faults, text = desk.ask(*words)
            if files(run) != before: faults.append("tables changed")
            if str(disk) not in text: faults.append("does not name the folder")
            desk.judge("read-only", stage.split()[0], "one line, exit code 2, tables unchanged", faults, text)


# --- hostile --------------------------------------------------------------------------------------

def hostile_files(desk, trap):
    "Yield (case, command): checkpoints, images, corrupted sets"
    for name, write in checkpoints(trap).items():
        write(desk.bad/name)
        yield f"checkpoint {name}", MODEL % f"digits_net@{desk.bad/name}"
    for name, put_in in images(trap).items():
        folder = desk.bad/"images"
        shutil.rmtree(folder, ignore_errors=True)
        put_in(pictures(folder)/"train/cat")
        yield f"images: {name}", FOLDER % "images"
    for name, raw in bad_arrays(trap).items():
        folder = desk.bad/"set"
        shutil.rmtree(folder, ignore_errors=True)
        arrays(folder, fog=raw)
        yield f"corrupted set: {name}", f"evaluate {{run}} --on {folder}"


class Outside:
    "Files that no command may change, and a file that a trap would make"
    def __init__(self, desk):
        self.folder, self.trap = desk.home/"outside", desk.home/"executed"
        (self.folder/"validate").mkdir(parents=True)
        for name in ("precious", "validate/precious", "reva.csv"): (self.folder/name).write_text("precious")

    def faults(self):
        there = list(self.folder.rglob("*"))
        same = len(there) == 4 and [p.read_text() for p in there if p.is_file()] == ["precious"]*3
        return ["EXECUTED"]*self.trap.exists() + ["changed outside"]*(not same)


def odd_run(desk):
    "The run folder of a set whose classes have a script and a formula for names"
    for split in ("train", "test"): pictures(desk.home/"odd", 6, ("$\\frac{$ <script>x", "dog"), (split,))
    small = "--n-neighbors 2 -k 2 --severities 1 --attacks fgsm --attack-eps 8 --base-epochs 4 --epochs 1"
    desk.do(*f"run {desk.home}/odd --model digits_net --out {desk.home}/oddrun {small} --strategies standard".split())
    return desk.home/"oddrun"


def hostile(desk):
    outside = Outside(desk)
    def refused(case, words):
        faults, text = desk.ask(*desk.words(words))
        desk.judge("hostile", case, REFUSED, faults + outside.faults(), text)
    for case, words in hostile_files(desk, outside.trap):
        desk.copy()
        refused(case, words)
    elsewhere(desk.bad/"set")
    for case, (words, damage) in hostile_runs(outside.folder, outside.trap).items():
        damage(desk.copy())
        refused(case, words)
    harmless(desk, outside)


def harmless(desk, outside):
    "What need not be refused, if nothing outside is changed and the page escapes names"
    odd = odd_run(desk)
    for case, (words, damage, never) in HARMLESS.items():
        run = desk.copy()
        damage(run, outside.folder)
        (run/"report.html").unlink(missing_ok=True)
        code, _ = desk.do(*desk.words(words, odd=odd))
        page = (odd if "{odd}" in words else run)/"report.html"
        faults = outside.faults()
        if code not in (0, 2): faults.append(f"exit code {code}")
        if code == 0 and "report" in words and not page.is_file(): faults.append("no page")
        if page.is_file() and never in page.read_text(): faults.append(f"{never} in the page")
        text = desk.said() if faults else "as expected"
        desk.judge("hostile", case, "done or refused, nothing outside changed, names escaped", faults, text)


# --- in practice ----------------------------------------------------------------------------------

def practice(desk):
    for case in CASES:
        ok, seen = try_case(case, desk.home)
        desk.row("in practice", case.name, case.right, seen, ok)


# --- all ------------------------------------------------------------------------------------------

def sections(desk, n_kills):
    "name -> the functions that work on its cases"
    return dict(
        kill=[lambda: kills(desk, n_kills)], bad=[lambda: bad_input(desk)],
        room=[lambda: no_room(desk), lambda: read_only(desk)], hostile=[lambda: hostile(desk)],
        practice=[lambda: practice(desk)])


def begin_work(a, home):
    "A desk with a whole run folder and bad files"
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for module in ("fastai.vision.all", "sklearn.datasets", "wrnb.all"): importlib.import_module(module)
    desk = Desk(home, a.seed)
    desk.bad.mkdir()
    make_bad(desk.bad)
    if set(a.sections) == {"practice"}: return desk
    run = ["run", "digits", "--out", home/"base", *SETUP, "--n-neighbors", "120", "-k", "20", *MEASURE, *TRAIN]
    whole(home/"base", *run, "--base-epochs", "10", "--strategies", "reva")
    return desk


def main():
    p = parser(__doc__)
    add_options(p, kills=20, seed=0)
    names = ["kill", "bad", "room", "hostile", "practice"]
    p.add_argument("--sections", nargs="+", default=names, choices=names)
    p.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    a, start, home = p.parse_args(), time.monotonic(), Path(tempfile.mkdtemp(prefix="faults"))
    try:
        desk = begin_work(a, home)
        for section, works in sections(desk, a.kills).items():
            if section not in a.sections: continue
            for work in works: work()
    finally: shutil.rmtree(home, ignore_errors=True)
    df = pd.DataFrame(desk.rows)
    n = df.groupby("section").section.transform("size")
    df = df.assign(n=n, seed=a.seed, **origin("device", "threads", "commit"))
    write_csv(df, a.csv)
    counts = df.assign(measured=df.ok.notna(), right=df.ok.eq(True)).groupby("section", sort=False)
    counts = counts[["measured", "right"]].sum().rename(columns=dict(right="as expected"))
    hits = ", ".join(f"{desk.hits.count(w)} {w} the stage" for w in ("before", "in", "after"))
    print(f"\n{time.monotonic()-start:.0f} s, seed {a.seed}, commit {df.commit[0]}; {len(desk.hits)} kills: {hits}")
    print(counts.to_string())


if __name__ == "__main__": main()
