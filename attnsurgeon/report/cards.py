"""Cards of mechanisms -> a list, or everything that is known of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from attnsurgeon.report import words
from attnsurgeon.report.streams import marks, spoken
from attnsurgeon.report.tables import Cell, show, show_facts, show_heading, show_table


def show_cards(
    console: Console, cards: Sequence[Mapping[str, Any]], *, short: bool = False
) -> None:
    """Prints one line a mechanism.

    Args:
        console: where to.
        cards: of the mechanisms.
        short: what each is, without where it was published and for what it is defined.
    """
    if short:
        names = [[c["name"], c["kind"], c["placement"], c["title"]] for c in cards]
        show_table(console, ["!name", "!kind", "!placement", "what"], names)
        return
    rows = [
        [
            card["name"],
            card["kind"],
            _ranks(card),
            card["placement"],
            card["identity"],
            f"{card['title']} ({card['venue']})",
        ]
        for card in cards
    ]
    columns = ["!name", "!kind", "!rank", "!placement", "!identity", "what, and where published"]
    show_table(console, columns, rows)


def show_card(console: Console, card: Mapping[str, Any]) -> None:
    """Prints a mechanism's card."""
    show_heading(console, f"{card['name']}: {card['title']}")
    for line in card["equation"].splitlines():
        depth = len(line) - len(line.lstrip())
        show(console, Text(line.lstrip(), overflow="fold"), indent=4 + depth)
    if card["equation"]:
        console.print()
    show_facts(console, _facts(card, console))


def _facts(card: Mapping[str, Any], console: Console) -> Iterator[tuple[str, Cell]]:
    if card["paper"]:
        yield "paper", f"{card['venue']}, {card['paper']}"
    else:
        yield "code", f"{card['file']}, sha256 {(card['sha256'] or 'unknown')[:12]}"
    yield "kind", f"{card['kind']}, rank {_ranks(card)}"
    if card["rank_reason"]:
        yield "", card["rank_reason"]
    named = spoken(console, "--where paper", 'where="paper"')
    yield "placement", f"{card['placement']} ({named})"
    yield "parameters", card["formula"]
    arguments = {name: f"{name} (required)" for name in card["required"]}
    arguments |= {name: f"{name}={_value(value)}" for name, value in card["args"].items()}
    for name, spelled in (arguments or {"": "none"}).items():
        meaning = card["meanings"].get(name)
        first = name in ("", next(iter(arguments), ""))
        yield "arguments" if first else "", f"{spelled}: {meaning}" if meaning else spelled
    yield "identity", f"{card['identity']}: {card['identity_how']}"
    named = f"{words.listed(card['pictures'])}: " if card["pictures"] else ""
    yield "pictures", f"{named}{card['pictures_how']}"
    for name in ("constraints", "deviations", "limits"):
        name, texts = "needs" if name == "constraints" else name, card.get(name, ())
        for index, text in enumerate(texts):
            yield ("" if index else name), f"{marks(console).note} {text}"
    if card["unmoved"]:
        yield "unmoved", f"{words.listed(card['unmoved'])}: cannot learn in training mode"
    if card["inert"]:
        yield "inert", f"{words.listed(card['inert'])}: cannot learn, kept for the authors' count"
    if card["lighter"]:
        yield "lighter", card["lighter"]
    yield (
        "resolution",
        (
            "one instance may see several"
            if card["resolution_free"]
            else "tied to the one it is built for"
        ),
    )
    yield "tokens", "needs H and W" if card["spatial"] else "also on tokens"


def _value(value: Any) -> str:
    """Returns a default as `--arg` takes it."""
    spelled = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return spelled[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _ranks(card: Mapping[str, Any]) -> str:
    return ", ".join(str(rank) for rank in card["ranks"])
