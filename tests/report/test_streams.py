"""What reaches stdout and stderr: colour, encodings, JSON, progress."""

import io
import json
import sys

import pytest

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
