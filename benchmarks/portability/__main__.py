"""Runs every probe on every mechanism.

    python -m benchmarks.portability --write docs/portability.md
    python -m benchmarks.portability --cells cells.json --write docs/portability.md
    python -m benchmarks.portability se cbam --columns "script,ONNX classic"

The page has the columns that every mechanism was measured in; with names the cells are printed
alone. With a file of cells an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from attnsurgeon.attention.registry import mechanisms
from benchmarks.portability.probes import PROBES
from benchmarks.portability.table import Reasons, measured, verdict, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="mechanisms; default: all")
    parser.add_argument("--columns", help="titles, separated by commas; default: all")
    parser.add_argument("--cells", type=Path, help="the file that keeps what is measured")
    parser.add_argument("--write", type=Path, help="the page to write")
    asked = parser.parse_args()
    columns = asked.columns.split(",") if asked.columns else list(PROBES)
    if unknown := {*columns} - {*PROBES} | {*asked.names} - {*mechanisms()}:
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(PROBES)}")
    if asked.write and asked.names:
        parser.error("--write needs every mechanism")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept = json.loads(asked.cells.read_text()) if asked.cells and asked.cells.exists() else []
    cells: dict[tuple[str, str], Reasons] = {(name, column): why for name, column, why in kept}
    for name in asked.names or mechanisms():
        begun = time.perf_counter()
        missing = [column for column in columns if (name, column) not in cells]
        cells |= (own := measured([name], missing))
        if asked.cells:
            asked.cells.write_text(json.dumps([[*key, dict(why)] for key, why in cells.items()]))
        bad = {c: r for (_, c), r in own.items() if verdict(r) != "yes"}
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        for column, reasons in bad.items():
            for init, reason in reasons.items():
                print(f"  {column} ({init}): {reason or 'yes'}")
    if asked.write:
        asked.write.write_text(written(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
