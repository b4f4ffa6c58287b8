"""What sites did to a photograph -> the pictures of a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attnsurgeon.report.page import Picture

if TYPE_CHECKING:
    from attnsurgeon.looking.look import Look


def pictures_of(look: Look) -> Iterator[Picture]:
    """Yields the photograph, then what each site did to it that can be drawn, in network order."""
    from attnsurgeon.looking.drawing import figures_of, top_figure, written
    from attnsurgeon.looking.panels import in_words

    name = look.photograph.name
    framed = f"{name}, with a frame around what the network sees of it"
    said = f" {'; '.join(look.notes)}" if look.notes else ""
    yield Picture(written(top_figure(look)), framed, f"{framed}.{said}")
    for card, figure in figures_of(look):
        if card.panels:
            alt = "; ".join(in_words(card, panel) for panel in card.panels)
            notes = f"; {'; '.join(card.notes)}" if card.notes else ""
            yield Picture(written(figure), alt, f"{card.site}: {card.attn}{notes}")
