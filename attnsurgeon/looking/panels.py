"""What a site did to one image, as named tensors -> what is to be drawn of it, and in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from attnsurgeon.looking.preparing import Box
from attnsurgeon.looking.told import SiteGates

# How a picture is drawn: a mask over the photograph, bars in falling order, shares that add up,
# bars in their own order, how often which value occurs.
FORMS = ("map", "sorted", "shares", "bars", "spread")
_BESIDE = ("blend", "change", "samples")  # numbers that stand beside the other pictures
_MOST_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Panel:
    """One thing to draw.

    Attributes:
        name: of the picture that it is of, as `gates` has it.
        form: one of `FORMS`.
        title: what it shows.
        values: of a map (H, W); of sorted bars (C,), falling; of shares (M, C), sorted by the
            first; of bars (M,); of a spread all values.
        position: (down, across) of the place whose attention it is, as fractions; else None.
    """

    name: str
    form: str
    title: str
    values: Tensor
    position: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.values.max())


@dataclass(frozen=True, eq=False)
class Card:
    """One site.

    Attributes:
        site, module_path, attn: where and what.
        panels: what there is to draw.
        numbers: name -> number that stands beside: the weight of a blend, the change.
        notes: what there is instead of a map, in words.
    """

    site: str
    module_path: str
    attn: str
    panels: tuple[Panel, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def card_of(
    key: str,
    run: SiteGates,
    *,
    classes: Sequence[int] = (),
    position: Sequence[float] | None = None,
) -> Card:
    """Returns what there is to draw of one site for the first image of the batch.

    Args:
        key: of the run among all, `layer1.0.attn#2`.
        run: what `gates` found there.
        classes: the likeliest, likeliest first: of a picture for each class these are drawn.
        position: whose attention is drawn; None for the centre.
    """
    place = (0.5, 0.5) if position is None else (float(position[0]), float(position[1]))
    panels = []
    numbers: dict[str, float] = {}
    for name, picture in run.pictures.items():
        values = picture.detach().float().cpu()
        if name in _BESIDE:
            numbers[name] = float(values.reshape(-1)[0])
        elif values.numel():
            drawn = _DRAWN[name](values if name in ("stages", "weights") else values[0])
            panels += [
                Panel(name, form, title, shown, place if name == "attention" else None)
                for form, title, shown in (_chosen(drawn, classes) if name == "classes" else drawn)
            ]
    return Card(run.site, key, run.mechanism, tuple(panels), numbers, tuple(_instead(run, panels)))


Drawn = Iterator[tuple[str, str, Tensor]]


def _channel(values: Tensor) -> Drawn:
    yield "sorted", f"channel gates, {len(values)} sorted", values.sort(descending=True).values


def _spatial(values: Tensor) -> Drawn:
    if values.dim() == 2:
        yield "map", "spatial mask", values
    else:
        yield "bars", "gates of the positions", values.flatten()


def _both(values: Tensor) -> Drawn:
    if values.dim() == 3:
        yield "map", f"mean over {len(values)} channels", values.mean(0)
    yield "sorted", f"mean of each of {len(values)} channels, sorted", _falling(values)


def _falling(values: Tensor) -> Tensor:
    """The mean of each channel, (C, ...) or (C,), in falling order."""
    return values.reshape(len(values), -1).mean(1).sort(descending=True).values


def _branches(values: Tensor) -> Drawn:
    order = values[0].argsort(descending=True)
    yield "shares", f"share of {len(values)} branches in each channel", values[:, order]


def _fusion(values: Tensor) -> Drawn:
    named = ("branch", "shortcut") if len(values) == 2 else range(1, len(values) + 1)
    for term, one in zip(named, values, strict=True):
        if one.dim() == 3:
            yield "map", f"weight of the {term}, mean over {len(one)} channels", one.mean(0)
        else:
            yield "sorted", f"weight of the {term}, {len(one)} channels sorted", _falling(one)


def _classes(values: Tensor) -> Drawn:
    for number, one in enumerate(values):
        if one.dim() == 2:
            yield "map", f"where class {number} looks", one


def _chosen(drawn: Drawn, classes: Sequence[int]) -> list[tuple[str, str, Tensor]]:
    every = list(drawn)
    wanted = [c for c in classes if c < len(every)][:_MOST_CLASSES] or range(min(1, len(every)))
    return [every[number] for number in wanted]


def _stages(values: Tensor) -> Drawn:
    yield "bars", "weight of each stage's vote", values.flatten()


def _attention(values: Tensor) -> Drawn:
    if values.dim() == 2:
        yield "map", "attention of the marked position", values
    else:
        yield "bars", "attention of the chosen position", values.flatten()


def _weights(values: Tensor) -> Drawn:
    yield "spread", f"factors of {values.numel():,} weights", values.flatten()


def _tokens(values: Tensor) -> Drawn:
    yield "bars", "gates of the other tokens", (values.mean(0) if values.dim() > 1 else values)


_DRAWN: Mapping[str, Callable[[Tensor], Drawn]] = {
    "channel": _channel,
    "spatial": _spatial,
    "both": _both,
    "branches": _branches,
    "fusion": _fusion,
    "classes": _classes,
    "stages": _stages,
    "attention": _attention,
    "weights": _weights,
    "tokens": _tokens,
}


def _instead(run: SiteGates, panels: Sequence[Panel]) -> Iterator[str]:
    """Says what stands in for a map where there is none."""
    if run.off:
        yield "it is switched off"
    elif not panels:
        numbers = " and ".join(run.pictures) or "nothing"
        yield f"{run.mechanism} has no picture; what is known of it is {numbers}"
    elif not any(panel.form == "map" for panel in panels):
        names = " and ".join(dict.fromkeys(panel.name for panel in panels))
        yield f"{run.mechanism} weighs no positions, so there is no map; drawn instead: {names}"


def laid_over(mask: Tensor, box: Box, size: tuple[int, int], step: int = 1) -> Tensor:
    """Returns a mask at the resolution of the picture that it belongs to.

    Bilinear between the middles of its cells, each of which stands for its part of the box.

    Args:
        mask: (h, w), which covers the box.
        box: the part of the picture that the network saw, in the picture's pixels.
        size: (height, width) of the picture.
        step: every how many pixels, for pictures larger than anybody sees.

    Returns:
        (height, width), divided by `step` and rounded up; NaN where the network did not look.
    """
    ys = torch.arange(0, size[0], step, dtype=torch.float64) + step / 2
    xs = torch.arange(0, size[1], step, dtype=torch.float64) + step / 2
    down = (ys - box.top) / (box.bottom - box.top)
    across = (xs - box.left) / (box.right - box.left)
    grid = torch.stack(torch.meshgrid(across * 2 - 1, down * 2 - 1, indexing="xy"), dim=-1)
    found = F.grid_sample(
        mask.double()[None, None], grid[None], mode="bilinear", padding_mode="border",
        align_corners=False,
    )[0, 0]  # fmt: skip
    inside = (grid.abs() <= 1).all(-1)
    return torch.where(inside, found, torch.full_like(found, math.nan))


def in_words(card: Card, panel: Panel) -> str:
    """Returns what a panel shows, for who cannot see it."""
    said = f"{panel.title} of {card.attn} at {card.site}: from {panel.low:.3g} to {panel.high:.3g}"
    if panel.form != "map" or panel.high == panel.low:
        return said
    height, width = panel.values.shape
    at = int(panel.values.argmax())
    row = ("top", "middle", "bottom")[3 * (at // width) // height]
    column = ("left", "centre", "right")[3 * (at % width) // width]
    return f"{said}, highest at the {row} {column}"
