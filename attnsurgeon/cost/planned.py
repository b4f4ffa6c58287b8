"""Plan -> the Weights before and after it, of each kind of block one.

The network before is weighed once a record, whatever is planned in it. After, only blocks that
attention goes into run again, of those that are alike one, and only on that one surgery is done.
What this cannot do is weighed in full, on a copy with the plan carried out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.alike import Kinds
from attnsurgeon.cost.rehearsal import Cast, Known, Stage, Unlike
from attnsurgeon.cost.scale import Books, is_inserted
from attnsurgeon.cost.tree import Tree
from attnsurgeon.cost.weight import Count, Weight
from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.recording.twin import hollow_twin
from attnsurgeon.splicing.splice import splice


def weigh_alike(made: Plan, notes: tuple[str, ...]) -> tuple[Weight, Weight] | None:
    """Weighs a planned network before and after; None where it has to be weighed in full.

    That is where calls depend on more than what the record shows (linked attention hands a state
    from site to site, a head is handed a tapped map), where modules go or stand at two paths, where
    attention does more in training, and where anything does not go as it was recorded.

    Args:
        made: a plan of a network that was recorded on the meta device.
        notes: to be carried by the weights.
    """
    traced = made.survey.traced
    try:
        weighed = traced.known.get(Weighed)
        if weighed is None:
            weighed = traced.known[Weighed] = Weighed(traced)
        return weighed.before(notes), weighed.after(made, notes)
    except (Exception, SystemExit):  # a stranger's forward; weighing in full says what it raises
        return None


class Weighed:
    """A record that is weighed, and what is known of the kinds of its calls.

    Args:
        traced: recorded on the meta device.

    Raises:
        Exception: whatever a forward that does not go as recorded raises; it is `Unlike`, or the
            network's own.
    """

    def __init__(self, traced: Traced) -> None:
        if any(is_inserted(m) or isinstance(m, torch.jit.ScriptModule) for m in _modules(traced)):
            raise Unlike("not all that runs in it was recorded")
        self.traced = traced
        self.tree = Tree.of(traced.twin)
        self.kinds = Kinds(traced)
        self.known: dict[int, Known] = {}
        self.inputs = traced.form.at_batch(1).on_meta()
        cast = Cast.of(traced.root, self.kinds, self.kinds.of.__getitem__, {})
        twin = hollow_twin(traced.twin, cast.hollow())
        Stage(twin, cast, self.known, {}).perform(traced.root, self.inputs)
        _check(self.known)

    def before(self, notes: tuple[str, ...]) -> Weight:
        """The weight of the network as it is."""
        ran = _summed(self.traced.root, self.kinds.of, self.known, {})[0]
        return self.tree.weight(ran, {}, notes)

    def after(self, made: Plan, notes: tuple[str, ...]) -> Weight:
        """The weight of the network with a plan carried out.

        Raises:
            Exception: as for the class.
        """
        if any(cut.chain or cut.taps or cut.removes for cut in made.cuts):
            raise Unlike("what is inserted at one site depends on others")
        hosts: dict[str, list[Cut]] = {}
        for cut in made.cuts:
            hosts.setdefault(cut.place.host, []).append(cut)
        if not self.tree.aliases.keys().isdisjoint(hosts) or set(hosts) & {
            *self.tree.aliases.values()
        }:
            raise Unlike("a block has two paths")
        marks = {
            call: tuple(map(_what, cuts))
            for path, cuts in hosts.items()
            for call in self.traced.calls[path]
        }
        kinds = {**self.kinds.of, **self.kinds.touched(marks)}
        known = dict(self.known)
        cast = Cast.of(self.traced.root, self.kinds, kinds.__getitem__, known)
        running = {call.path for call in cast.run}
        cuts = tuple(cut for cut in made.cuts if cut.place.host in running)
        twin = hollow_twin(self.traced.twin, cast.hollow())
        splice(twin, dataclasses.replace(made, cuts=cuts, refused=()))
        parts = {cut.module_path: twin.get_submodule(cut.module_path) for cut in cuts}
        inserted = {
            f"{path}.{inner}" if inner else path: (cut.place.host, _joined(cut.name, inner))
            for cut, (path, part) in zip(cuts, parts.items(), strict=True)
            for inner, _ in part.named_modules()
        }
        stage = Stage(twin, cast, known, inserted)
        stage.perform(self.traced.root, self.inputs)
        _check(known)
        first = {kinds[call]: call.path for call in reversed(cast.run)}
        for cut in cuts:
            place = (kinds[self.traced.calls[cut.place.host][0]], cut.name)
            if stage.scale.is_idle(place, parts[cut.module_path]):
                raise Unlike("it may do more while it trains")
        grown: dict[str, list[Tree]] = {}
        for host, its in hosts.items():
            alike = first[kinds[self.traced.calls[host][0]]]
            for cut in its:
                part = parts[_joined(alike, cut.name)]
                grown.setdefault(host, []).append(Tree.of(part, cut.module_path, cut.module_path))
        apart: dict[int, dict[str, Books]] = {}
        for place, books in stage.scale.books.items():
            if isinstance(place, tuple):
                apart.setdefault(place[0], {})[place[1]] = books
        ran, order = _summed(self.traced.root, kinds, known, apart)
        calls: dict[str, list[Count]] = {}
        for cut in made.cuts:
            calls[cut.module_path] = []
        for call in order:
            for place_name in {cut.name for cut in hosts.get(call.path, ())}:
                calls[_joined(call.path, place_name)] += stage.scale.calls_of(
                    (kinds[call], place_name)
                )
        tree = self.tree.grown(grown)
        listed = {path: tuple(calls[path]) for path in tree.paths if path in calls}
        return tree.weight(ran, listed, notes)


def _modules(traced: Traced) -> Any:
    return traced.twin.modules()


def _what(cut: Cut) -> Hashable:
    """What a cut does, wherever it does it."""
    place = dataclasses.replace(cut.place, host="", note="")
    return (
        cut.name, id(cut.card), repr(cut.attn_args), cut.init, cut.action, place, cut.channels,
        cut.rank, cut.layout, cut.keeps_old, cut.clones, cut.tokens, cut.as_map,
    )  # fmt: skip


def _check(known: Mapping[int, Known]) -> None:
    """Raises Unlike where an output that was handed out has been given another shape since."""
    from attnsurgeon.cost.rehearsal import _shapes

    if any(_shapes(one.output) != one.returned for one in known.values()):
        raise Unlike("a value was changed in place")


def _summed(
    root: Call,
    kinds: Mapping[Call, int],
    known: Mapping[int, Known],
    apart: Mapping[int, Mapping[str, Books]],
) -> tuple[dict[str, Books], list[Call]]:
    """Returns path -> the books of all calls there, and the calls in order."""
    ran: dict[str, list[Books]] = {}
    order: list[Call] = []

    def visit(call: Call) -> None:
        one = known.get(kinds[call])
        if one is None:
            return  # it handed on its argument
        order.append(call)
        ran.setdefault(call.path, []).append(one.books)
        for rest, books in apart.get(kinds[call], {}).items():
            ran.setdefault(_joined(call.path, rest), []).append(books)
        made = set(one.ran)
        inner = [e for e in one.call.events if isinstance(e, Call)]
        own = [e for e in call.events if isinstance(e, Call)]
        for theirs, mine in zip(inner, own, strict=True):
            if theirs in made:
                visit(mine)

    visit(root)
    return {path: _together(books) for path, books in ran.items()}, order


def _together(books: list[Books]) -> Books:
    if len(books) == 1:
        return books[0]
    total = Books()
    for one in books:
        total.macs += one.macs
        total.activations += one.activations
        for name in ("operators", "beyond", "uncounted"):
            getattr(total, name).update(getattr(one, name))
    return total


def _joined(host: str, rest: str) -> str:
    return ".".join(filter(None, (host, rest)))
