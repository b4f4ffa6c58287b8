"""The state around a call -> a known one inside it, and the caller's again after it.

Whoever calls may have switched gradients off, stand inside autocast or inference mode, or have set
another default device or type. None of that is a property of the network: a plan, a price and a
verification are the same everywhere, and what is made is an ordinary, trainable network.

Only what belongs to this thread is switched. Of what belongs to the process, the default type is
left as it is and answered for here; deterministic algorithms and anomaly mode decide nothing.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.global_hooks import without_global_hooks
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import tensors_in

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


@contextlib.contextmanager
def known_state(*, own_dice: bool = True) -> Iterator[None]:
    """Runs what is inside in the state that torch starts with; also a decorator.

    A `sys.exit()` in a network's code ends that code, not the program.

    Args:
        own_dice: let torch's functions draw from generators of this call. A network that is built
            for its user draws from the program's, as any factory does; what is exported or timed
            must not run under a mode.

    Raises:
        ModelError: the code of a network wanted to end the program.
    """
    with contextlib.ExitStack() as state:
        state.enter_context(torch.inference_mode(False))
        state.enter_context(torch.enable_grad())
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                state.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            state.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            state.enter_context(_SinglePrecision())
        state.enter_context(without_global_hooks())
        if own_dice:
            state.enter_context(OwnDice())
        try:
            yield
        except SystemExit as stopped:
            raise ended(stopped) from stopped


def ended(stopped: SystemExit) -> ModelError:
    """The error for a network whose code calls `sys.exit()`."""
    frames = traceback.extract_tb(stopped.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return ModelError(
        f"the network's code ended the program: sys.exit({stopped.code!r}){place}",
        "let it raise an exception that says what it lacks; sys.exit() belongs into a script",
    )


class _SinglePrecision(TorchFunctionMode):
    """Lets float32 be the default type, in this thread: the default itself is the process's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        default = torch.get_default_dtype()
        if not isinstance(made, Tensor) or made.dtype != default or func is _DOUBLE.get(default):
            return made
        given = list(tensors_in((args, kwargs)))
        if any(t.is_floating_point() or t.is_complex() for t in given) or _names_a_type(
            args, kwargs
        ):
            return made
        if given:  # of two integers, say
            return made.to(torch.float32)
        return func(*args, **{**kwargs, "dtype": torch.float32})


_DOUBLE = {
    torch.float64: Tensor.double,
    torch.float16: Tensor.half,
    torch.bfloat16: Tensor.bfloat16,
}


def _names_a_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a type is asked for, or comes with the data (a numpy array's)."""
    values = (*args, *kwargs.values())
    plain = (v for v in values if not isinstance(v, Tensor))
    return any(isinstance(v, torch.dtype) or hasattr(v, "dtype") for v in plain)
