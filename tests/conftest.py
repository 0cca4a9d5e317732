"""Fixtures that several test files use."""
import os, resource, shutil, subprocess

os.environ["HF_HUB_OFFLINE"] = "1"  # read when their libraries are imported: no test asks a hub

import pytest
import torch

from wrnb.folders import load_data
from wrnb.models import save_weights
from wrnb.pretrained import load_model
from wrnb.training import train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "One thread, as in the processes that tests start: another number of threads rounds otherwise"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory):
    "A trained classifier of the digits, named as `--model` takes it"
    torch.set_num_threads(1)
    torch.manual_seed(1)
    digits, test = load_data("digits")
    learn = train(load_model("digits_net", 10), digits, test, epochs=5, lr=.2, bs=64, device="cpu")
    path = tmp_path_factory.mktemp("model")/"digits.safetensors"
    save_weights(learn.model, path)
    return f"digits_net@{path}"


@pytest.fixture
def limit_file():
    "Sets how large a file may become: it acts as a full disk does, and needs no rights"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    def limit(size=soft): resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield limit
    limit()


@pytest.fixture
def mounted(tmp_path):
    "Mounts small file systems; skips the test if that is not allowed here"
    places = []
    def mount(*options):
        if not shutil.which("mount"): pytest.skip("there is no mount here")
        place = tmp_path/f"mount{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode: pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place
    yield mount
    for place in places: subprocess.run(["umount", place], check=True)
