"""The record of a network's sites -> a summary or a list in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.folding import Run, fold
from attnsurgeon.report.streams import Marks, marks, spoken
from attnsurgeon.report.tables import show_heading, show_notes, show_table

Site = Mapping[str, Any]

# Operations are many (a role a layer); the others say how the network is built.
_ALSO = (
    "--all or --role ROLE lists single operations",
    "where(site=ROLE) lists single operations",
)
OPERATIONS = frozenset({"conv", "norm", "act", "pool", "concat", "linear", "block-conv"})
# The residual blocks among these have rows of their own.
_SUMMED = OPERATIONS | {"block", "block-branch"}


def show_network(console: Console, record: Mapping[str, Any], *, every: bool = False) -> None:
    """Prints the sites by the role they play; runs of equal ones are one row.

    Args:
        console: where to.
        record: of `sites` and what they are of.
        every: also the single convolutions, norms, activations.
    """
    show_head(console, record)
    signs = marks(console)
    _show_outline(console, record, signs)
    roles: dict[str, list[Site]] = {}
    for site in record["sites"]:
        for role in site["roles"]:
            roles.setdefault(role, []).append(site)
    order = sorted(
        roles, key=lambda role: (role in _SUMMED, role in OPERATIONS, -len(roles[role]), role)
    )
    rows = []
    for role in order:
        sites = roles[role]
        if role in _SUMMED and not every:
            ends = dict.fromkeys((sites[0]["path"], sites[-1]["path"]))
            rows.append([role, words.count(len(sites)), f" {signs.to} ".join(ends), *[""] * 4])
            continue
        runs = fold(sites, lambda site: site["path"], lambda site: sameness(site, signs))
        for run in runs:
            first = run is runs[0]
            rows.append(
                [role if first else "", words.count(len(sites)) if first else "", *_row(run, signs)]
            )
    columns = ["!role", ">", "site", ">C", f">H{signs.times}W", ">stage", "type"]
    show_table(console, columns, rows, spare=("type",))
    hidden = not every and not _SUMMED.isdisjoint(order)
    show_footnotes(console, record, [spoken(console, *_ALSO)] if hidden else [])


def _show_outline(console: Console, record: Mapping[str, Any], signs: Marks) -> None:
    """Draws encoder, neck and decoder as they follow each other, with their resolutions."""
    rows, part = [], ""
    for one in record.get("outline", ()):
        stage = "" if one["stage"] in (None, 0) else f"stage {one['stage']}"
        played = [role for role in one["roles"] if role in ("stem", "head")]
        inside = [stage] if stage and one["roles"] != ["stem"] else []
        rows.append([
            one["part"] if one["part"] != part else "",
            ", ".join([*inside, *played]),
            one["path"],
            words.count(one["channels"]),
            words.size(one["resolution"], signs.times),
            words.listed(one["skips"]) if one["skips"] else "",
        ])  # fmt: skip
        part = one["part"]
    if rows:
        crossing = any(row[-1] for row in rows)
        columns = ["!part", "", "last value", ">C", f">H{signs.times}W", "skips"]
        kept = slice(None if crossing else -1)
        show_table(console, columns[kept], [row[kept] for row in rows])
        console.print()


def _row(run: Run[Site], signs: Marks) -> list[str]:
    site = run.head
    detail = kernel(site, signs) or " ".join(site["branch"] or ())
    return [
        _spelled(run, signs),
        words.count(site["channels"]),
        words.size(site["resolution"], signs.times),
        _stage(site),
        f"{site['type']} ({detail})" if detail else site["type"],
    ]


def show_list(console: Console, record: Mapping[str, Any], *, folded: bool = False) -> None:
    """Prints the sites of a selection, one a row.

    Args:
        console: where to.
        record: of `sites` and what they are of.
        folded: runs of equal ones are one row.
    """
    show_head(console, record)
    signs = marks(console)
    sites = record["sites"]
    if folded:
        runs = fold(sites, lambda s: s["path"], lambda s: (*sameness(s, signs), played(s)))
    else:
        runs = [Run((site,), site["path"], site["path"]) for site in sites]
    rows = [[*_row(run, signs), played(run.head)] for run in runs]
    columns = ["site", ">C", f">H{signs.times}W", ">stage", "type", "roles"]
    show_table(console, columns, rows, spare=("roles", "type"))


def show_head(console: Console, record: Mapping[str, Any]) -> None:
    """Prints which network it is, at which input."""
    times = marks(console).times
    size = words.size(record["input_size"], times)
    count = words.several(len(record["sites"]), "site")
    show_heading(console, f"{record['model']}: {count} at input {size}")


def _spelled(run: Run[Site], signs: Marks) -> str:
    times = f" {signs.times}{len(run)}" if len(run) > 1 else ""
    return run.spelled(signs.to) + times


def _stage(site: Site) -> str:
    return "-" if site["stage"] is None else str(site["stage"])


def sameness(site: Site, signs: Marks) -> tuple[Any, ...]:
    """Returns what has to be equal along a run of sites."""
    plain = (site["stage"], site["channels"], site["resolution"], site["layout"], site["type"])
    return (*plain, kernel(site, signs), site["branch"])


def kernel(site: Site, signs: Marks) -> str:
    """Returns `3x3`, `dw 7x7 /2`: depthwise, sides, stride where it is not one."""
    if not site["kernel"]:
        return ""
    kind = "dw " if site["depthwise"] else f"g{site['groups']} " if site["groups"] > 1 else ""
    stride = f" /{words.size(site['conv_stride'], signs.times)}"
    return (
        kind
        + words.size(site["kernel"], signs.times)
        + (stride if any(s != 1 for s in site["conv_stride"]) else "")
    )


def played(site: Site) -> str:
    """Returns the roles, those that say how the network is built first."""
    return ", ".join(sorted(site["roles"], key=lambda role: (role in OPERATIONS, role)))


def show_footnotes(console: Console, record: Mapping[str, Any], said: list[str]) -> None:
    """Prints what has to be said of the sites, behind what is said already."""
    signs = marks(console)
    said += _repeated(record["sites"], signs)
    said += _without_stage(record["sites"], signs)
    if record["refused"]:
        refused = fold(record["refused"], lambda one: one["path"], lambda one: one["reason"])
        said += [f"no residual addition: {_spelled(r, signs)}: {r.head['reason']}" for r in refused]
    said += record.get("notes", ())
    if record["why_real"]:
        said.append(f"recorded on random values, not on the meta device: {record['why_real']}")
    if said:
        console.print()
        show_notes(console, said)


def _repeated(sites: Iterable[Site], signs: Marks) -> Iterator[str]:
    """Yields what runs several times, grouped by how often."""
    first = [site for site in sites if site.get("runs", 1) > 1 and "#" not in site["path"]]
    groups: dict[str, list[str]] = {}
    for run in fold(first, lambda site: site["path"], _ran):
        groups.setdefault(_ran(run.head), []).append(_spelled(run, signs))
    for ran, paths in groups.items():
        tied = "; attention there must be tied to no resolution" if "sizes" in ran else ""
        yield f"{ran}, which one cut serves{tied}: {words.listed(paths)}"


def _without_stage(sites: Iterable[Site], signs: Marks) -> Iterator[str]:
    """Yields why stages are unknown, with what it is true of."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        if site.get("no_stage"):
            groups.setdefault(site["no_stage"], []).append(site)
    for why, unknown in groups.items():
        ends = dict.fromkeys((unknown[0]["path"], unknown[-1]["path"]))
        count = words.several(len(unknown), "site")
        yield f"no stage: {count} ({f' {signs.to} '.join(ends)}): {why}"


def _ran(site: Site) -> str:
    return words.runs(site["runs"], site["sizes"])
