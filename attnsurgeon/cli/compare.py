"""`attnsurgeon compare`: several mechanisms on one network, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attnsurgeon.cli.networks import described, sketch
from attnsurgeon.cli.options import Network, init_option, json_flag, network
from attnsurgeon.cli.values import Names, complete_attn, complete_where
from attnsurgeon.errors import SurgeonError
from attnsurgeon.report.streams import out, step, write_json

if TYPE_CHECKING:
    from attnsurgeon.report.record import Priced
    from attnsurgeon.rules.schema import RuleFile
    from attnsurgeon.sites.survey import Survey

_ALL = "all"


@click.command()
@network
@click.option(
    "--attn",
    "names",
    type=Names(),
    required=True,
    multiple=True,
    shell_complete=complete_attn,
    help="Mechanisms with commas between them, or `all`; your own as FILE.py:CLASS. Repeatable.",
)
@click.option(
    "--where",
    shell_complete=complete_where,
    help="Placement or rule file.  [default: each paper's own]",
)
@init_option
@json_flag
def command(
    asked: Network,
    names: tuple[tuple[str, ...], ...],
    where: str | None,
    init: str,
    as_json: bool,
) -> None:
    """Weigh mechanisms side by side on MODEL. No weights are loaded."""
    files = _rules(tuple(name for some in names for name in some), where, init, asked.trust)
    built, found = sketch(asked)
    with step("weighing"):
        from attnsurgeon.cost.weighing import weigh
        from attnsurgeon.report.record import comparison_record, model_record

        priced = [_priced(found, name, file, where, init) for name, file in files.items()]
        before = weigh(found.traced.twin, found.traced.form.at_batch(1))
        record = comparison_record(model_record(described(asked, built)), init, before, priced)
    if as_json:
        write_json(record)
    refusals = [one.refusal for one in priced if one.refusal is not None]
    if len(refusals) == len(priced):
        raise refusals[0]
    if not as_json:
        from attnsurgeon.report.pricing import show_comparison

        show_comparison(out(), record)


def _rules(
    names: tuple[str, ...], where: str | None, init: str, trust: bool
) -> dict[str, RuleFile]:
    """Returns mechanism -> its rules; an unknown mechanism or placement is refused here."""
    with step("starting"):
        from attnsurgeon.attention.registry import mechanisms
        from attnsurgeon.operate import rules_for

        if _ALL in names:
            names = tuple(mechanisms())
        return {name: rules_for(name, where, None, None, init, trust=trust) for name in names}


def _priced(found: Survey, name: str, file: RuleFile, where: str | None, init: str) -> Priced:
    """Plans and weighs one mechanism; what it cannot do here is a row of the table."""
    from attnsurgeon.attention.registry import lookup
    from attnsurgeon.operate import plan_rules, weigh_plan
    from attnsurgeon.report.record import Priced
    from attnsurgeon.rules.placements import PAPER

    place = where or lookup(name).placement
    try:
        made = plan_rules(found, file, init=init, where=where or PAPER)
        # Rules may name more mechanisms than the one that is asked for: the row says all of them.
        return Priced(made.attn, place, made, weigh_plan(made))
    except SurgeonError as error:
        return Priced(name, place, refusal=error)
