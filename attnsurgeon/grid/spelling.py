"""`se(reduction=8)` -> a mechanism and its arguments. Literals only: nothing is evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from attnsurgeon.errors import UsageError

_CALL = re.compile(r"\s*(?P<name>[^()]+?)\s*\((?P<args>.*)\)\s*", re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"
_SITE = re.compile(r"(?<![\w'\"$])\$(C|H|W|stage)\b")  # what a mechanism of one's own may be told
# As --arg reads them, and as Python spells them.
_WORDS = {"true": True, "false": False, "null": None}
_MOST = 10_000  # characters; a longer text is no list of arguments


@dataclass(frozen=True)
class Spelled:
    """A mechanism as it was asked for.

    Attributes:
        text: in one form, `se(reduction=8)`.
        name: of the mechanism, perhaps with wildcards.
        args: by name.
    """

    text: str
    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def called(self, name: str) -> Spelled:
        """Return the same arguments with another name, for one that a wildcard stood for."""
        return Spelled(spelled(name, self.args), name, self.args)


def spelled(name: str, args: dict[str, Any]) -> str:
    """Return `se(reduction=8)`, or the name alone where there are no arguments."""
    said = ", ".join(f"{key}={value!r}" for key, value in args.items())
    return f"{name}({said})" if said else name


def read_attn(text: str) -> Spelled:
    """Read `se`, `se(reduction=8)` or `my.py:Attention(groups=4, mode='sum')`.

    Values are numbers, texts, truth values and lists of these; a word without quotes is a text.

    Raises:
        UsageError: it is not of that form.
    """
    if len(text) > _MOST:
        raise UsageError(f"{text[:40]!r}... is too long for a mechanism and its arguments")
    call = _CALL.fullmatch(text)
    if call is None:
        if "(" in text or ")" in text:
            raise _not_a_call(text, "a bracket is left open")
        if not text.strip():
            raise UsageError("the name of a mechanism is empty", "`attnsurgeon attn list` has them")
        return Spelled(text.strip(), text.strip())
    args = dict(_arguments(text, _SITE.sub(r"'$\1'", call["args"])))
    return Spelled(spelled(call["name"], args), call["name"], args)


def _arguments(text: str, inside: str) -> Iterator[tuple[str, Any]]:
    try:
        call = ast.parse(f"f({inside}\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _not_a_call(text, "it cannot be read") from error
    # What closes the bracket early would leave something else than this one call.
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _not_a_call(text, "it is more than one call")
    if call.args:
        raise _not_a_call(text, f"{ast.unparse(call.args[0])!r} has no name")
    seen: set[str] = set()
    for argument in call.keywords:
        if argument.arg is None:
            raise _not_a_call(text, f"'**{ast.unparse(argument.value)}' is no argument")
        if argument.arg in seen:
            raise _not_a_call(text, f"{argument.arg} is given twice")
        seen.add(argument.arg)
        yield argument.arg, _value(text, argument.value)


def _value(text: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return _WORDS.get(node.id, node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(text, one) for one in node.elts]
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = node
    if value is not None and not isinstance(value, (int, float, str)):
        raise _not_a_call(text, f"{ast.unparse(node)!r} is no number, text, truth value or list")
    return value


def _not_a_call(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r}: {why}", "write a mechanism as se(reduction=8, bias=true)")


def split(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and quotes; parts are stripped."""
    parts, depth, quote, begun = [], 0, "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[at - 1] != "\\" else quote
        elif letter in "'\"" and depth:
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            parts.append(text[begun:at].strip())
            begun = at + 1
    return [*parts, text[begun:].strip()]
