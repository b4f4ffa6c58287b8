"""Traced -> the channel axis of every value, carried from the operations that define it.

A convolution makes axis 1 the channels, a linear layer the last axis; permutations, reshapes and
slices carry the axis along. Nothing is guessed from sizes: a value whose axis got lost has none.
While channels are split over several axes (a channel shuffle, attention heads) the set of those
axes is carried; a value has a channel axis when the set holds exactly one.
"""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.flow import NORMS, SCRIPTED_CONVOLUTION

AXIS_ONE = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        SCRIPTED_CONVOLUTION,
        "batch_norm",
        "group_norm",
        "instance_norm",
        "pixel_shuffle",
        "pixel_unshuffle",
        "fold",
    ]
)
AXIS_LAST = frozenset(["linear", "embedding", "rms_norm", "layer_norm"])
_PRODUCTS = frozenset(["matmul", "bmm"])
_REGROUPING = frozenset(
    ["view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze",
     "permute", "transpose", "swapaxes", "swapdims", "t", "T", "mT", "adjoint", "movedim",
     "moveaxis", "stack", "unbind", "select", "einsum", "fold", "unfold"]
)  # fmt: skip
_REDUCTIONS = frozenset(
    ["mean", "sum", "amax", "amin", "var", "std", "norm", "logsumexp", "prod", "all", "any"]
)
_IN_PLACE = frozenset(["add", "sub", "mul", "div", "dropout", "contiguous", "clone"])
_LAYOUTS = {(4, 1): "NCHW", (4, 3): "NHWC", (5, 1): "NCDHW", (5, 4): "NDHWC",
            (3, 1): "NCL", (3, 2): "NLC", (2, 1): "NC"}  # fmt: skip

Axes = frozenset[int]
_NONE: Axes = frozenset()


def find_axes(traced: Traced, *, lines: bool = True) -> None:
    """Sets what follows from the operations on every node: `node.meta["axes"]`, the set of axes
    that make up the channels, `node.meta["samples"]`, how many samples there are,
    `node.meta["stacked"]`, whether an axis of values that were stacked comes before them,
    `node.meta["image"]`, the input that it is made from (of several the one of the highest rank),
    and `node.meta["frames"]`, how many samples an input was laid out as, or None: the frames of
    clips, the views of an object.

    Args:
        traced: the record.
        lines: see `survey`.
    """
    for node in traced.graph.nodes:
        node.meta["axes"] = _axes(node, lines) if node.meta["shape"] is not None else _NONE
        node.meta["stacked"] = bool(node.meta["shape"]) and _is_stacked(node)
        node.meta["frames"] = _frames(node)
        node.meta["samples"] = _samples(node, traced) if node.meta["shape"] else None
        node.meta["image"] = _image(node)
    for node in reversed(list(traced.graph.nodes)):
        for term in _terms_of_unknown_axes(node):
            term.meta["axes"] = node.meta["axes"]


def _frames(node: fx.Node) -> int | None:
    """How many frames the input was laid out as, at this value or before it: whole ones, for what
    is cut into patches is one image.
    """
    given = [n for n in node.all_input_nodes if n.meta["data"]]
    node.meta["given"] = node.op == "placeholder" or (
        bool(given) and node.meta.get("name") in _REGROUPING and all(n.meta["given"] for n in given)
    )
    known = [n.meta["frames"] for n in given if n.meta["frames"] is not None]
    old, new = (given[0].meta["shape"], node.meta["shape"]) if given else (None, None)
    if known or not old or not new or not node.meta["given"] or len(new) < 4:
        return known[0] if known else None
    laid_out = node.meta["name"] in ("view", "reshape", "flatten") and new[0] > old[0] > 0
    laid_out = laid_out and new[-2:] == old[-2:]
    return new[0] if laid_out and new[0] % old[0] == 0 else None


def _image(node: fx.Node) -> fx.Node | None:
    if node.op == "placeholder":
        return node
    images = [image for n in node.all_input_nodes
              if n.meta["data"] and (image := n.meta["image"]) is not None]  # fmt: skip
    return min(images, key=lambda n: (-len(n.meta["shape"] or ()), n.meta["order"]), default=None)


