"""`attnsurgeon status`: what stands where in a saved network, and what of it learns."""

from __future__ import annotations

from typing import Any

import click

from attnsurgeon.cli.folders import base_options, loaded
from attnsurgeon.cli.options import Taking, json_flag
from attnsurgeon.report.streams import out, step, write_json


@click.command()
@base_options
@json_flag
def command(
    folder: str,
    checkpoint: str | None,
    base: str | None,
    base_args: tuple[tuple[str, Any], ...],
    attn_code: str | None,
    trust_code: bool,
    taking: Taking,
    as_json: bool,
) -> None:
    """Say what stands where in DIR: parameters, gates, what learns, what runs."""
    network = loaded(
        folder,
        checkpoint=checkpoint,
        base=base,
        base_args=base_args,
        attn_code=attn_code,
        trust_code=trust_code,
        taking=taking,
    )
    with step("looking"):
        from attnsurgeon.checks.status import status
        from attnsurgeon.report.record import status_record

        record = status_record(status(network))
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.standing import show_status

    show_status(out(), record)
