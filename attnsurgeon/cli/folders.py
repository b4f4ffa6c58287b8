"""DIR and the options that say where its base network comes from -> that network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnsurgeon.cli.values import Pair, as_mapping

if TYPE_CHECKING:
    from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])

trust_option = click.option(
    "--trust-code",
    is_flag=True,
    help="Run the code of your own, or ask the address, that the file names.",
)


def base_options(function: Function) -> Function:
    """DIR, and what builds its base network where the folder alone cannot."""
    for decorate in (
        trust_option,
        click.option(
            "--base-arg", "base_args", type=Pair(), multiple=True, help="Argument of --base."
        ),
        click.option("--base", metavar="MODEL", help="Builds the base network, as `insert` does."),
        click.option(
            "--checkpoint", type=click.Path(), help="Weights of the base network, for an adapter."
        ),
        click.argument("folder", metavar="DIR"),
    ):
        function = decorate(function)
    return function


def base_network(
    base: str | None, base_args: tuple[tuple[str, Any], ...], checkpoint: str | None
) -> nn.Module | None:
    """Returns the base network that the options name, or None: the folder knows how to build it."""
    if base is None:
        if base_args:
            raise click.UsageError("--base-arg needs the network it is for: --base MODEL")
        return None
    from attnsurgeon.models import load_model

    return load_model(base, checkpoint=checkpoint, **as_mapping(base_args, "--base-arg"))
