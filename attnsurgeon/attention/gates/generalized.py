"""Generalized attention: all positions, compared by content and by distance in up to four terms.

    e_ij = q_i . k_j + q_i . r_(i - j) + u . k_j + v . r_(i - j)       any of these four
    r_d = sum over axes of R_axis [sin(d w), cos(d w)] / sqrt(axes), w_n = 1000^(-4n / P), n < P / 4
    y_i = x_i + gamma W (sum over j of value_j softmax over j of e_ij, side by side for all heads)

Zhu et al., "An Empirical Study of Spatial Attention Mechanisms in Deep Networks", ICCV 2019,
https://arxiv.org/abs/1904.05873
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn

from attnsurgeon.attention.identity import native
from attnsurgeon.attention.pictures import Picture, Seen, index_of
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.resampling import resized_to
from attnsurgeon.attention.shapes import CONV, CONVOLUTIONS, unflatten
from attnsurgeon.errors import MechanismError

torch.fx.wrap("resized_to")
WAVE_LENGTH = 1000.0  # of the slowest sine, over 2 pi, as in the authors' code
Terms = tuple[bool, bool, bool, bool]
Strides = tuple[int, int]  # of queries, of keys and values


def terms_of(attention_type: str | int) -> Terms:
    """Returns which of the four terms there are; 1010 may be a number, as YAML reads it."""
    digits = str(attention_type)
    if len(digits) != 4 or set(digits) - {"0", "1"}:
        raise MechanismError(
            f"attention_type={attention_type!r} is not four digits, a 1 for each term that counts",
            "'1111' has all, in the order of the equation; '0010' has the keys' content alone, and "
            "needs its quotes in a rule file and on the command line, where 0010 is read as 10",
        )
    if digits == "0000":
        raise MechanismError(
            "attention_type='0000' compares nothing", "a 1 takes a term in, as in '0010'"
        )
    first, second, third, fourth = (digit == "1" for digit in digits)
    return first, second, third, fourth


def widths(
    channels: int, heads: int, terms: Terms, position_embedding_dim: int | None
) -> tuple[int, int]:
    """Returns the channels of all heads together, and of the distances' sines and cosines."""
    if heads > channels:
        raise MechanismError(
            f"heads={heads} leave no channel of {channels} for each",
            f"the largest that works here is heads={channels}",
        )
    waves = position_embedding_dim or channels
    if (terms[1] or terms[3]) and waves % 4:
        raise MechanismError(
            f"position_embedding_dim={waves} is no multiple of 4: of each axis a half of it, and of"
            " these as many sines as cosines",
            f"use position_embedding_dim={waves + 4 - waves % 4}",
        )
    return channels // heads * heads, waves // 2


@torch.fx.wrap
def every(x: Tensor, stride: int) -> Tensor:
    """Returns every `stride`-th position of a map along each axis, beginning with the first."""
    steps = [slice(None, None, stride)] * (x.dim() - 2)
    return x if stride == 1 else x[(slice(None), slice(None), *steps)]


