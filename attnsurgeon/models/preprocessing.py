"""A network -> how it wants its images: size, crop, mean and std, as its own library says.

Nothing is fetched. What no source says is assumed, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.models.inputs import input_size_of
from attnsurgeon.models.provenance import Source, source_of
from attnsurgeon.models.recognition import identify
from attnsurgeon.shown import brief

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CROP = 0.875  # of the side: torchvision's 224 of 256, and timm's default
_NO_NORM = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
Sides = tuple[int, int]
Numbers = Sequence[float]


@dataclass(frozen=True, repr=False)
class Preprocessing:
    """How a picture becomes the input of a network.

    Attributes:
        size: (height, width) of the input, cut out of the middle of the resized picture.
        resize: (height, width) that the picture is resized to.
        fit: how: "shorter" covers these sides and "longer" stays within them, both keeping the
            proportions; "stretch" gives them exactly.
        mean, std: of each channel, for values between 0 and 1.
        interpolation: one of `INTERPOLATIONS`.
        fill: what stands around a picture that does not cover the input, between 0 and 1.
        source: who says so, in words; "" where nobody does.
        assumed: what nobody says, in words.
    """

    size: Sides
    resize: Sides
    fit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    fill: tuple[float, ...]
    source: str
    assumed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.size
        return brief(self, f"{height} x {width}, mean {self.mean}, {self.source or 'assumed'}")

    def changed(
        self,
        *,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> Preprocessing:
        """Returns the same with what a user says instead.

        Args:
            mean, std: one number, or one for each channel.
            image_size: of the input, (height, width) or both at once; the share of the picture
                that is seen stays.

        Raises:
            UsageError: these are no such numbers.
        """
        said = [
            name for name, given in (("mean", mean), ("std", std), ("image_size", image_size))
            if given is not None
        ]  # fmt: skip
        if not said:
            return self
        made = self
        if image_size is not None:
            size = _sides(image_size)
            resize = tuple(
                math.floor(new * old / own)
                for new, old, own in zip(size, self.resize, self.size, strict=True)
            )
            made = replace(made, size=size, resize=(resize[0], resize[1]))
        for name, given in (("mean", mean), ("std", std)):
            if given is not None:
                made = replace(made, **{name: _numbers(name, given, positive=name == "std")})
        left = tuple(
            one for one in self.assumed if not {*one.partition(":")[0].split(", ")} <= {*said}
        )
        return replace(
            made,
            assumed=left,
            source="; ".join(filter(None, (self.source, f"{', '.join(said)} as given"))),
        )

    def of_channels(self, channels: int) -> Preprocessing:
        """Returns the same for images of so many channels: of one, the mean over the three.

        Raises:
            UsageError: a picture has no such number of channels, or other numbers are given.
        """
        if channels not in (1, 3):
            raise UsageError(
                f"the network takes {channels} channels, and a picture has 1 or 3",
                "hand over the input itself: attnsurgeon.gates(model, x)",
            )
        found = {}
        for name in ("mean", "std", "fill"):
            numbers = getattr(self, name)
            if len(numbers) not in (1, channels) and channels != 1:
                raise UsageError(
                    f"{name} has {len(numbers)} numbers, and the network takes {channels} channels",
                    f"give one number for each channel: {name}=...",
                )
            if len(numbers) != channels:
                one = sum(numbers) / len(numbers)
                numbers = (one,) * channels
            found[name] = tuple(numbers)
        return replace(self, **found)


def preprocessing_of(model: nn.Module, size: Sequence[int] | None = None) -> Preprocessing:
    """Returns how a network wants its images.

    Args:
        model: any network; of timm's its `pretrained_cfg` says it, of torchvision's the transforms
            of its weights, of transformers' the image processor of its folder or of its class, of
            ultralytics' its letter box.
        size: (height, width) to assume where nobody names one.
    """
    named = input_size_of(model)
    own = named[1:] if named is not None and len(named) == 3 else None
    known = own or (tuple(size) if size is not None and len(size) == 2 else None)
    source = source_of(model) or identify(model)
    for asked in (_of_timm, _of_torchvision, _of_transformers, _of_ultralytics):
        found = asked(model, source, known)
        if found is not None:
            return found
    return _assumed(own, known)


def _of_timm(model: nn.Module, source: Source | None, known: Any) -> Preprocessing | None:
    config: Any = getattr(model, "pretrained_cfg", None)
    config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    if config.get("mean") is None or config.get("std") is None:
        return None
    size = known or tuple(config.get("input_size") or (3, 224, 224))[1:]
    mean = tuple(config["mean"])
    mode = config.get("crop_mode") or "center"
    fit = {"squash": "stretch", "border": "longer"}.get(mode, "shorter")
    share = config.get("crop_pct") or _CROP
    return Preprocessing(
        (size[0], size[1]),
        (math.floor(size[0] / share), math.floor(size[1] / share)),
        fit,
        mean,
        tuple(config["std"]),
        _interpolation(config.get("interpolation") or "bicubic"),
        mean,
        "timm's configuration of the network",
    )


def _of_torchvision(model: nn.Module, source: Source | None, known: Any) -> Preprocessing | None:
    if source is None or not source.spec.startswith("torchvision:"):
        return None
    from torchvision.models import get_model_weights, get_weight

    name = source.spec.partition(":")[2]
    given = source.model_args.get("weights")
    every = get_model_weights(name)
    weights: Any = getattr(every, "DEFAULT", None)
    if isinstance(given, str) and "." in given:
        weights = get_weight(given)
    elif isinstance(given, str) and given in every.__members__:
        weights = every[given]
    if weights is None:
        return None
    transforms = weights.transforms()
    if not hasattr(transforms, "mean"):  # a detector normalises and resizes by itself
        sides = known or (512, 512)
        what = f"image_size: {sides[0]} x {sides[1]}, for it takes any"
        mean, std = _NO_NORM
        return Preprocessing(
            sides, sides, "shorter", mean, std, "bilinear", mean, f"torchvision's {weights}",
            (what,),
        )  # fmt: skip
    resize = _sides(getattr(transforms, "resize_size", None) or known or (224, 224))
    crop = getattr(transforms, "crop_size", None)
    return Preprocessing(
        _sides(crop) if crop else resize,
        resize,
        "shorter",
        tuple(transforms.mean),
        tuple(transforms.std),
        _interpolation(transforms.interpolation.value),
        tuple(transforms.mean),
        f"the transforms of torchvision's {weights}",
        () if crop else (f"image_size: {resize[0]} x {resize[1]}, for it takes any",),
    )


def _of_transformers(model: nn.Module, source: Source | None, known: Any) -> Preprocessing | None:
    config: Any = getattr(model, "config", None)
    if source is None or not source.spec.startswith("transformers:") or config is None:
        return None
    from attnsurgeon.models.transformers_names import image_processor

    folder = Path(source.spec.partition(":")[2])
    own = (folder / "preprocessor_config.json").is_file()
    processor = image_processor(config, folder if own else None)
    if processor is None or getattr(processor, "image_mean", None) is None:
        return None
    read = _reader(processor)
    resize, fit = _sizes_of(read("size"), known or (224, 224))
    size = _pair_of(read("crop_size")) if read("do_center_crop") else None
    if fit == "shorter" and size is None:
        # ConvNeXt's resizes the shorter side to 1 / crop_pct of its size, and crops that.
        share = read("crop_pct")
        size, small = resize, share and resize[0] < 384
        resize = _sides(int(resize[0] / share)) if small else resize
        fit = "shorter" if small or not share else "stretch"
    normalises = read("do_normalize") is not False
    mean = tuple(read("image_mean")) if normalises else _NO_NORM[0]
    kind = type(processor).__name__
    said = f"the {kind} of {folder}" if own else f"the defaults of {kind}"
    assumed = () if own else ("mean, std: of the class, for the weights name no own",)
    return Preprocessing(
        size or resize,
        resize,
        fit,
        mean,
        tuple(read("image_std")) if normalises else _NO_NORM[1],
        _interpolation(getattr(read("resample"), "name", "bilinear").lower()),
        (0.0,) * len(mean),
        said,
        assumed,
    )


def _of_ultralytics(model: nn.Module, source: Source | None, known: Any) -> Preprocessing | None:
    if source is None or not source.spec.startswith("ultralytics:"):
        return None
    sides = known or (640, 640)
    mean, std = _NO_NORM
    grey = (114 / 255,) * 3
    return Preprocessing(
        sides, sides, "longer", mean, std, "bilinear", grey, "the letter box of ultralytics"
    )


def _assumed(own: Any, known: Any) -> Preprocessing:
    sides = known or (224, 224)
    resize = _sides((math.floor(sides[0] / _CROP), math.floor(sides[1] / _CROP)))
    assumed = ["mean, std: those of ImageNet", f"crop: {_CROP:.1%} of the side"]
    if own is None:
        why = "with which attention was inserted" if known else "the usual one"
        assumed.append(f"image_size: {sides[0]} x {sides[1]}, {why}")
    return Preprocessing(
        _sides(sides), resize, "shorter", IMAGENET_MEAN, IMAGENET_STD, "bilinear", IMAGENET_MEAN,
        "", tuple(assumed),
    )  # fmt: skip


def _reader(holder: Any) -> Callable[[str], Any]:
    return lambda name: getattr(holder, name, None)


def _sizes_of(size: Any, known: Sides) -> tuple[Sides, str]:
    """What an image processor resizes to, and how."""
    if (pair := _pair_of(size)) is not None:
        return pair, "stretch"
    shortest = _read(size, "shortest_edge")
    return (_sides(shortest), "shorter") if shortest else (known, "stretch")


def _pair_of(size: Any) -> Sides | None:
    height, width = _read(size, "height"), _read(size, "width")
    return (int(height), int(width)) if height and width else None


def _read(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _interpolation(name: str) -> str:
    return name if name in INTERPOLATIONS else "bilinear"


def _sides(size: Any) -> Sides:
    """Returns (height, width) of what is one number or two."""
    one = isinstance(size, (int, float))
    sides: list[Any] = [size] if one else list(size) if isinstance(size, Sequence) else []
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) not in (1, 2) or not whole or not all(0 < side <= 1 << 14 for side in sides):
        raise UsageError(
            f"image_size={size!r} is no size",
            "give the height and the width: image_size=(224, 224)",
        )
    return (sides[0], sides[-1])


def _numbers(name: str, given: Any, *, positive: bool) -> tuple[float, ...]:
    one = isinstance(given, (int, float))
    numbers: list[Any] = [given] if one else list(given) if isinstance(given, Sequence) else []
    fine = numbers and all(
        isinstance(n, (int, float)) and math.isfinite(n) and (n > 0 or not positive)
        for n in numbers
    )
    if not fine or len(numbers) not in (1, 3):
        what = "numbers above 0" if positive else "numbers"
        raise UsageError(
            f"{name}={given!r} is not 1 or 3 {what}",
            f"one for each channel: {name}=(0.5, 0.5, 0.5)",
        )
    return tuple(map(float, numbers))
