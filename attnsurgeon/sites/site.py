"""Traced -> Sites: the places where something can be inserted, replaced or fused."""

from __future__ import annotations

from dataclasses import dataclass

from attnsurgeon.shown import brief

ROLES = (
    "residual-branch",
    "residual-block",
    "residual-add",
    "block-branch",
    "block",
    "block-conv",
    "downsample",
    "stage",
    "stem",
    "head",
    "decoder",
    "skip",
    "neck",
    "conv",
    "norm",
    "act",
    "pool",
    "concat",
    "linear",
    "classifier",
)
LAYOUTS = ("NCHW", "NHWC", "NLC", "NCDHW", "NDHWC", "NCL", "NC")


@dataclass(frozen=True)
class ModuleRef:
    """A module of the network by its path and the name of its class."""

    path: str
    type: str


@dataclass(frozen=True, repr=False)
class Site:
    """One value (or the operation that computes it) where surgery can happen.

    Attributes:
        path: where the value is made: `layer1.0.bn3`, or `layer1.0:add` for a functional
            operation; a second one of the same name is `layer1.0:add#2`. A skip is what goes into
            an operation: `up1:cat(1)`, its second operand.
        owner: path of the innermost module whose forward passes the value on ("" is the root).
        type: class of the producing module, or the name of the function.
        roles: the names of `ROLES` that the value or operation plays.
        channels: C, or None where no axis could be shown to be the channel axis.
        shape: of the value, batch first, as recorded.
        layout: one of `LAYOUTS`, or None where the channel axis is unknown.
        stride: input height / feature height (square root of the area ratio for tokens), or None.
        stage: 1-based, counted from the stem's output; 0 before it; None unknown. A stage is a
            resolution on the way down, or where dilation keeps it, a group of blocks; a value
            behind the encoder has the stage of its resolution.
        block: path of the innermost enclosing residual or repeated block, or None.
        calls: how often the producer runs in one forward.
        runs: how often the owner does; a cut in it serves all of them.
        sizes: the resolutions of the value in these runs, each once.
        grid: of tokens, the sides of the map that they form row by row, or None where that is
            not known; of other layouts None.
        beside: how many tokens of no position (class, registers) stand ahead of it and behind it.
        kernel, conv_stride, groups, depthwise: of convolutions, else None.
        branch: of residual branches, the kinds of the convolutions along it in order, such as
            ("1x1", "3x3", "1x1"); a depthwise one is "dw3x3", a linear layer "linear". Else None.
        inside: enclosing modules, innermost first, the root last.
        has: modules inside the producing module.
        follows: paths of the sites whose values are this operation's direct inputs.
        precedes: paths of the sites that use this value directly.
        index: position in execution order.
        no_stage: why the stage is unknown, or "".
    """

    path: str
    owner: str
    type: str
    roles: frozenset[str]
    channels: int | None
    shape: tuple[int, ...]
    layout: str | None
    stride: float | None
    stage: int | None
    block: str | None
    calls: int = 1
    kernel: tuple[int, ...] | None = None
    conv_stride: tuple[int, ...] | None = None
    groups: int | None = None
    depthwise: bool | None = None
    branch: tuple[str, ...] | None = None
    inside: tuple[ModuleRef, ...] = ()
    has: tuple[ModuleRef, ...] = ()
    follows: tuple[str, ...] = ()
    precedes: tuple[str, ...] = ()
    index: int = 0
    runs: int = 1
    sizes: tuple[tuple[int, ...], ...] = ()
    grid: tuple[int, ...] | None = None
    beside: tuple[int, int] = (0, 0)
    no_stage: str = ""

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in (self.channels or "?", *(self.resolution or ())))
        stage = "" if self.stage is None else f", stage {self.stage}"
        roles = ", ".join(sorted(self.roles))
        return brief(self, f"{self.path}: {self.type} {size}{stage}, {roles}")

    @property
    def resolution(self) -> tuple[int, ...] | None:
        """Spatial sizes: (H, W), (D, H, W), also of tokens in a known grid, else (L,); None without
        a known layout.
        """
        if self.grid is not None:
            return self.grid
        return None if self.layout is None else size_in(self.layout, self.shape)


def size_in(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the spatial sizes of a value."""
    return tuple(n for n, axis in zip(shape, layout, strict=True) if axis in "DHWL")
