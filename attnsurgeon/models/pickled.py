"""A whole pickled network and the network built -> where the two differ, though weights agree.

A network is more than its weights: one whose pooling was replaced by an identity, or whose
activations were exchanged, has the same names and shapes and computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from attnsurgeon.models.files.stand_ins import Name, StandIn, modules_of
from attnsurgeon.models.settings import plain_settings

# A class of these is known by where it lives; one of somebody's own script lives elsewhere today.
_LIBRARIES = {
    "torch",
    "timm",
    "torchvision",
    "transformers",
    "ultralytics",
    "segmentation_models_pytorch",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def differences(saved: Any, prefix: str, built: nn.Module) -> list[str]:
    """Compare class and plain settings, path by path.

    A setting that only one of the two has says which version of a library made it; an Identity
    that only one has does nothing.

    Args:
        saved: the pickled network, a stand-in or a module.
        prefix: of the names of its weights that are the built network's.
        built: the network that the weights go into.
    """
    theirs = _below(prefix, _described(saved))
    ours = _described(built)
    found: list[str] = []
    for path in dict.fromkeys([*ours, *theirs]):
        was, now = theirs.get(path), ours.get(path)
        where = path or "the network itself"
        if was is None or now is None:
            only = was or now
            if only is not None and only.kind != "Identity":
                found.append(f"{where}: {only.called} only {'in the file' if was else 'here'}")
        elif not _same_class(was.called, now.called):
            found.append(f"{where}: {was.called} in the file, here {now.called}")
        else:
            found += [
                f"{where}.{name}: {_spelled(before)} in the file, here {_spelled(value)}"
                for name, value in plain_settings(now.attributes, function=_function).items()
                if _differs(before := was.setting(name), value)
            ]
            if was.hooked and not now.hooked:
                found.append(f"{where}: hooks on its forward only in the file")
    return found


def attention_in(saved: Any, prefix: str, built: nn.Module) -> list[str]:
    """Return the paths of attention that surgery put into a pickled network and not into ours.

    Args:
        saved, prefix, built: as for `differences`.
    """
    ours = _described(built)
    found = [
        path
        for path, one in _below(prefix, _described(saved)).items()
        if one.called.startswith("attnsurgeon.attention.") and path not in ours
    ]
    return [path for path in found if path.rpartition(".")[0] not in found]


def _below(prefix: str, described: dict[str, _Described]) -> dict[str, _Described]:
    """The part of a network whose names begin so, by its own paths."""
    root = prefix.removesuffix(".")
    return {
        path[len(root) :].removeprefix("."): one
        for path, one in described.items()
        if not root or path == root or path.startswith(prefix)
    }


_NONE = object()  # also of what is there and not plain


def _differs(one: Any, other: Any) -> bool:
    if one is _NONE:
        return False
    return one != other and not (one != one and other != other)  # NaN is NaN


class _Described:
    """A module as it is compared."""

    def __init__(self, called: str, attributes: Mapping[Any, Any]) -> None:
        self.called = called
        self.kind = called.rpartition(".")[2]
        self.attributes = attributes
        self.hooked = any(attributes.get(hooks) for hooks in _HOOKS)

    def setting(self, name: str) -> Any:
        """Returns a plain setting; `_NONE` where it has none of this name."""
        if name not in self.attributes:
            return _NONE
        return plain_settings({name: self.attributes[name]}, function=_function).get(name, _NONE)


def _described(network: Any) -> dict[str, _Described]:
    if isinstance(network, StandIn):
        return {p: _Described(_class_of(m), m.attributes) for p, m in modules_of(network)}
    return {
        path: _Described(_name(type(module)), vars(module))
        for path, module in network.named_modules(remove_duplicate=False)
    }


def _function(value: Any) -> str | None:
    """The name of a function or class among the settings, `relu` of torch.nn.functional.relu."""
    if isinstance(value, Name):
        return value.called.rpartition(".")[2]
    named = callable(value) and not isinstance(value, nn.Module)
    return getattr(value, "__name__", None) if named else None


def _class_of(module: StandIn) -> str:
    """The class of an object that a function makes, which is given the class: as surgery's is."""
    first = module.args[0] if module.args else None
    return first.called if isinstance(first, Name) else module.called


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _same_class(one: str, other: str) -> bool:
    homes = {one.partition(".")[0], other.partition(".")[0]}
    if one.startswith("__torch__."):  # TorchScript: its classes bear mangled names
        return True
    same_name = one.rpartition(".")[2] == other.rpartition(".")[2]
    return same_name and (len(homes) == 1 or homes.isdisjoint(_LIBRARIES))


def _spelled(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
