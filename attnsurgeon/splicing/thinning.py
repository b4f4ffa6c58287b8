"""Operated network -> the same without some of its attention, or without any.

A part is taken out by taking out everything, repeating what stays, and putting the modules that
were there back in: the network is then what it would be had only these been inserted, so that it
can be saved and loaded like any other. It is rehearsed on a copy, around the same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.attention.linked.chain import Link
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.record import MARK
from attnsurgeon.recording.sharding import refuse_sharded
from attnsurgeon.recording.twin import shared_twin
from attnsurgeon.sites.analysis import record as record_forward
from attnsurgeon.splicing.history import Mark, base_shapes, history, remember
from attnsurgeon.splicing.makeup import Makeup
from attnsurgeon.splicing.removing import remove_all, weights_gone
from attnsurgeon.splicing.replay import replan
from attnsurgeon.splicing.selecting import Chosen, chosen, cuts_of, made_of, operated_in
from attnsurgeon.splicing.splice import splice

Record = dict[str, Any]


@takes_networks()
@known_state()
def remove(model: nn.Module, sites: Chosen = None, *, refill: bool = False) -> None:
    """Takes inserted attention out again, in place: all of it, or that of some sites.

    What stays keeps its modules and their weights. Where one module of the network has several
    attentions, the names `attn`, `attn_1`, ... are those of a network that never had the others.

    Args:
        model: an operated network.
        sites: the path of a site (`layer4.1.bn2`) or of an inserted module (`layer4.1.attn`), a
            pattern of either (`layer4.*`), Sites, or several of these; None for all attention.
        refill: give what attention under init="paper" took the place of random values.

    Raises:
        ModelError: something was replaced and its weights are gone, and not `refill`; or what
            would stay depends on what would go.
        UsageError: nothing is called that, or the network is spread over processes. Nothing has
            been changed then.
    """
    refuse_sharded(model)
    if sites is None:
        remove_all(model, refill=refill)
        return
    _, network = operated_in(model)
    gone = set(chosen(network, sites))
    cuts = cuts_of(network)
    lost = [path for name in gone for path in cuts[name]["replaced"]]
    if lost and not refill:
        raise weights_gone(lost[0])
    if gone == set(cuts):
        remove_all(network, refill=True)
    else:
        _repeat_without(network, gone)


def _repeat_without(network: nn.Module, gone: set[str]) -> None:
    kept = _kept(history(network), gone)
    before = [site["module_path"] for record in kept for site in record["sites"]]
    standing = {path: _standing(network, path) for path in before}
    records = [_renamed(record, gone, cuts_of(network)) for record in kept]
    plans = _rehearsed(shared_twin(network), records, standing)
    shapes = base_shapes(network)
    remove_all(network, refill=True)  # what is replaced still is refilled, and replaced again
    for plan in plans:
        splice(network, plan)
    now = [cut for plan in plans for cut in plan.cuts]
    for path, cut in zip(before, now, strict=True):
        host = network.get_submodule(cut.place.host)
        host._modules[cut.name] = _in_place_of(host._modules[cut.name], standing[path])
    made = [
        {**plan.record(), "refused": record.get("refused", [])}
        for plan, record in zip(plans, records, strict=True)
    ]
    remember(network, made, base=shapes)


def _kept(records: tuple[Record, ...], gone: set[str]) -> list[Record]:
    """The records without what goes; operations of which nothing stays are left out."""
    kept = []
    for record in records:
        sites = [site for site in record["sites"] if site["module_path"] not in gone]
        if sites:
            kept.append({**record, "attn": _attn(record, sites), "sites": sites})
    return kept


def _attn(record: Record, sites: list[Record]) -> str:
    there = {site["attn"] for site in sites}
    return "+".join(name for name in record["attn"].split("+") if name in there)


def _renamed(record: Record, gone: set[str], cuts: Mapping[str, Mapping[str, Any]]) -> Record:
    """The record with the sites under the names that they have without what goes."""
    sites = [
        {
            **site,
            "path": made_of(site["path"], cuts, gone),
            "shared": [made_of(path, cuts, gone) for path in site["shared"]],
        }
        for site in record["sites"]
    ]
    return {**record, "sites": sites}


def _rehearsed(
    twin: nn.Module, records: list[Record], standing: Mapping[str, nn.Module]
) -> list[Plan]:
    """The plans of what stays, carried out on a copy.

    Raises:
        ModelError: they cannot be, or would be other modules than those that stand there.
    """
    remove_all(twin, refill=True)
    plans = []
    parts = iter(standing.items())
    for record in records:
        plan = replan(twin, record, _cannot)
        if plan.refused or len(plan.cuts) != len(record["sites"]):
            raise _cannot([f"{one.site.path}: {one.reason}" for one in plan.refused])
        splice(twin, plan)
        for cut in plan.cuts:
            path, old = next(parts)
            new = Makeup.of(twin.get_submodule(cut.module_path))
            then = old.__dict__[MARK].makeup or Makeup.of(old)
            if (new.kind, new.tensors) != (then.kind, then.tensors):
                raise _cannot([f"{path} would be of another size"])
        plans.append(plan)
    try:
        record_forward(twin, example=plans[-1].survey.traced.form)
    except ModelError as error:  # what one hands on, another cannot take
        raise _cannot([error.what]) from error
    return plans


def _cannot(differences: list[str]) -> ModelError:
    shown = "\n  ".join(differences[:5]) or "it is decided otherwise"
    return ModelError(
        f"what would stay depends on what would go:\n  {shown}",
        "name that as well, or take everything out: attnsurgeon.remove(model)",
    )


def _standing(network: nn.Module, path: str) -> nn.Module:
    try:
        part = network.get_submodule(path)
    except AttributeError:
        part = None
    if part is None or MARK not in part.__dict__:
        raise UsageError(
            f"{path} is not what was inserted there, and would have to stay",
            "`attnsurgeon.audit` says what has become of it; attnsurgeon.remove(model) takes"
            " everything out",
        )
    return part


def _in_place_of(new: nn.Module | None, old: nn.Module) -> nn.Module:
    """The old module, linked and marked as the new one is."""
    assert new is not None, "splice has just put it there"
    made: Mark = new.__dict__[MARK]
    if isinstance(new, Link) and isinstance(old, Link):
        old.join(new.chain, new.place)
    else:  # the makeup of a link names its place
        made = dataclasses.replace(made, makeup=old.__dict__[MARK].makeup)
    if isinstance(new, Tapped) and isinstance(old, Tapped):
        old.mailbox = new.mailbox
    setattr(old, MARK, made)
    return old
