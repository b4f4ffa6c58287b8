"""`attnsurgeon export`: a saved folder as a torch.export program or an ONNX file."""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import PathName
from attnsurgeon.report.streams import step, write_json, write_text


@click.command()
@saved_folder
@click.option(
    "--format",
    "form",
    type=click.Choice(["torch-export", "onnx"]),
    help="torch-export is read by torch.export.load.  [default: by the file's name, .pt2 or .onnx]",
)
@click.option("-o", "--output", required=True, type=PathName(), help="File to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--fold", is_flag=True, help="Fold weight excitations into the weights first.")
@click.option("--dynamic-batch", is_flag=True, help="Take every batch size, not only one image.")
@json_flag
def command(
    folder: Folder,
    form: str | None,
    output: str,
    overwrite: bool,
    fold: bool,
    dynamic_batch: bool,
    as_json: bool,
) -> None:
    """Export the network in DIR to one file. The file is kept if it computes the same."""
    with step(f"reading {folder}"):
        from attnsurgeon.saved.exporting import export, format_of
        from attnsurgeon.saved.file import check_file
        from attnsurgeon.saved.restore import read_folder
        from attnsurgeon.sizes import to_lists

        check_file(output, overwrite)
        form = format_of(output, form)
        given = read_folder(folder.path).form
    network = folder.load()
    folded: tuple[str, ...] = ()
    if fold:
        from attnsurgeon.splicing.folding import fold as fold_weights

        folded = fold_weights(network)
    with step(f"exporting to {form}"):
        made = export(network, given, output, form=form, dynamic=dynamic_batch, overwrite=overwrite)
    record = {
        "output": str(made.path),
        "format": made.form,
        "input_size": to_lists(given.size),
        "batches": list(made.batches),
        "dynamic_batch": made.dynamic,
        "relative_diff": made.relative_diff,
        "folded": list(folded),
    }
    if as_json:
        write_json(record)
        return
    batches = " and ".join(str(batch) for batch in made.batches)
    write_text(
        f"{made.path} written; differs from the network by {made.relative_diff:.2g} of the "
        f"largest output, at batch {batches}"
    )
