"""Install and import times: the package and its peers, each in a bare virtual environment.

    python benchmarks/imports.py [--repeats 3] [--torch torch torchvision] [--packages wrnb ...]

For each package a virtual environment is made in a temporary folder and removed again, which needs
8 GB of disk. The first row is `pip install torch torchvision`, which all of them need. Links to its
files are in the environments of the others: the row of a package is what `pip install NAME` takes
besides. The packages are the newest that pip takes; wrnb is a wheel of this checkout.

`install_s` are seconds by the clock, without pip's cache. They depend on the network and on what else
the machine does; if pip is configured to find files on the disk, `from_disk` is how many of the
`packages` it found there (wrnb's own wheel is always one). `install_cpu_s` are seconds of the
processor, and `mb` is how much the environment grows, in MB. Each install is made once.

Each row of a module is of fresh processes that import torch and then the module. `torch_s` and
`more_s` are medians over `repeats` of them, in seconds of the processor. `ratio` is the median of
more_s/torch_s, process by process, which depends less on the machine. A first process, which writes
byte code and reads the files from disk, is not counted. `brings` are the large packages that come
along. `wrnb --help` is a command of its own: its `more_s` is all it takes.

What cannot be installed or imported has the last line of the error in `fails`. If it is one that
`AFTER` knows, another row, with what was installed in `after`, is of a second try. Writes
benchmarks/imports.csv; takes some five minutes.
"""
import json, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pandas as pd

from common import HERE, add_options, origin, parser, show, write_csv

OWN = ["corruptions", "transforms", "attacks", "scoring", "all"]
PACKAGES = {  # what pip installs -> what is imported
    "wrnb": ["wrnb", "wrnb --help", *(f"wrnb.{room}" for room in OWN)],
    "torchattacks": ["torchattacks"],
    "robustbench": ["robustbench"],
    "foolbox": ["foolbox"],
    "adversarial-robustness-toolbox": ["art"],
    "imagecorruptions": ["imagecorruptions"]}
AFTER = {  # an error -> what mends it
    "No module named 'pkg_resources'": "setuptools<81", "No module named 'packaging'": "packaging"}
LARGE = ["fastai", "matplotlib", "pandas", "torchvision", "scipy", "sklearn", "skimage", "cv2",
         "timm", "seaborn"]
COLUMNS = ["package", "version", "module", "torch_s", "more_s", "ratio", "brings", "repeats",
           "install_s", "install_cpu_s", "packages", "from_disk", "mb", "after", "fails"]
IMPORT = """
import json, sys, time
start = time.process_time()
import torch
middle = time.process_time()
import {module}
end = time.process_time()
print(json.dumps([middle - start, end - middle, [m for m in {large} if m in sys.modules]]))
"""
HELP = """
import json, sys, time
start = time.process_time()
from wrnb.cli import main
sys.argv = ["wrnb", "--help"]
try: main()
except SystemExit: pass
print()
print(json.dumps([0, time.process_time() - start, [m for m in {large} if m in sys.modules]]))
"""
VERSIONS = """
import json, importlib.metadata as installed
print(json.dumps({d.metadata["Name"].lower(): d.version for d in installed.distributions()}))
"""


# --- virtual environments -------------------------------------------------------------------------

def call(env, *command):
    "Run an environment's Python, without the modules of this one; returns what it did"
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    command = [env/"bin"/"python", *command]
    return subprocess.run(command, capture_output=True, text=True, env=own, cwd=env)


def last_error(done):
    "The last line of what a process wrote to stderr, but for pip's warnings and notices"
    lines = done.stderr.strip().splitlines()
    said = [line for line in lines if not line.startswith(("WARNING", "[notice]"))]
    return (said or [f"exit status {done.returncode}"])[-1].strip()[:200]


def new_env(folder):
    "An empty virtual environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def copied(env, folder):
    "A copy of an environment: its files are links, since pip replaces files but never changes them"
    if folder.exists(): shutil.rmtree(folder)
    shutil.copytree(env, folder, symlinks=True, copy_function=os.link)
    return folder


def megabytes(env):
    "Size of an environment's files, but for byte code"
    files = [Path(at)/name for at, _, names in os.walk(env) for name in names]
    return sum(f.lstat().st_size for f in files if f.suffix != ".pyc")/2**20


def versions(env): return json.loads(call(env, "-c", VERSIONS).stdout)


def wheel(folder):
    "A wheel of this checkout"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, HERE.parent]
    subprocess.run(command, check=True)
    return next(folder.glob("wrnb-*.whl"))


