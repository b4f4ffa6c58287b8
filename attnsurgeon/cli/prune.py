"""`attnsurgeon prune`: a saved folder without the attention that does nothing."""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder, site_option
from attnsurgeon.cli.images import Photographs, Preparing, folder_of_images, preparing
from attnsurgeon.cli.options import FOLDER, json_flag
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.streams import out, step, write_json, write_text


@click.command()
@saved_folder
@folder_of_images
@click.option(
    "--below",
    type=float,
    default=0.01,
    show_default=True,
    help="Remove what moves the output by less, relative to its size.",
)
@site_option
@preparing
@click.option("-o", "--output", type=FOLDER, help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that attnsurgeon wrote.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and write nothing.")
@json_flag
def command(
    folder: Folder,
    pictures: Photographs,
    below: float,
    sites: tuple[str, ...],
    how: Preparing,
    output: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove the sites in DIR that do nothing, and say what that moves and refunds.

    \b
    attnsurgeon prune r50-cbam --images photos --below 0.01 --dry-run
    attnsurgeon prune r50-cbam --images photos --below 0.01 -o r50-pruned
    """
    if output is None and not dry_run:
        raise click.UsageError("say where: -o DIR, or --dry-run to write nothing")
    if output is None and overwrite:
        raise click.UsageError("--overwrite needs the folder to write: -o DIR")
    with step(f"looking into {pictures.images}"):
        from attnsurgeon.looking.pruning import prune
        from attnsurgeon.report.gates import pruning_notes, pruning_record, show_pruning
        from attnsurgeon.saved.folder import check_output
        from attnsurgeon.saved.restore import loading_of, read_folder
        from attnsurgeon.saved.save import save_without

        if output is not None:
            check_output(output, overwrite)
        pictures.check()
        saved = read_folder(folder.path)
    network = folder.load()
    with step("looking at images"):
        asked = {**pictures.arguments, **how.arguments, "sites": sites or None}
        made = prune(network, pictures.images, below=below, inplace=True, **asked)
    record = {"folder": folder.path, **pruning_record(made), "output": None, "load": None}
    if made.removed and output is not None and not dry_run:
        with step(f"saving to {output}"):
            written = save_without(made.model, output, saved.form, overwrite=overwrite)
        record |= {"output": output, "load": loading_of(read_folder(written)).code}
    if as_json:
        write_json(record)
    else:
        show_pruning(out(), record)
        if record["output"]:
            write_text(f"\nsaved to {output}\n\n    import attnsurgeon\n    {record['load']}")
    if not made.removed and not dry_run:
        why = next(pruning_notes(record))
        raise CheckFailed(f"{why}; nothing is written", "--below takes another bound")
