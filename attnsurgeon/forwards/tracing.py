"""Tracer + call -> graph: one symbolic trace, after which the module is as it was."""

from __future__ import annotations

import contextlib
import linecache
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from operator import eq, is_
from typing import Any

import torch
from torch import fx, nn

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.symbolic import ShallowTracer
from attnsurgeon.recording.randomness import thrown_by
from attnsurgeon.recording.record import Call


def traced(tracer: ShallowTracer, call: Call) -> fx.Graph:
    """Traces the forward of a called module.

    Raises:
        Untraceable: with the reason; its cause is what the forward raised, where it did.
    """
    tracers = chain([tracer], iter(tracer.again, None))  # where it has to be done again
    (graph, left), thrown = thrown_by(lambda: _trace(next(tracers), call.module))
    if any(name.startswith("_tensor_constant") for name in left):
        raise Untraceable("it makes a constant tensor in its forward")
    if left:
        raise Untraceable(f"its forward leaves something behind on the module ({left[0]})")
    if thrown:
        raise Untraceable("its forward throws dice")
    for node in graph.nodes:
        node.type = None  # annotations would need imports
    return graph


def _trace(tracer: ShallowTracer, module: nn.Module) -> tuple[fx.Graph, list[str]]:
    """The graph, and what the forward has left behind on the module."""
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            attributes_as_they_were(module) as left,
        ):
            graph = tracer.trace(module)
    except Untraceable:
        raise
    except (Exception, SystemExit) as error:  # a stranger's forward meets symbolic values
        text = str(error).split("\n")[0]
        raise Untraceable(_described(type(error).__name__, text, error)) from error
    return graph, left


@contextlib.contextmanager
def attributes_as_they_were(module: nn.Module) -> Iterator[list[str]]:
    """Puts back what is changed on a module and those inside; names it when all is over."""
    held = [_Attributes(inner) for inner in module.modules()]
    left: list[str] = []
    try:
        for attributes in held:
            attributes.guard()
        yield left
    finally:
        left += [name for attributes in held for name in attributes.restore()]


class _Attributes:
    """The attributes of a module before a trace: to see what it left there, and to undo it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(module.__dict__)
        self.contents = [
            (name, value, value.copy() if value else value)
            for name, value in self.values.items()
            if type(value) in _HOLDERS
        ]

    def guard(self) -> None:
        """Lets a forward that looks at its parameters as such (their device, say) raise."""
        self.module.__dict__.update(_GUARDED)

    def restore(self) -> list[str]:
        """Puts everything back; returns the names of the attributes that had changed."""
        now = self.module.__dict__
        for name in _GUARDED:
            del now[name]
            if name in self.values:
                now[name] = self.values[name]
        left = []
        if not _same(now, self.values):
            absent = object()
            names = {**self.values, **now}
            left = [n for n in names if now.get(n, absent) is not self.values.get(n, absent)]
            now.clear()
            now.update(self.values)
        for name, value, content in self.contents:
            kept = () if content is value else content  # it was empty
            if (value or kept) and not _same(value, kept):
                left.append(name)
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(kept)
        return left


def _refuse(recurse: bool = True) -> Any:
    raise Untraceable("its forward looks at its own parameters")


_GUARDED = {"parameters": _refuse, "buffers": _refuse}
_HOLDERS = (dict, OrderedDict, list, set)


def _same(value: Any, content: Any) -> bool:
    """Whether two containers hold the very same objects in the same order."""
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        held = all(map(is_, value.values(), content.values()))
        return held and all(map(eq, value, content))
    if isinstance(value, set):
        return value == content
    return all(map(is_, value, content))


def _described(kind: str, text: str, error: BaseException) -> str:
    """What ended a trace; file and line of the user's code, and the code where it is all to say."""
    trace = error.__traceback__
    place, code = "", ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/torch/" not in name and "attnsurgeon" not in name:
            place = f" ({name.rsplit('/', 1)[-1]}:{trace.tb_lineno})"
            code = linecache.getline(name, trace.tb_lineno).strip()
        trace = trace.tb_next
    return f"{kind}: {text or code}{place}"
