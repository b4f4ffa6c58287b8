"""GAM against its equations by plain loops, its options, and what it costs."""

import math
from itertools import product

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def places(shape):
    return product(*(range(n) for n in shape))


def convolve(conv, image, groups):
    """Returns conv(image) of (C, ...) by loops over places, taps and channels of a group."""
    size, weight = image.shape[1:], conv.weight.detach()
    width = len(image) // groups
    y = image.new_empty(len(weight), *size)
    for out, place in product(range(len(weight)), places(size)):
        total = conv.bias[out].item()
        first = out // (len(weight) // groups) * width
        for tap in places(weight.shape[2:]):
            at = tuple(p + t - k // 2 for p, t, k in zip(place, tap, weight.shape[2:], strict=True))
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                part = image[(slice(first, first + width), *at)]
                total += float(weight[(out, slice(None), *tap)] @ part)
        y[(out, *place)] = total
    return y


def normed(norm, z):
    shape = (-1, *(1 for _ in z.shape[1:]))
    mean, var, weight, bias = (
        p.detach().reshape(shape)
        for p in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (z - mean) / (var + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize(
    ("size", "groups", "k"), [((4, 3), 1, 3), ((4, 3), 2, 5), ((4, 2, 3), 2, 3)]
)
def test_channels_then_neighbourhoods_are_gated(size, groups, k, sigmoid):
    args = {"reduction": 2, "groups": groups, "kernel_size": k, "sigmoid": sigmoid}
    gam = stir(make("gam", 8, rank=len(size), **args).double()).eval()
    image = torch.randn(8, *size, dtype=torch.float64)
    with torch.no_grad():
        gated = torch.empty_like(image)
        for place in places(size):
            z = image[(slice(None), *place)]
            hidden = (gam.fc1.weight.flatten(1) @ z + gam.fc1.bias).clamp(min=0)
            gate = gam.fc2.weight.flatten(1) @ hidden + gam.fc2.bias
            gated[(slice(None), *place)] = z * (1 / (1 + (-gate).exp()) if sigmoid else gate)
        z = normed(gam.norm1, convolve(gam.conv1, gated, groups)).clamp(min=0)
        if groups == 2:  # of 4 hidden channels the halves are interleaved
            z = z[[0, 2, 1, 3]]
        z = normed(gam.norm2, convolve(gam.conv2, z, groups))
        expected = gated / (1 + (-z).exp())
    torch.testing.assert_close(gam(image[None])[0], expected, rtol=0, atol=1e-12)


def groups_seen(gam, x):
    """Returns for each group of channels whether the first channel's gate depends on it."""
    torch.nn.init.zeros_(gam.fc2.weight)  # the first gate becomes a constant 1
    torch.nn.init.ones_(gam.fc2.bias)
    torch.nn.init.constant_(gam.norm1.bias, 9)  # no hidden value is cut off
    (grad,) = torch.autograd.grad(gam(x)[0, 0].sum(), (x,))
    return grad[0].unflatten(0, (4, -1)).flatten(1).abs().sum(1).bool().tolist()


def test_with_groups_a_gate_still_sees_every_group():
    gam = stir(make("gam", 64, groups=4)).eval()
    x = torch.randn(1, 64, 3, 2, requires_grad=True)
    assert groups_seen(gam, x) == [True] * 4
    gam.groups = 1  # no shuffle
    assert groups_seen(gam, x) == [True, False, False, False]


@pytest.mark.parametrize(
    ("channels", "groups", "count"),
    [(32, 1, 25_760), (256, 1, 1_639_680), (256, 4, 435_456)],
)
def test_parameters_of_one_site(channels, groups, count):
    assert lookup("gam").params(channels, groups=groups) == count
    if channels == 32:
        assert params(make("gam", 32)) == count


def test_totals_of_a_resnet50_and_what_the_card_says_of_them():
    gam = lookup("gam")
    dense = RESNET50 + sum(gam.params(c) for c in RESNET50_BRANCHES)
    light = RESNET50 + sum(gam.params(c, groups=4) for c in RESNET50_BRANCHES)
    assert (round(dense / 1e6, 1), round(light / 1e6, 1)) == (528.6, 158.9)
    assert "groups=4" in gam.lighter
    assert "159 M instead of 529 M" in gam.lighter


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_identity_start_learns_both_gates_at_once(sigmoid):
    gam, x = make("gam", 16, init="identity", sigmoid=sigmoid), torch.randn(2, 16, 5, 3)
    assert torch.equal(gam(x), x)
    gam(torch.randn(2, 16, 5, 3)).square().sum().backward()
    assert gam.fc2.weight.grad.any()
    assert gam.norm2.weight.grad.any()


@pytest.mark.parametrize(
    ("channels", "args", "message"),
    [
        (64, {"groups": 3}, "groups=3 do not divide 64"),
        (24, {"groups": 4}, "groups=4 do not divide 6 channels"),
        (3, {}, "reduction=4 leaves no hidden channel out of 3"),
        (64, {"kernel_size": 2}, "kernel_size=2 has no centre"),
    ],
)
def test_what_cannot_be_built_is_refused(channels, args, message):
    with pytest.raises(MechanismError, match=message):
        make("gam", channels, **args)


def test_a_large_clip_kernel_spans_three_frames():
    gam = make("gam", 8, rank=3)
    assert gam.conv1.kernel_size == gam.conv2.kernel_size == (3, 7, 7)
    assert lookup("gam").params(8, rank=3) == params(gam)
    assert math.prod(gam.conv1.weight.shape) == 147 * 8 * 2


@pytest.mark.parametrize(
    ("dtype", "args", "scale", "held"),
    [
        (torch.float16, {}, 100, True),
        (torch.float16, {}, 1000, False),  # the channel gate has no bound, so the output has none
        (torch.float16, {"sigmoid": True}, 1000, True),
        (torch.float16, {"init": "identity"}, 1000, True),
        (torch.bfloat16, {}, 1000, True),
    ],
)
def test_what_half_precision_holds_is_what_the_card_says(dtype, args, scale, held):
    torch.manual_seed(0)
    gam = make("gam", 64, **args).eval()
    x = scale * torch.randn(2, 64, 7, 5)
    assert (gam(x).abs().max() < torch.finfo(torch.float16).max) == (
        held and dtype != torch.bfloat16
    )
    assert gam.to(dtype)(x.to(dtype)).isfinite().all() == held
    assert any("square of the input" in said for said in lookup("gam").deviations)
