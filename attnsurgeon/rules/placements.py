"""The shipped rule files: where they are, what they are called, and each one read.

Listing them reads no more than names and messages, so that it stays fast: the models of `schema`
cost more to import than everything else here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from attnsurgeon.errors import RuleError, nearest
from attnsurgeon.rules.document import decode, read_document

if TYPE_CHECKING:
    from attnsurgeon.rules.schema import RuleFile

# No file: it stands for another placement, which the mechanism's card names.
PAPER = "paper"


@dataclass(frozen=True)
class Placement:
    """A name that `--where` takes, and one sentence that says which sites it means."""

    name: str
    message: str


def shipped_folder() -> Path:
    """Returns the folder of the shipped rule files, in an installation or in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "shipped", here.parents[1] / "rules"):
        if (folder / "bottleneck.yaml").is_file():
            return folder
    raise RuleError("the shipped rule files are missing", "install attnsurgeon again")


@lru_cache(maxsize=1)
def shipped_names() -> tuple[str, ...]:
    """Returns the names of the shipped rule files, sorted."""
    return tuple(sorted(path.stem for path in shipped_folder().glob("*.yaml")))


def placements() -> tuple[Placement, ...]:
    """Returns every name that `--where` takes, with what it means."""
    paper = Placement(PAPER, "Where the mechanism's own paper puts it; its card says where.")
    return (*(Placement(name, _message(name)) for name in shipped_names()), paper)


@lru_cache
def shipped_text(name: str) -> str:
    """Returns the text of the shipped rule file called `name`; `RuleError` for unknown names."""
    if name not in shipped_names():
        known = (*shipped_names(), PAPER)
        raise RuleError(f"no placement is called {name!r}", nearest(name, known))
    return decode((shipped_folder() / f"{name}.yaml").read_bytes(), source=f"{name}.yaml")


@lru_cache
def shipped(name: str) -> RuleFile:
    """Returns the shipped rule file called `name`; `RuleError` for unknown names."""
    from attnsurgeon.rules.parse import parse_rules  # not at the top: listing must stay fast

    return parse_rules(shipped_text(name), source=f"{name}.yaml")


def _message(name: str) -> str:
    return read_document(shipped_text(name), source=f"{name}.yaml").data["rules"][0]["message"]
