"""A trace in progress -> where in the code it stands, and in which modes of torch.

Two graphs of one forward, of eval and of training mode, are matched by the places in the code
that made their operations; and what a place lies in (an autograd function, a checkpoint) may end
the trace.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType

import torch
import torch.utils.checkpoint
from torch import nn

from attnsurgeon.forwards.alignment import Untraceable
from attnsurgeon.forwards.privately import AN_AUTOGRAD_FUNCTION, PrivateTracer

Point = tuple[tuple[CodeType, int], ...]  # where in the code: each frame's code and instruction

_TRACE = PrivateTracer.trace.__code__
_TORCH_AND_OWN = (torch.__path__[0], __file__.rpartition("forwards")[0])
_CHECKPOINT = torch.utils.checkpoint.__file__


def stands_at(root: nn.Module) -> tuple[Point, str]:
    """The point in the code that makes a node, and the method of the traced module around it.

    Raises:
        Untraceable: it lies in an autograd function or under a checkpoint.
    """
    point: list[tuple[CodeType, int]] = []
    method = ""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not _TRACE:
        code = frame.f_code
        own = frame.f_locals.get("self") is root
        if code.co_name == "forward" and not own and code in _codes_of_autograd():
            raise Untraceable(AN_AUTOGRAD_FUNCTION)
        if code.co_filename == _CHECKPOINT:
            raise Untraceable("its forward runs a part of itself under a checkpoint")
        if not method and own:
            method = code.co_name
        point.append((code, frame.f_lasti))
        frame = frame.f_back
    return tuple(point), method or "forward"


def line_of_code() -> str:
    """File and line of the user's code that asks, as "block.py:31"."""
    frame = sys._getframe(1)
    while frame is not None and is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    assert frame is not None
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def is_foreign(file: str) -> bool:
    """Whether a file is torch's or this package's, not the user's."""
    return file.startswith(_TORCH_AND_OWN)


def _codes_of_autograd(kind: type = torch.autograd.Function) -> Iterator[CodeType]:
    """The code of every autograd function's forward; C calls it, so no frame tells of it."""
    forward = vars(kind).get("forward")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    if code is not None:
        yield code
    for further in kind.__subclasses__():
        yield from _codes_of_autograd(further)


def modes() -> tuple[bool, bool, int]:
    """Whether gradients and inference mode are on, and how deep autocast is nested."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), depth
