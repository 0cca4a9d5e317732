"""Several processes: started by `accelerate launch` or by hand, one of them killed, they leave what one process leaves.

Only the first fixture pays for a real launch. The other processes are forked from a server that has imported the package once;
each gets its place in the environment, as a launcher or a shell would set it, and a group of its own.
"""
import multiprocessing, os, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from fastai.callback.core import Callback
from wrnb.cli import main
from wrnb.core import WrnbError, this_process
from wrnb.runs import Run, read_json
from wrnb.data import load_data
from wrnb.enhancement import enhance
from wrnb.models import save_weights, weights_hash
from wrnb.pretrained import load_model
from wrnb.training import unwrapped, train
from wrnb.scoring import score_robustness

ROOT = Path(__file__).resolve().parent.parent
ENV = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
SETUP = ["--limit", "300", "--test-limit", "30"]
SCORE = ["--limit", "1000", "--n-neighbors", "12"]
RUN = [*SETUP, "--n-neighbors", "5", "-k", "10", "--families", "noise", "--severities", "5", "--attacks", "pgd", "--attack-eps", "8",
       "--protocol", "paper", "--strategies", "reva", "--epochs", "1"]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["wrnb.cli", "wrnb.all", "fastai.distributed", "sklearn.datasets", "sklearn.model_selection"])


def member(place, said, work, *args):
    "What a process of several does: take its place, and end with the exit code of `work`"
    os.setsid(); os.environ.update({k: str(v) for k, v in place.items()}, OMP_NUM_THREADS="1"); torch.set_num_threads(1)
    f = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC); os.dup2(f, 1); os.dup2(f, 2)
    code = work(*args); sys.stdout.flush(); sys.stderr.flush()
    os._exit(code or 0)


class Members:
    "Processes by their number, which can be killed and started again"
    def __init__(self, folder, world=2):
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        self.folder, self.world, self.running, self.port = folder, world, {}, port

    def start(self, rank, work, *args):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=self.world, MASTER_ADDR="127.0.0.1", MASTER_PORT=self.port)
        self.running[rank] = server.Process(target=member, args=(place, self.folder/f"said{rank}.txt", work, *args)); self.running[rank].start()

    def start_all(self, work, *args):
        for r in range(self.world): self.start(r, work, *args)
    def kill(self, rank): os.kill(self.running[rank].pid, signal.SIGKILL); self.running[rank].join()
    def said(self, rank): return (self.folder/f"said{rank}.txt").read_text()
    def end(self, *ranks, code=0):
        for r in ranks or self.running:
            self.running[r].join(100); assert self.running[r].exitcode == code, (r, self.running[r].exitcode, self.said(r)[-2000:])


@pytest.fixture
def members(tmp_path):
    m = Members(tmp_path); yield m
    for p in m.running.values(): p.kill(); p.join()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def model(home):
    "A classifier that has learned something"
    digits, test = load_data("digits")
    save_weights(train(load_model("digits_net", 10), digits, test, 3, .2, 64).model, home/"net.safetensors")
    return f"digits_net@{home/'net.safetensors'}"


@pytest.fixture(scope="module")
def scored(home, model):
    "What one process leaves of `wrnb score`, and the command without its run folder"
    command = ["score", "digits", "--model", model, *SCORE, "--out"]
    assert main([*command, str(home/"alone")]) == 0
    return command, (home/"alone/scores.parquet").read_bytes()


# --- launched by accelerate ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def launched(home, model):
    "The whole loop by two processes: the run folder, and what was said"
    run = home/"launched"
    p = subprocess.run([*LAUNCH, "-m", "wrnb.cli", "run", "digits", "--model", model, "--out", run, *RUN], env=ENV, text=True, capture_output=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]
    return Run(run), p.stdout


