"""All of it: `python -m tests.fuzz`; `--kind rules --first 0 --count 500` for a part."""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import attnsurgeon
from tests.cli.tiny import net
from tests.fuzz.answers import of_line, of_record, of_rules
from tests.fuzz.mutating import lay_out

COUNTS = {"records": 2000, "lines": 2000, "rules": 10_000}


def main() -> int:
    """Runs the kinds that are asked for; returns how many answers were wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=list(COUNTS), action="append")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        whole = lay_out(folder)
        sites = attnsurgeon.find_sites(net(), input_size=(3, 40, 24))
        ways: dict[str, Callable[[int], str | None]] = {
            "records": lambda seed: of_record(whole, folder / "out", seed),
            "rules": lambda seed: of_rules(sites, folder, seed),
            "lines": lambda seed: of_line(folder, seed),
        }
        for kind in asked.kind or COUNTS:
            if kind == "lines":  # which need the folder whole again
                (folder / "out" / "surgery.json").unlink()
                for entry in (folder / "out").iterdir():
                    entry.unlink()
                (folder / "out").rmdir()
                lay_out(folder)
            seeds = range(asked.first, asked.first + (asked.count or COUNTS[kind]))
            wrong += _run(kind, ways[kind], seeds)
    return wrong


def _run(kind: str, way: Callable[[int], str | None], seeds: range) -> int:
    started, found = time.monotonic(), collections.Counter[str]()
    for seed in seeds:
        said = way(seed)
        if said is not None:
            last = said.strip().splitlines()[-1][:150]
            if not found[last]:
                print(f"--- {kind} {seed}\n{said}", flush=True)
            found[last] += 1
    print(f"{kind}: {len(seeds):,} in {time.monotonic() - started:.0f} s, {found.total()} wrong")
    for said, count in found.most_common():
        print(f"  {count:5} {said}")
    return found.total()


if __name__ == "__main__":
    sys.exit(min(main(), 1))
