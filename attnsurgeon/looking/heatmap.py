"""Operated network + picture -> what each site did to it, drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.looking.effects import scores_of
from attnsurgeon.looking.gates import gates
from attnsurgeon.looking.panels import Card, card_of
from attnsurgeon.looking.pictures import Picture, as_picture
from attnsurgeon.looking.preparing import Box, prepare
from attnsurgeon.looking.running import Runner, picture_preprocessing
from attnsurgeon.models import source_of
from attnsurgeon.models.preprocessing import Preprocessing
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.splicing.selecting import Chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Look:
    """What a network did to a picture.

    Attributes:
        name: of the network.
        picture: as it is seen.
        box: the part of it that the network saw.
        preprocessing: how it was prepared.
        cards: one for each run of each site, in network order.
        classes: the likeliest, with their probabilities; () of a network that scores no classes.
    """

    name: str
    picture: Picture
    box: Box
    preprocessing: Preprocessing
    cards: tuple[Card, ...]
    classes: tuple[tuple[int, float], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the picture, was assumed, or is not there, each once."""
        found = [f"{self.picture.name}: {note}" for note in self.picture.notes]
        if self.preprocessing.assumed:
            found.append(f"assumed: {'; '.join(self.preprocessing.assumed)}")
        found += [note for card in self.cards for note in card.notes]
        return tuple(dict.fromkeys(found))


@known_state()
def look_at(
    model: nn.Module,
    image: Any,
    *,
    sites: Chosen = None,
    position: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
) -> Look:
    """Runs a network on a picture and returns what each site did to it.

    Args:
        model, image, sites, position, mean, std, image_size, device: as for `heatmap`.
        name: of the network, in titles; default: what it was built by.

    Raises:
        UsageError, ModelError: as for `heatmap`.
    """
    runner = Runner.of(model, device)
    how = picture_preprocessing(model, mean=mean, std=std, image_size=image_size)
    picture = as_picture(image)
    prepared = prepare(picture, how)
    x = runner.taken(prepared.input.unsqueeze(0))
    found = gates(runner.network, x, sites=sites, position=position)
    classes = _likeliest(runner(x))
    cards = tuple(
        card_of(key, run, classes=[number for number, _ in classes], position=position)
        for key, run in found.items()
    )
    source = source_of(model)
    called = name or (source.spec if source is not None else type(model).__name__)
    return Look(called, picture, prepared.box, how, cards, classes)


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

    Needs matplotlib and Pillow: `pip install attnsurgeon[pictures]`.

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
    from attnsurgeon.looking.drawing import figure_of

    asked = {"sites": sites, "position": position, "mean": mean, "std": std, "device": device}
    asked["image_size"] = image_size
    if labels is not None and len(labels) != 2:
        raise UsageError(f"labels={labels!r} is not two names", "labels=('before', 'after')")
    before, after = labels or (("before", "after") if against is not None else (None, None))
    now = look_at(model, image, name=after, **asked)
    then = None if against is None else look_at(against, image, name=before, **asked)
    return figure_of(now, then)


def paired(now: Look, then: Look | None) -> list[tuple[Card, Card | None]]:
    """Returns the cards of a network, each with that of the other network at the same place.

    A card that only the other one has stands alone, at the end.
    """
    theirs = {card.module_path: card for card in then.cards} if then is not None else {}
    pairs = [(card, theirs.pop(card.module_path, None)) for card in now.cards]
    alone = (replace(card, notes=(*card.notes, "only in the other")) for card in theirs.values())
    return [*pairs, *((card, None) for card in alone)]


def _likeliest(outputs: Any) -> tuple[tuple[int, float], ...]:
    scores = scores_of(outputs, 1)
    if scores is None:
        return ()
    best = scores[0].float().softmax(0).topk(min(3, scores.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple((int(number), float(share)) for number, share in pairs)
