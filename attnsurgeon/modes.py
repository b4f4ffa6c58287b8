"""Call -> does the module return something of another form in training mode?

Of training there is no record. A forward that is traced for that mode is handed what its children
returned in eval mode, so a child that returns (output, auxiliary) only while it learns has to be
found before.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from attnsurgeon.meta import full_twin
from attnsurgeon.randomness import dice_as_they_were
from attnsurgeon.record import Call, map_tensors


def changes_form(call: Call) -> str | None:
    """Names the module that returns another form in training mode; None where none does.

    Only a module whose own code names `training` is run: the others cannot tell.
    """
    if _looks_at_the_mode(type(call.module)):
        trained = _form_in_training(call)
        return call.path if trained not in (None, _form(call.output)) else None
    inside = (changes_form(event) for event in call.events if isinstance(event, Call))
    return next((path for path in inside if path is not None), None)


def _looks_at_the_mode(kind: type[nn.Module]) -> bool:
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.")]
    codes = (getattr(value, "__code__", None) for base in own for value in vars(base).values())
    return any("training" in names_in(code) for code in codes if code is not None)


def names_in(code: CodeType) -> set[str]:
    """The names of attributes and globals in a piece of code and the functions inside it."""
    inner = (names_in(const) for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names}.union(*inner)


def _form_in_training(call: Call) -> str | None:
    """What a copy returns in training mode; None where it cannot be run like this."""
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
