"""Traced -> how the positions of each value stand: as axes, or in a row of tokens.

A convolution makes the axes behind the channels positions: a value (N, C, L) that one makes, or
reads, is a map of rank 1. Permutations and reshapes carry them along; flattened in their order they
are a row of tokens, to which others (class, registers) are joined. Nothing is guessed from a number
of tokens: 196 may be 14 x 14, and may be not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.flow import ACTIVATIONS, NORMS, POOLS, UPSAMPLING
from attnsurgeon.sites.layouts import AXIS_ONE, permuted, runs

_POINTWISE = (
    ACTIVATIONS
    | NORMS
    | frozenset(["linear", "add", "sub", "rsub", "mul", "div", "dropout", "contiguous", "clone"])
    | frozenset(["to", "float", "type_as", "detach", "sigmoid", "tanh", "attention"])
)
_SPLITTING = frozenset(["split", "split_with_sizes", "chunk", "tensor_split"])


@dataclass(frozen=True)
class Tokens:
    """A row of tokens.

    Attributes:
        sides: of the map that stands in it row by row: (L,), (H, W) or (D, H, W).
        before, after: the numbers of tokens of no position ahead of the map and behind it.
    """

    sides: tuple[int, ...]
    before: int = 0
    after: int = 0

    @property
    def beside(self) -> int:
        """The number of tokens of no position."""
        return self.before + self.after


@dataclass(frozen=True)
class _Places:
    """Where the positions of a value are: on axes of their own, or as tokens on one axis."""

    axes: tuple[int, ...]
    tokens: Tokens | None = None


_LINE = _Places((2,))  # of a value (N, C, L)


def find_tokens(traced: Traced, *, lines: bool = True) -> None:
    """Sets `node.meta["places"]` on every node; `tokens_at` and `is_line` read it.

    Args:
        traced: the record, with its axes.
        lines: see `survey`.
    """
    nodes = list(traced.graph.nodes)
    for node in nodes:
        node.meta["places"] = (
            _places(node, traced.batch, lines) if node.meta["shape"] is not None else None
        )
    for node in reversed(nodes):  # what is added to a map stands as the map does
        if lines and _is_line_convolution(node):
            read = node.all_input_nodes[0]
            if read.meta["places"] is None and read.meta["data"] and read.meta["axes"] == {1}:
                read.meta["places"] = _LINE
        if node.meta["places"] is not None and _is_pointwise(node):
            for term in node.all_input_nodes:
                if term.meta["data"] and term.meta["places"] is None and _same(term, node):
                    term.meta["places"] = node.meta["places"]


def tokens_at(node: fx.Node, layout: str | None) -> Tokens | None:
    """How the tokens of a value stand; None of another layout, and where it is not known."""
    places: _Places | None = node.meta.get("places")
    if layout != "NLC" or places is None or places.axes != (1,):
        return None
    return places.tokens or Tokens((node.meta["shape"][1],))


def sides_in_row(node: fx.Node, axis: int) -> tuple[int, ...]:
    """The sides of the map whose positions stand in a row on one axis; () where it is not known."""
    places: _Places | None = node.meta.get("places")
    if places is None or places.tokens is None or places.axes != (axis,):
        return ()
    return places.tokens.sides


def is_line(node: fx.Node, layout: str | None) -> bool:
    """Whether a value (N, C, L) is a map of rank 1, instead of tokens with the channels first."""
    return layout == "NCL" and node.meta.get("places") == _LINE


def row_of(node: fx.Node, traced: Traced) -> fx.Node | None:
    """The row of tokens from which a value was made by cutting off those of no position, where it
    is all that goes on from that row.
    """
    if node.meta.get("name") not in ("getitem", "narrow"):
        return None
    row = node.all_input_nodes[0]
    left, whole = tokens_at(node, "NLC"), tokens_at(row, "NLC")
    if left is None or whole is None or left.beside or not whole.beside:
        return None
    return row if list(row.users) == [node] and row not in traced.root.outputs else None


def map_is_used(node: fx.Node, traced: Traced) -> bool:
    """Whether more than the tokens of no position goes on from a value: all that comes after may
    look at the class token alone.
    """
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in traced.root.outputs:
            return True
        for user in value.users:
            if user.meta["places"] == value.meta["places"] and _is_pointwise(user):
                todo.append(user)
            elif not takes_beside(user) and _leads_out(user, traced):
                return True
    return False


def _leads_out(node: fx.Node, traced: Traced) -> bool:
    """Whether the network's outputs depend on a value; a map may be made of tokens for nobody."""
    seen = {node}
    todo = [node]
    while todo:
        value = todo.pop()
        if value in traced.root.outputs:
            return True
        fresh = [user for user in value.users if user not in seen]
        seen.update(fresh)
        todo += fresh
    return False


