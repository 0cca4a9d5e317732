"""What the pages say of times on a GPU: what benchmarks/gpu.py wrote to benchmarks/gpu.csv, if it ran."""
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

FILE = Path(__file__).resolve().parent.parent/"benchmarks"/"gpu.csv"
MISSING = "Not measured on a GPU."
SCORING = dict(
    what="model", precision="precision", compile="compiled", images="images", neighbors="neighbours",
    seconds="seconds", rate="neighbours per second", prepare_s="seconds to prepare, apart")
CORRUPTIONS = """
On one {device}, {n:,} images of 32 px under each of {types} corruptions (severity 3) take {seconds:.1f} s
in all: {slowest}, the slowest, {low:,.0f} images per second, {fastest}, the fastest, {high:,.0f}
(commit {commit}).
"""


def scoring(t):
    "A row per precision, compiled or not, as a table in Markdown"
    numbers = t[list(SCORING)].rename(columns=SCORING)
    lines = [list(numbers), ["---"]*len(SCORING)]
    for row in numbers.itertuples(index=False):
        lines.append([value if isinstance(value, str) else f"{value:,.1f}".removesuffix(".0") for value in row])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    made = "On one {0.device}, torch {0.torch}, commit {0.commit} (`benchmarks/gpu.py`).".format(t.iloc[0])
    return f"{table}\n\n{made}"


def corruptions(t):
    "A sentence on all of them, the slowest and the fastest"
    t = t.assign(what=t.what.str.replace("_", " ")).sort_values("rate")
    slow, fast = t.iloc[0], t.iloc[-1]
    return CORRUPTIONS.strip().format(
        device=slow.device, n=slow.images, types=len(t), seconds=t.seconds.sum(), commit=slow.commit,
        slowest=slow.what, low=slow.rate, fastest=fast.what, high=fast.rate)


PARTS = dict(scoring=scoring, corruptions=corruptions)


def on_gpu(part, file=FILE):
    "Times of `scoring` or of `corruptions` on a GPU, or that there are none"
    t = pd.read_csv(file, dtype=dict(what=str, compile=str)) if file.is_file() else pd.DataFrame(columns=["part"])
    t = t[t.part == part]
    return Markdown(PARTS[part](t) if len(t) else MISSING)
