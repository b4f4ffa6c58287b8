"""A hook of mkdocs: a `*` in its nav stands for the pages of that name, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Fills the nav in."""
    config["nav"] = filled(config["nav"], Path(config["docs_dir"]))
    return config


def filled(nav: Any, docs: Path) -> Any:
    """Returns a nav, or a part of one, with the names of files in place of patterns."""
    if isinstance(nav, dict):
        return {title: filled(part, docs) for title, part in nav.items()}
    if isinstance(nav, list):
        return [filled(part, docs) for part in nav]
    if "*" not in nav:
        return nav
    files = sorted(file for file in docs.glob(nav) if file.stem != "index")
    return [{_title(file): file.relative_to(docs).as_posix()} for file in files]


def _title(file: Path) -> str:
    """A mechanism is called as users type it; an example by its words."""
    return file.stem.replace("_", " ").capitalize() if "_" in file.stem else file.stem
