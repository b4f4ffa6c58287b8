"""What a cut is: where an attention module goes in and by which technique, or why none can."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from attnsurgeon.forwards.retype import original_class
from attnsurgeon.recording.record import Call, Key
from attnsurgeon.shown import brief


@dataclass(frozen=True, repr=False)
class Place:
    """Where in the network an attention module goes in.

    Attributes:
        technique: "retype", "output-hook", "input-hook" or "takeover".
        host: path of the module that gets the attention as a child.
        key: the operation of the host's forward ("retype" only).
        before: it goes in before that operation instead of after it.
        operand: of those that go in before, which of the operation's inputs it is for.
        calls: how often the host runs in one forward; the attention is shared by them.
        note: what the user should know about this cut, or "".
        edit: what is done to that operation ("retype" only): "insert", "replace" it, "fuse" its
            two terms, or "excite" its weight.
        others: further values of the host's forward that the attention is handed.
        second: of a fusion, which of the operation's arguments is the shortcut: 0 or 1.
        moved: it goes behind a module that rebuilds itself, and the value is inside.
        copies: of a tap, the value is changed in place afterwards, so that a copy is kept.
    """

    technique: str
    host: str
    key: Key | None
    before: bool
    calls: int
    note: str = ""
    edit: str = "insert"
    others: tuple[Key, ...] = ()
    second: int = 1
    moved: bool = False
    copies: bool = False
    operand: int = 0

    def __repr__(self) -> str:
        where = f", {self.edit} at {self.key[1]}" if self.key is not None else ""
        return brief(self, f"{self.host or '(root)'}: {self.technique}{where}")


@dataclass(frozen=True)
class Refusal:
    """Why something cannot be done at a site."""

    reason: str


def class_name(module: nn.Module) -> str:
    """The name of a module's class, that of the original where it has been rewritten."""
    return original_class(module).__name__


def where(call: Call) -> str:
    """How reasons call a module: its path and its class."""
    return f"{call.path or 'the network itself'} ({class_name(call.module)})"


def noted(place: Place, note: str) -> Place:
    """The place, with one more note."""
    return replace(place, note="; ".join(filter(None, [note, place.note])))
