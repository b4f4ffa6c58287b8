"""The modules of a network + what ran in each -> its Weight, every module with all inside of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from attnsurgeon.cost.scale import Books
from attnsurgeon.cost.weight import Count, Weight


@dataclass(frozen=True)
class Tree:
    """The modules of a network, by all their paths.

    Attributes:
        paths: each before those inside of it.
        aliases: another path of a module -> the path it is found under first.
        parameters: path -> (identity, elements) of those that the module itself holds.
    """

    paths: Sequence[str]
    aliases: Mapping[str, str]
    parameters: Mapping[str, Sequence[tuple[object, int]]]

    @classmethod
    def of(cls, model: nn.Module, at: str = "", mark: object = None) -> Tree:
        """Returns the modules of a network.

        Args:
            model: the network, or a part of one.
            at: the path of the part.
            mark: told apart by this are the parameters of parts that are built alike.
        """
        first: dict[int, str] = {}
        aliases: dict[str, str] = {}
        parameters: dict[str, list[tuple[object, int]]] = {}
        for inner, module in model.named_modules(remove_duplicate=False):
            path = f"{at}.{inner}" if at and inner else at or inner
            canonical = first.setdefault(id(module), path)
            if canonical != path:
                aliases[path] = canonical
            parameters[path] = [
                (id(p) if mark is None else (mark, id(p)), p.numel())
                for p in module._parameters.values()
                if p is not None
            ]
        return cls(tuple(parameters), aliases, parameters)

    def grown(self, parts: Mapping[str, Sequence[Tree]]) -> Tree:
        """Returns the tree with further modules, the last ones of the modules at these paths."""
        paths: list[str] = []
        inside: list[str] = []  # hosts around the path at hand

        def leave(path: str | None) -> None:
            while inside and (path is None or not _is_in(path, inside[-1])):
                for part in parts[inside.pop()]:
                    paths.extend(part.paths)

        for path in self.paths:
            leave(path)
            paths.append(path)
            if path in parts:
                inside.append(path)
        leave(None)
        new = [part for made in parts.values() for part in made]
        aliases, parameters = dict(self.aliases), dict(self.parameters)
        for part in new:
            aliases.update(part.aliases)
            parameters.update(part.parameters)
        return Tree(paths, aliases, parameters)

    def counts(self, ran: Mapping[str, Books]) -> dict[str, Count]:
        """Returns module path -> Count with everything inside, under each of a module's paths."""
        found = {path: [0, 0, 0] for path in self.paths}
        times = Counter(one for held in self.parameters.values() for one, _ in held)
        for path in reversed(self.paths):  # what is inside comes first
            mine = found[path]
            mine[0] += sum(n for one, n in self.parameters[path] if times[one] == 1)
            if (books := ran.get(path)) is not None:
                mine[1] += books.macs
                mine[2] += books.activations
            if path:
                outer = found[path.rpartition(".")[0]]
                outer[0] += mine[0]
                outer[1] += mine[1]
                outer[2] += mine[2]
        self._count_shared(found, times)
        for path, canonical in self.aliases.items():
            found[path][1:] = found[canonical][1:]
        return {path: Count(*figures) for path, figures in found.items()}

    def _count_shared(self, found: Mapping[str, list[int]], times: Counter[object]) -> None:
        """Adds what several modules hold, once to each module around them."""
        if len(times) == times.total():
            return
        around: dict[tuple[str, object], int] = {}
        for path, held in self.parameters.items():
            for one, elements in held:
                if times[one] > 1:
                    around.update(((outer, one), elements) for outer in owners(path))
        for (path, _), elements in around.items():
            found[path][0] += elements

    def weight(
        self,
        ran: Mapping[str, Books],
        inserted: Mapping[str, tuple[Count, ...]],
        notes: tuple[str, ...],
    ) -> Weight:
        """Sums up.

        Args:
            ran: path of a module, the first of its paths -> what its calls cost.
            inserted, notes: as in `Weight`.
        """
        by_module = self.counts(ran)
        totals = Totals()
        totals.add(ran.values())
        root = by_module[""]
        return Weight(
            root.params,
            root.macs,
            root.activations,
            by_operator=_heaviest_first(totals.operators),
            by_module=by_module,
            uncounted=_heaviest_first(totals.uncounted),
            beyond_fvcore=_heaviest_first(totals.beyond),
            aliases=dict(self.aliases),
            inserted=dict(inserted),
            notes=notes,
        )


@dataclass
class Totals:
    """Sums of books, by operator."""

    operators: Counter[str] = field(default_factory=Counter)
    beyond: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)

    def add(self, books: Iterable[Books]) -> None:
        """Adds what ran."""
        for one in books:
            for operator, macs in one.operators.items():
                self.operators[operator] += macs
            for operator, macs in one.beyond.items():
                self.beyond[operator] += macs
            for operator, calls in one.uncounted.items():
                self.uncounted[operator] += calls


def _heaviest_first(figures: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(figures.items(), key=lambda item: (-item[1], item[0])))


def owners(path: str) -> Iterator[str]:
    """Yields a module path and the paths of the modules it lies in, the root ("") last."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _is_in(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")
