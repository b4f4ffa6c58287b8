"""What segmentation_models_pytorch registers: the classes of its segmenters, and their encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnsurgeon.errors import ModelError
from attnsurgeon.models.foreign import first_line, guarded

SMP = "segmentation_models_pytorch"
_INSTALL = 'pip install "attnsurgeon[smp]"'
_OF_TIMM = "tu-"  # before the name of a network that timm registers


def architecture(name: str) -> Any:
    """Return the class of a segmenter, or None where none of this name is registered."""
    found = _library().MODEL_ARCHITECTURES_MAPPING.get(name.lower())
    return found if found is not None and found.__name__ == name else None


def known_encoder(name: Any, known_to_timm: Callable[[str], bool]) -> bool:
    """Tell whether a name is an encoder of the library, or a network that timm registers."""
    if not isinstance(name, str):
        return False
    if name.startswith(_OF_TIMM):
        return known_to_timm(name.removeprefix(_OF_TIMM))
    return name in _library().encoders.encoders


def _library() -> Any:
    def found() -> Any:
        import segmentation_models_pytorch  # pyright: ignore[reportMissingImports]

        return segmentation_models_pytorch

    return guarded(found, _missing)


def _missing(error: BaseException) -> ModelError:
    if isinstance(error, ModuleNotFoundError) and error.name == SMP:
        return ModelError(f"this network needs {SMP}, which is not installed", _INSTALL)
    return ModelError(f"{SMP} cannot be imported: {first_line(error)}", _INSTALL)
