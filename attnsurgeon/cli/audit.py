"""`attnsurgeon audit`: is every inserted module of a saved folder still there, and does it run?"""

from __future__ import annotations

import click

from attnsurgeon.cli.folders import Folder, saved_folder
from attnsurgeon.cli.options import json_flag
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.streams import out, step, write_json


@click.command()
@saved_folder
@json_flag
def command(
    folder: Folder,
    as_json: bool,
) -> None:
    """Count the calls of every inserted module in DIR in one forward. `verify` checks more."""
    model = folder.load()
    with step(f"auditing {folder}"):
        from attnsurgeon.checks.auditing import audit
        from attnsurgeon.report.folder import show_audit
        from attnsurgeon.report.record import audit_record
        from attnsurgeon.saved.restore import read_folder

        saved = read_folder(folder.path)
        found = audit(model.eval(), example=saved.form)
    record = {"folder": saved.name, **audit_record(found), "ok": found.ok}
    if as_json:
        write_json(record)
    else:
        show_audit(out(), record)
    if not found.ok:
        wrong = [*found.dead, *found.altered]
        raise CheckFailed(f"attention in {folder} is not what was put in: {', '.join(wrong[:3])}")
