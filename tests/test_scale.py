"""Several processes: started by `accelerate launch` or by hand, one of them killed, they leave what one process leaves.

Only one fixture pays for a real launch. The other processes are forked from a server that has imported the package
once; each gets its place in the environment, as a launcher or a shell would set it, and a group of its own.
"""
import inspect, multiprocessing, os, signal, socket, subprocess, sys, time

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image

from helpers import ENV, same_bytes, save_again, spoil
from wrnb.cli import main
from wrnb.core import WrnbError, this_process
from wrnb.runs import Run
from wrnb.folders import load_data
from wrnb.enhancement import enhance
from wrnb.models import save_weights, weights_hash
from wrnb.pretrained import load_model
from wrnb.callbacks import unwrapped
from wrnb.training import train
from wrnb.scoring import score_robustness

SETUP = ["--limit", "300", "--test-limit", "30"]
SCORE = ["--limit", "1000", "--n-neighbors", "12"]
SMALL = ["--n-neighbors", "5", "-k", "10", "--families", "noise", "--severities", "5", "--attacks", "pgd"]
RUN = [*SETUP, *SMALL, "--attack-eps", "8", "--protocol", "paper", "--strategies", "reva", "--epochs", "1"]
TWO_MEMBERS = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", *TWO_MEMBERS, "--mixed_precision", "no",
          "--dynamo_backend", "no"]

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["wrnb.cli", "wrnb.all", "fastai.distributed", "sklearn.datasets",
                               "sklearn.model_selection"])


def member(place, printed, work, *args):
    "What a process of several does: take its place, and end with the exit code of `work`"
    os.setsid()
    os.environ.update({k: str(v) for k, v in place.items()}, OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    f = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2): os.dup2(f, stream)
    code = work(*args)
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code or 0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Members:
    "Processes by their number, which can be killed and started again"
    def __init__(self, folder, world=2):
        self.folder, self.world = folder, world
        self.running, self.port = {}, free_port()

    def start(self, rank, work, *args):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=self.world, MASTER_ADDR="127.0.0.1", MASTER_PORT=self.port)
        process = server.Process(target=member, args=(place, self.folder/f"printed{rank}.txt", work, *args))
        self.running[rank] = process
        process.start()

    def start_all(self, work, *args):
        for rank in range(self.world): self.start(rank, work, *args)

    def kill(self, rank):
        os.kill(self.running[rank].pid, signal.SIGKILL)
        self.running[rank].join()

    def printed(self, rank): return (self.folder/f"printed{rank}.txt").read_text()

    def end(self, *ranks, code=0):
        "Wait for these processes, or for all, and look at their exit code"
        for rank in ranks or self.running:
            self.running[rank].join(100)
            left_with = self.running[rank].exitcode
            assert left_with == code, (rank, left_with, self.printed(rank)[-2000:])


@pytest.fixture
def members(tmp_path):
    m = Members(tmp_path)
    yield m
    for p in m.running.values():
        p.kill()
        p.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def scored(home, digits_model):
    "The command without its run folder, and a folder that one process left with it"
    command = ["score", "digits", "--model", digits_model, *SCORE, "--out"]
    assert main([*command, str(home/"alone")]) == 0
    return command, home/"alone"


# --- launched by accelerate -----------------------------------------------------------------------

@pytest.fixture(scope="module")
def launched(home, digits_model):
    "The whole loop by two processes: the run folder, and what was printed"
    command = [*LAUNCH, "-m", "wrnb.cli", "run", "digits", "--model", digits_model, "--out", home/"launched", *RUN]
    p = subprocess.run(command, env=ENV, text=True, capture_output=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]
    return Run(home/"launched"), p.stdout


def first_words(text): return [line.partition(" ")[0] for line in text.splitlines()]