@torch.fx.wrap
def waves(
    asked: Tensor, seen: Tensor, axis: int, strides: Strides, magnitude: float, width: int
) -> Tensor:
    """Returns sines and cosines of the distances along an axis, (A, I, width), over sqrt(axes).

    Args:
        asked, seen: maps of the queries' positions and of the keys'.
        axis: of these, from 0.
        strides: between two places of each.
        magnitude: what distances are multiplied by.
        width: how many numbers there are of a distance.
    """
    at, to = (torch.arange(z.shape[2 + axis], device=z.device).to(wide(z)) for z in (asked, seen))
    distances = (at[:, None] * strides[0] - to * strides[1]) * magnitude
    order = torch.arange(width // 2, device=at.device).to(at.dtype)
    turns = distances.unsqueeze(-1) / WAVE_LENGTH ** (order * (2 / width))
    scale = (asked.dim() - 2) ** -0.5
    return (scale * torch.cat((turns.sin(), turns.cos()), -1)).to(asked.dtype)


def lines(queries: Tensor, relation: Tensor, axis: int) -> Tensor:
    """Returns (N, h, I, ...) of queries (N, h, d, ...): their products with (A, I, h d)."""
    heads = queries.shape[1]
    relation = unflatten(relation, -1, (heads, -1)).permute(2, 0, 3, 1)  # (h, A, d, I)
    last = queries.dim() - 1
    turned = queries.movedim((1, 3 + axis, 2), (0, 1, last))  # (h, A, N, ..., d)
    found = unflatten(turned.flatten(2, -2) @ relation, 2, turned.shape[2:-1])
    return found.movedim((0, 1, last), (1, 3 + axis, 2))


def marks(seen: Tensor, axis: int) -> Tensor:
    """Returns (1, 1, I, ...): a 1 for the place of each key along an axis of a map."""
    along = torch.arange(seen.shape[2 + axis], device=seen.device)
    one = (along[:, None] == along).to(wide(seen))
    shape = [1] * (seen.dim() - 2)
    shape[axis] = seen.shape[2 + axis]
    return one.reshape(1, 1, -1, *shape).expand(-1, -1, -1, *seen.shape[2:])


def beside(parts: Sequence[Tensor], batch: int, heads: int, like: Tensor) -> Tensor:
    """Returns (N, h, D, P) of parts (N, h, D_i, ...) that broadcast; of a single one as it is."""
    if len(parts) > 1:
        parts = [torch.cat([z.expand(batch, heads, -1, *like.shape[2:]) for z in parts], 2)]
    return parts[0].flatten(3)


def beyond(asked: Tensor, seen: Tensor, strides: Strides, reach: int) -> Tensor:
    """Returns for each pair of positions, (P, P'), whether the second is out of reach.

    As the authors count it: of position i, and keys at every s-th position, the keys number
    floor((i - reach) / s) to floor((i + reach + 1) / s) along each axis are within.
    """
    rank = asked.dim() - 2
    pairs = torch.zeros((1,) * 2 * rank, dtype=torch.bool, device=asked.device)
    for axis in range(rank):
        i = torch.arange(asked.shape[2 + axis], device=asked.device)[:, None] * strides[0]
        j = torch.arange(seen.shape[2 + axis], device=asked.device) * strides[1]
        far = torch.logical_or(j + strides[1] <= i - reach, j > i + reach + 1)
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = far.shape
        pairs = torch.logical_or(pairs, far.reshape(shape))
    return pairs.flatten(rank).flatten(0, rank - 1)


@torch.fx.wrap
def shares(
    q: Tensor | None,
    k: Tensor | None,
    biases: Sequence[Tensor | None],
    relations: Sequence[Tensor],
    asked: Tensor,
    seen: Tensor,
    terms: Terms,
    heads: int,
    strides: Strides,
    reach: int | None,
) -> Tensor:
    """Returns with which weights positions look at keys, (N, h, P, P'), in float32 at least.

    A product of contents and one with each distance are one product where the queries carry the
    latter as further channels and the keys say there where they stand: no second map of all pairs
    is made. What is the same for all images has N = 1, for all queries P = 1.

    Args:
        q, k: (N, h d, ...), where a term takes them.
        biases: u and v, (h d), where a term takes them.
        relations: of each axis, (A, I, h d), where a term takes them.
        asked, seen: maps of the queries' positions and of the keys'.
        terms: which there are.
        heads: h.
        strides: between two places of each map.
        reach: how far away a key may be.
    """
    with without_autocast(seen):
        dtype, rank = wide(seen), seen.dim() - 2
        u, v = (
            None if z is None else z.to(dtype).reshape(1, heads, -1, *[1] * rank) for z in biases
        )
        q, k = (None if z is None else unflatten(z.to(dtype), 1, (heads, -1)) for z in (q, k))
        batch = 1 if q is None and k is None else seen.shape[0]
        queries, keys = [], []
        if k is not None:
            queries.append(total(q if terms[0] else None, u))
            keys.append(k)
        if relations:
            placed = total(q if terms[1] else None, v).expand(-1, -1, -1, *asked.shape[2:])
            for axis, relation in enumerate(relations):
                queries.append(lines(placed, relation.to(dtype), axis))
                keys.append(marks(seen, axis))
        queries, keys = beside(queries, batch, heads, asked), beside(keys, batch, heads, seen)
        energies = queries.transpose(2, 3) @ keys
        if reach is not None:
            energies = energies.masked_fill(beyond(asked, seen, strides, reach), -torch.inf)
        return energies.softmax(-1)


def total(q: Tensor | None, bias: Tensor | None) -> Tensor:
    """Returns the sum of what there is; one of the two is."""
    found = [z for z in (q, bias) if z is not None]
    return found[0] if len(found) == 1 else found[0] + found[1]


@torch.fx.wrap
def gathered(weights: Tensor, v: Tensor, asked: Tensor, alike: bool) -> Tensor:
    """Returns a map of what each query finds, of values (N, h c, ...).

    It has the size of `asked`, or a single position where all queries are `alike`.
    """
    with without_autocast(v):
        values = unflatten(v.to(weights.dtype), 1, (weights.shape[1], -1)).flatten(3)
        found = (values @ weights.transpose(2, 3)).flatten(1, 2)
    sides = (1,) * (v.dim() - 2) if alike else asked.shape[2:]
    return unflatten(found.to(v.dtype), 2, sides)


def looks(seen: Seen) -> dict[str, Tensor]:
    """Returns with which weights one position looks at the keys, the mean over heads, and gamma."""
    module, x = seen.module, seen.values[0]
    weights, asked, keys = module.pairs(x)
    at = 0
    for index, side in zip(index_of(seen.position, asked.shape[2:]), asked.shape[2:], strict=True):
        at = at * side + index
    row = weights.mean(1)[:, at if weights.shape[2] > 1 else 0].expand(x.shape[0], -1)
    attention = unflatten(row, 1, keys.shape[2:]).to(x.dtype)
    return {"attention": attention, "blend": module.gamma.reshape(())}


def count(
    channels: int,
    rank: int,
    attention_type: str | int,
    heads: int,
    position_embedding_dim: int | None,
) -> int:
    """Returns the number of parameters."""
    terms = terms_of(attention_type)
    m, embedded = widths(channels, heads, terms, position_embedding_dim)
    layers = 1 + (terms[0] or terms[1]) + (terms[0] or terms[2])
    distances = (terms[1] or terms[3]) * rank * embedded * m
    return (
        layers * channels * m + distances + (terms[2] + terms[3]) * m + m * channels + channels + 1
    )


@mechanism(
    "generalized",
    kind="gate",
    ranks=(1, 2, 3),
    placement="late-conv3x3-act",
    picture=Picture(
        ("attention", "blend"),
        "the softmax of the position that was asked for, mean over heads; blend is gamma",
        looks,
    ),
    formula="4CM + 2(P//2)M + 2M + C + 1, M = C//h h, P = C; CM less without q or k, 2(P//2)M "
    "without r, M without u or v; (P//2)M for 2(P//2)M at rank 1, 3(P//2)M at rank 3",
    count=count,
    identity=native(how="gamma starts at zero, as in the authors' code"),
    constraints=("C >= heads", "position_embedding_dim, or else C, is a multiple of 4"),
    limits=(
        "pruning: Torch-Pruning takes what is expanded over positions for heads that are repeated, "
        "and raises a ZeroDivisionError; prune within attnsurgeon.disabled(model), and let it "
        "ignore the layers before",
    ),
    deviations=(
        "the code is that of mmcv, GeneralizedAttention, with heads=8 of all its configurations "
        "in mmdetection, where the module's own default is 9; heads need not divide C, and what "
        "is left over has none, as there",
        "where the query's content meets the distance and v is not there (0100, 0110, 1100, 1110), "
        "that code takes the content from the place mirrored at the diagonal, and raises unless "
        "the map is square; here it is the equation, as with v = 0 there",
        "spatial_range works for maps of any size and number of channels; there it is for 256 and "
        "512 channels and for 84 or 42 places at most. As there, one place more is seen behind a "
        "position than before it, and with kv_stride the range begins at a whole stride",
        "with spatial_range and the keys' content alone each position has its own range; there "
        "all have that of the first. With q_stride ranges are around the positions that ask; "
        "there these are counted without the stride",
        "embedding, scores and softmax are computed in float32 also for half-precision values",
        "ranks 1 and 3 are not the authors': a layer of distances for each axis that there is",
    ),
)
class Generalized(nn.Module):
    """Adds to each position what it finds at the others, by content, by distance, or by both.

    Args:
        channels: C.
        rank: 1, 2 or 3.
        attention_type: which of the four terms there are, a 1 or a 0 for each: the contents of
            query and key, the query's content and the distance, the key's content, the distance.
        heads: how many sets of queries and keys there are.
        kv_stride: keys and values are those of every so many-th position along each axis.
        q_stride: the same of queries; what they find is interpolated.
        spatial_range: how far a position sees along each axis; none: everywhere.
        position_embedding_dim: P, half of which are the sines and cosines of an axis; none: C.
        position_magnitude: what distances are multiplied by.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 2,
        attention_type: str | int = "1111",
        heads: int = 8,
        kv_stride: int = 2,
        q_stride: int = 1,
        spatial_range: int | None = None,
        position_embedding_dim: int | None = None,
        position_magnitude: float = 1.0,
    ) -> None:
        super().__init__()
        self.terms = terms_of(attention_type)
        m, self.embedded = widths(channels, heads, self.terms, position_embedding_dim)
        by_content, by_query, by_key, by_place = self.terms
        self.heads = heads
        self.strides = (q_stride, kv_stride)
        self.spatial_range = spatial_range
        self.magnitude = position_magnitude
        self.alike = not (by_content or by_query or by_place or spatial_range)
        conv = CONV[rank]
        self.query = conv(channels, m, 1, bias=False) if by_content or by_query else None
        self.key = conv(channels, m, 1, bias=False) if by_content or by_key else None
        self.value = conv(channels, m, 1, bias=False)
        axes = rank if by_query or by_place else 0
        self.distances = nn.ModuleList(nn.Linear(self.embedded, m, bias=False) for _ in range(axes))
        self.u = nn.Parameter(torch.empty(m)) if by_key else None
        self.v = nn.Parameter(torch.empty(m)) if by_place else None
        self.out = conv(m, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the authors' networks do."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for bias in (self.u, self.v):
            if bias is not None:
                bound = (2 * len(bias) / self.heads) ** -0.5
                nn.init.uniform_(bias, -bound, bound)
        nn.init.zeros_(self.gamma)

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the weights, (N, h, P, P'), and the maps of queries' and of keys' positions."""
        asked, seen = every(x, self.strides[0]), every(x, self.strides[1])
        relations = [
            layer(waves(asked, seen, axis, self.strides, self.magnitude, self.embedded))
            for axis, layer in enumerate(self.distances)
        ]
        weights = shares(
            None if self.query is None else self.query(asked),
            None if self.key is None else self.key(seen),
            (self.u, self.v), relations, asked, seen,
            self.terms, self.heads, self.strides, self.spatial_range,
        )  # fmt: skip
        return weights, asked, seen

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus gamma times what its positions find."""
        weights, asked, seen = self.pairs(x)
        found = self.out(gathered(weights, self.value(seen), asked, self.alike))
        if self.strides[0] > 1:
            found = resized_to(found, x)
        return x + (self.gamma.to(found.dtype) * found).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns what the parameters do not show."""
        digits = "".join(str(int(term)) for term in self.terms)
        q, kv = self.strides
        return f"attention_type={digits}, heads={self.heads}, q_stride={q}, kv_stride={kv}"
