"""A function that was edited between two calls of a sweep is noticed; what says nothing is not."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.sweeping.engine import Job, Trial
from attnsurgeon.sweeping.versions import SWEEPS, digest_of, note_version, refuse_edited

FILE = '''
import json
RATE = 0.1
UNUSED = 3

def helper(x):
    return RATE * x

def other(x):
    return x

class Net:
    def forward(self, x):
        return helper(x)

def run(folder, report, lr=1.0):
    """Trains."""
    report({"accuracy": Net().forward(lr)})

if __name__ == "__main__":
    workers = 2
'''


def version(tmp_path: Path, text: str, name: str = "run") -> str | None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    spec: Any = importlib.util.spec_from_file_location("mine_of_versions", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine_of_versions"] = module
    try:
        spec.loader.exec_module(module)
        return digest_of(getattr(module, name))
    finally:
        del sys.modules["mine_of_versions"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Net().forward(lr)", "-Net().forward(lr)"),
        ("return RATE * x", "return RATE + x"),  # of what a class of its uses
        ("RATE = 0.1", "RATE = 0.25"),
        ("lr=1.0", "lr=2.0"),
    ],
)
def test_what_the_function_is_or_reaches_is_another_version(old, new, tmp_path):
    assert old in FILE
    assert version(tmp_path, FILE) != version(tmp_path, FILE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("UNUSED = 3", "UNUSED = 4"),
        ("def other(x):\n    return x", "def other(x):\n    return -x"),
        ("workers = 2", "workers = 4"),
        ("RATE = 0.1", "RATE  =  0.1  # a rate\n"),
    ],
)
def test_what_it_does_not_use_and_what_says_nothing_is_the_same_version(old, new, tmp_path):
    assert old in FILE
    assert version(tmp_path, FILE) == version(tmp_path, FILE.replace(old, new)) is not None


class Trainer:
    def __init__(self, lr=0.1):
        self.lr = lr
        self.seen = object()

    def __call__(self, folder, report):
        report({"accuracy": 1.0})


def test_partial_functions_objects_and_lambdas_have_a_version_and_built_ins_none():
    assert digest_of(functools.partial(version)) == digest_of(version)
    assert digest_of(Trainer()) not in (None, digest_of(version))
    one, other = (lambda folder, report: report({"a": 1})), (lambda folder, report: None)
    assert digest_of(one) is not None
    assert digest_of(other) is not None
    assert digest_of(print) is None


def test_values_that_are_bound_to_a_function_are_part_of_its_version():
    def bound(**values):
        return digest_of(functools.partial(version, **values))

    assert bound(lr=0.1) == bound(lr=0.1) != bound(lr=0.2)
    assert bound(sizes=(1, 2)) != bound(sizes=(1, 3))
    assert bound(data=object()) == bound(data=object())  # no text says what it holds
    assert digest_of(Trainer(0.1)) == digest_of(Trainer(0.1)) != digest_of(Trainer(0.2))


@pytest.fixture
def job(tmp_path):
    (tmp_path / "variants").mkdir()
    (tmp_path / "runs" / "v-1").mkdir(parents=True)
    return Job(
        tmp_path / "variants",
        ("a", "b"),
        print,
        {},
        "accuracy",
        "max",
        str(tmp_path / "runs"),
        "v-1",
    )


def trials(*done: bool) -> list[Trial]:
    return [Trial("a", {}, one) for one in done]


def test_an_edited_function_is_refused_where_trials_ended_and_yes_can_be_said(job):
    refuse_edited(job, "first", False)
    note_version(job, "first", trials(True, False, True))
    refuse_edited(job, "first", False)
    with pytest.raises(UsageError, match="edited since 2 trials of this sweep ended") as told:
        refuse_edited(job, "second", False)
    assert "edited=True" in str(told.value.hint)
    refuse_edited(job, "second", True)
    note_version(job, "second")  # begun, and killed
    with pytest.raises(UsageError, match="edited since trials of this sweep ended"):
        refuse_edited(job, "third", False)


def test_where_nothing_ended_or_began_or_is_known_it_goes_on(job):
    note_version(job, "first", trials(False, False))
    refuse_edited(job, "second", False)  # all failed, and were mended
    note_version(job, "first", trials(True))
    refuse_edited(job, None, False)
    (Path(job.storage) / job.name).rmdir()  # the trials were thrown away
    refuse_edited(job, "second", False)
    key = next(iter(json.loads((job.folder / SWEEPS).read_text())))
    for text in ("{", "[]", json.dumps({key: 5}), json.dumps({key: {"function": 1, "ended": "x"}})):
        (job.folder / SWEEPS).write_text(text)
        refuse_edited(job, "second", False)
    note_version(job, "second", trials(True))
    assert len(json.loads((job.folder / SWEEPS).read_text())) == 1


def test_a_storage_that_is_an_address_is_taken_as_begun(job, tmp_path):
    from dataclasses import replace

    away = replace(job, storage="s3://bucket/runs")
    note_version(away, "first", trials(True))
    with pytest.raises(UsageError, match="edited"):
        refuse_edited(away, "second", False)