def test_two_processes_leave_the_tables_of_one(launched, digits_model, tmp_path, capsys):
    run, printed = launched
    alone = tmp_path/"one"
    assert main(["run", "digits", "--model", digits_model, "--out", str(alone), *RUN]) == 0
    for name in ("scores.parquet", "weak.csv", "validation.csv", "weaknesses.json"):
        assert same_bytes(name, run.path, alone), name
    two, one = (pd.read_csv(p/"evaluation.csv") for p in (run.path, alone))
    pd.testing.assert_frame_equal(two[two.model == "base"], one[one.model == "base"])
    assert not list((run/"parts").iterdir()) and (run/"report.html").is_file()
    assert not (run/"reva"/"checkpoint.pt").exists()
    # each line once; the last is the path of the page
    assert first_words(printed)[:-1] == first_words(capsys.readouterr().out)[:-1]
    assert run.record("score")["processes"] == 2


def test_both_fine_tune_on_all_images(launched):
    run, _ = launched
    log = pd.read_csv(run/"reva/log.csv")
    assert log.n.tolist() == [256] and log.valid_error.between(0, 1).all()  # 300 images, four steps of 64
    n_wrong = 30*log.valid_error[0]
    assert abs(n_wrong - round(n_wrong)) < 1e-4


# --- started by hand, and killed ------------------------------------------------------------------

def has_part(folder, names): return any((folder/f"{n}.parquet").is_file() for n in names)


def until(ready, members):
    end = time.monotonic() + 100
    while not ready():
        all_run = all(p.exitcode is None for p in members.running.values())
        assert time.monotonic() < end and all_run, [members.printed(rank) for rank in members.running]
        time.sleep(.002)


def share_of(rank): return [f"{block:07d}" for block in range(128*rank, 1000, 256)]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_started_again(scored, members, tmp_path, victim):
    "The other continues, waits, and all ends with the bytes of one process"
    command, alone = scored
    run, other = Run(tmp_path/"run"), 1-victim
    parts = run.parts("score")
    members.start_all(main, [*command, str(run.path)])
    until(lambda: has_part(parts, share_of(victim)), members)
    members.kill(victim)
    assert not (run/"scores.parquet").exists() and not has_part(parts, share_of(victim)[-1:])
    kept = {p: p.stat().st_mtime_ns for p in parts.glob("0*.parquet")}
    until(lambda: all((parts/f"{n}.parquet").is_file() for n in share_of(other)), Members(tmp_path))
    assert members.running[other].is_alive() and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    # nobody does another's share
    assert {p.stem for p in parts.glob("0*.parquet")} == {p.stem for p in kept} | set(share_of(other))
    members.start(victim, main, [*command, str(run.path)])
    members.end()
    assert same_bytes("scores.parquet", run.path, alone) and run.done("score") and not parts.exists()


def test_rounds_of_a_search_are_shared(digits_model, members, tmp_path):
    "Each process decides on the next round from the same table; one is killed between them and started again"
    command = ["score", "digits", "--model", digits_model, *SETUP, "--top-k", "20", "--budget", "2000", "--out"]
    assert main([*command, str(tmp_path/"one")]) == 0
    run = Run(tmp_path/"two")
    parts = run.parts("score")
    members.start_all(main, [*command, str(run.path)])
    until(lambda: len(list(parts.glob("[!.]*.parquet"))) > 3, members)
    members.kill(1)
    members.start(1, main, [*command, str(run.path)])
    members.end()
    for name in ("scores.parquet", "search.csv"): assert same_bytes(name, run.path, tmp_path/"one"), name
    assert len(pd.read_csv(run/"search.csv")) > 2 and not parts.exists()


def test_rounds_of_an_evaluation_are_shared(digits_model, members, tmp_path):
    "As those of a search: one is killed in the second round and started again"
    setup = ["--data", "digits", "--model", digits_model, "--limit", "200", "--test-limit", "60"]
    rounds = ["--attacks", "--half-width", "1.2", "--per-cell", "10"]
    command = ["evaluate", str(tmp_path/"two"), *setup, *rounds]
    assert main(["evaluate", str(tmp_path/"one"), *command[2:]]) == 0
    parts = tmp_path/"two/parts/evaluate"
    members.start_all(main, command)
    until(lambda: any(parts.glob("outcomes-*-[1-5]-*.parquet")), members)
    members.kill(1)
    members.start(1, main, command)
    members.end()
    for name in ("evaluation.csv", "outcomes.parquet", "images.parquet"):
        assert same_bytes(name, tmp_path/"two", tmp_path/"one"), name
    assert not parts.exists() and pd.read_csv(tmp_path/"two/evaluation.csv").n.between(11, 59).any()