def _as_map(node: fx.Node, batch: int) -> _Places | None:
    """The positions of a value that lost them, in windows or parts, and is a map again."""
    shape, axes = node.meta["shape"], node.meta["axes"]
    given = node.op == "placeholder"
    if (node.meta.get("event") is None and not given) or shape is None or len(shape) not in (4, 5):
        return None
    if shape[0] != batch or axes not in ({1}, {len(shape) - 1}):
        return None
    return _Places(tuple(a for a in range(1, len(shape)) if a not in axes))


def _same(term: fx.Node, node: fx.Node) -> bool:
    """Whether two values have the same axes but for a last one of channels."""
    a, b = term.meta["shape"], node.meta["shape"]
    return a is not None and len(a) == len(b) and a[:-1] == b[:-1]


def _is_pointwise(node: fx.Node) -> bool:
    return node.meta.get("name") in _POINTWISE


def _is_line_convolution(node: fx.Node) -> bool:
    """Whether a convolution makes a map of rank 1, and reads one."""
    named = node.meta.get("name") in ("conv1d", "conv_transpose1d")
    return named and node.meta["data"] and len(node.meta["shape"]) == 3 and node.meta["axes"] == {1}


def _of_line(node: fx.Node, known: list[fx.Node]) -> _Places:
    """Positions of what a convolution makes; tokens that it does not mix stay what they are."""
    weight: Any = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
    source, shape = node.all_input_nodes[0], node.meta["shape"]
    alone = weight.meta["shape"][2] == 1 and source.meta["shape"][2] == shape[2]
    kept = alone and source in known and source.meta["places"].axes == (2,)
    return source.meta["places"] if kept else _LINE


def _of_patches(node: fx.Node) -> _Places | None:
    """Positions of the patches that an unfolding (N, C k k, L) lays out row by row."""
    image, shape = node.all_input_nodes[0].meta["shape"], node.meta["shape"]
    if len(image) != 4 or len(shape) != 3:
        return None
    defaults = {"kernel_size": 1, "dilation": 1, "padding": 0, "stride": 1}
    given = defaults | dict(zip(defaults, node.args[1:], strict=False)) | node.kwargs
    each = [n if isinstance(n, (tuple, list)) else (n, n) for n in map(given.get, defaults)]
    sides = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1
                  for n, k, d, p, s in zip(image[2:], *each, strict=True))  # fmt: skip
    return _Places((2,), Tokens(sides)) if math.prod(sides) == shape[2] else None


def _made_of(node: fx.Node) -> list[fx.Node]:
    """What an operation works on; of one part of what it makes, what the whole is made of."""
    origin = node.args[0] if node.meta["name"] == "part" else node
    return origin.all_input_nodes if isinstance(origin, fx.Node) else []


def _places(node: fx.Node, batch: int, lines: bool) -> _Places | None:
    name, shape = node.meta.get("name"), node.meta["shape"]
    ndim = len(shape)
    if name is None or not node.meta["data"]:
        return None
    if (name in AXIS_ONE or name in POOLS or name in UPSAMPLING) and ndim >= 4:
        return _Places(tuple(range(2, ndim)))
    made_of = _made_of(node) if lines else node.all_input_nodes
    known = [n for n in made_of if n.meta.get("places") is not None]
    if lines and _is_line_convolution(node):
        return _of_line(node, known)
    if name == "cat":
        return _joined(node, known)
    if name == "unfold":
        return _of_patches(node)
    found = [(n, places) for n in node.all_input_nodes if (places := _as_map(n, batch))]
    if not known and not found:
        return None
    source, places = (known[0], known[0].meta["places"]) if known else found[0]
    old = source.meta["shape"]
    if (order := permuted(node, name, len(old))) is not None:
        return replace(places, axes=tuple(map(order.index, places.axes)))
    if name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"):
        return _regrouped(old, shape, places)
    if name in ("getitem", "narrow") and len(old) == ndim:
        return _cut(node, name, places)
    if lines and name in ("pad", *POOLS, *UPSAMPLING) and len(old) == ndim:
        return places if places.tokens is None else None
    if lines and (name == "glu" or (name == "part" and _is_split(node))):
        beside = len(old) == ndim and all(old[a] == shape[a] for a in places.axes)
        return places if beside else None
    if _is_pointwise(node) and any(_same(n, node) for n in known):
        return next(n for n in known if _same(n, node)).meta["places"]
    return places if old == shape and _is_pointwise(node) else None


def _is_split(part: fx.Node) -> bool:
    """Whether a part is one of those that a value was split into."""
    origin = part.args[0]
    return isinstance(origin, fx.Node) and origin.meta.get("name") in _SPLITTING


