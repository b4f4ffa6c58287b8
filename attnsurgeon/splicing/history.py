"""What an operated network remembers: the records of its operations, and marks on what went in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.configs import write_config
from attnsurgeon.splicing.makeup import Makeup

HISTORY = "_attnsurgeon_history"  # attribute of the network: the records of its operations


@dataclass(frozen=True)
class Mark:
    """What an inserted module remembers of its cut; a plain attribute, in no state dict.

    Attributes:
        site, attn, technique: of the cut.
        makeup: what the module was made of then; None where an older version has marked it.
    """

    site: str
    attn: str
    technique: str
    makeup: Makeup | None = None


def history(model: nn.Module) -> tuple[dict[str, Any], ...]:
    """The records (`Plan.record`) of the operations on a network, oldest first."""
    return model.__dict__.get(HISTORY, ())


def remember(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Makes these records the history of a network, and of the config it is saved with."""
    model.__dict__.pop(HISTORY, None)
    if records:
        model.__dict__[HISTORY] = tuple(records)
    write_config(model, records)


def forget(model: nn.Module, paths: set[str]) -> None:
    """Strikes cuts from the history of a network, by the paths of their modules."""
    kept = [
        {**record, "sites": [s for s in record["sites"] if s["module_path"] not in paths]}
        for record in history(model)
    ]
    remember(model, [record for record in kept if record["sites"]])


def inserted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields path and module of every attention that surgery put into `model`."""
    for path, module in model.named_modules():
        if module.__dict__.get(MARK) is not None:
            yield path, module