def test_what_two_left_unfinished_one_finishes(scored, members, tmp_path):
    command, alone = scored
    run = Run(tmp_path/"run")
    members.start_all(main, [*command, str(run.path)])
    until(lambda: has_part(run.parts("score"), ["0000128"]), members)
    for rank in (0, 1): members.kill(rank)
    assert main([*command, str(run.path)]) == 0
    assert same_bytes("scores.parquet", run.path, alone)


def test_a_process_that_comes_when_all_is_done_reads_the_result(scored, members, tmp_path):
    command, alone = scored
    for start in (members.start_all, lambda *work: members.start(1, *work)):
        start(main, [*command, str(tmp_path/"run")])
        members.end()
    assert same_bytes("scores.parquet", tmp_path/"run", alone) and members.printed(1) == ""


def test_both_killed_before_the_end_was_noted_resume_though_one_left_its_mark(scored, members, tmp_path):
    command, alone = scored
    run = Run(tmp_path/"run")
    members.start_all(main, [*command, str(run.path)])
    members.end()
    config = run.config
    del config["stages"]["score"]["finished"]
    run.write_config(config)
    (run/"scores.parquet").unlink()
    run.parts("score").mkdir()
    (run.parts("score")/".process-1").touch()
    members.start(1, wait_aloud, [*command, str(run.path)])
    until(lambda: "waits for process 0 to enter or end score" in members.printed(1), Members(tmp_path))
    assert not list(run.parts("score").glob("*.parquet"))
    members.kill(1)
    members.start_all(main, [*command, str(run.path)])
    members.end()
    assert same_bytes("scores.parquet", run.path, alone) and not run.parts("score").exists()


def wait_aloud(command):
    "A command that prints what it waits for"
    import wrnb.runs
    real = wrnb.runs.wait_for
    def wait_for(ready, what):
        result = ready()
        if result: return result
        print("waits for", what, flush=True)
        return real(ready, what)
    wrnb.runs.wait_for = wait_for
    return main(command)


def test_parts_stay_until_everybody_has_read_them(scored, members, tmp_path):
    command, alone = scored
    members.start_all(read_slowly, [*command, str(tmp_path/"run")])
    members.end()
    assert same_bytes("scores.parquet", tmp_path/"run", alone)


def read_slowly(command):
    "The second process takes its time over each part, and may write no table but parts"
    import wrnb.scoring, wrnb.tables
    if this_process().rank: wrnb.scoring.write_table = None
    real = wrnb.tables.read_table
    def read_table(path):
        time.sleep(.2*this_process().rank)
        return real(path)
    wrnb.tables.read_table = read_table
    return main(command)


# --- bad input ------------------------------------------------------------------------------------

def test_other_options_are_refused_by_each(launched, digits_model, members):
    run, _ = launched
    command = ["score", "digits", "--model", digits_model, "--out", str(run.path), *SETUP, "--n-neighbors", "6"]
    members.start_all(main, command)
    members.end(code=2)
    refusal = f"{run.path} was made with score --n-neighbors 5, not 6: give the same or choose another --out"
    for rank in (0, 1):
        lines = [line for line in members.printed(rank).splitlines() if line.startswith("wrnb: ")]
        assert lines == [f"wrnb: {refusal}"], members.printed(rank)


def write_pictures(folder, n, split):
    rng = np.random.default_rng(0)
    for c in ("cat", "dog"):
        (folder/split/c).mkdir(parents=True)
        for i in range(n):
            picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(picture).save(folder/split/c/f"{i:03d}.png")


