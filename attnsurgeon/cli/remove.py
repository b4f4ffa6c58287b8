"""`attnsurgeon remove`: a saved folder without its attention, or without some of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from attnsurgeon.cli.folders import Folder, saved_folder, site_option
from attnsurgeon.cli.options import FOLDER, json_flag
from attnsurgeon.cli.values import Names
from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.report.streams import note, step, write_json, write_text

_SEE = "`attnsurgeon report DIR` shows what stands where"


@click.command()
@saved_folder
@site_option
@click.option(
    "--attn", "names", type=Names(), multiple=True, help="Only these mechanisms. Repeatable."
)
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that attnsurgeon wrote.")
@json_flag
def command(
    folder: Folder,
    sites: tuple[str, ...],
    names: tuple[tuple[str, ...], ...],
    output: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Take the attention in DIR out again, all or some of it.

    What is left is bit for bit what it was, with the weights that it has by now.

    \b
    attnsurgeon remove r50-eca -o r50
    attnsurgeon remove r50-eca --site "layer4.*" -o r50-eca-early
    """
    with step(f"reading {folder}"):
        from attnsurgeon.saved.folder import check_output
        from attnsurgeon.saved.restore import loading_of, read_folder
        from attnsurgeon.saved.save import save_without

        check_output(output, overwrite)
        saved = read_folder(folder.path)
    model = folder.load()
    with step("removing"):
        from attnsurgeon.splicing.selecting import chosen, cuts_of
        from attnsurgeon.splicing.thinning import remove

        cuts = cuts_of(model)
        asked = {name for several in names for name in several}
        _refuse_absent(folder.path, {cut["attn"] for cut in cuts.values()}, asked)
        meant = chosen(model, sites or None)
        gone = [path for path in meant if not asked or cuts[path]["attn"] in asked]
        if not gone:
            raise UsageError(f"no {' or '.join(sorted(asked))} stands at {', '.join(sites)}", _SEE)
        remove(model, gone)
    with step(f"saving to {output}"):
        written = save_without(model, output, saved.form, overwrite=overwrite)
    if _trained(model, saved.record["base"]["sha256"]):
        note("note: the base has been trained since the operation, and keeps these weights")
    line = loading_of(read_folder(written)).code
    kept = list(cuts_of(model).values())
    record = {
        "output": output,
        "removed": [_named(cuts[path]) for path in gone],
        "kept": [_named(cut) for cut in kept],
        "load": line,
    }
    if as_json:
        write_json(record)
        return
    what = f"{len(gone)} of {len(cuts)} modules removed"
    write_text(f"{what}: {'the original network' if not kept else f'{len(kept)} stay'}")
    write_text(f"saved to {output}\n\n    import attnsurgeon\n    {line}")


def _named(cut: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cut[name] for name in ("attn", "path", "module_path")}


def _refuse_absent(folder: str, there: set[str], asked: set[str]) -> None:
    """Refuses to take out what is not in the network."""
    if not there:
        raise UsageError(f"the network in {folder} has no attention in it")
    if unknown := sorted(asked - there):
        raise UsageError(f"{folder} has no {unknown[0]} in it", nearest(unknown[0], there))


def _trained(model: Any, then: str | None) -> bool:
    """Whether the base is known to have other weights than those that were operated on."""
    from attnsurgeon.saved.origin import measure

    return then is not None and measure(model).sha256 != then
