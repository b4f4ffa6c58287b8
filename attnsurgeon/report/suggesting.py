"""A suggestion -> its record, and the record -> the report in the terminal."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.figures import FIGURES
from attnsurgeon.report.folding import fold
from attnsurgeon.report.record import Record, cost_record
from attnsurgeon.report.streams import Marks, marks, spoken
from attnsurgeon.report.surfaces import OPTIONS
from attnsurgeon.report.tables import show_facts, show_heading, show_lines, show_notes, show_table

if TYPE_CHECKING:
    from attnsurgeon.searching.suggestion import Suggestion
    from attnsurgeon.searching.trial import Trial

_RANKED = 12  # candidates of a trial that are shown


def suggestion_record(
    made: Suggestion,
    *,
    model: Mapping[str, Any],
    output: str | None = None,
    plot: str | None = None,
) -> Record:
    """Returns what is suggested, as plain values.

    Args:
        made: the suggestion.
        model: what `model_record` says of the network.
        output: the rule file that was written.
        plot: the picture that was drawn.
    """
    latency = None if made.latency is None else dataclasses.asdict(made.latency)
    return {
        **model,
        "limits": dict(made.limits),
        "candidates": len(made.found.candidates),
        "mechanisms": list(dict.fromkeys(one.attn for one in made.found.candidates)),
        "sites": [
            {
                "path": site.path,
                "attn": one.attn,
                "stage": site.stage,
                "module_path": one.cuts[0].module_path,
                # What several sites share is counted with the first.
                **{
                    name: getattr(one.cost, name) if first else 0
                    for name in ("params", "macs", "activations")
                },
            }
            for one in made.chosen
            for site, first in zip(one.sites, [True] + [False] * len(one.sites), strict=False)
        ],
        "worth": made.worth,
        "features": made.features,
        "front": [
            {**dataclasses.asdict(point), "cost": dataclasses.asdict(point.cost)}
            for point in made.front
        ],
        "cost": cost_record(made.cost),
        "additive": made.additive,
        "proven": made.proven,
        "estimated_seconds": made.estimated,
        "latency": latency,
        "verdict": made.verdict,
        "rounds": made.rounds,
        "trial": None if made.trial is None else _trial_record(made.trial),
        "refused": [
            {"attn": attn, "path": path, "reason": reason}
            for attn, path, reason in made.found.refused
        ],
        "rules": made.text,
        "output": output,
        "plot": plot,
    }


def _trial_record(trial: Trial) -> Record:
    return {
        "base_loss": trial.base,
        "steps": trial.steps,
        "rate": trial.rate,
        "seeds": trial.seeds,
        "train_batches": trial.train,
        "held_out_batches": trial.held_out,
        "agreement": list(trial.agreement),
        "stability": trial.stability,
        "ranked": [
            {"candidate": one.key, "gain": one.mean, "spread": one.spread, "gains": list(one.gains)}
            for one in trial.ranked
        ],
    }


def show_suggestion(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what is suggested, what it costs, and the Pareto front."""
    signs = marks(console)
    sites = record["sites"]
    show_heading(console, f"{record['model']}: attention at {words.several(len(sites), 'site')}")
    show_facts(console, _facts(record, console))
    console.print()
    _show_sites(console, sites, signs)
    console.print()
    _show_front(console, record, signs)
    console.print()
    if record["trial"]:
        _show_trial(console, record["trial"], signs)
        console.print()
    show_lines(console, [("!", "bold yellow", text) for text in _warnings(record)])
    show_notes(console, _notes(record, console))


def _facts(record: Mapping[str, Any], console: Console) -> Iterator[tuple[str, str]]:
    delta = record["cost"]["delta"]
    yield (
        "limits",
        ", ".join(
            f"{spoken(console, OPTIONS[name], name)} {text}"
            for name, text in record["limits"].items()
        ),
    )
    yield (
        "out of",
        f"{words.several(record['candidates'], 'candidate')} ({', '.join(record['mechanisms'])})",
    )
    if record["trial"]:
        yield "gain", f"{_share(record['worth'])} of all that was gained"
    yield "gates", f"{_share(record['features'])} of the features, stage by stage"
    for name, label in FIGURES:
        yield label, f"{words.change(delta[name])} ({words.percent(delta[f'{name}_percent'])})"
    if record["latency"]:
        yield "latency", _latency(record)


def _latency(record: Mapping[str, Any]) -> str:
    found = record["latency"]
    ratio, low, high = (100 * (found[name] - 1) for name in ("ratio", "low", "high"))
    estimated = 100 * record["estimated_seconds"] / found["before"]
    return (
        f"{estimated:+.2f} % estimated, {ratio:+.2f} % measured as a whole"
        f" ({low:+.2f} to {high:+.2f} %)"
    )


