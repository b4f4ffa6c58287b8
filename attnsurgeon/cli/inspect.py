"""`attnsurgeon inspect`: the places of a network where something can be inserted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.networks import sketch
from attnsurgeon.cli.options import Network, json_flag, network
from attnsurgeon.cli.values import complete_where
from attnsurgeon.errors import RuleError
from attnsurgeon.report.streams import out, step, write_json
from attnsurgeon.sites.site import ROLES

if TYPE_CHECKING:
    from attnsurgeon.sites.site import Site
    from attnsurgeon.sites.survey import Survey


@click.command()
@network
@click.option(
    "--role", type=click.Choice(ROLES), metavar="ROLE", help=f"One of {', '.join(ROLES)}."
)
@click.option(
    "--where", shell_complete=complete_where, help="Only the sites that a placement or file takes."
)
@click.option("--all", "every", is_flag=True, help="Also list every conv, norm, act, pool, linear.")
@click.option(
    "--tree",
    is_flag=True,
    help="Draw the tree of modules: shapes, parameters, MACs, and the sites in it.",
)
@json_flag
def command(
    asked: Network,
    role: str | None,
    where: str | None,
    every: bool,
    tree: bool,
    as_json: bool,
) -> None:
    """List the sites of MODEL and their roles. No weights are loaded."""
    _, found = sketch(asked)
    sites = _selected(found, role, where)
    from attnsurgeon.report.record import network_record

    record = network_record(asked.spec, found, sites)
    if tree:
        record["modules"] = _modules(found)
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.network import show_list, show_network

    if tree:
        from attnsurgeon.report.modules import show_tree

        show_tree(out(), record, every=every or role is not None)
    elif role is None and where is None:
        show_network(out(), record, every=every)
    else:
        show_list(out(), record)


def _modules(found: Survey) -> list[dict[str, Any]]:
    with step("weighing"):
        from attnsurgeon.cost.weighing import weigh
        from attnsurgeon.report.record import modules_record

        traced = found.traced
        return modules_record(traced, weigh(traced.twin, traced.form.at_batch(1)))


def _selected(found: Survey, role: str | None, where: str | None) -> Sequence[Site]:
    sites: Sequence[Site] = found.sites
    if where is not None:
        from attnsurgeon.operate import matches_of
        from attnsurgeon.rules.match import require_counts
        from attnsurgeon.rules.where import resolve_where

        matches = matches_of(found, resolve_where(where))
        require_counts(matches)
        taken = {site.path for rule in matches for site in rule.sites}
        sites = [site for site in sites if site.path in taken]
    if role is not None:
        there = {one for site in sites for one in site.roles}
        sites = [site for site in sites if role in site.roles]
        if not sites:
            raise RuleError(
                f"no site has the role {role!r}",
                f"roles found: {', '.join(sorted(there)) or 'none'}",
            )
    return sites
