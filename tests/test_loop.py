"""What design.md promises, through the real command line: killed and started again, bad input, run folders, tables, the page.

One base is trained once; what is killed or interrupted is a process of its own, bad input goes through `wrnb.cli.main` here.
"""
import base64, hashlib, json, os, pickle, re, resource, shutil, signal, subprocess, sys, time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import wrnb.folders, wrnb.scoring
from wrnb.cli import main
from wrnb.core import WrnbError
from wrnb.runs import Run
from wrnb.models import save_weights
from wrnb.pretrained import load_model

ROOT = Path(__file__).resolve().parent.parent
ENV = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
SETUP = ["--limit", "200", "--test-limit", "60"]
MEASURE = ["--severities", "1", "5", "--attacks", "fgsm", "pgd", "--attack-eps", "8"]
RUN = [*SETUP, "--n-neighbors", "10", "-k", "20", *MEASURE, "--epochs", "3", "--base-epochs", "10", "--strategies", "reva"]


def start(*argv):
    "A process of its own group, which minds Ctrl-C even where the tests were started in the background"
    return subprocess.Popen([sys.executable, "-m", "wrnb.cli", *map(str, argv)], env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wrnb_(*argv):
    "Run a command to its end; returns what it said"
    p = start(*argv); out, err = p.communicate(timeout=300)
    assert p.returncode == 0, err
    assert err == ""
    return out


def strike(sig, ready, *argv):
    "Start a command, send its group a signal as soon as `ready()`, and return the process when it is gone"
    p = start(*argv); end = time.monotonic() + 300
    while not ready():
        assert p.poll() is None, f"it ended before it could be struck: {p.communicate()}"
        assert time.monotonic() < end
        time.sleep(.005)
    os.killpg(p.pid, sig)
    p.out, p.err = p.communicate(timeout=60)
    return p


def has_parts(folder, n): return lambda: len([p for p in folder.glob("*.parquet") if p.name[0] != "."]) >= n


def tables(run):
    "Everything that a stage leaves as its result, as hashes (a failed comparison of megabytes takes minutes to print)"
    return {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.rglob("*")) if p.suffix in (".csv", ".parquet", ".safetensors") or p.name == "weaknesses.json"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "As the processes that are started: another number of threads rounds otherwise"
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module")
def said(home): return wrnb_("run", "digits", "--out", home/"base", *RUN)


@pytest.fixture(scope="module")
def base(home, said):
    "A run folder in which the whole loop was done, on a part of the digits"
    return home/"base"


@pytest.fixture(scope="module")
def model(base): return f"digits_net@{base}/base/model.safetensors"


@pytest.fixture
def copy(base, tmp_path):
    "A copy of the run folder, in which a stage can be undone"
    run = Run(shutil.copytree(base, tmp_path/"copy"))
    def undo(stage, *files):
        run.drop(stage, undone=True)
        for f in files: (run/f).unlink()
        return run.path
    return undo


# --- the loop -----------------------------------------------------------------------------------------------------

def test_columns_are_the_contract(base):
    "As they stand in design.md"
    measure = "subset model family perturbation severity n n_wrong error low high".split()
    want = dict(weak="rank index id label score".split(), validation=measure, evaluation=measure)
    t = {name: pd.read_csv(base/f"{name}.csv") for name in want}
    for name, columns in want.items(): assert list(t[name]) == columns
    s = pd.read_parquet(base/"scores.parquet")
    assert list(s) == "index id label pred clean_correct n_neighbors n_wrong score score_low score_high".split()
    assert s["index"].tolist() == list(range(200)) and s.id.is_unique and (s.n_neighbors == 10).all()
    assert (s.clean_correct == (s.pred == s.label)).all() and s.n_wrong.between(0, 10).all()
    assert ((0 <= s.score_low) & (s.score_low <= s.score) & (s.score <= s.score_high) & (s.score_high <= 1)).all()
    best = s[s.clean_correct].sort_values("score", ascending=False, kind="stable").head(20)
    assert t["weak"]["index"].tolist() == best["index"].tolist() and t["weak"].id.tolist() == best.id.tolist()
    assert set(t["validation"].subset) == {"weak", "random", "test"} and (t["validation"].n == 20).all()
    assert set(t["evaluation"].model) == {"base", "reva"} and (t["evaluation"].n == 60).all()
    for m in (t["validation"], t["evaluation"]): np.testing.assert_allclose(m.error, m.n_wrong/m.n, rtol=1e-5)
    log = pd.read_csv(base/"reva/log.csv"); assert log.epoch.tolist() == [1, 2, 3]
    w = json.loads((base/"weaknesses.json").read_text()); assert {"rule", "weaknesses", "strengths"} <= set(w) and w["weaknesses"]
    assert not [p for p in base.rglob("*") if p.suffix in (".pkl", ".pt", ".pth")]


def test_the_run_is_told_in_the_config(base):
    stages = json.loads((base/"config.json").read_text())["stages"]
    assert stages["setup"]["options"] == dict(data="digits", model="digits_net", size=None, limit=200, test_limit=60, seed=0)
    for stage in ("base", "score", "weak", "validate", "enhance reva", "evaluate"):
        s = stages[stage]
        assert s["started"] <= s["finished"] and {"versions", "device", "commit", "options"} <= set(s), stage
    assert {"eps", "n_neighbors", "noise", "seed", "data", "model"} <= set(stages["score"]["options"])


class Page(HTMLParser):
    def __init__(self, text): super().__init__(); self.open, self.images, self.titles, self.tags = [], [], [], set(); self.feed(text); self.close()
    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img": self.images.append(dict(attrs))
        if tag not in ("img", "meta", "br"): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag, f"{tag} closes nothing"
    def handle_data(self, data):
        if self.open and self.open[-1] == "h2": self.titles.append(data)


def test_the_page_opens_from_disk_and_says_what_it_should(base):
    text = (base/"report.html").read_text(encoding="utf-8"); page = Page(text)
    assert not re.search(r"https?://|//cdn|@import|url\(", text) and not page.tags & {"script", "link", "iframe"}
    assert not page.open
    assert page.titles == ["What was run", "Before against after", "Weakest images", "Strengths and weaknesses", "What this does not say"]
    assert len(page.images) == 6 and len(list((base/"figures").glob("*.png"))) == 6
    for i in page.images:
        kind, data = i["src"].split(",", 1)
        assert kind == "data:image/png;base64" and base64.b64decode(data)[:8] == b"\x89PNG\r\n\x1a\n" and len(i["alt"]) > 10
    assert "Only a part of the data was used: 200 training and 60 test images" in text and "reva" in text


def test_the_summary_ends_with_the_table_and_the_page(base, said):
    lines = said.strip().splitlines()
    assert lines[-1] == str(base/"report.html")
    assert lines[lines.index("Errors in percent on 60 test images:")+1].split() == ["model", "base", "reva"]


def test_a_done_command_says_so_and_changes_no_table(base, capsys):
    before = tables(base)
    assert main(["run", "digits", "--out", str(base), *RUN]) == 0
    out, err = capsys.readouterr()
    for stage in ("base", "score", "weak", "validate", "enhance reva", "evaluate"): assert f"{stage}: done already, see {base}" in out
    assert err == "" and tables(base) == before


# --- killed, and started again ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def scored(home, model):
    "Command and folder of an undisturbed `wrnb score` of eight blocks"
    command = ["score", "digits", "--model", model, "--limit", "1000", "--n-neighbors", "60", "--out"]
    wrnb_(*command, home/"scored")
    return command, home/"scored"


def test_score_killed_three_times_leaves_the_same_bytes(scored, tmp_path):
    command, whole = scored; run = Run(tmp_path/"run"); parts = run.parts("score")
    for n in (1, 3, 5):
        assert strike(signal.SIGKILL, has_parts(parts, n), *command, run.path).returncode == -signal.SIGKILL
        assert n <= len(list(parts.glob("0*.parquet"))) < 8 and not run.done("score") and not (run/"scores.parquet").exists()
    kept = {p: p.stat().st_mtime_ns for p in parts.glob("0*.parquet")}
    (parts/".0000896.parquet.part.parquet").write_bytes(b"PAR1 half a fi")  # as a kill in the middle of a write leaves it
    p = start(*command, run.path)
    while p.poll() is None and parts.exists():
        assert all(f.stat().st_mtime_ns == t for f, t in kept.items() if f.exists()), "a finished block was computed again"
        time.sleep(.01)
    assert p.wait(300) == 0, p.communicate()
    p.communicate()
    assert (run/"scores.parquet").read_bytes() == (whole/"scores.parquet").read_bytes()
    assert not parts.exists() and run.done("score")


def test_ctrl_c_keeps_what_was_done_and_workers_do_not_matter(scored, tmp_path):
    "Interrupted with two workers, gone on with two: the bytes of a run with none"
    command, whole = scored; run = Run(tmp_path/"run"); parts = run.parts("score")
    p = strike(signal.SIGINT, has_parts(parts, 2), *command, run.path, "--workers", "2")
    assert p.returncode == 130 and p.err == "wrnb: interrupted; what was done stays, the same command goes on from there\n"
    assert 2 <= len(list(parts.glob("0*.parquet"))) < 8
    wrnb_(*command, run.path, "--workers", "2")
    assert (run/"scores.parquet").read_bytes() == (whole/"scores.parquet").read_bytes()


def test_batch_sizes_agree_to_rounding(model, tmp_path, monkeypatch):
    seen = set(); misprediction = wrnb.scoring.misprediction
    monkeypatch.setattr(wrnb.scoring, "misprediction", lambda logits, y: (seen.add(len(y)), misprediction(logits, y))[1])
    t = {}
    for bs in (7, 512):
        assert main(["score", "digits", "--model", model, *SETUP, "--n-neighbors", "20", "--batch-size", str(bs), "--out", str(tmp_path/str(bs))]) == 0
        t[bs] = pd.read_parquet(tmp_path/str(bs)/"scores.parquet"); assert max(seen) == bs
    assert (t[7].score - t[512].score).abs().max() < 1e-5 and t[7].score.max() > .1
    assert (t[7].n_wrong == t[512].n_wrong).all() and (t[7].pred == t[512].pred).all()


def test_validate_killed_leaves_the_same_bytes(copy, base):
    run = copy("validate", "validation.csv", "weaknesses.json"); command = ["validate", run, *MEASURE]
    assert strike(signal.SIGKILL, has_parts(run/"parts"/"validate", 10), *command).returncode == -signal.SIGKILL
    assert not (run/"validation.csv").exists()
    wrnb_(*command)
    for f in ("validation.csv", "weaknesses.json"): assert (run/f).read_bytes() == (base/f).read_bytes()


def test_enhance_killed_leaves_the_same_bytes(copy, base):
    run = copy("enhance reva", "reva/log.csv", "reva/model.safetensors"); command = ["enhance", run, "--strategy", "reva", "--epochs", "3"]
    assert strike(signal.SIGKILL, (run/"reva"/"checkpoint.pt").is_file, *command).returncode == -signal.SIGKILL
    assert not (run/"reva"/"model.safetensors").exists()
    wrnb_(*command)
    for f in ("log.csv", "model.safetensors"): assert (run/"reva"/f).read_bytes() == (base/"reva"/f).read_bytes()
    assert not (run/"reva"/"checkpoint.pt").exists()


# --- bad input ----------------------------------------------------------------------------------------------------

def pictures(folder, n=3, classes=("cat", "dog"), splits=("train", "test")):
    "A folder of small grey pictures, saved as RGB"
    rng = np.random.default_rng(0)
    for s in splits:
        for c in classes:
            (folder/s/c).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).convert("RGB").save(folder/s/c/f"{i}.png")
    return folder


