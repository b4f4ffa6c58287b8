"""A saved folder and its checkup -> plain values, and what the terminal shows of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attnsurgeon.errors import UsageError
from attnsurgeon.report import words
from attnsurgeon.report.checks import Went, kept_keys, sentences
from attnsurgeon.report.record import (
    Record,
    audit_record,
    card_record,
    cost_record,
    measurement_record,
    model_record,
    verification_record,
)

if TYPE_CHECKING:
    from rich.console import Console

    from attnsurgeon.checkup import Checkup
    from attnsurgeon.saved.restore import Saved


def folder_record(saved: Saved) -> Record:
    """Returns what `operation_record` says of an operation, as far as its folder knows it.

    A network that was operated several times counts as one operation at all the sites.
    """
    from attnsurgeon.attention.registry import mechanisms
    from attnsurgeon.saved.restore import loading_of

    made = saved.operations
    if not made:
        raise UsageError(
            f"the network in {saved.path} has no attention in it, so there is nothing to report",
            "look at it with `attnsurgeon inspect DIR`",
        )
    sites = [site for one in made for site in one["sites"]]
    inits = {one["init"] for one in made}
    known = mechanisms()
    own = [_own(one, sites) for operation in made for one in operation.get("code", ())]
    names = dict.fromkeys(site["attn"] for site in sites)
    prices = {price["site"]: price for price in saved.record["cost"]["per_site"]}
    for site in sites:
        for figure in ("macs", "activations"):
            site[figure] = prices[site["path"]][figure] if site["path"] in prices else None
    loading = loading_of(saved)
    return {
        **_model(saved),
        "attn": "+".join(one["attn"] for one in made),
        "where": ", ".join(one["where"] for one in made),
        "init": inits.pop() if len(inits) == 1 else "paper",
        "mechanisms": [*(card_record(known[name]) for name in names if name in known), *own],
        "input_size": list(made[-1]["input_size"]),
        "sites": sites,
        "refused": [refused for one in made for refused in one.get("refused", ())],
        "notes": [],
        "cost": _cost(saved.record["cost"]),
        "network": saved.record["network"],
        "latency": _measured(saved.record["latency"]),
        "verification": _checked(saved.record["verification"]),
        "rules": [(one["where"], one["rules"]) for one in made if one["rules"]],
        "mode": saved.mode,
        "versions": saved.record["versions"],
        "output": saved.name,
        "load": loading.code,
        "load_note": loading.note,
    }


def _own(code: Mapping[str, Any], sites: Iterable[Mapping[str, Any]]) -> Record:
    """What is known of a mechanism that is code of the user's, without running it."""
    fuses = any(site["attn"] == code["name"] and site["action"] == "fuse" for site in sites)
    file = f"{code['file']}, sha256 {code['sha256'][:12]}" if code["sha256"] else "in no file"
    old = "branch + shortcut" if fuses else "x"
    return {
        **code,
        "title": f"code of its own, {file}",
        "venue": "",
        "paper": "",
        "kind": "fusion" if fuses else "gate",
        "placement": "residual-add" if fuses else "residual-branch",
        "identity": "blend",
        "identity_how": f"y = old + g * (new - old), learnable g = 0; old is {old}",
        "lighter": "",
    }


def _model(saved: Saved) -> Record:
    from attnsurgeon.models import Source

    name = saved.record["base"]["class"].rpartition(".")[2]
    return model_record(saved.source or Source(name, weights="unknown"))


def _cost(saved: Mapping[str, Any]) -> Record:
    """The saved figures, with the differences between them as `Cost` works them out."""
    from attnsurgeon.cost.comparing import Cost
    from attnsurgeon.cost.weight import Weight

    before, after = (
        Weight(
            **{name: saved[when][name] for name in ("params", "macs", "activations")},
            by_operator={},
            by_module={},
            uncounted=dict.fromkeys(saved["uncounted"], 1),
            beyond_fvcore={},
            aliases={},
            inserted={},
        )
        for when in ("before", "after")
    )
    return {**cost_record(Cost(before, after, ())), "per_site": saved["per_site"]}


def _measured(found: Mapping[str, Any] | None) -> Record | None:
    """What was measured before the folder was written, as `operation_record` says it."""
    from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings, Spread

    def latency(one: Mapping[str, Any] | None) -> Latency | None:
        if one is None:
            return None
        spreads = {name: Spread(**one[name]) for name in ("before", "after", "ratio")}
        return Latency(**{**one, **spreads})

    if found is None:
        return None
    memory = found["memory"]
    return measurement_record(
        Measurement(
            Settings(**found["settings"]),
            latency(found["forward"]),
            latency(found["step"]),
            None if memory is None else Memory(**memory),
            found["why"],
        )
    )


def _checked(found: Mapping[str, Any] | None) -> Record | None:
    """What was verified; a figure that was no number is none again."""
    if found is None:
        return None
    figures = ("max_abs_diff", "relative_diff", "top1_agreement")
    return {**found, **{name: math.nan for name in figures if found[name] is None}}


def checkup_record(found: Checkup) -> Record:
    """Returns what was found in a saved folder."""
    return {
        **_model(found.saved),
        "folder": found.saved.name,
        "attn": "+".join(one["attn"] for one in found.saved.operations),
        "modules": len(found.audit.calls),
        "base_kept": found.base_kept,
        "now": verification_record(found.now),
        "afresh": [verification_record(checked) for checked in found.afresh],
        "audit": audit_record(found.audit),
        "ok": found.ok,
        "problems": list(found.problems),
    }


def show_checkup(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what was found in a saved folder."""
    from attnsurgeon.report.operation import show_checks
    from attnsurgeon.report.streams import marks
    from attnsurgeon.report.tables import show_heading

    show_heading(console, f"{record['folder']}: {record['model']} + {record['attn']}")
    show_checks(console, _findings(record))
    for number, checked in enumerate(record["afresh"], start=1):
        console.print()
        which = f" {number}" if len(record["afresh"]) > 1 else ""
        show_heading(console, f"operation{which}, made once more on its base")
        show_checks(console, sentences(checked, marks(console).times))


def _findings(record: Mapping[str, Any]) -> Iterator[tuple[Went, str]]:
    modules = words.several(record["modules"], "module")
    yield "good", f"loads: {modules} at the recorded sites, every sha256 as recorded"
    if record["now"].get("replaced_keys"):
        yield "note", "what was replaced is gone: compared with random weights in its place"
    elif record["base_kept"] is None:
        yield "note", "what the weights of the base were, the folder does not know"
    elif record["base_kept"]:
        yield "good", "the base has the weights that were operated on"
    else:
        yield "note", "the base has been trained since the operation"
    if record["now"]["identity"]:
        yield "good", "outputs bit-equal to those of its base"
    else:
        moved = f"{record['now']['relative_diff']:.2g} of the largest"
        yield "note", f"outputs differ from those of its base by {moved}: trained, or init=paper"
    yield from kept_keys(record["now"])
    from attnsurgeon.report.standing import audit_sentences

    yield from audit_sentences(record["audit"])


def show_audit(console: Console, record: Mapping[str, Any]) -> None:
    """Prints how often the inserted modules of a saved folder run."""
    from attnsurgeon.report.operation import show_checks
    from attnsurgeon.report.standing import audit_sentences
    from attnsurgeon.report.tables import show_heading

    count = words.several(len(record["calls"]), "inserted module")
    show_heading(console, f"{record['folder']}: {count}")
    show_checks(console, audit_sentences(record))
