"""Options that several commands take, and the checks on them that need nothing but argv."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from attnsurgeon.cli.values import (
    Pair,
    PathName,
    Scalars,
    Size,
    as_mapping,
    complete_attn,
    complete_where,
)
from attnsurgeon.errors import UsageError
from attnsurgeon.sizes import InputSize

Function = TypeVar("Function", bound=Callable[..., Any])
Command = Callable[..., Any]
Pairs = tuple[tuple[str, Any], ...]

# What functions of ours that build a network are told beside its arguments, and how to tell it.
OWN = {
    "spec": "MODEL",
    "input_size": "--input-size",
    "example": "--input FILE",
    "pretrained": "--pretrained",
    "checkpoint": "--checkpoint FILE",
    "unsafe_pickle": "--unsafe-pickle",
    "checkpoint_key": "--checkpoint-key",
    "partial": "--partial",
    "weights_only": "--weights-only",
    "accept": "--accept",
    "new_head": "--new-head",
}
_RECORD = "surgery.json"  # as `saved.folder` has it; to import that takes time that --help has not
FOLDER = PathName()  # what is there is checked by the library


@dataclass(frozen=True)
class Network:
    """Which network, how to build it, and the input to look at it with."""

    spec: str
    args: dict[str, Any]
    input_size: InputSize | None
    input: str | None = None
    trust: bool = False

    @functools.cached_property
    def is_folder(self) -> bool:
        """Whether it is a network that was saved after surgery."""
        return os.path.isfile(os.path.join(self.spec, _RECORD))

    def __post_init__(self) -> None:
        if self.is_folder:
            _refuse_two_meanings(self.spec)
            if self.args:
                raise UsageError(
                    f"{self.spec} is a saved folder, which says how its network is built",
                    "leave --model-arg out",
                )
        for name, value in self.args.items():
            if name in OWN and (name != "pretrained" or value is True):
                raise UsageError(
                    f"{name!r} is not an argument of the network", f"say it by {OWN[name]}"
                )


def _refuse_two_meanings(spec: str) -> None:
    """Refuses a bare word that names a saved folder here and a network of timm's."""
    if os.path.basename(spec) != spec:
        return
    from attnsurgeon.models.timm_names import known_to_timm

    if known_to_timm(spec):
        raise UsageError(
            f"{spec} is a saved folder here, and the name of a network of timm's",
            f"write {os.path.join(os.curdir, spec)} for the folder, timm:{spec} for the other",
        )


@dataclass(frozen=True)
class Selection:
    """What to insert and where, as the user said it.

    Attributes:
        attn, where, rules, init: as options.
        args: the mechanism's arguments.
        narrow: keywords of `Narrowing.of`: `at`, `stage`, `channels`, `every`.
        trust: whether the rules may name code.
    """

    attn: str | None
    where: str | None
    rules: str | None
    args: dict[str, Any]
    init: str
    narrow: dict[str, Any]
    trust: bool = False


json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
print_rules_flag = click.option(
    "--print-rules", is_flag=True, help="Only print a rule file that says the same."
)
trust_option = click.option(
    "--trust-code",
    is_flag=True,
    help="Run the code of your own, or ask the address, that the file names.",
)
init_option = click.option(
    "--init",
    type=click.Choice(["identity", "paper"]),
    default="identity",
    show_default=True,
    help="Start with bit-equal outputs, or as the authors start.",
)


def is_rule_file(where: str | None) -> bool:
    """Whether a `--where` is the name of a file, not of a placement."""
    return where is not None and where.endswith((".yaml", ".yml"))


def network(function: Command) -> Command:
    """MODEL, how to build it, and the input to look at it with: the command gets `asked`."""

    @functools.wraps(function)
    def command(
        *,
        model: str,
        model_args: Pairs,
        input_size: tuple[tuple[int, ...], ...],
        input_file: str | None,
        trust_code: bool,
        **rest: Any,
    ) -> Any:
        asked = chosen_network(model, model_args, input_size, input_file, trust_code)
        where = rest.get("where")  # one, or of an option that takes several each time's
        places = [one for some in where for one in some] if isinstance(where, tuple) else [where]
        files = [rest.get("rules"), *filter(is_rule_file, places)]
        if trust_code and not asked.is_folder and not any(files):
            raise UsageError(
                f"--trust-code is about a saved folder or a rule file, and {model} is neither",
                "leave it out: what you name yourself is run",
            )
        return function(asked=asked, **rest)

    return _building(click.argument("model")(command))


def networks(function: Command) -> Command:
    """Several MODELs, built and looked at alike: the command gets `asked`, a tuple."""

    @functools.wraps(function)
    def command(
        *,
        models: tuple[str, ...],
        model_args: Pairs,
        input_size: tuple[tuple[int, ...], ...],
        input_file: str | None,
        trust_code: bool,
        **rest: Any,
    ) -> Any:
        asked = tuple(
            chosen_network(model, model_args, input_size, input_file, trust_code)
            for model in dict.fromkeys(models)
        )
        files = any(is_rule_file(word) for some in rest.get("where") or () for word in some)
        if trust_code and not files and not any(one.is_folder for one in asked):
            raise UsageError(
                "--trust-code is about a saved folder or a rule file, and there is none",
                "leave it out: what you name yourself is run",
            )
        return function(asked=asked, **rest)

    argument = click.argument("models", nargs=-1, required=True, metavar="MODEL...")
    return _building(argument(command))


