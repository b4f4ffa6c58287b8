"""Parameters of whole networks: the authors' and ours, to the digit.

    python -m benchmarks.fidelity [--write docs/fidelity.md]

Theirs are data, counted in their running code; ours are counted here, on meta, with the authors'
start. Exits with 1 where a network that has to be equal is not.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fidelity import modules
from benchmarks.resumable import write

DATA = Path(__file__).with_name("networks.yaml")


@dataclass(frozen=True)
class Network:
    """One network of the data.

    Attributes:
        attn, args, where: the mechanism, its arguments, and a placement, or paths, if not its own.
        net: what it goes into.
        total: parameters of theirs.
        source: the repository, and what builds it there.
        why: where ours differs, or "".
    """

    attn: str
    net: str
    total: int
    source: str
    args: tuple[tuple[str, Any], ...] = ()
    where: str | tuple[str, ...] | None = None
    why: str = ""

    @property
    def form(self) -> str:
        """The mechanism with its arguments and place, as they are written in a call."""
        said = [f"{name}={value!r}" for name, value in self.args]
        args = f"({', '.join(said)})" if said else ""
        places = (self.where,) if isinstance(self.where, str) else self.where or ()
        at = " at " + ", ".join(f"`{place}`" for place in places) if places else ""
        return f"`{self.attn}{args}`{at}"

    @property
    def has_to_equal(self) -> bool:
        """Whether nothing explains a difference."""
        return not self.why

    def counted(self) -> int:
        """The parameters of ours."""
        return _counted(self)


@lru_cache
def _counted(one: Network) -> int:
    import attnsurgeon

    args = dict(one.args)
    cost = attnsurgeon.estimate(one.net, one.attn, one.where, attn_args=args, init="paper")
    return cost.after.params


def networks() -> tuple[Network, ...]:
    """All of the data, in its order."""
    read = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return tuple(
        Network(
            attn, entry["net"], entry["total"], entry["from"],
            tuple(entry.get("args", {}).items()), _places(entry.get("where")), entry.get("why", ""),
        )
        for attn, entries in read.items()
        for entry in entries
    )  # fmt: skip


def _places(where: str | list[str] | None) -> str | tuple[str, ...] | None:
    return tuple(where) if isinstance(where, list) else where


def parts() -> dict[str, str]:
    """The parts of the page."""
    found = networks()
    equal = sum(one.counted() == one.total for one in found)
    kinds = len({one.attn for one in found})
    return {
        "summary": f"**{len(found)} networks with {kinds} mechanisms: {equal} have the same number"
        f" of parameters to the digit**, and of the other {len(found) - equal} it is known why.",
        "table": "\n".join(_lines(found)),
        "modules": "\n".join(modules.lines(Counter(one.attn for one in found))),
    }


def _lines(found: tuple[Network, ...]) -> Iterator[str]:
    yield "| mechanism | network | theirs, and where they were counted | theirs | ours | equal |"
    yield "|---|---|---|---:|---:|---|"
    for one in found:
        repository, _, builder = one.source.partition(" ")
        ours = one.counted()
        equal = "yes" if ours == one.total else f"no: {one.why}"
        yield (
            f"| {one.form} | `{one.net}` | {repository}: `{builder}` | {one.total:,} | {ours:,}"
            f" | {equal} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", type=Path, help="a page with marks")
    options = parser.parse_args()
    made = parts()
    print(*made.values(), sep="\n\n")
    if options.write:
        write(options.write, "networks", made, kind="fidelity")
    wrong = [one for one in networks() if (one.counted() == one.total) != one.has_to_equal]
    if wrong:
        sys.exit(f"not as the data says: {', '.join(f'{one.attn} in {one.net}' for one in wrong)}")


if __name__ == "__main__":
    main()