def _show_sites(console: Console, sites: Sequence[Mapping[str, Any]], signs: Marks) -> None:
    runs = fold(
        sites,
        lambda site: site["path"],
        lambda site: (site["attn"], site["stage"], site["params"], site["macs"]),
    )
    rows = [
        [
            run.spelled(signs.to),
            f"{signs.times}{len(run)}" if len(run) > 1 else "",
            run.head["attn"],
            words.change(run.head["params"]),
            words.change(run.head["macs"]),
        ]
        for run in runs
    ]
    show_table(console, ["site", ">", "!attn", ">params each", ">MACs each"], rows)


def _show_front(console: Console, record: Mapping[str, Any], signs: Marks) -> None:
    by = ">gain" if record["trial"] else ">gated"
    columns = ["!", by, ">sites", ">of the limit", ">parameters", ">MACs", ">activations"]
    measured = any(point["seconds"] is not None for point in record["front"])
    if measured:
        columns.append(">latency")
    rows = []
    for point in record["front"]:
        cost = point["cost"]
        row = [
            f"{signs.good} chosen" if point["chosen"] else "",
            _share(point["worth"]),
            words.count(point["sites"]),
            f"{100 * point['used']:.1f} %",
            *(words.change(cost[name]) for name in ("params", "macs", "activations")),
        ]
        if measured:
            row.append(f"{1e3 * point['seconds']:+.2f} ms")
        rows.append(row)
    show_table(console, columns, rows, spare=("activations", "sites"))


def _show_trial(console: Console, trial: Mapping[str, Any], signs: Marks) -> None:
    rows = [
        [
            one["candidate"],
            f"{one['gain']:+.3g}",
            "-" if one["spread"] is None else f"{one['spread']:.2g}",
        ]
        for one in trial["ranked"][:_RANKED]
    ]
    show_table(console, ["trained alone", ">gain", ">spread"], rows)
    more = len(trial["ranked"]) - _RANKED
    if more > 0:
        show_notes(console, [f"and {words.several(more, 'candidate')} more, with --json"])
    show_notes(
        console,
        [
            f"gain: how much lower the loss on {words.several(trial['held_out_batches'], 'batch')}"
            f" held out is, from {trial['base_loss']:.4g}, after"
            f" {words.several(trial['steps'], 'step')}; mean and standard deviation of"
            f" {words.several(trial['seeds'], 'seed')}",
            trial["stability"],
        ],
    )


def _warnings(record: Mapping[str, Any]) -> Iterator[str]:
    if record["verdict"] in ("undecided", "broken"):
        yield undecided(record)
    if not record["additive"]:
        yield "the prices of the sites do not add up here: the figures are those of the whole"
    if not record["proven"]:
        yield "time ran out before it was proven that nothing within the limits is worth more"


def undecided(record: Mapping[str, Any]) -> str:
    """Returns why the limit on latency is left open."""
    limit = record["limits"]["max_latency"]
    found = record["latency"]
    low, high = (100 * (found[name] - 1) for name in ("low", "high"))
    tried = words.several(record["rounds"], "set")
    return (
        f"max_latency {limit} is undecided: {tried} measured as a whole, the last between"
        f" {low:+.2f} and {high:+.2f} % in {found['pairs']} pairs"
    )


def _notes(record: Mapping[str, Any], console: Console) -> Iterator[str]:
    yield (
        "gated: channels x positions of the sites, by those of all candidates' sites of their"
        " stage; stages count alike unless weighed"
    )
    yield "of the limit: the largest share of a limit that is used"
    if any(not point["chosen"] for point in record["front"]):
        yield "the other rows: no set is worth more for a smaller share of the limits"
    if record["latency"]:
        found = record["latency"]
        threads = words.several(found["threads"], "thread")
        yield (
            f"latency: each module alone, added up; the whole in {found['pairs']} pairs, batch"
            f" {found['batch']}, {found['device']}, {threads}"
        )
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in record["refused"]:
        by_reason.setdefault((one["attn"], one["reason"]), []).append(one["path"])
    for (attn, reason), paths in by_reason.items():
        where = f" at {words.listed([p for p in paths if p], 2)}" if any(paths) else ""
        yield f"not {attn}{where}: {reason}"
    if record["output"]:
        file = shlex.quote(record["output"])
        yield f"{record['output']} written: attnsurgeon insert {record['model']} --rules {file}"
    if record["plot"]:
        yield f"{record['plot']} written"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"
