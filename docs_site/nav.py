"""A hook of mkdocs: a `*` in its nav stands for the pages of that name, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHINESE = ".zh-CN"


def on_config(config: Any) -> Any:
    """Fills the nav in."""
    config["nav"] = filled(config["nav"], Path(config["docs_dir"]))
    return config


def filled(nav: Any, docs: Path) -> Any:
    """Returns a nav, or a part of one, with the names of files in place of patterns."""
    if isinstance(nav, dict):
        return {title: filled(part, docs) for title, part in nav.items()}
    if isinstance(nav, list):
        return [page for part in nav for page in _pages(part, docs)]
    return _named(nav, docs) if "*" in nav else nav


def _pages(part: Any, docs: Path) -> list[Any]:
    """What stands in a list for one part of it: of a pattern, as many pages as there are."""
    if isinstance(part, str) and "*" in part:
        return [file for page in _named(part, docs) for file in page.values()]
    return [filled(part, docs)]


def _named(pattern: str, docs: Path) -> list[dict[str, str]]:
    files = sorted(file for file in docs.glob(pattern) if file.stem != "index")
    english = [file for file in files if not file.stem.endswith(CHINESE)]
    return [{_title(file): file.relative_to(docs).as_posix()} for file in english]


def _title(file: Path) -> str:
    """A mechanism is called as users type it; an example by its words."""
    return file.stem.replace("_", " ").capitalize() if "_" in file.stem else file.stem