def _regrouped(old: tuple[int, ...], new: tuple[int, ...], places: _Places) -> _Places | None:
    """Carries positions through a reshape; axes of their own may become tokens, and again axes."""
    made: list[int] = []
    tokens = places.tokens
    for before, after in runs(old, new) or []:
        inside = [a for a in before if a in places.axes]
        if not inside:
            continue
        if [a for a in before if old[a] != 1 or a in inside] != inside:
            return None  # merged with others
        target = [a for a in after if new[a] != 1] or list(after[:1])
        if len(target) == len(inside):
            made += target
        elif len(target) == 2 and len(inside) == 1 and tokens is None:
            made.append(target[0])  # which patch; where inside of it goes to the channels
        elif len(target) == 1 and tokens is None and tuple(inside) == places.axes:
            if list(inside) != sorted(inside):
                return None  # column by column
            made, tokens = target, Tokens(tuple(old[a] for a in inside))
        elif tokens is not None and not tokens.beside:
            if tuple(new[a] for a in target) != tokens.sides:
                return None
            made, tokens = target, None
        else:
            return None
    whole = len(made) == len(places.axes) or tokens is not places.tokens
    return _Places(tuple(made), tokens) if made and whole else None


def _joined(node: fx.Node, known: list[fx.Node]) -> _Places | None:
    """Positions of what `cat` makes: of maps joined by channels, or tokens with others beside."""
    parts: Any = node.args[0] if node.args else node.kwargs.get("tensors")
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(parts, (list, tuple)) or not isinstance(dim, int) or not known:
        return None
    dim %= len(node.meta["shape"])
    places: _Places = known[0].meta["places"]
    if dim not in places.axes:
        agree = all(n.meta["places"] == places for n in known)
        return places if agree and len(known) == len(set(parts)) else None
    tokens = places.tokens
    if tokens is None and len(node.meta["shape"]) == 3:
        if len(known) == len(parts):
            return places  # lines, one behind the other
        tokens = tokens_at(known[0], "NLC")
    if len(known) != 1 or tokens is None:
        return None
    at = list(parts).index(known[0])
    sizes = [part.meta["shape"][dim] for part in parts]
    before, after = tokens.before + sum(sizes[:at]), tokens.after + sum(sizes[at + 1 :])
    return replace(places, tokens=Tokens(tokens.sides, before, after))


def _cut(node: fx.Node, name: str, places: _Places) -> _Places | None:
    """Positions of a slice: tokens of no position may be cut off, the map may not be cut."""
    source = node.all_input_nodes[0]
    bounds = _bounds(node, name, source.meta["shape"])
    tokens = places.tokens
    if tokens is None and bounds is not None and source.meta["axes"] == {1}:
        return places  # a part of a map is a map
    if bounds is None:
        return None
    for axis in places.axes:
        start, stop = bounds.get(axis, (0, source.meta["shape"][axis]))
        if (start, stop) == (0, source.meta["shape"][axis]):
            continue
        if tokens is None:
            return None
        before, after = tokens.before - start, tokens.after - (source.meta["shape"][axis] - stop)
        if before < 0 or after < 0:
            return None
        tokens = Tokens(tokens.sides, before, after)
    return replace(places, tokens=tokens)


def _bounds(node: fx.Node, name: str, shape: tuple[int, ...]) -> dict[int, tuple[int, int]] | None:
    """Start and stop by axis, of what is sliced with steps of 1."""
    if name == "narrow":
        given: list[Any] = [*node.args[1:], *node.kwargs.values()]
        if len(given) != 3 or not all(isinstance(n, int) for n in given):
            return None
        return {given[0] % len(shape): (given[1], given[1] + given[2])}
    index = node.args[1]
    parts: list[Any] = list(index) if isinstance(index, (tuple, list)) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in parts):
        return None
    ends = [part.indices(size)[:2] for part, size in zip(parts, shape, strict=False)]
    return dict(enumerate(ends))


def takes_beside(user: fx.Node) -> bool:
    """Whether an operation takes nothing but tokens of no position out of a value."""
    if user.meta.get("name") not in ("getitem", "select", "narrow"):
        return False
    value = user.all_input_nodes[0]
    tokens = tokens_at(value, "NLC")
    if tokens is None:
        return False
    start, stop = _taken(user, value.meta["shape"])
    first, last = tokens.before, tokens.before + math.prod(tokens.sides)
    return start < stop and (stop <= first or start >= last)


def _taken(user: fx.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """Start and stop of what is taken along axis 1; nothing where that is not known."""
    unknown, size = (0, 0), shape[1]
    if user.meta["name"] == "select":
        given: list[Any] = [*user.args[1:], *user.kwargs.values()]
        if len(given) != 2 or given[0] not in (1, 1 - len(shape)) or not isinstance(given[1], int):
            return unknown
        at = given[1] % size
        return at, at + 1
    index = user.args[1]
    if user.meta["name"] == "getitem" and isinstance(index, (tuple, list)) and len(index) > 1:
        at: Any = index[1]
        if isinstance(at, int):
            return at % size, at % size + 1
        if index[0] != slice(None) or not isinstance(at, slice) or at.step not in (None, 1):
            return unknown
        start, stop, _ = at.indices(size)
        return start, stop
    bounds = _bounds(user, "narrow", shape) if user.meta["name"] == "narrow" else None
    return (bounds or {}).get(1, unknown)
