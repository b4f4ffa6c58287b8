"""Renderables -> a terminal or a file, without anything in their texts that a terminal obeys."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from attnsurgeon.report.streams import printable


class Screen(Console):
    """A console of rich that writes only the control characters which are rich's own.

    Attributes:
        in_python: whether it is read in Python, where there are no options.
    """

    in_python = False

    def render_str(self, text: str, **how: object) -> Text:  # pyright: ignore
        """Makes a text of plain words, before it is measured."""
        return super().render_str(printable(text), **how)  # pyright: ignore[reportArgumentType]

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders anything; texts with styles of their own are not seen before this."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)
