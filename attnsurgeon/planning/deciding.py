"""Request -> Cut or the reason why not: what each kind of attention needs at its site."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from attnsurgeon.attention.registry import ACTIONS, Mechanism, create_part, lookup
from attnsurgeon.errors import RuleError
from attnsurgeon.planning.cut import Cut, Refused, Request
from attnsurgeon.planning.cutter import Cutter, input_of
from attnsurgeon.planning.operand import Impossible, Value, beside_tokens, value_at
from attnsurgeon.planning.place import Place, Refusal, class_name
from attnsurgeon.planning.rebuilders import behind_rebuilder
from attnsurgeon.recording.record import Call, Event
from attnsurgeon.sites.flow import CONVOLUTIONS, NORMS, Flow, name_of
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.survey import Survey, makes_alone
from attnsurgeon.sites.tokens import Tokens, row_of

_MAPS = ("NCHW", "NHWC", "NCDHW", "NDHWC")
_INSERTIONS = ("insert-after", "insert-before")


@dataclass(eq=False)
class Decider:
    """Turns requests into cuts; finds names that are free and hosts that are shared."""

    survey: Survey
    cutter: Cutter
    cuts: list[Cut] = field(default_factory=list)
    _names: set[tuple[str, str]] = field(default_factory=set)
    _torn: dict[str, str] = field(default_factory=dict)  # host -> why its runs cannot share
    _parts: dict[Hashable, nn.Module] = field(default_factory=dict)

    def add(self, request: Request) -> str | None:
        """Adds the cut of one request; returns the reason where there can be none.

        Raises:
            MechanismError: the mechanism cannot be built for this site.
            RuleError: the action is none for this mechanism, or two rules claim one operation.
        """
        card = lookup(request.attn)
        action = _action(request, card)
        target = self.survey.nodes[request.site.path]
        try:
            if action in _INSERTIONS:
                self._insert(request, card, action, target)
            else:
                self._check_unclaimed(request)
                decide = {
                    "conv": self._take_convolution,
                    "weight": self._excite,
                    "activation": self._take_activation,
                    "fusion": self._fuse,
                    "head": self._take_head,
                }[card.kind]
                decide(request, card, action, target)
        except Impossible as reason:
            return str(reason)
        return None

    def half_shared(self) -> list[Refused]:
        """Takes back cuts in hosts that run more often than they serve."""
        taken: list[Refused] = []
        for cut in list(self.cuts):
            served = 1 + len(cut.shared)
            if cut.place.calls > served:
                self.cuts.remove(cut)
                reason = self._torn.get(cut.place.host) or (
                    f"{cut.place.host} runs {cut.place.calls} times in one forward and only "
                    f"{served} of its runs was matched; one cut serves all of them, so match "
                    f"{cut.site.path.partition('#')[0]!r} and its later runs, '...#2' and on"
                )
                taken += [Refused(site, cut.rule, reason) for site in (cut.site, *cut.shared)]
        return taken

    def check_apart(self) -> None:
        """Refuses attention inside what another rule takes away."""
        for cut in self.cuts:
            for path in cut.removes:
                inside = [c for c in self.cuts if c.place.host.startswith(f"{path}.")]
                if inside:
                    what = f"cannot both be: the one takes {path} away, in which the other works"
                    raise _conflict(cut.rule, inside[0].rule, what)

    # The kinds.

    def _insert(self, request: Request, card: Mechanism, action: str, target: fx.Node) -> None:
        """A gate or linked attention on a value."""
        before = action == "insert-before"
        node = input_of(target) if before else target
        if node is None:
            raise Impossible("the operation has no input to insert before")
        node, moved = (node, "") if before else behind_rebuilder(self.survey, node)
        value = self._value(node, card)
        facts: dict[str, Any] = {}
        if "source" in card.inputs(request.attn_args):
            source = self._value(_source_of(self.survey, target), None)
            place = _possible(self.cutter.place_with(node, [source.node]))
            facts = {"source_channels": source.channels, "source_size": source.size}
            if source.layout != value.layout:
                raise Impossible("the block's input has another layout than the value")
        else:
            place = self.cutter.place(node, target if before else None)
            row = None if before else row_of(node, self.survey.traced)
            if isinstance(place, Refusal) and row is not None:
                value, place = self._value(row, card), _of_row(self.cutter.place(row))
            place = _possible(place)
        if moved:
            place = replace(place, note=moved, moved=True)
        draft: dict[str, Any] = {}
        if card.kind == "linked":
            facts |= self._link(request, card, value, place, draft)
            if draft["link"] == 0:
                facts["source_channels"] = self._channels_of_source(target)
        self._finish(request, card, action, place, value, facts, **draft)

    def _take_convolution(
        self, request: Request, card: Mechanism, action: str, target: fx.Node
    ) -> None:
        """What stands in the place of a convolution, and of its norm where that is its own."""
        place = _possible(self.cutter.takeover(target))
        call = self.survey.traced.calls[place.host][0]
        conv = call.module
        _check_plain_convolution(conv)
        removes: tuple[str, ...] = ()
        if request.init == "paper":
            norm, note = self._norm_behind(target) if card.swallows_norm else ((), "")
            place = replace(place, note=note)
            removes = (place.host, *norm)
            for path in removes:
                self._check_own(path)
        value = self._value(target, card)
        self._finish(
            request, card, action, place, value, {"conv": conv},
            source=conv, removes=removes, keeps_old=request.init == "identity",
        )  # fmt: skip

    def _excite(self, request: Request, card: Mechanism, action: str, target: fx.Node) -> None:
        """What changes the weight of a convolution before it is used."""
        call: Call = target.meta["call"]
        events = [e for e in call.events if isinstance(e, Event) and e.name in CONVOLUTIONS]
        if not isinstance(call.module, (nn.Conv2d, nn.Conv3d)) or len(events) != 1:
            raise Impossible(
                f"it is made by a {class_name(call.module)}, not by one convolution module"
            )
        node = events[0].nodes[0]
        place = _possible(self.cutter.place_of_operation(node, "excite"))
        value = self._value(target, card)
        self._finish(request, card, action, place, value, {"conv": call.module}, source=call.module)

    def _take_activation(
        self, request: Request, card: Mechanism, action: str, target: fx.Node
    ) -> None:
        """What stands in the place of an activation, be it a module or a function."""
        if len(Flow.inputs(target)) > 1 and not makes_alone(target.meta["call"], target):
            raise Impossible("it works on two values")
        place = self.cutter.takeover(target)
        matched_alone = isinstance(place, Place) and place.calls == 1
        if not matched_alone:
            place = self.cutter.place_of_operation(target, "replace")
        place = _possible(place)
        value = self._value(target, card)
        removes: tuple[str, ...] = ()
        keeps_old = card.within is not None and request.init == "identity"
        if place.technique == "takeover" and not keeps_old:
            removes = (place.host,)
        self._finish(
            request, card, action, place, value, {}, removes=removes, keeps_old=keeps_old,
            clones=keeps_old and _works_in_place(target),
        )  # fmt: skip

    def _fuse(self, request: Request, card: Mechanism, action: str, target: fx.Node) -> None:
        """What stands in the place of a residual addition."""
        residual = self.survey.residuals.get(request.site.path)
        if residual is None:
            raise Impossible("it is no residual addition")
        terms = Flow.inputs(target)
        if len(terms) != 2 or residual.shortcut not in terms or target.kwargs:
            raise Impossible("it is not an addition of one branch and one shortcut")
        place = _possible(self.cutter.place_of_operation(target, "fuse"))
        value = self._value(target, card)
        place = replace(place, second=terms.index(residual.shortcut))
        self._finish(request, card, action, place, value, {})

    def _take_head(self, request: Request, card: Mechanism, action: str, target: fx.Node) -> None:
        """What makes the scores from feature maps, in the place of the classifier or beside it."""
        place = _possible(self.cutter.takeover(target))
        linear = self.survey.traced.calls[place.host][0].module
        if not isinstance(linear, nn.Linear) or place.calls > 1:
            raise Impossible(
                f"it is made by a {class_name(target.meta['call'].module)}, not by a linear layer"
            )
        inputs = card.inputs(request.attn_args)
        maps = [self._value(node, card) for node in _maps(self.survey, "stages" in inputs)]
        flat = [value.layout for value in maps if value.layout not in _MAPS]
        if flat:
            raise Impossible(f"{card.name} needs maps of positions, and here is {flat[0]}")
        taps = tuple(_possible(self.cutter.tap(value.node)) for value in maps)
        facts = {"classes": linear.out_features, "stages": tuple(v.channels for v in maps[:-1])}
        needed = maps[:-1] if "stages" in inputs else maps[-1:]
        used = taps[:-1] if "stages" in inputs else taps[-1:]
        keeps_old = "logits" in inputs or request.init == "identity"
        removes = () if keeps_old else (place.host,)
        for path in removes:
            self._check_own(path)
        self._finish(
            request, card, action, place, maps[-1], facts, keeps_old=keeps_old, removes=removes,
            taps=used, tapped=tuple(value.layout for value in needed),
        )  # fmt: skip

    # What they share.

    def _finish(
        self,
        request: Request,
        card: Mechanism,
        action: str,
        place: Place,
        value: Value,
        facts: Mapping[str, Any],
        *,
        source: nn.Module | None = None,
        **draft: Any,
    ) -> None:
        """Adds the cut, or joins it to one that serves another run of the same host."""
        args = card.args_at(value.size, request.attn_args, **facts)
        if (place.calls > 1 or place.moved) and self._joined(request, card, place, value, args):
            return
        part = self._part(card, source or value.channels, value.rank, request.init, args)
        value = beside_tokens(value, card, part, action in _INSERTIONS, self.survey.traced)
        params = sum(p.numel() for p in part.parameters())
        if card.tied and draft.get("link", 0) > 0:
            params = 0
        twin = self.survey.traced.twin
        for path in draft.get("removes", ()):
            params -= sum(p.numel() for p in twin.get_submodule(path).parameters())
        self.cuts.append(
            Cut(
                request.site, card.name, args, request.init, action, request.rule, place,
                self._name(place.host), value.channels, value.rank, value.layout, params,
                tokens=value.tokens, as_map=value.as_map, conv=source, **draft,
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
                self._parts[key] = create_part(card.name, source, rank=rank, init=init, **args)
        return self._parts[key]

    def _joined(
        self,
        request: Request,
        card: Mechanism,
        place: Place,
        value: Value,
        args: Mapping[str, Any],
    ) -> bool:
        """Whether a cut that is there already serves this run of a shared host, too."""
        for i, cut in enumerate(self.cuts):
            if cut.place != place or cut.rule != request.rule or cut.attn != card.name:
                continue
            if why := self._apart(cut, card, value, args):
                self._torn[place.host] = why
                raise Impossible(why)
            self.cuts[i] = replace(cut, shared=(*cut.shared, request.site))
            return True
        return False

    def _apart(self, cut: Cut, card: Mechanism, value: Value, args: Mapping[str, Any]) -> str:
        """Why a cut cannot serve one more run of its host; "" if it can."""
        host = cut.place.host
        if cut.channels != value.channels:
            return f"{host} is shared and has {cut.channels} channels in another run"
        first = self.survey.nodes[cut.site.path].meta["shape"]
        if cut.tokens != value.tokens and (
            cut.as_map or _beside(cut.tokens) != _beside(value.tokens)
        ):
            return f"{host} is shared, and in another run its tokens stand otherwise"
        tied = [name for name in args if args[name] != cut.attn_args.get(name)]
        if tied or (first[1:] != value.node.meta["shape"][1:] and not card.resolution_free):
            names = f", by its {' and '.join(tied)}" if tied else ""
            free = " and ".join(n for n in ("eca", "se") if n != card.name)
            return (
                f"{host} runs {cut.place.calls} times in one forward, at several resolutions, and "
                f"{card.name} is tied to one{names}; {free} are tied to none"
            )
        return ""

    def _value(self, node: fx.Node, card: Mechanism | None) -> Value:
        return value_at(node, card, self.survey.traced)

    def _link(
        self,
        request: Request,
        card: Mechanism,
        value: Value,
        place: Place,
        draft: dict[str, Any],
    ) -> dict[str, Any]:
        """Finds the chain of a linked attention; returns the facts that follow from it."""
        if place.calls > 1:
            raise Impossible(f"{place.host} runs several times in one forward, a chain once")
        scope = request.scope or card.scope
        parts = [request.rule]
        if scope == "stage":
            if request.site.stage is None:
                raise Impossible("its stage is unknown, and attention is linked within a stage")
            parts.append(f"stage-{request.site.stage}")
        if card.tied:
            parts.append(f"{value.channels}-channels")
        chain = ".".join(parts)
        links = [cut for cut in self.cuts if cut.chain == chain]
        draft.update(scope=scope, chain=chain, link=len(links))
        return {"previous_channels": links[-1].channels if links else None}

    def _channels_of_source(self, target: fx.Node) -> int | None:
        """Channels of the value that the block around a site starts from, where there is one."""
        try:
            return self._value(_source_of(self.survey, target), None).channels
        except Impossible:
            return None

    def _norm_behind(self, target: fx.Node) -> tuple[tuple[str, ...], str]:
        """The path of the norm that alone uses a convolution, or a note on why it stays."""
        users = list(target.users)
        norms = [u for u in users if name_of(u) in NORMS]
        if not norms:
            return (), ""
        call: Call = norms[0].meta["call"]
        alone = makes_alone(call, norms[0]) and len(self.survey.traced.calls[call.path]) == 1
        if len(users) == 1 and alone:
            return (call.path,), ""
        return (), "the norm behind it stays: it is part of a larger module"

    def _check_own(self, path: str) -> None:
        """Refuses to take away parameters that another module has too."""
        twin = self.survey.traced.twin
        own = {id(p) for p in twin.get_submodule(path).parameters()}
        inside = f"{path}."
        for name, parameter in twin.named_parameters(remove_duplicate=False):
            if id(parameter) in own and not name.startswith(inside):
                raise Impossible(f"its parameters are also {name}, and would be missing there")

    def _check_unclaimed(self, request: Request) -> None:
        """Refuses two replacements of one operation."""
        for cut in self.cuts:
            if cut.action not in _INSERTIONS and request.site in (cut.site, *cut.shared):
                raise _conflict(cut.rule, request.rule, f"both replace {request.site.path}")

    def _name(self, host: str) -> str:
        """A child name that the host does not use: attn, attn_1, ..."""
        module: nn.Module = self.survey.traced.twin.get_submodule(host)
        number = 0
        while True:
            name = f"attn_{number}" if number else "attn"
            # dir(), not hasattr(): a class may answer for every name.
            if (host, name) not in self._names and name not in dir(module):
                self._names.add((host, name))
                return name
            number += 1


def _conflict(first: str, second: str, what: str) -> RuleError:
    return RuleError(
        f"rules {first!r} and {second!r} {what}",
        "let their matchers exclude each other, with `not` or `nth`",
    )


def _action(request: Request, card: Mechanism) -> str:
    """What is done: what the rule says, if the mechanism's kind can."""
    own = ACTIONS[card.kind][0]
    possible = _INSERTIONS if own == "insert-after" else (own,)
    action = request.action or own
    if action not in possible:
        raise RuleError(
            f"rule {request.rule!r}: {card.name} ({card.kind}) cannot {action}",
            f"for {card.name} it is action: {' or '.join(possible)}, or none",
        )
    return action


