"""Flow -> levels: how far below the image every value stands, and how much work made it.

A level is the rounded base-2 logarithm of the stride: 0 is the image's own resolution, 5 a 32nd of
it. Values whose axes are unknown (windows, heads of attention) stand where they were made from.
"""

from __future__ import annotations

import math

from torch import fx

from attnsurgeon.recording.record import Traced
from attnsurgeon.sites.flow import Flow, is_weighted, name_of
from attnsurgeon.sites.layouts import AXIS_LAST, AXIS_ONE, layout_of
from attnsurgeon.sites.site import size_in
from attnsurgeon.sites.tokens import sides_in_row, takes_beside

# Products in which positions are paired with positions, and such that do it and undo it at once.
_PAIRING = frozenset(["matmul", "bmm", "baddbmm", "einsum"])
_ATTENDING = frozenset(["scaled_dot_product_attention"])
SUMMING = frozenset(["mean", "sum", "amax", "max", "logsumexp"])
_REGROUPING = frozenset(["view", "reshape", "permute", "transpose", "flatten", "unflatten",
                         "swapaxes", "contiguous", "squeeze", "unsqueeze", "part"])  # fmt: skip
_RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])
_SELECTING = frozenset(
    ["part", "getitem", "select", "narrow", "split", "chunk", "unbind", "index_select"]
)


NO_MAP = "its positions stand in groups or in a list, or are those of attention's scores"


def stride_of(node: fx.Node, traced: Traced) -> float | None:
    """Input height / feature height; for tokens that of the square (the cube) of their number, but
    of clips, whose time has strides of its own, that of their grid where it is known.

    A waveform (N, T) is a signal of one channel.
    """
    image = _image(node)
    layout, _ = layout_of(node, traced.batch)
    if layout is None or layout == "NC" or not image:
        return None
    shape = node.meta["shape"]
    if shape[0] not in (traced.batch, node.meta["frames"]) or 0 in shape:
        return None  # regions of an image, or images of two inputs
    if "L" in layout and len(image) > 1:
        sides = sides_in_row(node, layout.index("L")) if len(image) > 2 else ()
        if len(sides) > 2:
            return image[-2] / sides[-2]
        return (math.prod(image) / shape[layout.index("L")]) ** (1 / len(image))
    return image[-2 if len(image) > 1 else -1] / shape[layout.index("H" if "H" in layout else "L")]


def _image(node: fx.Node) -> tuple[int, ...]:
    """The sides of the input that a value is made from: (T,), (L,), (H, W) or (D, H, W); () where
    it has none.
    """
    given: fx.Node | None = node.meta["image"]
    shape = given.meta["shape"] if given is not None else None
    if given is None or not shape:
        return ()
    last = given.meta["axes"] == {len(shape) - 1}
    return shape[1:-1] if last and len(shape) > 3 else shape[2:] if len(shape) > 2 else shape[1:]


def level_of(node: fx.Node, traced: Traced) -> int | None:
    """The rounded base-2 logarithm of the stride; None for what is no map: pooled vectors, lists
    of boxes, unknown layouts.
    """
    stride = stride_of(node, traced)
    if stride is None or is_vector(node) or _is_list(node, traced):
        return None
    return round(math.log2(stride))


def why_no_level(node: fx.Node, traced: Traced) -> str | None:
    """Why a value has no level, or None where it has one."""
    if level_of(node, traced) is not None:
        return None
    layout, why = layout_of(node, traced.batch)
    if layout is None:
        return why
    if layout == "NC" or is_vector(node):
        return "it has no positions"
    if node.meta["shape"][0] not in (traced.batch, node.meta["frames"]):
        return "it is not one map an image: regions, or the images of several inputs"
    return "it is a list of positions, no map"


def is_vector(node: fx.Node) -> bool:
    """Whether a value with a known channel axis has one position or none."""
    shape = node.meta["shape"]
    if shape is None or len(node.meta["axes"]) != 1:
        return False
    (axis,) = node.meta["axes"]
    return math.prod(shape[1:]) <= shape[axis]


def _is_list(node: fx.Node, traced: Traced) -> bool:
    """Whether the two axes are no height and width: one is longer than the image's, one shorter.

    A detector lays the positions of all its maps side by side: 4 x 8400 of 640 x 640 pixels.
    """
    image = _image(node)
    layout, _ = layout_of(node, traced.batch)
    if layout not in ("NCHW", "NHWC") or len(image) != 2:
        return False
    shape = node.meta["shape"]
    longer = [shape[layout.index(axis)] > side for axis, side in zip("HW", image, strict=True)]
    return longer[0] != longer[1]


