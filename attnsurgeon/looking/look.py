"""Operated network + picture -> what each site did to it, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.looking.effects import scores_of
from attnsurgeon.looking.gates import gates
from attnsurgeon.looking.panels import Card, card_of
from attnsurgeon.looking.photographs import Photograph, as_photograph
from attnsurgeon.looking.preparing import Box, prepare
from attnsurgeon.looking.running import Runner, picture_preprocessing
from attnsurgeon.models import source_of
from attnsurgeon.models.preprocessing import Preprocessing
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.splicing.selecting import Chosen


@dataclass(frozen=True, eq=False)
class Look:
    """What a network did to a picture.

    Attributes:
        name: of the network.
        photograph: as it is seen.
        input: (C, H, W), what the network was given.
        box: the part of it that the network saw.
        preprocessing: how it was prepared.
        cards: one for each run of each site, in network order.
        classes: the likeliest, with their probabilities; () of a network that scores no classes.
    """

    name: str
    photograph: Photograph
    input: Tensor
    box: Box
    preprocessing: Preprocessing
    cards: tuple[Card, ...]
    classes: tuple[tuple[int, float], ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the picture, was assumed, or is not there, each once."""
        found = [f"{self.photograph.name}: {note}" for note in self.photograph.notes]
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
    picture = as_photograph(image)
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
    return Look(called, picture, prepared.input, prepared.box, how, cards, classes)


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
