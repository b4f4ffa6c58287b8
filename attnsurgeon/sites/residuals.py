"""Flow -> the residual additions: which term is the shortcut, which are the computed branches.

An addition is residual when one term is a shortcut (the block's input itself, or a linear image of
it with fewer weighted operations) and every other term is a branch computed from the same value by
weights and a non-linearity. That leaves out what only looks alike: positional and rotary terms,
parallel branches that re-parameterisation will merge, merges of resolutions, splits of one value.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from attnsurgeon.sites.flow import (
    NORMS,
    UPSAMPLING,
    Flow,
    bends,
    convolution_of,
    is_weighted,
    name_of,
)


@dataclass(frozen=True)
class Residual:
    """One residual addition.

    Attributes:
        add: the (last) addition.
        source: the value from which shortcut and branches both start.
        shortcut: the term that carries the block's input on.
        branches: the computed terms, stripped of the scales (LayerScale, drop-path, a constant)
            that stand between them and the addition.
    """

    add: fx.Node
    source: fx.Node
    shortcut: fx.Node
    branches: tuple[fx.Node, ...]


def find_residuals(flow: Flow) -> tuple[list[Residual], dict[fx.Node, str]]:
    """Returns the residual additions, and for every other addition of values why it is none."""
    found: list[Residual] = []
    refused: dict[fx.Node, str] = {}
    for node in flow.nodes:
        if not _adds_values(node) or _is_inner_sum(node):
            continue
        verdict = _judge(node, flow)
        if isinstance(verdict, Residual):
            found.append(verdict)
        else:
            refused[node] = verdict
    return found, refused


def _adds_values(node: fx.Node) -> bool:
    """Whether the node adds two values of its own shape, rank 3 or more."""
    if name_of(node) != "add" or len(node.meta["shape"] or ()) < 3:
        return False
    terms = Flow.inputs(node)
    return len(terms) == 2 and all(t.meta["shape"] == node.meta["shape"] for t in terms)


def _is_inner_sum(node: fx.Node) -> bool:
    """Whether the sum is only a term of another sum of the same forward: `a + b + c`."""
    users = list(node.users)
    return len(users) == 1 and _adds_values(users[0]) and users[0].meta["call"] is node.meta["call"]


def _terms(node: fx.Node) -> list[fx.Node]:
    terms = []
    for term in Flow.inputs(node):
        terms += _terms(term) if _adds_values(term) and _is_inner_sum(term) else [term]
    return terms


def _unscaled(node: fx.Node) -> fx.Node:
    """Walks back through products with learned or constant scales that are used once."""
    while name_of(node) in ("mul", "div") and len(node.users) == 1:
        inputs = Flow.inputs(node)
        if len(inputs) != 1 or inputs[0].meta["shape"] != node.meta["shape"]:
            break
        node = inputs[0]
    return node


def _judge(add: fx.Node, flow: Flow) -> Residual | str:
    terms = _terms(add)
    direct = [t for t in terms if all(flow.reaches(t, other) for other in terms)]
    if direct:
        shortcut = source = direct[0]
    else:
        meet = flow.common_dominator(terms)
        if meet is None:
            return "its terms come from different inputs"
        if any(name_of(user) == "part" for user in meet.users):
            return "its terms are different parts of one value"
        linear = [t for t in terms if not any(bends(n) for n in flow.between(meet, t))]
        if len(linear) != 1:
            return "it has no shortcut: no term is a linear image of the block's input"
        shortcut, source = linear[0], meet
    carried = 0 if source is shortcut else _weights(flow.between(source, shortcut))
    branches = []
    for term in terms:
        if term is shortcut:
            continue
        path = flow.between(source, term)
        if any(name_of(n) in UPSAMPLING for n in path):
            return "a term is upsampled: it merges resolutions"
        if not any(bends(n) for n in path):
            return "a term is linear: a positional or re-parameterisation branch"
        if _weights(path) <= carried and not (source is shortcut and _normed(path)):
            return "no term carries more weights than the shortcut"
        branches.append(_unscaled(term))
    return Residual(add, source, shortcut, tuple(branches))


def _weights(path: list[fx.Node]) -> int:
    return sum(is_weighted(n) for n in path)


def _normed(path: list[fx.Node]) -> bool:
    """Whether a weightless branch is a normalised one (PoolFormer mixes tokens by pooling)."""
    return any(name_of(n) in NORMS for n in path)


def branch_kinds(residual: Residual, branch: fx.Node, flow: Flow) -> tuple[str, ...]:
    """Names the convolutions along a branch in order: `1x1`, `3x3`, `dw3x3`, `linear`.

    Convolutions on pooled maps (a squeeze-and-excite gate) are beside the branch and left out.
    """
    kinds = []
    size = _positions(branch)
    for node in flow.between(residual.source, branch):
        if not is_weighted(node) or (_positions(node) == 1 and size > 1):
            continue
        spec = convolution_of(node)
        if spec is None:
            kinds.append("linear")
            continue
        name = "x".join(map(str, spec.kernel))
        kinds.append(f"dw{name}" if spec.depthwise and max(spec.kernel) > 1 else name)
    return tuple(kinds)


def is_pooled(node: fx.Node) -> bool:
    """Whether a value has one position: it stands beside the maps, as a gate does."""
    return _positions(node) == 1


def _positions(node: fx.Node) -> int:
    total = 1
    if node.meta["shape"] is None:  # one result of several (nn.MultiheadAttention's) tells
        return max((_positions(n) for n in node.users), default=0)
    for axis, size in enumerate(node.meta["shape"][1:], start=1):
        total *= 1 if axis in node.meta["axes"] else size
    return total
