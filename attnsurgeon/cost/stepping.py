"""Model + inputs -> a forward or a training step of a copy, to be run again and again."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.caches import caches_as_they_were
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.twin import full_twin

Run = Callable[[], Any]


@contextlib.contextmanager
def forwards(models: tuple[nn.Module, ...], inputs: Inputs) -> Iterator[list[Run]]:
    """Gives a forward in eval mode for each network; it runs a copy."""
    with _copies(models) as twins, torch.inference_mode():
        yield [_forward(twin.eval(), _copied(inputs)) for twin in twins]


@contextlib.contextmanager
def steps(models: tuple[nn.Module, ...], inputs: Inputs) -> Iterator[list[Step]]:
    """Gives a training step for each network; it runs a copy in training mode."""
    with _copies(models) as twins:
        yield [Step(twin.train(), _copied(inputs)) for twin in twins]


class Step:
    """Forward, backward and zero_grad; its gradients come from random ones of the outputs.

    Args:
        twin: the network, which the caller can spare.
        inputs: of its device and type.
    """

    def __init__(self, twin: nn.Module, inputs: Inputs) -> None:
        self._twin, self._inputs = twin, inputs
        self._from: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    @property
    def held(self) -> Iterator[Tensor]:
        """What is there without a step."""
        yield from self._twin.parameters()
        yield from self._twin.buffers()

    def __call__(self) -> None:
        """Makes one step.

        Raises:
            ModelError: nothing that the network returns can be differentiated.
        """
        made = tensors_in(self._inputs.feed(self._twin))
        outputs = [tensor for tensor in made if tensor.requires_grad]
        if not outputs:
            raise ModelError("nothing that it returns in training mode depends on its parameters")
        torch.autograd.backward(outputs, [self._gradient(tensor) for tensor in outputs])
        self._twin.zero_grad()

    def _gradient(self, output: Tensor) -> Tensor:
        """The same each time: what is drawn takes time, and a mean's equal ones are a case of its
        own, which a norm makes zeros of.
        """
        if output.layout is not torch.strided:
            return torch.ones_like(output.detach())
        kind = output.shape, output.dtype
        if kind not in self._from:
            generator = torch.Generator().manual_seed(len(self._from))
            drawn = torch.randn(output.shape, dtype=output.dtype, generator=generator)
            self._from[kind] = drawn.to(output.device)
        return self._from[kind]


def in_short(error: BaseException) -> str:
    """Returns what a network raised, in one line."""
    said = str(error).strip().split("\n")[0]
    name = "" if isinstance(error, ModelError) else f"{type(error).__name__}: "
    return textwrap.shorten(f"{name}{said}", 200, placeholder=" ...")


@contextlib.contextmanager
def _copies(models: tuple[nn.Module, ...]) -> Iterator[list[nn.Module]]:
    """Copies that keep no cache in the code of their classes: it may be of inference mode."""
    with contextlib.ExitStack() as caches:
        for model in models:
            caches.enter_context(caches_as_they_were(model))
        yield [full_twin(model) for model in models]


def _copied(inputs: Inputs) -> Inputs:
    """Inputs of its own: a network may change them in place."""
    return map_tensors(inputs, lambda tensor: tensor.detach().clone())


def _forward(twin: nn.Module, inputs: Inputs) -> Run:
    return lambda: inputs.feed(twin)
