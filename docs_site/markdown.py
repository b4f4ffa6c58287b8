"""A page as GitHub shows it -> the same page as Python-Markdown and the site want it.

The files of the project are written to be read where they lie: they link to each other across
folders, and begin with a line that leads to the other language. The site has one folder, and a menu
of languages of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

CHINESE = ".zh-CN"
# Where a file of the project is on the site, without language and suffix.
PLACES = {"README": "index", "CONTRIBUTING": "contributing", "CHANGELOG": "changelog"}
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_ONLY_LINKS = re.compile(r"\[[^]]+\]\([^)]+\)(?: · \[[^]]+\]\([^)]+\))*")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE)
_LIST = re.compile(r"^(?P<text>(?![-|#>\s]|\d+\. ).+)\n(?=- |\d+\. )", re.MULTILINE)


def page(text: str, folder: str = "docs") -> str:
    """Returns a page of the project as one of the site.

    Args:
        text: of the page.
        folder: where in the project it lies, from which its links go: "docs" or "".

    Raises:
        ValueError: a link leads to a file that the site has not.
    """
    lead, *rest = text.split("\n\n", 2)
    if rest and _ONLY_LINKS.fullmatch(rest[0].strip()):
        text = "\n\n".join([lead, *rest[1:]])
    return _outside_code(text, lambda prose: _LINK.sub(_linked(folder), _spaced(prose)))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("```") else change(part) for part in _FENCE.split(text))


def _spaced(prose: str) -> str:
    """Without marks for tests, and with an empty line before each list, as Python-Markdown asks."""
    return _LIST.sub(lambda found: f"{found['text']}\n\n", _COMMENT.sub("\n", prose))


def _linked(folder: str) -> Callable[[re.Match[str]], str]:
    def link(found: re.Match[str]) -> str:
        target, mark, anchor = found[2].partition("#")
        if not target or "://" in target:
            return found[0]
        return f"{found[1]}{site_path(_joined(folder, target))}{mark}{anchor}{found[3]}"

    return link


def _joined(folder: str, target: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(folder) / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def site_path(path: str) -> str:
    """Returns where on the site a file of the project is, from the site's first folder.

    Args:
        path: of the file, from the project's folder: `docs/rules.zh-CN.md`, `examples/one.py`.

    Raises:
        ValueError: it is nowhere.
    """
    folder, _, name = path.rpartition("/")
    if path == "examples":
        return "examples/index.md"
    if folder == "examples" and name.endswith(".py"):
        return f"examples/{name.removesuffix('.py')}.md"
    if folder == "docs":
        return name
    stem, dot, language = name.removesuffix(".md").partition(".")
    if not folder and name.endswith(".md") and stem in PLACES:
        return f"{PLACES[stem]}{dot}{language}.md"
    if path == "LICENSE":
        return "license.txt"
    raise ValueError(f"the site has no page for {path}")
