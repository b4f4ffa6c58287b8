"""The values of a plan: what a rule asks for at a site, the cut that it becomes, the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from torch import nn

from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.planning.place import Place
from attnsurgeon.shown import brief
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.tokens import Tokens

# How a value gets to an attention: by its layout, where "NCL" is a row of tokens, made a map of one
# column, and LINE a map of rank 1, left as it is; or of tokens that are brought into their map,
# by its sides and the numbers of tokens before it and after it.
LINE = "line"
Way = Union[str, tuple[tuple[int, ...], int, int]]  # noqa: UP007 -- evaluated by Python 3.10


@dataclass(frozen=True)
class Request:
    """One site that a rule matched, and what the rule wants there.

    Attributes:
        rule: id of the rule.
        site: where.
        attn, attn_args, init: what, and how it starts.
        action: what is done there, or "" for what the mechanism's kind asks for.
        scope: of linked attention, what forms a chain: "stage", "network", or "" for its card's.
        again: it repeats a recorded cut, with the arguments that were decided then.
    """

    rule: str
    site: Site
    attn: str
    attn_args: Mapping[str, Any]
    action: str
    init: str
    scope: str = ""
    again: bool = False

    @classmethod
    def repeating(cls, record: Mapping[str, Any], site: Site) -> Request:
        """Returns the request that a recorded cut (`Cut.record`) was made for."""
        kept = {name: record[name] for name in ("rule", "attn", "action", "init")}
        scope = record.get("scope", "")
        return cls(site=site, attn_args=record["args"], scope=scope, again=True, **kept)


@dataclass(frozen=True, repr=False)
class Cut:
    """One attention module that goes into the network.

    Attributes:
        site: where.
        card, attn_args, init: what, and how it starts.
        action: "insert-after", "insert-before", "replace" or "fuse".
        rule: id of the rule that asked for it.
        place: how the network is cut.
        name: the child's name in `place.host`.
        channels, rank, layout, size: of the value that the module is given.
        params: parameters it adds, those that it takes away taken off.
        shared: further sites served by the same module (its host runs several times).
        keeps_old: what was there before goes on being computed and is handed to the module.
        clones: it changed its input in place, so that it has to work on a copy.
        removes: paths of the modules whose parameters go: what was replaced, and its norm.
        scope, chain, link: of linked attention: what forms a chain, its name, the place in it.
        taps: where a head's further values are tapped.
        tapped: their layouts.
        tokens: of a value of tokens, how these stand, where it is known.
        as_map: tokens are brought into their map, and those of no position pass by; else these
            are gated like the others, and left out of what is pooled.
        conv: of what works on a convolution, that convolution in the recorded twin.
    """

    site: Site
    card: Mechanism
    attn_args: Mapping[str, Any]
    init: str
    action: str
    rule: str
    place: Place
    name: str
    channels: int
    rank: int
    layout: str
    params: int
    shared: tuple[Site, ...] = ()
    keeps_old: bool = False
    clones: bool = False
    removes: tuple[str, ...] = ()
    scope: str = ""
    chain: str = ""
    link: int = 0
    taps: tuple[Place, ...] = ()
    tapped: tuple[str, ...] = ()
    size: tuple[int, ...] = ()
    tokens: Tokens | None = None
    as_map: bool = False
    conv: nn.Module | None = None

    def __repr__(self) -> str:
        what = f"{self.attn} at {self.module_path}, {self.channels} channels"
        return brief(self, f"{self.site.path}: {what}, params {self.params:+,}")

    @property
    def attn(self) -> str:
        """The mechanism's name."""
        return self.card.name

    @property
    def resolution(self) -> tuple[int, ...]:
        """The resolution at the site; before an operation, that of what enters it."""
        return self.size if self.action == "insert-before" else self.site.resolution or ()

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The resolutions that the module sees in one forward, each once; of several runs before
        an operation only that of the first is known.
        """
        if self.action == "insert-before":
            return (self.size,)
        seen = (site.resolution for site in (self.site, *self.shared))
        return tuple(dict.fromkeys(size for size in seen if size is not None))

    @property
    def module_path(self) -> str:
        """The path of the inserted module in the operated network."""
        return f"{self.place.host}.{self.name}" if self.place.host else self.name

    @property
    def weighed(self) -> tuple[str, ...]:
        """Paths of the modules whose cost changes: the new one, or those that it works in."""
        within = self.place.technique == "takeover" or self.place.edit == "excite"
        return tuple(dict.fromkeys((self.place.host, *self.removes))) if within else (
            self.module_path,
        )  # fmt: skip

    @property
    def way(self) -> Way:
        """How the value gets to the attention and back."""
        if self.tokens is None or not self.as_map:
            return LINE if (self.layout, self.rank) == ("NCL", 1) else self.layout
        return self.tokens.sides, self.tokens.before, self.tokens.after

    def record(self) -> dict[str, Any]:
        """The cut as plain values."""
        return {
            "path": self.site.path,
            "channels": self.channels,
            "resolution": list(self.resolution),
            "layout": self.layout,
            "rank": self.rank,
            "beside": self.tokens.beside if self.tokens else 0,
            "module_path": self.module_path,
            "params": self.params,
            "attn": self.attn,
            "args": dict(self.attn_args),
            "init": self.init,
            "action": self.action,
            "rule": self.rule,
            "technique": self.place.technique,
            "shared": [site.path for site in self.shared],
            "replaced": list(self.removes),
            "scope": self.scope,
            "chain": self.chain,
            "note": self.place.note,
        }


@dataclass(frozen=True, repr=False)
class Refused:
    """A matched site that cannot be operated, and why."""

    site: Site
    rule: str
    reason: str

    def __repr__(self) -> str:
        return brief(self, f"{self.site.path}: {self.reason}")
