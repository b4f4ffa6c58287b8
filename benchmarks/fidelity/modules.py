"""How each mechanism's module is held against its authors' -> rows: vectors, loops, networks."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import yaml

from attnsurgeon.attention.registry import mechanisms

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "golden" / "index.json"
UNRUNNABLE: dict[str, str] = yaml.safe_load(
    Path(__file__).with_name("unrunnable.yaml").read_text(encoding="utf-8")
)
_OTHERWISE = {"spanet": "spa"}  # what a vector calls otherwise than the catalogue


@lru_cache
def vectors() -> dict[str, list[str]]:
    """Mechanism -> the repositories of whose modules there are vectors, one entry a vector.

    Where these are not the authors', a word behind the name says so.
    """
    found: dict[str, list[str]] = {}
    for entry in json.loads(VECTORS.read_text(encoding="utf-8")).values():
        attn: str = entry["config"]["attn"]
        source: str = entry["source"]
        if entry.get("note", "").startswith("a third party's"):
            source += " (third party)"
        found.setdefault(_OTHERWISE.get(attn, attn), []).append(source)
    return found


def oracle(name: str) -> str:
    """The first line of the mechanism's own test, which says what that compares; "" without one."""
    files = sorted((ROOT / "tests" / "attention").glob(f"*/test_{name.replace('-', '_')}.py"))
    said = [ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    return next((text.partition("\n")[0] for text in said if text), "")


def lines(networks: dict[str, int]) -> Iterator[str]:
    """Yields the table.

    Args:
        networks: mechanism -> how many whole networks were counted.
    """
    yield "| mechanism | running module, in vectors | its test | whole networks |"
    yield "|---|---|---|---:|"
    for name in mechanisms():
        theirs = vectors().get(name, [])
        sources = ", ".join(sorted(set(theirs)))
        compared = f"{len(theirs)}: {sources}" if theirs else f"no: {UNRUNNABLE.get(name, '?')}"
        yield f"| `{name}` | {compared} | {oracle(name)} | {networks.get(name, 0) or ''} |"
