"""A file of weights -> its state dict, and what it was wrapped in; never running its code."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.allowed import Husk, allowing, is_allowed, stand_ins
from attnsurgeon.models.foreign import guarded
from attnsurgeon.models.suggestions import nearest_file

# In order of preference: like timm, the moving average where a checkpoint has one.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_AVERAGES = ("state_dict_ema", "model_ema", "ema")
_AGAIN = (
    "it may be incomplete: compare its size with the original and copy or download it again; read"
    " are .safetensors files and those of torch.save"
)


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file, before they are fitted to a network.

    Attributes:
        name: of the file.
        state: its tensors by key.
        unwrapped: the entries and objects that were opened to reach them, outermost first.
        attributes: of a whole pickled network, all that was saved of the object itself.
    """

    name: str
    state: dict[str, Any]
    unwrapped: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def description(self) -> str:
        """`checkpoint NAME`, and whether the weights are a moving average."""
        average = any(key in _AVERAGES for key in self.unwrapped)
        return f"checkpoint {self.name}{' (moving average)' if average else ''}"


def read_checkpoint(path: str | os.PathLike[str], unsafe_pickle: bool = False) -> Checkpoint:
    """Read a `.safetensors` or `torch.save` file; what it is, its first bytes decide.

    Of a whole pickled network of torch, timm, torchvision, transformers or ultralytics the weights
    are read without building it; see `allowed.py`.

    Args:
        path: of the file.
        unsafe_pickle: let the file execute code, and accept any whole pickled network.

    Raises:
        ModelError: there is no such file, it is something else, it is truncated, or it would
            execute code.
    """
    file = Path(path).expanduser()
    _refuse_missing(file, os.fspath(path))
    explain_unreadable = partial(_unreadable, file.name)
    head = guarded(lambda: _head(file), explain_unreadable)
    if _is_safetensors(head):
        from safetensors.torch import load_file

        loaded: Any = guarded(lambda: load_file(file), explain_unreadable)
    elif head.startswith((b"PK\x03\x04", b"\x80")):
        loaded = _torch_load(file, head, unsafe_pickle)
    else:
        raise _foreign_file(file, head)
    return _unwrap(loaded, file.name)


def _refuse_missing(file: Path, given: str) -> None:
    if file.is_dir():
        raise ModelError(
            f"checkpoint {given} is a folder",
            "name the file of weights in it; a network saved after surgery is read whole by"
            f" attnsurgeon.load({given!r})",
        )
    if "://" in given:
        raise ModelError(
            f"checkpoint {given} is an address, not a file",
            "download it first: nothing is fetched here",
        )
    if not file.is_file():
        raise ModelError(f"there is no checkpoint {given}", nearest_file(file))


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(512)


