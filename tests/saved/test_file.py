"""A file is written whole or not at all, and what is there is never replaced unasked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.saved.file import check_file, new_file, write_file


def test_a_file_is_looked_at_before_any_work(tmp_path):
    (tmp_path / "there").write_text("kept")
    assert check_file(tmp_path / "new.pt2", False) == tmp_path / "new.pt2"
    assert check_file(tmp_path / "there", True) == tmp_path / "there"
    for path, said in [(tmp_path, "is a folder"), (tmp_path / "there", "exists"),
                       (tmp_path / "no" / "x", "cannot write")]:  # fmt: skip
        with pytest.raises(UsageError, match=said):
            check_file(path, False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "name of the output is empty"),
        ("a\0b", "not a path: it has a null byte"),
        ("a\udc80b", r"'a\\udc80b' is not UTF-8"),
        ("~nosuchuser/x", "not a path: Could not determine home"),
        ("x" * 300, "cannot write .*name too long"),
        ("/dev/null", "is a device or a pipe"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_is_none_is_refused_before_any_work(
    name, said, overwrite, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        check_file(name, overwrite)


def test_a_link_is_replaced_never_what_it_leads_to(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(UsageError, match="exists"):
            write_file(tmp_path / name, "new")
        write_file(tmp_path / name, "new", overwrite=True)
        assert (tmp_path / name).read_text() == "new"
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "precious").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "precious"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("ours")])
def test_an_error_while_writing_changes_nothing(tmp_path, error):
    (tmp_path / "file").write_text("old")

    def fail():
        with new_file(tmp_path / "file", overwrite=True) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(UsageError if isinstance(error, OSError) else RuntimeError):
        fail()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_somebody_wrote_meanwhile_is_kept(tmp_path):
    def late():
        with new_file(tmp_path / "file") as draft:
            draft.write_text("ours")
            (tmp_path / "file").write_text("theirs")

    with pytest.raises(UsageError, match="exists"):
        late()
    assert (tmp_path / "file").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["file"]


FULL = """
import resource, sys
from attnsurgeon.errors import UsageError
from tests.cli.tiny import net
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as if the disk were full
try:
    if sys.argv[1] == "save":
        import attnsurgeon
        attnsurgeon.insert(net(), "se", input_size=(3, 40, 24)).save(sys.argv[2])
    else:
        from attnsurgeon.exporting.exports import export
        export(net(), sys.argv[2], to=sys.argv[1], input_size=(3, 40, 24))
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize("form", ["save", "torch-export", "onnx"])
@pytest.mark.slow
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, form, tmp_path / "out"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert "free some space" in done.stdout
    assert list(tmp_path.iterdir()) == []
