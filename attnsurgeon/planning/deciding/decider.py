"""Requests -> cuts and refusals: asks the kinds one by one, builds, names, keeps the peace."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from attnsurgeon.attention.registry import ACTIONS, Mechanism, build_part, lookup
from attnsurgeon.errors import RuleError
from attnsurgeon.planning.cut import Cut, Refused, Request
from attnsurgeon.planning.deciding import (
    activations,
    convolutions,
    fusions,
    gates,
    heads,
    linked,
    weights,
)
from attnsurgeon.planning.deciding.asked import INSERTIONS, Asked, Draft
from attnsurgeon.planning.deciding.narrow import widened
from attnsurgeon.planning.deciding.operand import Impossible, Value, beside_tokens
from attnsurgeon.planning.deciding.sharing import apart, half_shared, joined, serving
from attnsurgeon.planning.place import noted
from attnsurgeon.sites.survey import Survey

# kind of attention -> who decides about it.
_DECIDES: Mapping[str, Callable[[Asked], Draft]] = MappingProxyType(
    {
        "gate": gates.decide,
        "linked": linked.decide,
        "conv": convolutions.decide,
        "weight": weights.decide,
        "activation": activations.decide,
        "fusion": fusions.decide,
        "head": heads.decide,
    }
)


@dataclass(eq=False)
class Decider:
    """Turns requests into cuts; finds names that are free and hosts that are shared."""

    survey: Survey
    cuts: list[Cut] = field(default_factory=list)
    _names: dict[str, Iterator[str]] = field(default_factory=dict)  # host -> those that are free
    _torn: dict[str, str] = field(default_factory=dict)  # host -> why its runs cannot share
    _parts: dict[Hashable, nn.Module] = field(default_factory=dict)
    _tried: set[Hashable] = field(default_factory=set)

    def add(self, request: Request) -> str | None:
        """Adds the cut of one request; returns the reason where there can be none.

        Raises:
            MechanismError: the mechanism cannot be built for this site.
            RuleError: the action is none for this mechanism, or two rules claim one operation.
        """
        card = lookup(request.attn)
        asked = Asked(request, card, _action(request, card), self.survey, self.cuts)
        try:
            if asked.action not in INSERTIONS:
                self._check_unclaimed(request)
            self._finish(asked, _DECIDES[card.kind](asked))
        except Impossible as reason:
            return str(reason)
        return None

    def half_shared(self) -> list[Refused]:
        """Takes back cuts in hosts that run more often than they serve."""
        self.cuts, refused = half_shared(self.cuts, self._torn)
        return refused

    def check_apart(self) -> None:
        """Refuses attention inside what another rule takes away."""
        for cut in self.cuts:
            for path in cut.removes:
                inside = [c for c in self.cuts if c.place.host.startswith(f"{path}.")]
                if inside:
                    what = f"cannot both be: the one takes {path} away, in which the other works"
                    raise _conflict(cut.rule, inside[0].rule, what)

    def note_lonely(self) -> None:
        """Says of cuts at convolutions where a mechanism's own placement finds next to none."""
        spatial = [s for s in self.survey.sites if "conv" in s.roles and max(s.kernel or (1,)) > 1]
        cut = {site.path for c in self.cuts for site in (c.site, *c.shared)}
        here = [s for s in spatial if s.path in cut and not s.depthwise]
        deep = [s for s in spatial if s.depthwise]
        if len(here) != len(cut) or len(deep) < 3 * len(here):
            return
        note = (
            f"{len(deep)} of {len(spatial)} spatial convolutions are depthwise, which its own "
            "placement leaves out; for such networks there is the placement depthwise"
        )
        self.cuts = [replace(c, place=noted(c.place, note)) for c in self.cuts]

    def _check_unclaimed(self, request: Request) -> None:
        """Refuses two replacements of one operation."""
        for cut in self.cuts:
            if cut.action not in INSERTIONS and request.site in (cut.site, *cut.shared):
                raise _conflict(cut.rule, request.rule, f"both replace {request.site.path}")

    def _finish(self, asked: Asked, draft: Draft) -> None:
        """Adds the cut, or joins it to one that serves another run of the same host."""
        request, card, place, value = asked.request, asked.card, draft.place, draft.value
        facts = {"rank": value.rank, "stage": request.site.stage, **draft.facts}
        args = card.args_at(value.size, request.attn_args, **facts)
        source = draft.conv or value.channels
        build = functools.partial(self._part, card, source, value.rank, request.init)
        args, note = (args, "") if request.again else widened(request, card, args, build)
        place = replace(place, note="; ".join(filter(None, (place.note, note))))
        shared = serving(asked, place)
        if shared is not None:
            if why := apart(self.survey, shared, card, value, args):
                self._torn[place.host] = why
                raise Impossible(why)
            self.cuts[self.cuts.index(shared)] = joined(shared, request)
            return
        part = build(args)
        if card.own:
            self._try(card, value, request.init, args)
        value = beside_tokens(value, card, part, asked.action in INSERTIONS, self.survey.traced)
        self.cuts.append(
            Cut(
                request.site, card, args, request.init, asked.action, request.rule, place,
                self._name(place.host), value.channels, value.rank, value.layout,
                self._params(card, draft, part), size=tuple(value.size),
                tokens=value.tokens, as_map=value.as_map,
                keeps_old=draft.keeps_old, clones=draft.clones, removes=draft.removes,
                scope=draft.scope, chain=draft.chain, link=draft.link, taps=draft.taps,
                tapped=draft.tapped, conv=draft.conv,
            )
        )  # fmt: skip

    def _part(
        self,
        card: Mechanism,
        source: int | nn.Module,
        rank: int,
        init: str,
        args: Mapping[str, Any],
    ) -> nn.Module:
        """The mechanism on meta, for its parameters; built once for sites that are alike."""
        key = (card.name, source, rank, init, repr(sorted(args.items())))
        if key not in self._parts:
            with torch.device("meta"):
                self._parts[key] = build_part(card, source, rank, init, args)
        return self._parts[key]

    def _try(self, card: Mechanism, value: Value, init: str, args: Mapping[str, Any]) -> None:
        """Runs a mechanism of the user's on a map as at the site, where none alike has been run."""
        key = (card.name, value.channels, value.size, init, repr(sorted(args.items())))
        if key not in self._tried:
            build = functools.partial(build_part, card, value.channels, value.rank, init, args)
            card.try_on(build, (value.channels, *value.size))
            self._tried.add(key)

    def _params(self, card: Mechanism, draft: Draft, part: nn.Module) -> int:
        """Parameters that a cut adds: none where its chain has the module, less what goes."""
        tied = card.tied and draft.link > 0
        gone = [self.survey.traced.twin.get_submodule(path) for path in draft.removes]
        return (0 if tied else _parameters(part)) - sum(map(_parameters, gone))

    def _name(self, host: str) -> str:
        """A child name that the host does not use: attn, attn_1, ..."""
        if host not in self._names:  # dir(), not hasattr(): a class may answer for every name
            taken = set(dir(self.survey.traced.twin.get_submodule(host)))
            numbered = itertools.chain(["attn"], (f"attn_{i}" for i in itertools.count(1)))
            self._names[host] = (name for name in numbered if name not in taken)
        return next(self._names[host])


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _conflict(first: str, second: str, what: str) -> RuleError:
    return RuleError(
        f"rules {first!r} and {second!r} {what}",
        "let their matchers exclude each other, with `not` or `nth`",
    )


def _action(request: Request, card: Mechanism) -> str:
    """What is done: what the rule says, if the mechanism's kind can."""
    own = ACTIONS[card.kind][0]
    possible = INSERTIONS if own == "insert-after" else (own,)
    action = request.action or own
    if action not in possible:
        raise RuleError(
            f"rule {request.rule!r}: {card.name} ({card.kind}) cannot {action}",
            f"for {card.name} it is action: {' or '.join(possible)}, or none; a placement that "
            "begins with 'before-' is for what goes in, not for what takes a place",
        )
    return action
