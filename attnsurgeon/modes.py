"""Call -> does the module return something of another form in training mode?

Of training there is no record. A forward that is traced for that mode is handed what its children
returned in eval mode, so a child that returns (output, auxiliary) only while it learns has to be
found before.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Hashable, Mapping
from dataclasses import is_dataclass
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils import _pytree as pytree

from attnsurgeon.meta import full_twin
from attnsurgeon.randomness import dice_as_they_were
from attnsurgeon.record import Call, map_tensors

_BUILDING = ("BUILD_TUPLE", "BUILD_LIST", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "BUILD_SET")


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
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    methods = [m for base in own for name, m in vars(base).items() if name != "__init__"]
    codes = [m.__code__ for m in methods if isinstance(m, FunctionType)]
    if not any("training" in names_in(code) for code in codes):
        return False
    return any(_builds(m.__code__, m.__globals__) for m in methods if isinstance(m, FunctionType))


def _builds(code: CodeType, scope: Mapping[str, Any]) -> bool:
    """Whether code makes a tuple, list or dict, or an object, itself or by a function it calls."""
    if any(op.opname in _BUILDING for op in dis.get_instructions(code)):
        return True
    called = [scope.get(name) for name in names_in(code)]
    foreign = [f for f in called if isinstance(f, FunctionType) and f.__code__ is not code]
    if any(isinstance(f, type) and not issubclass(f, nn.Module) for f in called):
        return True
    return bool(foreign) or any(isinstance(c, CodeType) for c in code.co_consts)


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
        with dice_as_they_were(), torch.inference_mode(False), torch.no_grad():
            return _form(twin(*args, **kwargs))
    except Exception:  # a stranger's training may need targets, or values
        return None


def _form(value: Any) -> str:
    leaves, spec = pytree.tree_flatten(value)
    held = (list(vars(v).values()) if is_dataclass(v) else [] for v in leaves)
    forms = [
        (type(v).__name__, [_form(h) for h in inside])
        for v, inside in zip(leaves, held, strict=True)
    ]
    return f"{spec} {forms}"