def test_a_bad_image_ends_the_process_that_met_it(members, tmp_path):
    "The other waits; the picture is repaired, the process started again, and both end"
    data = tmp_path/"data"
    write_pictures(data, 130, "train")
    write_pictures(data, 1, "test")
    save_weights(load_model("digits_net", 2), tmp_path/"two.safetensors")
    bad = data/"train/dog/010.png"  # number 140, in block 128 of process 1
    mend = spoil(bad, 300)
    members.start_all(score_files, data, tmp_path)
    members.end(1, code=2)
    assert members.printed(1).startswith(f"wrnb: {bad} cannot be read as an image")
    assert members.printed(1).count("\n") == 1
    assert members.running[0].is_alive()
    mend()
    members.start(1, score_files, data, tmp_path)
    members.end()
    assert len(pd.read_parquet(tmp_path/"run/scores.parquet")) == 260


def test_a_replaced_image_stops_all_with_a_line(members, tmp_path):
    "The picture is replaced by another: the process that is started again has other data, and nobody waits for it"
    data = tmp_path/"data"
    write_pictures(data, 130, "train")
    write_pictures(data, 1, "test")
    save_weights(load_model("digits_net", 2), tmp_path/"two.safetensors")
    bad = data/"train/dog/010.png"
    spoil(bad, 300)
    members.start_all(score_files, data, tmp_path)
    members.end(1, code=2)
    save_again(bad)
    members.start(1, score_files, data, tmp_path)
    members.end(1, code=2)
    last = members.printed(1).splitlines()[-1]
    assert "other data (score data=" in last and "a file that was replaced counts, too" in last
    members.end(0, code=2)
    last = members.printed(0).splitlines()[-1]
    assert last.startswith("wrnb: process 1 was started with other data than this run: start all processes again")
    done = {p: p.stat().st_mtime_ns for p in (tmp_path/"run").rglob("*.parquet")}
    members.start_all(score_files, data, tmp_path)  # refused at once, both, and what was done stays
    members.end(code=2)
    assert done and {p: p.stat().st_mtime_ns for p in (tmp_path/"run").rglob("*.parquet")} == done


def score_files(data, out):
    "Score a set whose pictures stay in their files"
    import wrnb.folders
    wrnb.folders._IN_MEMORY = 0
    model = f"digits_net@{out}/two.safetensors"
    return main(["score", str(data), "--model", model, "--out", str(out/"run"), "--n-neighbors", "2"])


@pytest.fixture
def one_of_two(monkeypatch):
    for name, value in dict(RANK="1", WORLD_SIZE="2").items(): monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)


def test_what_several_processes_cannot_do_is_refused(one_of_two, monkeypatch, tmp_path, capsys):
    digits, test = load_data("digits", limit=65, test_limit=5)
    net = load_model("digits_net", 10)
    def refuses(words, f):
        with pytest.raises(WrnbError, match=words): f()
    refuses("2 processes can share work only in a run folder: give out=",
            lambda: score_robustness(net, digits, n_neighbors=2))
    refuses("training in 2 processes needs MASTER_ADDR", lambda: train(net, digits, test, bs=32))
    refuses("bs=33.*cannot be shared evenly by 2 processes", lambda: train(net, digits, test, bs=33))
    refuses("bs=65.*cannot be shared evenly", lambda: train(net, digits, test, bs=128))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    refuses("pip install accelerate", lambda: train(net, digits, test, bs=32))
    assert main(["corrupt", "digits", "--out", str(tmp_path/"c"), "--limit", "2"]) == 2
    assert "one process" in capsys.readouterr().err
    assert not (tmp_path/"c").exists()


# --- training together ----------------------------------------------------------------------------

class Double(Callback):
    "Pixels as float64, and the gradient of the first step"
    order = 90
    def before_batch(self): self.learn.xb = (self.x.double(),)
    def before_step(self):
        if hasattr(self, "first"): return
        self.first = {n: p.grad.clone() for n, p in unwrapped(self.model).named_parameters()}


