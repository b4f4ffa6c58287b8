"""An example input, as users give it -> its form."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.recording.inputs import InputForm, Inputs, TensorForm
from attnsurgeon.sizes import MAX_ELEMENTS

PLAIN = (type(None), bool, int, float, str)
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128),
    )
}
_DEEPEST = 6  # a record of surgery holds about ten
_TAKEN = "tensors, numbers, strings and None, in lists, tuples and dicts"


def form_of_example(example: Any, model: nn.Module) -> InputForm:
    """Returns the form of an example input as users give it.

    A tuple is the positional arguments, anything else the only one. A dict, alone or at the
    end of a tuple, whose keys are names of the forward's parameters is keyword arguments.

    Raises:
        ModelError: it holds something that no form can describe, no tensor, or a keyword
            that the forward does not have.
    """
    if isinstance(example, InputForm):
        return example
    args, kwargs = arguments_of(example, model)
    form = InputForm(
        tuple(_described(value, f"[{at}]") for at, value in enumerate(args)),
        {str(name): _described(value, f".{name}") for name, value in kwargs.items()},
    )
    refuse_senseless(form)
    return form


def arguments_of(example: Any, model: nn.Module) -> Inputs:
    """Returns the arguments that an example input stands for (see `form_of_example`)."""
    args = example if _is_tuple(example) else (example,)
    kwargs: Mapping[str, Any] = {}
    if args and isinstance(args[-1], Mapping) and _are_keywords(args[-1], args[:-1], model):
        args, kwargs = args[:-1], args[-1]
    return Inputs(args, dict(kwargs))


def refuse_senseless(form: InputForm) -> None:
    """Refuses a form without a tensor, or larger than any input."""
    if not form.tensors:
        raise ModelError(
            "there is no tensor in the example input",
            "give what the forward is called with: example=(image, timestep)",
        )
    if sum(math.prod(t.shape) for t in form.tensors) > MAX_ELEMENTS:
        raise ModelError("the example input is too large", f"up to {MAX_ELEMENTS:,} numbers in all")


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and not hasattr(value, "_fields")


def _are_keywords(found: Mapping[Any, Any], before: tuple[Any, ...], model: nn.Module) -> bool:
    """Whether a dict is keyword arguments, by the names of the parameters that are left for it."""
    try:
        known = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled forward has none to read
        return False
    anything = any(p.kind is p.VAR_KEYWORD for p in known)
    placed = [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in (*placed[: len(before)], *placed) if p.kind is p.POSITIONAL_ONLY}
    named = (p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    left = {p.name: p for p in named if p not in placed[: len(before)] and p.name not in taken}
    if not found or not all(isinstance(key, str) for key in found):
        return False
    unknown = [key for key in found if key not in left]
    if not unknown:
        return True
    if anything:
        return all(p.default is not p.empty or p.name in found for p in left.values())
    if len(unknown) < len(found):
        raise ModelError(
            f"the forward of this {type(model).__name__} takes no argument {unknown[0]!r}",
            nearest(unknown[0], left),
        )
    return False


def _described(value: Any, at: str, depth: int = 0) -> Any:
    """A value with the forms of its tensors; `at` is where it stands, for errors."""
    if depth > _DEEPEST:
        raise ModelError(f"the example input is nested more than {_DEEPEST} levels deep")
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.dtype not in DTYPES.values():
            raise ModelError(f"example{at} is a tensor of another kind than numbers in a row")
        return TensorForm.of(value)
    if type(value) in PLAIN:
        return value
    if isinstance(value, list) or _is_tuple(value):
        found = (_described(one, f"{at}[{i}]", depth + 1) for i, one in enumerate(value))
        return list(found) if isinstance(value, list) else tuple(found)
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {k: _described(one, f"{at}[{k!r}]", depth + 1) for k, one in value.items()}
    raise ModelError(
        f"example{at} is of type {type(value).__name__}",
        f"an example input is made of {_TAKEN}"
        + ("; torch.from_numpy makes a tensor" if type(value).__module__ == "numpy" else ""),
    )