def _is_safetensors(head: bytes) -> bool:
    """Tell by the layout: eight bytes of length, then a JSON object of about that length."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000


def _torch_load(file: Path, head: bytes, unsafe_pickle: bool) -> Any:
    zipped = head.startswith(b"PK")
    if zipped:
        _refuse_other_archives(file)
    # torch goes by the name of a path it is given, so a misnamed file is given as a stream.
    misnamed = file.suffix == ".safetensors"
    # Mapped where that can be: an optimiser's state is then never read.
    load = partial(torch.load, map_location="cpu", mmap=zipped and not misnamed)
    with warnings.catch_warnings(), file.open("rb") as stream:
        # Of other protocols than torch's own; whether the file can be read is said below.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        source = stream if misnamed else file
        if unsafe_pickle:
            run = partial(load, source, weights_only=False)
            return guarded(run, partial(_unreadable, file.name))
        # timm's and many papers' training scripts leave their parsed arguments beside the
        # weights; a Namespace only holds attributes.
        wanted = _wanted(file) if zipped else []
        with allowing([argparse.Namespace, *stand_ins(wanted)]):
            run = partial(load, source, weights_only=True)
            return guarded(run, partial(_refused, file.name, wanted))


def _wanted(file: Path) -> list[str]:
    """Name the functions and classes that the pickle in a zip file asks for; none is imported."""
    with allowing([argparse.Namespace]):
        return guarded(
            lambda: torch.serialization.get_unsafe_globals_in_checkpoint(file),
            partial(_unreadable, file.name),
        )


def _refuse_other_archives(file: Path) -> None:
    """torch.save writes a zip with `data.pkl`; so many other things are zips."""
    names = guarded(lambda: _zip_names(file), partial(_unreadable, file.name))
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelError(
            f"{file.name} is a TorchScript archive, not a state dict",
            "save the weights alone: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelError(
            f"{file.name} is a zip archive without weights of torch.save (it holds {_some(names)})",
            "give the .safetensors or torch.save file itself",
        )


def _zip_names(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def _unreadable(name: str, error: BaseException) -> ModelError:
    hint = None if isinstance(error, OSError) else _AGAIN  # a permission is not a broken file
    # torch puts its reason below advice to read the file unsafely, which is not ours.
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return ModelError(f"checkpoint {name} cannot be read: {type(error).__name__}: {reason}", hint)


def _refused(name: str, wanted: list[str], error: BaseException) -> ModelError:
    """Tell code that would be executed from a file that is broken.

    torch's message names the first, of a pickled network its own class; the others are known of a
    zip file alone.
    """
    first = re.findall(r"(?<=GLOBAL )\S+(?= was not an allowed| whose module)", str(error))
    if not isinstance(error, pickle.UnpicklingError) or not first:
        return _unreadable(name, error)
    others = sorted(other for other in wanted if other not in first and not is_allowed(other))
    refused = _some([*first, *others])
    if any(other.startswith("torch.nn.modules.") for other in wanted):
        return ModelError(
            f"{name} is a whole pickled network, and unpickling it runs code that is no layer of a"
            f" known library: {refused}; nothing was run",
            "save its weights where it was made: torch.save(model.state_dict(), FILE); or, if you"
            " trust the file, unsafe_pickle=True (--unsafe-pickle)",
        )
    return ModelError(
        f"{name} wants to run code while it is read: {refused}; nothing was run",
        "save the state dict alone: torch.save(model.state_dict(), FILE); unsafe_pickle=True"
        " (--unsafe-pickle) runs it, so only for a file you trust",
    )


def _foreign_file(file: Path, head: bytes) -> ModelError:
    what = "starts with unknown bytes"
    hint = "give a .safetensors file or one written by torch.save"
    if not head:
        what, hint = "is empty", _AGAIN
    elif head.startswith(b"version https://git-lfs"):
        what = "is a git-lfs pointer, not the weights"
        hint = "run `git lfs pull` in its repository"
    elif head.lstrip()[:1] == b"<":
        what = "is a web page, not weights"
        hint = "download the file itself, not the page that shows it"
    elif not set(head) - set(range(32, 127)) - set(b"\t\n\r\f"):
        what = "is a text file, not weights"
    elif file.suffix == ".safetensors":
        what, hint = "is not what its name says: it has no safetensors header", _AGAIN
    return ModelError(f"checkpoint {file.name} {what}", hint)


def _unwrap(loaded: Any, name: str) -> Checkpoint:
    """Open wrappers, nested ones too, until the state dict itself is reached."""
    opened: list[str] = []
    attributes: Mapping[str, Any] = {}
    while True:
        if _is_network(loaded):
            kind = type(loaded).__name__
            opened.append(f"pickled {kind}")
            attributes = loaded.attributes if isinstance(loaded, Husk) else vars(loaded)
            loaded = guarded(loaded.state_dict, partial(_unreadable, name))
        if not isinstance(loaded, Mapping):
            kind = loaded.called if isinstance(loaded, Husk) else type(loaded).__name__
            raise ModelError(
                f"{name} holds a {kind}, not a state dict",
                "save the weights by name: torch.save(model.state_dict(), FILE)",
            )
        key = next((key for key in _WRAPPERS if _opens(loaded.get(key))), None)
        if _is_network(loaded.get("ema")):  # ultralytics, while it trains
            key = "ema"
        if key is None:
            break
        opened.append(key)
        loaded = loaded[key]
    if not all(isinstance(key, str) for key in loaded) or not _has_tensors(loaded):
        raise _no_weights_inside(loaded, name)
    return Checkpoint(name, dict(loaded), tuple(opened), attributes)


def _is_network(value: Any) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, Husk) and value.is_network)


def _opens(value: Any) -> bool:
    return _is_network(value) or (isinstance(value, Mapping) and len(value) > 0)


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _no_weights_inside(loaded: Mapping[Any, Any], name: str) -> ModelError:
    inner = [str(key) for key, value in loaded.items() if _has_tensors(value)]
    known = ", ".join(reversed(_WRAPPERS))
    hint = f"weights are looked for at the top and under {known}"
    if inner:
        hint += f"; save its entry {' or '.join(map(repr, inner))} alone"
    keys = _some([str(key) for key in loaded]) or "nothing"
    return ModelError(f"{name} holds no weights by name: it has {keys}", hint)


def _some(names: list[str], at_most: int = 5) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")
