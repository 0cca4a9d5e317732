"""Import times: the package's rooms and its peers, as multiples of `import torch` in the same processes.

    python benchmarks/imports.py [--repeats 5]

Each row is of fresh processes that import torch and then the module; `torch_s` and `more_s` are medians over them, in
seconds, and `ratio` is the median of more_s/torch_s, process by process, which depends less on the machine. A first
round, which reads the files from disk, is not counted. `brings` are the large packages that come along. What is not
installed has no row. `wrnb --help` is a command of its own: its `more_s` is all it takes. Writes
benchmarks/imports.csv; takes some five minutes.
"""
import importlib.util, json, statistics, subprocess, sys

import pandas as pd

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


def main():
    p = parser(__doc__)
    add_options(p, repeats=5, csv=HERE/"imports.csv")
    args = p.parse_args()
    installed = [m for m in MODULES if importlib.util.find_spec(m.split(".")[0])]
    times = rounds(["wrnb --help", *installed], args.repeats)
    rows = [row(m, t) | dict(repeats=args.repeats) | origin("commit", "torch") for m, t in times.items()]
    table = pd.DataFrame(rows).round(dict(torch_s=3, more_s=3, ratio=3))
    write_csv(table, args.csv)
    show(table[["module", "torch_s", "more_s", "ratio", "brings"]])


if __name__ == "__main__": main()
