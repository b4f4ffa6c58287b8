"""`attnsurgeon report`: what a saved folder says, in the terminal or as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from attnsurgeon.cli.options import json_flag
from attnsurgeon.errors import UsageError
from attnsurgeon.report.streams import note, out, step, write_json


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--html", type=click.Path(), help="Write one self-contained HTML file instead.")
@json_flag
def command(folder: str, html: str | None, as_json: bool) -> None:
    """Show what was done to the network in DIR. It is not loaded."""
    with step(f"reading {folder}"):
        from attnsurgeon.report.folder import folder_record
        from attnsurgeon.saved.restore import read_folder

        record = folder_record(read_folder(folder))
    if html is not None:
        from attnsurgeon.report.page import page

        _write(Path(html), page(record))
        note(f"{html} written")
    if as_json:
        write_json(record)
    elif html is None:
        from attnsurgeon.report.operation import show_operation

        show_operation(out(), record)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", "choose another file: --html FILE"
        ) from error
