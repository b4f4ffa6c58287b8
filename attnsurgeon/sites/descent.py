"""Levels -> the way down to one value, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from torch import fx

from attnsurgeon.sites.flow import ACTIVATIONS, NORMS, Flow, is_weighted, name_of
from attnsurgeon.sites.levels import Levels
from attnsurgeon.sites.residuals import Residual
from attnsurgeon.sites.rises import BESIDE


class Descent:
    """The way down to one value, level by level.

    Attributes:
        values: the maps that it passes, in order.
        steps: of each level but the first, the operation that comes down to it.
        partly: the levels to which others come down beside it.
    """

    def __init__(
        self, flow: Flow, levels: Levels, residuals: Sequence[Residual], end: fx.Node
    ) -> None:
        self.flow, self.levels, self.residuals = flow, levels, residuals
        self.nodes = flow.before(end)
        self._known: dict[int | None, dict[fx.Node, fx.Node | None]] = {}
        self.values: list[fx.Node] = []
        self.steps: dict[int, fx.Node] = {}
        self.partly: list[int] = []
        target: fx.Node | None = end
        while target is not None:
            chain = self.chain(target)
            self.values = [n for n in chain if levels.is_map(n)] + self.values
            target = self._step(chain[0])

    def chain(self, target: fx.Node) -> list[fx.Node]:
        """What every path to a value passes at its level; other levels are as the image."""
        level = self.levels.carried[target]
        above = self._above(level)
        chain = [target]
        while (node := above.get(chain[-1])) is not None:
            chain.append(node)
        return chain[::-1]

    def _above(self, level: int | None) -> dict[fx.Node, fx.Node | None]:
        """Of each value of a level the last one that every path to it at this level passes.

        What comes back from another level joins the path that it left; where nothing else goes on,
        the path is what it came from.
        """
        if level in self._known:
            return self._known[level]
        above: dict[fx.Node, fx.Node | None] = {}
        back: set[fx.Node] = set()
        for node in self.nodes:
            inputs = Flow.inputs(node)
            if self.levels.carried[node] != level:
                continue
            if not inputs or any(self._enters(n, level) for n in inputs):
                above[node] = None
                continue
            same = [n for n in inputs if n in above and n not in back]
            if same:
                above[node] = reduce(lambda one, other: self._meet(one, other, above), same)
            else:
                back.add(node)
                above[node] = self._left(node, level)
        self._known[level] = above
        return above

    def _enters(self, node: fx.Node, level: int | None) -> bool:
        """Whether a value brings to a level what has not been there: it is of a higher one, and
        not all of it comes from this one.
        """
        at = self.levels.carried[node]
        if at is None or level is None or at >= level:
            return False
        return self._left(node, level) is None

    def _left(self, node: fx.Node, level: int | None) -> fx.Node | None:
        """The last value of a level that every path to `node` passes."""
        chain = self.flow.dominators(node)[:-1]
        return next((n for n in reversed(chain) if self.levels.carried[n] == level), None)

    def _meet(
        self,
        one: fx.Node | None,
        other: fx.Node | None,
        above: dict[fx.Node, fx.Node | None],
    ) -> fx.Node | None:
        rank = self.flow.rank
        while one is not other:
            if one is None or other is None:
                return None
            if rank[one] > rank[other]:
                one = above.get(one)
            else:
                other = above.get(other)
        return one

    def _step(self, first: fx.Node) -> fx.Node | None:
        """The value of a higher level that the first value of a level was made from.

        Of several it is the last one that all pass; where that leaves out more work than it
        keeps, some only run beside, and it is the one of the nearest resolution, if half of the
        work is in it, with the most work.
        """
        carried, work = self.levels.carried, self.levels.work
        level = carried[first]
        assert level is not None
        below = {first}
        sources: dict[fx.Node, fx.Node] = {}
        for node in reversed(self.flow.before(first)):
            if node not in below:
                continue
            for other in Flow.inputs(node):
                at = carried[other]
                if at is not None and at < level:
                    sources[other] = node
                else:
                    below.add(other)
        worked = [n for n in sources if work[n] and self._left(n, level) is None]
        if not worked:
            return None
        most = max(work[n] for n in worked)
        heavy = max(
            (n for n in worked if 2 * work[n] > most),
            key=lambda n: (carried[n] or 0, self._layers(n), work[n],
                           self._ends_block(n), self.flow.rank[n]),
        )  # fmt: skip
        self.steps[level] = sources[heavy]
        heavy = self._entering(heavy, level)
        at = carried[heavy]
        above = self._above(at)
        common: fx.Node | None = heavy
        for other in worked:
            if carried[other] == at and other in above:
                common = self._meet(common, other, above)
        if common is None:
            self.partly.append(level)
            return heavy
        chain = self.chain(common)
        entered = max((work[n] for n in Flow.inputs(chain[0])), default=0)
        lost, kept = work[heavy] - work[common], work[common] - entered
        if lost <= max(kept, BESIDE) and not self._ends_block(heavy, since=common):
            return common
        self.partly.append(level)
        return heavy

    def _layers(self, node: fx.Node) -> int:
        """How many weighted operations stand on the longest way to a value at its level, up to the
        two that make it more than passed through (by what one of two ways gives to the other).
        """
        level, found = self.levels.carried[node], {}
        for other in self.flow.before(node):
            if self.levels.carried[other] == level:
                longest = max((found.get(n, 0) for n in Flow.inputs(other)), default=0)
                found[other] = longest + is_weighted(other)
        return min(found[node], 2)

    def _ends_block(self, node: fx.Node, since: fx.Node | None = None) -> bool:
        """Whether a value is a residual sum, normed and bent or not: of a block that begins with
        `since`, or with what is made of it.
        """
        while name_of(node) in ACTIVATIONS | NORMS and len(inputs := Flow.inputs(node)) == 1:
            node = inputs[0]
        ended = [r for r in self.residuals if r.add is node]
        return any(since is None or self.flow.reaches(since, r.source) for r in ended)

    def _entering(self, node: fx.Node, level: int) -> fx.Node:
        """What enters the residual block that comes down to a level, where the value is inside."""
        carried = self.levels.carried
        for residual in self.residuals:
            if carried[residual.add] != level or carried[residual.source] != carried[node]:
                continue
            if any(node in self.flow.between(residual.source, end) for end in residual.branches):
                return residual.source
        return node
