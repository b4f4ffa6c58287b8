"""Weighs mechanisms against plain transcriptions of their authors' code: time and bytes kept.

    python -m benchmarks.mechanisms                      all, as a Markdown table
    python -m benchmarks.mechanisms --out speed.jsonl --write docs/mechanism-speed.md
    python -m benchmarks.mechanisms sa cot --clock wall --threads 2 --stages 3,4
    python -m benchmarks.mechanisms gam --noise          the plain form against itself
    python -m benchmarks.mechanisms --keep-memory        without the time of fresh memory

At the shapes that they meet in the four stages of a ResNet-50, in training mode. Both compute the
same, with the same parameters: that is asserted first. Time is that of a forward and a backward
pass, of both in turn and in pairs, the first of a pair being the second of the next; what counts is
the median of the ratios within the pairs, and the interval in which that median is for 95 in 100
such runs. Saved bytes are those of the tensors that the forward keeps for the backward, each
storage once, but for the input and the parameters. The process exits with 1 when a mechanism is
slower than its plain form beyond doubt, keeps more, or the geometric mean of all ratios of time is
under the target.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import mechanisms
from benchmarks.plain import PLAIN
from benchmarks.resumable import read, write
from benchmarks.subjects import STAGES, Shape, Subject, shape_at, subject

BATCH = 8
LEAST = 0.95  # how fast a mechanism has to be, where the plain form is 1
TARGET = 1.3
SMALL = 0.01  # of the input's bytes: what is kept of so little is not counted as more
Clock = Callable[[], float]
# The processor's time is steadier where others use the machine too, but adds up all threads.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
SECONDS, PAIRS = 5.0, (5, 25)  # how long a case may take, but for the least number of pairs


@dataclass(frozen=True)
class Result:
    """What one mechanism took at one stage, ours and plain.

    Attributes:
        ratios: how many times as long the plain form took, in each pair of runs.
        saved: bytes kept for the backward (ours, plain).
        input_bytes: of the inputs.
    """

    name: str
    stage: int
    ratios: tuple[float, ...]
    saved: tuple[int, int]
    input_bytes: int

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """The two ratios between which the median is for 95 in 100, from the ranks alone."""
        ordered, n = sorted(self.ratios), len(self.ratios)
        low = max(math.floor((n - 1.96 * math.sqrt(n)) / 2), 0)
        return ordered[low], ordered[n - 1 - low]

    @property
    def slow(self) -> bool:
        """Whether it is slower than it may be, beyond doubt."""
        return self.interval[1] < LEAST

    @property
    def large(self) -> bool:
        """Whether it keeps more than the plain form."""
        ours, plain = self.saved
        return ours > plain + SMALL * self.input_bytes

    def misses(self) -> Iterable[str]:
        """Returns what is not as it should be, in words."""
        where = f"{self.name} at stage {self.stage}"
        if self.slow:
            low, high = self.interval
            yield f"{where}: {self.ratio:.2f} times as fast as plain ({low:.2f} to {high:.2f})"
        if self.large:
            ours, plain = self.saved
            yield f"{where}: keeps {ours / 1e6:.1f} MB, plain {plain / 1e6:.1f} MB"


def keep_memory() -> None:
    """Lets the process keep all memory that it frees, where the C library is glibc.

    By default large tensors go back to the system, which hands out empty pages for the next ones.
    That takes as long as the passes over them, and strikes one form or the other by chance.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        raise SystemExit("--keep-memory needs the C library glibc")
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt(trim_threshold, -1)
    mallopt(mmap_max, 0)


def step(
    module: nn.Module, inputs: Sequence[Tensor], clock: Clock = time.perf_counter
) -> tuple[float, list[Tensor]]:
    """Returns the seconds of a forward and a backward pass, and output and gradients of inputs."""
    module.zero_grad(set_to_none=True)
    for x in inputs:
        x.grad = None
    cotangent = inputs[0].detach()  # of the shape of the output, but for a classifier
    start = clock()
    y = module(*inputs)
    y.backward(cotangent if y.shape == cotangent.shape else torch.ones_like(y))
    seconds = clock() - start
    return seconds, [y.detach(), *(x.grad for x in inputs if x.grad is not None)]


