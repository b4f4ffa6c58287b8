"""The bar of long work: on a terminal alone, in signs that it can show, gone at the end."""

import io
import re
import sys

import pytest

from attnsurgeon.report.progress import bar


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def drawn(stream, monkeypatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    with bar(7) as step:
        step("resnet50: eca\x1b[5m", 3)
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_sees_what_is_done_and_how_much(encoding, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = drawn(Terminal(io.BytesIO(), encoding, "strict"), monkeypatch)
    assert "\x1b[5m" not in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "resnet50: eca\\x1b[5m" in plain
    assert "3/7" in plain
    assert text.rstrip().endswith("\x1b[2K")  # the line is wiped, so that a table can follow


def test_a_file_and_a_terminal_that_can_nothing_get_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert drawn(io.TextIOWrapper(io.BytesIO(), "utf-8"), monkeypatch) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert drawn(Terminal(io.BytesIO(), "utf-8"), monkeypatch) == ""
