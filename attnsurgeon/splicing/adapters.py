"""A layer that holds attention -> the same, which no adapter is put around.

PEFT's adapters (LoRA and its kin) compute beside a layer what is to be merged into its weight
later. Around a layer that holds attention that would be computed beside the attention, and after
merging within it: other outputs, without a word. Before an adapter stands around a layer it looks
whether the layer is one itself, by the name under which adapters have their layer. That answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.retype import extended, original_class
from attnsurgeon.recording.record import MARK

_NAME = "base_layer"  # under which an adapter has the layer that it stands around
_SOURCE = (
    f"{_NAME} = NO_ADAPTER\n\n\n"
    # Who only lists the members of a module is to see none of it.
    "def __dir__(self):\n"
    f"    return [name for name in type(self)._surgeon_base.__dir__(self) if name != '{_NAME}']\n"
)


class _NoAdapter:
    """What an adapter finds where it asks for the layer in another adapter."""

    def __get__(self, module: Any, kind: type | None = None) -> Any:
        if module is None:
            return self
        marks = [child.__dict__.get(MARK) for child in module._modules.values() if child]
        held = " and ".join(f"{mark.attn} for {mark.site}" for mark in marks if mark is not None)
        raise ModelError(
            f"this {original_class(module).__name__} holds attention ({held}): an adapter around it"
            " would act beside the attention, and differently once it is merged",
            "leave this layer out, by target_modules or exclude_modules of the adapter's config;"
            " attention itself is trained by modules_to_save, or whole",
        )


NO_ADAPTER = _NoAdapter()


def refuse_adapters(hosts: Iterable[nn.Module]) -> None:
    """Lets layers with weights of their own that hold attention refuse an adapter around them."""
    for host in hosts:
        if host._parameters and all(MARK in child.__dict__ for child in host.children()):
            extended(host, (_SOURCE,), (("NO_ADAPTER", __name__, "NO_ADAPTER"),))
