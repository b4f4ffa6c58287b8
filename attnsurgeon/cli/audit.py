"""`attnsurgeon audit`: is every inserted module of a saved folder still there, and does it run?"""

from __future__ import annotations

from typing import Any

import click

from attnsurgeon.cli.folders import base_options, loaded
from attnsurgeon.cli.options import Taking, json_flag
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.streams import out, step, write_json


@click.command()
@base_options
@json_flag
def command(
    folder: str,
    checkpoint: str | None,
    base: str | None,
    base_args: tuple[tuple[str, Any], ...],
    attn_code: str | None,
    trust_code: bool,
    taking: Taking,
    as_json: bool,
) -> None:
    """Count the calls of every inserted module in DIR in one forward. `verify` checks more."""
    model = loaded(
        folder,
        checkpoint=checkpoint,
        base=base,
        base_args=base_args,
        attn_code=attn_code,
        trust_code=trust_code,
        taking=taking,
    )
    with step(f"auditing {folder}"):
        from attnsurgeon.checks.auditing import audit
        from attnsurgeon.report.folder import show_audit
        from attnsurgeon.report.record import audit_record
        from attnsurgeon.saved.restore import read_folder

        saved = read_folder(folder)
        found = audit(model.eval(), example=saved.form)
    record = {"folder": saved.name, **audit_record(found), "ok": found.ok}
    if as_json:
        write_json(record)
    else:
        show_audit(out(), record)
    if not found.ok:
        wrong = [*found.dead, *found.altered]
        raise CheckFailed(f"attention in {folder} is not what was put in: {', '.join(wrong[:3])}")