# --- installs -------------------------------------------------------------------------------------

def cpu_seconds():
    "Seconds of the processor that processes started here have used"
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def counted(report):
    "How many packages pip installed, by its own report, and how many of them it found on the disk"
    urls = [p["download_info"]["url"] for p in report["install"]]
    return dict(packages=len(urls), from_disk=sum(u.startswith("file:") for u in urls))


def install(env, *what):
    "Install into an environment; returns the seconds, MB and number of packages, or the error"
    before, report = megabytes(env), env/"report.json"
    clock, cpu = time.perf_counter(), cpu_seconds()
    done = call(env, "-m", "pip", "install", "-q", "--no-cache-dir", "--report", report, *what)
    clock, cpu = time.perf_counter() - clock, cpu_seconds() - cpu
    if done.returncode: return dict(fails=last_error(done))
    came = counted(json.loads(report.read_text()))
    report.unlink()
    return dict(install_s=clock, install_cpu_s=cpu, mb=megabytes(env) - before) | came


# --- imports --------------------------------------------------------------------------------------

def fresh(env, module):
    "Seconds of an import in a process of its own, and what came along; or the error, as text"
    code = (HELP if module == "wrnb --help" else IMPORT).format(module=module, large=LARGE)
    done = call(env, "-W", "ignore", "-c", code)
    return last_error(done) if done.returncode else json.loads(done.stdout.splitlines()[-1])


def median_import(times):
    "Medians over processes, and the large packages that came along"
    torch_s, more_s = (statistics.median(t[k] for t in times) for k in (0, 1))
    ratio = statistics.median(t[1]/t[0] for t in times) if torch_s else None
    return dict(torch_s=torch_s, more_s=more_s, ratio=ratio, brings=" ".join(times[0][2]))


def imported(env, module, repeats):
    "Times of a module in an environment, after a process that does not count; or the error"
    first = fresh(env, module)
    if isinstance(first, str): return dict(fails=first)
    return median_import([fresh(env, module) for _ in range(repeats)])


# --- rows -----------------------------------------------------------------------------------------

def remedy(row):
    "What to install after this row's error, if that is known"
    return next((what for error, what in AFTER.items() if error in row.get("fails", "")), None)


def module_rows(env, module, repeats):
    "The row of a module, and a second one if its error is known"
    row = dict(module=module) | imported(env, module, repeats)
    yield row
    after = remedy(row)
    if after:
        failed = {k: v for k, v in install(env, after).items() if k == "fails"}
        yield dict(module=module, after=after) | (failed or imported(env, module, repeats))


def package_rows(name, base, folder, repeats):
    "A package's install, which is on the row of its first module, and a row for each module"
    env, what = folder/"env", wheel(folder) if name == "wrnb" else name
    own = install(copied(base, env), what)
    if "fails" in own: return [dict(package=name) | own]
    rows = [r for module in PACKAGES[name] for r in module_rows(env, module, repeats)]
    rows[0] = dict(version=versions(env)[name]) | own | rows[0]
    return [dict(package=name) | r for r in rows]


def table_rows(what, packages, folder, repeats):
    "The row of torch, which the other environments begin with, and those of the packages"
    base = folder/"torch"
    first = install(new_env(base), *what)
    if "fails" in first: sys.exit(f"{' '.join(what)}: {first['fails']}")
    rows = [dict(package="torch", version=versions(base)["torch"]) | first]
    return rows + [r for name in packages for r in package_rows(name, base, folder, repeats)]


def as_table(rows, **same):
    "The rows as a table, rounded, with the columns that are the same for all"
    ends = [c for c in same if c not in COLUMNS]
    table = pd.DataFrame([r | same for r in rows]).reindex(columns=[*COLUMNS, *ends])
    table = table.astype({k: "Int64" for k in ("packages", "from_disk")})
    return table.round(dict(torch_s=3, more_s=3, ratio=3, install_s=1, install_cpu_s=1, mb=1))


def main():
    p = parser(__doc__)
    add_options(p, repeats=3, torch=["torch", "torchvision"])
    add_options(p, packages=[*PACKAGES], csv=HERE/"imports.csv")
    args = p.parse_args()
    same = dict(repeats=args.repeats, python=sys.version.split()[0]) | origin("commit")
    with tempfile.TemporaryDirectory() as folder:
        rows = table_rows(args.torch, args.packages, Path(folder), args.repeats)
    table = as_table(rows, **same)
    write_csv(table, args.csv)
    show(table.drop(columns="commit"))


if __name__ == "__main__": main()
