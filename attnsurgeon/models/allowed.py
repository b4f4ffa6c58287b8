"""The names a whole pickled network asks for -> inert stand-ins, for those that are networks.

A list of allowed classes would not make such a file safe. What is allowed may also be *called* by
the file, with arguments of its choice, and the constructors of networks are not harmless: a YOLO
evaluates texts of its configuration. So nothing of a library is handed to the unpickler, not even
for a name that is allowed. Each allowed name gets a class of its own that takes any arguments, does
nothing with them and keeps what it is told to keep. Whatever the file does with it, no code of
anybody runs; and of a network only the names and tensors are wanted.

Names that are no class of networks are refused all the same, so that what is hidden is named.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Where the installed libraries keep the classes that networks are made of.
_HOMES = (
    "torch.nn.modules",
    "timm.layers",
    "timm.models",
    "torchvision.models",
    "torchvision.ops",
    "transformers.activations",
    "transformers.models",
    "ultralytics.nn",
)
# What stands beside the layers of networks that these libraries build and save. Functions, too:
# their stand-ins are not called by us, and do nothing when the file calls them.
_BESIDE = frozenset(
    [
        "attnsurgeon.models.provenance.Source",  # what `load_model` notes on a network
        "_codecs.encode",  # how numpy writes its bytes
        "builtins.getattr",  # ultralytics saves bound methods
        "functools.partial",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "timm.layers.format.Format",
        "torch._C._nn.gelu",
        "torchvision.models.detection._utils.BalancedPositiveNegativeSampler",
        "torchvision.models.detection._utils.BoxCoder",
        "torchvision.models.detection._utils.BoxLinearCoder",
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.ops.boxes.box_iou",
        "ultralytics.utils.IterableSimpleNamespace",
    ]
)
_CONFIG = re.compile(r"transformers\.models\.\w+\.configuration_\w+\.\w+Config")


class Husk:
    """What is left of an object of a pickled network: the attributes that the file sets.

    Attributes:
        called: the full name of the class it stands for.
        attributes: what was set, by name.
    """

    called = ""
    attributes: Mapping[str, Any] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Husk:
        """Takes whatever the class would be called with."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # Beside, not into, the object's own attributes: a file could name a method there.
        self.attributes = dict(state) if isinstance(state, dict) else {}

    @property
    def is_network(self) -> bool:
        """Whether it stands for an nn.Module."""
        return all(isinstance(self.attributes.get(kind), dict) for kind in _KINDS)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors by the keys that the network itself would give them."""
        return dict(_tensors(self, ""))


_KINDS = ("_parameters", "_buffers", "_modules")


def _tensors(network: Husk, prefix: str) -> Iterator[tuple[str, Tensor]]:
    held = network.attributes
    for kind in _KINDS[:2]:
        left_out = held.get("_non_persistent_buffers_set", ()) if kind == "_buffers" else ()
        for name, tensor in held[kind].items():
            if isinstance(tensor, Tensor) and name not in left_out:
                yield f"{prefix}{name}", tensor
    for name, child in held["_modules"].items():
        if isinstance(child, Husk) and child.is_network:
            yield from _tensors(child, f"{prefix}{name}.")


@contextlib.contextmanager
def allowing(entries: Iterable[Any]) -> Iterator[None]:
    """Let `torch.load(weights_only=True)` take these inside, and nothing that others allowed it.

    What a program has once declared safe is so for all of its files: ultralytics does that with its
    own classes.
    """
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(entries))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def stand_ins(names: Iterable[str]) -> list[tuple[type[Husk], str]]:
    """Return what `allowing` is to be given for the names of a file.

    Args:
        names: as `get_unsafe_globals_in_checkpoint` lists them.

    Returns:
        A class and the name it stands for, of each name that is allowed; none of any other.
    """
    return [(_husk(name), name) for name in names if is_allowed(name)]


def _husk(name: str) -> type[Husk]:
    return type(name.rpartition(".")[2], (Husk,), {"called": name})


def is_allowed(name: str) -> bool:
    """Tell whether a name is a layer or network of an installed library, or stands beside one.

    A name says what it is only by what it finds, so it is looked up: a function, and a class that
    is no nn.Module, are not allowed though they stand in the same files.
    """
    if name in _BESIDE:
        return True
    if not name.startswith(tuple(f"{home}." for home in _HOMES)):
        return False
    found = _found(name)
    if not isinstance(found, type):
        return False
    # A class that was only imported into the file has its own home, which counts.
    return issubclass(found, nn.Module) or bool(_CONFIG.fullmatch(name))


def _found(name: str) -> Any:
    """What a module of a library defines under a name; nothing is looked up deeper than that."""
    home, _, last = name.rpartition(".")
    if "__" in name:  # a module that runs on import (`__main__`), a private corner of Python
        return None
    try:
        module = importlib.import_module(home)
    except ImportError:
        return None
    return vars(module).get(last)
