"""A folder is written whole or not at all, whatever fails and whenever."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.saved import folder as folders
from attnsurgeon.saved.folder import check_output, new_folder


def write(path, text="new", *, overwrite=False) -> None:
    with new_folder(path, overwrite=overwrite) as draft:
        (draft / "surgery.json").write_text(text)
        (draft / "README.md").write_text(text)


def content(path: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in path.iterdir()}


def whole(text: str) -> dict[str, str]:
    return {"surgery.json": text, "README.md": text}


def test_a_new_folder_is_written_and_nothing_beside_it(tmp_path):
    write(tmp_path / "out")

    assert content(tmp_path / "out") == whole("new")
    assert os.listdir(tmp_path) == ["out"]


def test_missing_parents_are_created(tmp_path):
    write(tmp_path / "a" / "b" / "out")

    assert content(tmp_path / "a" / "b" / "out") == whole("new")


def test_the_folder_has_usual_permissions(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "usual").mkdir()

    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_of_ours_is_overwritten_when_asked(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "model.safetensors").write_text("only the old one has this")
    write(tmp_path / "out", "new", overwrite=True)

    assert content(tmp_path / "out") == whole("new")
    assert os.listdir(tmp_path) == ["out"]


def test_a_name_as_long_as_names_can_be_works(tmp_path):
    write(tmp_path / ("n" * 255))

    assert content(tmp_path / ("n" * 255)) == whole("new")


def test_an_empty_folder_may_be_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", overwrite=True)

    assert content(tmp_path / "out") == whole("new")


def test_a_link_to_a_folder_is_followed(tmp_path):
    write(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "new", overwrite=True)

    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == whole("new")


@pytest.fixture
def crowded(tmp_path) -> Path:
    """A folder with everything that may be in the way."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "ours", "old")
    write(tmp_path / "mixed", "old")
    (tmp_path / "mixed" / "log.txt").write_text("precious")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "overwrite", "reason"),
    [
        ("file", False, "is a file"),
        ("file", True, "is a file"),
        ("file/below/out", False, "file is a file"),
        ("empty", False, "exists"),
        ("folder", False, "exists"),
        ("folder", True, r"has no surgery\.json"),
        ("ours", False, "exists"),
        ("mixed", True, r"also holds log\.txt"),
        ("a\0b", False, "is not a path"),
        ("n" * 256, False, "[Tt]oo long"),
        ("loop/out", False, "loop|symbolic links"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_any_work(crowded, path, overwrite, reason):
    before = sorted(map(str, crowded.rglob("*")))

    with pytest.raises(UsageError, match=reason) as caught:
        check_output(crowded / path, overwrite)

    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert sorted(map(str, crowded.rglob("*"))) == before


def test_only_where_overwriting_helps_the_hint_says_so(crowded):
    hints = {}
    for name in ("ours", "folder"):
        with pytest.raises(UsageError) as caught:
            check_output(crowded / name)
        hints[name] = caught.value.hint

    assert "overwrite=True" in hints["ours"]
    assert "overwrite=True" not in hints["folder"]


def test_an_empty_name_is_refused():
    with pytest.raises(UsageError, match="empty"):
        check_output("")


def test_a_path_that_can_be_written_passes_and_nothing_is_created(tmp_path):
    assert check_output(tmp_path / "a" / "out") == tmp_path / "a" / "out"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)

    with pytest.raises(UsageError, match="no permission"):
        check_output(tmp_path / "out")


def test_a_folder_that_appears_meanwhile_is_not_touched(tmp_path):
    def write_slowly():
        with new_folder(tmp_path / "out") as draft:
            (draft / "surgery.json").write_text("new")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "surgery.json").write_text("of somebody else")

    with pytest.raises(UsageError, match="exists"):
        write_slowly()

    assert content(tmp_path / "out") == {"surgery.json": "of somebody else"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path):
    def fill():
        with new_folder(tmp_path / "new" / "out") as draft:
            (draft / "surgery.json").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UsageError, match=r"cannot write .*out: No space left") as caught:
        fill()

    assert "free some space" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_real_limit_on_file_sizes_is_one_message_and_leaves_nothing(tmp_path):
    script = f"""
import resource, signal
from attnsurgeon.errors import UsageError
from attnsurgeon.saved.folder import new_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with new_folder({str(tmp_path / "out")!r}) as draft:
        (draft / "model.safetensors").write_bytes(bytes(1000))
except UsageError as error:
    print(error.what)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert "File too large" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("ours"), KeyboardInterrupt()])
@pytest.mark.parametrize("overwrite", [True, False])
def test_an_error_while_writing_changes_nothing(tmp_path, error, overwrite):
    if overwrite:
        write(tmp_path / "out", "old")

    def fail():
        with new_folder(tmp_path / "out", overwrite=overwrite) as draft:
            (draft / "surgery.json").write_text("half")
            raise error

    with pytest.raises(UsageError if isinstance(error, OSError) else type(error)):
        fail()

    assert os.listdir(tmp_path) == (["out"] if overwrite else [])
    assert not overwrite or content(tmp_path / "out") == whole("old")


# Every call by which the new folder becomes the old one's successor, in both ways to do it.
STEPS = [
    (one_step, module, name, nth)
    for one_step, steps in [
        (True, [(os, "fsync", 1), (os, "fsync", 3), (folders, "_exchange", 1), (os, "fsync", 4)]),
        (False, [(os, "fsync", 2), (os, "rename", 1), (os, "rename", 2), (os, "fsync", 4)]),
    ]
    for module, name, nth in steps
]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), KeyboardInterrupt()])
@pytest.mark.parametrize(("one_step", "module", "name", "nth"), STEPS)
def test_overwriting_that_fails_at_any_step_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, error, one_step, module, name, nth
):
    write(tmp_path / "out", "old")
    if not one_step:
        monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    real, calls = getattr(module, name), []

    def failing(*args):
        calls.append(args)
        if len(calls) == nth:
            raise error
        return real(*args)

    monkeypatch.setattr(module, name, failing)
    with pytest.raises((UsageError, KeyboardInterrupt)):
        write(tmp_path / "out", "new", overwrite=True)

    assert len(calls) >= nth  # the step was reached
    done = nth == 4  # only the flush of the parent comes after the exchange
    assert content(tmp_path / "out") == whole("new" if done else "old")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("name", "nth"), [("fsync", 1), ("fsync", 3), ("rename", 1)])
def test_a_first_write_that_fails_at_any_step_leaves_nothing(tmp_path, monkeypatch, name, nth):
    real, calls = getattr(os, name), []

    def failing(*args):
        calls.append(args)
        if len(calls) == nth:
            raise OSError(errno.EIO, "broken disk")
        return real(*args)

    monkeypatch.setattr(os, name, failing)
    with pytest.raises(UsageError, match="broken disk"):
        write(tmp_path / "made" / "for" / "out")

    assert list(tmp_path.iterdir()) == []


def test_where_two_steps_are_needed_and_the_second_way_back_fails_the_old_data_is_kept(
    tmp_path, monkeypatch
):
    write(tmp_path / "out", "old")
    monkeypatch.setattr(folders, "_exchange", lambda first, second: False)
    real, calls = os.rename, []

    def failing(*args):
        calls.append(args)
        if len(calls) > 1:
            raise OSError(errno.EIO, "broken disk")
        real(*args)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(UsageError, match="broken disk"):
        write(tmp_path / "out", "new", overwrite=True)

    (kept,) = tmp_path.glob(".attnsurgeon-*/out")
    assert content(kept) == whole("old")


def test_a_process_killed_while_overwriting_leaves_the_old_or_the_new(tmp_path):
    script = f"""
import sys, time
from attnsurgeon.saved.folder import new_folder
text = 0
print("ready", flush=True)
while True:
    text += 1
    with new_folder({str(tmp_path / "out")!r}, overwrite=True) as draft:
        for name in ("surgery.json", "README.md"):
            (draft / name).write_text(str(text) * 50_000)
"""
    write(tmp_path / "out", "0" * 50_000)
    for wait in (0.01, 0.023, 0.047):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

        found = content(tmp_path / "out")
        assert set(found) == {"surgery.json", "README.md"}
        assert found["surgery.json"] == found["README.md"]
        assert len(found["README.md"]) >= 50_000