def test_two_processes_leave_the_tables_of_one(launched, model, tmp_path, capsys):
    run, said = launched
    assert main(["run", "digits", "--model", model, "--out", str(tmp_path/"one"), *RUN]) == 0
    for f in ("scores.parquet", "weak.csv", "validation.csv", "weaknesses.json"): assert (run/f).read_bytes() == (tmp_path/"one"/f).read_bytes(), f
    two, one = (pd.read_csv(p/"evaluation.csv") for p in (run.path, tmp_path/"one"))
    pd.testing.assert_frame_equal(two[two.model == "base"], one[one.model == "base"])
    assert not list((run/"parts").iterdir()) and (run/"report.html").is_file() and not (run/"reva"/"checkpoint.pt").exists()
    lines = lambda text: [l.partition(" ")[0] for l in text.splitlines()]
    assert lines(said)[:-1] == lines(capsys.readouterr().out)[:-1]  # each line once; the last is the path of the page
    assert run.config["stages"]["score"]["processes"] == 2


def test_both_fine_tune_on_all_images(launched):
    run, _ = launched; log = pd.read_csv(run/"reva/log.csv"); one = load_model("digits_net", 10)
    assert log.n.tolist() == [256] and log.valid_error.between(0, 1).all()  # 300 images, four steps of 64
    assert (log.valid_error*30).round(4).tolist() == [round(log.valid_error[0]*30)]


# --- started by hand, and killed ----------------------------------------------------------------------------------

def has_parts(folder, names): return any((folder/f"{n}.parquet").is_file() for n in names)

def until(ready, members):
    end = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < end and all(p.exitcode is None for p in members.running.values()), [members.said(r) for r in members.running]
        time.sleep(.002)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_started_again(scored, members, tmp_path, victim):
    "The other goes on, waits, and all ends with the bytes of one process"
    command, whole = scored; run = Run(tmp_path/"run"); parts = run.parts("score"); own = [f"{b:07d}" for b in range(128*victim, 1000, 256)]
    members.start_all(main, [*command, str(run.path)])
    until(lambda: has_parts(parts, own), members); members.kill(victim)
    assert not (run/"scores.parquet").exists() and not has_parts(parts, own[-1:])
    kept = {p: p.stat().st_mtime_ns for p in parts.glob("0*.parquet")}
    other = [f"{b:07d}" for b in range(128*(1-victim), 1000, 256)]
    until(lambda: all((parts/f"{n}.parquet").is_file() for n in other), Members(tmp_path))
    assert members.running[1-victim].is_alive() and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert {p.stem for p in parts.glob("0*.parquet")} == {p.stem for p in kept} | set(other)  # nobody does another's share
    members.start(victim, main, [*command, str(run.path)]); members.end()
    assert (run/"scores.parquet").read_bytes() == whole and run.done("score") and not parts.exists()


def test_rounds_of_a_search_are_shared(model, members, tmp_path):
    "Every process decides on the next round from the same table; one is killed between them and started again"
    command = ["score", "digits", "--model", model, *SETUP, "--top-k", "20", "--budget", "2000", "--out"]
    assert main([*command, str(tmp_path/"one")]) == 0
    run = Run(tmp_path/"two"); parts = run.parts("score")
    members.start_all(main, [*command, str(run.path)])
    until(lambda: len(list(parts.glob("[!.]*.parquet"))) > 3, members); members.kill(1)
    members.start(1, main, [*command, str(run.path)]); members.end()
    for f in ("scores.parquet", "search.csv"): assert (run/f).read_bytes() == (tmp_path/"one"/f).read_bytes(), f
    assert len(pd.read_csv(run/"search.csv")) > 2 and not parts.exists()


def test_what_two_left_unfinished_one_finishes(scored, members, tmp_path):
    command, whole = scored; run = Run(tmp_path/"run")
    members.start_all(main, [*command, str(run.path)])
    until(lambda: has_parts(run.parts("score"), ["0000128"]), members)
    for r in (0, 1): members.kill(r)
    assert main([*command, str(run.path)]) == 0
    assert (run/"scores.parquet").read_bytes() == whole


def test_started_again_at_or_after_the_end_of_the_stage(scored, members, tmp_path):
    "A process that comes when all is done reads the result; both, killed before the end was noted, go on though one had left its mark"
    command, whole = scored; run = Run(tmp_path/"run"); table = run/"scores.parquet"
    members.start_all(main, [*command, str(run.path)]); members.end()
    members.start(1, main, [*command, str(run.path)]); members.end()
    assert table.read_bytes() == whole and members.said(1) == ""
    config = run.config; del config["stages"]["score"]["finished"]; run.write_config(config)
    table.unlink(); run.parts("score").mkdir(); (run.parts("score")/".process-1").touch()
    members.start(1, wait_aloud, [*command, str(run.path)])
    until(lambda: "waits for process 0 to enter or end score" in members.said(1), Members(tmp_path))
    assert not list(run.parts("score").glob("*.parquet")); members.kill(1)
    members.start_all(main, [*command, str(run.path)]); members.end()
    assert table.read_bytes() == whole and not run.parts("score").exists()


