"""Something damaged -> what is wrong with the answer to it, or None."""

from __future__ import annotations

import os
import resource
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnsurgeon.errors import SurgeonError
from attnsurgeon.report.streams import printable
from tests.cli.command import attnsurgeon
from tests.fuzz.mutating import command_line, damaged_record, rule_file

CODES = {0, 1, 2, 3, 4}
SECONDS = 5.0
MEGABYTES = 1000


def answer(ask: Callable[[], None]) -> str | None:
    """Runs something; returns what no user should see: a traceback, a long wait, much memory."""
    before, started = _peak(), time.process_time()
    try:
        ask()
    except SurgeonError:
        pass
    except BaseException:
        return traceback.format_exc()
    took, more = time.process_time() - started, _peak() - before
    if took > SECONDS:
        return f"it took {took:.1f} s"
    return f"it took {more} MB" if more > MEGABYTES else None


def of_command(*argv: object) -> str | None:
    """Runs a command line."""

    def ask() -> None:
        done = attnsurgeon(*argv)
        assert done.code in CODES, f"exit code {done.code}"
        assert "Traceback" not in done.err, done.err
        said = done.out + done.err
        assert printable(said) == said, ascii(said)

    return answer(ask)


def of_record(whole: dict[str, Any], folder: Path, seed: int) -> str | None:
    """Damages the record in `folder` and asks load, report, verify and checkup for it."""
    from attnsurgeon.checkup import check_folder
    from attnsurgeon.saved.restore import load

    (folder / "surgery.json").write_bytes(damaged_record(whole, seed))
    html = folder.parent / "page.html"
    return (
        answer(lambda: _use(load(folder, trust=True)))
        or of_command("report", folder)
        or of_command("report", folder, "--html", html, "--overwrite")
        or answer(lambda: _use(check_folder(folder, trust=True)))
        or of_command("verify", folder, "--trust-code")
    )


def of_rules(sites: Any, folder: Path, seed: int) -> str | None:
    """Writes a damaged rule file, checks it, and matches it where it can be read."""
    from attnsurgeon.asked import check_attn
    from attnsurgeon.rules.match import match_rules, require_counts
    from attnsurgeon.rules.parse import read_rules

    file = folder / "fuzzed.yaml"
    file.write_bytes(rule_file(seed))

    def ask() -> None:
        require_counts(match_rules(read_rules(file, check_attn=check_attn), sites))

    return answer(ask) or (of_command("rules", "check", file) if seed % 20 == 0 else None)


def of_line(folder: Path, seed: int) -> str | None:
    """Runs a random command line in `folder`, which afterwards is as it was."""
    os.chdir(folder)
    kept = {entry.name for entry in folder.iterdir()}
    try:
        return of_command(*command_line(seed))
    finally:
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _use(made: object) -> None:
    assert made is not None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
