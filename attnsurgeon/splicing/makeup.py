"""What an inserted module is made of, to tell later whether it still is: class, sizes, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnsurgeon.forwards.retype import original_class
from attnsurgeon.recording.record import MARK

_PLAIN = (bool, int, float, str, type(None))
_MODES = frozenset({"training"})  # of nn.Module; no setting of the module


@dataclass(frozen=True)
class Makeup:
    """A module without its values.

    Attributes:
        kind: its class.
        tensors: name -> shape of every parameter and buffer.
        settings: name -> value of the plain attributes that it and its parts have. Those of
            torch's own layers are left out, as trainers set them (the momentum of a norm), and
            those of a user's, which may keep there what they last saw.
    """

    kind: str
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> Makeup:
        """Looks at a module; attention that was inserted into it later is no part of it."""
        tensors: dict[str, tuple[int, ...]] = {}
        settings: dict[str, Any] = {}
        for prefix, part in _parts(module, ""):
            for name, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is not None:
                    tensors[prefix + name] = tuple(tensor.shape)
            if not _is_a_layer_of_torch(part) and _is_ours(part):
                settings |= {
                    prefix + name: value
                    for name, value in vars(part).items()
                    if name not in _MODES and not name.startswith("_") and _is_plain(value)
                }
        return cls(class_of(module), tensors, settings)

    def differences(self, now: Makeup) -> list[str]:
        """Says what is no longer as it was."""
        if now.kind != self.kind:
            return [f"it is a {now.kind}, and was a {self.kind}"]
        return [
            *_changes(self.tensors, now.tensors, "the shape"),
            *_changes(self.settings, now.settings, "the value"),
        ]


def class_of(module: nn.Module) -> str:
    """The name of a module's class, before surgery in it."""
    kind = original_class(module)
    return f"{kind.__module__}.{kind.__qualname__}"


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None and child.__dict__.get(MARK) is None:
            yield from _parts(child, f"{prefix}{name}.")


def _is_a_layer_of_torch(module: nn.Module) -> bool:
    bases = set(type(module).__mro__) - {nn.Module, object}
    return any(base.__module__.startswith("torch.") for base in bases)


def _is_ours(module: nn.Module) -> bool:
    return original_class(module).__module__.startswith("attnsurgeon.")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> Iterator[str]:
    for name, value in then.items():
        if name not in now:
            yield f"{name} is gone"
        elif now[name] != value:
            yield f"{name} has {what} {now[name]}, and had {value}"
    yield from (f"{name} is new" for name in now if name not in then)
