"""A value of the library -> its repr: the table of the terminal, in plain text or as HTML.

Nothing is run for it: what an operation costs is shown once it has been asked for.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.record import (
    audit_record,
    card_record,
    cost_record,
    measurement_record,
    model_record,
    network_record,
    plan_record,
    status_record,
    verification_record,
    weight_record,
)
from attnsurgeon.report.screen import Screen
from attnsurgeon.report.streams import marks, printable
from attnsurgeon.report.tables import show_facts, show_heading, show_notes, show_table

if TYPE_CHECKING:
    from torch import nn

    from attnsurgeon.attention.registry import Mechanism, Mechanisms
    from attnsurgeon.checks.auditing import Audit
    from attnsurgeon.checks.status import Status
    from attnsurgeon.checks.verify import Verification
    from attnsurgeon.cost.comparing import Cost
    from attnsurgeon.cost.measured import Measurement
    from attnsurgeon.cost.weight import Weight
    from attnsurgeon.grid.table import Grid
    from attnsurgeon.looking.pruning import Pruning
    from attnsurgeon.looking.statistics import GateStatistics
    from attnsurgeon.looking.told import Gates, SiteGates
    from attnsurgeon.models import Source
    from attnsurgeon.operate import Operation
    from attnsurgeon.planning.plan import Plan
    from attnsurgeon.planning.selection import Sites
    from attnsurgeon.searching.suggestion import Suggestion

COLUMNS, LINES = 100, 40  # that a repr has at most
_TAIL = 14  # lines at the end, where figures stand, that are kept of a longer one
_MOST = 12  # operators that the weight of a network names
_PRE = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.3">{code}</pre>'


def as_text(value: Any) -> str:
    """Returns the table of a value, at most `LINES` lines of `COLUMNS`, without colours."""
    stream = io.TextIOWrapper(io.BytesIO(), _encoding(), "backslashreplace", newline="\n")
    console = _console(stream)
    _draw(console, value)
    stream.flush()
    text: str = stream.buffer.getvalue().decode(stream.encoding)  # type: ignore[attr-defined]
    lines = text.strip("\n").split("\n")
    if len(lines) > LINES:
        hidden = len(lines) - LINES + 1
        cue = f"  {marks(console).to} {words.several(hidden, 'more line')}"
        lines[LINES - 1 - _TAIL : -_TAIL] = [cue]
    return "\n".join(lines)


def as_html(value: Any) -> str:
    """Returns the whole table of a value as HTML for notebooks."""
    console = _console(io.StringIO(), record=True)
    _draw(console, value)
    return console.export_html(inline_styles=True, code_format=_PRE)


def _encoding() -> str:
    """That of stdout, so that what is printed can be printed there."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _console(stream: Any, *, record: bool = False) -> Console:
    made = Screen(
        file=stream,
        width=COLUMNS,
        height=LINES,
        markup=False,
        highlight=False,
        emoji=False,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
        record=record,
    )
    made.in_python = True
    return made


def _draw(console: Console, value: Any) -> None:
    """Draws a value; one that is not whole yet, or no longer, is named and does not raise."""
    name = type(value).__name__
    try:
        kinds = [kind.__name__ for kind in type(value).__mro__]
        drawn = next(_DRAWN[kind] for kind in kinds if kind in _DRAWN)
        drawn(console, value)
    except Exception as error:  # a debugger shows values in any state
        console.print(f"<{name}: {type(error).__name__}: {printable(str(error))[:COLUMNS]}>")


def _plan(console: Console, plan: Plan) -> None:
    _surgery(console, plan, None)


def _operation(console: Console, operation: Operation) -> None:
    _surgery(console, operation.plan, vars(operation).get("cost"))


def _surgery(console: Console, plan: Plan, cost: Cost | None) -> None:
    from attnsurgeon.report.figures import counted_row, show_cost
    from attnsurgeon.report.operation import show_what

    twin = plan.survey.traced.twin
    record = plan_record(plan, model_record(_source(twin)))
    show_what(console, record)
    console.print()
    if cost is None:
        before = sum({id(p): p.numel() for p in twin.parameters()}.values())
        rows = [counted_row("parameters", before, before + plan.params)]
        show_table(console, ["!", ">before", ">after", ">change", ">"], rows)
    else:
        show_cost(console, {**record, "cost": cost_record(cost), "latency": None})


def _source(model: nn.Module) -> Source:
    from attnsurgeon.models import Source, source_of

    return source_of(model) or Source(type(model).__name__, weights="unknown")


def _sites(console: Console, sites: Sites) -> None:
    from attnsurgeon.report.network import show_list, show_network

    whole = sites.chosen == sites.survey.sites
    name = _source(sites.survey.traced.twin).spec
    record = network_record(name, sites.survey, sites)
    if whole:
        show_network(console, record)
    else:
        show_list(console, record, folded=True)


