"""Value -> the other values in its memory: what a cut would tear apart.

Attention makes a new tensor. Where a view of the value (or what it is a view of) was made before
and is used again after the cut, a change in place reaches one of the two only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from attnsurgeon.recording.record import Call


def shared_memory(nodes: Iterable[fx.Node]) -> dict[int, list[fx.Node]]:
    """The values that lie in one memory, for each memory in which something changes in place."""
    found: dict[int, list[fx.Node]] = {}
    for node in nodes:
        if node.meta.get("memory") is not None:
            found.setdefault(node.meta["memory"], []).append(node)
    changed = (n for n in found.values() if any(m.meta.get("over") is not None for m in n))
    return {nodes[0].meta["memory"]: nodes for nodes in changed if len(nodes) > 1}


def torn_from(node: fx.Node, memory: dict[int, list[fx.Node]]) -> fx.Node | None:
    """An older value in the memory of `node` that is used after it, where one of them changes."""
    there = memory.get(node.meta.get("memory", 0), [])
    now = node.meta["order"]
    if not any(n.meta.get("over") is not None and n.meta["order"] >= now for n in there):
        return None
    before = set(_forms(node))
    older = (n for n in there if n not in before and n.meta["order"] < now)
    return next((n for n in older if _used_after(n, now)), None)


def changes_later(node: fx.Node, memory: dict[int, list[fx.Node]]) -> bool:
    """Whether something in the memory of a value is changed in place after it was made."""
    there = memory.get(node.meta.get("memory", 0), [])
    return any(
        n.meta.get("over") is not None and n.meta["order"] > node.meta["order"] for n in there
    )


def _forms(node: fx.Node) -> Iterator[fx.Node]:
    """The value, and what its tensor was before each change in place."""
    form: fx.Node | None = node
    while form is not None:
        yield form
        form = form.meta.get("over")


def _used_after(node: fx.Node, order: int) -> bool:
    call: Call = node.meta["call"]
    given_out = any(node in outer.outputs and outer.end > order for outer in call.chain())
    return given_out or any(user.meta["order"] > order for user in node.users)
