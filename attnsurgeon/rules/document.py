"""YAML text -> a tree of plain values that knows the line and column of everything.

Read from parser events, not with a YAML constructor: no tag is ever built, an alias is counted
before it is expanded, a key written twice is seen, and scalars follow YAML 1.2: only `true` and
`false` are booleans (`on`, `off`, `yes` and `no` are words), `010` is ten, `1e-4` is a number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from attnsurgeon.errors import RuleError

MAX_BYTES = 1_000_000
MAX_NODES = 10_000  # the largest shipped file has two hundred
MAX_DEPTH = 50

# libyaml's parser gives the same events about ten times faster; it is not in every PyYAML build.
LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}

_HINTS = {
    ">": 'quote a comparison: ">=128"',
    "|": "quote text that starts with '|'",
    "*": "quote a glob that starts with '*': \"*.bn2\"",
    "&": "quote text that starts with '&'",
    "\t": "a tab cannot indent YAML; use spaces",
    "[": 'quote a glob that has brackets inside a list: ["layer[34].*"]',
    "%": "quote text that starts with '%'",
    "@": "quote text that starts with '@'",
    "`": "quote text that starts with '`'",
}


@dataclass
class Node:
    """A value of the document and where it stands (both counted from 1).

    Attributes:
        data: the value as plain Python.
        line, column: of its first character.
        children: the nodes below it, by key or index.
        keys: (line, column) of every key of a mapping.
        size: nodes from here down, aliases counted as often as they are used.
    """

    data: Any
    line: int
    column: int
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1


def read_document(text: str, *, source: str, loader: type | None = None) -> Node:
    """Returns the one document of `text`, or raises a `RuleError` that says where it is broken.

    Args:
        text: the YAML.
        source: the file's name, for the error.
        loader: the parser; default: the fastest that PyYAML has here. That one looks 1000 brackets
            ahead of its events and has a limit of its own there.
    """
    loader = loader or LOADER
    text = text.removeprefix("\ufeff")
    _refuse_unreadable(text, source)
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error.problem) and loader is not yaml.SafeLoader:
            return read_document(text, source=source, loader=yaml.SafeLoader)  # it says where
        raise _broken(error, text, source) from None
    if builder.root is None:
        raise RuleError(f"{source}:1:1: the file is empty", "`attnsurgeon rules new` writes one")
    return builder.root


def decode(raw: bytes, *, source: str) -> str:
    """Returns the bytes of a rule file as text; refuses what is too long or not UTF-8."""
    if len(raw) > MAX_BYTES:
        raise RuleError(f"{source}: longer than {MAX_BYTES:,} bytes; this is not a rule file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        place = f"{source}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise RuleError(
            f"{place}: byte 0x{raw[error.start]:02x} is not UTF-8", "save the file as UTF-8"
        ) from None


def shortened(text: str, at_most: int = 400) -> str:
    """Returns text that quotes a file, cut where it becomes too long for an error or a table."""
    return text if len(text) <= at_most else f"{text[:at_most]}..."


def write_document(data: Any) -> str:
    """Returns plain values as YAML text, keys in their own order."""
    return yaml.dump(data, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=100)


class _Writer(yaml.SafeDumper):
    """Writes for YAML 1.2: quotes text that PyYAML's own rules leave bare, such as `1e-4`.

    Where text holds the rarer line breaks, only double quotes escape them.
    """


def _write_text(writer: _Writer, text: str) -> yaml.ScalarNode:
    style = None if isinstance(_bare(text), str) else "'"
    if not {"\x85", "\u2028", "\u2029"}.isdisjoint(text):
        style = '"'
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _write_text)


def _refuse_unreadable(text: str, source: str) -> None:
    """Refuses characters that YAML does not allow; the two parsers word and place this apart."""
    bad = re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise RuleError(
            f"{source}:{line}:{column}: character U+{ord(bad[0]):04X} is not allowed in YAML"
        )


def _broken(error: yaml.MarkedYAMLError, text: str, source: str) -> RuleError:
    """Words a syntax error, with the usual cause by the character where it began."""
    mark, start = error.problem_mark or error.context_mark, error.context_mark
    lines = text.splitlines()
    hint = None
    for place in (mark, start):
        if place and place.line < len(lines) and place.column < len(lines[place.line]):
            hint = hint or _HINTS.get(lines[place.line][place.column])
    where = f"{source}:{mark.line + 1}:{mark.column + 1}: " if mark else f"{source}: "
    problem = f"{error.context}: {error.problem}" if error.context else error.problem
    return RuleError(f"{where}not YAML: {problem}", hint)


class _Builder:
    """Builds the tree from parser events, refusing on the way what a rule file never needs."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.root: Node | None = None
        self.open: list[Node] = []
        self.pending: list[tuple[str, int, int] | None] = []  # the key that waits for its value
        self.anchors: dict[str, Node] = {}
        self.total = 0

    def take(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent() if self.root is not None:
                raise self.refusal(event, "a second document starts here; write one to a file")
            case yaml.AliasEvent():
                self.place(event, self.shared(event))
            case yaml.ScalarEvent():
                self.place(event, self.node(event, _plain(event)))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self.start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self.pending.pop()
                self.finish(self.open.pop())

    def refusal(self, event: Any, what: str, hint: str | None = None) -> RuleError:
        mark = event.start_mark
        place = f"{self.source}:{mark.line + 1}:{mark.column + 1}"
        return RuleError(f"{place}: {shortened(what)}", hint)

    def node(self, event: Any, data: Any) -> Node:
        if event.tag is not None:
            raise self.refusal(
                event,
                f"the YAML tag {event.tag!r} is not read in a rule file",
                "quote text that starts with '!': \"!=3\"",
            )
        node = Node(data, event.start_mark.line + 1, event.start_mark.column + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def shared(self, event: Any) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            hint = "quote text that starts with '*'"
            raise self.refusal(event, f"nothing is anchored as '&{event.anchor}'", hint)
        if any(node is parent for parent in self.open):
            raise self.refusal(event, f"'*{event.anchor}' contains itself")
        return node

    def start(self, event: Any) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise self.refusal(event, f"nested more than {MAX_DEPTH} levels deep")
        node = self.node(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
        self.place(event, node)
        self.open.append(node)
        self.pending.append(None)

    def place(self, event: Any, node: Node) -> None:
        """Puts a node where the document is now: as the root, an item, a key or a value."""
        self.total += node.size
        if self.total > MAX_NODES:
            hint = "`define` names a matcher that several rules use"
            raise self.refusal(event, f"more than {MAX_NODES:,} values, aliases expanded", hint)
        if not self.open:
            self.root = node
        elif isinstance(self.open[-1].data, list):
            parent = self.open[-1]
            parent.children[len(parent.children)] = node
        elif self.pending[-1] is None:
            self.pending[-1] = self.key(event, node)
        else:
            name, line, column = self.pending[-1]
            self.open[-1].children[name] = node
            self.open[-1].keys[name] = (line, column)
            self.pending[-1] = None

    def key(self, event: Any, node: Node) -> tuple[str, int, int]:
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise self.refusal(event, "a key must be a word")
        # Keys are always text: `1:` or `true:` names something, it does not count or decide.
        name, line, column = event.value, event.start_mark.line + 1, event.start_mark.column + 1
        if name in self.open[-1].keys:
            first = self.open[-1].keys[name][0]
            raise self.refusal(event, f"{name!r} is written twice; the first is in line {first}")
        return name, line, column

    def finish(self, node: Node) -> None:
        """Fills in the plain value and the size; a parent adds only what its child had not yet."""
        values = {key: child.data for key, child in node.children.items()}
        if isinstance(node.data, list):
            node.data.extend(values.values())
        else:
            node.data.update(values)
        node.size = 1 + len(node.keys) + sum(child.size for child in node.children.values())


def _plain(event: Any) -> Any:
    """Returns a scalar's value; quoted and block text stays text."""
    return _bare(event.value) if event.implicit[0] else event.value


def _bare(text: str) -> Any:
    """Returns what text without quotes means by the YAML 1.2 core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text
