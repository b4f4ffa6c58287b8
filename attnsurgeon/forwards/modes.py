"""Module -> does its forward ask for the mode? Call -> does it return another form in training?

Of training there is no record. A forward that never looks at `training` does the same in both
modes. One that is traced for training is handed what its children returned in eval mode, so a
child that returns (output, auxiliary) only while it learns has to be found before.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import threading
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import is_dataclass
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils import _pytree as pytree

from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import Call, map_tensors
from attnsurgeon.recording.twin import full_twin

_BUILDING = ("BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "BUILD_SET")

_WATCHING = threading.RLock()  # a class is watched by one thread


@contextlib.contextmanager
def mode_questions(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Collects the modules inside one that are asked for their `training`, or may have been.

    Their classes are watched, which other networks have too: in other threads they answer as
    they did, and nothing is noted of them.
    """
    asked: list[nn.Module] = []
    thread = threading.get_ident()

    def get(inner: nn.Module) -> bool:
        if threading.get_ident() == thread:
            asked.append(inner)
        return vars(inner)["training"]

    def put(inner: nn.Module, training: bool) -> None:
        vars(inner)["training"] = training

    with _WATCHING, contextlib.ExitStack() as watched:
        kinds: dict[type[nn.Module], nn.Module] = {}
        for inner in module.modules():
            kind = type(inner)
            own = "training" in vars(inner) and not any("training" in vars(b) for b in kind.__mro__)
            if own and kind.train is nn.Module.train:
                kinds[kind] = inner
            else:  # its mode is kept in another way
                asked.append(inner)
        for kind, inner in kinds.items():
            try:
                type.__setattr__(kind, "training", property(get, put))
            except TypeError:  # a class that takes no attributes
                asked.append(inner)
            else:
                watched.callback(type.__delattr__, kind, "training")
        yield asked


def changes_form(call: Call) -> str | None:
    """Names the module that returns another form in training mode; None where none does.

    Only a module whose own code names `training` is run: the others cannot tell.
    """
    if _looks_at_the_mode(type(call.module)):
        trained = _form_in_training(call)
        return call.path if trained not in (None, _form(call.output)) else None
    inside = (changes_form(event) for event in call.events if isinstance(event, Call))
    return next((path for path in inside if path is not None), None)


@functools.cache
def _looks_at_the_mode(kind: type[nn.Module]) -> bool:
    """Whether the code of a class names `training`, and makes anything but tensors.

    A norm names it, too, but returns what one function returned; that many copies are not run.
    """
    methods = _methods_of_forward(kind)
    if not any("training" in names_in(m.__code__) for m in methods):
        return False
    return any(_builds(m.__code__, m.__globals__) for m in methods)


def _methods_of_forward(kind: type[nn.Module]) -> list[FunctionType]:
    """A class's own forward and the methods that it names, they too; all where one goes by text."""
    own = [base for base in reversed(kind.__mro__) if not _is_of_torch(base)]
    methods: dict[str, list[FunctionType]] = {}
    for base in own:
        for name, method in vars(base).items():
            function = getattr(method, "__func__", getattr(method, "fget", method))
            if isinstance(function, FunctionType):
                methods.setdefault(name, []).append(function)
    found, new = set[str](), {"forward"}
    while new:
        found |= new
        named = [names_in(m.__code__) for name in new for m in methods.get(name, [])]
        new = set[str]().union(*named) - found
    if "getattr" in found:
        found = methods.keys() - {"__init__"}
    return [m for name in found for m in methods.get(name, [])]


def _builds(code: CodeType, scope: Mapping[str, Any]) -> bool:
    """Whether code makes a tuple, list or dict, or an object, itself or by a function it calls."""
    if any(op.opname in _BUILDING for op in dis.get_instructions(code)):
        return True
    called = [scope.get(name) for name in names_in(code)]
    foreign = [
        f
        for f in called
        if isinstance(f, FunctionType) and f.__code__ is not code and not _is_of_torch(f)
    ]
    if any(isinstance(f, type) and not issubclass(f, nn.Module) for f in called):
        return True
    return bool(foreign) or any(isinstance(c, CodeType) for c in code.co_consts)


def _is_of_torch(thing: Any) -> bool:
    return thing.__module__.partition(".")[0] == "torch"


def names_in(code: CodeType) -> set[str]:
    """The names of attributes and globals in a piece of code and the functions inside it."""
    inner = (names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names}.union(*inner)


# class -> what a module of it without children returns in training mode, by its plain attributes.
_KNOWN: WeakKeyDictionary[type, dict[Hashable, str | None]] = WeakKeyDictionary()


def _form_in_training(call: Call) -> str | None:
    """What a module returns in training mode; None where it cannot be run like this."""
    module, plain = call.module, (bool, int, float, str, type(None))
    values = {name: value for name, value in vars(module).items() if name[0] != "_"}
    odd = [v for v in values.values() if type(v) not in plain]
    if odd or module._modules or module._forward_hooks or module._forward_pre_hooks:
        return _tried_in_training(call)
    known = _KNOWN.setdefault(type(module), {})
    key = (_form((call.args, call.kwargs)), *sorted(values.items()))
    if key not in known:
        known[key] = _tried_in_training(call)
    return known[key]


def _tried_in_training(call: Call) -> str | None:
    """What a copy returns in training mode."""
    twin = full_twin(call.module)
    twin.train()
    args, kwargs = map_tensors((call.args, call.kwargs), lambda t: t.detach().clone())
    try:
        with torch.inference_mode(False), torch.no_grad():
            return settled(lambda: _form(twin(*args, **kwargs)))
    except (Exception, SystemExit):  # a stranger's training may need targets, or values
        return None


def _form(value: Any) -> str:
    leaves, spec = pytree.tree_flatten(value)
    held = (list(vars(v).values()) if is_dataclass(v) else [] for v in leaves)
    forms = [
        (type(v).__name__, [_form(h) for h in inside])
        for v, inside in zip(leaves, held, strict=True)
    ]
    return f"{spec} {forms}"
