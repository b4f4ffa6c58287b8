"""Operated network -> what all its attention costs, and where in the network that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from attnsurgeon.attention.own.card import is_code
from attnsurgeon.attention.registry import lookup
from attnsurgeon.cost.comparing import Cost, Surgery, compare
from attnsurgeon.cost.course import Course, course
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.errors import ModelError
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.trace import trace
from attnsurgeon.recording.twin import shared_twin
from attnsurgeon.sites.survey import survey
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.removing import remove_all


def price(model: nn.Module, form: InputForm) -> tuple[Cost, Course | None]:
    """Weigh a network as it is now, and without its attention, for a batch of one.

    Args:
        model: the operated network; it is only read.
        form: of its input.

    Returns:
        The cost, and the network without attention as its forward passes through it; None of one
        whose forward cannot be recorded.

    Raises:
        ModelError: the network cannot be run on such an input any more.
    """
    inputs = form.at_batch(1)
    base = shared_twin(model)
    remove_all(base, refill=True)
    before, after = weigh(base, inputs), weigh(model, inputs)
    sites = [site for record in history(model) for site in record["sites"]]
    cost = compare(before, after, [*_surgeries(sites, after.by_module)])
    try:
        found = survey(trace(base, form))
    except ModelError:  # it runs, which is all that saving it takes
        return cost, None
    return cost, course(found, before, [site["path"] for site in sites])


def _surgeries(sites: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> Iterator[Surgery]:
    """Yields what was done, of records of cuts; as `operate.weigh_plan` says it of cuts."""
    chains: set[tuple[str, str]] = set()
    for site in sites:
        chain = (site["attn"], site["chain"]) if site.get("chain") else None
        counted = chain in chains and not is_code(site["attn"]) and lookup(site["attn"]).tied
        if chain is not None:
            chains.add(chain)
        weighed = [path for path in _weighed(site) if path in known]
        for path in (site["path"], *site["shared"]):
            yield Surgery(path, site["module_path"], tuple(weighed), counted)


def _weighed(site: Mapping[str, Any]) -> list[str]:
    """Returns the modules whose cost a recorded cut changed, as `Cut.weighed` does of a cut."""
    host = site["module_path"].rpartition(".")[0]
    excites = not is_code(site["attn"]) and lookup(site["attn"]).kind == "weight"
    if site["technique"] == "takeover" or excites:
        return [*dict.fromkeys((host, *site.get("replaced", ())))]
    return [site["module_path"]]