class Kept:
    """Holds a tensor for as long as the graph of a forward does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Returns what the forward keeps for the backward, without the inputs and the parameters."""
    kept: WeakSet[Kept] = WeakSet()

    def keep(tensor: Tensor) -> Kept:
        kept.add(holder := Kept(tensor))
        return holder

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda holder: holder.tensor):
        y = module(*inputs)
    storages = [holder.tensor.untyped_storage() for holder in kept]  # what y does not need is gone
    del y
    known = {t.untyped_storage().data_ptr() for t in (*inputs, *module.parameters())}
    known |= {t.untyped_storage().data_ptr() for t in module.buffers()}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for place, size in sizes.items() if place not in known)


def same(name: str, ours: Sequence[Tensor], plain: Sequence[Tensor], limit: float = 1e-2) -> None:
    """Asserts that output and gradients agree, by the norms of the differences.

    Rounding may choose another of two maxima, so that single values of a gradient differ by much.
    """
    for number, (a, b) in enumerate(zip(ours, plain, strict=True)):
        what = f"gradient of input {number - 1}" if number else "output"
        apart = ((a - b).norm() / b.norm()).item()
        assert apart < limit, f"{name}: the {what} is {apart:.1e} apart from the plain one"


def time_both(take: Sequence[Callable[[], float]], seconds: float) -> tuple[float, ...]:
    """Returns of each pair of runs how many times as long the second takes as the first.

    A first run of each is not counted: it sets up what later ones find.

    Args:
        take: runs the one, and the other, and says how long that took.
        seconds: how long all runs may take; there are at least five pairs all the same.
    """
    ours, plain = take
    once = ours() + plain()
    least, most = PAIRS
    pairs = max(least, min(most, int(seconds / once)))
    found = []
    for ahead in islice(cycle((True, False)), pairs):
        if ahead:
            own, other = ours(), plain()
        else:
            other, own = plain(), ours()
        found.append(other / own)
    return tuple(found)


def weigh(
    name: str,
    stage: int,
    limit: float,
    clock: Clock,
    *,
    shape: Shape | None = None,
    noise: bool = False,
) -> Result:
    """Returns what one mechanism takes at one stage.

    Args:
        name: of the mechanism.
        stage: of a ResNet-50.
        limit: seconds that the runs may take.
        clock: tells the time.
        shape: another than that of the stage.
        noise: weigh a copy of its plain form instead.
    """
    shape = shape or shape_at(name, stage)
    if shape is None:
        raise ValueError(f"{name} is not put into stage {stage}")
    torch.manual_seed(0)
    made = subject(name, shape, batch=BATCH)
    if noise:
        made = Subject(copy.deepcopy(made.plain), made.plain, made.inputs)
    both, inputs = (made.ours, made.plain), made.inputs
    same(name, step(made.ours, inputs)[1], step(made.plain, inputs)[1])
    ours, plain = (saved_bytes(module, inputs) for module in both)
    runs = [lambda m=m: step(m, inputs, clock)[0] for m in both]
    ratios = time_both(runs, limit)
    size = sum(x.untyped_storage().nbytes() for x in inputs)
    return Result(name, stage, ratios, (ours, plain), size)


def restored(name: str, stage: int, entry: Mapping[str, Any]) -> Result:
    """Returns a result that was written down."""
    ours, plain = entry["saved"]
    return Result(name, stage, tuple(entry["ratios"]), (ours, plain), entry["input_bytes"])


def geometric_mean(results: Iterable[Result]) -> float:
    """Returns the geometric mean of their ratios."""
    return statistics.geometric_mean(result.ratio for result in results)


