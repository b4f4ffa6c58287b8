"""`attnsurgeon save`: a trained checkpoint into a folder of its own, and a folder to the hub."""

from __future__ import annotations

from pathlib import Path

import click

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import FOLDER, json_flag
from attnsurgeon.report.streams import step, write_json, write_text


@click.command()
@saved_folder
@click.option("-o", "--output", type=FOLDER, help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that attnsurgeon wrote.")
@click.option(
    "--save",
    "mode",
    type=click.Choice(["full", "adapter"]),
    help="Save all weights, or those of the attention only.  [default: as DIR has them]",
)
@click.option(
    "--push-to-hub", metavar="ORG/NAME", help="Upload the folder to the Hugging Face hub as well."
)
@json_flag
def command(
    folder: Folder,
    output: str | None,
    overwrite: bool,
    mode: str | None,
    push_to_hub: str | None,
    as_json: bool,
) -> None:
    """Save DIR again, with trained weights, or to the hub.

    \b
    attnsurgeon save r50-eca --checkpoint last.pth -o r50-eca-trained
    attnsurgeon save r50-eca-trained --push-to-hub someone/r50-eca
    """
    if output is None and push_to_hub is None:
        raise click.UsageError("say where: -o DIR, or --push-to-hub ORG/NAME")
    if output is None and (folder.checkpoint or mode or overwrite):
        given = "--checkpoint" if folder.checkpoint else "--save" if mode else "--overwrite"
        raise click.UsageError(f"{given} needs the folder to write: -o DIR")
    folder.taking.refuse_without(folder.checkpoint)
    with step(f"reading {folder}"):
        from attnsurgeon.saved.folder import check_output
        from attnsurgeon.saved.hub import check_repository, push
        from attnsurgeon.saved.restore import loading_of, read_folder
        from attnsurgeon.saved.save import save

        if output is not None:
            check_output(output, overwrite)
        if push_to_hub is not None:
            check_repository(push_to_hub)
        saved = read_folder(folder.path)
    if output is not None:
        model = folder.load()
        with step(f"saving to {output}"):
            written = save(model, output, overwrite=overwrite, mode=mode or saved.mode)
            saved = read_folder(written)
    if push_to_hub is not None:
        with step(f"uploading to {push_to_hub}"):
            push(Path(saved.path), push_to_hub)
    line = loading_of(saved, checkpoint=folder.checkpoint).code
    if as_json:
        write_json({"output": output, "pushed_to": push_to_hub, "load": line})
        return
    said = [f"saved to {output}"] * (output is not None)
    said += [f"uploaded to hf-hub:{push_to_hub}"] * (push_to_hub is not None)
    write_text("\n".join(said) + f"\n\n    import attnsurgeon\n    {line}")
