"""The forms that a network can be exported in, and which one the name of a file means."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from attnsurgeon.errors import UsageError, nearest


@dataclass(frozen=True)
class Form:
    """One form of file.

    Attributes:
        suffixes: what the names of its files end in; the first is the usual one.
        tolerance: how far it may be from the network, of the largest output.
        needs: packages that have to be installed.
    """

    suffixes: tuple[str, ...]
    tolerance: float
    needs: tuple[str, ...] = ()


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "torch-export": Form((".pt2",), 1e-5),
        "onnx": Form((".onnx",), 1e-4, _ONNX),
        "onnx-classic": Form((".onnx",), 1e-4, ("onnx", "onnxruntime")),
        "torchscript": Form((".torchscript", ".pt", ".ts"), 1e-5),
        "code": Form((".py",), 0.0),
    }
)
_BY_SUFFIX = {
    suffix: name for name, form in reversed([*FORMS.items()]) for suffix in form.suffixes
}  # of two forms of one suffix the first counts


def form_of(path: str | os.PathLike[str], to: str | None) -> str:
    """Returns the form of a file to write: the one that is asked for, else what its name means.

    Raises:
        UsageError: there is no such form, the name says another one, or nothing says which.
    """
    if to is not None and to not in FORMS:
        raise UsageError(f"{to!r} is not a form to export to", nearest(str(to), FORMS))
    suffix = Path(path).suffix
    said = _BY_SUFFIX.get(suffix.lower())
    if to is not None:
        if said is None or suffix.lower() in FORMS[to].suffixes:
            return to
        raise UsageError(
            f"{path} is {said} by its name, and what is asked for is {to}",
            f"call it {Path(path).with_suffix(FORMS[to].suffixes[0])}, or ask for no form",
        )
    if said is not None:
        return said
    ends = f"ends in {suffix}" if suffix else "ends in nothing"
    known = " or ".join(f"{own} ({name})" for own, name in sorted(_BY_SUFFIX.items()))
    raise UsageError(f"{path} {ends}, which names no form to export to", f"let it end in {known}")


def require(form: str) -> None:
    """Refuses a form whose packages are not installed.

    Raises:
        UsageError: with the extra that brings them.
    """
    missing = [name for name in FORMS[form].needs if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"exporting to {form} needs {', '.join(missing)}",
            'pip install "attnsurgeon[export]"; or write a .pt2 file, which needs nothing',
        )
