"""Options about pictures: how they are prepared, which of them, and where the network runs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import click

from attnsurgeon.cli.options import Command
from attnsurgeon.cli.values import Numbers, PathName


@dataclass(frozen=True)
class Preparing:
    """How pictures are prepared, where that is not as the network says; and the device.

    Attributes:
        mean, std, image_size, device: as `attnsurgeon.heatmap` has them.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: tuple[int, ...] | None = None
    device: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For the library."""
        return dict(vars(self))


@dataclass(frozen=True)
class Photographs:
    """Which pictures.

    Attributes:
        images, batch_size, limit, skip_bad: as `attnsurgeon.gate_statistics` has them.
    """

    images: str
    batch_size: int
    limit: int | None
    skip_bad: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """For the library, but the images."""
        return {name: value for name, value in vars(self).items() if name != "images"}

    def check(self) -> None:
        """Refuses a folder without pictures before any network is loaded."""
        from attnsurgeon.looking.photographs import bad_files, files_in

        bad_files(files_in(self.images, self.limit), self.images, skip_bad=self.skip_bad)


def preparing(function: Command) -> Command:
    """How pictures are prepared: the command gets `how`."""

    @functools.wraps(function)
    def command(*, mean: Any, std: Any, image_size: Any, device: str | None, **rest: Any) -> Any:
        return function(how=Preparing(mean, std, image_size, device), **rest)

    for decorate in (
        click.option("--device", metavar="NAME", help="Where to run: cpu, cuda, cuda:1, mps."),
        click.option(
            "--image-size",
            type=Numbers(whole=True),
            metavar="H,W",
            help="Size of the network's input.  [default: the network's own]",
        ),
        click.option(
            "--std", type=Numbers(), metavar="A,B,C", help="In place of the network's own."
        ),
        click.option(
            "--mean",
            type=Numbers(),
            metavar="A,B,C",
            help="Of each channel, for values from 0 to 1, in place of the network's own.",
        ),
    ):
        command = decorate(command)
    return command


def folder_of_images(function: Command) -> Command:
    """Which pictures: the command gets `pictures`."""

    @functools.wraps(function)
    def command(
        *, images: str, batch_size: int, limit: int | None, skip_bad: bool, **rest: Any
    ) -> Any:
        return function(pictures=Photographs(images, batch_size, limit, skip_bad), **rest)

    for decorate in (
        click.option(
            "--skip-bad", is_flag=True, help="Leave out files that are no images, and say which."
        ),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            help="At most so many images, evenly spread over the folder.",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            help="Images of a forward.",
        ),
        click.option(
            "--images",
            required=True,
            type=PathName(),
            metavar="FOLDER",
            help="Folder of pictures, or of folders of such.",
        ),
    ):
        command = decorate(command)
    return command