def wait_aloud(command):
    import wrnb.core
    real = wrnb.core.wait_for
    wrnb.core.wait_for = lambda ready, what: ready() or print("waits for", what, flush=True) or real(ready, what)
    return main(command)


def test_parts_stay_until_everybody_has_read_them(scored, members, tmp_path):
    command, whole = scored
    members.start_all(read_slowly, [*command, str(tmp_path/"run")]); members.end()
    assert (tmp_path/"run/scores.parquet").read_bytes() == whole


def read_slowly(command):
    "The second process takes its time over each part, and may write no table but parts"
    import wrnb.core, wrnb.scoring
    if this_process().rank: wrnb.scoring.write_table = None
    real = wrnb.core.read_table
    wrnb.core.read_table = lambda path: (time.sleep(.2*this_process().rank), real(path))[1]
    return main(command)


# --- bad input ----------------------------------------------------------------------------------------------------

def test_other_options_are_refused_by_each(launched, model, members):
    run, _ = launched
    members.start_all(main, ["score", "digits", "--model", model, "--out", str(run.path), *SETUP, "--n-neighbors", "6"]); members.end(code=2)
    for r in (0, 1): assert members.said(r).splitlines()[-1] == f"wrnb: {run.path} was made with score n_neighbors=5, not 6: give the same or choose another --out"


def test_a_bad_image_ends_the_process_that_met_it(members, tmp_path):
    "The other waits; the picture is repaired, the process started again, and both end"
    rng = np.random.default_rng(0); data = tmp_path/"data"
    for split, n in (("train", 130), ("test", 1)):
        for c in ("cat", "dog"):
            (data/split/c).mkdir(parents=True)
            for i in range(n): Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(data/split/c/f"{i:03d}.png")
    save_weights(load_model("digits_net", 2), tmp_path/"two.safetensors")
    bad = data/"train/dog/010.png"; good = bad.read_bytes(); bad.write_bytes(good[:-300])  # number 140, in block 128 of process 1
    members.start_all(score_files, data, tmp_path); members.end(1, code=2)
    assert members.said(1).startswith(f"wrnb: {bad} cannot be read as an image") and members.said(1).count("\n") == 1
    assert members.running[0].is_alive()
    bad.write_bytes(good); members.start(1, score_files, data, tmp_path); members.end()
    assert len(pd.read_parquet(tmp_path/"run/scores.parquet")) == 260


def score_files(data, out):
    "Of a set whose pictures stay in their files"
    import wrnb.folders
    wrnb.folders._IN_MEMORY = 0
    return main(["score", str(data), "--model", f"digits_net@{out}/two.safetensors", "--out", str(out/"run"), "--n-neighbors", "2"])


@pytest.fixture
def one_of_two(monkeypatch):
    for k, v in dict(RANK="1", WORLD_SIZE="2").items(): monkeypatch.setenv(k, v)
    monkeypatch.delenv("MASTER_ADDR", raising=False)


def test_what_several_processes_cannot_do_is_said(one_of_two, monkeypatch, tmp_path, capsys):
    digits, test = load_data("digits", limit=65, test_limit=5); net = load_model("digits_net", 10)
    def refuses(what, f):
        with pytest.raises(WrnbError, match=what): f()
    refuses("2 processes can share work only in a run folder: give --out", lambda: score_robustness(net, digits, n_neighbors=2))
    refuses("training in 2 processes needs MASTER_ADDR", lambda: train(net, digits, test, bs=32))
    refuses("bs=33 images per step cannot be shared evenly by 2 processes", lambda: train(net, digits, test, bs=33))
    refuses("bs=65 images per step cannot be shared evenly", lambda: train(net, digits, test, bs=128))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    refuses("pip install accelerate", lambda: train(net, digits, test, bs=32))
    assert main(["corrupt", "digits", "--out", str(tmp_path/"c"), "--limit", "2"]) == 2 and "one process" in capsys.readouterr().err
    assert not (tmp_path/"c").exists()


