"""The graphs of the ways through a forward -> one piece of code that branches between them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import fx

from attnsurgeon.forwards.decisions import decided
from attnsurgeon.forwards.retype import Reference, source_of

_FREED = re.compile(r";  (\w+(?: = \w+)*) = None$")
_TEST = re.compile(r"\s*\w+ = \w+\((\w+), (True|False), '.*'\)$")


def branched(graphs: Sequence[fx.Graph], name: str) -> tuple[str, tuple[Reference, ...]]:
    """Returns the code of the graphs of all ways as a method, and what it refers to.

    Where two ways part there is a test (`decided`) in both of them; above it they are alike.
    """
    if len(graphs) == 1:
        return source_of(graphs[0], name)
    made = [source_of(_renamed(graph), name) for graph in graphs]
    lines = [_Line.all(source) for source, _ in made]
    code = "\n".join(_merged(lines)) + "\n"
    references = {reference for _, used in made for reference in used}
    return code, tuple(sorted(r for r in references if re.search(rf"\b{r[0]}\b", code)))


def _renamed(graph: fx.Graph) -> fx.Graph:
    """A copy whose values are named in their order, so that ways that begin alike read alike."""
    copy = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), mapping.__getitem__)
        name = node.name if node.op == "placeholder" else re.sub(r"(_\d+)+$", "", node.name)
        mapping[node] = copy.create_node(node.op, node.target, args, kwargs, name)
    return copy


class _Line:
    """One line of generated code, and the names that it frees."""

    def __init__(self, line: str) -> None:
        freed = _FREED.search(line)
        self.code = line[: freed.start()] if freed else line
        self.freed = freed[1].split(" = ") if freed else []

    @classmethod
    def all(cls, source: str) -> list[_Line]:
        return [cls(line) for line in source.rstrip().split("\n")]


def _merged(ways: list[list[_Line]]) -> list[str]:
    """The lines of several ways: those that all begin with, then a branch."""
    code: list[str] = []
    for at, lines in enumerate(zip(*ways, strict=False)):
        if any(line.code != lines[0].code for line in lines):
            return code + _parted([way[at:] for way in ways])
        freed = [n for n in lines[0].freed if all(n in line.freed for line in lines)]
        code.append(lines[0].code + (f";  {' = '.join(freed)} = None" if freed else ""))
    assert all(len(way) == len(ways[0]) for way in ways)
    return code


def _parted(ways: list[list[_Line]]) -> list[str]:
    """The branch at the head of several ways."""
    tests = [_TEST.match(way[0].code) for way in ways]
    assert all(test is not None and test[1] == tests[0][1] for test in tests), decided  # type: ignore[index]
    condition = tests[0][1]  # type: ignore[index]
    code = []
    for outcome, head in (("True", f"    if {condition}:"), ("False", "    else:")):
        taken = [w[1:] for w, test in zip(ways, tests, strict=True) if test[2] == outcome]  # type: ignore[index]
        code.append(head)
        code += [f"    {line}" for line in _merged(taken)]
    return code
