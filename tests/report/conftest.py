"""Printing to a stream of a given width and encoding, and the golden files to compare with."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnsurgeon.report.streams import out

GOLDEN = Path(__file__).with_name("golden")

Printed = Callable[..., str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--renew-golden",
        action="store_true",
        help="write the golden files of tests/report anew; run on that folder, then read the diff",
    )


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Printed:
    """Returns a function: (show, record, width, encoding) -> the text that is written."""

    def run(
        show: Callable[..., None],
        record: Any,
        *,
        width: int | None = 80,
        encoding: str = "utf-8",
        **options: Any,
    ) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        show(out(width), record, **options)
        stream.flush()
        monkeypatch.undo()
        return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]

    return run


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Returns a function: (name, text) compares the text with golden/NAME.txt."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / f"{name}.txt"
        if request.config.getoption("--renew-golden", default=False):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compare
