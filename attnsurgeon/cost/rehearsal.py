"""Traced -> a forward at batch one in which each kind of call runs once, and is known afterwards.

The record says which calls are alike (`alike.py`). The first of a kind runs on the scale; each
other is answered with what the first one returned, and weighs the same. Where the forward does not
go as it was recorded, or a value comes in another shape, it is `Unlike`: then nothing is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attnsurgeon.cost.alike import Kinds, hands_on
from attnsurgeon.cost.scale import Books, Scale
from attnsurgeon.cost.weighing import run_on
from attnsurgeon.recording.calls import answered
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.record import Call, tensors_in


class Unlike(Exception):
    """A forward goes another way than it was recorded."""


@dataclass(eq=False)
class Known:
    """What is known of one kind of call.

    Attributes:
        call: the one that ran.
        given, returned: the shapes of what it was given, and of its output.
        output: what it returned.
        books: what is its own.
        ran: which of its recorded events were calls that it made again.
    """

    call: Call
    given: tuple[tuple[int, ...], ...]
    output: Any
    returned: tuple[tuple[int, ...], ...]
    books: Books
    ran: tuple[Call, ...]


@dataclass(frozen=True)
class Cast:
    """Who runs in a forward, and who only says what is known.

    Attributes:
        kinds: call -> its number.
        run: the calls that run, in order.
        known: the calls that are answered.
        pass_on: those that hand on their argument.
    """

    kinds: Callable[[Call], int]
    run: list[Call] = field(default_factory=list)
    known: set[Call] = field(default_factory=set)
    pass_on: set[Call] = field(default_factory=set)

    @classmethod
    def of(
        cls, root: Call, kinds: Kinds, number: Callable[[Call], int], known: Mapping[int, Any]
    ) -> Cast:
        """Decides who runs: of each kind the first, and whoever others rely on.

        Args:
            root: the call of the network.
            kinds: of the record.
            number: what tells the calls apart.
            known: kinds that need not run at all.
        """
        cast = cls(number)
        seen = set(known)

        def visit(call: Call) -> None:
            kind = number(call)
            if hands_on(call) and not call.module._forward_hooks:
                cast.pass_on.add(call)
            elif kind in seen and kinds.is_answerable(call):
                cast.known.add(call)
            else:
                cast.run.append(call)
                for event in call.events:
                    if isinstance(event, Call):
                        visit(event)
                seen.add(kind)

        visit(root)
        return cast

    def hollow(self) -> list[nn.Module]:
        """The modules that are called and never run."""
        running = {id(call.module) for call in self.run}
        others = {id(call.module): call.module for call in (*self.known, *self.pass_on)}
        return [module for one, module in others.items() if one not in running]


class Stage:
    """Where a cast performs.

    Args:
        twin: a copy of the recorded network that may be spliced; only its modules of calls that
            run are run.
        cast: who runs.
        known: kind -> what is known of it; added to.
        inserted: path of each inserted module, and of those in it -> (path of the host, the rest).
    """

    def __init__(
        self,
        twin: nn.Module,
        cast: Cast,
        known: dict[int, Known],
        inserted: Mapping[str, tuple[str, str]],
    ) -> None:
        self.scale = Scale()
        self.twin = twin
        self.cast = cast
        self.known = known
        self.inserted = inserted
        self.frames: list[_Frame] = []

    def perform(self, root: Call, inputs: Inputs) -> None:
        """Runs the forward.

        Raises:
            Unlike: it goes another way than the record.
        """
        self.frames = [_Frame(None, [root])]
        with self._watching() as modules:
            run_on(self.scale, self.twin, inputs, modules)
        if any(_shapes(one.output) != one.returned for one in self.known.values()):
            raise Unlike("an output that was handed out has another shape since")

    @contextlib.contextmanager
    def _watching(self) -> Iterator[list[nn.Module]]:
        """Stands between the modules and their callers; yields those that will run."""
        called = {c.path for c in (*self.cast.run, *self.cast.known, *self.cast.pass_on)}
        called.update(self.inserted)
        there = [(path, m) for path, m in self.twin.named_modules() if path in called]
        paths = {id(module): path for path, module in there}
        modules = [module for _, module in there]

        def watched(module: nn.Module) -> Callable[..., Any]:
            path = paths[id(module)]
            if path in self.inserted:
                return lambda *args, **kwargs: self._run_inserted(path, module, args, kwargs)
            return lambda *args, **kwargs: self._call(path, module, args, kwargs)

        running = {call.path for call in self.cast.run}.union(self.inserted)
        with answered(modules, watched):
            yield [module for path, module in there if path in running]

    def _run_inserted(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        frame, (host, rest) = self.frames[-1], self.inserted[path]
        if frame.call is None or frame.call.path != host:
            raise Unlike(f"{path} is called by another module")
        return self.scale.run((self.cast.kinds(frame.call), rest), module, args, kwargs)

    def _call(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        call = self.frames[-1].next(path)
        if call in self.cast.pass_on:
            return args[0]
        kind = self.cast.kinds(call)
        given = _shapes((args, kwargs))
        if call in self.cast.known:
            known = self.known[kind]
            if given != known.given:
                raise Unlike(f"{path} is given other shapes than {known.call.path}")
            return known.output
        frame = _Frame(call, [event for event in call.events if isinstance(event, Call)])
        self.frames.append(frame)
        output = self.scale.run(kind, module, args, kwargs)
        self.frames.pop()
        self.known[kind] = Known(
            call, given, output, _shapes(output), self.scale.at(kind), tuple(frame.made)
        )
        return output


class _Frame:
    """A call that is running, and the calls that it made when it was recorded."""

    def __init__(self, call: Call | None, inner: list[Call]) -> None:
        self.call = call
        self.made: list[Call] = []
        self._left = inner

    def next(self, path: str) -> Call:
        """The next recorded call of a module."""
        for at, call in enumerate(self._left):
            if call.path == path:
                del self._left[at]
                self.made.append(call)
                return call
        raise Unlike(f"{path} is called, and was not when the forward was recorded")


def _shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    if type(value) is Tensor:
        return (tuple(value.shape),)
    return tuple([tuple(t.shape) for t in tensors_in(value)])
