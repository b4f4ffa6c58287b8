"""The values of measuring: Measurement, of two networks side by side, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from attnsurgeon.shown import Shown, brief

FOR_AN_INTERVAL = 6  # values: that all of fewer lie on one side of their median is likelier


@dataclass(frozen=True, repr=False)
class Spread:
    """What many runs gave.

    Attributes:
        median: of them.
        q1, q3: lower and upper quartile.
        low, high: the 95 % confidence interval of the median; of fewer than 6 runs, which have
            none, the least and the greatest.
    """

    median: float
    q1: float
    q3: float
    low: float
    high: float

    def __repr__(self) -> str:
        return brief(self, f"{self.median:.4g}, half of all from {self.q1:.4g} to {self.q3:.4g}")


@dataclass(frozen=True, repr=False)
class Latency:
    """Seconds of one kind of run, before and after surgery, measured in pairs.

    Attributes:
        before, after: seconds, over all pairs.
        ratio: after / before within a pair.
        pairs: that were measured.
        warm_up: pairs before them that were thrown away.
        undecided: the time was up before the interval of the median ratio answered the question:
            it is wider than was asked for, or a limit lies in it.
    """

    before: Spread
    after: Spread
    ratio: Spread
    pairs: int
    warm_up: int = 0
    undecided: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether the pairs are enough for the interval to be one of 95 %."""
        return self.pairs >= FOR_AN_INTERVAL

    def __repr__(self) -> str:
        before, after = (1000 * one.median for one in (self.before, self.after))
        known = "undecided" if self.undecided else "decided"
        said = f"{before:.4g} -> {after:.4g} ms, x{self.ratio.median:.3f}"
        return brief(self, f"{said} of {self.pairs} pairs, {known}")


@dataclass(frozen=True, repr=False)
class Memory:
    """Bytes that one training step takes, beside the weights, before and after surgery.

    Attributes:
        before, after: at the peak.
        what: `saved tensors`, which autograd keeps for the backward pass, or `allocated`, the
            peak of the device's allocator over what was there before the step.
    """

    before: int
    after: int
    what: str

    @property
    def delta(self) -> int:
        """What the surgery adds."""
        return self.after - self.before

    @property
    def percent(self) -> float | None:
        """The same of what it took before, None where that is nothing."""
        return 100 * self.delta / self.before if self.before else None

    def __repr__(self) -> str:
        return brief(self, f"{self.before:,} -> {self.after:,} bytes, {self.what}")


@dataclass(frozen=True)
class Settings:
    """What was measured with.

    Attributes:
        batch: images of a run.
        device: where it ran, `cpu` or `cuda:0`.
        dtype: of the weights, `float32`.
        threads: of the CPU.
        seconds: after which no more pairs were measured, for the forward and the step together.
    """

    batch: int
    device: str
    dtype: str
    threads: int
    seconds: float


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """Two networks, run side by side in one process.

    Attributes:
        settings: how.
        forward: one forward in eval mode; None where time was not asked for.
        step: one training step, forward, backward and zero_grad in training mode; None where it
            was not asked for or cannot be made.
        memory: of such a step; None as `step` is.
        why: the reason why there can be no training step; empty where there can.
    """

    settings: Settings
    forward: Latency | None = None
    step: Latency | None = None
    memory: Memory | None = None
    why: str = ""
