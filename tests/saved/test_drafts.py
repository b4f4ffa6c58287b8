"""What a process that was killed leaves behind is removed by the next; what lives is left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import attnsurgeon
from attnsurgeon.saved import drafts
from attnsurgeon.saved.drafts import draft_beside, put_aside, remove_left
from tests.cli.tiny import Net

WRITING = """
import sys
from pathlib import Path
from attnsurgeon.saved.drafts import draft_beside
with draft_beside(Path(sys.argv[1])) as draft:
    (draft / "model.safetensors").write_bytes(bytes(100_000))
    print(draft, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing a draft beside `tmp_path / "out"`, and that draft."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, tmp_path / "out"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_draft_is_gone_when_its_block_ends(tmp_path):
    with draft_beside(tmp_path / "out") as draft:
        (draft / "half").write_text("half")
        assert names(tmp_path) == {draft.name}
    assert names(tmp_path) == set()


def test_the_draft_of_a_killed_process_is_removed_by_the_next_that_writes_there(tmp_path, writer):
    process, left = writer
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == {left.name}
    with draft_beside(tmp_path / "other") as draft:
        assert names(tmp_path) == {draft.name}
    assert names(tmp_path) == set()


def test_the_draft_of_a_living_process_is_left_alone(tmp_path, writer):
    _, live = writer
    remove_left(tmp_path)
    with draft_beside(tmp_path / "other"):
        pass
    assert names(live) == {"model.safetensors"}


def test_the_draft_of_another_thread_of_this_process_is_left_alone(tmp_path):
    with draft_beside(tmp_path / "one") as first, draft_beside(tmp_path / "two"):
        remove_left(tmp_path)
        assert first.is_dir()


def test_what_is_no_draft_of_this_host_is_left_alone(tmp_path, monkeypatch):
    ours = f".attnsurgeon-{drafts._host()}-0123456789ab"
    others = [
        ".attnsurgeon-00000000-0123456789ab",  # of another host, whose locks may not show here
        ".attnsurgeon-0123456789ab",  # as version 0.1 named them, without a lock
        ".attnsurgeon-notes",
        f"{ours}c",
        f"x{ours}",
    ]
    for name in (ours, *others):
        (tmp_path / name).mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / ours.replace("0123", "3210")).symlink_to(tmp_path / "precious")
    (tmp_path / ours.replace("0123", "1111")).write_text("a file")
    remove_left(tmp_path)
    assert names(tmp_path) == {
        *others, "precious", ours.replace("0123", "3210"), ours.replace("0123", "1111"),
    }  # fmt: skip


def test_drafts_of_another_user_are_left_alone(tmp_path, monkeypatch):
    left = tmp_path / f".attnsurgeon-{drafts._host()}-0123456789ab"
    left.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_left(tmp_path)
    assert left.is_dir()
    monkeypatch.undo()
    remove_left(tmp_path)
    assert not left.exists()


def test_where_the_file_system_has_no_locks_nothing_is_removed_and_writing_works(
    tmp_path, monkeypatch
):
    def unsupported(*args):
        raise OSError(9, "Bad file descriptor")  # what NFS says of a folder

    left = tmp_path / f".attnsurgeon-{drafts._host()}-0123456789ab"
    left.mkdir()
    monkeypatch.setattr(drafts.fcntl, "flock", unsupported)
    with draft_beside(tmp_path / "out") as draft:
        assert names(tmp_path) == {draft.name, left.name}
    assert names(tmp_path) == {left.name}


def test_a_draft_that_was_swept_away_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    real, swept = drafts._lock, []

    def late(draft):
        if not swept:
            swept.append(draft)
            remove_left(draft.parent)  # a sweeper between the two steps
        return real(draft)

    monkeypatch.setattr(drafts, "_lock", late)
    with draft_beside(tmp_path / "out") as draft:
        assert draft.is_dir()
        assert names(tmp_path) == {draft.name}


def test_a_folder_put_aside_by_a_process_that_was_killed_is_put_back(tmp_path):
    """Where two steps are needed, between them the old folder is only in the draft."""
    aside = tmp_path / f".attnsurgeon-{drafts._host()}-0123456789ab"
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "surgery.json").write_text("old")
    with draft_beside(tmp_path / "other"):
        pass
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "surgery.json").read_text() == "old"


def test_a_folder_put_aside_is_removed_once_its_successor_is_there(tmp_path):
    for name in ("out", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
    put_aside(tmp_path / "out", tmp_path / "new")
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "what").read_text() == "new"

    aside = tmp_path / f".attnsurgeon-{drafts._host()}-0123456789ab"
    (aside / "out").mkdir(parents=True)
    remove_left(tmp_path)
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "what").read_text() == "new"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_two_hundred_times_while_saving_there_is_the_old_or_the_new_and_nothing_left(
    tmp_path,
):
    base, out, dice = Net(), tmp_path / "out", random.Random(3)
    operation = attnsurgeon.insert(base, "se", input_size=(3, 40, 24))

    def save(value: float) -> None:
        operation.model.fc.bias.data.fill_(value)
        operation.save(out, overwrite=True)

    save(0)
    interrupted = 0
    for _ in range(200):
        child = os.fork()  # importing torch anew in each process would take an hour
        if child == 0:
            try:
                for value in range(1000):
                    save(value)
            finally:
                os._exit(1)
        time.sleep(dice.uniform(0.005, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += len(names(tmp_path)) - 1
        found = attnsurgeon.load(out, model=base)  # every sha256 is compared
        assert len(set(found.fc.bias.tolist())) == 1
    assert interrupted > 20  # the kills did meet savings under way
    save(-1)
    assert names(tmp_path) == {"out"}
    assert set(attnsurgeon.load(out, model=base).fc.bias.tolist()) == {-1.0}
