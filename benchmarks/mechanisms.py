"""Weighs gates of one value against plain transcriptions of their equations: time and bytes kept.

    python -m benchmarks.mechanisms                      all, as a Markdown table
    python -m benchmarks.mechanisms sa triplet --threads 1 --shapes 3,4
    python -m benchmarks.mechanisms gam --noise          the plain form against itself
    python -m benchmarks.mechanisms --keep-memory        without the time of fresh memory

At the shapes of the four bottlenecks of a ResNet-50, batch 8, in training mode. Both compute the
same, with the same parameters: that is asserted first. Time is that of a forward and a backward
pass, in turn, in blocks; of each block the median counts, and of the blocks the least. Saved bytes
are those of the tensors that the forward keeps for the backward, each storage once, but for the
input and the parameters. The process exits with 1 when a mechanism is slower than its plain form
by more than the noise, keeps more, or the geometric mean of all ratios of time is under the target.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnsurgeon.attention.registry import create_attention, lookup, mechanisms
from benchmarks.plain import PLAIN

SHAPES = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
BATCH = 8
NOISE = 0.05  # two runs of one module on a busy machine differ by as much
TARGET = 1.3
SMALL = 0.01  # of the input's bytes: what is kept of so little is not counted as more
Clock = Callable[[], float]
# The processor's time is steadier where others use the machine too, but adds up all threads.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
BLOCKS, SECONDS = 3, 1.0  # blocks a case, and how long one of them may take


@dataclass(frozen=True)
class Result:
    """What one mechanism took at one shape, ours and plain.

    Attributes:
        seconds: number of threads -> (ours, plain).
        saved: bytes kept for the backward (ours, plain).
        input_bytes: of the input.
    """

    name: str
    shape: tuple[int, ...]
    seconds: dict[int, tuple[float, float]]
    saved: tuple[int, int]
    input_bytes: int

    @property
    def ratios(self) -> list[float]:
        """Returns how many times as long the plain form takes, for each number of threads."""
        return [plain / ours for ours, plain in self.seconds.values()]

    def misses(self) -> Iterable[str]:
        """Returns what is not as it should be, in words."""
        where = f"{self.name} at {self.shape[0]}x{self.shape[1]}x{self.shape[2]}"
        for threads, (ours, plain) in self.seconds.items():
            if plain / ours < 1 - NOISE:
                yield f"{where}, threads {threads}: {plain / ours:.2f} times as fast as plain"
        ours, plain = self.saved
        if ours > plain + SMALL * self.input_bytes:
            yield f"{where}: keeps {ours / 1e6:.1f} MB, plain {plain / 1e6:.1f} MB"


def gates() -> list[str]:
    """Returns the names of the gates that look at one value."""
    cards = mechanisms().values()
    return [c.name for c in cards if c.kind == "gate" and c.inputs({}) == ("value",)]


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


def pair(name: str, shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """Returns the mechanism and its plain form, in training mode, with the same parameters."""
    channels, *size = shape
    card = lookup(name)
    ours = create_attention(name, channels, **card.args_at(tuple(size), {}))
    plain = PLAIN[name](channels, tuple(size))
    in_our_order = getattr(plain, "in_our_order", lambda: list(plain.parameters()))
    with torch.no_grad():
        for parameter, same in zip(ours.parameters(), in_our_order(), strict=True):
            parameter.add_(0.1 * torch.randn_like(parameter))
            parts = same if isinstance(same, list) else [same]
            for part, value in zip(parts, parameter.chunk(len(parts)), strict=True):
                part.copy_(value.reshape(part.shape))
    return ours.train(), plain.train()


def step(
    module: nn.Module, x: Tensor, cotangent: Tensor, clock: Clock = time.perf_counter
) -> tuple[float, Tensor, Tensor]:
    """Returns the seconds of one forward and backward pass, the output and the gradient of `x`."""
    module.zero_grad(set_to_none=True)
    x.grad = None
    start = clock()
    y = module(x)
    y.backward(cotangent)
    seconds = clock() - start
    assert x.grad is not None
    return seconds, y.detach(), x.grad


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Returns what the forward keeps for the backward, without the input and the parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x)
    for known in (x, *module.parameters(), *module.buffers()):
        kept.pop(known.untyped_storage().data_ptr(), None)
    del y
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def same(name: str, ours: tuple[Tensor, ...], plain: tuple[Tensor, ...]) -> None:
    """Asserts that output and gradient agree, relative to the largest value of each."""
    for what, a, b in zip(("output", "gradient"), ours, plain, strict=True):
        apart = ((a - b).abs().max() / b.abs().max()).item()
        assert apart < 1e-3, f"{name}: the {what} is {apart:.1e} apart from the plain one"


def time_both(take: Sequence[Callable[[], float]], seconds: float) -> tuple[float, float]:
    """Returns the seconds of two steps, run in turn, however slow they are.

    A first run of each is not counted: it sets up what later ones find.
    """
    turns = max(1, min(9, int(seconds / sum(run() for run in take))))
    blocks = []
    for _ in range(BLOCKS):
        times = [[run() for run in take] for _ in range(turns)]
        blocks.append([statistics.median(column) for column in zip(*times, strict=True)])
    ours, plain = (min(column) for column in zip(*blocks, strict=True))
    return ours, plain


def weigh(
    name: str,
    shape: tuple[int, int, int],
    threads: Sequence[int],
    limit: float,
    clock: Clock,
    *,
    noise: bool = False,
) -> Result:
    """Returns what one mechanism takes at one shape; with `noise`, a copy of its plain form."""
    torch.manual_seed(0)
    ours, plain = pair(name, shape)
    if noise:
        ours = copy.deepcopy(plain)
    x = torch.randn(BATCH, *shape).requires_grad_()
    cotangent = torch.randn_like(x)
    same(name, step(ours, x, cotangent)[1:], step(plain, x, cotangent)[1:])
    saved = saved_bytes(ours, x), saved_bytes(plain, x)
    seconds = {}
    for number in threads:
        torch.set_num_threads(number)
        runs = [lambda m=m: step(m, x, cotangent, clock)[0] for m in (ours, plain)]
        seconds[number] = time_both(runs, limit)
    return Result(name, shape, seconds, saved, x.untyped_storage().nbytes())


def geometric_mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(values)


def table(results: Sequence[Result]) -> str:
    """Returns all results as Markdown: how many times as fast as plain, and the bytes kept."""
    shapes = list(dict.fromkeys(r.shape for r in results))
    heads = [f"{c}x{h}x{w}" for c, h, w in shapes]
    lines = [
        "| mechanism | mean | " + " | ".join(heads) + " | MB kept, ours / plain |",
        "|---" * (len(shapes) + 3) + "|",
    ]
    for name in dict.fromkeys(r.name for r in results):
        own = [r for r in results if r.name == name]
        mean = geometric_mean(ratio for r in own for ratio in r.ratios)
        cells = [" ".join(f"{ratio:.2f}" for ratio in r.ratios) for r in own]
        kept = [f"{r.saved[0] / 1e6:.1f} / {r.saved[1] / 1e6:.1f}" for r in own]
        lines.append(f"| {name} | {mean:.2f} | " + " | ".join(cells) + f" | {', '.join(kept)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mechanisms; all by default")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, as 1,2")
    parser.add_argument("--shapes", default="1,2,3,4", help="stages, as 1,2,3,4")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of one block")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--noise", action="store_true", help="time the plain forms twice instead")
    parser.add_argument("--keep-memory", action="store_true", help="let no memory go when freed")
    options = parser.parse_args()
    if options.keep_memory:
        keep_memory()
    names = options.names or gates()
    missing = [name for name in names if name not in PLAIN]
    if missing:
        print(f"no plain form of {', '.join(missing)}", file=sys.stderr)
        return 1
    clock = CLOCKS[options.clock]
    threads = [int(number) for number in options.threads.split(",")]
    results = []
    for name in names:
        for stage in options.shapes.split(","):
            print(f"{name}, stage {stage}", file=sys.stderr)
            shape = SHAPES[int(stage) - 1]
            result = weigh(name, shape, threads, options.seconds, clock, noise=options.noise)
            results.append(result)
    print(table(results))
    mean = geometric_mean(ratio for r in results for ratio in r.ratios)
    print(f"\nGeometric mean: {mean:.2f} times as fast as the plain forms (target {TARGET}).")
    best = max(results, key=lambda r: max(r.ratios)).name
    others = [ratio for r in results for ratio in r.ratios if r.name != best]
    if others:
        print(f"Without {best}: {geometric_mean(others):.2f}.")
    misses = [miss for result in results for miss in result.misses()]
    if misses:
        print("\nMissed:\n" + "\n".join(f"- {miss}" for miss in misses))
    return 1 if misses or mean < TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
