"""An option of one value that is given twice is refused, of every command by one mechanism."""

import click
import pytest

from attnsurgeon.cli.app import app
from attnsurgeon.cli.once import takes_one
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]


def commands(group: click.Group, *path: str) -> list[tuple[tuple[str, ...], click.Command]]:
    context, found = click.Context(group), []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = commands(command, *path, name) if isinstance(command, click.Group) else []
        found += inner or [((*path, name), command)]
    return found


OPTIONS = [
    pytest.param(path, option, id=f"{' '.join(path)} {option.opts[0]}")
    for path, command in commands(app)
    for option in command.params
    if isinstance(option, click.Option) and not option.is_eager
]
# Values that the type of an option takes: what is refused is the second one, not the value.
FITTING = {
    "integer": "1",
    "integer range": "2",
    "float": "1",
    "float range": "1",
    "C,H,W": "3,40,24",
    "name=value": "a=1",
    "numbers": "1",
    "stage=weight": "4=2",
}


def given(option: click.Option, times: int) -> list[str]:
    value = FITTING.get(option.type.name, "x")
    if isinstance(option.type, click.Choice):
        value = str(option.type.choices[0])
    return [max(option.opts, key=len), *([] if option.is_flag else [value])] * times


@pytest.mark.parametrize(("path", "option"), OPTIONS)
def test_a_second_value_is_refused_where_one_is_taken(path, option, monkeypatch):
    ran = []
    command = dict(commands(app))[path]
    monkeypatch.setattr(command, "invoke", lambda ctx: ran.append(ctx.params))
    arguments = ["x" for argument in command.params if isinstance(argument, click.Argument)]
    needed = [p for p in command.params if isinstance(p, click.Option) and p.required]
    others = [word for p in needed if p is not option for word in given(p, 1)]

    def call(times: int):
        return attnsurgeon(*path, *arguments, *others, *given(option, times))

    once = call(1)
    assert once.code == 0, once.err
    assert len(ran) == 1
    done = call(3)
    if takes_one(option):
        assert done.code == 2
        assert f"{max(option.opts, key=len)} takes one value and is given 3 times" in done.err
        assert len(ran) == 1
    else:
        assert done.code == 0, done.err
        assert len(ran) == 2


def test_there_are_options_of_both_kinds():
    kinds = [takes_one(option) for path, option in (case.values for case in OPTIONS)]
    assert kinds.count(True) > 20
    assert kinds.count(False) > 10


@pytest.mark.parametrize(
    "words",
    [
        ["--where", "stem", "--where", "head"],
        ["--where=stem", "--where", "stem"],  # the same twice is a slip as well
        ["-o", "a", "--output", "b"],  # one option by two names
        ["-oa", "-ob"],
    ],
    ids=" ".join,
)
def test_however_it_is_spelled_and_whatever_it_says(words):
    done = attnsurgeon("insert", *NET, "--attn", "se", *words)
    assert done.code == 2
    assert "takes one value and is given twice" in done.err
    assert "attnsurgeon insert" in done.err  # whose option it is


def test_help_is_given_whatever_else_is_said():
    assert attnsurgeon("insert", "--where", "a", "--where", "b", "--help").code == 0


def test_a_shell_that_completes_a_line_is_not_disturbed():
    from click.shell_completion import ShellComplete

    completion = ShellComplete(app, {}, "attnsurgeon", "_ATTNSURGEON_COMPLETE")
    line = ["insert", "resnet50", "--where", "stem", "--where"]
    assert "stem" in [item.value for item in completion.get_completions(line, "st")]


def test_compare_takes_mechanisms_in_one_word_or_in_several():
    together = attnsurgeon("compare", *NET, "--attn", "se,eca", "--json").json()
    apart = attnsurgeon("compare", *NET, "--attn", "se", "--attn", "eca", "--json").json()
    assert together == apart
