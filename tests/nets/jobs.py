"""A job for a pool of processes that needs no torch, which takes seconds to import."""

from typing import Any


def count_letters(name: str) -> dict[str, Any]:
    """Returns a result as a benchmark writes it."""
    return {"name": name, "letters": len(name)}
