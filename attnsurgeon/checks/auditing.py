"""Operated network -> Audit: is every inserted module still what was put in, and does it run?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnsurgeon.given import takes_networks
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.record import MARK, Traced
from attnsurgeon.shown import Shown
from attnsurgeon.sites.analysis import record as record_forward
from attnsurgeon.sizes import InputSize
from attnsurgeon.splicing.history import changes_of, history, inserted
from attnsurgeon.splicing.makeup import class_of


@dataclass(frozen=True, repr=False)
class Audit(Shown):
    """How often each inserted module runs in one forward, and which are no longer themselves.

    Attributes:
        calls: module path -> number of calls; of another module in its place none count.
        dead: inserted modules that do not run, those that have vanished or been replaced included.
        shared: modules that see several resolutions -> the shapes.
        altered: inserted modules that are not what was put in -> what is different about them.
    """

    calls: dict[str, int]
    dead: tuple[str, ...]
    shared: dict[str, tuple[tuple[int, ...], ...]]
    altered: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every inserted module is there as it was, and runs."""
        return not self.dead and not self.altered


@takes_networks()
@known_state()
def audit(model: nn.Module, *, input_size: InputSize | None = None, example: Any = None) -> Audit:
    """Counts the calls of every inserted module in one forward, and compares it with what it was.

    Attention can be lost without an error, by `fuse()`, `switch_to_deploy()`, a SyncBatchNorm
    conversion, a compressor that puts an `nn.Identity` in its place or a trainer that rebuilds the
    network; run this after anything of the kind. Classes, sizes and settings are compared, not
    values: training changes these.

    Args:
        model: an operated network.
        input_size, example: as for `find_sites`; default: an example that it was operated with,
            else as there.
    """
    records = history(model)
    if input_size is None and example is None and records and records[-1].get("example"):
        example = recorded_form(records[-1])
    return audited(model, record_forward(model, input_size, example))


def audited(model: nn.Module, traced: Traced) -> Audit:
    """Returns what `audit` finds, from a forward that has been recorded."""
    present = dict(inserted(model))
    recorded = {s["module_path"]: s for record in history(model) for s in record["sites"]}
    replaced = {path: _replaced(model, path, site) for path, site in recorded.items()}
    altered = {path: what for path, what in replaced.items() if what}
    altered |= {path: what for path, module in present.items() if (what := changes_of(module))}
    paths = [path for path in recorded if path in present or not _wrapped(path, present)]
    runs = {
        path: [] if replaced.get(path) else traced.calls.get(path, [])
        for path in dict.fromkeys([*paths, *present])
    }
    shapes = {
        path: tuple(dict.fromkeys(c.inputs[0].meta["shape"] for c in calls if c.inputs))
        for path, calls in runs.items()
    }
    return Audit(
        {path: len(calls) for path, calls in runs.items()},
        tuple(path for path, calls in runs.items() if not calls),
        {path: seen for path, seen in shapes.items() if len(seen) > 1},
        altered,
    )


def _replaced(model: nn.Module, path: str, site: Mapping[str, Any]) -> str:
    """Says what stands where the attention of a record was; "" where it does, or nothing does."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return ""
    if any(MARK in part.__dict__ for part in module.modules()):  # itself, or inside a wrapper
        return ""
    return f"a {class_of(module)} stands in the place of the {site['attn']}"


def _wrapped(path: str, present: Mapping[str, nn.Module]) -> bool:
    """Whether the module of a path is inside another one that took its place (a compiled one)."""
    return any(other.startswith(f"{path}.") for other in present)
