"""The command itself: help without torch, exit codes, interrupts, words that are nearly right."""

import io
import os
import re
import subprocess
import sys

import click
import pytest

from attnsurgeon.cli import groups
from attnsurgeon.cli.app import app
from attnsurgeon.errors import (
    CheckFailed,
    MechanismError,
    ModelError,
    RuleError,
    SurgeonError,
    UsageError,
)
from tests.cli.command import attnsurgeon

NO_TORCH = """
import sys
from attnsurgeon.cli.app import app
try:
    app(sys.argv[1:], prog_name="attnsurgeon")
except SystemExit as end:
    assert end.code == 0, end.code
print("torch" in sys.modules, file=sys.stderr)
"""

COMMANDS = list(app.list_commands(click.Context(app)))
WITHOUT_TORCH = [
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in COMMANDS),
    *(["attn", name, "--help"] for name in ("list", "show")),
    *(["rules", name, "--help"] for name in ("list", "show", "check", "test", "schema", "new")),
    ["rules", "list"],
    ["rules", "list", "--json"],
    ["rules", "show", "bottleneck"],
    ["rules", "schema"],
]


@pytest.mark.parametrize("argv", WITHOUT_TORCH, ids=" ".join)
def test_what_needs_no_network_does_not_import_torch(argv):
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *argv], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.strip() == "False"


@pytest.mark.slow
def test_that_check_can_fail():
    code = f"import torch\n{NO_TORCH}"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "True"


def test_every_command_is_in_the_help_with_a_sentence():
    text = attnsurgeon("--help").out
    assert len(COMMANDS) == 19
    for name in COMMANDS:
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 3


def test_completion_and_exit_codes_are_documented_in_the_help():
    text = attnsurgeon("--help").out
    for shell in ("bash", "zsh", "fish"):
        assert f"_ATTNSURGEON_COMPLETE={shell}_source attnsurgeon" in text
    assert "4 rule or mechanism" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_the_help_is_there(shell):
    done = subprocess.run(
        [sys.executable, "-m", "attnsurgeon"],
        env={**os.environ, "_ATTNSURGEON_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "_ATTNSURGEON_COMPLETE" in done.stdout


def test_a_placement_is_completed_in_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "attnsurgeon"],
        env={
            **os.environ,
            "_ATTNSURGEON_COMPLETE": "bash_complete",
            "COMP_WORDS": "attnsurgeon insert resnet50 --where bott",
            "COMP_CWORD": "4",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["plain,bottleneck"]


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["inser", "resnet50"], "did you mean 'insert'"),
        (["rules", "lst"], "did you mean 'list'"),
        (["attn", "shwo"], "did you mean 'show'"),
        (["zzz"], "known: attn, audit, compare"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(argv, near):
    done = attnsurgeon(*argv)
    assert done.code == 2
    assert near in done.err
    assert done.out == ""


def test_an_unknown_option_is_answered_with_the_nearest():
    done = attnsurgeon("insert", "resnet50", "--attn", "se", "--wher", "stem")
    assert done.code == 2
    assert re.search(r"No such option '--wher'.*'--where'", done.err)


def test_no_command_at_all_is_wrong_usage_and_shows_the_help():
    done = attnsurgeon()
    assert done.code == 2
    assert "Commands:" in done.out + done.err


def raising(error, monkeypatch):
    @click.command()
    def command():
        raise error

    monkeypatch.setattr(app, "get_command", lambda ctx, name: command)
    return attnsurgeon("plan")


@pytest.mark.parametrize(
    ("kind", "code"),
    [(CheckFailed, 1), (UsageError, 2), (ModelError, 3), (RuleError, 4), (MechanismError, 4)],
)
def test_each_kind_of_mistake_has_its_exit_code_and_one_message(kind, code, monkeypatch):
    done = raising(kind("the thing failed", "try another"), monkeypatch)
    assert (done.code, done.out) == (code, "")
    assert done.err == "error: the thing failed\nhint: try another\n"


def test_without_a_hint_there_is_no_line_for_it(monkeypatch):
    assert raising(SurgeonError("alone"), monkeypatch).err == "error: alone\n"


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError("ours"), monkeypatch)


def test_an_interrupt_ends_with_130_and_says_nothing(monkeypatch):
    done = raising(KeyboardInterrupt(), monkeypatch)
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error():
    command = f'"{sys.executable}" -m attnsurgeon rules schema | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "argv",
    [
        "attn list --json",
        *(pytest.param(argv, marks=pytest.mark.nightly) for argv in ("attn list", "--help")),
        pytest.param("rules show stem", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">/dev/full", 2, "error: the output cannot be written: No space left on device\n"),
        (">&-", 2, "error: the output cannot be written: Bad file descriptor\n"),
        (">&- <&-", 2, "error: the output cannot be written: Bad file descriptor\n"),
        (">/dev/null 2>&-", 0, ""),
        (">&- 2>&-", 2, ""),
        (">/dev/full 2>/dev/full", 2, ""),
        ("| true; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
@pytest.mark.slow
def test_streams_that_are_full_or_closed_are_one_message(argv, streams, code, said):
    command = f'"{sys.executable}" -m attnsurgeon {argv} {streams}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert done.stderr.split("hint:")[0] == said


def test_what_the_system_refuses_is_one_message_that_names_the_file(monkeypatch):
    done = raising(PermissionError(13, "Permission denied", "some/file"), monkeypatch)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: some/file: Permission denied\n"
    assert raising(OSError("odd"), monkeypatch).err == "error: a file: odd\n"


def test_what_is_wrong_on_the_command_line_is_shown_without_what_a_terminal_obeys():
    for argv in (["\x1b[31m"], ["plan", "--\x1b[31m"], ["inspect", "x", "--role", "\x9b2J"]):
        done = attnsurgeon(*argv)
        assert done.code == 2
        assert "Error: " in done.err
        assert "\\x" in done.err
        assert {"\x1b", "\x9b"}.isdisjoint(done.err)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_error_is_coloured_on_a_terminal_only_and_never_with_no_color(monkeypatch):
    def shown(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        groups.show_error(SurgeonError("failed \x1b[5m"))
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(Terminal()) == "\x1b[31m\x1b[1merror:\x1b[0m failed \\x1b[5m\n"
    assert shown(io.StringIO()) == "error: failed \\x1b[5m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(Terminal()) == "error: failed \\x1b[5m\n"
