"""Each stage, interrupted at each place where it puts or removes a file, resumes and leaves the same run folder."""
import copy, shutil
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from interruptions import Interrupted, interrupted_everywhere, left_in
from wrnb.benchmark import evaluate, read_evaluation
from wrnb.core import WrnbError
from wrnb.corrections import Corrections
from wrnb.corrupted_copies import save_corrupted
from wrnb.enhancement import enhance
from wrnb.findings import Findings
from wrnb.fine_tuning import fine_tune
from wrnb.heads import HeadFirstCallback
from wrnb.image_sets import subset
from wrnb.loaders import pixel_loaders
from wrnb.loop import Loop
from wrnb.models import weights_hash
from wrnb.monitoring import RobustnessCallback
from wrnb.named import load_data
from wrnb.networks import digits_net
from wrnb.runs import Run
from wrnb.training import _remove_leftovers, train
import wrnb.checks, wrnb.report  # give `Loop` its methods

SETUP = dict(data="digits", model="digits_net", limit=100, test_limit=30)
MEASURE = dict(families="noise", severities=(5,), attacks=("fgsm",), attack_eps=(8,), per_cell=10)


def loop(folder): return Loop(folder, SETUP, say=lambda *line: None)


def base(folder, **how): loop(folder).train_base(**dict(base_epochs=2, base_lr=.1, bs=25) | how)


def score(folder, **how): return loop(folder).score(**dict(n_neighbors=3, eps=.3) | how)


def weak(folder, k=8): return loop(folder).weak(k)


def validate(folder, **how): return loop(folder).validate(**MEASURE | how)


def standard(folder, **how): return loop(folder).enhance("standard", **dict(epochs=1, bs=30) | how)


def measure(folder, **how): return loop(folder).evaluate(**MEASURE | how)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Run folders in which the loop was done up to a stage, by the stage's name"
    home, last = tmp_path_factory.mktemp("home"), None
    steps = dict(base=base, score=score, weak=weak, validate=validate, enhance=standard, evaluate=measure)
    for name, do in steps.items():
        if last: shutil.copytree(home/last, home/name)
        do(home/name)
        last = name
    return home


# --- everywhere -----------------------------------------------------------------------------------

