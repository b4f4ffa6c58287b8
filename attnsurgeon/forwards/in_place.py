"""Tensors of a trace -> the nodes that stand for them, through changes in place."""

from __future__ import annotations

from torch import Tensor, fx

from attnsurgeon.recording.record import Key


class Holders:
    """Who stands for which tensor: after a change in place it is the node that made the change.

    Attributes:
        shadowed: keys of changes in place after which the forward goes on with the changed
            tensor instead of the operation's result.
    """

    def __init__(self) -> None:
        self.shadowed: set[Key] = set()
        self._of: dict[int, list[fx.Node]] = {}  # id of a tensor -> the nodes that stand for it
        self._replaced: dict[fx.Node, fx.Node] = {}  # node -> what its tensor has become

    def hold(self, tensor: Tensor, node: fx.Node) -> None:
        """Lets `node` stand for a tensor, beside others."""
        self._of.setdefault(id(tensor), []).append(node)

    def supersede(self, tensor: Tensor, node: fx.Node) -> None:
        """Lets `node` stand for a tensor from now on, in place of all that stood for it."""
        for holder in self._of.get(id(tensor), []):
            if holder is not node:
                self._replaced[holder] = node
        self._of[id(tensor)] = [node]

    def present(self, node: fx.Node) -> fx.Node:
        """The node that stands for what a node's tensor has become."""
        while node in self._replaced:
            node = self._replaced[node]
            if "key" in node.meta:
                self.shadowed.add(node.meta["key"])
        return node
