"""What the pages say of times on a GPU, with the table of benchmarks/gpu.py and without it."""
import pandas as pd
import pytest

from tools.gpu_table import MISSING, PARTS, on_gpu

MADE = dict(seed=0, commit="abc", device="H100", torch="2.14.1")
SCORED = dict(part="scoring", what="resnet18", precision="bf16", compile="no", images=50000, neighbors=50,
              batch_size=4096, seconds=12.5, rate=200000., prepare_s=3.25)


@pytest.fixture
def table(tmp_path):
    "A file like benchmarks/gpu.csv"
    corrupted = [dict(part="corruptions", what=what, precision="fp32", compile="no", images=10000, batch_size=4096,
                      seconds=seconds, rate=10000/seconds) for what, seconds in [("fog", .5), ("zoom_blur", 2.)]]
    pd.DataFrame([SCORED, *corrupted]).assign(**MADE).to_csv(tmp_path/"gpu.csv", index=False)
    return tmp_path/"gpu.csv"


@pytest.mark.parametrize("part", PARTS)
def test_a_page_says_that_nothing_was_measured_on_a_gpu(part, table, tmp_path):
    assert on_gpu(part, tmp_path/"none.csv").data == MISSING
    rows = pd.read_csv(table)
    rows[rows.part != part].to_csv(table, index=False)
    assert on_gpu(part, table).data == MISSING


def test_a_page_shows_what_was_measured_on_a_gpu(table):
    said = on_gpu("scoring", table).data
    assert "| resnet18 | bf16 | no | 50,000 | 50 | 12.5 | 200,000 | 3.2 |" in said
    assert "On one H100, torch 2.14.1, commit abc" in said
    said = " ".join(on_gpu("corruptions", table).data.split())
    assert "10,000 images of 32 px under each of 2 corruptions (severity 3) take 2.5 s in all" in said
    assert "zoom blur, the slowest, 5,000 images per second, fog, the fastest, 20,000" in said
