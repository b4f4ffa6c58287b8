"""`attnsurgeon report`: what a saved folder says, in the terminal or as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import PathName
from attnsurgeon.report.streams import note, out, step, write_json

if TYPE_CHECKING:
    from attnsurgeon.report.page import Picture

_HTML = "--html FILE"
_OF_ITS_OWN = ("folder", "html", "overwrite", "images", "as_json")  # the others load the network


@click.command()
@saved_folder
@click.option("--html", type=PathName(), help="Write one self-contained HTML file instead.")
@click.option("--overwrite", is_flag=True, help="Replace an existing HTML file.")
@click.option(
    "--image",
    "images",
    type=PathName(),
    multiple=True,
    help="Show in it what the attention does to this photograph; the network is loaded. "
    "Repeatable.",
)
@json_flag
def command(
    folder: Folder,
    html: str | None,
    overwrite: bool,
    images: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what was done to the network in DIR. It is loaded for --image only."""
    if overwrite and html is None:
        raise click.UsageError(f"--overwrite needs the file to write: {_HTML}")
    if images and html is None:
        raise click.UsageError(f"--image needs the file to draw in: {_HTML}")
    if not images:
        _refuse_loading()
    with step(f"reading {folder}"):
        from attnsurgeon.report.folder import folder_record
        from attnsurgeon.saved.file import check_file, write_file
        from attnsurgeon.saved.restore import read_folder

        if html is not None:
            check_file(html, overwrite, option=_HTML)
        record = folder_record(read_folder(folder.path))
    if html is not None:
        from attnsurgeon.report.page import page

        pictures = _pictures(folder, images) if images else []
        content = page(record, pictures=pictures)
        write_file(html, content, overwrite=overwrite, option=_HTML)
        note(f"{html} written")
    if as_json:
        write_json(record)
    elif html is None:
        from attnsurgeon.report.operation import show_operation

        show_operation(out(), record)


def _refuse_loading() -> None:
    """Refuses options that say how to load the network, where nothing has it loaded."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _OF_ITS_OWN:
            said = f"{option.opts[0]} is about loading the network, which only --image does"
            raise click.UsageError(said)


def _pictures(folder: Folder, images: tuple[str, ...]) -> list[Picture]:
    with step(f"reading {', '.join(images)}"):
        from attnsurgeon.looking.look import look_at
        from attnsurgeon.looking.photographs import as_photograph
        from attnsurgeon.report.pictures import pictures_of

        photographs = [as_photograph(image) for image in images]
    network = folder.load()
    with step("looking"):
        looks = [look_at(network, one, name=folder.path) for one in photographs]
    with step("drawing"):
        return [picture for look in looks for picture in pictures_of(look)]