# --- training together --------------------------------------------------------------------------------------------

class Double(Callback):
    "Pixels as float64, and the gradient of the first step"
    order = 90
    def before_batch(self): self.learn.xb = (self.x.double(),)
    def before_step(self):
        if not hasattr(self, "first"): self.first = {n: p.grad.clone() for n, p in unwrapped(self.model).named_parameters()}


def trained(folder):
    "Three epochs in float64: the first gradient, weights and log, and whether the layers are ordinary ones again"
    torch.manual_seed(0); net, watch = load_model("digits_net", 10).double(), Double(); kinds = [type(m) for m in net.modules()]
    digits, test = load_data("digits", limit=300, test_limit=101)
    learn = train(net, digits, test, epochs=3, lr=.1, bs=64, cbs=[watch], device="cpu")
    assert learn.model is net and [type(m) for m in net.modules()] == kinds and [type(d).__name__ for d in learn.dls.loaders] == ["PixelLoader"]*2
    torch.save(dict(first=watch.first, weights=net.state_dict(), log=learn.epoch_log), folder/f"trained{this_process().rank}of{this_process().world}.pt")


def test_two_processes_train_as_one_does(members, tmp_path):
    "Gradient, weights, batch norm's statistics and log, in float64, against one process without anything of ours for several"
    members.start_all(trained, tmp_path); trained(tmp_path); members.end()
    one, *two = (torch.load(tmp_path/f"trained{p}.pt", weights_only=True) for p in ("0of1", "0of2", "1of2"))
    for t in two:
        for what in ("first", "weights"):
            for k, v in one[what].items(): torch.testing.assert_close(t[what][k], v, rtol=1e-9, atol=1e-11, msg=lambda m: f"{what} {k}: {m}")
        for a, b in zip(one["log"], t["log"], strict=True): assert b == pytest.approx(a, rel=1e-6)
    for k, v in two[0]["weights"].items(): assert torch.equal(v, two[1]["weights"][k]), k
    assert [r["n"] for r in one["log"]] == [256]*3 and not torch.equal(one["weights"]["body.0.weight"], torch.zeros(1))


class Die(Callback):
    order = 80
    def after_epoch(self):
        if self.epoch == 1 and this_process().rank == 1: os._exit(9)


def enhanced(folder, dies):
    "Against attacks, which ask the model in between; one of the two dies after the second epoch"
    import wrnb.enhancement as e
    digits, test = load_data("digits", limit=128, test_limit=20); torch.manual_seed(1)
    real, views = e.train, e.Perturbed.views
    def unwrapped_views(self, model, *args):
        assert not isinstance(model, torch.nn.parallel.DistributedDataParallel)
        return views(self, model, *args)
    e.Perturbed.views = unwrapped_views
    def mortal(*args, cbs, **kwargs): return real(*args, cbs=[*cbs, *([Die()] if dies else [])], **kwargs)
    e.train = mortal
    try: learn = enhance(load_model("digits_net", 10), strategy="adversarial", ds=digits, test=test, epochs=3, bs=32, out=folder, device="cpu")
    except WrnbError as error: print(error); return 2
    print(weights_hash(learn.model), len(learn.epoch_log))


def test_training_that_loses_a_process_goes_on_from_its_checkpoint(members, tmp_path):
    members.start_all(enhanced, tmp_path/"whole", False); members.end(); whole = members.said(0)
    assert whole == members.said(1) and whole.endswith(" 3\n")
    members.start_all(enhanced, tmp_path/"cut", True); members.end(1, code=9); members.end(0, code=2)
    assert members.said(0) == "another of the processes that train together was lost: start all of them again, finished epochs stay\n"
    assert (tmp_path/"cut/adversarial/checkpoint.pt").is_file()
    members.start_all(enhanced, tmp_path/"cut", False); members.end()
    assert members.said(0) == members.said(1) == whole
    for f in ("model.safetensors", "log.csv"): assert (tmp_path/"cut/adversarial"/f).read_bytes() == (tmp_path/"whole/adversarial"/f).read_bytes()