def _terms_of_unknown_axes(node: fx.Node) -> list[fx.Node]:
    """What an operation adds or scales value by value without moving any, where the channels of
    what comes out are known and those of what went in got lost (SwinMLP mixes the positions of
    windows as channels): they stand where those stand that they are added to.
    """
    if node.meta.get("name") not in _IN_PLACE or len(node.meta["axes"]) != 1:
        return []
    return [
        n
        for n in node.all_input_nodes
        if n.meta["data"] and not n.meta["axes"] and n.meta["shape"] == node.meta["shape"]
    ]


def layout_of(node: fx.Node, batch: int) -> tuple[str | None, str | None]:
    """Returns (layout, None), or (None, why the value has no usable layout)."""
    shape, axes = node.meta["shape"], node.meta["axes"]
    if len(axes) != 1:
        return None, "its channel axis could not be shown"
    (axis,) = axes
    layout = _LAYOUTS.get((len(shape), axis))
    if layout is None:
        return None, f"channels on axis {axis} of {len(shape)} is no layout we know"
    samples = node.meta["samples"] or batch
    if node.meta["stacked"]:
        return None, f"its first axis ({shape[0]}) is not the batch: values were stacked"
    if shape[0] != samples:
        return None, f"its first axis ({shape[0]}) is not the batch ({samples}): cut into windows?"
    return layout, None


def _samples(node: fx.Node, traced: Traced) -> int | None:
    """Returns how many samples a value has; a reshape that folds windows into them makes no more.

    More or fewer are made by what puts batches together (two images, one encoder), or takes
    something else for a sample: a detector's regions of interest.
    """
    if not node.meta["data"] or "name" not in node.meta:
        return None
    source = _source(node)
    if source is None:
        return node.meta["frames"]
    old, new = source.meta["shape"], node.meta["shape"]
    samples = source.meta["samples"] or traced.batch
    frames = node.meta["frames"]
    if frames is not None and node.meta["name"] in _REGROUPING and new[0] in (traced.batch, frames):
        return new[0]
    if node.meta["name"] in _REGROUPING or len(old) != len(new) or old[0] != samples:
        return samples
    return new[0]


def _is_stacked(node: fx.Node) -> bool:
    """Whether the first axis counts the values that were stacked; there may be two of them, too."""
    if "name" not in node.meta or not node.meta["data"]:
        return False
    if node.meta["name"] == "stack" and _dim(node, 0) % len(node.meta["shape"]) == 0:
        return True
    source = _source(node)
    if source is None or not source.meta["stacked"]:
        return False
    return 0 not in _removed(node, node.meta["name"], len(source.meta["shape"]))


def _axes(node: fx.Node, lines: bool) -> Axes:
    name, shape = node.meta.get("name"), node.meta["shape"]
    ndim = len(shape)
    if node.op == "placeholder" and ndim >= 4:
        return frozenset({ndim - 1 if _is_channels_last(node, ndim) else 1})
    if node.op == "placeholder":
        return _NONE
    if name is None or not node.meta["data"]:
        return _NONE
    source = _source(node)
    known = source is not None and len(source.meta["shape"]) == ndim and source.meta["axes"]
    if known and (name in NORMS or name == "linear" or (lines and _keeps_its_rows(node, name))):
        return known  # these move nothing; and where they say otherwise they mix tokens (MLP-Mixer)
    if name in AXIS_ONE:
        return frozenset({1}) if ndim > 1 else _NONE
    if name in AXIS_LAST:
        several = name in NORMS and len(_flat(_given(node, 1, "normalized_shape"))) > 1
        return _NONE if several else frozenset({ndim - 1})
    if name in _PRODUCTS:
        return _of_product(node, ndim)
    if name == "einsum":
        return _of_einsum(node)
    if source is None:
        return _NONE
    old, axes = source.meta["shape"], source.meta["axes"]
    if not axes or old is None:
        return _NONE
    moved = _moved(name, node, old, axes)
    if moved is not None:
        return moved
    if old == shape or (len(old) == ndim and all(old[a] == shape[a] for a in axes)):
        return axes  # element-wise, pooling, padding, slicing along other axes
    if name in ("cat", "part", "getitem", "narrow", "index_select", "pad") and len(old) == ndim:
        return axes  # more or fewer channels, on the same axis
    return _NONE


