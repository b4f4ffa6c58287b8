"""GE against its equations by plain loops: every way to gather, near and over the whole map."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from attnsurgeon.attention.identity import Blend
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES

RESNET50_SIZES = [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3
exact = {"rtol": 0, "atol": 1e-12}


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def at(plane, row, column):
    """Returns one value of a plane, 0 outside of it."""
    inside = 0 <= row < len(plane) and 0 <= column < len(plane[0])
    return plane[row][column] if inside else 0.0


def strided(plane, kernel):
    """Returns a 3x3 convolution of stride 2 with a border of zeros."""
    rows, columns = range(0, len(plane), 2), range(0, len(plane[0]), 2)
    taps = [(i, j) for i in range(3) for j in range(3)]
    return [
        [sum(kernel[i][j] * at(plane, r + i - 1, c + j - 1) for i, j in taps) for c in columns]
        for r in rows
    ]


def normed(norm, channel, plane):
    scale = norm.weight[channel].item() / math.sqrt(norm.running_var[channel].item() + 1e-5)
    shift = norm.bias[channel].item() - norm.running_mean[channel].item() * scale
    return [[v * scale + shift for v in row] for row in plane]


def rectified(plane):
    return [[max(v, 0) for v in row] for row in plane]


def means(plane, extent):
    """Returns means over windows of 2 * extent - 1, every `extent` positions."""
    height, width, reach = len(plane), len(plane[0]), extent - 1
    result = []
    for r in range(0, height, extent):
        rows = plane[max(r - reach, 0) : r + reach + 1]
        result.append([])
        for c in range(0, width, extent):
            window = [v for row in rows for v in row[max(c - reach, 0) : c + reach + 1]]
            result[-1].append(sum(window) / len(window))
    return result


def excited(ge, planes):
    """Returns the planes (C, h, w) after the two layers of theta-plus, at every position."""
    first, second = ge.excite[1], ge.excite[3]
    result = [[[0.0] * len(planes[0][0]) for _ in planes[0]] for _ in planes]
    for r in range(len(planes[0])):
        for c in range(len(planes[0][0])):
            values = [max(plane[r][c], 0) for plane in planes]
            hidden = []
            for weights, bias in zip(first.weight.flatten(1), first.bias.tolist(), strict=True):
                z = sum(w * v for w, v in zip(weights.tolist(), values, strict=True)) + bias
                hidden.append(max(z, 0))
            for k, bias in enumerate(second.bias.tolist()):
                weights = second.weight[k].flatten().tolist()
                z = sum(w * h for w, h in zip(weights, hidden, strict=True)) + bias
                result[k][r][c] = z
    return result


def check(ge, x, gather):
    """Compares `ge` with `gather`, which makes the small planes of one image from its planes."""
    expected = torch.empty_like(x)
    height, width = x.shape[2:]
    for n, image in enumerate(x):
        gates = gather(image.tolist())
        for c, gate in enumerate(gates):
            for i in range(height):
                for j in range(width):
                    near = gate[i * len(gate) // height][j * len(gate[0]) // width]
                    expected[n, c, i, j] = x[n, c, i, j] * sigmoid(near)
    torch.testing.assert_close(ge(x), expected, **exact)


def image(channels, size, last=False):
    x = 1 + torch.randn(2, channels, *size, dtype=torch.float64)
    return x.contiguous(memory_format=FORMATS[len(size)]) if last else x


@pytest.mark.parametrize("size", [(5, 3), (1, 1)])
def test_means_over_the_whole_map(size):
    def gather(planes):
        return [[[sum(map(sum, plane)) / (len(plane) * len(plane[0]))]] for plane in planes]

    check(make("ge", 7), image(7, size), gather)


@pytest.mark.parametrize("size", [(5, 3), (1, 1), (9, 16)])
@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("last", [False, True])
def test_means_over_windows(size, extent, last):
    ge = make("ge", 3, extent=extent)
    check(ge, image(3, size, last), lambda planes: [means(plane, extent) for plane in planes])


@pytest.mark.parametrize("size", [(5, 3), (1, 1), (9, 12)])
@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("gather", ["theta", "theta-plus"])
@pytest.mark.parametrize("last", [False, True])
def test_chains_of_strided_convolutions(size, extent, gather, last):
    ge = stir(make("ge", 5, gather=gather, extent=extent, reduction=2).double().eval())
    layers = [*ge.gather, ge.norm]
    assert len(layers) == 3 * int(math.log2(extent)) - 1

    def chain(planes):
        for k in range(0, len(layers), 3):
            conv, norm = layers[k : k + 2]
            planes = [strided(p, conv.weight[c, 0].tolist()) for c, p in enumerate(planes)]
            planes = [normed(norm, c, plane) for c, plane in enumerate(planes)]
            if k + 2 < len(layers):
                planes = [rectified(plane) for plane in planes]
        return excited(ge, planes) if gather == "theta-plus" else planes

    check(ge, image(5, size, last), chain)


def whole(ge):
    def gather(planes):
        sums = []
        for c, plane in enumerate(planes):
            weight = ge.gather.weight[c].tolist()
            rows = zip(weight, plane, strict=True)
            total = sum(w * v for ws, vs in rows for w, v in zip(ws, vs, strict=True))
            sums.append(normed(ge.norm, c, [[total]]))
        return sums

    return gather


@pytest.mark.parametrize("size", [(5, 3), (1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_learned_weights_over_the_whole_map(size, last):
    ge = stir(make("ge", 7, gather="theta", size=size).double().eval())
    check(ge, image(7, size, last), whole(ge))


def test_two_layers_on_what_was_gathered_over_the_whole_map():
    ge = stir(make("ge", 7, gather="theta-plus", reduction=2, size=(5, 3)).double().eval())
    check(ge, image(7, (5, 3)), lambda planes: excited(ge, whole(ge)(planes)))


@pytest.mark.parametrize("built", [(5, 3), (5, 1), (2, 6)])
@pytest.mark.parametrize("seen", [(5, 3), (7, 3), (4, 9), (1, 1)])
def test_a_map_of_another_size_counts_as_pooled_to_the_size_of_the_weights(built, seen):
    ge = stir(make("ge", 7, gather="theta", size=built).double().eval())
    x = image(7, seen)
    pooled = nn.functional.adaptive_avg_pool2d(x, built)
    gate = (ge(pooled) / pooled)[..., :1, :1]
    torch.testing.assert_close(ge(x), x * gate, **exact)


@pytest.mark.parametrize("args", [{}, {"extent": 2}])
def test_means_of_a_clip_whose_frames_are_alike_are_those_of_a_frame(args):
    x = torch.randn(2, 16, 5, 3)
    clip = x[:, :, None].expand(2, 16, 4, 5, 3)
    expected = make("ge", 16, **args)(x)[:, :, None].expand_as(clip)
    torch.testing.assert_close(make("ge", 16, rank=3, **args)(clip), expected)


@pytest.mark.parametrize("extent", [None, 2])
def test_learned_weights_reach_along_the_depth(extent):
    ge = stir(make("ge", 16, rank=3, gather="theta", extent=extent, size=(4, 5, 3)).eval())
    x = torch.randn(2, 16, 4, 5, 3)
    later = x.clone()
    later[:, :, 1] += 1
    assert not torch.allclose(ge(x)[:, :, 0], ge(later)[:, :, 0])


@pytest.mark.parametrize(
    ("gather", "total"),
    [("theta-minus", 25_557_032), ("theta", 31_106_600), ("theta-plus", 33_637_592)],
)
def test_totals_of_a_resnet50(gather, total):
    card, added = lookup("ge"), 0
    for channels, side in zip(RESNET50_BRANCHES, RESNET50_SIZES, strict=True):
        args = card.args_at((side, side), {"gather": gather})
        added += card.params(channels, **args)
    assert RESNET50 + added == total


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("gather", ["theta-minus", "theta", "theta-plus"])
@pytest.mark.parametrize("extent", [None, 2, 8])
def test_the_declared_number_of_parameters_is_the_true_one(rank, gather, extent):
    args: dict[str, Any] = {"gather": gather, "extent": extent, "size": (5, 3, 2)[:rank]}
    built = params(make("ge", 32, rank=rank, **args))
    assert lookup("ge").params(32, rank=rank, **args) == built


def test_the_start_is_that_of_the_authors_networks():
    ge = make("ge", 256, gather="theta-plus", size=(28, 28))
    assert ge.gather.weight.std().item() == pytest.approx(math.sqrt(2 / 28**2), rel=0.02)
    for conv in (ge.excite[1], ge.excite[3]):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not conv.bias.any()


def test_only_means_start_as_the_identity_by_a_blend():
    assert isinstance(make("ge", 32, init="identity"), Blend)
    for args in ({"extent": 2}, {"size": (5, 3)}):
        for gather in ("theta", "theta-plus"):
            ge = make("ge", 32, gather=gather, init="identity", **args)
            assert params(ge) == lookup("ge").params(32, gather=gather, **args)


def test_a_plan_tells_the_size_only_where_every_position_has_a_weight():
    card = lookup("ge")
    assert card.args_at((14, 10), {}) == {}
    assert card.args_at((14, 10), {"gather": "theta", "extent": 4}) == {
        "gather": "theta", "extent": 4
    }  # fmt: skip
    for gather in ("theta", "theta-plus"):
        assert card.args_at((14, 10), {"gather": gather})["size"] == (14, 10)
    assert card.args_at((196,), {}) == {}
    with pytest.raises(MechanismError, match="ge: here are tokens"):
        card.args_at((196,), {"extent": 2})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"gather": "theta"}, "size is missing, and there is a weight for every position"),
        ({"gather": "theta", "size": (5,)}, r"size=\(5,\) is no map of rank 2"),
        ({"extent": 6}, r"extent=6 is no power of two\n.*use extent=4"),
        ({"extent": 1, "gather": "theta"}, r"extent=1 is no power of two\n.*use extent=2"),
        ({"gather": "theta+"}, "gather='theta\\+' is not one of 'theta-minus', 'theta'"),
    ],
)
def test_what_cannot_be_built_is_refused(args, message):
    with pytest.raises(MechanismError, match=message):
        make("ge", 32, **args)
