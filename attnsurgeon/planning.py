"""Sites + rules + mechanisms -> Plan: what would be cut where, and what would be refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from attnsurgeon.attention.registry import Mechanism, create_attention, lookup
from attnsurgeon.cuts import Cutter, Place, Refusal, input_of
from attnsurgeon.errors import MechanismError, RuleError
from attnsurgeon.finder import Survey
from attnsurgeon.layouts import layout_of
from attnsurgeon.shallow import ShallowGraph
from attnsurgeon.sites import Site

_SPATIAL_RANK = {"NCHW": 2, "NHWC": 2, "NCDHW": 3, "NDHWC": 3, "NLC": 2, "NCL": 2}


@dataclass(frozen=True)
class Request:
    """One site that a rule matched, and what the rule wants there."""

    rule: str
    site: Site
    attn: str
    attn_args: Mapping[str, Any]
    action: str
    init: str


@dataclass(frozen=True)
class Cut:
    """One attention module that goes into the network.

    Attributes:
        site: where.
        attn, attn_args, init: what, and how it starts.
        action: "insert-after" or "insert-before".
        rule: id of the rule that asked for it.
        place: how the network is cut.
        name: the child's name in `place.host`.
        channels, rank, layout: of the value.
        params: parameters it adds.
        shared: further sites served by the same module (its host runs several times).
    """

    site: Site
    attn: str
    attn_args: Mapping[str, Any]
    init: str
    action: str
    rule: str
    place: Place
    name: str
    channels: int
    rank: int
    layout: str
    params: int
    shared: tuple[Site, ...] = ()

    @property
    def module_path(self) -> str:
        """The path of the inserted module in the operated network."""
        return f"{self.place.host}.{self.name}" if self.place.host else self.name

    def record(self) -> dict[str, Any]:
        """The cut as plain values."""
        return {
            "path": self.site.path,
            "channels": self.channels,
            "layout": self.layout,
            "module_path": self.module_path,
            "params": self.params,
            "attn": self.attn,
            "args": dict(self.attn_args),
            "init": self.init,
            "action": self.action,
            "rule": self.rule,
            "technique": self.place.technique,
            "shared": [site.path for site in self.shared],
            "note": self.place.note,
        }


@dataclass(frozen=True)
class Refused:
    """A matched site that cannot be operated, and why."""

    site: Site
    rule: str
    reason: str


@dataclass(eq=False)
class Plan:
    """Ordered cuts; iterable. Nothing of the network has been changed.

    Attributes:
        cuts: in the order in which they are made.
        refused: matched sites that cannot be cut, each with its reason.
        survey: the analysed network.
        attn, where, init: as the user asked, for reports.
        rules: the text of the rules, for the saved folder.
    """

    cuts: tuple[Cut, ...]
    refused: tuple[Refused, ...]
    survey: Survey
    attn: str
    where: str
    init: str
    rules: str = ""
    _cutter: Cutter | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Cut]:
        return iter(self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    @property
    def params(self) -> int:
        """Parameters that the cuts add."""
        return sum(cut.params for cut in self.cuts)

    def record(self) -> dict[str, Any]:
        """What was decided, as plain values: enough to carry it out again on the same network."""
        return {
            "attn": self.attn,
            "where": self.where,
            "init": self.init,
            "rules": self.rules,
            "input_size": list(self.survey.traced.root.inputs[0].meta["shape"][1:]),
            "sites": [cut.record() for cut in self.cuts],
            "refused": [
                {"path": r.site.path, "rule": r.rule, "reason": r.reason} for r in self.refused
            ],
        }

    def graph(self, host: str) -> ShallowGraph:
        """The shallow graph of a host that is retyped."""
        assert self._cutter is not None
        graph = self._cutter.graph(self.survey.traced.calls[host][0])
        assert isinstance(graph, ShallowGraph)
        return graph


def plan_requests(
    survey: Survey,
    requests: Sequence[Request],
    *,
    attn: str,
    where: str,
    init: str,
    rules: str = "",
) -> Plan:
    """Decides how each request is carried out.

    Raises:
        MechanismError: a mechanism cannot be built at any of its sites.
        RuleError: an action is not possible for a mechanism, or every site is refused.
    """
    cutter = Cutter(survey)
    builder = _Builder(survey, cutter, [])
    refused: list[Refused] = []
    first_error: MechanismError | None = None
    for request in requests:
        try:
            reason = builder.add(request)
        except MechanismError as error:
            first_error = first_error or error
            reason = error.what + (f" ({error.hint})" if error.hint else "")
        if reason is not None:
            refused.append(Refused(request.site, request.rule, reason))
    refused += builder.half_shared()
    if requests and not builder.cuts:
        if first_error is not None:
            raise first_error
        raise RuleError(
            f"none of the {len(requests)} matched sites can be cut: "
            f"{refused[0].site.path}: {refused[0].reason}",
            "`attnsurgeon inspect` lists other sites; --where chooses among them",
        )
    return Plan(
        tuple(builder.cuts), tuple(refused), survey, attn, where, init, rules, _cutter=cutter
    )


@dataclass(eq=False)
class _Builder:
    """Collects cuts; finds names that are free and hosts that are shared."""

    survey: Survey
    cutter: Cutter
    cuts: list[Cut]
    names: set[tuple[str, str]] = field(default_factory=set)

    def add(self, request: Request) -> str | None:
        """Adds the cut of one request; returns the reason where there can be none."""
        card = lookup(request.attn)
        self._check_action(request, card)
        target = self.survey.nodes[request.site.path]
        before = request.action == "insert-before"
        value = input_of(target) if before else target
        if value is None:
            return "the operation has no input to insert before"
        layout, why = layout_of(value, self.survey.traced.batch)
        if layout is None:
            return why
        if layout == "NC" or (layout in ("NLC", "NCL") and card.spatial):
            return f"{card.name} needs a map of positions, and here the layout is {layout}"
        place = self.cutter.place(value, target if before else None)
        if isinstance(place, Refusal):
            return place.reason
        channels = value.meta["shape"][layout.index("C")]
        sizes = tuple(
            n for n, axis in zip(value.meta["shape"], layout, strict=True) if axis in "DHWL"
        )
        args = card.args_at(sizes, request.attn_args)
        if place.calls > 1:
            reason = self._join(request, card, place, value, channels, args)
            if reason != "new":
                return reason
        rank = _SPATIAL_RANK[layout]
        with torch.device("meta"):
            module = create_attention(card.name, channels, rank=rank, init=request.init, **args)
        params = sum(p.numel() for p in module.parameters())
        cut = Cut(
            request.site, card.name, args, request.init, request.action,
            request.rule, place, self._name(place.host), channels, rank, layout, params,
        )  # fmt: skip
        self.cuts.append(cut)
        return None

    def half_shared(self) -> list[Refused]:
        """Takes back cuts in hosts that run more often than they were asked for."""
        taken: list[Refused] = []
        for cut in list(self.cuts):
            if cut.place.calls > 1 + len(cut.shared):
                self.cuts.remove(cut)
                reason = (
                    f"{cut.place.host} runs {cut.place.calls} times in one forward and only "
                    f"{1 + len(cut.shared)} of its runs was matched; one cut serves all of them"
                )
                taken.append(Refused(cut.site, cut.rule, reason))
        return taken

    def _check_action(self, request: Request, card: Mechanism) -> None:
        if card.kind != "gate" or request.action not in ("insert-after", "insert-before"):
            raise RuleError(
                f"rule {request.rule!r}: {card.name} ({card.kind}) cannot {request.action}",
                "a gate is inserted: action: insert-after or insert-before",
            )

    def _join(
        self,
        request: Request,
        card: Mechanism,
        place: Place,
        value: fx.Node,
        channels: int,
        args: Mapping[str, Any],
    ) -> str | None:
        """Lets a further run of a shared host use the cut that is there; "new" if none is."""
        for i, cut in enumerate(self.cuts):
            if cut.place != place or cut.rule != request.rule or cut.attn != card.name:
                continue
            if cut.channels != channels:
                return f"{place.host} is shared and has {cut.channels} channels in another run"
            first = self.survey.nodes[cut.site.path].meta["shape"]
            several = first[1:] != value.meta["shape"][1:] and not card.resolution_free
            if several or cut.attn_args != args:
                return f"{place.host} runs at several resolutions and {card.name} is tied to one"
            joined = (*cut.shared, request.site)
            self.cuts[i] = Cut(**{**cut.__dict__, "shared": joined})
            return None
        return "new"

    def _name(self, host: str) -> str:
        """A child name that the host does not use: attn, attn_1, ..."""
        module: nn.Module = self.survey.traced.twin.get_submodule(host)
        number = 0
        while True:
            name = f"attn_{number}" if number else "attn"
            # dir(), not hasattr(): a class may answer for every name.
            if (host, name) not in self.names and name not in dir(module):
                self.names.add((host, name))
                return name
            number += 1
