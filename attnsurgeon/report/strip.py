"""The course of a forward -> the strip: parts as wide as their MACs, what went in as pins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report import words
from attnsurgeon.report.streams import UNICODE

_NAMED_WIDE, _NAMED_NARROW = 9.0, 24.0  # percent of the width that a name takes, screen and phone


@dataclass(frozen=True)
class Pin:
    """Where a module stands in its part.

    Attributes:
        at: percent of the part's work that is done by then.
        hue: number of the mechanism's colour.
        name: path of the site, and what stands there.
    """

    at: float
    hue: int
    name: str


@dataclass(frozen=True)
class Block:
    """A part of the strip.

    Attributes:
        kind: "stem", "stage", "neck", "decoder" or "head".
        name: "stage 2".
        until: path of its last value, and its size, or "".
        macs: spent in it; `share` the same in percent of all.
        room: where its name fits: "everywhere", "wide" or "nowhere".
        pins: what stands in it.
    """

    kind: str
    name: str
    until: str
    size: str
    macs: int
    share: float
    room: str
    pins: tuple[Pin, ...]


def strip(
    network: Mapping[str, Any], sites: Sequence[Mapping[str, Any]], hues: Mapping[str, int]
) -> list[Block]:
    """Returns the parts of a network in order.

    Args:
        network: `cost.course.Course` as plain values.
        sites: that got something.
        hues: mechanism -> number of its colour.
    """
    total = sum(part["macs"] for part in network["parts"])
    names = _names(network["parts"])
    blocks, start = [], 0
    for number, (part, name) in enumerate(zip(network["parts"], names, strict=True)):
        end = start + part["macs"]
        last = number == len(names) - 1
        here = [s for s in sites if _is_in(network["at"].get(s["path"]), start, end, number, last)]
        pins = tuple(
            Pin(
                100 * (network["at"][site["path"]] - start) / part["macs"] if part["macs"] else 50,
                hues.get(site["attn"], 7),
                f"{site['path']}: {site['attn']}",
            )
            for site in here
        )
        share = 100 * part["macs"] / total if total else 0.0
        room = "wide" if share >= _NAMED_WIDE else "nowhere"
        room = "everywhere" if share >= _NAMED_NARROW else room
        size = [words.count(part["channels"])] if part["channels"] else []
        size += [words.size(part["resolution"], UNICODE.times)] if part["resolution"] else []
        blocks.append(Block(_kind(part), name, part["path"], f" {UNICODE.times} ".join(size),
                            part["macs"], share, room, pins))  # fmt: skip
        start = end
    return blocks


def _is_in(at: int | None, start: int, end: int, number: int, last: bool) -> bool:
    """Whether a site is in a part: it belongs to the part that its value ends, or lies in."""
    if at is None:
        return False
    return start < at <= end or (at == 0 and number == 0) or (last and at > end)


def _kind(part: Mapping[str, Any]) -> str:
    if part["part"] in ("neck", "decoder"):
        return part["part"]
    if part["part"] == "output":
        return "head"
    return "stem" if list(part["roles"]) == ["stem"] else "stage"


def _names(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = [_kind(part) for part in parts]
    seen: dict[str, int] = {}
    names = []
    for part, kind in zip(parts, kinds, strict=True):
        seen[kind] = seen.get(kind, 0) + 1
        if kind == "stage" and part["stage"]:
            names.append(f"stage {part['stage']}")
        elif kinds.count(kind) > 1:
            names.append(f"{kind} {seen[kind]}")
        else:
            names.append(kind)
    return names
