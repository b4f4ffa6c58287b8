"""`attnsurgeon export`: a saved folder as a program for elsewhere, or as readable code."""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.cli.values import PathName
from attnsurgeon.report.streams import note, step, write_json, write_text

_FORMS = ["torch-export", "onnx", "onnx-classic", "torchscript", "code"]


@click.command()
@saved_folder
@click.argument("file", required=False, type=PathName(), metavar="FILE")
@click.option(
    "--to",
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="onnx-classic is for converters that read no newer ONNX; code is a file of Python that"
    " needs no attnsurgeon.  [default: by the file's name, .pt2, .onnx, .torchscript, .pt or .py]",
)
@click.option("-o", "--output", type=PathName(), help="FILE, said as an option.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@click.option("--fold", is_flag=True, help="Fold weight excitations into the weights first.")
@click.option("--dynamic-batch", is_flag=True, help="Take every batch size, not only one image.")
@click.option("--dynamic-sizes", is_flag=True, help="Take images of every size.")
@click.option(
    "--inline",
    is_flag=True,
    help="Of code: write out a base network of your own file, too; a library's is imported.",
)
@json_flag
def command(
    folder: Folder,
    file: str | None,
    form: str | None,
    output: str | None,
    overwrite: bool,
    fold: bool,
    dynamic_batch: bool,
    dynamic_sizes: bool,
    inline: bool,
    as_json: bool,
) -> None:
    """Export the network in DIR to FILE. It is kept if it computes the same.

    \b
    attnsurgeon export r50-eca r50-eca.onnx --dynamic-batch
    attnsurgeon export r50-eca r50_eca.py       code and r50_eca.safetensors, for a release
    """
    if (file is None) == (output is None):
        raise click.UsageError(
            "say once which file to write: attnsurgeon export DIR FILE"
            if file
            else "say which file to write: attnsurgeon export DIR FILE"
        )
    target = file or output
    assert target is not None, "one of the two was given"
    with step(f"reading {folder}"):
        from attnsurgeon.exporting.exports import export
        from attnsurgeon.exporting.forms import form_of, require
        from attnsurgeon.saved.file import check_file
        from attnsurgeon.saved.restore import read_folder
        from attnsurgeon.sizes import to_lists

        check_file(target, overwrite, option="FILE")
        form = form_of(target, form)
        if inline and form != "code":
            raise click.UsageError(f"--inline is for code, and this is {form}")
        require(form)
        given = read_folder(folder.path).form
    network = folder.load()
    folded: tuple[str, ...] = ()
    if fold:
        from attnsurgeon.splicing.folding import fold as fold_weights

        folded = fold_weights(network)
    with step(f"exporting to {form}"):
        made = export(
            network,
            target,
            to=form,
            example=given,
            dynamic_batch=dynamic_batch,
            dynamic_sizes=dynamic_sizes,
            inline=inline,
            overwrite=overwrite,
        )
    if made.note:
        note(made.note)
    record = {
        "output": str(made.path),
        "beside": [str(path) for path in made.beside],
        "format": made.form,
        "input_size": to_lists(given.size),
        "batches": list(made.batches),
        "sizes": [to_lists(size) for size in made.sizes],
        "dynamic_batch": made.dynamic_batch,
        "dynamic_sizes": made.dynamic_sizes,
        "relative_diff": made.relative_diff,
        "folded": list(folded),
    }
    if as_json:
        write_json(record)
        return
    files = " and ".join(str(path) for path in (made.path, *made.beside))
    if made.form == "code":
        write_text(
            f"{files} written; run without attnsurgeon, keys, outputs and gradients are equal to"
            " the bit"
        )
        return
    batches = " and ".join(str(batch) for batch in made.batches)
    at = f", and at {len(made.sizes)} sizes" if made.dynamic_sizes else ""
    write_text(
        f"{files} written; differs from the network by {made.relative_diff:.2g} of the largest "
        f"output, at batch {batches}{at}"
    )