def cut(path): path.write_bytes(path.read_bytes()[:-200]); return path


class Trap:
    "Unpickled, it makes a file"
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def bad(home, base):
    "Data and checkpoints that are not as they should be"
    d = home/"bad"; d.mkdir()
    for classes, name in ((10, "ten"), (100, "hundred"), (2, "two")): save_weights(load_model("digits_net", classes), d/f"{name}.safetensors")
    net = load_model("digits_net", 10); net.body[0].weight.data.fill_(float("nan")) if hasattr(net.body, "__getitem__") else [p.data.fill_(float("nan")) for p in net.parameters()]
    save_weights(net, d/"nan.safetensors")
    torch.save(dict(state_dict=Trap(d/"trapped")), d/"trap.pt")
    (d/"trap.pkl").write_bytes(pickle.dumps(Trap(d/"trapped")))
    cut(Path(shutil.copy(d/"ten.safetensors", d/"cut.safetensors")))
    pictures(d/"good")
    pictures(d/"no_train", splits=("test",)); pictures(d/"no_test", splits=("train",))
    pictures(d/"empty"); (d/"empty/train/fish").mkdir()
    pictures(d/"cut"); cut(d/"cut/train/dog/1.png")
    pictures(d/"text"); (d/"text/test/cat/2.png").write_text("no picture")
    pictures(d/"other"); (d/"other/test/dog").rename(d/"other/test/wolf")
    (d/"file").write_text("")
    return d


