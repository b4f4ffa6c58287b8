"""`attnsurgeon gates`: what the gates of a saved network do over a folder of images."""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder, site_option
from attnsurgeon.cli.images import Photographs, Preparing, folder_of_images, preparing
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import PathName
from attnsurgeon.report.streams import note, out, step, write_json

_HTML = "--html FILE"


@click.command()
@saved_folder
@folder_of_images
@site_option
@preparing
@click.option("--html", type=PathName(), help="Write one self-contained HTML file instead.")
@click.option("--overwrite", is_flag=True, help="Replace an existing HTML file.")
@json_flag
def command(
    folder: Folder,
    pictures: Photographs,
    sites: tuple[str, ...],
    how: Preparing,
    html: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say how the gates in DIR are spread over images, which are stuck, and which are missed.

    \b
    attnsurgeon gates r50-cbam --images photos --limit 100
    attnsurgeon gates r50-cbam --images photos --html gates.html
    """
    if overwrite and html is None:
        raise click.UsageError(f"--overwrite needs the file to write: {_HTML}")
    with step(f"looking into {pictures.images}"):
        from attnsurgeon.looking.statistics import gate_statistics
        from attnsurgeon.report.gates import show_statistics, statistics_page, statistics_record
        from attnsurgeon.saved.file import check_file, write_file

        if html is not None:
            check_file(html, overwrite, option=_HTML)
        pictures.check()
    network = folder.load()
    with step("looking at images"):
        asked = {**pictures.arguments, **how.arguments, "sites": sites or None}
        found = gate_statistics(network, pictures.images, **asked)
    record = {"folder": folder.path, **statistics_record(found)}
    if html is not None:
        write_file(html, statistics_page(record), overwrite=overwrite, option=_HTML)
        note(f"{html} written")
    if as_json:
        write_json(record)
    elif html is None:
        show_statistics(out(), record)
