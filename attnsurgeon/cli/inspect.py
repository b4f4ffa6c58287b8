"""`attnsurgeon inspect`: the places of a network where something can be inserted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from attnsurgeon.cli.networks import sketch
from attnsurgeon.cli.options import Network, json_flag, network
from attnsurgeon.cli.values import complete_where
from attnsurgeon.report.streams import out, write_json
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
@click.option("--tree", is_flag=True, help="Draw the sites in the tree of modules.")
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
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.network import show_list, show_network, show_tree

    if tree:
        show_tree(out(), record, every=every or role is not None)
    elif role is None and where is None:
        show_network(out(), record, every=every)
    else:
        show_list(out(), record)


def _selected(found: Survey, role: str | None, where: str | None) -> Sequence[Site]:
    sites: Sequence[Site] = found.sites
    if where is not None:
        from attnsurgeon.operate import matches_of
        from attnsurgeon.rules.where import resolve_where

        file = resolve_where(where)
        taken = {site.path for rule in matches_of(found, file) for site in rule.sites}
        sites = [site for site in sites if site.path in taken]
    if role is not None:
        sites = [site for site in sites if role in site.roles]
    return sites
