"""What reaches stdout and stderr: colour, encodings, JSON, progress."""

import errno
import io
import json
import os
import re
import sys

import pytest

from attnsurgeon.errors import UsageError
from attnsurgeon.report import streams
from attnsurgeon.report.operation import show_operation
from tests.report.records import operation


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def shown_on(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    show_operation(streams.out(), operation())
    return stream.getvalue()


def test_a_terminal_gets_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m" in shown_on(Terminal(), monkeypatch)  # the green of a good check


def test_no_color_takes_every_escape_away(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown_on(Terminal(), monkeypatch)


def test_a_file_gets_no_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in shown_on(io.StringIO(), monkeypatch)


def test_lines_to_a_file_are_not_wrapped_so_that_they_can_be_searched(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "one reason " * 40
    refused = [{"path": "layer1.0.bn3", "rule": "r", "reason": long.strip()}]
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    show_operation(streams.out(), operation(refused=refused))
    assert f"layer1.0.bn3: {long.strip()}\n" in stream.getvalue()


@pytest.mark.parametrize("columns", ["", "0", "-3", "many"])
def test_columns_that_are_no_width_are_ignored(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert streams.out().width == 4000


def test_columns_sets_the_width_of_what_goes_to_a_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert max(map(len, shown_on(io.StringIO(), monkeypatch).splitlines())) <= 72


def test_a_stream_without_utf8_gets_ascii_and_no_error(printed):
    text = printed(show_operation, operation(model="网络"), encoding="ascii")
    assert "layer1.0.bn3 .. layer1.2.bn3" in text
    assert "ok outputs bit-equal" in text
    assert "\\u7f51\\u7edc" in text


def test_json_is_one_document_in_which_no_number_is_lost(capsys):
    streams.write_json({"a": [1, 2.5, (3,)], "b": {"c": float("nan"), "d": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": [1, 2.5, [3]], "b": {"c": None, "d": None}}


def test_progress_is_silent_where_nobody_watches(capsys):
    with streams.step("loading"):
        pass
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_shows_on_a_terminal_and_leaves_stdout_alone(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with streams.step("loading resnet50"):
        pass
    assert "loading resnet50" in terminal.getvalue()
    assert capsys.readouterr().out == ""


# What a name could do to a terminal or to a reader: colours, titles, C1, directions, lines.
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x1b]8;;http://x\x1b\\link": "\\x1b]8;;http://x\\x1b\\link",
    "\x9b2Jcleared": "\\x9b2Jcleared",
    "\u202egpj.exe": "\\u202egpj.exe",
    "\u2066\u2069\u200f\u061c": "\\u2066\\u2069\\u200f\\u061c",
    "over\rwritten\b\x7f": "over\\rwritten\\x08\\x7f",
    "a\u2028b\x85c": "a\\u2028b\\x85c",
    "half \udc80": "half \\udc80",
    "tag \U000e0041": "tag \\U000e0041",
}
HARMLESS = "layer1.0.bn3 网络 é \u00d72 … ✓ \t क्‍ष 👩‍🔬\nnext"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_a_terminal_obeys_is_spelled_out(text):
    assert streams.printable(text) == HOSTILE[text]


def test_what_a_terminal_only_shows_stays_as_it_is():
    assert streams.printable(HARMLESS) == HARMLESS


def hostile_operation():
    name = "".join(HOSTILE)
    text = {"note": name, "attn": name, "path": name, "module_path": name, "technique": name}
    made = operation(model=name, where=name, refused=[{"path": name, "rule": "r", "reason": name}])
    made["sites"] = [{**site, **text} for site in made["sites"]]
    return made


def test_nothing_that_a_name_holds_reaches_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    show_operation(streams.out(), hostile_operation())
    without_our_own = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "\x1b[32m" in terminal.getvalue()  # the colours of the report are still there
    assert "\x1b[31m" not in terminal.getvalue()  # the name's own are not
    assert streams.printable(without_our_own) == without_our_own


@pytest.mark.parametrize("write", [streams.write_text, streams.note])
def test_texts_and_notes_are_spelled_out_too(write, capsys):
    write("".join(HOSTILE))
    captured = capsys.readouterr()
    assert captured.out + captured.err == "".join(HOSTILE.values()) + "\n"


def test_json_holds_nothing_that_a_terminal_obeys(capsys):
    streams.write_json({"".join(HOSTILE): "".join(HOSTILE)})
    text = capsys.readouterr().out
    assert streams.printable(text) == text
    assert json.loads(text) == {"".join(HOSTILE): "".join(HOSTILE)}


def test_a_step_is_no_markup_and_holds_nothing_that_a_terminal_obeys(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with streams.step("reading [/bold] \x1b]0;title\x07"):
        pass
    assert "reading [/bold] \\x1b]0;title\\x07" in terminal.getvalue()
    assert "\x1b]" not in terminal.getvalue()


class Broken(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error, onto):
        super().__init__()
        self.error, self.onto = error, onto

    def write(self, text):
        raise self.error

    def fileno(self):
        return self.onto


@pytest.fixture
def somewhere(tmp_path):
    """A file descriptor that may be led elsewhere."""
    with (tmp_path / "somewhere").open("w") as file:
        yield file.fileno()


def test_who_has_read_enough_gets_no_more_and_that_is_no_error(somewhere):
    stream = Broken(BrokenPipeError(errno.EPIPE, "Broken pipe"), somewhere)
    assert streams.Delivery(stream).write("text") == 4


def test_output_that_cannot_be_written_is_one_message(somewhere):
    stream = Broken(OSError(errno.ENOSPC, "No space left on device"), somewhere)
    with pytest.raises(UsageError, match="output cannot be written: No space left") as caught:
        streams.Delivery(stream).write("text")
    assert caught.value.exit_code == 2
    streams.Delivery(stream).write("")  # which is nothing to write


def test_after_a_failure_the_stream_leads_nowhere(somewhere, tmp_path):
    with pytest.raises(UsageError):
        streams.Delivery(Broken(OSError(errno.EIO, "broken"), somewhere)).write("text")
    os.write(somewhere, b"what the buffer held")
    assert (tmp_path / "somewhere").read_text() == ""
