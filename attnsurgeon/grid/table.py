"""Grid: the rows of a comparison as plain values, which JSON, a journal and every report can hold.

Nothing here imports torch: a page or a table is made from rows that were read back as well as from
rows that were just weighed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnsurgeon.shown import Shown, brief

FIGURES = ("params", "macs", "activations")  # counted for every row
MEASURED = ("latency", "memory")  # where it was asked for: of `Row.measured`


@dataclass(frozen=True, repr=False)
class Network:
    """One network of a comparison, as it is.

    Attributes:
        name: what rows call it, unique in a grid.
        model, model_args, weights, stripped: as `model_record` has them.
        input_size: that it was weighed with, channels first.
        figures: "params", "macs", "activations" of the network without attention, batch 1.
        uncounted: operator -> calls that have no price.
        notes: what has to be said of the figures.
    """

    name: str
    model: str
    model_args: Mapping[str, Any]
    weights: str
    stripped: tuple[str, ...]
    input_size: Any
    figures: Mapping[str, int]
    uncounted: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        figures = (f"{self.figures[name]:,} {name}" for name in self.figures)
        return brief(self, f"{self.name}: {', '.join(figures) or 'not built'}")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Network:
        """Return the network of a record that `to_json` made."""
        return _made(cls, record, ("stripped", "notes"))


@dataclass(frozen=True, repr=False)
class Row:
    """One mechanism at one placement of one network: what it costs, or why it cannot go in.

    Attributes:
        model: the `name` of the network.
        attn: as it was asked for, `se` or `se(reduction=8)`.
        where: the placement, and what narrows it.
        init: "identity" or "paper".
        mechanisms: names of those that go in; several where rules name several.
        args: the arguments that were given.
        identity: "native" or "blend", the form in which it starts as the identity; of several
            mechanisms joined by "+"; None of one that cannot go in.
        sites: paths of the sites that get it, in execution order.
        refused: matched sites that do not: "path", "rule", "reason".
        after: "params", "macs", "activations" of the operated network, batch 1.
        delta: the differences, and each as "params_percent" of the figure before (None of 0).
        measured: a `Measurement` as plain values: "settings", "forward", "step", "memory", "why";
            None where nothing was measured.
        notes: what has to be said of the figures.
        error: why it cannot go in; the figures are None then.
        hint: what would help.
        folder: where the variant is saved, relative to the index, if it is.
        verified: whether the saved variant passed its checks; None where none were made.
        seal: by which a saved folder is known to be the one that was written.
        exit_code: of the error, as the command line has it.
        trained: what a sweep found: "metric", "mode", the best "value", "reports", "seconds" and
            "config" of the trial that had it, its "checkpoint", how many "trials" there were, how
            many "failed" and the first "error"; None where none trained it.
    """

    model: str
    attn: str
    where: str
    init: str
    mechanisms: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    identity: str | None = None
    sites: tuple[str, ...] = ()
    refused: tuple[Mapping[str, str], ...] = ()
    after: Mapping[str, int] | None = None
    delta: Mapping[str, Any] | None = None
    measured: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    hint: str | None = None
    folder: str | None = None
    verified: bool | None = None
    seal: str | None = None
    exit_code: int | None = None
    trained: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        if self.delta is None:
            return brief(self, f"{self.name}: {self.error}")
        added = (f"{self.delta[name]:+,} {name}" for name in FIGURES)
        return brief(self, f"{self.name}: {', '.join(added)}")

    @property
    def forward(self) -> Mapping[str, Any] | None:
        """The latency of a forward: "before", "after" and "ratio", each with its spread."""
        return self.measured and self.measured["forward"]

    @property
    def memory(self) -> Mapping[str, Any] | None:
        """Bytes of a training step: "before", "after"."""
        return self.measured and self.measured["memory"]

    @property
    def name(self) -> str:
        """The row in a few words: `resnet50: se(reduction=8) at bottleneck`."""
        return f"{self.model}: {self.attn} at {self.where}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """Return the row of a record that `to_json` made."""
        return _made(cls, record, ("mechanisms", "sites", "refused", "notes"))


@dataclass(frozen=True, repr=False)
class Grid(Shown):
    """Every combination that was asked for.

    Attributes:
        networks: in the order in which they were named.
        rows: those within the limits; what cannot go in is a row with an `error`.
        init: "identity" or "paper".
        sort: the key the rows are sorted by, with "-" in front for descending; "" for the order
            in which they were asked for.
        limits: limit -> its text, `{"max_params": "+1%"}`.
        left_out: rows that a limit leaves out, in the same order.
    """

    networks: tuple[Network, ...]
    rows: tuple[Row, ...]
    init: str
    sort: str = ""
    limits: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[Row, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def done(self) -> tuple[Row, ...]:
        """The rows with a price."""
        return tuple(row for row in self.rows if row.error is None)

    @property
    def refusals(self) -> tuple[Row, ...]:
        """The rows of what cannot go in."""
        return tuple(row for row in self.rows if row.error is not None)

    def network(self, row: Row) -> Network:
        """Return the network that a row is about."""
        return next(one for one in self.networks if one.name == row.model)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "init": self.init,
            "sort": self.sort,
            "limits": dict(self.limits),
            "networks": [network.to_json() for network in self.networks],
            "rows": [row.to_json() for row in self.rows],
            "left_out": [row.to_json() for row in self.left_out],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Grid:
        """Return the grid of a record that `to_json` made."""
        return cls(
            tuple(map(Network.of, record["networks"])),
            tuple(map(Row.of, record["rows"])),
            record["init"],
            record["sort"],
            dict(record["limits"]),
            tuple(map(Row.of, record["left_out"])),
        )


def _made(cls: Any, record: Mapping[str, Any], tuples: tuple[str, ...]) -> Any:
    known = {one.name for one in dataclasses.fields(cls)}
    if record.keys() - known:
        raise ValueError(f"a {cls.__name__} has no {sorted(record.keys() - known)[0]!r}")
    return cls(**{k: tuple(v) if k in tuples else v for k, v in record.items()})
