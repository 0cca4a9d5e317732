"""Import times and install sizes: the package's rooms and its peers.

    python benchmarks/imports.py [--repeats 5]

in an environment that has them: `pip install . torchattacks foolbox robustbench imagecorruptions`.

Each row is of fresh processes that import torch and then the module; `torch_s` and `more_s` are medians over them, in
seconds, and `ratio` is the median of more_s/torch_s, process by process, which depends less on the machine. A first
round, which reads the files from disk, is not counted. `brings` are the large packages that come along. What is not
installed has no row. `wrnb --help` is a command of its own: its `more_s` is all it takes.

`packages` and `mb` are what `pip install NAME` puts into an empty environment: the files of the package and of all
that it requires, as their records list them; `mb_more` is without what torch and torchvision require, themselves
included, which is the larger part by far and common to all. Writes benchmarks/imports.csv; takes some five minutes.
"""
import importlib.util, json, statistics, subprocess, sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pandas as pd
from packaging.requirements import Requirement

from common import HERE, add_options, origin, parser, show, write_csv

MODULES = ["wrnb", "wrnb.corruptions", "wrnb.transforms", "wrnb.attacks", "wrnb.scoring", "wrnb.all",
           "torchattacks", "robustbench", "foolbox", "art", "imagecorruptions"]
LARGE = ["fastai", "matplotlib", "pandas", "torchvision", "scipy", "sklearn", "skimage", "cv2", "timm", "seaborn"]
IMPORT = """
import json, sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import {module}
end = time.perf_counter()
print(json.dumps([middle - start, end - middle, [m for m in {large} if m in sys.modules]]))
"""
COMMON = ["torch", "torchvision"]  # what every one of them needs
HELP = """
import json, sys, time
start = time.perf_counter()
from wrnb.cli import main
sys.argv = ["wrnb", "--help"]
try: main()
except SystemExit: pass
print()
print(json.dumps([0, time.perf_counter() - start, [m for m in {large} if m in sys.modules]]))
"""


def fresh(code):
    "Run code in a process of its own; returns what its last line says, or None if it failed"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def code_of(module): return (HELP if module == "wrnb --help" else IMPORT).format(module=module, large=LARGE)


def rounds(modules, n):
    "Times of `n` rounds over all modules, after one that does not count; those that cannot be imported are left out"
    works = [m for m in modules if fresh(code_of(m)) is not None]
    times = {m: [] for m in works}
    for _ in range(n):
        for m in works: times[m].append(fresh(code_of(m)))
    return times


def row(module, times):
    torch_s, more_s = (statistics.median(t[k] for t in times) for k in (0, 1))
    ratio = statistics.median(t[1]/t[0] for t in times) if torch_s else None
    return dict(module=module, torch_s=torch_s, more_s=more_s, ratio=ratio, brings=" ".join(times[0][2]))


def needed(name, found=None):
    "A package and all that it requires here, by name"
    found = {} if found is None else found
    try: found[name] = distribution(name)
    except PackageNotFoundError: return found  # not for this system, or not installed
    for text in found[name].requires or ():
        r = Requirement(text)
        wanted = r.marker is None or r.marker.evaluate(dict(extra=""))
        if wanted and r.name.lower().replace("_", "-") not in found: needed(r.name.lower().replace("_", "-"), found)
    return found


def megabytes(d):
    "Size of a package's files; of one in development, of its folder"
    files = [Path(d.locate_file(f)) for f in d.files or ()]
    if d.metadata["Name"] == "wrnb": files = list((HERE.parent/"wrnb").rglob("*"))
    return sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc")/2**20


def install(name):
    "How many packages an install takes, and how large they are, with and without torch's own"
    own, common = needed(name), {}
    for c in COMMON: needed(c, common)
    sizes = {k: megabytes(d) for k, d in own.items()}
    more = sum(mb for k, mb in sizes.items() if k not in common)
    return dict(packages=len(own), mb=sum(sizes.values()), mb_more=more)


def main():
    p = parser(__doc__)
    add_options(p, repeats=5, csv=HERE/"imports.csv")
    args = p.parse_args()
    installed = [m for m in MODULES if importlib.util.find_spec(m.split(".")[0])]
    times = rounds(["wrnb --help", *installed], args.repeats)
    rows = [row(m, t) | dict(repeats=args.repeats) for m, t in times.items()]
    sizes = {m: install(m) for m in times if "." not in m and " " not in m}
    rows = [r | sizes.get(r["module"], {}) | origin("commit", "torch") for r in rows]
    table = pd.DataFrame(rows).round(dict(torch_s=3, more_s=3, ratio=3, mb=0, mb_more=0))
    write_csv(table, args.csv)
    show(table[["module", "torch_s", "more_s", "ratio", "packages", "mb", "mb_more", "brings"]])


if __name__ == "__main__": main()
