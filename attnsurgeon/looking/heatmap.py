"""Operated network + picture -> a figure of what its attention does to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.looking.drawing import figure_of
from attnsurgeon.looking.look import look_at
from attnsurgeon.splicing.selecting import Chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@takes_networks()
def heatmap(
    model: nn.Module,
    image: Any,
    *,
    against: nn.Module | None = None,
    sites: Chosen = None,
    position: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draws what every site of a network does to a picture: masks of positions over the picture,
    channel gates as sorted bars, what else there is in a form of its own.

    Needs matplotlib and Pillow: `pip install "attnsurgeon[pictures]"`.

    Args:
        model: an operated network; it runs in eval mode, and is not changed.
        image: a file, or an image of Pillow; it is resized, cropped and normalised as the network
            says its weights want it.
        against: the same network before training, or another with attention at the same places;
            its pictures stand on the left, on the same scales.
        sites: as for `remove`: paths, patterns, Sites; None for all.
        position: (down, across) as fractions, of the place whose attention is drawn; None for the
            centre.
        mean, std, image_size: in place of what the network says.
        device: where to run; None for where the weights are.
        labels: what to call the two networks, `against` first.

    Returns:
        A figure of matplotlib; `figure.savefig("cat.png")` writes it, a notebook shows it.

    Raises:
        UsageError: the picture is none, there is no such site or device, or the network takes no
            pictures.
        ModelError: matplotlib or Pillow is not installed; the network does not run on this
            picture; or a gate holds NaN.
    """
    asked = {"sites": sites, "position": position, "mean": mean, "std": std, "device": device}
    asked["image_size"] = image_size
    if labels is not None and len(labels) != 2:
        raise UsageError(f"labels={labels!r} is not two names", "labels=('before', 'after')")
    before, after = labels or (("before", "after") if against is not None else (None, None))
    now = look_at(model, image, name=after, **asked)
    then = None if against is None else look_at(against, image, name=before, **asked)
    return figure_of(now, then)
