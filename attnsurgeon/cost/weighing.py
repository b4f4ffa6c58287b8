"""Model + inputs -> Weight: parameters, MACs and activations of one forward, on the meta device.

The forward runs on a twin in eval mode: no weights, no gradients, no memory.
"""

from __future__ import annotations

import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.cost.scale import Scale
from attnsurgeon.cost.weight import Weight
from attnsurgeon.errors import ModelError
from attnsurgeon.recording.caches import caches_as_they_were
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.trace import as_taken
from attnsurgeon.recording.twin import meta_twin, shared_twin


def weigh(model: nn.Module, inputs: tuple[Any, ...]) -> Weight:
    """Counts what one forward of `model` in eval mode costs, without running it on numbers.

    A network that looks at values (a detector keeps the boxes that score) is run on random
    values instead, on its own device and around its own weights; `notes` says so.

    Args:
        model: the network, on any device; only twins of it are run.
        inputs: the positional inputs, on any device, usually of batch size 1.

    Raises:
        ModelError: the network cannot be run on these inputs.
    """
    twin = meta_twin(model).eval()
    try:
        return weigh_twin(twin, map_tensors(inputs, _on_meta))
    except Exception as error:  # a stranger's forward may raise anything; the real run decides
        why = _in_short(error)
    parameters = list(model.parameters())
    if any(p.is_meta for p in parameters):
        raise ModelError(
            f"the network cannot be weighed on the meta device: {why}",
            "give an input of the size it takes; if its work depends on values, real weights",
        )
    device = parameters[0].device if parameters else torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    values = map_tensors(inputs, lambda t: _with_values(t, generator).to(device))
    note = f"counted on random values, the work depends on them ({why})"
    try:
        return weigh_twin(shared_twin(model).eval(), values, notes=(note,))
    except Exception as error:  # a stranger's forward may raise anything; it ends here
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(inputs))
        raise ModelError(
            f"the network cannot be run on an input of {shapes}: {_in_short(error)}",
            "give an input of the size it takes, channels first",
        ) from error


def weigh_twin(twin: nn.Module, inputs: tuple[Any, ...], *, notes: tuple[str, ...] = ()) -> Weight:
    """Counts one forward of a network the caller can spare, as it stands.

    Args:
        twin: a copy, best on meta and in eval mode; its forward may leave caches behind.
        inputs: on the same device; converted to the type of its weights.
        notes: to be carried by the result.
    """
    scale = Scale(twin)
    inputs = map_tensors(inputs, lambda t: as_taken(t, twin))
    device = next((t.device for t in tensors_in(inputs)), torch.device("cpu"))
    # Tensors that the forward makes without naming a device belong beside its inputs. The mode
    # behind this context also closes the fast path of nn.MultiheadAttention, one opaque operator.
    with caches_as_they_were(twin), torch.inference_mode(), device, scale.watching(), scale:
        twin(*inputs)
    return scale.weight(notes)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _with_values(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.is_floating_point():
        return torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor


def _in_short(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
