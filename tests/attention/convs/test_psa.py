"""PSA against its equations by plain loops, and against the published total."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.convs.oracle import convolved
from tests.attention.convs.sites import RESNET50, RESNET50_WIDTHS, conv3x3

PSA = lookup("psa")
SMALL = {"kernels": (3, 5), "groups": (1, 2), "reduction": 2}


def make(conv, **args):
    return create_attention("psa", conv=conv, **args)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize(("stride", "step", "bias"), [(1, 1, False), (2, 1, True), (1, 2, False)])
def test_scales_are_weighted_by_a_softmax_of_gates_and_listed_backwards(stride, step, bias):
    conv = nn.Conv2d(4, 8, 3, stride, step, step, bias=bias)
    psa = stir(make(conv, **SMALL).double().eval())
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    expected = []
    for image in x:
        scales = []
        for k, groups, scale in zip((3, 5), (1, 2), reversed(psa.scales), strict=True):
            padding, dilation = (step * (k // 2),) * 2, (step, step)
            scales.append(
                convolved(
                    scale.weight, image, stride=stride, padding=padding, dilation=dilation,
                    groups=groups, bias=scale.bias,
                )
            )  # fmt: skip
        gates = []
        for scale in scales:
            hidden = (psa.fc1.weight @ scale.flatten(1).mean(1) + psa.fc1.bias).clamp(min=0)
            gates.append([sigmoid(z) for z in (psa.fc2.weight @ hidden + psa.fc2.bias).tolist()])
        for i, scale in enumerate(scales):
            for c in range(4):
                scale[c] *= math.exp(gates[i][c]) / sum(math.exp(gate[c]) for gate in gates)
        expected.append(torch.cat(scales[::-1]))
    torch.testing.assert_close(psa(x), torch.stack(expected), rtol=0, atol=1e-12)


def test_total_of_a_resnet50():
    convs = [conv3x3(width) for width in RESNET50_WIDTHS]
    assert RESNET50 + sum(PSA.params(c) - params(c) for c in convs) == 22_561_715


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_of_one_site(bias):
    conv = nn.Conv2d(64, 64, 3, bias=bias)
    assert PSA.params(conv) == 27_121 + 64 * bias == params(make(conv))


def test_in_clips_a_kernel_covers_three_frames():
    psa = make(nn.Conv3d(64, 64, 3, padding=1))
    assert [scale.kernel_size for scale in psa.scales] == [(3, k, k) for k in (9, 7, 5, 3)]


def test_the_norm_behind_the_convolution_stays():
    assert not PSA.swallows_norm


@pytest.mark.parametrize(
    ("conv", "args", "what"),
    [
        (nn.Conv2d(64, 64, 3, groups=2), {}, "not one of 2 groups"),
        (nn.Conv2d(64, 66, 3), {}, "groups=4 do not divide 66 channels"),
        (nn.Conv2d(3, 64, 3), {}, "groups=4 do not divide 3 channels"),
        (nn.Conv2d(64, 32, 3), {}, "groups=16 do not divide 8 channels"),
        (nn.Conv2d(64, 32, 3), {"groups": (1, 1, 1, 1)}, "reduction=16 leaves no hidden channel"),
        (nn.Conv2d(64, 64, 3), {"kernels": (3, 5)}, "are not of one length"),
        (nn.Conv2d(64, 64, 3), {"kernels": (3, 4, 7, 9)}, "kernel_size=4 has no centre"),
    ],
)
def test_what_does_not_divide_is_refused(conv, args, what):
    with pytest.raises(MechanismError, match=what) as caught:
        make(conv, **args)
    assert caught.value.hint


def test_the_defaults_are_the_authors():
    defaults = {"kernels": (3, 5, 7, 9), "groups": (1, 4, 8, 16), "reduction": 16}
    assert dict(PSA.args) == defaults
