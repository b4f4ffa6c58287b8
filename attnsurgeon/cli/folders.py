"""DIR and the options that say where its base network comes from -> that network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.networks import note_what_was_taken
from attnsurgeon.cli.options import Command, Network, Taking, taking, trust_option
from attnsurgeon.cli.values import Pair, PathName, as_mapping
from attnsurgeon.report.streams import step

if TYPE_CHECKING:
    from torch import nn


def base_options(function: Command) -> Command:
    """DIR, and what builds its base network where the folder alone cannot."""
    for decorate in (
        trust_option,
        click.option(
            "--attn-code",
            metavar="FILE.py:CLASS",
            help="Attention that is code of your own, taken as it is, in place of the file that "
            "DIR names.",
        ),
        click.option(
            "--base-arg", "base_args", type=Pair(), multiple=True, help="Argument of --base."
        ),
        click.option("--base", metavar="MODEL", help="Builds the base network, as `insert` does."),
        taking,
        click.option(
            "--checkpoint",
            type=PathName(),
            help="Weights trained after the surgery; or of an adapter's base network.",
        ),
        click.argument("folder", metavar="DIR"),
    ):
        function = decorate(function)
    return function


def base_network(
    base: str | None,
    base_args: tuple[tuple[str, Any], ...],
    checkpoint: str | None,
    taking: Taking,
) -> nn.Module | None:
    """Returns the base network that the options name, or None: the folder knows how to build it."""
    taking.refuse_without(checkpoint)
    if base is None:
        if base_args:
            raise click.UsageError("--base-arg needs the network it is for: --base MODEL")
        return None
    from attnsurgeon.models import load_model

    asked = Network(base, as_mapping(base_args, "--base-arg"), None)
    model = load_model(asked.spec, checkpoint=checkpoint, **taking.arguments, **asked.args)
    note_what_was_taken(model)
    return model


def loaded(
    folder: str,
    *,
    checkpoint: str | None,
    base: str | None,
    base_args: tuple[tuple[str, Any], ...],
    trust_code: bool,
    taking: Taking,
    attn_code: str | None = None,
) -> nn.Module:
    """Loads the network in a folder, as the options of `base_options` say."""
    with step(f"loading {folder}"):
        from attnsurgeon.saved.restore import load

        model = base_network(base, base_args, checkpoint, taking)
        how = {} if model or checkpoint is None else {"checkpoint": checkpoint, **taking.arguments}
        network = load(folder, model=model, trust=trust_code, attn=attn_code, **how)
    note_what_was_taken(network)
    return network
