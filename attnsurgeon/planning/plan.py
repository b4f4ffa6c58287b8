"""Sites + rules + mechanisms -> Plan: what would be cut where, and what would be refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attnsurgeon.attention.own.card import recorded
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError, RuleError
from attnsurgeon.forwards.shallow import ShallowGraph
from attnsurgeon.planning.cut import Cut, Refused, Request
from attnsurgeon.planning.cutting.graphs import graph_of
from attnsurgeon.planning.deciding.decider import Decider
from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.recording.input_records import form_record
from attnsurgeon.shown import Shown
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import to_lists

__all__ = ["Cut", "Plan", "Refused", "Request", "plan_requests"]


@dataclass(eq=False, repr=False)
class Plan(Shown):
    """Ordered cuts; iterable. Nothing of the network has been changed.

    Attributes:
        cuts: in the order in which they are made.
        refused: matched sites that cannot be cut, each with its reason.
        survey: the analysed network.
        attn, where, init: as the user asked, for reports.
        rules: the text of the rules, for the saved folder.
        notes: what has to be said of the placement in this network.
    """

    cuts: tuple[Cut, ...]
    refused: tuple[Refused, ...]
    survey: Survey
    attn: str
    where: str
    init: str
    rules: str = ""
    notes: tuple[str, ...] = ()

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
            "input_size": to_lists(self.survey.traced.input_size),
            "example": form_record(self.survey.traced.form),
            "sites": [cut.record() for cut in self.cuts],
            "code": recorded(cut.card for cut in self.cuts),
            "refused": [
                {"path": r.site.path, "rule": r.rule, "reason": r.reason} for r in self.refused
            ],
        }

    def graph(self, host: str) -> ShallowGraph:
        """The shallow graph of a host that is retyped."""
        graph = graph_of(self.survey, self.survey.traced.calls[host][0])
        assert isinstance(graph, ShallowGraph)
        return graph

    def changed_by_hooks(self, host: str) -> bool:
        """Whether the hooks that a host has may hand on something else than its forward returns."""
        call = self.survey.traced.calls[host][0]
        made_inside = call.outputs[0].meta["call"] is not call  # by a child, and handed through
        if made_inside or not call.module._forward_hooks:
            return False
        return not isinstance(graph_of(self.survey, call), ShallowGraph)


@uncollected()
def plan_requests(
    survey: Survey,
    requests: Sequence[Request],
    *,
    attn: str,
    where: str,
    init: str,
    rules: str = "",
    notes: tuple[str, ...] = (),
) -> Plan:
    """Decides how each request is carried out.

    Args:
        survey: the analysed network.
        requests: what the rules want, in their order.
        attn, where, init, rules, notes: as `Plan` has them.

    Raises:
        MechanismError: a mechanism cannot be built at any of its sites.
        RuleError: an action is not possible for a mechanism, or every site is refused.
    """
    decider = Decider(survey)
    refused: list[Refused] = []
    first_error: MechanismError | None = None
    for request in requests:
        try:
            reason = decider.add(request)
        except MechanismError as error:
            first_error = first_error or error
            reason = error.what + (f" ({error.hint})" if error.hint else "")
        if reason is not None:
            refused.append(Refused(request.site, request.rule, reason))
    refused += decider.half_shared()
    decider.check_apart()
    if requests and not decider.cuts:
        if first_error is not None:
            raise first_error
        raise RuleError(
            f"none of the {len(requests)} matched sites can be cut: "
            f"{refused[0].site.path}: {refused[0].reason}",
            _elsewhere(requests[0].attn, "`find_sites` lists", "where="),
            command=_elsewhere(requests[0].attn, "`attnsurgeon inspect` lists", "--where"),
        )
    if where == "paper":
        decider.note_lonely()
    return Plan(tuple(decider.cuts), tuple(refused), survey, attn, where, init, rules, notes)


def _elsewhere(attn: str, lists: str, where: str) -> str:
    card = lookup(attn)
    own = "" if card.kind == "gate" else f"{attn} is for the placement {card.placement}; "
    return f"{own}{lists} other sites; {where} chooses among them"
