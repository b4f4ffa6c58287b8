"""Templates + plain values -> one HTML page: the only door to Jinja2 and Pygments.

Whatever stands in a page goes through here: a name becomes text, never markup, and what a browser
would obey in it is spelled out. A page loads nothing; its own policy forbids it to, and lets no
script run but those that were put in here.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from attnsurgeon.report import words
from attnsurgeon.report.streams import UNICODE, printable
from attnsurgeon.version import __version__


def render(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """Returns a page.

    Args:
        template: file name of a template in `templates/` that extends `base.html`.
        scripts: file names of scripts in `templates/`, which are put in as they are.
        values: what the template lays out. Text may hold anything.
    """
    from markupsafe import Markup

    texts = [_file(name) for name in scripts]
    page = _environment().get_template(template)
    return page.render(
        style=Markup(_file("style.css")),
        scripts=[Markup(text) for text in texts],
        policy=_policy(texts),
        version=__version__,
        **values,
    )


def highlighted(text: str, language: str) -> str:
    """Returns the tokens of a text in spans, as markup that is safe in a page.

    Args:
        text: of a file or a snippet.
        language: "yaml" or "python".
    """
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(language, stripall=False)
    spans = HtmlFormatter(nowrap=True, classprefix="t-")
    # The formatter escapes what it is given, once it holds nothing that a browser obeys.
    return Markup(highlight(printable(text), lexer, spans).rstrip("\n"))


def picture(png: bytes) -> str:
    """Returns the address of a PNG that lies in the page itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("attnsurgeon.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters.update(
        count=words.count, change=words.change, percent=words.percent, rounded=words.rounded,
        milliseconds=words.milliseconds, memory=words.memory, listed=words.listed,
        several=words.several, highlighted=highlighted, picture=picture,
        size=lambda sides: words.size(sides, UNICODE.times),
    )  # fmt: skip
    return made


def _shown(value: Any) -> Any:
    """What an expression becomes; markup has been through here already."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value)


def _policy(scripts: Sequence[str]) -> str:
    """The page's own rule of what it may load and run: nothing, but what is in it."""
    hashes = [hashlib.sha256(text.encode("utf-8")).digest() for text in scripts]
    allowed = [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in hashes]
    run = " ".join(allowed) or "'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {run}"


def _file(name: str) -> str:
    folder = resources.files("attnsurgeon.report") / "templates"
    return (folder / name).read_text("utf-8")
