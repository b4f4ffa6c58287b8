"""Mechanisms and placements as users name them -> cells: what each row asks, with its rules."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from attnsurgeon.asked import check_attn, rules_for, spelled
from attnsurgeon.attention.own.card import is_code
from attnsurgeon.attention.own.plugins import plugins
from attnsurgeon.attention.registry import lookup, mechanisms
from attnsurgeon.errors import MechanismError, RuleError, UsageError, nearest
from attnsurgeon.grid.spelling import Spelled, read_attn, split
from attnsurgeon.models.own_attention import Attention, find_attention
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.rules.parse import write_rules
from attnsurgeon.rules.placements import PAPER, shipped_names
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.rules.where import Where

ALL = "all"
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class Cell:
    """One mechanism at one placement, of whatever network.

    Attributes:
        attn: the mechanism as rows name it, `se(reduction=8)`.
        name: of the mechanism.
        args: its arguments.
        place: the placement as rows name it.
        where: the same for `plan_rules`.
        asked: the placement as it was asked for, None for the mechanism's own.
        file: the rules.
        code: sha256 of the file of a mechanism of the user's own.
    """

    attn: str
    name: str
    args: Mapping[str, Any]
    place: str
    where: str
    asked: Where | None
    file: RuleFile
    code: str | None = None

    def record(self) -> list[Any]:
        """Return what tells it from another cell, for a journal.

        Raises:
            UsageError: a Python function says where; nobody can tell it from another.
        """
        if any(rule.match.predicate for rule in self.file.rules):
            raise UsageError(
                f"where={self.place} is a function, which cannot be written down",
                "choose the sites by a matcher or their paths",
            )
        return [self.attn, self.place, write_rules(self.file), self.code]


def cells_of(
    attns: Attention | Iterable[Attention],
    wheres: Where | Sequence[Where | None] | None,
    *,
    init: str = "identity",
    narrow: Narrowing | None = None,
    trust: bool = False,
) -> tuple[Cell, ...]:
    """Return a cell for each mechanism at each placement, mechanisms first; each once.

    Args:
        attns: mechanisms: names, `se(reduction=8)`, wildcards, `all`, several with commas between
            them, or code of the user's own as for `insert`.
        wheres: placements as for `insert`, None for each mechanism's own; a list of strings is
            several placements.
        init, narrow, trust: as for `rules_for`.

    Raises:
        MechanismError, RuleError, UsageError: one of them is unknown, or they contradict.
    """
    found: dict[tuple[str, str], Cell] = {}
    places = _places(wheres)
    for said, attn in _mechanisms(attns):
        for where in places:
            cell = _cell(said, attn, where, init, narrow or Narrowing(), trust)
            found.setdefault((cell.attn, cell.place), cell)
    return tuple(found.values())


def _cell(
    said: Spelled, attn: Attention, where: Where | None, init: str, narrow: Narrowing, trust: bool
) -> Cell:
    file = rules_for(attn, where, None, said.args, init, narrow, trust=trust)
    name, given = find_attention(attn)
    card = lookup(name)
    own = where is None or (isinstance(where, str) and where == PAPER)
    place = spelled(card.placement if own else where, None, narrow)
    called = spelled(None if own else where, None, narrow)
    code = getattr(card, "sha256", None)
    return Cell(said.text, name, {**given, **said.args}, place, called, where, file, code)


def _mechanisms(attns: Attention | Iterable[Attention]) -> Iterator[tuple[Spelled, Attention]]:
    """Yields each mechanism as it was said, and as `insert` takes it."""
    several = isinstance(attns, (list, tuple, set, frozenset, dict))
    listed: list[Any] = list(attns) if several else [attns]
    if not listed:
        raise UsageError("no mechanism is named", "give one: attn='eca', or 'all'")
    for attn in listed:
        if not isinstance(attn, str):
            name, _ = find_attention(attn)
            yield Spelled(name, name), attn
            continue
        for part in split(attn):
            for said in _expanded(read_attn(part)):
                yield said, said.name


def _expanded(said: Spelled) -> Iterator[Spelled]:
    if said.name == ALL:
        yield from (said.called(name) for name in mechanisms())
    elif _WILD & set(said.name) and not is_code(said.name):
        known = [*mechanisms(), *plugins()]
        found = [name for name in known if fnmatchcase(name, said.name)]
        if not found:
            raise MechanismError(
                f"no mechanism is called {said.name!r}", nearest(said.name.strip("*?"), known)
            )
        yield from (said.called(name) for name in found)
    else:
        find_attention(said.name)
        if said.args:  # a slip of the pen is no reason of a row
            check_attn(Attn(said.name, dict(said.args)), said=said.name)
        yield said


def _places(wheres: Where | Sequence[Where | None] | None) -> list[Where | None]:
    if wheres is None:
        return [None]
    several = isinstance(wheres, (list, tuple))
    listed: list[Any] = list(wheres) if several else [wheres]  # pyright: ignore
    if not listed:
        raise RuleError("no placement is named", "leave where= out for each paper's own")
    found: list[Where | None] = []
    for where in listed:
        found += _named(where) if isinstance(where, str) else [where]
    return found


def _named(where: str) -> list[Where | None]:
    """Returns the placements of a text: with commas between them, with wildcards."""
    if os.path.exists(where):
        return [where]
    found: list[Where | None] = []
    for part in split(where):
        if not part:
            raise RuleError(f"{where!r} has an empty part", "write placements as stage,bottleneck")
        if not _WILD & set(part):
            found.append(part)
            continue
        names = [name for name in (*shipped_names(), PAPER) if fnmatchcase(name, part)]
        if not names:
            raise RuleError(
                f"no placement is called {part!r}", nearest(part.strip("*?"), shipped_names())
            )
        found += names
    return found
