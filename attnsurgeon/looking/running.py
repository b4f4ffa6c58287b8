"""Operated network -> a twin that runs on pictures, on the device asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, UsageError, nearest
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.models.preprocessing import Preprocessing, preprocessing_of
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.trace import as_taken
from attnsurgeon.recording.twin import full_twin, shared_twin
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.selecting import operated_in


@dataclass(frozen=True, eq=False)
class Runner:
    """A network in eval mode, to be run on pictures; the one that was given stays as it is.

    Attributes:
        network: the twin.
        device: where it is.
    """

    network: nn.Module
    device: torch.device

    @classmethod
    def of(cls, model: nn.Module, device: str | torch.device | None = None) -> Runner:
        """Makes one around the weights of a network, or on another device around a copy of them.

        Args:
            model: an operated network, or what stands around it.
            device: "cpu", "cuda:1", ...; None for where the weights are.

        Raises:
            UsageError: there is no such device, or no attention in the network.
            ModelError: the network has no weights.
        """
        operated_in(model)
        tensors = (*model.parameters(), *model.buffers())
        there = next((t.device for t in tensors if t.is_floating_point()), torch.device("cpu"))
        wanted = there if device is None else device_called(device)
        if there.type == "meta":
            raise ModelError(
                "the network is on the meta device, where there are no values to look at",
                "load its weights first: to_empty and load_state_dict, or attnsurgeon.load",
            )
        twin = shared_twin(model) if wanted == there else full_twin(model).to(wanted)
        return cls(twin.eval(), wanted)

    def beside(self, model: nn.Module) -> Runner:
        """Returns one of another network, be there attention in it or not, on the same device."""
        parameters = (p.device == self.device for p in model.parameters())
        twin = shared_twin(model) if all(parameters) else full_twin(model).to(self.device)
        return Runner(twin.eval(), self.device)

    def taken(self, x: Tensor) -> Tensor:
        """Returns an input as the network takes it: where its weights are, and of their type."""
        return as_taken(x, self.network).to(self.device)

    def __call__(self, x: Tensor) -> Any:
        """Runs the network, without gradients.

        Raises:
            ModelError: it does not run on this input.
        """
        with torch.no_grad():
            return guarded(lambda: self.network(x), lambda error: _does_not_run(x, error))


def _does_not_run(x: Tensor, error: BaseException) -> ModelError:
    size = " x ".join(map(str, x.shape[2:]))
    return ModelError(
        f"the network does not run on images of {size}: {quote(error)}",
        "name the size it takes: image_size=(224, 224)",
    )


def device_called(name: str | torch.device) -> torch.device:
    """Returns a device that is there.

    Raises:
        UsageError: it is not; the hint names those that are.
    """
    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        there += [str(kind), *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
    if str(name) not in there:
        raise UsageError(f"there is no device {str(name)!r} here", nearest(str(name), there))
    return torch.device(name)


def image_form(model: nn.Module) -> InputForm:
    """Returns the form of the one image that a network takes.

    Raises:
        UsageError: it takes something else.
    """
    _, network = operated_in(model)
    form = recorded_form(history(network)[-1])
    alone = len(form.args) == 1 and not form.kwargs and len(form.tensors) == 1
    if not alone or len(form.tensors[0].shape) != 4 or form.args[0] is not form.tensors[0]:
        sizes = ", ".join(str(tuple(t.shape)) for t in form.tensors)
        raise UsageError(
            f"the network takes {sizes}, and a picture is one input of (N, C, H, W)",
            "hand over the input itself: attnsurgeon.gates(model, x)",
        )
    return form


def picture_preprocessing(
    model: nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
) -> Preprocessing:
    """Returns how an operated network wants its pictures, with what the user says instead.

    Raises:
        UsageError: it takes no pictures, or these are no such numbers.
    """
    channels, *sides = image_form(model).tensors[0].shape[1:]
    found = preprocessing_of(operated_in(model)[1], sides)
    return found.changed(mean=mean, std=std, image_size=image_size).of_channels(channels)
