"""Operated network -> one forward in which inserted modules are watched; then it is as before."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, SurgeonError, UsageError
from attnsurgeon.looking.following import Following, Sum
from attnsurgeon.recording.ambient import ended
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.randomness import settled

# (what it was given, what it gave, how that follows from it) -> nothing
Note = Callable[[tuple[Tensor, ...], Any, Following], None]


_HANGING = threading.Lock()


@contextlib.contextmanager
def watched(part: nn.Module, note: Note) -> Iterator[None]:
    """Lets every run of a module in this thread be followed, and told of as it ends.

    The module's own forward runs, under a mode that sees its functions. What calls it stands in the
    module's dict for the while, as `attnsurgeon.disabled` does it: no class, hook or key changes.
    """
    with _HANGING:
        watch = part.__dict__["forward"] = _Watch(part, note, part.__dict__.get("forward"))
    try:
        yield
    finally:
        with _HANGING:
            watch.take_away()


class _Watch:
    """The forward of a module while it is watched.

    Attributes:
        part: the module.
        before: what stood there, in front of the forward of its class; None for nothing.
    """

    def __init__(self, part: nn.Module, note: Note, before: Any) -> None:
        self.part = part
        self.before = before
        self._note = note
        self._thread = threading.get_ident()

    def __call__(self, *args: Any) -> Any:
        inner = self.before or type(self.part).forward.__get__(self.part)
        if threading.get_ident() != self._thread:
            return inner(*args)
        with Following(args) as following:
            made = inner(*args)
        self._note(args, made, following)
        return made

    def take_away(self) -> None:
        """Lets go of the module, whatever others have put in front of it meanwhile."""
        held = self.part.__dict__
        front = held.get("forward")
        if front is self:
            del held["forward"]
            if self.before is not None:
                held["forward"] = self.before
            return
        while front is not None and getattr(front, "before", None) is not self:
            front = getattr(front, "before", None)
        if front is not None:
            front.before = self.before


def run_once(model: nn.Module, inputs: Inputs, begin: Callable[[], None]) -> None:
    """Runs a network in the mode that it is in, without gradients, and leaves it as it was.

    Args:
        model: the network.
        inputs: the arguments of its forward.
        begin: called before the run; again before it is repeated, where others throw dice.

    Raises:
        ModelError: it cannot be run on these inputs.
    """
    if any(p.is_meta for p in model.parameters()):
        raise ModelError(
            "the network's weights are on the meta device, so it computes no numbers",
            "build it with its weights: attnsurgeon.load",
        )
    buffers = [(b, b.detach().clone()) for b in model.buffers()]

    def forward() -> None:
        begin()
        with torch.no_grad(), _uncompiled(model):
            inputs.feed(model)

    try:
        settled(forward)
    except SurgeonError:
        raise
    except SystemExit as stopped:
        raise ended(stopped) from stopped
    except Exception as error:  # a stranger's forward
        said = str(error).strip().splitlines()
        raise ModelError(
            f"the network cannot be run on this input: {type(error).__name__}"
            + (f": {said[0]}" if said else ""),
            "give what its forward takes: a tensor (N, C, H, W), or a tuple of its arguments",
        ) from error
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextlib.contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Lets what torch.compile made run as it was written: compiled code cannot be followed."""
    compiled = "torch._dynamo" in sys.modules and any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        yield


def factors_of(
    following: Following, values: Sequence[Tensor], made: Any
) -> tuple[list[Tensor] | None, ...] | None:
    """Returns what each value was multiplied by before all were added up; None where the output
    is something else.

    What is found is tried: the values times the factors are the output.
    """
    found: Sum | None = following.of(made)
    if found is None or not made.numel() or not made.is_floating_point():
        return None
    if any(values[number].shape != made.shape for number in found):
        return None
    total = torch.zeros_like(made)
    for number, factors in found.items():
        product = values[number]
        for factor in factors:
            product = product * factor
        total = total + product
    size = torch.stack([made.abs().amax(), *(values[n].abs().amax() for n in found)]).amax()
    near = 16 * torch.finfo(made.dtype).eps * size
    wrong = (total - made).abs() > near
    if bool(wrong.any()):
        return None
    return tuple(found.get(number) for number in range(len(values)))


def refuse_replicas(model: nn.Module) -> None:
    """Refuses what runs copies of the network, none of which is watched."""
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise UsageError(
            "DataParallel runs copies of the network in threads of its own, which are not watched",
            "give the network itself: model.module",
        )
