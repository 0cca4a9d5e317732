"""Does guidance help? REVa guided by the measured weaknesses, and by nothing, with the same recipe and passes.

    python benchmarks/guided.py --models FOLDER [--bases digits_net resnet20 ...] [--only weaknesses gain online]
                                [--protocol all] [--seeds 0 1 2] [--epochs 5] [--limit 5000] [--test-limit 2000]
                                [--per-cell 300] [--device cuda] [--keep RUNS]

--models is a folder with the files that `BASES` of tuning.py names; the base digits_net is trained
here, lite0 comes from its package. Each fine-tuned model and its
base are measured on the same test images, which chose nothing: clean, the 15 corruptions, C-bar,
and PGD-10 on itself; with --per-cell, each corruption and severity gets so many of them by the
spread design. Writes benchmarks/guided.csv, a row per base, case and figure with its 95 %
interval over images and seeds, as it is and as a paired difference to the base and to `uniform`;
cases that end in `, alpha 1` are the same trainings without the step back, each compared with its
like as well; and guided_cells.csv, a row per model, seed, perturbation and severity. `worst three` are the
three corruptions that the base fails most under. --keep has the run folders, from which all goes
on. Six minutes of one core for digits and three seeds.
"""
from pathlib import Path

from tuning import WHOLE_STEP, options, show_figures, study
from wrnb.guidance import GUIDES


def cases_of(guides, protocol):
    "The name of a case, and how it is trained: with the step back, and without it"
    names = {g: g if protocol == "all" else f"{g}, {protocol}" for g in guides}
    cases = {names[g]: ("reva", dict(guide=g, protocol=protocol)) for g in guides}
    return cases | {case + WHOLE_STEP: how for case, how in cases.items()}


def main():
    a = options(__doc__, Path(__file__).with_suffix(".csv"), ["weaknesses", "uniform"])
    cases = cases_of([g for g in GUIDES if g in {"uniform", *a.only}], a.protocol)
    unguided, _ = cases_of(["uniform"], a.protocol)  # with and without the step back
    for name in a.bases: study(name, cases, a, unguided, a.csv)
    show_figures(a.csv)


if __name__ == "__main__": main()
