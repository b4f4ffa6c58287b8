"""`attnsurgeon attn`: the mechanisms and what is known of each."""

from __future__ import annotations

import click

from attnsurgeon.cli.groups import Named
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import complete_attn
from attnsurgeon.report.streams import out, step, write_json


@click.group(cls=Named)
def command() -> None:
    """List the attention mechanisms, or show the card of one."""


@command.command("list")
@json_flag
def list_attn(as_json: bool) -> None:
    """List the mechanisms that --attn takes."""
    with step("reading the cards"):
        from attnsurgeon.attention.registry import mechanisms
        from attnsurgeon.report.record import card_record

        record = [card_record(card) for card in mechanisms().values()]
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.cards import show_cards

    show_cards(out(), record)


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
