"""Recorded operations (`splice.history`) -> the same operations, carried out on a fresh network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from attnsurgeon.errors import MechanismError, ModelError, RuleError
from attnsurgeon.planning.plan import Plan, Request, plan_requests
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.splicing.history import remember
from attnsurgeon.splicing.splice import splice

Record = Mapping[str, Any]
Explain = Callable[[list[str]], ModelError]

# Of a cut, what has to be the same the second time.
_COMPARED = ("path", "shared", "channels", "layout", "module_path", "technique", "params")


def not_repeatable(
    differences: list[str],
    what: str = "the surgery",
    hint: str = "give the network that was operated, as it was before",
) -> ModelError:
    """Returns the error for a network that is no longer what was operated on."""
    shown = "\n  ".join(differences[:5])
    more = f"\n  and {len(differences) - 5} more" if len(differences) > 5 else ""
    return ModelError(f"{what} cannot be repeated on this network:\n  {shown}{more}", hint)


def replay(
    network: nn.Module, operations: Iterable[Record], explain: Explain = not_repeatable
) -> None:
    """Carries out recorded operations on a network without attention, in place, oldest first.

    Args:
        network: built like the one that was operated; its weights do not matter.
        operations: as `splice.history` gives them.
        explain: makes an error of what differs between the network of the record and this one.

    Raises:
        ModelError: as `explain` made it; some of the operations may have been carried out.
    """
    operations = tuple(operations)
    for operation in operations:
        splice(network, _same(network, operation, explain))
    remember(network, operations)


def replan(network: nn.Module, operation: Record, explain: Explain = not_repeatable) -> Plan:
    """Plans a recorded operation again, on the network that it was made for.

    Raises:
        ModelError: as `explain` made it, where the network has no longer what was operated on.
    """
    lines = all(cut.get("rank") for cut in operation["sites"])  # earlier versions wrote none
    survey = analyse(network, example=recorded_form(operation), lines=lines)
    sites = {site.path: site for site in survey.sites}
    wanted = [(cut, p) for cut in operation["sites"] for p in (cut["path"], *cut["shared"])]
    if gone := [path for _, path in wanted if path not in sites]:
        raise explain([f"{path}: there is no such site now" for path in gone])
    requests = [Request.repeating(cut, sites[path]) for cut, path in wanted]
    kept = {name: operation[name] for name in ("attn", "where", "init", "rules")}
    try:
        return plan_requests(survey, requests, **kept)
    except (RuleError, MechanismError) as error:
        raise explain([error.what]) from error


def _same(network: nn.Module, operation: Record, explain: Explain) -> Plan:
    plan = replan(network, operation, explain)
    if differences := _differences(operation, plan):
        raise explain(differences)
    return plan


def _differences(operation: Record, plan: Plan) -> list[str]:
    """Say how a replayed plan differs from the recorded one."""
    if plan.refused:
        return [f"{refused.site.path}: {refused.reason}" for refused in plan.refused]
    return [
        f"{cut['path']}: {name} was {cut[name]}, is {now[name]}"
        for cut, now in zip(operation["sites"], plan.record()["sites"], strict=True)
        for name in _COMPARED
        if cut[name] != now[name]
    ]