def table(results: Sequence[Result]) -> str:
    """Returns all results as Markdown: how many times as fast as plain, and the bytes kept."""
    lines = [
        "| mechanism | mean | stage 1 | 2 | 3 | 4 | MB kept for the backward, ours / plain |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in dict.fromkeys(r.name for r in results):
        own = {r.stage: r for r in results if r.name == name}
        cells = [f"{own[stage].ratio:.2f}" if stage in own else "" for stage in STAGES]
        kept = [f"{r.saved[0] / 1e6:.1f} / {r.saved[1] / 1e6:.1f}" for r in own.values()]
        mean = geometric_mean(own.values())
        lines.append(f"| `{name}` | {mean:.2f} | {' | '.join(cells)} | {', '.join(kept)} |")
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """Returns in words the geometric mean, the worst, and what is slower or keeps more."""
    names = len({r.name for r in results})
    who = "1 mechanism" if names == 1 else f"{names} mechanisms"
    mean = geometric_mean(results)
    best = max(results, key=lambda r: r.ratio)
    worst = min(results, key=lambda r: r.ratio)
    rest = [r for r in results if r.name != best.name]
    said = [
        f"**{who} at {len(results)} shapes: {mean:.2f} times as fast as the authors' forms in the"
        " geometric mean**"
        + (f", {geometric_mean(rest):.2f} without `{best.name}`." if rest else "."),
        f"The slowest is `{worst.name}` at stage {worst.stage}: {worst.ratio:.2f}"
        f" ({worst.interval[0]:.2f} to {worst.interval[1]:.2f}).",
    ]
    misses = [miss for result in results for miss in result.misses()]
    if misses:
        said += ["", f"Slower than {LEAST} beyond doubt, or more bytes kept:", ""]
        said += [f"- {miss}" for miss in misses]
    else:
        said.append(f"None is under {LEAST} beyond doubt, and none keeps more.")
    return "\n".join(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mechanisms; all by default")
    parser.add_argument("--threads", type=int, default=1, help="of torch's operations")
    parser.add_argument("--stages", default="1,2,3,4", help="of a ResNet-50, as 1,2,3,4")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of one case")
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    parser.add_argument("--noise", action="store_true", help="time the plain forms twice instead")
    parser.add_argument("--keep-memory", action="store_true", help="let no memory go when freed")
    parser.add_argument("--out", type=Path, help="results so far, gone on with after a stop")
    parser.add_argument("--write", type=Path, help="a page with marks")
    options = parser.parse_args()
    if options.keep_memory:
        keep_memory()
    names = options.names or list(mechanisms())
    missing = [name for name in names if name not in PLAIN]
    if missing:
        print(f"no plain form of {', '.join(missing)}", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    stages = [int(stage) for stage in options.stages.split(",")]
    cases = [(name, stage) for name in names for stage in stages if shape_at(name, stage)]
    done = read(options.out, "case") if options.out else {}
    results = []
    for name, stage in cases:
        if (case := f"{name} {stage}") in done:
            results.append(restored(name, stage, done[case]))
            continue
        result = weigh(name, stage, options.seconds, CLOCKS[options.clock], noise=options.noise)
        low, high = result.interval
        said = f"{case}: {result.ratio:.2f} ({low:.2f} to {high:.2f}) of {len(result.ratios)}"
        print(said, file=sys.stderr)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": case, **asdict(result)}) + "\n")
        results.append(result)
    made = {"summary": summary(results), "table": table(results)}
    print(*made.values(), sep="\n\n")
    if options.write:
        write(options.write, "mechanisms", made, kind="speed")
    missed = any(result.slow or result.large for result in results)
    few = bool(options.names)  # of these alone nobody asked for a mean
    return 1 if missed or (not few and geometric_mean(results) < TARGET) else 0


if __name__ == "__main__":
    sys.exit(main())
