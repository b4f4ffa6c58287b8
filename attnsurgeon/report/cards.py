"""Cards of mechanisms -> a list, or everything that is known of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from attnsurgeon.report import words
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import Cell, show_facts, show_heading, show_table


def show_cards(console: Console, cards: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line a mechanism."""
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
        console.print(f"    {line}", soft_wrap=True)
    if card["equation"]:
        console.print()
    show_facts(console, _facts(card, marks(console).note))


def _facts(card: Mapping[str, Any], bullet: str) -> Iterator[tuple[str, Cell]]:
    if card["paper"]:
        yield "paper", f"{card['venue']}, {card['paper']}"
    else:
        yield "code", f"{card['file']}, sha256 {(card['sha256'] or 'unknown')[:12]}"
    yield "kind", f"{card['kind']}, rank {_ranks(card)}"
    if card["rank_reason"]:
        yield "", card["rank_reason"]
    yield "placement", f"{card['placement']} (--where paper)"
    yield "parameters", card["formula"]
    arguments = [f"{name} (required)" for name in card["required"]]
    arguments += [f"{name}={_value(value)}" for name, value in card["args"].items()]
    yield "arguments", ", ".join(arguments) or "none"
    yield "identity", f"{card['identity']}: {card['identity_how']}"
    for name, texts in [("needs", card["constraints"]), ("deviations", card["deviations"])]:
        for index, text in enumerate(texts):
            yield ("" if index else name), f"{bullet} {text}"
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
