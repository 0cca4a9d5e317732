"""Interrupts a call at every place where it puts, moves or removes a file: just before, and just after

`Interrupted(0)` interrupts nothing and writes down each such event.
"""
import json, os, re, shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import hashes

_REPLACE, _UNLINK, _RMTREE = os.replace, Path.unlink, shutil.rmtree


def tear(path):
    "Leave the first half of a file, as a kill in the middle of its writing does"
    path.write_bytes(path.read_bytes()[:path.stat().st_size//2])


def remove_one(folder):
    "Remove the first file of a folder, as a kill in the middle of its removal does"
    for path in sorted(folder.rglob("*"))[:1]: _UNLINK(path)


class Interrupted:
    "Within it, event `at` (its number from 1, or its name) is interrupted: before it happens, or after; 0: none"
    def __init__(self, at=0, after=False): self.at, self.after, self.events = at, after, []

    def _event(self, name, path, do, begin):
        self.events.append(f"{name} {Path(path).name}")
        now = self.at in (len(self.events), self.events[-1])
        if now and not self.after:
            begin()
            raise KeyboardInterrupt
        do()
        if now: raise KeyboardInterrupt

    def replace(self, old, new):
        self._event("replace", new, lambda: _REPLACE(old, new), lambda: tear(Path(old)))

    def unlink(self, path, missing_ok=False):
        if not os.path.lexists(path): return _UNLINK(path, missing_ok)
        self._event("unlink", path, lambda: _UNLINK(path), lambda: None)

    def rmtree(self, path, *args, **how):
        if not os.path.isdir(path): return _RMTREE(path, *args, **how)
        self._event("rmtree", path, lambda: _RMTREE(path, *args, **how), lambda: remove_one(Path(path)))

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "replace", self.replace)
        self.patch.setattr(Path, "unlink", lambda path, missing_ok=False: self.unlink(path, missing_ok))
        self.patch.setattr(shutil, "rmtree", self.rmtree)
        return self

    def __exit__(self, *error): self.patch.undo()


# --- what is left ---------------------------------------------------------------------------------

_TIMES = "started", "finished"


def without_times(config):
    "What config.json says, but when"
    stages = {k: {n: v for n, v in s.items() if n not in _TIMES} for k, s in config.pop("stages").items()}
    return config | dict(stages=stages)


def left_in(folder):
    "Every file of a folder by its name: a hash, and of config.json what it says"
    configs = {p.relative_to(folder).as_posix(): without_times(json.loads(p.read_text()))
               for p in folder.rglob("config.json")}
    return hashes(folder) | configs


# --- all places of a call --------------------------------------------------------------------------

def kinds_of(events, most):
    "Numbers of the events, from 1; of more than `most`, the first and the last of each kind"
    if len(events) <= most: return list(range(1, len(events) + 1))
    kinds = [re.sub(r"\d+", "0", e) for e in events]
    return sorted({k for kind in kinds for k in (kinds.index(kind) + 1, len(kinds) - kinds[::-1].index(kind))})


def interrupted_everywhere(go, tmp_path, begun=None, most=12, only=""):
    """`go(folder)` is interrupted at each event and called again; each folder has to be like an undisturbed one.
    Folders begin as copies of `begun`. Returns the events"""
    def new(name): return shutil.copytree(begun, tmp_path/name) if begun else tmp_path/name
    whole = new("whole")
    with Interrupted() as seen: go(whole)
    expected = left_in(whole)
    for k in kinds_of(seen.events, most):
        if only not in seen.events[k-1]: continue
        for after in (False, True):
            folder = new(f"{k}-{after}")
            with Interrupted(k, after), pytest.raises(KeyboardInterrupt): go(folder)
            go(folder)
            assert left_in(folder) == expected, f"{'after' if after else 'before'} event {k}, {seen.events[k-1]}"
            _RMTREE(folder)
    return seen.events
