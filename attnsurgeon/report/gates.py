"""What gates do over images, and what pruning took out -> plain values, terminal, page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnsurgeon.report import words
from attnsurgeon.report.heatmap import preprocessing_record
from attnsurgeon.report.record import Record

if TYPE_CHECKING:
    from rich.console import Console

    from attnsurgeon.looking.effects import Effect
    from attnsurgeon.looking.pruning import Pruning
    from attnsurgeon.looking.statistics import GateStatistics, SiteStatistics


def statistics_record(found: GateStatistics) -> Record:
    """Returns what gates do over images."""
    return {
        "images": found.images,
        "where": found.where,
        "skipped": [{"file": str(one.path), "why": one.why} for one in found.skipped],
        "device": found.device,
        "still_below": found.still_below,
        "preprocessing": None
        if found.preprocessing is None
        else preprocessing_record(found.preprocessing),
        "sites": [_site(site) for site in found.sites],
    }


def _site(site: SiteStatistics) -> Record:
    return {
        "path": site.path,
        "attn": site.attn,
        "module_path": site.module_path,
        "pictures": {
            one.name: {
                "size": list(one.size),
                "mean": one.mean,
                "spread": one.spread,
                "low": one.low,
                "high": one.high,
                "most": one.most,
                "closed": one.closed,
                "open": one.open,
                "still": one.still,
            }
            for one in site.pictures
        },
        "effect": None if site.effect is None else effect_record(site.effect),
        "why": site.why,
        "together": list(site.together),
    }


def effect_record(effect: Effect) -> Record:
    """Returns how far outputs moved."""
    return {
        "change": effect.change,
        "largest": effect.largest,
        "top1_agreement": effect.top1_agreement,
        "images": effect.images,
    }


def pruning_record(made: Pruning) -> Record:
    """Returns what pruning took out, what that moved, and what it refunds."""
    weights = {
        when: {"params": weight.params, "macs": weight.macs, "activations": weight.activations}
        for when, weight in (("before", made.before), ("after", made.after))
    }
    return {
        "below": made.below,
        "images": made.statistics.images,
        "skipped": [str(one.path) for one in made.statistics.skipped],
        "removed": [_site(site) for site in made.removed],
        "kept": [_site(site) for site in made.kept],
        "moved": None if made.moved is None else effect_record(made.moved),
        "cost": weights,
    }


# ------------------------------------------------------------------------------------ terminal


def show_statistics(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what gates do over images."""
    from attnsurgeon.report.tables import show_heading, show_notes, show_table

    sites = words.several(len(record["sites"]), "site")
    show_heading(console, f"{record.get('folder', 'gates')}: {sites} over {_images(record)}")
    columns, rows = gate_rows(record)
    show_table(console, columns, rows, spare=("low", "high"))
    console.print()
    columns, rows = effect_rows(record["sites"])
    show_table(console, columns, rows)
    show_notes(console, legend(record))


def gate_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns heads and rows of what gates do."""
    heads = ["site", "!attn", "!gate", ">mean", ">spread", ">low", ">high", ">closed", ">open",
             ">never moves"]  # fmt: skip
    return heads, [
        [
            site["path"],
            site["attn"],
            name,
            number(one["mean"]),
            number(one["spread"]),
            number(one["low"]),
            number(one["high"]),
            share(one["closed"]),
            share(one["open"]),
            share(one["still"]),
        ]
        for site in record["sites"]
        for name, one in site["pictures"].items()
    ]


def effect_rows(sites: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns heads and rows of what the outputs do without each site."""
    heads = ["switched off", "!attn", ">output moves", ">largest", ">top-1 agrees", "why not known"]
    rows = []
    for site in sites:
        effect = site["effect"]
        known = effect or {"change": None, "largest": None, "top1_agreement": None}
        together = len(site["together"])
        why = f"all {together} of its chain at once" if together else site["why"]
        rows.append([
            site["path"],
            site["attn"],
            moves(known["change"]),
            moves(known["largest"]),
            share(known["top1_agreement"]),
            why,
        ])  # fmt: skip
    return heads, rows


