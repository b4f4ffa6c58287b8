"""Every table of every command fits a narrow terminal: nothing is cut off, no line is longer."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnsurgeon.cli.app import app
from tests.cli.command import TINY
from tests.cli.command import attnsurgeon as at_full_width

NET = ["NET", "--input-size", "3,40,24"]
WIDTH = 60
COMMANDS = [
    ["insert", *NET, "--attn", "cbam", "--where", "residual-branch", "--arg", "reduction=8"],
    ["plan", *NET, "--attn", "se"],
    ["plan", *NET, "--attn", "se", "--explain", "stem"],
    ["plan", *NET, "--rules", "RULES"],
    ["inspect", *NET],
    ["inspect", *NET, "--all"],
    ["inspect", *NET, "--role", "residual-branch"],
    ["inspect", *NET, "--tree"],
    ["inspect", *NET, "--tree", "--all"],
    ["cost", *NET],
    ["cost", *NET, "--attn", "eca"],
    ["compare", *NET, "--attn", "se,eca,cbam,gam,coord"],
    [
        "compare",
        "NET",
        "DIR",
        *NET[1:],
        "--attn",
        "se(reduction=8),eca,sk",
        "--where",
        "stage,stem",
    ],
    ["suggest", *NET, "--max-params", "+500"],
    ["verify", "DIR"],
    ["status", "DIR"],
    ["report", "DIR"],
    ["attn", "list"],
    ["attn", "show", "fca"],
    ["attn", "show", "cmpe-se"],
    ["rules", "list"],
    ["rules", "test", "RULES"],
]
# What is to be copied runs on where it is longer, as a terminal wraps it without a break in it.
CODE = re.compile(r"^ {4}(?:model =|attnsurgeon\.|groups =|print\(|optimizer =|import )")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the network, a saved one, and rules that name several mechanisms."""
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "net.py").write_text(Path(TINY.removesuffix(":")).read_text(encoding="utf-8"))
    rules = "".join(
        f"  - {{id: r{i}, match: {{site: residual-branch, nth: {i}}}, {said}}}\n"
        for i, said in enumerate(
            ["attn: {type: se, reduction: 8}, init: paper", "attn: eca, init: identity"], 1
        )
    )
    test = "tests:\n  - {model: resnet18, expect: {r1: {count: 3}, r2: none}}\n"
    (folder / "rules.yaml").write_text(f"version: 1\nname: two\nrules:\n{rules}{test}")
    before = os.getcwd()
    os.chdir(folder)
    made = at_full_width("insert", "net.py:net", *NET[1:], "--attn", "se", "-o", "out")
    assert made.code == 0, made.err
    yield folder
    os.chdir(before)


def printed(argv: list[str], width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    named = {"NET": "net.py:net", "DIR": "out", "RULES": "rules.yaml"}
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    more = ["--trust-code"] if argv[0] in ("verify", "status") or "DIR" in argv[2:] else []
    said = [named.get(word, word) for word in argv] + more
    quiet = contextlib.redirect_stderr(io.StringIO())
    with contextlib.redirect_stdout(out), quiet, pytest.raises(SystemExit):
        app(said, prog_name="attnsurgeon")
    return out.getvalue()


def too_long(text: str, width: int = WIDTH) -> list[str]:
    return [line for line in text.splitlines() if len(line) > width and not CODE.match(line)]


def words(text: str) -> Counter[str]:
    """How often each letter and digit is there, wherever it stands."""
    return Counter(re.findall(r"[^\W_]", text))


# The others are made of the same tables.
FAST = ("plan", "inspect", "status", "attn")


@pytest.mark.parametrize(
    "argv",
    [pytest.param(a, marks=() if a[0] in FAST else pytest.mark.slow) for a in COMMANDS],
    ids=lambda argv: " ".join(argv),
)
def test_every_table_fits_and_cuts_nothing(argv, here, monkeypatch):
    narrow, wide = (printed(argv, width, monkeypatch) for width in (WIDTH, 4000))
    assert len(narrow) > 40
    assert too_long(narrow) == []
    left_out = re.search(r"left out on 60 columns: (.*)", narrow)
    if left_out or "on 100 columns" in narrow:
        return  # which is the cue; what is left out is no longer there to be compared
    assert words(wide) - words(narrow) == Counter()  # heads may stand there more than once


def test_these_checks_can_fail(here, monkeypatch):
    wide = printed(["inspect", *NET], 4000, monkeypatch)
    assert too_long(wide) != []
    assert words("1,234 ab") - words("ab: b 1,2\n34 a") == Counter()
    assert words("1,234 ab") - words("1,2.. ab") == Counter("34")
    assert too_long("    model = attnsurgeon.load('a')" + 40 * " ") == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_wider_terminals_are_kept_to_as_well(width, here, monkeypatch):
    for argv in COMMANDS:
        if argv[0] not in ("verify", "rules", "insert"):
            assert too_long(printed(argv, width, monkeypatch), width) == [], argv