class Levels:
    """The levels of one recorded network.

    Attributes:
        of: of every map its level; None for what is no map.
        carried: the same, and of values of unknown axes the level that they were made at; None for
            pooled vectors alone.
        work: how many weighted operations stand on the longest way to a value.
    """

    def __init__(self, traced: Traced, flow: Flow) -> None:
        self.of: dict[fx.Node, int | None] = {}
        self.carried: dict[fx.Node, int | None] = {}
        self.work: dict[fx.Node, int] = {}
        lost, lists, beside = _Lost(traced), set[fx.Node](), set[fx.Node]()
        apart, columns = _unfolded(flow) | _prepared(traced, flow), set[fx.Node]()
        for node in flow.nodes:
            inputs = Flow.inputs(node)
            again = name_of(node) in _REGROUPING and len(node.meta["shape"] or ()) > 3
            if self._joins_rows(node, inputs) or not (again or lists.isdisjoint(inputs)):
                lists.add(node)
            if takes_beside(node) or (inputs and beside.issuperset(inputs) and not again):
                beside.add(node)  # class tokens, of which there may be several
            hidden = lost.takes(node, inputs) or node in lists or node.meta["shape"] is None
            if _is_column(node, inputs, columns, traced.batch):
                columns.add(node)
            hidden = hidden or node in beside or node in apart or node in columns
            self.of[node] = level = None if hidden else level_of(node, traced)
            if name_of(node) == "pad" and inputs:  # a border is no step up, however small the map
                self.of[node] = level = self.of[inputs[0]]
            vector = is_vector(node) or node in beside
            if level is None and (name_of(node) in _SELECTING or not vector):
                level = min(self._known(inputs), default=None)
            self.carried[node] = level
            self.work[node] = max((self.work[n] for n in inputs), default=0) + is_weighted(node)

    def _joins_rows(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Whether rows of several maps are laid one behind the other, as detectors do."""
        rows = name_of(node) == "cat" and len(node.meta["shape"]) == 3
        several = [n for n in inputs if not is_vector(n)]  # class tokens stand beside any map
        return rows and len(set(self._known(several))) > 1

    def _known(self, nodes: list[fx.Node]) -> list[int]:
        return [level for n in nodes if (level := self.carried[n]) is not None]

    def is_map(self, node: fx.Node) -> bool:
        """Whether a value made in the network is a map of known resolution; one with a border put
        around it is not another.
        """
        made = node.op != "placeholder" and name_of(node) != "pad"
        return made and self.of.get(node) is not None


def _is_column(node: fx.Node, inputs: list[fx.Node], columns: set[fx.Node], batch: int) -> bool:
    """Whether a value is a map of which one side was summed up, so that columns are left (readers
    of text), or is made of such and has no sides either.
    """
    several = node.meta["shape"] is None  # what a recurrent layer gives
    if name_of(node) in _RECURRENT or _is_read_in_turn(node):
        return True
    rows = name_of(node) in _REGROUPING and len(node.meta["shape"] or ()) == 3
    if rows and inputs and all(map(is_vector, inputs)):
        return True  # vectors of frames, of views, side by side
    layout = None if several else layout_of(node, batch)[0]
    if not inputs or not (several or layout in ("NLC", "NCL")):
        return False
    if not columns.isdisjoint(inputs):
        return columns.issuperset(n for n in inputs if not is_vector(n))
    if layout is None or inputs[0].meta["shape"] is None:
        return False
    before, _ = layout_of(inputs[0], batch)
    sides = size_in(before, inputs[0].meta["shape"]) if before else ()
    fewer = len(sides) == 2 and math.prod(size_in(layout, node.meta["shape"])) in sides
    return fewer and min(sides) > 1 and name_of(node) in SUMMING


def _is_read_in_turn(node: fx.Node) -> bool:
    """Whether a row is laid out for a recurrent layer and nothing else."""
    rows = len(node.meta["shape"] or ()) == 3 and name_of(node) in _REGROUPING
    users = list(node.users)
    return (
        rows
        and bool(users)
        and all(name_of(user) in _RECURRENT or _is_read_in_turn(user) for user in users)
    )


def _unfolded(flow: Flow) -> set[fx.Node]:
    """What stands in patches between an unfolding and the folding that lays it out again."""
    folds = [n for n in flow.nodes if name_of(n) == "fold"]
    found: set[fx.Node] = set()
    for node in flow.nodes:
        begins = name_of(node) == "unfold" or not found.isdisjoint(Flow.inputs(node))
        if begins and name_of(node) != "fold" and any(flow.reaches(node, n) for n in folds):
            found.add(node)
    return found


def _prepared(traced: Traced, flow: Flow) -> set[fx.Node]:
    """What an image is made from in the network (a spectrogram of a waveform): what all outputs
    pass, and the first convolutions take for an image though its channels would stand elsewhere.
    """
    found: set[fx.Node] = set()
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    last = flow.common_dominator(outputs) if outputs else None
    passed = set(flow.dominators(last)) if last is not None else set[fx.Node]()
    for node in flow.nodes:
        image = Flow.inputs(node)[0] if name_of(node) in ("conv2d", "conv3d") else None
        axes = image.meta["axes"] if image in passed else frozenset({1})
        if image is not None and len(axes) == 1 and axes != {1}:
            found.update(flow.before(image))
    return found


class _Lost:
    """What looks like a map and is none: the scores of attention, what it has gathered until a
    layer says again what the channels are, and positions in groups, such as windows.
    """

    def __init__(self, traced: Traced) -> None:
        self.batch = traced.batch
        self.scores: set[fx.Node] = set()
        self.gathered: set[fx.Node] = set()
        self.grouped: set[fx.Node] = set()
        # Made of pooled vectors alone: what multiplies rows by it pairs no positions (PointNet).
        self.vectors: set[fx.Node] = set()
        # Of a value the sides of the last map that it was, and how many positions it has now.
        self.sides: dict[fx.Node, tuple[int, ...]] = {}
        self.length: dict[fx.Node, int] = {}

    def takes(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Decides about one value, after all that it is made of."""
        name = name_of(node)
        self._inherit(node, inputs)
        if is_vector(node) or (inputs and self.vectors.issuperset(inputs)):
            self.vectors.add(node)
        turns = len(inputs) == 2 and inputs[1] in self.vectors and inputs[0] not in self.vectors
        if name in _PAIRING and len(inputs) > 1 and not turns:
            mixed = len(self.scores.intersection(inputs)) in (0, len(inputs))
            (self.scores if mixed else self.gathered).add(node)
        elif name in _ATTENDING:
            self.gathered.add(node)
        elif self._still_scores(node, inputs):
            self.scores.add(node)
        elif inputs and (self.scores | self.gathered).issuperset(inputs) and not _defines(node):
            self.gathered.add(node)
        if node in self.scores or (node in self.gathered and name not in _REGROUPING):
            return True
        return self._is_grouped(node, inputs) or node in self.gathered

    def _still_scores(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Whether a value is made of scores alone, or of scores and what is added to them."""
        if not inputs or self.scores.isdisjoint(inputs):
            return False
        added = [n for n in inputs if n not in self.scores]
        return all(len(n.meta["axes"]) != 1 for n in added)

    def _inherit(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        told = [n for n in inputs if n in self.sides]
        if told:  # of several the one with the most positions: the others stand beside it
            most = max(told, key=lambda n: self.length[n])
            self.sides[node], self.length[node] = self.sides[most], self.length[most]

    def _is_grouped(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Whether the positions of a map or of a row stand along other axes than its sides."""
        shape: tuple[int, ...] | None = node.meta["shape"]
        if shape is None:
            return False
        layout, _ = layout_of(node, self.batch)
        if layout is None or layout == "NC":
            return False
        sides = size_in(layout, shape)
        if len(sides) == 1:
            if node in self.sides:
                self.length[node] = sides[0]
            return False
        before = self.sides.get(node)
        same = before is not None and sorted(before) == sorted(sides)
        if before is not None and not same and name_of(node) in _REGROUPING:
            regular = _is_even(sides) or not _is_even(before)
            if (
                len(sides) < len(before)
                or not regular
                or math.prod(sides) in (math.prod(before), self.length[node])
            ):
                self.grouped.add(node)
        elif not same and not self.grouped.isdisjoint(inputs):
            self.grouped.add(node)
        if node in self.grouped:
            return True
        self.sides[node], self.length[node] = sides, math.prod(sides)
        return False


def _is_even(sides: tuple[int, ...]) -> bool:
    """Whether no side of a map is four times as long as another."""
    return max(sides) < 4 * max(min(sides), 1)


def _defines(node: fx.Node) -> bool:
    """Whether an operation says itself which axis holds the channels."""
    return is_weighted(node) or name_of(node) in AXIS_ONE | AXIS_LAST
