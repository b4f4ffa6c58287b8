"""One forward -> the books of it: a dispatch mode that prices every operator where it runs.

In inference mode such a mode sees whole operators (`linear`, `layer_norm`, `adaptive_avg_pool2d`),
the level fvcore's tracer records at; outside, autograd has taken them apart before. An operator
belongs to the module whose forward runs, and to the modules that module lies in.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnsurgeon.cost.meta_results import result_of
from attnsurgeon.cost.operators import Price, is_opened, price
from attnsurgeon.cost.weight import Count
from attnsurgeon.recording.calls import answered
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import MARK


class Books:
    """What ran at one place, the modules called from there left out.

    Attributes:
        macs, activations: as in `Count`.
        operators, beyond, uncounted: operator -> its MACs; those that fvcore leaves out; how many
            calls have no price.
    """

    __slots__ = ("activations", "beyond", "macs", "operators", "uncounted")

    def __init__(self) -> None:
        self.macs = 0
        self.activations = 0
        self.operators: Counter[str] = Counter()
        self.beyond: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    def add(self, priced: Price) -> None:
        """Enters one price."""
        if priced.macs is None:
            self.uncounted[priced.operator] += 1
            return
        self.operators[priced.operator] += priced.macs
        if priced.beyond:
            self.beyond[priced.operator] += priced.macs
        self.macs += priced.macs
        self.activations += priced.activations


class Scale(TorchDispatchMode):
    """Keeps the books of one forward: enter it together with `watching()`.

    Attributes:
        books: place -> what ran there. A place is the path of a module, unless who runs the
            modules says otherwise.
        inserted: place of inserted attention -> one Count a call.
        read: ids of the parameters that operators inside of inserted modules read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.books: dict[Hashable, Books] = {}
        self.inserted: dict[Hashable, list[list[Price]]] = {}
        self.read: set[int] = set()
        self._dice = OwnDice()
        self._running: list[Books] = [self.at("")]
        self._open: list[list[Price]] = []  # one list of prices a running inserted module

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so would cost as much as an operator

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._open:
            self.read.update(map(id, filter(_is_parameter, (*args, *kwargs.values()))))
        if is_opened(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = result_of(func, args, kwargs)
        if out is None:
            out = self._dice.throw(func, args, kwargs)
        priced = price(func, args, kwargs, out, inserted=bool(self._open))
        if priced is not None:
            self._running[-1].add(priced)
            if priced.macs is not None:
                for prices in self._open:
                    prices.append(priced)
        return out

    def at(self, place: Hashable) -> Books:
        """The books of a place."""
        if place not in self.books:
            self.books[place] = Books()
        return self.books[place]

    def run(
        self, place: Hashable, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a module, and enters what is its own under `place`."""
        inserted = is_inserted(module)
        self._running.append(self.at(place))
        if inserted:
            self._open.append([])
            self.inserted.setdefault(place, []).append(self._open[-1])
        try:
            return module._call_impl(*args, **kwargs)
        finally:
            self._running.pop()
            if inserted:
                self._open.pop()

    def by_path(self) -> dict[str, Books]:
        """The books whose places are paths."""
        return {place: books for place, books in self.books.items() if isinstance(place, str)}

    def calls_of(self, place: Hashable) -> tuple[Count, ...]:
        """After a forward: what each call of an inserted module cost."""
        return tuple(
            Count(0, sum(p.macs or 0 for p in call), sum(p.activations for p in call))
            for call in self.inserted.get(place, ())
        )

    def is_idle(self, place: Hashable, module: nn.Module) -> bool:
        """After a forward: whether an inserted module ran and has parameters that nothing read, or
        did no work.
        """
        calls = self.inserted.get(place, ())
        unread = any(id(p) not in self.read for p in module.parameters())
        return bool(calls) and (not any(calls) or unread)


def is_inserted(module: nn.Module) -> bool:
    """Whether surgery inserted a module."""
    return vars(module).get(MARK) is not None


@contextlib.contextmanager
def by_path(scale: Scale, twin: nn.Module) -> Iterator[None]:
    """Lets each module of a network run at the place that its path is."""
    # A scripted module's operations count as those of who calls it.
    modules = [(p, m) for p, m in twin.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
    paths = {id(module): path for path, module in modules}

    def watched(module: nn.Module) -> Callable[..., Any]:
        run = functools.partial(scale.run, paths[id(module)], module)
        return lambda *args, **kwargs: run(args, kwargs)

    with answered([module for _, module in modules], watched):
        yield


def _is_parameter(value: Any) -> bool:
    return type(value) is not Tensor and isinstance(value, nn.Parameter)