def complaint(capsys, *argv):
    "The one line of a command that refuses"
    capsys.readouterr()
    try: code = main([str(a) for a in argv])
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2, (code, err)
    assert err.startswith("wrnb: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
    return err


SCORE = "score digits --model digits_net@{bad}/ten.safetensors --out {new} --limit 20 --test-limit 20 --n-neighbors 2"
FOLDER = "score {bad}/%s --model digits_net@{bad}/two.safetensors --out {new}"
MODEL = "score digits --model %s --out {new} --limit 20 --test-limit 20"
BASE = "score digits --out {base} --limit 200 --test-limit 60 --n-neighbors 10"
CASES = {  # command -> what the line names
    "score cifar11 --model resnet20 --out {new}": "no data set 'cifar11'",
    "run {bad}/nowhere --model resnet20 --out {new}": "{bad}/nowhere",
    FOLDER % "no_train": "{bad}/no_train has no train/", FOLDER % "no_test": "{bad}/no_test has no test/ or val/",
    FOLDER % "empty": "{bad}/empty/train/fish holds no images", FOLDER % "other": "{bad}/other/test/wolf/0.png",
    FOLDER % "cut": "{bad}/cut/train/dog/1.png", FOLDER % "text": "{bad}/text/test/cat/2.png",
    FOLDER % "good" + " --size 0": "size=0",
    MODEL % "resnet21": "--model resnet21", MODEL % "resnet20": "resnet20 has no checkpoint", MODEL % "torchvision:resnet21": "resnet21",
    MODEL % "digits_net@{bad}/nothing.pt": "{bad}/nothing.pt is not there", MODEL % "digits_net@{bad}/hundred.safetensors": "100 outputs and the data 10 classes",
    MODEL % "digits_net@{bad}/two.safetensors": "2 outputs and the data 10 classes", MODEL % "resnet20@{bad}/ten.safetensors": "{bad}/ten.safetensors",
    MODEL % "digits_net@{bad}/nan.safetensors": "NaN or infinite logits", MODEL % "digits_net@{bad}/cut.safetensors": "{bad}/cut.safetensors is damaged",
    MODEL % "digits_net@{bad}/trap.pt": "{bad}/trap.pt holds more than tensors and is refused", MODEL % "digits_net@{bad}/trap.pkl": "{bad}/trap.pkl",
    "score {bad}/good --out {new}": "--model is missing",
    **{f"{SCORE} --eps {e}": f"eps={float(e)}" for e in ("0", "-1", "nan", "2", "inf")},
    SCORE.replace("neighbors 2", "neighbors 0"): "n_neighbors=0", SCORE.replace("neighbors 2", "neighbors -3"): "n_neighbors=-3",
    SCORE + " --noise salt": "noise='salt'", SCORE + " --precision fp64": "precision='fp64'", SCORE + " --device abacus": "--device abacus",
    SCORE + " --batch-size 0": "batch", SCORE + " --workers -1": "workers", SCORE.replace("--limit 20", "--limit 0"): "limit=0", SCORE + " --seed -1": "seed",
    SCORE + " --eps much": "--eps", "score": "DATA", "sing": "sing",
    "run digits --out {base} --limit 100 --test-limit 60": "{base} was made with setup limit=200, not 100",
    "score cifar10 --model digits_net --out {base} --limit 200 --test-limit 60": "setup data=digits, not cifar10",
    "score digits --model resnet20 --out {base} --limit 200 --test-limit 60": "setup model=digits_net, not resnet20",
    BASE + " --eps .2": "score eps=0.3, not 0.2", BASE + " --seed 1": "setup seed=0, not 1", BASE + " --noise gaussian": "score noise=uniform, not gaussian",
    BASE.replace("neighbors 10", "neighbors 11"): "score n_neighbors=10, not 11",
    "weak {base} -k 10000": "k=10000 is larger than the", "weak {base} -k 0": "k=0", "weak {base} -k -5": "k=-5", "weak {base} -k 21": "weak k=20, not 21",
    "weak {base} -k 200 --per-class": "images of class", "weak {bad}/nowhere -k 3": "{bad}/nowhere is no run folder", "report {bad}/good": "{bad}/good is no run folder",
    "validate {base} --families sound": "family 'sound'", "validate {base} --severities 6": "severity=6", "validate {base} --attacks fgms": "attack fgms",
    "validate {base} --attack-eps nan": "eps=nan", "validate {base} --attack-eps -8": "eps=-", "validate {base} --attack-eps 300": "eps=1.",
    "validate {base} --severities 2": "validate ", "validate {base} --severities 1 5 --attacks fgsm pgd --attack-eps 8 --rule feeling": "rule='feeling'",
    "validate {base} --severities 1 5 --attacks fgsm pgd --attack-eps 8 --rule 7": "rule=7",
    "enhance {base} --strategy luck": "strategy='luck'", "enhance {base} --strategy standard --epochs 0": "epochs=0", "enhance {base} --strategy standard --lr nan": "lr=nan",
    "enhance {base} --strategy standard --bs 0": "bs=0", "enhance {base} --strategy reva --protocol mine": "protocol='mine'", "enhance {base} --strategy reva --guide-eps nan": "eps=nan",
    "enhance {base} --strategy adversarial --guide-eps -1": "eps=-", "enhance {base} --strategy reva --epochs 2": "enhance reva epochs=3, not 2",
    "evaluate {base} --severities 9": "severity=9", "evaluate {base} --attack-eps 8 --severities 1 --attacks fgsm": "evaluate severities=[1, 5], not [1]",
    "evaluate {base} --severities 1 5 --attacks fgsm pgd --attack-eps 8 --batch-size 0": "batch",
}


@pytest.mark.parametrize("command", CASES)
def test_bad_input(command, bad, base, tmp_path, capsys):
    names = dict(bad=bad, base=base, new=tmp_path/"new"); before = tables(base)
    line = complaint(capsys, *(w.format(**names) for w in command.split()))
    assert CASES[command].format(**names) in line
    assert tables(base) == before and not (bad/"trapped").exists()
    assert not tables(tmp_path)


@pytest.mark.parametrize("first", [FOLDER % "cut", "score digits --model digits_net --out {new} --limit 20", SCORE + " --eps nan", "run digits --out {new} --base-lr nan", "run digits --out {new} --base-epochs 0"])
def test_a_refused_command_does_not_spoil_the_folder(first, bad, base, tmp_path, capsys):
    "The right command may follow in the same folder"
    names = dict(bad=bad, new=tmp_path/"new")
    complaint(capsys, *(w.format(**names) for w in first.split()))
    assert main([w.format(**names) for w in SCORE.split()]) == 0
    assert len(pd.read_parquet(tmp_path/"new"/"scores.parquet")) == 20


@pytest.mark.parametrize("stage, wrong, files", [
    ("validate", "--severities 9", ["validation.csv", "weaknesses.json"]), ("validate", "--attack-eps nan", ["validation.csv", "weaknesses.json"]),
    ("validate", "--rule 7", ["validation.csv", "weaknesses.json"]), ("enhance reva", "--lr nan", ["reva/log.csv", "reva/model.safetensors"]), ("enhance reva", "--bs 0", ["reva/log.csv", "reva/model.safetensors"]),
    ("evaluate", "--severities 9", ["evaluation.csv"]), ("evaluate", "--attack-eps 8 300", ["evaluation.csv"])])
def test_a_refused_option_is_not_what_the_folder_was_made_with(stage, wrong, files, copy, capsys):
    run = copy(stage, *files); command = [stage.split()[0], str(run)] + (["--strategy", "reva"] if "enhance" in stage else MEASURE)
    complaint(capsys, *command, *wrong.split())
    assert stage not in Run(run).config["stages"]


def test_pictures_of_every_mode_are_converted(bad, tmp_path):
    "The same grey picture in six modes has six times the same pixels, so the same neighbours and the same score"
    data = pictures(tmp_path/"modes", n=1); grey = Image.open(data/"train/cat/0.png").convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16)*257)
    assert wide.mode == "I;16"
    palette = grey.convert("P"); assert palette.mode == "P"
    for name, im in dict(grey=grey, wide=wide, palette=palette, rgba=grey.convert("RGBA")).items(): im.save(data/f"train/cat/{name}.png")
    grey.convert("RGB").convert("CMYK").save(data/"train/cat/cmyk.tif")
    assert main(["score", str(data), "--model", f"digits_net@{bad}/two.safetensors", "--out", str(tmp_path/"run"), "--n-neighbors", "5"]) == 0
    t = pd.read_parquet(tmp_path/"run"/"scores.parquet")
    cats = t[t.label == 0]; assert len(cats) == 6 and len(t) == 7
    assert cats.score.nunique() == 1 and cats.n_wrong.nunique() == 1 and (cats.score.iloc[0] != t.score.iloc[-1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_picture_loses_nothing(workers, bad, tmp_path, capsys, monkeypatch):
    "Pictures that are read when their block comes: the blocks before it stay, and the mended set goes on"
    monkeypatch.setattr(wrnb.folders, "_IN_MEMORY", 0); monkeypatch.setattr(wrnb.scoring, "_BLOCK", 2)
    data, run = pictures(tmp_path/"data"), tmp_path/"run"
    whole = (data/"train/dog/2.png").read_bytes(); cut(data/"train/dog/2.png")
    command = ["score", str(data), "--model", f"digits_net@{bad}/two.safetensors", "--n-neighbors", "5", "--workers", str(workers), "--out"]
    line = complaint(capsys, *command, run)
    assert f"{data}/train/dog/2.png cannot be read as an image" in line
    if not workers: assert len(list((run/"parts/score").glob("*.parquet"))) == 2
    (data/"train/dog/2.png").write_bytes(whole)
    assert main([*command, str(run)]) == 0 and main([*command, str(tmp_path/"whole")]) == 0
    assert (run/"scores.parquet").read_bytes() == (tmp_path/"whole/scores.parquet").read_bytes()


# --- where nothing can be written ---------------------------------------------------------------------------------

@pytest.fixture
def mounted(tmp_path):
    "A small file system of its own"
    places = []
    def mount(*options):
        place = tmp_path/f"mount{len(places)}"; place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place], capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode: pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount'}")
        places.append(place)
        return place
    yield mount
    for p in places: subprocess.run(["umount", p], check=True)


def test_out_is_a_file(bad, capsys):
    assert f"{bad}/file" in complaint(capsys, *SCORE.format(bad=bad, new=bad/"file").split())


def test_read_only_folder(bad, mounted, tmp_path, capsys):
    if os.geteuid(): out = tmp_path/"locked"; out.mkdir(mode=0o555)
    else: out = mounted("ro", "size=64k")  # the superuser may write where modes forbid it
    line = complaint(capsys, *SCORE.format(bad=bad, new=out/"run").split())
    assert str(out/"run") in line and "--out" in line


def goes_on_where_there_is_room(capsys, command, out, make_room):
    line = complaint(capsys, *command)
    assert str(out) in line and "cannot be written" in line and "make room" in line
    make_room()
    assert main(command) == 0
    return tables(out)


def test_full_disk(base, mounted, capsys, model):
    "Where the disk is full before the last block is saved, the blocks before it stay"
    out = mounted("size=64k"); ballast = out/"ballast"; ballast.write_bytes(bytes(2**15))
    left = goes_on_where_there_is_room(capsys, ["score", "digits", "--model", model, *SETUP, "--n-neighbors", "10", "--out", str(out/"run")], out/"run", ballast.unlink)
    assert left["scores.parquet"] == tables(base)["scores.parquet"]


@pytest.fixture
def limit_file():
    "Sets how large a file may become: it acts as a full disk does, and needs no rights"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=None: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage, files, command, room", [
    ("score", ["scores.parquet"], ["score", "digits", "--out", "{run}", *SETUP, "--n-neighbors", "10"], 1000),
    ("enhance reva", ["reva/log.csv", "reva/model.safetensors"], ["enhance", "{run}", "--strategy", "reva", "--epochs", "3"], 20_000)])
def test_no_room_for_a_file(stage, files, command, room, copy, base, limit_file, capsys):
    run = copy(stage, *files)
    limit_file((run/"config.json").stat().st_size + room)
    assert goes_on_where_there_is_room(capsys, [w.format(run=run) for w in command], run, limit_file) == tables(base)


def test_no_room_for_weights(limit_file, tmp_path):
    net = load_model("digits_net", 10); limit_file(20_000)
    with pytest.raises(WrnbError, match="model.safetensors: cannot be written"): save_weights(net, tmp_path/"model.safetensors")
    limit_file(); assert not (tmp_path/"model.safetensors").exists()
