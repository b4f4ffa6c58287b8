"""A network -> the size of the input it wants, where it says so; guesses and words where not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any

from torch import nn

from attnsurgeon.models.foreign import parameters
from attnsurgeon.models.provenance import source_of

_SIDES = (224, 32, 28, 64, 256, 299, 384, 512, 448, 518, 128, 1024)
# Frames first, as video networks take them, then the cubes of volumes.
_VOLUMES = ((16, 112, 112), (16, 224, 224), (32, 32, 32), (64, 64, 64), (96, 96, 96))
_LENGTHS = ((4096,), (5000,), (8000,), (16000,), (32000,))  # of signals and of sound
_TOKENS = 196
_AXES = {1: "L", 2: "H,W", 3: "D,H,W"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (*_CONVOLUTIONS, nn.Linear, nn.Embedding)


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
    """Return sizes worth trying, (C, L), (C, H, W) or (C, D, H, W), likeliest first.

    Channels and rank are those of the first convolution; an image of 3 channels may be folded to
    more before it, and of one channel the forward may put the axis there itself. A network without
    a convolution is taken for an image network of 3 channels, then for what its first linear layer
    takes: images laid flat, tokens, vectors.
    """
    channels, rank = _first_convolution(model)
    sides = _VOLUMES if rank == 3 else tuple((side,) * rank for side in _SIDES)
    sides += _LENGTHS if rank == 1 else ()
    native = input_size_of(model)
    guesses = [native] if native else []
    guesses += [(channels or 3, *side) for side in sides]
    if channels == 1:
        guesses += sides
    if rank == 2 and channels > 3 and channels % 3 == 0:  # a stem may fold pixels into channels
        guesses += [(3, *side) for side in sides]
    _, first = first_layer(model)
    if isinstance(first, nn.Linear):
        guesses += _before_linear(first.in_features)
    return list(dict.fromkeys(guesses))


def _before_linear(features: int) -> Iterator[tuple[int, ...]]:
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features:
            yield (channels, side, side)
    yield (_TOKENS, features)
    yield (features,)


def first_layer(model: nn.Module) -> tuple[str, nn.Module | None]:
    """Return path and module of the first layer: a convolution, else what else has an input."""
    for kinds in (_CONVOLUTIONS, _LAYERS):
        for path, module in model.named_modules():
            if isinstance(module, kinds):
                return path, module
    return "", None


def arguments_asked(model: nn.Module) -> tuple[str, ...]:
    """Return the arguments that a forward cannot go without."""
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    asked = parameters(model.forward).values()
    return tuple(p.name for p in asked if p.kind in places and p.default is Parameter.empty)


def size_hint(model: nn.Module) -> str:
    """Return how to say what the input is, with what the forward and its first layer tell of it."""
    names = arguments_asked(model)
    if len(names) > 1:
        return (
            f"its forward takes {', '.join(names)}: of images the size of each, "
            "input_size=((3, 64, 64), (1, 64, 64)); of anything else all of it, "
            f"example=({', '.join(names)})"
        )
    path, first = first_layer(model)
    said = f"the first layer is {_in_short(path, first)}: " if first is not None else ""
    if isinstance(first, _CONVOLUTIONS):
        axes = f"{first.in_channels or 'C'},{_AXES[len(first.kernel_size)]}".replace(",", ", ")
        image = f"{said}give input_size=({axes})"
        return f"{image}, or, of what is no image, the input itself: example=..."
    made = "torch.randn(2, 3, 224, 224)"
    if isinstance(first, nn.Linear):
        made = f"torch.randn(2, {first.in_features})"
    elif isinstance(first, nn.Embedding):
        made = f"torch.randint({first.num_embeddings}, (2, 16))"
    return (
        f"{said}give the size of an image, input_size=(3, 224, 224), or the input itself: "
        f"example={made}"
    )


def arguments_hint(model: nn.Module) -> str:
    """Return what a forward takes, for one that did not run on what it was given."""
    known = [_shown(p) for p in parameters(model.forward).values()]
    return (
        f"its forward is called as forward({', '.join(known)}): a tuple is its positional "
        "arguments, a list one of them, a dict with the names of its arguments is keywords"
    )


def _shown(parameter: Parameter) -> str:
    stars = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
    return stars.get(parameter.kind, "") + (
        parameter.name if parameter.default is Parameter.empty else f"{parameter.name}=..."
    )


def _in_short(path: str, layer: nn.Module) -> str:
    """`stem.conv, Conv2d(1, 16)`."""
    sizes = {
        nn.Linear: ("in_features", "out_features"),
        nn.Embedding: ("num_embeddings", "embedding_dim"),
    }
    names = next((n for kind, n in sizes.items() if isinstance(layer, kind)), None)
    numbers = (getattr(layer, name) for name in names or ("in_channels", "out_channels"))
    kind = next(k.__name__ for k in _LAYERS if isinstance(layer, k))
    said = f"{kind}({', '.join(map(str, numbers))})"
    return f"{path}, {said}" if path else said


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
