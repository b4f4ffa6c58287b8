"""The values of weighing: Count, three figures, and Weight, a network's with their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnsurgeon.shown import Shown

_LAYERS = ("conv", "linear", "addmm")  # fvcore's names


@dataclass(frozen=True)
class Count:
    """Three figures of a module or of a difference.

    Attributes:
        params: trainable or not, each shared tensor once.
        macs: multiply-adds as fvcore counts them, and what it leaves out: see `cost.operators`.
        activations: elements of the results of convolutions and matrix products.
    """

    params: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
        )

    def __sub__(self, other: Count) -> Count:
        return self + Count(-other.params, -other.macs, -other.activations)


@dataclass(frozen=True, repr=False)
class Weight(Shown):
    """What a network weighs on given inputs.

    Attributes:
        params, macs, activations: of the whole network, as in `Count`.
        by_operator: MACs by fvcore's operator name.
        by_module: every module path -> its own Count, everything inside it included; a module
            with several paths has the same Count under each.
        uncounted: operator -> calls that have no price; data movement is not among them.
        beyond_fvcore: operator -> MACs that fvcore leaves out; `macs` less their sum is fvcore's.
        aliases: another path of a module -> the path it is found under first.
        inserted: module path of inserted attention -> one Count a call, in order.
        notes: what a reader of the figures has to know.
    """

    params: int
    macs: int
    activations: int
    by_operator: Mapping[str, int]
    by_module: Mapping[str, Count]
    uncounted: Mapping[str, int]
    beyond_fvcore: Mapping[str, int]
    aliases: Mapping[str, str]
    inserted: Mapping[str, tuple[Count, ...]]
    notes: tuple[str, ...] = ()

    @property
    def layer_macs(self) -> int:
        """MACs of convolutions and linear layers alone, which is what most papers count."""
        return sum(self.by_operator.get(operator, 0) for operator in _LAYERS)
