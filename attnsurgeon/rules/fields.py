"""The kinds of values a rule file's keys take: how each is read, written back and described.

Each kind is an annotated type for `schema`; reading goes through `values`, so a wrong value is
refused with a sentence of ours, not with a union of pydantic's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic_core import CoreSchema, core_schema

from attnsurgeon.rules import values
from attnsurgeon.sites.site import LAYOUTS, ROLES

ACTIONS = ("insert-after", "insert-before", "replace", "fuse")
INITS = ("identity", "paper")
SCOPES = ("stage", "network")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, eq=False)  # annotations are compared and hashed: by identity
class _Read:
    """Reads one value with our own sentences, writes it back as it was spelled."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(_write)
        return core_schema.no_info_plain_validator_function(self.read, serialization=writer)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


class _Many:
    """Takes one item or a list of them, of which any may hold."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        writer = core_schema.plain_serializer_function_ser_schema(_write_many)
        items = {**handler(source), "fail_fast": True}  # one wrong item says enough of a list
        return core_schema.no_info_before_validator_function(
            _as_list, cast(CoreSchema, items), serialization=writer
        )

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        many = handler(core)
        return {"anyOf": [many["items"], {**many, "minItems": 1}]}


@dataclass(frozen=True, eq=False)
class OrWord:
    """Takes one word in place of a mapping and reads it as `meaning`."""

    word: str
    meaning: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: self.meaning if value == self.word else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [handler(core), {"const": self.word}]}


def _as_list(value: Any) -> list[Any]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise ValueError("{key} is an empty list, which nothing can pass")
    return items


def _write(value: Any) -> Any:
    return getattr(value, "spelled", value)


def _write_many(items: tuple[Any, ...]) -> Any:
    written = [_write(item) for item in items]
    return written[0] if len(written) == 1 else written


def _one_of(known: tuple[str, ...], noun: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = values.as_text(value)
        if text not in known:
            raise ValueError(f"{{key}}: {text!r} is not {noun}; {values.closest(text, known)}")
        return text

    return read


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{{key}} must be true or false, not {values.kind_of(value)}")
    return value


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{{key}} must be a whole number from 1, not {values.kind_of(value)}")
    return value


def is_id(text: str) -> bool:
    """Tells whether `text` is kebab-case."""
    return _ID.fullmatch(text) is not None


def _read_id(value: Any) -> str:
    text = values.as_text(value)
    if not is_id(text):
        raise ValueError(f"{{key}}: {text!r} is not kebab-case; write it like 'wide-bottlenecks'")
    return text


def _read_version(value: Any) -> int:
    if isinstance(value, bool) or value != 1:
        raise ValueError(
            f"{{key}} must be 1, the version this attnsurgeon reads, not {values.kind_of(value)}"
        )
    return 1


def _read_input_size(value: Any) -> tuple[int, ...]:
    sizes = value if isinstance(value, (list, tuple)) else ()
    if not 1 <= len(sizes) <= 4:
        raise ValueError(
            f"{{key}} must be a list such as [3, 224, 192], not {values.kind_of(value)}"
        )
    return tuple(_read_count(size) for size in sizes)


def _read_args(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{{key}} must be a mapping of names, not {values.kind_of(value)}")
    return dict(value)


@dataclass(frozen=True)
class Attn:
    """A mechanism by name, with its arguments as written; whoever builds it checks them."""

    type: str
    args: Mapping[str, Any]

    @classmethod
    def parse(cls, value: Any) -> Attn:
        """Returns the mechanism that `eca` or `{type: eca, kernel_size: 5}` names.

        Arguments of any name, such as `type`, stand under `args`.
        """
        if not isinstance(value, Mapping):
            return cls(values.as_text(value), {})
        if "type" not in value:
            raise ValueError("{key} needs a 'type', the name of a mechanism: {type: eca}")
        beside = _read_args(value)
        name, args = values.as_text(beside.pop("type")), {}
        if isinstance(beside.get("args"), Mapping):
            args = _read_args(beside.pop("args"))
        if twice := args.keys() & beside.keys():
            raise ValueError(f"{{key}} has {min(twice)!r} twice, beside 'args' and in it")
        return cls(name, {**beside, **args})

    @property
    def spelled(self) -> Any:
        """The mechanism as a rule file writes it."""
        if not {"type", "args"}.isdisjoint(self.args):
            return {"type": self.type, "args": dict(self.args)}
        return {"type": self.type, **self.args} if self.args else self.type


_TEXT = {"type": "string", "minLength": 1}
_POSITIVE = {"type": "integer", "minimum": 1}
_COMPARED = r"^\s*((>=|<=|!=|>|<)?\s*[0-9]+|[0-9]+\s*\.\.\s*[0-9]+)\s*$"
_SIGNED = _COMPARED.replace(r"\s*[0-9]+|", r"\s*-?[0-9]+|")
_NUMBER = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _COMPARED}]}
_STAGE = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": _SIGNED}]}
_SIDES = {"anyOf": [*_NUMBER["anyOf"], {"type": "string", "pattern": "^[0-9]+(x[0-9]+)+$"}]}
_NTH = {"anyOf": [_POSITIVE, _TEXT]}
_ATTN = {"anyOf": [_TEXT, {"type": "object", "properties": {"type": _TEXT}, "required": ["type"]}]}
_INPUT_SIZE = {"type": "array", "items": _POSITIVE, "minItems": 1, "maxItems": 4}

Text = Annotated[str, _Read(values.as_text, _TEXT)]
Flag = Annotated[bool, _Read(_read_flag, {"type": "boolean"})]
Count = Annotated[int, _Read(_read_count, _POSITIVE)]
Id = Annotated[str, _Read(_read_id, {"type": "string", "pattern": f"^{_ID.pattern}$"})]
Version = Annotated[int, _Read(_read_version, {"const": 1})]
Number = Annotated[values.NumberTest, _Read(values.NumberTest.parse, _NUMBER)]
Stage = Annotated[values.NumberTest, _Read(values.NumberTest.parse_signed, _STAGE)]
Positions = Annotated[values.Nth, _Read(values.Nth.parse, _NTH)]
Mechanism = Annotated[Attn, _Read(Attn.parse, _ATTN)]
Action = Annotated[str, _Read(_one_of(ACTIONS, "an action"), {"enum": list(ACTIONS)})]
Init = Annotated[str, _Read(_one_of(INITS, "an init"), {"enum": list(INITS)})]
Scope = Annotated[str, _Read(_one_of(SCOPES, "a scope"), {"enum": list(SCOPES)})]
Args = Annotated[Mapping[str, Any], _Read(_read_args, {"type": "object"})]
InputSize = Annotated[tuple[int, ...], _Read(_read_input_size, _INPUT_SIZE)]
Role = Annotated[str, _Read(_one_of(ROLES, "a site role"), {"enum": list(ROLES)})]
Layout = Annotated[str, _Read(_one_of(LAYOUTS, "a layout"), {"enum": list(LAYOUTS)})]
Glob = Annotated[values.Pattern, _Read(values.Pattern.parse, _TEXT)]
Branch = Annotated[values.BranchPattern, _Read(values.BranchPattern.parse, _TEXT)]
Side = Annotated[values.SidesTest, _Read(values.SidesTest.parse, _SIDES)]

Roles = Annotated[tuple[Role, ...], _Many()]
Layouts = Annotated[tuple[Layout, ...], _Many()]
Patterns = Annotated[tuple[Glob, ...], _Many()]
Branches = Annotated[tuple[Branch, ...], _Many()]
Numbers = Annotated[tuple[Number, ...], _Many()]
Stages = Annotated[tuple[Stage, ...], _Many()]
Sides = Annotated[tuple[Side, ...], _Many()]
Names = Annotated[tuple[Text, ...], _Many()]