def legend(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the columns say, and what was done to the images."""
    from attnsurgeon.looking.statistics import EDGE

    yield (
        f"closed, open: share of the values within {EDGE:g} of 0, or of the largest that the gate"
        " can be"
    )
    yield (
        f"never moves: share of the channels or positions whose spread over the images is below"
        f" {record['still_below']:g}"
    )
    yield "output moves: |y without the site - y| / |y|, the mean over the images"
    yield from image_notes(record)


def image_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields how pictures were prepared, and which were left out."""
    how = record["preprocessing"]
    if how is not None and how["source"]:
        yield f"pictures prepared by {how['source']}"
    if how is not None and how["assumed"]:
        yield f"assumed: {'; '.join(how['assumed'])}"
    if record["skipped"]:
        named = words.listed((one["file"] for one in record["skipped"]), at_most=3)
        yield f"{words.several(len(record['skipped']), 'file')} left out, no images: {named}"


def show_pruning(console: Console, record: Mapping[str, Any]) -> None:
    """Prints what pruning took out, what that moved, and what it refunds."""
    from attnsurgeon.report.tables import show_heading, show_notes, show_table

    gone, kept = record["removed"], record["kept"]
    total = len(gone) + len(kept)
    what = f"{len(gone)} of {words.several(total, 'site')} below {record['below']:g}"
    show_heading(console, f"{record.get('folder', 'pruned')}: {what}")
    ordered = sorted([*gone, *kept], key=lambda site: _order(site["effect"]))
    went = {site["module_path"] for site in gone}
    heads, rows = effect_rows(ordered)
    for site, row in zip(ordered, rows, strict=True):
        row.insert(0, "removed" if site["module_path"] in went else "stays")
    show_table(console, ["!", *heads], rows)
    console.print()
    if gone:
        before, after = record["cost"]["before"], record["cost"]["after"]
        show_table(
            console,
            ["", ">before", ">after", ">refunded"],
            [
                [label, words.count(before[name]), words.count(after[name]),
                 words.change(after[name] - before[name])]
                for name, label in (("params", "parameters"), ("macs", "MACs"),
                                    ("activations", "activations"))
            ],
        )  # fmt: skip
        console.print()
    show_notes(console, pruning_notes(record))


def pruning_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields what was measured, in words."""
    moved = record["moved"]
    if not record["removed"]:
        known = [site for site in record["kept"] if site["effect"] is not None]
        least = min(known, key=lambda site: site["effect"]["change"], default=None)
        if least is None:
            yield "nothing to prune: the effect of no site is known"
        else:
            yield (
                f"nothing to prune: the least effect is {moves(least['effect']['change'])}, at"
                f" {least['path']}"
            )
    elif not record["kept"]:
        yield "no attention is left: this is the original network, with the weights it has by now"
    if moved is not None:
        top1 = moved["top1_agreement"]
        said = "" if top1 is None else f", top-1 agrees on {share(top1)}"
        yield (
            f"all of them gone at once, the output moves by {moves(moved['change'])}, at most by"
            f" {moves(moved['largest'])}{said}, over {_images(record)}"
        )
        if moved["change"] >= record["below"]:
            yield "that is more than any of them alone: their effects add up"
    if record["removed"] and all(site["effect"]["change"] == 0 for site in record["removed"]):
        yield "what is removed changed nothing at all: attention as it was inserted does that"


def _order(effect: Mapping[str, Any] | None) -> float:
    return float("inf") if effect is None else effect["change"]


def _images(record: Mapping[str, Any]) -> str:
    return words.several(record["images"], "image")


def number(value: float | None) -> str:
    """Returns 0.482, 12.3, 1.2e-05 or a dash."""
    if value is None:
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 or value == 0 else f"{value:.2g}"


def share(value: float | None) -> str:
    """Returns 12.5 % or a dash."""
    if value is None:
        return "-"
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def moves(value: float | None) -> str:
    """Returns 0.0123, 3.4e-06, 0 or a dash."""
    return "-" if value is None else f"{value:.3g}"


# ---------------------------------------------------------------------------------------- page


def statistics_page(record: Mapping[str, Any]) -> str:
    """Returns the page of what gates do over images."""
    from attnsurgeon.report.markup import render

    gate_heads, gates = gate_rows(record)
    heads, shown = effect_rows(record["sites"])
    effects: list[list[Any]] = [list(row) for row in shown]
    known = [site["effect"]["change"] for site in record["sites"] if site["effect"] is not None]
    for site, row in zip(record["sites"], effects, strict=True):
        if site["effect"] is not None:
            change = site["effect"]["change"]
            row[2] = {"bar": change / (max(known) or 1.0), "text": row[2], "value": change}
    if not any(row[-1] for row in effects):
        heads, effects = heads[:-1], [row[:-1] for row in effects]
    return render(
        "gates.html",
        title=f"{record.get('folder', 'Gates')}: gates over {_images(record)}",
        lead="What every site does over all images, and how far the outputs move without it",
        parts=[],
        gates={"columns": gate_heads, "rows": gates},
        effects={"columns": heads, "rows": effects},
        notes=[("note", text) for text in legend(record)],
    )
