"""Groups of commands: each command is a file, an unknown one is answered with the nearest."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from attnsurgeon.cli import INTERRUPTED
from attnsurgeon.cli.once import refuse_repeated
from attnsurgeon.errors import RuleError, SurgeonError, UsageError, nearest
from attnsurgeon.report.streams import note, plain
from attnsurgeon.report.surfaces import hint_of, in_options


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
        """Runs a command; an interrupt is answered here, before click writes a line of its own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command line and ends the process.

        The one place where what a user can cause becomes one message and an exit code.
        """
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except SurgeonError as error:
            failed = error
        except click.ClickException as error:
            sys.exit(_show_usage(error))
        except OSError as error:
            failed = UsageError(_told(error))
        except click.Abort:
            sys.exit(INTERRUPTED)
        show_error(failed)
        sys.exit(failed.exit_code)


def show_error(error: SurgeonError) -> None:
    """Writes what failed and the next step to stderr."""
    # What is wrong with a mechanism that a rule file names ends with what to do about it.
    what = in_options(error.what) if isinstance(error, RuleError) else error.what
    note(what, heading=f"{_coloured('error:', fg='red')} ")
    if hint := hint_of(error):
        note(hint, heading=f"{_coloured('hint:')} ")


def _coloured(word: str, **how: Any) -> str:
    wanted = sys.stderr.isatty() and not plain()
    return click.style(word, bold=True, **how) if wanted else word


def _show_usage(error: click.ClickException) -> int:
    """Writes what click says of a command line to stderr; returns the exit code."""
    said = io.StringIO()
    error.show(said)
    note(said.getvalue().rstrip("\n"))
    return error.exit_code


def _told(error: OSError) -> str:
    """What the system says, and of which file."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(files) or 'a file'}: {error.strerror or error}"
