"""Where a base network came from -> the expression that builds it, in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.exporting.code.bundle import Bundle
from attnsurgeon.models import Source
from attnsurgeon.models.imports import import_file
from attnsurgeon.models.torchvision_names import arguments_of_no_download
from attnsurgeon.models.user_code import find_code

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Base:
    """How the file builds the base network.

    Attributes:
        expression: that builds it, with random weights.
        package: what has to be installed, or lie beside the file; "" for nothing.
        words: what it is, for the head of the file.
        file: of the user's, where the base is built by one.
    """

    expression: str
    package: str
    words: str
    file: Path | None = None


def own_file(source: Source) -> Path | None:
    """Returns the user's file that builds a base network, None where a library does."""
    left, colon, _ = source.spec.rpartition(":")
    return Path(left).expanduser().resolve() if colon and left.endswith(".py") else None


def built(source: Source, bundle: Bundle) -> Base:
    """Returns how a base network is built in the file that `bundle` is for.

    Raises:
        ModelError: no call of a library or of the user's code builds it.
    """
    given = dict(source.model_args)
    family, colon, name = source.spec.partition(":")
    if not colon or family == "timm":
        name = name or family
        bundle.imported("timm")
        return Base(_call("timm.create_model", repr(name), given), "timm", f"timm's {name}")
    if family == "torchvision":
        bundle.imported("torchvision.models", "get_model")
        args = {**arguments_of_no_download(name), **given}
        call = _call("get_model", repr(name), args)
        return Base(call, "torchvision", f"torchvision's {name}")
    left, _, factory = source.spec.rpartition(":")
    if family in ("hf-hub", "hf_hub", "transformers", "ultralytics"):
        raise ModelError(
            f"a network of {family} is built from files of its own, which no call names",
            "export it to torch-export or onnx; or save it from a factory of yours",
        )
    thing, _ = find_code(source.spec, "a network")
    if isinstance(thing, nn.Module):
        raise ModelError(
            f"{source.spec} is a network already built, so no call builds another",
            "name a function that returns it, or its class",
        )
    own = own_file(source)
    top, _, rest = factory.partition(".")
    name = bundle.need(import_file(own).__name__ if own is not None else left, top)
    called = f"{name}.{rest}" if rest else name
    words = f"{factory} of {own.name if own is not None else left}"
    package = "" if own is not None else left.partition(".")[0]
    return Base(_call(called, "", given), package, words, own)


def _call(function: str, first: str, given: dict[str, Any]) -> str:
    parts = [first] if first else []
    for name, value in given.items():
        parts.append(f"{name}={literal(value)}")
    return f"{function}({', '.join(parts)})"


def literal(value: Any) -> str:
    """Returns the text of a plain value.

    Raises:
        ModelError: it is none that a file can hold.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(literal, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    raise ModelError(f"an argument of type {type(value).__name__} cannot be written out")
