"""`attnsurgeon verify`: a saved folder, loaded and checked in full."""

from __future__ import annotations

import click

from attnsurgeon.checks.threads import few_threads
from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.streams import note, out, step, write_json
from attnsurgeon.report.surfaces import in_options


@click.command()
@saved_folder
@json_flag
def command(
    folder: Folder,
    as_json: bool,
) -> None:
    """Load a saved DIR and check it in full. Its operation is made once more on its base."""
    with step(f"verifying {folder}"):
        from attnsurgeon.checkup import check_folder
        from attnsurgeon.report.folder import checkup_record, show_checkup
        from attnsurgeon.saved.restore import read_folder

        how = folder.arguments
        with few_threads(read_folder(folder.path).record["cost"]["after"]["macs"]):
            found = check_folder(folder.path, **how)
    for said in found.notes:
        note(f"note: {in_options(said)}")
    record = checkup_record(found)
    if as_json:
        write_json(record)
    else:
        show_checkup(out(), record)
    if not found.ok:
        raise CheckFailed(f"{folder} fails its verification: {'; '.join(found.problems)}")
