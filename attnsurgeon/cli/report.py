"""`attnsurgeon report`: what a saved folder says, in the terminal or as one HTML file."""

from __future__ import annotations

import click

from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import PathName
from attnsurgeon.report.streams import note, out, step, write_json

_HTML = "--html FILE"


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--html", type=PathName(), help="Write one self-contained HTML file instead.")
@click.option("--overwrite", is_flag=True, help="Replace an existing HTML file.")
@json_flag
def command(folder: str, html: str | None, overwrite: bool, as_json: bool) -> None:
    """Show what was done to the network in DIR. It is not loaded."""
    if overwrite and html is None:
        raise click.UsageError(f"--overwrite needs the file to write: {_HTML}")
    with step(f"reading {folder}"):
        from attnsurgeon.report.folder import folder_record
        from attnsurgeon.saved.file import check_file, write_file
        from attnsurgeon.saved.restore import read_folder

        if html is not None:
            check_file(html, overwrite, option=_HTML)
        record = folder_record(read_folder(folder))
    if html is not None:
        from attnsurgeon.report.page import page

        write_file(html, page(record), overwrite=overwrite, option=_HTML)
        note(f"{html} written")
    if as_json:
        write_json(record)
    elif html is None:
        from attnsurgeon.report.operation import show_operation

        show_operation(out(), record)
