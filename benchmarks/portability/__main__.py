"""Runs every probe on every mechanism.

    python -m benchmarks.portability --write docs/portability.md
    python -m benchmarks.portability --cells cells.jsonl --write docs/portability.md
    python -m benchmarks.portability se cbam --write docs/portability.md
    python -m benchmarks.portability se cbam --columns "script,ONNX classic"

With names or columns the page keeps what it says of the others, so that a mechanism more is a row
more; cells alone are printed. With a file of cells an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from attnsurgeon.attention.registry import mechanisms
from benchmarks.portability.probes import PROBES
from benchmarks.portability.table import Cells, measured, missing, read, verdict, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="mechanisms; default: all")
    parser.add_argument("--columns", help="titles, separated by commas; default: all")
    parser.add_argument("--cells", type=Path, help="the file that keeps what is measured")
    parser.add_argument("--again", action="store_true", help="measure what did not hold once more")
    parser.add_argument("--write", type=Path, help="the page to write")
    asked = parser.parse_args()
    names = asked.names or [*mechanisms()]
    columns = asked.columns.split(",") if asked.columns else [*PROBES]
    if unknown := {*columns} - {*PROBES} | {*names} - {*mechanisms()}:
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(PROBES)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = _kept(asked.cells)
    for name, column in itertools.product(names, columns):
        if (name, column) in cells and not (asked.again and verdict(cells[name, column]) != "yes"):
            continue
        begun = time.perf_counter()
        cells[name, column] = reasons = measured(name, column)
        if asked.cells:
            with asked.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, column, reasons]) + "\n")
        seconds = f"{time.perf_counter() - begun:.0f} s"
        print(f"{name}, {column}: {verdict(reasons)} ({seconds})", file=sys.stderr)
    for name, column in itertools.product(names, columns):
        for init, reason in cells[name, column].items():
            if reason:
                print(f"{name}, {column} ({init}): {reason}")
    if asked.write:
        page = asked.write.read_text(encoding="utf-8") if asked.write.exists() else ""
        cells = {**read(page), **cells}
        if empty := missing(cells):
            sys.exit(f"not written, as nothing is known of {', '.join(empty)}")
        asked.write.write_text(written(cells), encoding="utf-8")


def _kept(path: Path | None) -> Cells:
    """Returns the cells of a file, of several of one name and column the last."""
    if path is None or not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {(name, column): reasons for name, column, reasons in map(json.loads, lines)}


if __name__ == "__main__":
    main()
