"""Operated network -> Audit: does every inserted module still run?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attnsurgeon.sites.analysis import record as record_forward
from attnsurgeon.sizes import InputSize
from attnsurgeon.splicing.history import history, inserted


@dataclass(frozen=True)
class Audit:
    """How often each inserted module runs in one forward.

    Attributes:
        calls: module path -> number of calls.
        dead: inserted modules that do not run, those that have vanished included.
        shared: modules that see several resolutions -> the shapes.
    """

    calls: dict[str, int]
    dead: tuple[str, ...]
    shared: dict[str, tuple[tuple[int, ...], ...]]

    @property
    def ok(self) -> bool:
        """Whether every inserted module runs."""
        return not self.dead


def audit(model: nn.Module, *, input_size: InputSize | None = None) -> Audit:
    """Counts the calls that every inserted module receives in one forward.

    Attention can be lost without an error, by `fuse()`, `switch_to_deploy()`, a SyncBatchNorm
    conversion or a trainer that rebuilds the network; run this after anything of the kind.

    Args:
        model: an operated network.
        input_size: as for `find_sites`.
    """
    traced = record_forward(model, input_size)
    present = [path for path, _ in inserted(model)]
    expected = [site["module_path"] for record in history(model) for site in record["sites"]]
    runs = {path: traced.calls.get(path, []) for path in dict.fromkeys([*expected, *present])}
    shapes = {
        path: tuple(dict.fromkeys(c.inputs[0].meta["shape"] for c in calls if c.inputs))
        for path, calls in runs.items()
    }
    return Audit(
        {path: len(calls) for path, calls in runs.items()},
        tuple(path for path, calls in runs.items() if not calls),
        {path: seen for path, seen in shapes.items() if len(seen) > 1},
    )
