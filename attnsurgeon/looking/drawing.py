"""What sites did to a picture -> figures: the only door to matplotlib, an extra.

Laid out in inches by hand: a figure has as many panels as the network has sites, and a layout
engine that measures them all takes longer than drawing them. No figure touches pyplot's state.
"""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnsurgeon.errors import UsageError
from attnsurgeon.looking.charts import (
    FORMS,
    INK,
    LINE,
    MORE,
    SOFT,
    axes_at,
    draw_scale,
    short,
    text_at,
)
from attnsurgeon.looking.look import Look, paired
from attnsurgeon.looking.panels import Card, Panel, laid_over
from attnsurgeon.looking.photographs import EXTRA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Read by colour-blind people and in print: brightness rises all the way.
COLOURS = "viridis"
_PANEL, _LEAST = 2.55, 1.5  # inches: the longer side of a picture, the least height of a panel
_GAP, _HEAD, _NAME, _SCALE, _NOTE = 0.34, 0.44, 0.24, 0.46, 0.24
_MARGIN = 0.35
_LEAST_WIDTH, _LETTERS = 6.8, 110  # inches of a figure, and how many letters of a note fit in
_ACROSS = 4  # panels beside each other
_FINEST = 900  # pixels of the longer side of a picture, as it is drawn
_MOST_PIXELS = 32_000  # of a figure's height: Agg has a bound of 65,536
_DPI = 150
_DPI_OF_A_PAGE = 120  # which holds a figure for each site
_LAYER = 0.62  # of the colours over the picture
_STYLE = {"font.size": 8.0, "axes.edgecolor": LINE, "axes.linewidth": 0.8, "text.color": INK,
          "xtick.color": SOFT, "ytick.color": SOFT, "axes.labelcolor": SOFT}  # fmt: skip


def figure_of(now: Look, then: Look | None = None) -> Figure:
    """Returns one figure of all sites: the picture, then a card for each in network order.

    Args:
        now: what the network did.
        then: what the other did, which stands on the left of each pair.
    """
    paper = _Paper.of(now, then)
    pairs = paired(now, then)
    lines = _flowed([paper.width(pair) for pair in pairs], paper.widest(pairs))
    heights = [max(paper.height(pairs[at]) for at in line) for line in lines]
    width = max(paper.line(pairs, line) for line in lines) if lines else _PANEL
    width = max(width, _LEAST_WIDTH) + 2 * _MARGIN
    height = paper.top + sum(heights) + 2 * _MARGIN
    with _drawing():
        figure = _figure(width, height)
        paper.draw_top(figure, _MARGIN, height - _MARGIN)
        down = height - _MARGIN - paper.top
        for line, tall in zip(lines, heights, strict=True):
            left = _MARGIN
            for at in line:
                paper.draw_card(figure, pairs[at], left, down)
                left += paper.width(pairs[at]) + _GAP
            down -= tall
    return figure


def figures_of(now: Look, then: Look | None = None) -> list[tuple[Card, Figure]]:
    """Returns the cards one by one, each in a figure of its own, without their titles."""
    paper = _Paper.of(now, then, titled=False)
    made = []
    for pair in paired(now, then):
        width, height = paper.width(pair) + 0.2, paper.height(pair) + 0.05
        with _drawing():
            figure = _figure(width, height, _DPI_OF_A_PAGE)
            paper.draw_card(figure, pair, 0.1, height)
        made.append((pair[0], figure))
    return made


def top_figure(now: Look) -> Figure:
    """Returns the picture alone, with what the network saw of it."""
    paper = _Paper.of(now, None)
    with _drawing():
        figure = _figure(paper.wide, paper.tall)
        paper.draw_picture(figure, 0, paper.tall)
    return figure


def written(figure: Figure, kind: str = "png") -> bytes:
    """Returns a figure as the bytes of a file of that kind: png, pdf, svg, jpg, ..."""
    stream = io.BytesIO()
    with _drawing(), warnings.catch_warnings():
        # A letter that no font has is drawn as a box; a warning for each helps nobody.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(stream, format=kind)
    return stream.getvalue()


def check_kind(file: str | os.PathLike[str], *, option: str = "-o FILE") -> str:
    """Returns the kind of file that a name asks for: "html", or one that `written` makes.

    Raises:
        UsageError: there is no such kind.
        UsageError: matplotlib is not installed.
    """
    kind = Path(file).suffix.lower().lstrip(".")
    kinds = {"html", *_figure(1, 1).canvas.get_supported_filetypes()} - {"raw", "rgba", "pgf"}
    if kind not in kinds:
        known = "a name that ends in .png, .pdf, .svg, .jpg or .html"
        what = f"ends in .{kind}, which is no kind of picture" if kind else "has no ending"
        raise UsageError(f"{file} {what}", known, command=f"{option}: {known}")
    return kind


def _drawing() -> Any:
    return _matplotlib().rc_context(_STYLE)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UsageError("heat maps need matplotlib, which is not installed", EXTRA) from error
    return matplotlib


