"""Options that say which weights a network gets, and how a file of them is taken."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import click

from attnsurgeon.cli.options import Command, Function
from attnsurgeon.cli.values import PathName


@dataclass(frozen=True)
class Taking:
    """How a checkpoint is to be taken; names as `load_model` has them."""

    checkpoint_key: str | None = None
    partial: bool = False
    weights_only: bool = False
    accept: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """For `load_model` and `load`."""
        return dataclasses.asdict(self)

    def refuse_without(self, checkpoint: str | None) -> None:
        """Refuses options about a checkpoint that is not there."""
        said = [name for name, value in self.arguments.items() if value]
        if said and checkpoint is None:
            option = said[0].replace("_", "-")
            raise click.UsageError(f"--{option} is about a --checkpoint, and there is none")


def weights(function: Function) -> Function:
    """Which weights the network gets."""
    for decorate in (
        click.option(
            "--new-head",
            is_flag=True,
            help="Take all weights but those of the head, for other classes than they are of.",
        ),
        click.option(
            "--unsafe-pickle",
            is_flag=True,
            help="Let the checkpoint run code while it is read; only for files you trust.",
        ),
        click.option(
            "--checkpoint",
            type=PathName(),
            help="Weights: a file of safetensors or torch.save, or a folder of such.",
        ),
        click.option("--pretrained", is_flag=True, help="Fetch the pretrained weights."),
    ):
        function = decorate(function)
    return function


def taking(function: Command) -> Command:
    """How a checkpoint is to be taken: the command gets `taking`."""

    @functools.wraps(function)
    def command(
        *,
        checkpoint_key: str | None,
        partial: bool,
        weights_only: bool,
        accept: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        return function(taking=Taking(checkpoint_key, partial, weights_only, accept), **rest)

    for decorate in (
        click.option(
            "--accept",
            type=click.Choice(["non-finite", "integers", "complex"]),
            multiple=True,
            help="Take weights of that kind all the same. Repeatable.",
        ),
        click.option(
            "--weights-only",
            is_flag=True,
            help="Take the weights of a pickled network that is another one than MODEL.",
        ),
        click.option(
            "--partial", is_flag=True, help="Take what fits of the checkpoint; the rest is listed."
        ),
        click.option(
            "--checkpoint-key",
            metavar="NAME",
            help="Entry or prefix of the checkpoint to take, such as params_ema or student.",
        ),
    ):
        command = decorate(command)
    return command
