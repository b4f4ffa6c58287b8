"""The record of a plan or an operation -> the report in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from attnsurgeon.report import words
from attnsurgeon.report.checks import sentences
from attnsurgeon.report.figures import show_cost
from attnsurgeon.report.folding import Run, fold
from attnsurgeon.report.streams import Marks, marks, spoken
from attnsurgeon.report.tables import (
    show_facts,
    show_heading,
    show_lines,
    show_notes,
    show_table,
)

Site = Mapping[str, Any]

_UNTRACED = {
    "none": "none: on the meta device, shapes only",
    "as built": "as the code that built the network left them",
    "unknown": "not known: the network was not built by attnsurgeon",
}
_OTHERS = ("--pretrained and --checkpoint FILE", "pretrained= and checkpoint= of load_model")
_STYLES = {"good": "green", "bad": "bold red", "note": "dim"}


def show_operation(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what is planned, or was done and verified."""
    show_what(console, record)
    console.print()
    show_cost(console, record)
    if record["verification"]:
        console.print()
        show_checks(console, sentences(record["verification"], marks(console).times))


def show_what(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what goes where, and what is refused."""
    show_heading(console, title(record))
    show_facts(console, _facts(record, console))
    console.print()
    show_sites(console, record["sites"])
    show_notes(console, record["notes"])
    if record["refused"]:
        console.print()
        show_refused(console, record)


def show_sites(console: Console, sites: Sequence[Site]) -> None:
    """Prints where something goes in; runs of equal sites are one row."""
    signs = marks(console)
    runs = fold_sites(sites)
    head, rows = site_rows(runs, signs)
    show_table(console, head, rows)
    show_notes(console, site_notes(runs, signs))


def fold_sites(sites: Sequence[Site]) -> list[Run[Site]]:
    """Returns the runs of equal sites."""
    return fold(sites, lambda site: site["path"], _sameness)


def site_rows(runs: Sequence[Run[Site]], signs: Marks) -> tuple[list[str], list[list[str]]]:
    """Returns the heads and the rows of the table of sites; columns that say nothing are left out.

    The heads are marked as `show_table` wants them.
    """
    sites = [run.head for run in runs]
    several = len({_attn(site) for site in sites}) > 1
    measured = any(site.get("resolution") for site in sites)
    before = any(site["action"] != "insert-after" for site in sites)
    again = any(site.get("runs", 1) > 1 for site in sites)
    columns: list[tuple[str, list[str]]] = [
        ("site", [run.spelled(signs.to) for run in runs]),
        (">", [f"{signs.times}{len(run)}" if len(run) > 1 else "" for run in runs]),
        (">C", [words.count(site["channels"]) for site in sites]),
    ]
    if measured:
        sizes = [words.size(site.get("resolution"), signs.times) for site in sites]
        columns.append((f">H{signs.times}W", sizes))
    if again:
        columns.append(("runs", [_runs(site) for site in sites]))
    columns.append(("!cut", [site["technique"] for site in sites]))
    columns.append((">params each", [words.change(site["params"]) for site in sites]))
    if several:
        columns.append(("attn", [_attn(site) for site in sites]))
    if before:
        columns.append(("!action", [site["action"] for site in sites]))
    cells = [column for _, column in columns]
    return [head for head, _ in columns], [list(row) for row in zip(*cells, strict=True)]


def show_refused(console: Console, record: Mapping[str, Any]) -> None:
    """Prints the matched sites that are left as they are, with the reasons."""
    console.print(Text(f"  {refused_heading(record)}", style="bold yellow"), soft_wrap=True)
    signs = marks(console)
    show_lines(console, [(signs.bad, "yellow", text) for text in refusals(record, signs)])


def refusals(record: Mapping[str, Any], signs: Marks) -> Iterator[str]:
    """Yields each reason with the sites that are refused for it."""
    reasons: dict[str, list[str]] = {}
    for run in fold(record["refused"], lambda one: one["path"], lambda one: one["reason"]):
        reasons.setdefault(run.head["reason"], []).append(_counted(run, signs))
    for reason, runs in reasons.items():
        yield f"{words.listed(runs)}: {reason}"


def refused_heading(record: Mapping[str, Any]) -> str:
    """Returns how many of the matched sites are refused."""
    refused = len(record["refused"])
    matched = refused + len(record["sites"])
    return f"refused: {refused} of {words.several(matched, 'matched site')}"


def show_checks(console: Console, said: Iterator[tuple[str, str]]) -> None:
    """Prints a line for each thing that was verified."""
    signs = marks(console)
    glyph = {"good": signs.good, "bad": signs.bad, "note": signs.note}
    show_lines(console, [(glyph[went], _STYLES[went], text) for went, text in said])


def show_saved(console: Console, record: Mapping[str, Any], size: int) -> None:
    """Prints where the network was saved, and the Python to go on with."""
    console.print()
    saved = f"  saved to {record['output']} ({words.memory(size)})"
    console.print(Text(saved, style="bold"), soft_wrap=True)
    console.print()
    for line in next_lines(record):
        console.print(Text(f"    {line}"), soft_wrap=True)


def next_lines(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the Python that goes on from a saved folder."""
    learns = any(site["params"] for site in record["sites"])
    freeze = "attnsurgeon.freeze_backbone(model)  # at first only what is new learns"
    # As published it changes the scale of what follows, and with it most of the answers.
    statistics = "# attnsurgeon.recalibrate_norms(model, loader)  # gives batch norms the new scale"
    return (
        "import attnsurgeon, torch",
        record["load"],
        *([statistics] if record["init"] == "paper" else []),
        *([freeze] if learns else []),
        # 1e-3 suits what is new; a whole pretrained network loses by it (docs/evidence.md).
        f"groups = attnsurgeon.param_groups(model, lr={'1e-3' if learns else '1e-4'})",
        "print(groups)  # what learns at which rate; new_lr= gives what is new another one",
        "optimizer = torch.optim.AdamW(groups)",
    )


def title(record: Mapping[str, Any]) -> str:
    """Returns `resnet50 + eca`."""
    return f"{record['model']} + {record['attn']}"


def weights_text(record: Mapping[str, Any], to_have: str = _OTHERS[0]) -> tuple[str, str]:
    """Returns which weights the network has, and the colour to say it in.

    Args:
        record: of the network.
        to_have: how to have others.
    """
    weights = record["weights"]
    if weights == "random":
        return f"RANDOM, not trained: see {to_have}", "bold yellow"
    if weights in _UNTRACED:
        return _UNTRACED[weights], ""
    stripped = f"; stripped {', '.join(record['stripped'])}" if record["stripped"] else ""
    return f"{weights}{stripped}", "green"


def where_text(record: Mapping[str, Any]) -> str:
    """Returns the placement, and which one it is where that is up to the mechanism."""
    if record["where"] != "paper":
        return record["where"]
    own = dict.fromkeys(card["placement"] for card in record["mechanisms"])
    return f"paper ({', '.join(own)})"


def init_text(record: Mapping[str, Any]) -> str:
    """Returns how the attention starts."""
    if record["init"] != "identity":
        return "paper: as its authors start it, so the outputs change"
    ways = {card["identity"]: card["identity_how"] for card in record["mechanisms"]}
    return "; ".join([f"identity, {form}: {how}" for form, how in ways.items()] or ["identity"])


def _facts(record: Mapping[str, Any], console: Console) -> Iterator[tuple[str, str | Text]]:
    yield "weights", Text(*weights_text(record, spoken(console, *_OTHERS)))
    if record["model_args"]:
        yield "built with", ", ".join(f"{k}={v!r}" for k, v in record["model_args"].items())
    yield "input", words.size(record["input_size"], marks(console).times)
    for card in record["mechanisms"]:
        venue = f" ({card['venue']})" if card["venue"] else ""  # of the user's own there is none
        yield "attention", f"{card['name']}: {card['title']}{venue}"
    yield "where", f"{where_text(record)}: {words.several(len(record['sites']), 'site')}"
    yield "init", init_text(record)


def _sameness(site: Site) -> tuple[Any, ...]:
    keys = ("channels", "params", "technique", "action", "note")
    size = tuple(site.get("resolution", ()))
    return (*(site[key] for key in keys), _attn(site), size, _runs(site), len(site["shared"]))


def _runs(site: Site) -> str:
    """Returns `5 runs at 4 sizes`; nothing for one run."""
    number = site.get("runs", 1)
    return words.runs(number, site["sizes"]) if number > 1 else ""


def _attn(site: Site) -> str:
    """Returns `se reduction=8 init=paper`."""
    arguments = [f"{name}={value}" for name, value in site["args"].items()]
    arguments += ["init=paper"] if site["init"] == "paper" else []
    return " ".join([site["attn"], *arguments])


def site_notes(runs: Sequence[Run[Site]], signs: Marks) -> Iterator[str]:
    """Yields what has to be said of the sites."""
    paths = [site["module_path"] for run in runs for site in run.rows]
    ends = dict.fromkeys((paths[0], paths[-1]))
    yield f"{words.several(len(paths), 'new module')}: {f' {signs.to} '.join(ends)}"
    arguments = {_attn(run.head) for run in runs if run.head["args"]}
    if len(arguments) == 1 and len({_attn(run.head) for run in runs}) == 1:
        yield f"built as {arguments.pop()}"
    gone = [path for run in runs for site in run.rows for path in site.get("replaced", ())]
    if gone:
        span = f" {signs.to} ".join(dict.fromkeys((gone[0], gone[-1])))
        yield f"{words.several(len(gone), 'module')} replaced, their parameters go: {span}"
    for run in runs:
        if run.head["note"]:
            yield f"{_counted(run, signs)}: {run.head['note']}"
        if len(run) > 1 and run.head["shared"]:
            each = f"each serves all {_runs(run.head)} of its module"
            yield f"{_counted(run, signs)}: {each}; its parameters count once, its MACs each time"
            continue
        for site in run.rows:
            if site["shared"]:
                yield f"{site['module_path']} also serves {words.listed(site['shared'])}"


def _counted(run: Run[Any], signs: Marks) -> str:
    """Returns `layer1.0.bn3 … layer1.2.bn3 ×3`."""
    return run.spelled(signs.to) + (f" {signs.times}{len(run)}" if len(run) > 1 else "")
