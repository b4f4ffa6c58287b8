"""A mechanism's name and a stage of ResNet-50 -> the mechanism, its plain form, their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnsurgeon.attention.linked.chain import Chain, Link, Linked
from attnsurgeon.attention.registry import create_attention, lookup
from benchmarks.plain import PLAIN
from benchmarks.plain.heads import CLASSES, EARLIER

Shape = tuple[int, int, int]
# What a bottleneck of each stage makes, and the map that its 3x3 convolution works on.
OUTER: tuple[Shape, ...] = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
INNER: tuple[Shape, ...] = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
IN_THE_BLOCK = ("conv", "weight", "activation")  # kinds that take the place of something there
STAGES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Subject:
    """What is weighed.

    Attributes:
        ours, plain: modules in training mode, without dropout, that compute the same, of the same
            parameters.
        inputs: of both; leaves that want a gradient.
    """

    ours: nn.Module
    plain: nn.Module
    inputs: tuple[Tensor, ...]


def shape_at(name: str, stage: int) -> Shape | None:
    """Returns the shape that a mechanism meets in a stage; None of a head but in the last one."""
    kind = lookup(name).kind
    if kind == "head":
        return OUTER[stage - 1] if stage == STAGES[-1] else None
    return (INNER if kind in IN_THE_BLOCK else OUTER)[stage - 1]


def subject(name: str, shape: Shape, *, batch: int, dtype: torch.dtype = torch.float32) -> Subject:
    """Returns a mechanism and its plain form, whose parameters are moved from where they start.

    Args:
        name: of the mechanism.
        shape: of its first input, or of the last map where it takes scores.
        batch: images.
        dtype: of all.
    """
    channels, *size = shape
    plain = PLAIN[name](channels, (size[0], size[1]))
    ours = _ours(name, shape)
    in_our_order = getattr(plain, "in_our_order", lambda: list(plain.parameters()))
    with torch.no_grad():
        for parameter, same in zip(ours.parameters(), in_our_order(), strict=True):
            parameter.add_(0.1 * torch.randn_like(parameter))
            parts = same if isinstance(same, list) else [same]
            for part, value in zip(parts, parameter.chunk(len(parts)), strict=True):
                part.copy_(value.reshape(part.shape))
    inputs = [torch.randn(batch, *one, dtype=dtype) for one in _inputs(name, shape)]
    return Subject(
        _learning(ours.to(dtype)),
        _learning(plain.to(dtype)),
        tuple(x.requires_grad_() for x in inputs),
    )


def _learning(module: nn.Module) -> nn.Module:
    """Returns `module` in training mode, but dropping nothing: the two would drop otherwise."""
    for part in module.train().modules():
        if isinstance(part, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
            part.eval()
    return module


def _ours(name: str, shape: Shape) -> nn.Module:
    channels, *size = shape
    card = lookup(name)
    if card.kind in ("conv", "weight"):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        tables = {"size": tuple(size)} if "size" in card.args else {}  # of distances on the map
        return create_attention(name, conv=conv, **tables)
    if card.kind == "linked":
        return _chained(name, channels, tied=card.tied)
    args = card.args_at(
        tuple(size),
        {},
        source_channels=channels,
        source_size=tuple(size),
        signal_channels=channels,
        signal_size=tuple(side // 2 for side in size),
        classes=CLASSES,
        stages=EARLIER,
    )
    return create_attention(name, channels, **args)


def _chained(name: str, channels: int, *, tied: bool) -> nn.Module:
    """Returns two places of a chain, one after the other, as they are in a network."""
    first = create_attention(name, channels)
    second = first if tied else create_attention(name, channels, previous_channels=channels)
    chain = Chain()
    places = []
    for place, attention in enumerate((first, second)):
        assert isinstance(attention, Linked)
        places.append(Link(attention, chain, place, tied=tied))
    return nn.Sequential(*places)


def _inputs(name: str, shape: Shape) -> list[tuple[int, ...]]:
    """Returns the shapes of all inputs, without the batch."""
    given = lookup(name).inputs({})
    if "coarser" in given:  # of a decoder's value before it is raised
        channels, *size = shape
        return [shape, (channels, *(side // 2 for side in size))]
    if given == ("logits", "stages"):
        channels, height, width = shape
        scale = [channels // earlier for earlier in EARLIER]
        maps = [(c, height * k, width * k) for c, k in zip(EARLIER, scale, strict=True)]
        return [(CLASSES,), *maps]
    return [shape] * max(len(set(given) - {"weight"}), 1)
