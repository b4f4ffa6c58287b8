"""What sites did to a picture -> one HTML page with a figure for each, and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnsurgeon.report import words
from attnsurgeon.report.streams import UNICODE

if TYPE_CHECKING:
    from attnsurgeon.looking.look import Look
    from attnsurgeon.looking.panels import Card


def heatmap_page(now: Look, then: Look | None = None) -> str:
    """Returns the page.

    Args:
        now: what the network did.
        then: what the other did, which stands on the left of each pair.
    """
    from attnsurgeon.looking.drawing import figures_of, top_figure, written
    from attnsurgeon.looking.panels import in_words
    from attnsurgeon.report.markup import render

    against = "" if then is None else f" against {then.name}"
    cards = [
        {
            "id": f"site-{number}",
            "title": card.site,
            "lead": " · ".join([card.attn, *(f"{n} {v:.3g}" for n, v in card.numbers.items())]),
            "png": written(figure) if card.panels else None,
            "alt": "; ".join(in_words(card, panel) for panel in card.panels),
            "notes": [("note", note) for note in card.notes],
        }
        for number, (card, figure) in enumerate(figures_of(now, then), start=1)
    ]
    return render(
        "heatmap.html",
        title=f"{now.name}{against}: what attention does to {now.photograph.name}",
        lead=f"{words.several(len(cards), 'site')} in the order in which they run",
        parts=[],
        picture=written(top_figure(now)),
        alt=f"{now.photograph.name}, with a frame around what the network sees of it",
        facts=_facts(now),
        notes=[("note", note) for note in now.notes],
        cards=cards,
    )


def _facts(look: Look) -> list[tuple[str, str]]:
    how = look.preprocessing
    times = UNICODE.times
    width, height = look.photograph.image.size
    facts = [
        ("picture", f"{look.photograph.name}, {width}{times}{height}"),
        ("input", f"{how.size[1]}{times}{how.size[0]}, the part inside the frame"),
        ("mean, std", f"{_numbers(how.mean)}; {_numbers(how.std)}"),
    ]
    if how.source:
        facts.append(("prepared by", how.source))
    if look.classes:
        found = (f"{number} ({share:.0%})" for number, share in look.classes)
        facts.append(("likeliest classes", ", ".join(found)))
    return facts


def _numbers(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:.3g}" for number in numbers)


def look_record(look: Look, *, against: Look | None = None) -> Mapping[str, Any]:
    """Returns what was found as plain values: of each picture its range, not its values."""
    how = look.preprocessing
    return {
        "network": look.name,
        "picture": look.photograph.name,
        "size": list(look.photograph.image.size[::-1]),
        "seen": list(look.box),
        "preprocessing": preprocessing_record(how),
        "classes": [{"class": number, "probability": share} for number, share in look.classes],
        "sites": [_card(card) for card in look.cards],
        "against": None if against is None else [_card(card) for card in against.cards],
        "notes": list(look.notes),
    }


def preprocessing_record(how: Any) -> Mapping[str, Any]:
    """Returns how pictures were prepared, as plain values."""
    return {
        "size": list(how.size),
        "resize": list(how.resize),
        "fit": how.fit,
        "mean": list(how.mean),
        "std": list(how.std),
        "interpolation": how.interpolation,
        "source": how.source,
        "assumed": list(how.assumed),
    }


def _card(card: Card) -> Mapping[str, Any]:
    return {
        "path": card.site,
        "module_path": card.module_path,
        "attn": card.attn,
        "numbers": dict(card.numbers),
        "pictures": [
            {"name": p.name, "form": p.form, "title": p.title, "size": list(p.values.shape),
             "low": p.low, "high": p.high}
            for p in card.panels
        ],
        "notes": list(card.notes),
    }  # fmt: skip
