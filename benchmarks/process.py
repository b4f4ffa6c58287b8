"""Whole-process time and peak memory of the command line against its floors, as ratios in one run.

    python benchmarks/process.py [--runs 5] [--busy 1]

Each command is run in turn with its floor (A B A B ...), so that both see the same machine; the
ratio is taken pair by pair and its median is held against the target. A floor is the least that
any tool has to do: start Python, import timm, build the network. `--busy 1` keeps one core busy
with something else all the while, as a training beside it does; the target is then 1.3 everywhere.
Bytecode is kept between the runs, as of an installed package, whatever the environment says.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BUSY = 1.3  # of the floor, beside a busy core
BUILD = "import timm; timm.create_model('resnet50')"
BUILD_META = "import torch, timm\nwith torch.device('meta'): timm.create_model({name!r})"


@dataclass(frozen=True)
class Case:
    name: str
    command: list[str]
    floor: list[str]
    target: float | None  # ratio of medians
    seconds: float | None = None  # absolute target, where the design gives one


def tool(*words: str) -> list[str]:
    return [sys.executable, "-m", "attnsurgeon", *words]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def cases(folder: Path) -> list[Case]:
    insert = tool(
        "insert", "resnet50", "--attn", "eca", "--where", "bottleneck", "-o", str(folder / "out"),
        "--overwrite",
    )  # fmt: skip
    found = [
        Case("--help", tool("--help"), python("pass"), None, 0.3),
        Case("rules list", tool("rules", "list"), python("pass"), None, 0.3),
        Case("insert resnet50 eca -o DIR", insert, python(BUILD), 1.25),
    ]
    for name in ("resnet50", "vit_giant_patch14_224"):
        floor = python(BUILD_META.format(name=name))
        for command in ("plan", "cost"):
            words = (command, name, "--attn", "eca", "--where", "residual-branch")
            found.append(Case(f"{command} {name}", tool(*words), floor, 1.15))
    return found


def run(command: list[str], bytecode: Path) -> tuple[float, float]:
    """Returns (seconds, peak MB) of a whole process; a failing command ends the benchmark."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(bytecode)}
    start = time.perf_counter()
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], "
        "stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
        "sys.stderr.write(done.stderr); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *command],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - start, int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0, metavar="CORES")
    options = parser.parse_args()
    beside = [subprocess.Popen(python("while True: pass")) for _ in range(options.busy)]
    try:
        measure(options.runs, bool(beside))
    finally:
        for process in beside:
            process.kill()


def measure(runs: int, busy: bool) -> None:
    missed = []
    print("| command | seconds (median, min..max) | floor | ratio | target | peak MB | floor MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder)):
            kept = Path(folder) / "bytecode"
            run(case.command, kept), run(case.floor, kept)  # warm caches
            pairs = [(run(case.command, kept), run(case.floor, kept)) for _ in range(runs)]
            times = [a[0] for a, _ in pairs]
            ratio = statistics.median(a[0] / b[0] for a, b in pairs)
            median = statistics.median(times)
            goal = BUSY if busy and case.target else case.target
            held = ratio <= goal if goal else median <= (case.seconds or 0)
            missed += [] if held else [case.name]
            target = f"{goal:.2f} x" if goal else f"{case.seconds} s"
            print(
                f"| {case.name} | {median:.2f} ({min(times):.2f}..{max(times):.2f}) "
                f"| {statistics.median(b[0] for _, b in pairs):.2f} | {ratio:.2f} | {target} "
                f"| {max(a[1] for a, _ in pairs):.0f} | {max(b[1] for _, b in pairs):.0f} |",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"\n{runs} pairs a row; this process itself peaked at {peak} MB.")
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
