"""`attnsurgeon status`: what stands where in a saved network, and what of it learns."""

from __future__ import annotations

from typing import Any

import click

from attnsurgeon.cli.folders import base_network, base_options
from attnsurgeon.cli.networks import note_what_was_taken
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
    trust_code: bool,
    taking: Taking,
    as_json: bool,
) -> None:
    """Say what stands where in DIR: parameters, gates, what learns, what runs."""
    with step(f"loading {folder}"):
        from attnsurgeon.checks.status import status
        from attnsurgeon.report.record import status_record
        from attnsurgeon.saved.restore import load

        model = base_network(base, base_args, checkpoint, taking)
        how = {} if model or checkpoint is None else {"checkpoint": checkpoint, **taking.arguments}
        network = load(folder, model=model, trust=trust_code, **how)
    note_what_was_taken(network)
    with step("looking"):
        record = status_record(status(network))
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.standing import show_status

    show_status(out(), record)
