"""An option that takes one value and is given several: refused, for every command alike."""

from __future__ import annotations

from collections import Counter

import click


def refuse_repeated(
    command: click.Command, name: str, args: list[str], parent: click.Context
) -> None:
    """Refuses a call that gives an option of one value twice; click would keep the last.

    A flag that is given twice says the same twice, and options that take several values may be
    repeated.

    Args:
        command: what is about to run.
        name: its name in the call.
        args: what follows the name.
        parent: of the group that the command belongs to.

    Raises:
        click.UsageError: also what the command itself would raise for these arguments.
    """
    if parent.resilient_parsing:  # while a shell completes a line, it need not be right
        return
    context = command.context_class(command, parent, name, **command.context_settings)
    _, _, given = command.make_parser(context).parse_args(list(args))
    if any(parameter.is_eager for parameter in given):  # --help answers whatever else is said
        return
    for parameter, times in Counter(given).items():
        if times > 1 and isinstance(parameter, click.Option) and takes_one(parameter):
            option = max(parameter.opts, key=len)
            often = "twice" if times == 2 else f"{times} times"
            raise click.UsageError(f"{option} takes one value and is given {often}", context)


def takes_one(option: click.Option) -> bool:
    """Whether a second value of this option would replace the first."""
    says_one_thing = option.is_flag and not option.secondary_opts
    return not (option.multiple or option.count or says_one_thing)