def _is_channels_last(image: fx.Node, ndim: int) -> bool:
    """Whether the first that happens to an image is that its last axis becomes the first."""
    orders = [
        permuted(user, user.meta["name"], ndim) if user.meta.get("name") else None
        for user in image.users
    ]
    return bool(orders) and all(o is not None and o.index(ndim - 1) == 1 for o in orders)


def _keeps_its_rows(node: fx.Node, name: str) -> bool:
    """Whether a convolution works on rows of channels (N, L, C): with a kernel of 1 it mixes the
    rows, as a linear layer would; and a single row it slides along (ECA).
    """
    source = _source(node) if name == "conv1d" else None
    if source is None or source.meta["axes"] != {2}:
        return False
    weight: Any = _given(node, 1, "weight")
    outputs, _, kernel = weight.meta["shape"]
    rows = source.meta["shape"][1]
    return outputs == 1 if rows == 1 else kernel == 1


def _source(node: fx.Node) -> fx.Node | None:
    """Returns the input whose layout the result follows: the first of the result's own rank."""
    inputs = [n for n in node.all_input_nodes if n.meta["data"] and n.meta["shape"] is not None]
    if node.meta["name"] == "part":
        origin = node.args[0]
        assert isinstance(origin, fx.Node)
        inputs = [n for n in origin.all_input_nodes if n.meta["data"] and n.meta["shape"]]
    known = [n for n in inputs if n.meta["axes"]]
    same = [n for n in known if n.meta["shape"] == node.meta["shape"]]
    ranked = [n for n in known if len(n.meta["shape"]) == len(node.meta["shape"])]
    return (same or ranked or known or [None])[0]


def _moved(name: str, node: fx.Node, old: tuple[int, ...], axes: Axes) -> Axes | None:
    """Returns the axes after an operation that moves axes, None for one that does not."""
    new = node.meta["shape"]
    ndim = len(old)
    order = permuted(node, name, ndim)
    if order is not None:
        return frozenset(order.index(a) for a in axes)
    if name in ("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "squeeze",
                "unsqueeze"):  # fmt: skip
        return _regrouped(old, new, axes)
    if name == "getitem":
        return _indexed(node.args[1], ndim, axes)
    if len(new) < ndim and (gone := _removed(node, name, ndim)):
        return _after_removal(gone, axes)
    if name == "stack":
        at = _dim(node, 0) % (ndim + 1)
        return frozenset(a + (a >= at) for a in axes)
    return None


def _removed(node: fx.Node, name: str, ndim: int) -> set[int]:
    """The axes of its source that an operation takes away, by a choice or a sum."""
    if name in ("select", "unbind", "part"):
        return {_dim(node, 0) % ndim} if len(node.meta["shape"]) == ndim - 1 else set()
    if name == "getitem":
        index = node.args[1]
        first = index[0] if isinstance(index, tuple) and index else index
        return {0} if isinstance(first, int) else set()
    if name in _REDUCTIONS and len(node.meta["shape"]) < ndim:
        dims = _flat(_given(node, 2 if name == "norm" else 1, "dim"))
        return {int(d) % ndim for d in dims} or set(range(ndim))
    return set()


def permuted(node: fx.Node, name: str, ndim: int) -> list[int] | None:
    """The order in which an operation puts the axes; None for one that does something else."""
    args = [a for a in (*node.args, *node.kwargs.values()) if not isinstance(a, fx.Node)]
    order = list(range(ndim))
    if name == "permute":
        return [int(d) % ndim for d in _flat(args)]
    if name in ("transpose", "swapaxes", "swapdims", "t", "T", "mT", "adjoint"):
        a, b = [int(d) % ndim for d in _flat(args)] if args else (ndim - 2, ndim - 1)
        order[a], order[b] = b, a
        return order
    if name in ("movedim", "moveaxis"):
        places = dict(zip(*([int(d) % ndim for d in _flat(a)] for a in args), strict=True))
        left = iter(d for d in order if d not in places.values())
        places |= {d: next(left) for d in order if d not in places}
        return sorted(order, key=places.__getitem__)
    return None


def runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]] | None:
    """The runs of axes of equal product that a row-major reshape maps on one another."""
    found: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_i, first_j = i, j
        i, j = i + (i < len(old)), j + (j < len(new))
        while math.prod(old[first_i:i]) != math.prod(new[first_j:j]):
            if math.prod(old[first_i:i]) < math.prod(new[first_j:j]) and i < len(old):
                i += 1
            elif j < len(new):
                j += 1
            else:
                return None
        found.append((range(first_i, i), range(first_j, j)))
    return found


def _regrouped(old: tuple[int, ...], new: tuple[int, ...], axes: Axes) -> Axes:
    """Carries axes through a reshape."""
    result: set[int] = set()
    for before, after in runs(old, new) or []:
        left = {d for d in before if old[d] != 1 or d in axes}
        if left & axes:
            if not left <= axes:
                return _NONE  # channels merged with positions
            result |= {d for d in after if new[d] != 1} or set(after)
    return frozenset(result)


def _indexed(index: Any, ndim: int, axes: Axes) -> Axes:
    """Carries axes through x[index]: ints drop an axis, None adds one, the rest keep theirs."""
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    taken = sum(i is not None and i is not Ellipsis for i in parts)
    at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[at : at + 1] = [slice(None)] * (ndim - taken)
    vectors = [i for i in parts if isinstance(i, fx.Node)]
    if len(vectors) > 1 or any(len(i.meta["shape"] or ()) != 1 for i in vectors):
        return _NONE
    if any(type(i) not in (int, slice, fx.Node, type(None)) for i in parts):
        return _NONE
    result, old, new = set(), 0, 0
    for part in parts:
        if old in axes and part is not None and not isinstance(part, int):
            result.add(new)
        old += part is not None
        new += not isinstance(part, int)
    return frozenset(result)


def _of_product(node: fx.Node, ndim: int) -> Axes:
    """Channels of a matrix product: its rows are the first one's, its columns the second one's."""
    a, b = (n for n in node.all_input_nodes[:2]) if len(node.all_input_nodes) > 1 else (None, None)
    if a is None or b is None or max(len(n.meta["shape"] or ()) for n in (a, b)) != ndim:
        return _NONE
    if not b.meta["data"]:  # weights on the right: what was the last axis stays what it was
        return a.meta["axes"] or frozenset({ndim - 1})
    if not a.meta["data"]:
        return b.meta["axes"]
    if len(a.meta["shape"]) != len(b.meta["shape"]):
        return _NONE
    row, column = ndim - 2, ndim - 1
    first, second = a.meta["axes"], b.meta["axes"]
    batch = {d for d in first | second if d < row}
    return frozenset(batch | ({row} & first) | ({column} & second))


def _of_einsum(node: fx.Node) -> Axes:
    """Channels are the letters that stand for channels, or for what a weight makes of them."""
    equation, *operands = _flat(node.args)
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return _NONE
    inputs, output = equation.replace(" ", "").split("->")
    terms = list(zip(inputs.split(","), operands, strict=False))
    letters = {t[a] for t, n in terms if n.meta["data"] for a in n.meta["axes"] if a < len(t)}
    data = {letter for term, n in terms if n.meta["data"] for letter in term}
    for term, operand in terms:
        if not operand.meta["data"] and (set(term) & letters) - set(output):
            letters |= set(term) - data
    return frozenset(i for i, letter in enumerate(output) if letter in letters)


def _after_removal(gone: set[int], axes: Axes) -> Axes:
    return frozenset(a - sum(g < a for g in gone) for a in axes if a not in gone)


def _given(node: fx.Node, position: int, name: str) -> Any:
    """An argument given by position or by name, else None."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _dim(node: fx.Node, default: int) -> int:
    dim: Any = node.kwargs.get("dim")
    if dim is None and node.meta["name"] == "part" and isinstance(node.args[0], fx.Node):
        return _dim(node.args[0], default)
    if dim is None:
        dim = next((a for a in node.args[1:] if isinstance(a, int)), default)
    return int(dim)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in _flat(item)]
    return [] if value is None else [value]