def _cost(console: Console, cost: Cost) -> None:
    from attnsurgeon.report.figures import show_cost
    from attnsurgeon.report.pricing import show_per_site

    record = cost_record(cost)
    show_per_site(console, record["per_site"])
    console.print()
    show_cost(console, {"cost": record, "latency": None, "mechanisms": []})


def _weight(console: Console, weight: Weight) -> None:
    from attnsurgeon.report.figures import FIGURES

    record = weight_record(weight)
    show_facts(console, [(label, words.count(record[name])) for name, label in FIGURES])
    heaviest = sorted(weight.by_operator.items(), key=lambda pair: -pair[1])
    console.print()
    rows = [[name, words.count(macs)] for name, macs in heaviest[:_MOST]]
    show_table(console, ["operator", ">MACs"], rows)
    more = len(heaviest) - _MOST
    counted = words.several(len(weight.by_module), "module")
    notes = [f"and {words.several(more, 'operator')} more"] if more > 0 else []
    show_notes(console, [*notes, f"`by_module` has each of {counted}", *weight.notes])


def _verification(console: Console, verification: Verification) -> None:
    from attnsurgeon.report.checks import sentences
    from attnsurgeon.report.operation import show_checks

    show_checks(console, sentences(verification_record(verification), marks(console).times))


def _audit(console: Console, audit: Audit) -> None:
    from attnsurgeon.report.operation import show_checks
    from attnsurgeon.report.standing import audit_sentences

    show_heading(console, words.several(len(audit.calls), "inserted module"))
    show_checks(console, audit_sentences(audit_record(audit)))


def _grid(console: Console, grid: Grid) -> None:
    from attnsurgeon.report.grid import show_grid

    show_grid(console, grid)


def _status(console: Console, status: Status) -> None:
    from attnsurgeon.report.standing import show_status

    show_status(console, status_record(status))


def _gates(console: Console, gates: Gates) -> None:
    rows = [row for path, site in gates.items() for row in _pictures(path, site)]
    heads = ["module", "site", "!attention", "!picture", ">mean", ">least", ">most", ">change"]
    show_table(console, heads, rows)
    show_notes(console, [f"{path} did not run" for path in gates.dead])


def _pictures(path: str, site: SiteGates) -> list[list[str]]:
    """A row a picture: mean and range; the first has the site's names and its mean change."""
    names = [path, site.site, site.mechanism]
    if site.off:
        return [[*names, "off", "", "", "", ""]]
    change = f"{float(site['change'].double().mean()):.3f}" if "change" in site else ""
    rows = []
    for name in [name for name in site if name != "change"] or ["change"]:
        values = site[name].double()
        figures = [values.mean(), values.amin(), values.amax()] if name != "change" else []
        shown = [f"{float(v):.3f}" for v in figures] or ["", "", ""]
        rows.append([*(["", "", ""] if rows else names), name, *shown, "" if rows else change])
    return rows


def _gate_statistics(console: Console, found: GateStatistics) -> None:
    from attnsurgeon.report.gates import show_statistics, statistics_record

    show_statistics(console, statistics_record(found))


def _pruning(console: Console, made: Pruning) -> None:
    from attnsurgeon.report.gates import pruning_record, show_pruning

    show_pruning(console, pruning_record(made))


def _mechanism(console: Console, card: Mechanism) -> None:
    from attnsurgeon.report.cards import show_card

    show_card(console, card_record(card))


def _mechanisms(console: Console, cards: Mechanisms) -> None:
    from attnsurgeon.report.cards import show_cards

    show_cards(console, [card_record(card) for card in cards.values()], short=True)


def _measurement(console: Console, made: Measurement) -> None:
    from attnsurgeon.report.figures import measured_notes, measured_rows

    record = measurement_record(made)
    show_table(console, ["!", ">before", ">after", ">change", ">"], measured_rows(record))
    show_notes(console, measured_notes(record))


def _suggestion(console: Console, made: Suggestion) -> None:
    from attnsurgeon.report.suggesting import show_suggestion, suggestion_record

    source = _source(made.found.survey.traced.twin)
    show_suggestion(console, suggestion_record(made, model=model_record(source)))


_DRAWN: dict[str, Callable[[Console, Any], None]] = {
    "Audit": _audit,
    "Cost": _cost,
    "Gates": _gates,
    "Grid": _grid,
    "GateStatistics": _gate_statistics,
    "Measurement": _measurement,
    "Mechanism": _mechanism,
    "Mechanisms": _mechanisms,
    "Operation": _operation,
    "Plan": _plan,
    "Pruning": _pruning,
    "Sites": _sites,
    "Status": _status,
    "Suggestion": _suggestion,
    "Verification": _verification,
    "Weight": _weight,
}
