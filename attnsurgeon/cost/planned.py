"""Plan -> the Weights before and after it, of each kind of block one.

The network before is weighed once a record, whatever is planned in it. After, only blocks that
attention goes into run again, of those that are alike one, and only on that one surgery is done.
What this cannot do is weighed in full, on a copy with the plan carried out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import torch

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
        closed = (
            is_inserted(m) or isinstance(m, torch.jit.ScriptModule) for m in traced.twin.modules()
        )
        if any(closed):
            raise Unlike("not all that runs in it was recorded")
        self.traced = traced
        self.tree = Tree.of(traced.twin)
        self.kinds = Kinds(traced)
        self.known: dict[int, Known] = {}
        self.inputs = traced.form.at_batch(1).on_meta()
        cast = Cast.of(traced.root, self.kinds, self.kinds.of.__getitem__, {})
        twin = hollow_twin(traced.twin, cast.hollow())
        Stage(twin, cast, self.known, {}).perform(traced.root, self.inputs)

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
        if not {*self.tree.aliases, *self.tree.aliases.values()}.isdisjoint(hosts):
            raise Unlike("a block has two paths")
        calls = self.traced.calls
        marks = {c: tuple(map(_what, cuts)) for host, cuts in hosts.items() for c in calls[host]}
        kinds = {**self.kinds.of, **self.kinds.touched(marks)}
        operated = _Operated(self, made, kinds)
        # Each host has the parts of the one that it is alike to.
        likes = {host: operated.first[kinds[calls[host][0]]] for host in hosts}
        grown = {
            host: [
                Tree.of(operated.parts[_joined(likes[host], cut.name)], cut.module_path, host)
                for cut in cuts
            ]
            for host, cuts in hosts.items()
        }
        ran, order = _summed(self.traced.root, kinds, operated.known, operated.apart)
        inserted: dict[str, tuple[Count, ...]] = {cut.module_path: () for cut in made.cuts}
        for call in order:
            for name in {cut.name for cut in hosts.get(call.path, ())}:
                ours = operated.scale.calls_of((kinds[call], name))
                inserted[_joined(call.path, name)] += ours
        tree = self.tree.grown(grown)
        return tree.weight(ran, {p: inserted[p] for p in tree.paths if p in inserted}, notes)


class _Operated:
    """A copy with one of each kind of block operated, after its forward.

    Attributes:
        known: kind -> what is known of it.
        scale: what it ran on.
        parts: path of each inserted module -> the module.
        first: kind -> path of the call that ran.
        apart: kind -> what ran in inserted modules there, by their paths in the host.
    """

    def __init__(self, weighed: Weighed, made: Plan, kinds: Mapping[Call, int]) -> None:
        traced = weighed.traced
        cast = Cast.of(traced.root, weighed.kinds, kinds.__getitem__, weighed.known)
        running = {call.path for call in cast.run}
        cuts = [cut for cut in made.cuts if cut.place.host in running]
        twin = hollow_twin(traced.twin, cast.hollow())
        splice(twin, dataclasses.replace(made, cuts=tuple(cuts), refused=()))
        self.parts = {cut.module_path: twin.get_submodule(cut.module_path) for cut in cuts}
        inserted = {
            _joined(cut.module_path, inner): (cut.place.host, _joined(cut.name, inner))
            for cut in cuts
            for inner, _ in self.parts[cut.module_path].named_modules()
        }
        self.known = dict(weighed.known)
        stage = Stage(twin, cast, self.known, inserted)
        stage.perform(traced.root, weighed.inputs)
        self.scale = stage.scale
        self.first = {kinds[call]: call.path for call in reversed(cast.run)}
        for cut in cuts:
            place = (kinds[traced.calls[cut.place.host][0]], cut.name)
            if self.scale.is_idle(place, self.parts[cut.module_path]):
                raise Unlike("it may do more while it trains")
        self.apart: dict[int, dict[str, Books]] = {}
        for place, books in self.scale.books.items():
            if isinstance(place, tuple):
                self.apart.setdefault(place[0], {})[place[1]] = books


def _what(cut: Cut) -> Hashable:
    """What a cut does, wherever it does it."""
    place = dataclasses.replace(cut.place, host="", note="")
    return (
        cut.name, id(cut.card), repr(cut.attn_args), cut.init, cut.action, place, cut.channels,
        cut.rank, cut.layout, cut.keeps_old, cut.clones, cut.tokens, cut.as_map,
    )  # fmt: skip


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
