"""A class, a factory or a function of the user's -> the card of a mechanism."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from attnsurgeon.attention.identity import Identity
from attnsurgeon.attention.own.applied import Applied, AppliedPair, Function, blended
from attnsurgeon.attention.own.signature import (
    OF_THE_MAP,
    REQUIRED,
    facts_of_site,
    following,
    parameters_of,
    resolved,
    takes_any,
)
from attnsurgeon.attention.own.trial import quoted, try_out
from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.errors import MechanismError, nearest

_PLACEMENTS = {"gate": "residual-branch", "fusion": "residual-add"}
_OLD = {"gate": "x", "fusion": "branch + shortcut"}
# What a forward may want beside its map, and is no second map.
_NO_MAPS = frozenset(
    ("mask", "attn_mask", "key_padding_mask", "h", "w", "H", "W", "hw", "size", "pos", "pos_embed",
     "k", "v", "key", "value", "context", "t", "temb")
)  # fmt: skip
_BUILD = "name the class, or a function of the channels that returns the module"


@dataclass(frozen=True)
class Own(Mechanism):
    """The card of a mechanism that is code of the user's.

    Attributes:
        file: where the code stands, as it was named; "" where it is in no file.
        sha256: of that file when it was read.
    """

    file: str = ""
    sha256: str | None = None

    @property
    def args(self) -> Mapping[str, Any]:
        """Argument name -> default; of those that follow from the site the word, such as `$C`."""
        known = {name: p.default for name, p in self._parameters().items()}
        return {**known, **self.found}

    @property
    def found(self) -> Mapping[str, str]:
        """The arguments that follow from the site, each with its word."""
        return {} if _is_function(self.build) else following(parameters_of(self.build))

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those that arguments are for: of a function of tensors those with a default."""
        known = parameters_of(self.build)
        if not _is_function(self.build):
            return known
        return {name: p for name, p in known.items() if p.default is not REQUIRED}

    @property
    def own(self) -> bool:
        """That it is the user's."""
        return True

    def args_at(
        self, size: tuple[int, ...], given: Mapping[str, Any], **facts: Any
    ) -> dict[str, Any]:
        """Returns the given arguments, and those that follow from the site's sides and stage.

        The channels are known to whoever builds it, so they stay the word `$C`.
        """
        self._check_names(given)
        here = facts_of_site(size, facts.get("stage"))
        wanted = {name: word for name, word in self.found.items() if word in here} | dict(given)
        known = self._parameters()
        args: dict[str, Any] = {}
        for name, value in wanted.items():
            optional = name not in given and known[name].default is not REQUIRED
            if optional and here[value] is None:
                continue  # what is not known here keeps its default
            args[name] = self._resolved(value, here, name)
        return args

    def make(self, source: int | nn.Module, rank: int, args: Mapping[str, Any]) -> nn.Module:
        """Builds the module of a map with `source` channels.

        Raises:
            MechanismError: an argument is unknown or missing, or the constructor raises.
        """
        self._check_names(args)
        kind = AppliedPair if self.kind == "fusion" else Applied
        if _is_function(self.build):
            full = {n: self._resolved(v, {"$C": source, "$rank": rank}, n) for n, v in args.items()}
            return kind(Function(self.build, full), self.name)
        known = self._parameters()
        full = {name: word for name, word in self.found.items() if word in ("$C", "$rank")}
        full = {n: self._resolved(v, {"$C": source, "$rank": rank}, n)
                for n, v in (full | dict(args)).items()}  # fmt: skip
        missing = [n for n, p in known.items() if p.default is REQUIRED and n not in full]
        if missing:
            raise self._missing(missing[0])
        try:
            made = self._built(full, known)
        except MechanismError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's constructor may raise anything
            said = ", ".join(f"{name}={value!r}"[:60] for name, value in full.items())
            raise MechanismError(
                f"{self.name} cannot be built with {said or 'no arguments'}: {quoted(error)}",
                f"its arguments are {', '.join(known)}" if known else None,
            ) from error
        if not isinstance(made, nn.Module):
            raise MechanismError(
                f"{self.name} returned a value of type {type(made).__name__}, not an nn.Module",
                _BUILD,
            )
        if any(nn.parameter.is_lazy(t) for t in (*made.parameters(), *made.buffers())):
            raise MechanismError(
                f"{self.name} has layers whose sizes are not known before the first forward",
                "build them from the channels that its constructor is given",
            )
        return kind(made, self.name)

    def _built(self, full: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> Any:
        """Calls the constructor; on meta, where it looks at values, on the CPU."""
        try:
            return self._call(full, known)
        except (Exception, SystemExit):  # a stranger's constructor; the CPU decides
            if torch.get_default_device().type != "meta":
                raise
        with torch.device("cpu"):
            made = self._call(full, known)
        return made.to("meta") if isinstance(made, nn.Module) else made

    def _call(self, full: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> Any:
        ahead = [n for n, p in known.items() if p.kind is p.POSITIONAL_ONLY and n in full]
        named = {name: value for name, value in full.items() if name not in ahead}
        return self.build(*(full[name] for name in ahead), **named)

    def try_on(self, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        """Runs a fresh module on a map of a site's shape, without the batch; see `try_out`."""
        values = 2 if self.kind == "fusion" else 1
        try_out(self.name, build, shape, values, also_larger=self.resolution_free)

    def params(self, channels: int | nn.Module, *, rank: int = 2, **args: Any) -> int:
        """Returns the number of parameters under init="paper", counted on the meta device."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.make(channels, rank, args).parameters())

    def check_args(self, given: Mapping[str, Any]) -> None:
        """Refuses arguments that no site could make good: unknown ones, missing ones.

        Raises:
            MechanismError: saying which, and how to give it.
        """
        self._check_names(given)
        for name, value in given.items():
            self._resolved(value, {}, name)
        if _is_function(self.build):
            return
        for name, parameter in self._parameters().items():
            if parameter.default is REQUIRED and name not in {**self.found, **given}:
                raise self._missing(name)

    def _check_names(self, given: Mapping[str, Any]) -> None:
        known = self._parameters()
        for name in given:
            if name not in known and not takes_any(self.build):
                hint = nearest(name, known) if known else "it takes no arguments"
                raise MechanismError(f"{self.name}: there is no argument {name!r}", hint)

    def _resolved(self, value: Any, facts: Mapping[str, Any], name: str) -> Any:
        try:
            return resolved(value, facts, name)
        except MechanismError as error:
            raise MechanismError(
                f"{self.name}: {error.what}", error.hint, command=error.command
            ) from error

    def _missing(self, name: str) -> MechanismError:
        return MechanismError(
            f"{self.name} needs {name!r}, and what that is does not follow from its name",
            f"give {name} among its arguments: a value, or '$C', '$H', '$W', '$stage' for what it"
            " is at the site",
            command=f"give it: --arg {name}=8; or --arg {name}='$C', '$H', '$W', '$stage' for what"
            " it is at the site",
        )


def own_card(name: str, thing: Any, *, file: str = "", sha256: str | None = None) -> Own:
    """Returns the card of the user's code.

    Args:
        name: of the mechanism: what was typed, or `module:Class`.
        thing: a class of modules, a function of the channels that returns a module, or a function
            of tensors.
        file, sha256: as of `Own`.

    Raises:
        MechanismError: it is nothing of the kind, or its forward takes what it cannot be given.
    """
    values = _values_taken(name, thing)
    kind = "gate" if values == 1 else "fusion"
    old = _OLD[kind]
    identity = Identity(
        "blend", f"y = old + g * (new - old), learnable g = 0; old is {old}", blended
    )
    found = {} if _is_function(thing) else following(parameters_of(thing))
    return Own(
        name=name,
        title=_title(thing),
        kind=kind,
        build=thing,
        ranks=(1, 2, 3),
        paper="",
        venue="",
        equation="",
        placement=_PLACEMENTS[kind],
        formula="as built",
        count=lambda: 0,
        identity=identity.form,
        identity_how=identity.how,
        start=identity.start,
        resolution_free=not any(word in OF_THE_MAP for word in found.values()),
        file=file,
        sha256=sha256,
    )


def is_code(name: str) -> bool:
    """Tells whether a mechanism's name is one of code: a file or a module, and what is in it."""
    return ":" in name or name.endswith(".py")


def recorded(cards: Iterable[Mechanism]) -> list[dict[str, Any]]:
    """Returns what a record keeps of mechanisms that are code: name and sha256 of the file."""
    own = {card.name: card for card in cards if isinstance(card, Own) and is_code(card.name)}
    return [
        {"name": card.name, "file": PurePath(card.file).name, "sha256": card.sha256}
        for card in own.values()
    ]


def _title(thing: Any) -> str:
    lines = (inspect.getdoc(thing) or "").strip().splitlines()
    inherited = inspect.isclass(thing) and not thing.__doc__
    return lines[0].strip().rstrip(".") if lines and not inherited else "your own"


def _values_taken(name: str, thing: Any) -> int:
    """Returns how many maps the forward takes, one or two."""
    if isinstance(thing, nn.Module):
        raise MechanismError(
            f"{name} is a module already built, so its channels are fixed, and it would be one and"
            " the same at every site",
            _BUILD,
        )
    if inspect.isclass(thing):
        if not issubclass(thing, nn.Module):
            raise MechanismError(f"{name} is a class, but not one of nn.Module", _BUILD)
        if thing.forward is nn.Module.forward:
            raise MechanismError(f"{name} has no forward", "define forward(self, x)")
        return _arity(name, thing.forward, skip=1)
    if not callable(thing):
        raise MechanismError(
            f"{name} is of type {type(thing).__name__}, not attention that can be built", _BUILD
        )
    return _arity(name, thing, skip=0) if _is_function(thing) else 1


def _arity(name: str, forward: Callable[..., Any], *, skip: int) -> int:
    try:
        found = list(inspect.signature(forward).parameters.values())[skip:]
    except (TypeError, ValueError):
        return 1
    named_only = [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in found if p.kind in positional and p.default is p.empty]
    rest = any(p.kind is p.VAR_POSITIONAL or p.kind in positional for p in found)
    if named_only or len(needed) > 2 or not rest or _NO_MAPS.intersection(needed[1:]):
        wants = ", ".join([*needed, *named_only]) or "nothing"
        raise MechanismError(
            f"the forward of {name} takes {wants}",
            "it is given one map; or the branch and the shortcut of an addition, whose place it"
            " then takes",
        )
    return 2 if len(needed) == 2 else 1


def _is_function(thing: Any) -> bool:
    """Tells a function of tensors from a function that builds modules."""
    if inspect.isclass(thing):
        return False
    try:
        hints = get_type_hints(thing)
    except (TypeError, NameError, AttributeError):  # annotations that cannot be evaluated
        hints = {}
    if "return" in hints:
        made = hints["return"]
        if made is Tensor or (inspect.isclass(made) and issubclass(made, nn.Module)):
            return made is Tensor
    parameters = parameters_of(thing)
    if any(word in ("$C", *OF_THE_MAP) for word in following(parameters).values()):
        return False
    needed = [p for p in parameters.values() if p.default is REQUIRED]
    return bool(needed) and hints.get(needed[0].name, Tensor) is Tensor
