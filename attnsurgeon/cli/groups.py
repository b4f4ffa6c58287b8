"""Groups of commands: each command is a file, an unknown one is answered with the nearest."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from attnsurgeon.cli import INTERRUPTED
from attnsurgeon.cli.once import refuse_repeated
from attnsurgeon.errors import SurgeonError, nearest
from attnsurgeon.report.streams import plain, replace_what_does_not_fit


class Named(click.Group):
    """A group that knows the nearest name of a command that it does not have."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they are written down, not sorted."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command of a call."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            raise click.UsageError(
                f"There is no command {args[0]!r}; {nearest(args[0], names)}", ctx
            )
        name, found, rest = super().resolve_command(ctx, args)
        if name is not None and found is not None:
            refuse_repeated(found, name, rest, ctx)
        return name, found, rest


class Files(Named):
    """A group whose commands are files of this package, each with an object `command`.

    No such file imports torch before its command runs, so that `--help` answers at once.
    """

    def __init__(self, *args: Any, names: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names = names

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which people meet them."""
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command's file."""
        if cmd_name not in self.names:
            return None
        return importlib.import_module(f"attnsurgeon.cli.{cmd_name}").command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; a user's mistake becomes one message and its exit code."""
        try:
            return super().invoke(ctx)
        except SurgeonError as error:
            show_error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def show_error(error: SurgeonError) -> None:
    """Writes what failed and the next step to stderr."""
    lines = [f"{click.style('error:', fg='red', bold=True)} {error.what}"]
    if hint := error.command or error.hint:
        lines.append(f"{click.style('hint:', bold=True)} {hint}")
    replace_what_does_not_fit(sys.stderr)
    click.echo("\n".join(lines), err=True, color=False if plain() else None)
