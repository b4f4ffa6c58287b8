"""DIR and the options that say where its base network comes from -> that network."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.checkpoints import Taking, taking
from attnsurgeon.cli.networks import note_what_was_taken
from attnsurgeon.cli.options import Command, Network, trust_option
from attnsurgeon.cli.values import Pair, PathName, as_mapping
from attnsurgeon.report.streams import step

if TYPE_CHECKING:
    from torch import nn

# For commands that may leave out some of what stands in DIR.
site_option = click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="GLOB",
    help="Only at these sites, or these modules: layer4.*, layer4.1.bn2. Repeatable.",
)


@dataclass(frozen=True)
class Folder:
    """A saved folder and what its network is built with, where the folder alone cannot say.

    Attributes:
        path: of the folder, or its name on the hub.
        checkpoint: weights trained since, or of an adapter's base network.
        base, base_args: what builds the base network, as for `insert`.
        attn_code: attention of the user's own.
        trust_code: code that the folder names may run.
        taking: how the checkpoint is to be taken.
    """

    path: str
    checkpoint: str | None
    base: str | None
    base_args: tuple[tuple[str, Any], ...]
    attn_code: str | None
    trust_code: bool
    taking: Taking

    def __str__(self) -> str:
        return self.path

    def at(self, path: str) -> Folder:
        """Returns another folder that has the same base network."""
        return replace(self, path=path, checkpoint=None, taking=Taking())

    @property
    def arguments(self) -> dict[str, Any]:
        """For `load` and `check_folder`; a base network that the options name is built."""
        model = self._base_network()
        how: dict[str, Any] = {}
        if model is None and self.checkpoint is not None:
            how = {"checkpoint": self.checkpoint, **self.taking.arguments}
        return {"model": model, "trust": self.trust_code, "attn": self.attn_code, **how}

    def load(self) -> nn.Module:
        """Returns the network."""
        with step(f"loading {self}"):
            from attnsurgeon.saved.restore import load

            network = load(self.path, **self.arguments)
        note_what_was_taken(network)
        return network

    def _base_network(self) -> nn.Module | None:
        self.taking.refuse_without(self.checkpoint)
        if self.base is None:
            if self.base_args:
                raise click.UsageError("--base-arg needs the network it is for: --base MODEL")
            return None
        from attnsurgeon.models import load_model

        asked = Network(self.base, as_mapping(self.base_args, "--base-arg"), None)
        how = {**self.taking.arguments, **asked.args}
        model = load_model(asked.spec, checkpoint=self.checkpoint, **how)
        note_what_was_taken(model)
        return model


def saved_folder(function: Command) -> Command:
    """DIR, and what builds its base network where the folder alone cannot: the command gets
    `folder`.
    """

    @functools.wraps(function)
    def command(
        *,
        folder: str,
        checkpoint: str | None,
        base: str | None,
        base_args: tuple[tuple[str, Any], ...],
        attn_code: str | None,
        trust_code: bool,
        taking: Taking,
        **rest: Any,
    ) -> Any:
        given = Folder(folder, checkpoint, base, base_args, attn_code, trust_code, taking)
        return function(folder=given, **rest)

    decorated: Command = command
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
        decorated = decorate(decorated)
    return decorated
