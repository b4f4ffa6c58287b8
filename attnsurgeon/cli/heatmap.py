"""`attnsurgeon heatmap`: what the attention in a saved folder does to a picture."""

from __future__ import annotations

from pathlib import Path

import click

from attnsurgeon.cli.folders import Folder, saved_folder, site_option
from attnsurgeon.cli.images import Preparing, preparing
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import Numbers, PathName
from attnsurgeon.report.streams import note, step, write_json, write_text

_OUTPUT = "-o FILE"


@click.command()
@saved_folder
@click.option(
    "--image", required=True, type=PathName(), help="Picture to look at: any that Pillow reads."
)
@site_option
@click.option(
    "--against",
    metavar="DIR2",
    type=PathName(),
    help="Another saved folder, such as the one before training, on the left of each picture.",
)
@click.option(
    "--position",
    type=Numbers(),
    metavar="Y,X",
    help="Whose attention is drawn, where each position has its own; fractions.  "
    "[default: 0.5,0.5]",
)
@preparing
@click.option(
    "-o",
    "--output",
    type=PathName(),
    metavar="FILE",
    help="File to write: .png, .pdf, .svg, or .html for a page.  [default: DIR-IMAGE.png]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@json_flag
def command(
    folder: Folder,
    image: str,
    sites: tuple[str, ...],
    against: str | None,
    position: tuple[float, ...] | None,
    how: Preparing,
    output: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw what every site in DIR does to a picture: masks over it, channel gates as bars.

    \b
    attnsurgeon heatmap r50-cbam --image cat.jpg -o cat.png
    attnsurgeon heatmap r50-trained --image cat.jpg --against r50-cbam -o cat.html
    """
    file = output or f"{Path(folder.path).name}-{Path(image).stem}.png"
    with step(f"reading {image}"):
        from attnsurgeon.looking.drawing import check_kind, figure_of, written
        from attnsurgeon.looking.look import look_at
        from attnsurgeon.looking.photographs import as_photograph
        from attnsurgeon.report.heatmap import heatmap_page, look_record
        from attnsurgeon.saved.file import check_file, write_file

        kind = check_kind(file, option=_OUTPUT)
        check_file(file, overwrite, option=_OUTPUT)
        picture = as_photograph(image)
    network = folder.load()
    other = None if against is None else folder.at(against).load()
    asked = {**how.arguments, "sites": sites or None, "position": position}
    with step("looking"):
        now = look_at(network, picture, name=_called(folder.path), **asked)
        then = None if other is None else look_at(other, picture, name=_called(against), **asked)
    with step("drawing"):
        if kind == "html":
            content: str | bytes = heatmap_page(now, then)
        else:
            content = written(figure_of(now, then), kind)
        write_file(file, content, overwrite=overwrite, option=_OUTPUT)
    for said in now.notes:
        note(f"note: {said}")
    if as_json:
        write_json({"folder": folder.path, "output": file, **look_record(now, against=then)})
    else:
        write_text(f"{file} written: {len(now.cards)} sites")


def _called(folder: str | None) -> str:
    return Path(folder or "").name or str(folder)
