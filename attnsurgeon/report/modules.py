"""The record of a network's modules and sites -> their tree, with shapes and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from attnsurgeon.report import words
from attnsurgeon.report.network import OPERATIONS, played, show_footnotes, show_head
from attnsurgeon.report.streams import UNICODE, Marks, marks
from attnsurgeon.report.tables import Cell, show_table

# What stands in front of a module and of those below it: of one with others behind it, of the last.
_GUIDES = {True: (("├ ", "│ "), ("└ ", "  ")), False: (("+ ", "| "), ("+ ", "  "))}


def show_tree(console: Console, record: Mapping[str, Any], *, every: bool = False) -> None:
    """Prints the tree of modules, with the sites in it; equal branches are one.

    Args:
        console: where to.
        record: of `modules`, of `sites` and what they are of.
        every: also the single convolutions, norms, activations, and other modules without a role.
    """
    signs = marks(console)
    show_head(console, record)
    shown = [s for s in record["sites"] if every or not OPERATIONS.issuperset(s["roles"])]
    root = _Branch(record["model"])
    for module in record["modules"]:
        root.at(module["path"]).module = module
    for site in shown:
        roles = [role for role in site["roles"] if every or role not in OPERATIONS]
        root.at(site["path"]).site = {**site, "roles": roles}
    rows = [root.row("", record["model"], signs), *root.rows(signs, every=every)]
    columns = ["!module", "type", ">output", ">params", ">MACs", "plays"]
    show_table(console, columns, rows, spare=("type", "plays"))
    hidden = len(record["sites"]) - len(shown)
    said = [f"--all also draws {words.several(hidden, 'single operation')}"] if hidden else []
    if any(signs.times in str(row[0]) for row in rows):
        said.insert(0, f"behind a {signs.times} stand the figures of one")
    show_footnotes(console, record, said)


class _Branch:
    """A module of the tree, or an operation: the site that it makes, and the modules below."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.below: dict[str, _Branch] = {}
        self.module: Mapping[str, Any] | None = None
        self.site: Mapping[str, Any] | None = None

    def at(self, path: str) -> _Branch:
        """Returns the branch of a path; a functional operation is a leaf of its module."""
        module, colon, operation = path.partition(":")
        here = self
        for part in [*module.split(".")] * bool(module) + [f":{operation}"] * bool(colon):
            here = here.below.setdefault(part, _Branch(part))
        return here

    def rows(self, signs: Marks, guide: str = "", *, every: bool) -> Iterator[list[Cell]]:
        """Yields a row for what is below, consecutive equal branches in one."""
        runs: list[list[_Branch]] = []
        for branch in self.below.values():
            if not (every or branch.tells()):
                continue
            if runs and runs[-1][0].looks() == branch.looks():
                runs[-1].append(branch)
            else:
                runs.append([branch])
        for run in runs:
            mine, deeper = _GUIDES[signs is UNICODE][run is runs[-1]]
            name = run[0].name
            if len(run) > 1:
                name += f" {signs.to} {run[-1].name} {signs.times}{len(run)}"
            yield run[0].row(guide + mine, name, signs)
            yield from run[0].rows(signs, guide + deeper, every=every)

    def tells(self) -> bool:
        """Whether it plays a role, or holds what does, or is attention."""
        attention = self.module is not None and self.module["attn"]
        return bool(attention or self.site or any(b.tells() for b in self.below.values()))

    def looks(self) -> tuple[Any, ...]:
        """What it looks like, without its name."""
        figures = self._figures()
        return (*figures, self._plays(), tuple((n, b.looks()) for n, b in self.below.items()))

    def row(self, guide: str, name: str, signs: Marks) -> list[Cell]:
        """Returns the row of this module."""
        kind, shape, params, macs = self._figures()
        tree = Text.assemble((guide, "dim"), (name, "bold" if self.below else ""))
        plays = Text(self._plays(), style="cyan" if self.site is not None else "green")
        figures = ["" if n is None else words.rounded(n) for n in (params, macs)]
        return [tree, kind, words.size(shape, signs.times) if shape else "", *figures, plays]

    def _figures(self) -> tuple[str, Sequence[int] | None, int | None, int | None]:
        if self.module is not None:
            module = self.module
            shape = None if module["shape"] is None else tuple(module["shape"])
            return module["type"], shape, module["params"], module["macs"]
        if self.site is not None:
            return self.site["type"], tuple(self.site["shape"][1:]), None, None
        return "", None, None, None

    def _plays(self) -> str:
        if self.module is not None and self.module["attn"]:
            return f"attention: {self.module['attn']}"
        return "" if self.site is None else played(self.site)