def _figure(width: float, height: float, dpi: int = _DPI) -> Figure:
    _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=min(dpi, _MOST_PIXELS / max(width, height)))
    FigureCanvasAgg(made)
    return made


def _flowed(widths: Sequence[float], room: float) -> list[list[int]]:
    """Lines of cards, as many in each as there is room for."""
    lines: list[list[int]] = []
    left = 0.0
    for at, width in enumerate(widths):
        if not lines or width > left + 1e-6:
            lines.append([])
            left = room
        lines[-1].append(at)
        left -= width + _GAP
    return lines


Pair = tuple[Card, "Card | None"]


@dataclass(eq=False)
class _Paper:
    """How large things are, and the picture that masks are laid over.

    Attributes:
        now: what is drawn.
        labels: of a pair, the other first; () without another.
        grey: the picture (H, W), between 0 and 1, at the resolution that it is drawn in.
        step: of that resolution.
        wide, tall: of a panel, in inches.
        titled: whether a card bears its site's name.
    """

    now: Look
    labels: tuple[str, ...]
    grey: Tensor
    step: int
    wide: float
    tall: float
    titled: bool

    @classmethod
    def of(cls, now: Look, then: Look | None, *, titled: bool = True) -> _Paper:
        image: Any = now.photograph.image.convert("L")
        width, height = image.size
        step = max(1, -(-max(width, height) // _FINEST))
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        grey = values.reshape(height, width)[step // 2 :: step, step // 2 :: step].float() / 255
        scale = _PANEL / max(width, height)
        labels = () if then is None else (then.name, now.name)
        return cls(now, labels, grey, step, width * scale, height * scale, titled)

    @property
    def body(self) -> float:
        """The height of a panel."""
        return max(self.tall, _LEAST)

    @property
    def top(self) -> float:
        """The height of what stands above the cards."""
        return max(self.tall, 1.6) + len(self.notes) * 0.17 + 0.45

    @property
    def notes(self) -> list[str]:
        """The notes in lines that fit into the narrowest figure."""
        return [line for note in self.now.notes for line in textwrap.wrap(note, _LETTERS)]

    def panel_width(self, panel: Panel | None) -> float:
        return max(self.wide, 1.2) if panel is not None and panel.form == "map" else _PANEL * 0.95

    def width(self, pair: Pair) -> float:
        each = [self.panel_width(panel) + _GAP for panel in pair[0].panels] or [_PANEL + _GAP]
        return sum(each) * (2 if self.labels else 1) - _GAP

    def line(self, pairs: Sequence[Pair], line: Sequence[int]) -> float:
        return sum(self.width(pairs[at]) + _GAP for at in line) - _GAP

    def widest(self, pairs: Sequence[Pair]) -> float:
        """The room for a line: that of `_ACROSS` panels, or of the widest card."""
        return max([_ACROSS * (_PANEL + _GAP) - _GAP, *(self.width(pair) for pair in pairs)])

    def height(self, pair: Pair) -> float:
        if not pair[0].panels:
            return _HEAD + 2 * _NOTE
        return _HEAD * self.titled + _NAME * (2 if self.labels else 1) + self.body + _SCALE + 0.1

    # -------------------------------------------------------------------------------- the top

    def draw_picture(self, figure: Figure, left: float, top: float) -> None:
        """Draws the photograph, and a frame around what the network saw of it."""
        axes = axes_at(figure, left, top - self.tall, self.wide, self.tall)
        picture = self.now.photograph.image
        width, height = picture.size
        shown = picture.resize((max(1, width // self.step), max(1, height // self.step)))
        axes.imshow(shown, extent=(0, width, height, 0), aspect="auto")
        box = self.now.box
        from matplotlib.patches import Rectangle

        for colour, line in (("white", 3.0), (INK, 1.2)):
            axes.add_patch(
                Rectangle(
                    (box.left, box.top), box.right - box.left, box.bottom - box.top,
                    fill=False, edgecolor=colour, linewidth=line,
                )
            )  # fmt: skip
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])

    def draw_top(self, figure: Figure, left: float, top: float) -> None:
        self.draw_picture(figure, left, top)
        at = left + self.wide + _GAP
        now, how = self.now, self.now.preprocessing
        title = " against ".join(self.labels[::-1]) if self.labels else now.name
        text_at(figure, at, top - 0.02, title, size=13, weight="bold")
        width, height = now.photograph.image.size
        said = [
            f"{now.photograph.name}, {width} x {height}",
            f"seen at {how.size[1]} x {how.size[0]}, inside the frame",
        ]
        if how.source:
            said.append(f"prepared by {how.source}")
        if now.classes:
            named = ", ".join(f"{number} ({share:.0%})" for number, share in now.classes)
            said.append(f"likeliest classes: {named}")
        for line, words in enumerate(said):
            text_at(figure, at, top - 0.36 - 0.2 * line, words, size=9, color=SOFT)
        down = top - max(self.tall, 1.6) - 0.12
        for line, words in enumerate(self.notes):
            text_at(figure, left, down - 0.17 * line, words, size=8, color=SOFT)

    # -------------------------------------------------------------------------------- the cards

    def draw_card(self, figure: Figure, pair: Pair, left: float, top: float) -> None:
        """Draws one site."""
        card, other = pair
        if self.titled:
            size, name = _fitting(card.site, self.width(pair))
            text_at(figure, left, top - 0.08, name, size=size, weight="bold")
            text_at(figure, left, top - 0.25, _beside(card), size=8, color=SOFT)
        if not card.panels:
            below = top - (_HEAD if self.titled else 0)
            for note in card.notes:
                text_at(figure, left, below, note, size=8, color=SOFT)
            return
        top -= _HEAD * self.titled
        theirs = {(p.name, p.title): p for p in (other.panels if other is not None else ())}
        for panel in card.panels:
            twin = theirs.get((panel.name, panel.title))
            shown = [twin, panel] if self.labels else [panel]
            scale = _scale([p for p in shown if p is not None])
            text_at(figure, left, top - 0.06, panel.title, size=8, color=INK)
            for at, one in enumerate(shown):
                down = top - _NAME
                if self.labels:
                    text_at(figure, left, down - 0.02, self.labels[at], size=8, color=SOFT)
                    down -= _NAME * 0.8
                wide = self.panel_width(panel)
                if one is None:
                    text_at(figure, left, down - 0.1, "not in this one", size=8, color=SOFT)
                else:
                    self.draw_panel(figure, one, scale, left, down, wide)
                left += wide + _GAP

    def draw_panel(
        self,
        figure: Figure,
        panel: Panel,
        scale: tuple[float, float],
        left: float,
        top: float,
        wide: float,
    ) -> None:
        if panel.form == "map":
            self._draw_map(figure, panel, scale, left, top)
            return
        axes = axes_at(figure, left + 0.3, top - self.body, wide - 0.3, self.body)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7, length=2.5, width=0.6)
        FORMS[panel.form](axes, panel.values, scale)
        if panel.low == panel.high and panel.values.numel() > 1:
            axes.text(0.5, 0.62, f"{short(panel.low)} everywhere", transform=axes.transAxes,
                      ha="center", color=SOFT, fontsize=8)  # fmt: skip

    def _draw_map(
        self, figure: Figure, panel: Panel, scale: tuple[float, float], left: float, top: float
    ) -> None:
        image = self.now.photograph.image
        width, height = image.size
        mask = laid_over(panel.values, self.now.box, (height, width), self.step)
        mask = mask[: self.grey.shape[0], : self.grey.shape[1]]
        axes = axes_at(figure, left, top - self.tall, self.wide, self.tall)
        colours = _matplotlib().colormaps[COLOURS]
        axes.imshow(
            _blended(self.grey, mask, scale, colours), extent=(0, width, height, 0), aspect="auto"
        )
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        if panel.position is not None:
            box, (down, across) = self.now.box, panel.position
            x = box.left + across * (box.right - box.left)
            y = box.top + down * (box.bottom - box.top)
            axes.plot([x], [y], marker="o", markersize=7, markerfacecolor="none",
                      markeredgecolor="white", markeredgewidth=2.6)  # fmt: skip
            axes.plot([x], [y], marker="o", markersize=7, markerfacecolor="none",
                      markeredgecolor=MORE, markeredgewidth=1.3)  # fmt: skip
        draw_scale(figure, scale, colours, left, top - self.tall - 0.07, self.wide)


def _blended(grey: Tensor, mask: Tensor, scale: tuple[float, float], colours: Any) -> Any:
    """The picture in grey under the colours of the mask; pale where the network did not look."""
    low, high = scale
    inside = ~mask.isnan()
    level = torch.where(inside, (mask - low) / ((high - low) or 1.0), torch.zeros_like(mask))
    if low == high:
        level = torch.full_like(mask, 0.5)
    layer = torch.from_numpy(colours(level.clamp(0, 1).numpy())[..., :3])
    ground = grey.double().unsqueeze(-1)
    seen = (1 - _LAYER) * ground + _LAYER * layer
    pale = (0.25 * ground + 0.72).expand_as(seen)
    return torch.where(inside.unsqueeze(-1), seen, pale).clamp(0, 1).numpy()


def _scale(panels: Sequence[Panel]) -> tuple[float, float]:
    return min(panel.low for panel in panels), max(panel.high for panel in panels)


def _beside(card: Card) -> str:
    said = [card.attn, *(f"{name} {value:.3g}" for name, value in card.numbers.items())]
    return "  \u00b7  ".join(said)


def _fitting(name: str, width: float) -> tuple[float, str]:
    """The size of bold letters in which a name fits into so many inches; the least, shortened."""
    for size in (10.0, 8.5, 7.5):
        room = int(width * 72 / (size * 0.68))
        if len(name) <= room:
            return size, name
    kept = room * 2 // 3
    return size, f"{name[:kept]}\u2026{name[-(room - kept - 1) :]}"
