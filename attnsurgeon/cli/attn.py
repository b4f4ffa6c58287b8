"""`attnsurgeon attn`: the mechanisms and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from attnsurgeon.cli.groups import Named
from attnsurgeon.cli.options import Pairs, json_flag
from attnsurgeon.cli.values import Pair, as_mapping, complete_attn, complete_where, matching
from attnsurgeon.errors import CheckFailed, MechanismError, UsageError
from attnsurgeon.report.streams import note, out, step, write_json

if TYPE_CHECKING:
    from attnsurgeon.attention.registry import Mechanism


@click.group(cls=Named)
def command() -> None:
    """List the attention mechanisms, or show the card of one."""


_KINDS = ("gate", "conv", "weight", "activation", "fusion", "linked", "head")


@command.command("list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_attn)
@click.option("--kind", type=click.Choice(_KINDS), help="Only those of this kind.")
@click.option("--identity", type=click.Choice(["native", "blend"]), help="Only this form of start.")
@click.option(
    "--placement",
    metavar="NAME",
    shell_complete=complete_where,
    help="Only those published there; * stands for any letters.",
)
@json_flag
def list_attn(
    patterns: tuple[str, ...],
    kind: str | None,
    identity: str | None,
    placement: str | None,
    as_json: bool,
) -> None:
    """List the mechanisms that --attn takes; a PATTERN such as '*ca' narrows."""
    with step("reading the cards"):
        from attnsurgeon.attention.registry import mechanisms
        from attnsurgeon.report.record import card_record

        cards = {card.name: card for card in (*mechanisms().values(), *_installed())}
        wanted = {"kind": kind, "identity": identity, "placement": placement}
        found = [
            name
            for name in matching(patterns, cards, "mechanism", MechanismError)
            if all(p is None or _fits(getattr(cards[name], k), p) for k, p in wanted.items())
        ]
        if not found:
            said = [f"--{key} {value}" for key, value in wanted.items() if value is not None]
            raise MechanismError(
                f"no mechanism {' '.join(patterns)}{' ' * bool(patterns)}has {' '.join(said)}",
                "`attnsurgeon attn list` lists all of them",
            )
        record = [card_record(cards[name]) for name in found]
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.cards import show_cards

    show_cards(out(), record)


def _fits(said: str | None, pattern: str) -> bool:
    return said is not None and fnmatchcase(said, pattern)


def _installed() -> Iterator[Mechanism]:
    """Yields the mechanisms of installed packages; of one that is broken says why."""
    from attnsurgeon.attention.own.plugins import plugins
    from attnsurgeon.attention.registry import lookup

    for name in plugins():
        try:
            yield lookup(name)
        except MechanismError as error:
            note(f"note: {error.what}")


@command.command("show")
@click.argument("name", shell_complete=complete_attn)
@json_flag
def show_attn(name: str, as_json: bool) -> None:
    """Show a mechanism's card: paper, equation, arguments, deviations. NAME as for --attn."""
    with step("reading the cards"):
        from attnsurgeon.attention.registry import lookup
        from attnsurgeon.models.own_attention import find_attention
        from attnsurgeon.report.record import card_record

        record = card_record(lookup(find_attention(name)[0]))
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.cards import show_card

    show_card(out(), record)


@command.command("check")
@click.argument("name", shell_complete=complete_attn)
@click.option(
    "--arg", "args", type=Pair(), multiple=True, help="Argument of the mechanism. Repeatable."
)
@click.option(
    "--channels",
    default=64,
    show_default=True,
    help="Width to try it at.",
)
@json_flag
def check_attn(name: str, args: Pairs, channels: int, as_json: bool) -> None:
    """Try what a mechanism can be used for, your own (FILE.py:CLASS) or one of the list.

    \b
    attnsurgeon attn check my.py:MyAttention --arg groups=8
    """
    with step(f"checking {name}"):
        from attnsurgeon.attention.registry import lookup
        from attnsurgeon.contract import check_mechanism
        from attnsurgeon.models.own_attention import find_attention
        from attnsurgeon.report.contract import contract_record, show_contract

        if channels < 1:
            raise UsageError(f"--channels {channels} is not a number of channels")
        card = lookup(find_attention(name)[0])
        found = check_mechanism(card, as_mapping(args, "--arg"), channels=channels)
    record = contract_record(found)
    if as_json:
        write_json(record)
    else:
        show_contract(out(), record)
    if not found.ok:
        raise CheckFailed(f"{name} does not keep what attention has to: {found.problems[0]}")
