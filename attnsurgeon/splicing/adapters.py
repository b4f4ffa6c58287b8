"""A layer that holds attention -> the same, which no adapter is put around.

PEFT's adapters (LoRA and its kin) compute beside a layer what is to be merged into its weight
later. Around a layer that holds attention that would be computed beside the attention, and after
merging within it: other outputs, without a word. Around a layer of the attention that is never
called, for its weights are read, it would learn nothing, and change the outputs once it is merged.

Such layers have a class that answers for them. Torch tells of every module that is given to
another, and under which name: that under which adapters have their layer is refused. The name
itself is one that these layers do not have, for adapters ask every layer of a network for it where
they are merged.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnsurgeon.attention.reading import READ
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
    """Says of a class that its layers take no adapter around them."""

    def __set_name__(self, kind: type, name: str) -> None:
        """Such a class was made, by surgery or of a pickle: from now on adapters are watched."""
        _watch_adapters()

    def __get__(self, module: Any, kind: type | None = None) -> Any:
        """Answer as if nothing was there, to all but the class."""
        if module is None:
            return self
        raise AttributeError(_NAME)


NO_ADAPTER = _NoAdapter()


@functools.cache
def _watch_adapters() -> None:
    register_module_module_registration_hook(_refuse)


def _refuse(adapter: nn.Module, name: str, layer: nn.Module | None) -> None:
    """Take no adapter around a layer of such a class.

    Raises:
        ModelError: saying why.
    """
    if name != _NAME or layer is None or getattr(type(layer), _NAME, None) is not NO_ADAPTER:
        return
    kind = original_class(layer).__name__
    leave = "leave this layer out, by target_modules or exclude_modules of the adapter's config; "
    if READ in layer.__dict__:
        raise ModelError(
            f"this {kind} is never called: the attention that it is of reads its weights, and an"
            " adapter around it would compute nothing",
            f"{leave}attention is trained by modules_to_save, or whole",
        )
    marks = [child.__dict__.get(MARK) for child in layer._modules.values() if child]
    held = " and ".join(f"{mark.attn} for {mark.site}" for mark in marks if mark is not None)
    if held:
        raise ModelError(
            f"this {kind} holds attention ({held}): an adapter around it would act beside the"
            " attention, and differently once it is merged",
            f"{leave}attention itself is trained by modules_to_save, or whole",
        )


def refuse_adapters(hosts: Iterable[nn.Module]) -> None:
    """Lets layers refuse an adapter around them: those with weights of their own that hold
    attention, and in the attention those whose weights are read.
    """
    for host in hosts:
        parts = [child for child in host.children() if MARK in child.__dict__]
        if host._parameters and len(parts) == len(list(host.children())):
            _extend(host)
        for layer in [layer for part in parts for layer in part.modules()]:
            if READ in layer.__dict__:
                _extend(layer)


def _extend(layer: nn.Module) -> None:
    extended(layer, (_SOURCE,), (("NO_ADAPTER", __name__, "NO_ADAPTER"),))