def _of_row(place: Place | Refusal) -> Place | Refusal:
    if isinstance(place, Refusal):
        return place
    note = "before the tokens of no position are cut off"
    return replace(place, note=f"{note}; {place.note}" if place.note else note)


def _possible(place: Place | Refusal) -> Place:
    if isinstance(place, Refusal):
        raise Impossible(place.reason)
    return place


def _source_of(survey: Survey, node: fx.Node) -> fx.Node:
    """The value that the residual block around a branch or a block's output starts from."""
    for residual in survey.residuals.values():
        if _ends(residual, node):
            return residual.source
    raise Impossible("it is not the end of a residual block or of its branch")


def _beside(tokens: Tokens | None) -> tuple[int, int]:
    return (tokens.before, tokens.after) if tokens is not None else (0, 0)


def _ends(residual: Residual, node: fx.Node) -> bool:
    return node is residual.add or node in residual.branches or [node] == list(residual.add.users)


def _maps(survey: Survey, stages: bool) -> Sequence[fx.Node]:
    """The last feature map; with `stages`, after the maps at the end of each earlier stage."""
    head = [site for site in survey.sites if "head" in site.roles]
    if not head:
        raise Impossible("no feature map comes before the classifier")
    ends = [s for s in survey.sites if "stage" in s.roles and s is not head[0]] if stages else []
    if stages and not ends:
        raise Impossible("the network has only one stage")
    return [survey.nodes[site.path] for site in (*ends, head[0])]


def _check_plain_convolution(conv: nn.Module) -> None:
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)):
        raise Impossible(f"it is a {type(conv).__name__}, not a convolution module")
    if conv.__dict__.get("parametrizations") or "weight" not in conv._parameters:
        raise Impossible("its weight is computed from other parameters")


def _works_in_place(node: fx.Node) -> bool:
    return node.meta.get("over") is not None