def _building(command: Command) -> Command:
    """How networks are built, and the input to look at them with."""
    for decorate in (
        trust_option,
        click.option(
            "--input",
            "input_file",
            metavar="FILE",
            type=PathName(),
            help="Input that is no image, as the forward is called with it: "
            ".pt, .npz, .npy or .safetensors.",
        ),
        click.option(
            "--input-size",
            type=Size(),
            multiple=True,
            help="Input to analyse the network with, channels first. Once for each input.",
        ),
        click.option(
            "--model-arg",
            "model_args",
            type=Pair(),
            multiple=True,
            help="Argument of the network, such as num_classes=10. Repeatable.",
        ),
    ):
        command = decorate(command)
    return command


_NARROWING = (
    click.option("--every", metavar="N", type=int, help="Of these every Nth: 2 for every second."),
    click.option(
        "--channels",
        type=Scalars(),
        help='Of these those of so many channels: 64, ">=128", 64..256.',
    ),
    click.option("--stage", type=Scalars(), help="Of these those of these stages: 4 or -2,-1."),
    click.option(
        "--at",
        metavar="PATH",
        multiple=True,
        help="Of these those at a path, inside a module or of a pattern: layer4.1.bn2, "
        'layer3, "layer[34].*". Repeatable.',
    ),
)


def narrowing(function: Command) -> Command:
    """What narrows a placement: the command gets `narrow`, keywords of `Narrowing.of`."""

    @functools.wraps(function)
    def command(
        *, at: tuple[str, ...], stage: Any, channels: Any, every: int | None, **rest: Any
    ) -> Any:
        narrow = {"at": at, "stage": stage, "channels": channels, "every": every}
        return function(narrow=narrow, **rest)

    for decorate in _NARROWING:
        command = decorate(command)
    return command


def selection(*, required: bool = True) -> Callable[[Command], Command]:
    """What to insert and where: the command gets `chosen`, None where nothing has to be said.

    Below `network`, whose --trust-code is also for what a rule file names.
    """

    def decorator(function: Command) -> Command:
        @functools.wraps(function)
        def command(
            *,
            attn: str | None,
            where: str | None,
            rules: str | None,
            args: Pairs,
            init: str,
            at: tuple[str, ...],
            stage: Any,
            channels: Any,
            every: int | None,
            asked: Network,
            **rest: Any,
        ) -> Any:
            narrow = {"at": at, "stage": stage, "channels": channels, "every": every}
            chosen = chosen_sites(attn, where, rules, args, init, narrow, asked.trust)
            if chosen is None and required:
                raise click.UsageError("say what to insert: --attn NAME, or --rules FILE")
            return function(asked=asked, chosen=chosen, **rest)

        for decorate in (
            init_option,
            click.option(
                "--arg",
                "args",
                type=Pair(),
                multiple=True,
                help="Argument of the mechanism, such as reduction=8. Repeatable. "
                "Of your own also '$C', '$H', '$W', '$stage'.",
            ),
            *_NARROWING,
            click.option("--rules", type=PathName(), help="Rule file that says what goes where."),
            click.option(
                "--where",
                shell_complete=complete_where,
                help="Placement (`attnsurgeon rules list`) or rule file.  "
                "[default: the paper's own]",
            ),
            click.option(
                "--attn",
                shell_complete=complete_attn,
                help="Mechanism (`attnsurgeon attn list`), or your own: FILE.py:CLASS.",
            ),
        ):
            command = decorate(command)
        return command

    return decorator


def chosen_network(
    spec: str,
    model_args: Pairs,
    input_size: tuple[tuple[int, ...], ...],
    input_file: str | None = None,
    trust: bool = False,
) -> Network:
    """Returns the network that the options of `network` name."""
    if input_size and input_file is not None:
        raise click.UsageError("--input-size and --input both say what the input is; give one")
    sizes = (input_size[0] if len(input_size) == 1 else input_size) or None
    return Network(spec, as_mapping(model_args, "--model-arg"), sizes, input_file, trust)


def chosen_sites(
    attn: str | None,
    where: str | None,
    rules: str | None,
    args: Pairs,
    init: str,
    narrow: dict[str, Any],
    trust: bool = False,
) -> Selection | None:
    """Returns what the options of `selection` say, None for nothing; refuses contradictions."""
    if where is not None and rules is not None:
        raise click.UsageError("--where and --rules both say where; give one of them")
    if attn is None and args:
        raise click.UsageError("--arg needs the mechanism it is for: --attn NAME")
    if attn is None and where is None and rules is None:
        said = [f"--{name}" for name, value in narrow.items() if value not in (None, ())]
        if said:
            raise click.UsageError(f"{said[0]} narrows what is chosen: say --attn NAME as well")
        return None
    return Selection(attn, where, rules, as_mapping(args, "--arg"), init, narrow, trust)
