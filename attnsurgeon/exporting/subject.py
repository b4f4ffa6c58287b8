"""A network, and the inputs that an export of it is made with and compared on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from attnsurgeon.recording.inputs import InputForm, Inputs, TensorForm
from attnsurgeon.recording.record import tensors_in

_STEP = 32  # by which the sides of another size are larger: what networks halve five times


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        model: the network, in eval mode.
        given: the form of its input.
        batch: whether the file takes every batch size.
        sizes: whether it takes images of every size.
    """

    model: nn.Module
    given: InputForm
    batch: bool
    sizes: bool

    def example(self) -> Inputs:
        """Returns inputs to export with; axes that may change differ from each other."""
        form = self.given.at_batch(2 if self.batch else 1)
        return drawn(enlarged(form, 0, 1) if self.sizes else form)

    def dynamic_axes(self) -> tuple[Any, Any]:
        """Returns positional and keyword arguments with {axis: name} for each tensor."""
        form = self.given.at_batch(2)

        def axes(part: Any) -> Any:
            if not isinstance(part, TensorForm):
                return None
            found = {0: "batch"} if self.batch and part.shape[:1] == (form.batch,) else {}
            if self.sizes and is_image(part):
                found |= {axis: f"side{axis}" for axis in range(2, len(part.shape))}
            return found or None

        return tree_map(axes, (form.args, dict(form.kwargs)))

    def by_name(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """Returns arguments by the names that the forward gives them."""
        return dict(inspect.signature(self.model.forward).bind(*args, **kwargs).arguments)

    def tried(self) -> tuple[InputForm, ...]:
        """Returns the forms of inputs on which the file is compared with the network."""
        forms = [self.given.at_batch(1)]
        if self.batch:
            forms.append(self.given.at_batch(3))
        if self.sizes:
            forms.append(enlarged(self.given.at_batch(3 if self.batch else 1), 1, 2))
        return tuple(forms)

    def expected(self, inputs: Inputs) -> list[Tensor]:
        """Returns what the network computes."""
        with torch.no_grad():
            return list(tensors_in(inputs.feed(self.model)))


def drawn(form: InputForm) -> Inputs:
    """Returns random inputs of a form, the same at every call."""
    return form.drawn(torch.Generator().manual_seed(form.batch), torch.randn)


def is_image(part: TensorForm) -> bool:
    """Says whether a tensor is a map: (N, C, H, W) or (N, C, D, H, W), of fractions."""
    return len(part.shape) in (4, 5) and part.dtype.is_floating_point


def enlarged(form: InputForm, *steps: int) -> InputForm:
    """Returns the form with the last two sides of images so many times 32 larger."""

    def changed(part: TensorForm) -> TensorForm:
        if not is_image(part):
            return part
        *ahead, height, width = part.shape
        sides = (height + _STEP * steps[0], width + _STEP * steps[1])
        return replace(part, shape=(*ahead, *sides))

    return form.mapped(changed)
