"""A network -> the size of the input it wants, where it says so, and guesses where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from attnsurgeon.models.provenance import source_of

_SIDES = (224, 32, 28, 64, 256, 299, 384, 512, 448, 518, 128, 1024)
# Frames first, as video networks take them, then the cubes of volumes.
_VOLUMES = ((16, 112, 112), (16, 224, 224), (32, 32, 32), (64, 64, 64), (96, 96, 96))


def input_size_of(model: nn.Module) -> tuple[int, ...] | None:
    """Return the (C, H, W) a network itself names, as it was built; None if it names none.

    timm's networks carry the size of their weights' training in `pretrained_cfg`; arguments such
    as `in_chans` and `img_size` may have changed it since. `image_size` is how torchvision's and
    Hugging Face's transformers say it, `imgsz` among their `args` how YOLOs of ultralytics do.
    """
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = _read(config, "input_size")
    if size is not None:
        return (input_channels(model, size[0]), *(_image_size(model) or tuple(size[1:])))
    sides = _pair(getattr(model, "image_size", None)) or _pair(
        _read(getattr(model, "config", None), "image_size")
    )
    sides = sides or _pair(_read(getattr(model, "args", None), "imgsz"))
    return None if sides is None else (_first_convolution(model)[0] or 3, *sides)


def guess_input_sizes(model: nn.Module) -> list[tuple[int, ...]]:
    """Return sizes worth trying, (C, H, W) or (C, D, H, W), likeliest first.

    Channels and rank are those of the first convolution; a network without one is taken for an
    image network of 3 channels.
    """
    channels, rank = _first_convolution(model)
    channels = channels or 3
    sides = _VOLUMES if rank == 3 else tuple((side,) * rank for side in _SIDES)
    native = input_size_of(model)
    guesses = [native] if native else []
    guesses += [(channels, *side) for side in sides]
    return list(dict.fromkeys(guesses))


def input_channels(model: nn.Module, declared: int) -> int:
    """Return the input channels of a network whose configuration declares some.

    timm before 1.0.28 or so does not write down `in_chans`. Then the first convolution tells,
    unless it stands behind a stem that folds 4 x 4 pixels into channels, as TResNet's does.
    """
    noted = _read(_arguments(model), "in_chans") or getattr(model, "in_chans", None)
    first = _first_convolution(model)[0]
    return noted or (first if 0 < first < 16 * declared else declared)


def _first_convolution(model: nn.Module) -> tuple[int, int]:
    """Input channels and rank; 0 channels of a lazy one, and where there is none."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return module.in_channels, len(module.kernel_size)
    return 0, 2


def _arguments(model: nn.Module) -> Mapping[str, Any]:
    """What the network was built with: timm's own note of it, or ours."""
    source = source_of(model)
    built = dict(source.model_args) if source else {}
    return {**built, **getattr(model, "_model_args", {})}


def _image_size(model: nn.Module) -> tuple[int, int] | None:
    """The height and width the network was built for, where it was told."""
    patches = getattr(model, "patch_embed", None)
    return _pair(getattr(patches, "img_size", None)) or _pair(_read(_arguments(model), "img_size"))


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return (int(size[0]), int(size[1]))
    return None


def _read(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
