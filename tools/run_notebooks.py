"""Run notebooks in place and keep their outputs, so that pages show them.

    python -m tools.run_notebooks                       every notebook
    python -m tools.run_notebooks 33_scoring index      these
    python -m tools.run_notebooks --workers 1
    python -m tools.run_notebooks results/corruptions --slow   with the cells that need real images

A single notebook runs in this process, several run in one process each, on one core each. Cells with
`#| eval: false` or, unless you give --slow, a flag of settings.ini's tst_flags keep the outputs that they
have. If the cells give the same outputs when you run them twice, the notebook keeps the same bytes.
"""
import argparse, os, random, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from execnb.nbio import nb2str, read_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

LIMIT = 1_000_000  # bytes of a notebook with its outputs
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w{8}")


def skip(cell, flags):
    "Leave this cell and its outputs as they are?"
    directives = extract_directives(cell, remove=False)
    switched_off = directives.get("eval:", [""])[:1] == ["false"]
    return switched_off or "nbdev_export(" in cell.source or bool(flags & directives.keys())


def shown_once(outputs):
    "A figure that a cell returns is drawn again when the cell ends: keep the first"
    pictures = [{k: v for k, v in o.get("data", {}).items() if k.startswith("image/")} for o in outputs]
    return [o for i, o in enumerate(outputs) if not pictures[i] or pictures[i] not in pictures[:i]]


def tidy(cell):
    "Drop what differs from run to run: warnings and logs on stderr, names of temporary folders"
    cell.outputs = shown_once([o for o in cell.outputs if o.get("name") != "stderr"])
    for out in cell.outputs:
        data = out.get("data", {})
        places = [(out, "text")] + [(data, kind) for kind in data if kind.startswith("text/")]
        for holder, key in places:
            if key in holder: holder[key] = [TEMPORARY.sub("/tmp/example", line) for line in holder[key]]


def seed_everything():
    "The same random numbers in each run"
    for seed in (random.seed, np.random.seed, torch.manual_seed): seed(0)


def run(path, slow=False):
    "Run one notebook in this process, seeded, and write it back; returns a line, or exits with the error"
    nb, start = read_nb(path), time.time()
    flags = set() if slow else set(get_config().tst_flags.split())
    shell = CaptureShell(path)
    seed_everything()
    with working_directory(path.parent):
        for cell in nb.cells:
            if cell.cell_type != "code" or skip(cell, flags): continue
            cell.outputs = []
            shell.cell(cell)
            if shell.exc: sys.exit(shell.prettytb(fname=path))
            tidy(cell)
    clean_nb(nb)
    text = nb2str(nb)
    if len(text) > LIMIT:
        sys.exit(f"{path.name} has {len(text):,} bytes, over {LIMIT:,}: make its figures smaller")
    path.write_text(text)
    return f"{path.name:28}{time.time()-start:6.1f} s {len(text)/1000:7.0f} kB"


def run_alone(path, slow):
    "Run one notebook in a process of its own, on one core"
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    command = [sys.executable, "-m", "tools.run_notebooks", str(path)]
    if slow: command.append("--slow")
    return subprocess.run(command, cwd=get_config().config_path, env=env, capture_output=True, text=True)


def run_all(paths, slow, workers):
    "Run notebooks in processes of their own and print how each went; returns how many failed"
    failed = 0
    with ThreadPoolExecutor(workers) as pool:
        for path, done in zip(paths, pool.map(lambda p: run_alone(p, slow), paths)):
            failed += done.returncode != 0
            print(f"{path.name} FAILED\n{done.stderr}" if done.returncode else done.stdout.rstrip(), flush=True)
    return failed


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as 33_scoring or results/cifar10; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: one per core")
    parser.add_argument("--slow", action="store_true", help="run the cells marked slow as well: they need "
                        "CIFAR-10 and the sample of Imagenette in fastai's data folder")
    return parser.parse_args()


def main():
    args, nbs = parse(), get_config().nbs_path
    names = args.names or sorted(nbglob(nbs, as_path=True))
    paths = [(nbs/name).with_suffix(".ipynb").resolve() for name in names]
    if missing := [str(p) for p in paths if not p.is_file()]: sys.exit(f"no such notebook: {', '.join(missing)}")
    if len(paths) == 1: return print(run(paths[0], args.slow))
    failed = run_all(paths, args.slow, args.workers)
    sys.exit(f"{failed} of {len(paths)} notebooks failed" if failed else 0)


if __name__ == "__main__": main()
