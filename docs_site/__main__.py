"""Writes the pages of the site to a folder, from which mkdocs builds it.

python -m docs_site build/docs
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.rules.schema import json_schema
from docs_site import cards, figures, markdown, reference

ROOT = Path(__file__).parents[1]
ALONE = "---\nhide: [navigation]\n---\n\n"  # of a page that is the only one of its tab
STYLE = Path(__file__).with_name("site.css")


def write(to: Path) -> None:
    """Writes every page, picture and style; what the folder held before is removed."""
    shutil.rmtree(to, ignore_errors=True)
    (to / "mechanisms").mkdir(parents=True)
    (to / "examples").mkdir()
    write_project(to)
    write_reference(to)
    for card in mechanisms().values():
        drawn = figures.draw(card, to / "mechanisms" / f"{card.name}.png")
        text = cards.page(card, ROOT / "docs", drawn)
        _write(to / "mechanisms" / f"{card.name}.md", text)


def write_project(to: Path) -> None:
    """Writes the pages that lie in the project, and the examples."""
    for name in markdown.PLACES:
        for file in ROOT.glob(f"{name}*.md"):
            place = markdown.site_path(file.name)
            if not (ROOT / "docs" / place).exists():  # docs/index.md stands for the README
                _write(to / place, markdown.page(file.read_text(encoding="utf-8"), ""))
    for file in (ROOT / "docs").iterdir():
        if file.suffix == ".md":
            text = cards.linked(markdown.page(file.read_text(encoding="utf-8")))
            _write(
                to / file.name,
                ALONE + text if file.stem.split(".")[0] in ("index", "tutorial") else text,
            )
        else:
            shutil.copy(file, to)
    examples = sorted((ROOT / "examples").glob("*.py"))
    for file in examples:
        _write(to / "examples" / f"{file.stem}.md", reference.example_page(file))
    _write(to / "examples" / "index.md", reference.examples_page(examples))
    shutil.copy(STYLE, to)
    shutil.copy(ROOT / "LICENSE", to / "license.txt")


def write_reference(to: Path) -> None:
    """Writes the pages of the public names and the commands, and the schema of rule files."""
    _write(to / "api.md", reference.api_page())
    _write(to / "commands.md", reference.commands_page())
    _write(to / "rules.schema.json", json.dumps(json_schema(), indent=1))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs"))
