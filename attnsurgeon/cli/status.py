"""`attnsurgeon status`: what stands where in a saved network, and what of it learns."""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.report.streams import out, step, write_json


@click.command()
@saved_folder
@json_flag
def command(
    folder: Folder,
    as_json: bool,
) -> None:
    """Say what stands where in DIR: parameters, gates, what learns, what runs."""
    network = folder.load()
    with step("looking"):
        from attnsurgeon.checks.status import status
        from attnsurgeon.report.record import status_record

        record = status_record(status(network))
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.standing import show_status

    show_status(out(), record)
