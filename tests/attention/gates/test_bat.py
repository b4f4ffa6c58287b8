"""BAT against its equation by plain loops, against timm's module while training, and totals."""

import itertools
import math

import pytest
import torch
from timm.layers.non_local_attn import BatNonLocalAttn
from torch.nn import functional as F

from attnsurgeon.attention.gates.bat import shares
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, make, params, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, normalised, relu

SMALL = {"block": 3, "groups": 2, "reduction": 2}
EQUATIONS = {
    1: "ngcwz,ngwW->ngcWz",
    2: "ngchywz,ngHh,ngwW->ngcHyWz",
    3: "ngcdxhywz,ngDd,ngHh,ngwW->ngcDxHyWz",
}


def layer(sequence, image):
    """Returns what layer, norm and ReLU make of an image (C, H, W), position by position."""
    columns = [column.tolist() for column in image.flatten(1).T]
    found = [relu(normalised(sequence[1], linear(sequence[0], column))) for column in columns]
    return torch.tensor(found, dtype=image.dtype).T.reshape(-1, *image.shape[1:])


def matrices(scores, lines, s):
    """Returns s x s sigmoids a group from the maxima of each group's line in s bands."""

    def bands(line):
        ends = [(math.floor(i * len(line) / s), math.ceil((i + 1) * len(line) / s))
                for i in range(s)]  # fmt: skip
        return [max(line[a:b]) for a, b in ends]

    maxima = [bands(line) for line in lines]
    found = []
    for group in range(len(lines)):
        made = [[0.0] * s for _ in range(s)]
        for i in range(s):
            for j in range(s):
                row = (group * s + i) * s + j
                z = scores.bias[row].item()
                for c, values in enumerate(maxima):
                    z += sum(w * v for w, v in zip(scores.weight[row, c].tolist(), values,
                                                   strict=True))  # fmt: skip
                made[i][j] = 1 / (1 + math.exp(-z))
        found.append(made)
    return found


def mixed(made, z):
    """Returns the blocks of an image (m, H, W), each place summed over all blocks."""
    s, m, k = 3, z.shape[0], 2
    g = layer(made.squeeze, z)
    p = matrices(made.lines[0], g.amax(2).tolist(), s)
    q = matrices(made.lines[1], g.amax(1).tolist(), s)
    places = [math.ceil(n / s) for n in z.shape[1:]]
    whole = F.interpolate(z[None], size=[s * n for n in places], mode="bilinear")[0]
    values = whole.tolist()
    t = torch.zeros_like(whole)
    for c, image in enumerate(values):
        rows, columns = p[c // (m // k)], q[c // (m // k)]
        for h, w in itertools.product(*(range(n) for n in whole.shape[1:])):
            (i, a), (j, b) = divmod(h, places[0]), divmod(w, places[1])
            total = 0.0
            for up, left in itertools.product(range(s), range(s)):
                weight = rows[i][up] / sum(rows[i])
                weight *= columns[left][j] / sum(columns[n][j] for n in range(s))
                total += weight * image[up * places[0] + a][left * places[1] + b]
            t[c, h, w] = total
    return F.interpolate(t[None], size=z.shape[1:], mode="bilinear")[0]


@pytest.mark.parametrize("size", [(3, 3), (6, 3), (5, 2), (1, 1), (4, 7)])
def test_each_place_takes_from_the_same_place_of_all_blocks(size):
    made = stir(make("bat", 8, **SMALL).double().eval())
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    expected = [
        image + layer(made.expand, layer(made.mix, mixed(made, layer(made.reduce, image))))
        for image in x
    ]
    torch.testing.assert_close(made(x), torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(6,), (6, 9), (3, 6, 3)])
def test_each_axis_that_there_is_has_a_matrix(size):
    rank = len(size)
    made = stir(make("bat", 8, rank=rank, **SMALL).double().train())
    made.dropout.p = 0.0
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    z = made.reduce(x)
    g = made.squeeze(z)
    found = []
    for axis, line in enumerate(made.lines):
        others = [2 + a for a in range(rank) if a != axis]
        z_line = g.amax(others) if others else g
        weights = line(z_line.unflatten(2, (3, -1)).amax(3)).reshape(2, 2, 3, 3).sigmoid()
        found.append(weights / weights.sum(2 if axis == rank - 1 else 3, keepdim=True))
    blocks = z.reshape(2, 2, 2, *(n for side in size for n in (3, side // 3)))
    t = torch.einsum(EQUATIONS[rank], blocks, *found).reshape(z.shape)
    torch.testing.assert_close(made(x), x + made.expand(made.mix(t)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 4), (4, 12)])
def test_the_module_of_timm_computes_the_same_while_training(size):
    theirs = stir(BatNonLocalAttn(64, block_size=4, drop_rate=0.0).double().train())
    ours = make("bat", 64, reduction=4, block=4, groups=2, dropout=0.0, bias=False).double()
    values = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    for own, value in values:
        own.copy_(value.reshape(own.shape))
    x = torch.randn(3, 64, *size, dtype=torch.float64)
    (y, grads), (expected, wanted) = gradients(ours, x), gradients(theirs, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other.reshape(grad.shape), rtol=1e-9, atol=1e-9)
    for own, value in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(own, value, rtol=0, atol=1e-12)


def test_channels_of_what_is_added_are_dropped_while_training_alone():
    x = torch.randn(4, 8, 3, 6)
    made = make("bat", 8, **SMALL, dropout=0.5).train()
    whole = make("bat", 8, **SMALL, dropout=0.0).train()
    whole.load_state_dict(made.state_dict())
    added, kept = whole(x) - x, made(x) - x
    gone = (kept == 0).all(2).all(2)
    assert 0 < gone.sum() < gone.numel()
    expected = 2 * added * ~gone[:, :, None, None]
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(made.eval()(x), made(x))


def test_what_drops_channels_starts_as_the_identity_all_the_same():
    x = torch.randn(4, 8, 5, 6)
    made = make("bat", 8, **SMALL, dropout=0.5, init="identity").train()
    assert torch.equal(made(x), x)
    torch.nn.init.constant_(made.g, 1.0)
    assert not torch.equal(made(x), made(x))


def test_sigmoids_that_all_vanish_share_evenly():
    even = shares(torch.full((1, 18, 1), -200.0, dtype=torch.float16), 3, -1)
    torch.testing.assert_close(even, torch.full((1, 2, 3, 3), 1 / 3))


def test_groups_that_do_not_divide_the_narrower_map_are_refused():
    with pytest.raises(MechanismError, match=r"groups=4 do not divide 6 channels[\s\S]*groups=3"):
        make("bat", 12)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2])
def test_a_dropout_that_is_no_share_is_refused(dropout):
    with pytest.raises(MechanismError, match=rf"dropout={dropout} is not[\s\S]*between 0 and 1"):
        make("bat", 16, dropout=dropout)


def test_layers_before_norms_can_do_without_biases():
    less = params(make("bat", 64)) - params(make("bat", 64, bias=False))
    assert less == 32 + 4 + 32 + 64


def test_the_total_of_the_authors_resnet50():
    card = lookup("bat")
    assert RESNET50 + 2 * card.params(512) + 3 * card.params(1024) == 30_234_220