def trained(folder):
    "Three epochs in float64: the first gradient, weights and log, and whether the layers are ordinary ones again"
    torch.manual_seed(0)
    net, watch = load_model("digits_net", 10).double(), Double()
    kinds = [type(m) for m in net.modules()]
    digits, test = load_data("digits", limit=300, test_limit=101)
    learn = train(net, digits, test, epochs=3, lr=.1, bs=64, cbs=[watch], device="cpu")
    assert learn.model is net and [type(m) for m in net.modules()] == kinds
    assert [type(d).__name__ for d in learn.dls.loaders] == ["_PictureLoader"]*2
    place = this_process()
    result = dict(first=watch.first, weights=net.state_dict(), log=learn.epoch_log)
    torch.save(result, folder/f"trained{place.rank}of{place.world}.pt")


def test_two_processes_train_as_one_does(members, tmp_path):
    "Gradient, weights, batch norm's statistics and log, in float64, against one process"
    members.start_all(trained, tmp_path)
    trained(tmp_path)
    members.end()
    one, *two = (torch.load(tmp_path/f"trained{p}.pt", weights_only=True) for p in ("0of1", "0of2", "1of2"))
    for t in two:
        for part in ("first", "weights"):
            for name, value in one[part].items():
                where = lambda message: f"{part} {name}: {message}"
                torch.testing.assert_close(t[part][name], value, rtol=1e-9, atol=1e-11, msg=where)
        for a, b in zip(one["log"], t["log"], strict=True): assert b == pytest.approx(a, rel=1e-6)
    for name, value in two[0]["weights"].items(): assert torch.equal(value, two[1]["weights"][name]), name
    assert [row["n"] for row in one["log"]] == [256]*3
    assert not torch.equal(one["weights"]["body.0.weight"], torch.zeros(1))


class Die(Callback):
    "The second process is lost after its second epoch"
    order = 80
    def after_epoch(self):
        if self.epoch == 1 and this_process().rank == 1: os._exit(9)


def enhanced(folder, dies):
    "Fine-tune against attacks, which ask the model in between; one of the two may die"
    import wrnb.enhancement as e
    digits, test = load_data("digits", limit=128, test_limit=20)
    torch.manual_seed(1)
    real_views, real_train = e.Perturbed.views, e.train
    def unwrapped_views(self, model, *args):
        assert not isinstance(model, torch.nn.parallel.DistributedDataParallel)
        return real_views(self, model, *args)
    def mortal(*args, **kwargs):
        arguments = inspect.signature(real_train).bind(*args, **kwargs).arguments
        return real_train(**{**arguments, "cbs": [*arguments.get("cbs", ()), *([Die()] if dies else [])]})
    e.Perturbed.views, e.train = unwrapped_views, mortal
    net = load_model("digits_net", 10)
    try: learn = enhance(net, strategy="adversarial", ds=digits, test=test, epochs=3, bs=32, out=folder, device="cpu")
    except WrnbError as error:
        print(error)
        return 2
    print(weights_hash(learn.model), len(learn.epoch_log))


def test_training_that_loses_a_process_resumes_from_its_checkpoint(members, tmp_path):
    members.start_all(enhanced, tmp_path/"whole", False)
    members.end()
    whole = members.printed(0)
    assert whole == members.printed(1) and whole.endswith(" 3\n")
    members.start_all(enhanced, tmp_path/"cut", True)
    members.end(1, code=9)
    members.end(0, code=2)
    assert "another of the processes that train together was lost" in members.printed(0)
    assert members.printed(0).count("\n") == 1
    assert (tmp_path/"cut/adversarial/checkpoint.pt").is_file()
    members.start_all(enhanced, tmp_path/"cut", False)
    members.end()
    assert members.printed(0) == members.printed(1) == whole
    for name in ("model.safetensors", "log.csv"):
        assert same_bytes(f"adversarial/{name}", tmp_path/"cut", tmp_path/"whole")
