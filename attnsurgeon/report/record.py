"""Values of the engine -> plain ones: what `--json` prints, and all that tables and pages read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from attnsurgeon.sizes import InputSize, to_lists

if TYPE_CHECKING:
    from attnsurgeon.attention.registry import Mechanism
    from attnsurgeon.checks.auditing import Audit
    from attnsurgeon.checks.status import Status
    from attnsurgeon.checks.verify import Verification
    from attnsurgeon.cost.comparing import Cost
    from attnsurgeon.cost.measured import Latency, Measurement, Spread
    from attnsurgeon.cost.weight import Count, Weight
    from attnsurgeon.models import Source
    from attnsurgeon.planning.plan import Plan
    from attnsurgeon.recording.record import Traced
    from attnsurgeon.sites.site import Site
    from attnsurgeon.sites.survey import Survey

Record = dict[str, Any]


def operation_record(
    plan: Plan,
    cost: Cost,
    *,
    model: Mapping[str, Any],
    latency: Measurement | None = None,
    verification: Verification | None = None,
    output: str | None = None,
) -> Record:
    """Returns what is planned or was done, as plain values.

    Args:
        plan: the cuts.
        cost: of these cuts.
        model: what `model_record` says of the network.
        latency: what was measured, where that was asked for.
        verification: of the operated network, where it was verified.
        output: the folder that was written.
    """
    made = plan_record(plan, model)
    prices = {price.site: price for price in cost.per_site}
    for site in made["sites"]:
        site["macs"] = prices[site["path"]].macs
        site["activations"] = prices[site["path"]].activations
    return {
        **made,
        "cost": cost_record(cost),
        "latency": None if latency is None else measurement_record(latency),
        "verification": None if verification is None else verification_record(verification),
        "output": output,
        "load": None,
    }


def plan_record(plan: Plan, model: Mapping[str, Any]) -> Record:
    """Returns what is planned, without what it costs, as plain values."""
    made = plan.record()
    for site, cut in zip(made["sites"], plan.cuts, strict=True):
        site["runs"], site["sizes"] = cut.place.calls, [list(size) for size in cut.sizes]
    return {
        **model,
        "attn": made["attn"],
        "where": made["where"],
        "init": made["init"],
        "mechanisms": [card_record(card) for card in {cut.attn: cut.card for cut in plan}.values()],
        "input_size": made["input_size"],
        "sites": made["sites"],
        "refused": made["refused"],
        "notes": list(plan.notes),
    }


def model_record(source: Source) -> Record:
    """Returns which network it is, and the weights it was given."""
    return {
        "model": source.spec,
        "model_args": dict(source.model_args),
        "weights": source.weights,
        "stripped": list(source.stripped),
    }


def cost_record(cost: Cost) -> Record:
    """Returns the figures before and after, and what they leave out."""
    return {
        "before": weight_record(cost.before),
        "after": weight_record(cost.after),
        "delta": dataclasses.asdict(cost.delta),
        "per_site": [dataclasses.asdict(price) for price in cost.per_site],
        "layer_macs": {"before": cost.before.layer_macs, "after": cost.after.layer_macs},
        "uncounted": list(cost.uncounted),
        "uncounted_calls": dict(cost.uncounted),
        "notes": list(cost.notes),
    }


def network_weight_record(
    about: Mapping[str, Any],
    input_size: InputSize,
    weight: Weight,
    parts: Iterable[str],
    latency: Measurement | None,
) -> Record:
    """Returns what one network weighs, and what the modules named in `parts` do."""
    return {
        **about,
        "input_size": to_lists(input_size),
        "cost": _alone(weight),
        "parts": [{"path": path, **weight_record(weight.by_module[path])} for path in parts],
        "latency": None if latency is None else measurement_record(latency),
    }


def measurement_record(made: Measurement) -> Record:
    """Returns what was measured of two networks, with the units in the names."""
    settings, memory = made.settings, made.memory
    return {
        "forward": None if made.forward is None else _latency_record(made.forward),
        "training_step": None if made.step is None else _latency_record(made.step),
        "training_memory": None
        if memory is None
        else {
            "before_bytes": memory.before,
            "after_bytes": memory.after,
            "delta_bytes": memory.delta,
            "delta_percent": memory.percent,
            "counts": memory.what,
        },
        "no_training_step": made.why or None,
        "batch": settings.batch,
        "device": settings.device,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "limit_seconds": settings.seconds,
    }


def _latency_record(latency: Latency) -> Record:
    return {
        "before": _spread_record(latency.before, "_seconds"),
        "after": _spread_record(latency.after, "_seconds"),
        "ratio": _spread_record(latency.ratio, ""),
        "pairs": latency.pairs,
        "warm_up_pairs": latency.warm_up,
        "interval_known": latency.has_interval,
        "undecided": latency.undecided,
    }


def _spread_record(spread: Spread, unit: str) -> Record:
    return {f"{name}{unit}": value for name, value in dataclasses.asdict(spread).items()}


def _alone(weight: Weight) -> Record:
    """The figures of a network without a difference."""
    return {
        "before": weight_record(weight),
        "uncounted": list(weight.uncounted),
        "uncounted_calls": dict(weight.uncounted),
        "notes": list(weight.notes),
    }


def weight_record(weight: Weight | Count) -> Record:
    """Returns the three figures of a network."""
    return {
        "params": weight.params,
        "macs": weight.macs,
        "activations": weight.activations,
    }


def verification_record(verification: Verification) -> Record:
    """Returns what was checked, what came out, and what is wrong with it."""
    return {
        **dataclasses.asdict(verification),
        "ok": verification.ok,
        "problems": list(verification.problems),
    }


def audit_record(audit: Audit) -> Record:
    """Returns how often each inserted module runs, and what is no longer what was put in."""
    return {
        "calls": dict(audit.calls),
        "dead": list(audit.dead),
        "shared": dict(audit.shared),
        "altered": dict(audit.altered),
    }


def status_record(found: Status) -> Record:
    """Returns what stands where in an operated network, and what of it learns."""
    return {
        "model": found.model,
        "sites": [dataclasses.asdict(site) for site in found.sites],
        "params": found.params,
        "trainable_params": found.trainable_params,
        "all_params": found.all_params,
        "trainable_percent": found.trainable_percent,
        "notes": list(found.notes),
    }


def network_record(model: str, found: Survey, sites: Iterable[Site]) -> Record:
    """Returns sites of an analysed network."""
    return {
        "model": model,
        "input_size": to_lists(found.traced.input_size),
        "why_real": found.traced.why_real,
        "notes": [note for note in [_small_maps(found)] if note],
        "outline": outline(found),
        "sites": [site_record(site) for site in sites],
        "refused": [{"path": path, "reason": why} for path, why in found.refused.items()],
    }


def _small_maps(found: Survey) -> str:
    from attnsurgeon.sites.parts import small_maps  # not at the top: it imports torch

    return small_maps(found)


def modules_record(traced: Traced, weight: Weight) -> list[Record]:
    """Returns every module of a network, the root first.

    `shape` is that of its first output without the batch, None where it does not run or makes no
    tensor; `params` and `macs` are those of all that is inside it.
    """
    from attnsurgeon.forwards.retype import original_class
    from attnsurgeon.splicing.history import mark_of

    rows = []
    for path, module in traced.twin.named_modules(remove_duplicate=False):
        calls = traced.calls.get(path, ())
        made = calls[0].outputs if calls else ()
        count, mark = weight.by_module[path], mark_of(module)
        rows.append({
            "path": path,
            "type": original_class(module).__name__,
            "shape": list(made[0].meta["shape"][1:]) if made else None,
            "params": count.params,
            "macs": count.macs,
            "calls": len(calls),
            "attn": None if mark is None else mark.attn,
        })  # fmt: skip
    return rows


def outline(found: Survey) -> list[Record]:
    """Returns the values that show how a network is built: its parts, and what it gives."""
    from attnsurgeon.sites.parts import ends  # not at the top: it imports torch
    from attnsurgeon.sites.survey import value_path

    rows: list[Record] = []
    for part, played, site in ends(found):
        about = {name: getattr(site, name) for name in ("path", "channels", "stage")}
        skips = [s for s in found.sites if "skip" in s.roles and part != "encoder"]
        here = [s for s in skips if s.resolution == site.resolution]
        crossing = [s.path for s in here if s.index < site.index]
        rows.append({"part": part, **about, "roles": played, "skips": crossing,
                     "resolution": site.resolution})  # fmt: skip
    for node in dict.fromkeys(found.traced.root.outputs):
        if node.meta.get("event") is None:
            continue
        rows.append({"part": "output", "path": value_path(node), "channels": None, "stage": None,
                     "roles": [], "skips": [], "resolution": node.meta["shape"][1:]})  # fmt: skip
    return rows


def site_record(site: Site) -> Record:
    """Returns a site; roles in alphabetical order."""
    record = {field.name: getattr(site, field.name) for field in dataclasses.fields(site)}
    record["roles"] = sorted(site.roles)
    record["resolution"] = site.resolution
    for enclosing in ("inside", "has"):  # long, and `matches` is what they are for
        del record[enclosing]
    return record


def card_record(card: Mechanism) -> Record:
    """Returns the facts of a mechanism; arguments with their defaults."""
    functions = {"build", "count", "start", "within", "site_args", "takes", "adopt", "picture"}
    names = [field.name for field in dataclasses.fields(card) if field.name not in functions]
    facts = {name: getattr(card, name) for name in names}
    known = {name: value for name, value in card.args.items() if value is not Parameter.empty}
    required = [name for name in card.args if name not in known]
    inputs = list(card.inputs({}))
    more = {"inputs": inputs, "required": required, "meanings": dict(card.meanings)}
    more |= {"pictures": list(card.picture.names), "pictures_how": card.picture.how}
    return {**facts, "action": card.action, "args": known, **more}