STAGES = {
    "base": (None, base),
    "score": ("base", score),
    "top-k": ("base", partial(score, top_k=10, n_neighbors=1)),
    "certify": ("base", partial(score, noise="gaussian", certify=.99)),
    "weak": ("score", weak),
    "validate": ("weak", validate),
    "enhance": ("validate", standard),
    "evaluate": ("enhance", measure),
    "c-bar": ("enhance", partial(measure, families="c-bar", attacks=(), per_cell=None)),
    "half-width": ("base", partial(measure, attacks=(), per_cell=None, half_width=8)),
    "check": ("base", lambda folder: loop(folder).check(n=20)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_resumes_wherever_it_was_interrupted(stage, home, tmp_path):
    before, go = STAGES[stage]
    events = interrupted_everywhere(go, tmp_path, before and home/before, most=4)
    assert events.count("replace config.json") >= 2, "it is entered and ended"


def test_an_evaluation_takes_answers_of_a_check_and_resumes(home, tmp_path):
    shutil.copytree(home/"base", tmp_path/"begun")
    loop(tmp_path/"begun").check(n=20)
    interrupted_everywhere(measure, tmp_path, tmp_path/"begun", most=6)


@pytest.mark.parametrize("preset", ["cifar-c", "imagenet-c"])
def test_a_corrupted_copy_resumes(preset, tmp_path):
    ds = load_data("digits", limit=4, test_limit=1)[0]
    go = partial(save_corrupted, ds, names=["brightness", "contrast"], preset=preset)
    interrupted_everywhere(lambda folder: go(folder), tmp_path, most=6)


def test_decisions_are_whole_or_absent(tmp_path):
    "A decision that was written is not lost, one that was not can be made again"
    ds = load_data("digits", limit=5, test_limit=1)[0]
    for after in (False, True):
        notes = Corrections(tmp_path/str(after), ds)
        notes.decide(0, "drop")
        with Interrupted(1, after), pytest.raises(KeyboardInterrupt): notes.decide(1, "keep")
        assert Corrections(tmp_path/str(after), ds).table.id.tolist() == ds.ids[:1 + after]
        Corrections(tmp_path/str(after), ds).decide(1, "keep")
        assert notes.table.action.tolist() == ["drop", "keep"]
        assert [p.name for p in (tmp_path/str(after)).iterdir()] == ["corrections.csv"]


# --- fine-tuning ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def digits(): return load_data("digits", limit=110, test_limit=30)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return digits_net(10).eval()


STRATEGIES = {name: dict(strategy=name) for name in ("augmix", "adversarial", "prime", "hybrid")} | {
    guide: dict(strategy="reva", guide=guide) for guide in ("uniform", "online", "gain")} | {
    "head first": dict(strategy="standard", head_epochs=1)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_fine_tuning_resumes_from_each_of_its_checkpoints(name, net, digits, tmp_path):
    "After the last one, too: no epoch is left, but the step back is"
    how = dict(ds=digits[0], test=digits[1], bs=50, epochs=2, protocol="extra") | STRATEGIES[name]
    def go(folder): enhance(net, None, out=folder, **how)
    events = interrupted_everywhere(go, tmp_path, most=1, only="replace checkpoint.pt")
    assert events.count("replace checkpoint.pt") == 2 and events[-1] == "unlink checkpoint.pt"


def test_reva_resumes_wherever_it_was_interrupted(net, digits, tmp_path):
    def go(folder):
        enhance(net, None, guide="online", ds=digits[0], test=digits[1], out=folder, bs=50, epochs=1, protocol="extra")
    assert "replace guide.csv" in interrupted_everywhere(go, tmp_path)


# --- between two files ----------------------------------------------------------------------------

BETWEEN = {
    "before the first block": ("base", score, "wrnb.scoring._Scorer._all_images"),
    "after the last block": ("base", score, "wrnb.scoring._score_table"),
    "before weaknesses": ("weak", validate, "wrnb.validation._save_split"),
    "after the last cell": ("weak", validate, "wrnb.validation.warn_of_chance"),
    "before the first epoch": ("validate", standard, "wrnb.enhancement.train"),
    "while alpha is chosen": ("validate", standard, "wrnb.enhancement.choose_alpha"),
    "before intervals": ("enhance", measure, "wrnb.benchmark.with_intervals")}


def stop(*args, **how): raise KeyboardInterrupt


@pytest.mark.parametrize("place", BETWEEN)
def test_an_interruption_between_two_files_changes_nothing(place, home, tmp_path, monkeypatch):
    before, go, function = BETWEEN[place]
    for name in ("whole", "cut"): shutil.copytree(home/before, tmp_path/name)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(function, stop)
        go(tmp_path/"cut")
    for name in ("whole", "cut"): go(tmp_path/name)
    assert left_in(tmp_path/"cut") == left_in(tmp_path/"whole")


def test_what_a_check_of_precisions_said_is_kept_with_the_stage(home, tmp_path):
    "The first file that is put in place is the record: what follows is interrupted"
    run = Run(shutil.copytree(home/"base", tmp_path/"run"))
    with Interrupted(1, after=True), pytest.raises(KeyboardInterrupt): score(run.path, precision="auto")
    score(run.path, precision="auto")
    assert "bf16 is" in run.record("score")["precision_check"]


# --- and then other options -----------------------------------------------------------------------

OTHERS = {
    "score": ("base", score, dict(n_neighbors=4), "n_neighbors=3, not 4"),
    "weak": ("score", weak, dict(k=7), "k=8, not 7"),
    "validate": ("weak", validate, dict(severities=(4, 5)), "perturbations="),
    "enhance": ("validate", standard, dict(lr=.01), "lr=0.02, not 0.01"),
    "evaluate": ("enhance", measure, dict(severities=(4, 5)), "evaluate .*, not "),
    "base": (None, base, dict(base_lr=.05), "lr=0.1, not 0.05")}


@pytest.mark.parametrize("stage", OTHERS)
def test_other_options_after_an_interruption_are_refused(stage, home, tmp_path):
    before, go, others, message = OTHERS[stage]
    for name in ("whole", "cut"): before and shutil.copytree(home/before, tmp_path/name)
    at = 3 if stage == "base" else 2  # the record is written, the next file is not
    with Interrupted(at), pytest.raises(KeyboardInterrupt): go(tmp_path/"cut")
    left = left_in(tmp_path/"cut")
    with pytest.raises(WrnbError, match=message): go(tmp_path/"cut", **others)
    assert left_in(tmp_path/"cut") == left
    for name in ("whole", "cut"): go(tmp_path/name)
    assert left_in(tmp_path/"cut") == left_in(tmp_path/"whole")


@pytest.mark.parametrize("go, result, others, begun", [
    (base, "base/model.safetensors", dict(base_lr=.05), None),
    (standard, "standard/model.safetensors", dict(lr=.01), "validate")])
def test_a_training_begun_anew_does_not_resume_from_the_checkpoint_of_another(
        go, result, others, begun, home, tmp_path):
    "Killed before it removed its checkpoint; then the model is deleted, and it is trained with other options"
    for name in ("whole", "cut"): begun and shutil.copytree(home/begun, tmp_path/name)
    go(tmp_path/"whole")
    with Interrupted("unlink checkpoint.pt"), pytest.raises(KeyboardInterrupt): go(tmp_path/"cut")
    for name in ("whole", "cut"):
        (tmp_path/name/result).unlink()
        go(tmp_path/name, **others)
    assert left_in(tmp_path/"cut") == left_in(tmp_path/"whole")


def test_parts_of_a_stage_that_no_record_knows_are_not_taken(home, tmp_path):
    "Somebody removed config.json after an interruption, and begins with other options"
    models = dict(base=digits_net(10).eval())
    test = load_data("digits", limit=1, test_limit=20)[1]
    go = partial(evaluate, models, test, families="noise", severities=5, attack_names=())
    with Interrupted(3, after=True), pytest.raises(KeyboardInterrupt): go(seed=1, out=tmp_path/"cut")
    (tmp_path/"cut/config.json").unlink()
    for name in ("whole", "cut"): go(seed=0, out=tmp_path/name)
    assert left_in(tmp_path/"cut") == left_in(tmp_path/"whole")


CHANGES = dict(epochs=1), dict(epochs=4), dict(lr=.05), dict(bs=20), dict(seed=1), dict(layer_lrs=.5)


@pytest.mark.parametrize("others", CHANGES)
def test_a_checkpoint_is_not_taken_by_a_training_with_other_settings(others, net, digits, tmp_path):
    small = subset(digits[0], range(40))
    go = lambda **how: train(copy.deepcopy(net), small, digits[1], out=tmp_path, **dict(epochs=2, lr=.1, bs=40) | how)
    go()
    name, = others
    with pytest.raises(WrnbError, match=f"checkpoint.pt is of a training with {name}=.*delete it to begin anew"):
        go(**others)
    assert len(go().epoch_log) == 2


def test_a_checkpoint_is_not_taken_by_a_training_on_other_images(net, digits, tmp_path):
    go = lambda some: train(copy.deepcopy(net), subset(digits[0], some), digits[1], out=tmp_path, epochs=1)
    go(range(40))
    with pytest.raises(WrnbError, match="other training images"): go(range(1, 41))


def test_features_of_another_model_are_not_taken(net, digits, tmp_path):
    "No images are laid aside of so few, and the probe alone is kept"
    small, other = subset(digits[0], range(45)), copy.deepcopy(net)
    with torch.no_grad(): next(other.parameters()).mul_(-1)
    go = lambda model, **how: fine_tune(copy.deepcopy(model), small, digits[1], epochs=1, **how).model
    go(net, out=tmp_path)
    assert (tmp_path/"features.safetensors").is_file()
    assert weights_hash(go(other, out=tmp_path)) == weights_hash(go(other))


def test_an_evaluation_that_is_begun_anew_is_not_read_as_the_old_one(home, tmp_path):
    "Another model came in, and its evaluation was interrupted: the table is of the one before, the record is not"
    run = Run(shutil.copytree(home/"evaluate", tmp_path/"run"))
    loop(run.path).enhance("augmix", epochs=1, bs=30)
    more = dict(severities=(1, 5), per_cell=None)
    with Interrupted(4), pytest.raises(KeyboardInterrupt): measure(run.path, **more)
    with pytest.raises(WrnbError, match="is of an evaluation that did not end"): read_evaluation(run.path)
    assert Findings(loop(run.path)).evaluation is None
    assert set(measure(run.path, **more).table.model) == {"base", "standard", "augmix"}


def test_an_interruption_while_the_head_learns_alone_freezes_nothing(net, digits):
    model = copy.deepcopy(net)
    with pytest.raises(KeyboardInterrupt):
        train(model, subset(digits[0], range(40)), digits[1], epochs=2, cbs=[HeadFirstCallback(1), Stop(0)])
    assert all(p.requires_grad for p in model.parameters())


# --- a plain fastai Learner -----------------------------------------------------------------------

@pytest.fixture
def learn(digits):
    torch.manual_seed(0)
    dls = pixel_loaders(subset(digits[0], range(40)), digits[1], 20, "cpu", 0)
    return Learner(dls, digits_net(10), CrossEntropyLossFlat())


def watch(): return RobustnessCallback(per_cell=1, n_images=10, n_neighbors=1, severities=5, budget=None)


def fit(learn, *args, **how):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **how)


class Stop(Callback):
    "Interrupts an epoch after its measurement"
    order = 46
    def __init__(self, epoch): self.at = epoch
    def after_validate(self):
        if self.epoch == self.at: raise KeyboardInterrupt


def test_a_fit_that_was_interrupted_is_watched_to_its_end(learn):
    cb = watch()
    with pytest.raises(KeyboardInterrupt): fit(learn, 3, 1e-2, cbs=[cb, Stop(1)])
    assert learn.recorder.robustness_table.epoch.tolist() == [0, 1]
    fit(learn, 3, 1e-2, cbs=cb, start_epoch=1)
    assert learn.recorder.robustness_table.epoch.tolist() == [1, 2]
    assert list(learn.recorder.metric_names).count("weak_share") == 1 and not learn.metrics


def test_a_fit_without_an_epoch_left_measures_nothing_and_leaves_no_column(learn):
    cb = watch()
    for how in (dict(start_epoch=2), {}):
        fit(learn, 2, 1e-2, cbs=cb, **how)
        assert not learn.metrics
        assert hasattr(learn.recorder, "robustness_table") == (not how)
    kept = learn.recorder.robustness_table
    for n in (0, 2): fit(learn, n, 1e-2, cbs=cb, start_epoch=n)
    assert learn.recorder.robustness_table is kept and kept.epoch.tolist() == [0, 1]


def test_a_fit_after_an_interrupted_one_does_not_repeat_its_measurement(learn):
    "The callback was for the interrupted fit alone; what it measured is not of the epochs of the next one"
    with pytest.raises(KeyboardInterrupt): fit(learn, 2, 1e-2, cbs=[watch(), Stop(1)])
    fit(learn, 1, 1e-2)
    row = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    assert row.keys() >= {"train_loss", "valid_loss"}
    assert not any(value == value for name, value in row.items() if name in ("corruption_error", "weak_share"))


def test_leftovers_that_cannot_be_removed_are_told_in_a_line(tmp_path, monkeypatch):
    "As in a folder that can only be read, where even the removal of nothing is an error"
    def refuse(*args, **how): raise OSError(30, "Read-only file system")
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    _remove_leftovers(tmp_path)
    (tmp_path/"checkpoint.pt").write_bytes(b"")
    with pytest.raises(WrnbError, match="checkpoint.pt: cannot be removed .Read-only"): _remove_leftovers(tmp_path)
