"""Efficient local attention against its equation by plain loops: no authors' code was published."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir


def gates(ela, lines):
    """Returns the gates of the means along one axis, (C, L) as lists."""
    channels, length = len(lines), len(lines[0])
    kernel = ela.conv.weight.tolist()
    inputs, k = len(kernel[0]), len(kernel[0][0])
    z = [[0.0] * length for _ in range(channels)]
    for c in range(channels):
        first = c // inputs * inputs
        for i in range(length):
            for d in range(inputs):
                for t in range(k):
                    at = i + t - k // 2
                    if 0 <= at < length:
                        z[c][i] += kernel[c][d][t] * lines[first + d][at]
    size = channels // ela.norm.num_groups
    made = []
    for c in range(channels):
        group = [v for d in range(c // size * size, c // size * size + size) for v in z[d]]
        center = sum(group) / len(group)
        spread = math.sqrt(sum((v - center) ** 2 for v in group) / len(group) + 1e-5)
        a, b = ela.norm.weight[c].item(), ela.norm.bias[c].item()
        made.append([1 / (1 + math.exp(-((v - center) / spread * a + b))) for v in z[c]])
    return made


@pytest.mark.parametrize("args", [{}, {"kernel_size": 5, "groups": 3, "norm_groups": 2}], ids=str)
def test_gates_along_each_axis_share_convolution_and_norm(args):
    ela = stir(make("ela", 6, **args).double())
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    expected = x.clone()
    for n in range(2):
        rows, columns = (gates(ela, x[n].mean(axis).tolist()) for axis in (2, 1))
        for c in range(6):
            for h in range(5):
                for w in range(3):
                    expected[n, c, h, w] *= rows[c][h] * columns[c][w]
    torch.testing.assert_close(ela(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (24, 12), (17, 1)])
def test_the_norm_has_sixteen_groups_or_the_most_that_there_can_be(channels, groups):
    assert make("ela", channels).norm.num_groups == groups


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(MechanismError, match="groups=5 do not divide 64"):
        make("ela", 64, norm_groups=5)


@pytest.mark.parametrize(
    ("args", "count"),
    [
        ({"kernel_size": 5, "norm_groups": 32}, 5 * 256 + 512),  # ELA-T
        ({}, 7 * 256 + 512),  # ELA-B
        ({"kernel_size": 5, "groups": 32}, 5 * 256 * 8 + 512),  # ELA-S
        ({"kernel_size": 7, "groups": 32}, 7 * 256 * 8 + 512),  # ELA-L
    ],
)
def test_parameters_of_the_papers_four_forms(args, count):
    assert lookup("ela").params(256, **args) == count


def convolved(conv, line):
    """Returns the depthwise convolution of (C, L), as lists."""
    k, length = conv.kernel_size[0], line.shape[1]
    return [
        [
            sum(
                conv.weight[c, 0, t].item() * line[c, i + t - k // 2].item()
                for t in range(k)
                if 0 <= i + t - k // 2 < length
            )
            for i in range(length)
        ]
        for c in range(len(line))
    ]


@pytest.mark.parametrize("form", ["separate", "sum"])
@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3)])
def test_layers_of_its_own_for_each_axis(form, size):
    ela = stir(make("ela", 6, rank=len(size), form=form, kernel_size=3).double())
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        lines = []
        for axis, conv in enumerate(ela.conv):
            line = x.new_tensor(convolved(conv, x[n].movedim(1 + axis, 1).flatten(2).mean(2)))
            if form == "separate":  # the norm has a group for each of six channels
                norm, center = ela.norm[axis], line.mean(1, keepdim=True)
                spread = ((line - center).square().mean(1, keepdim=True) + 1e-5).sqrt()
                line = (line - center) / spread * norm.weight[:, None] + norm.bias[:, None]
                line = line / (1 + (-line).exp())
            lines.append(line)
        for at in torch.cartesian_prod(*map(torch.arange, size)).tolist():
            here = [line[:, place] for line, place in zip(lines, at, strict=True)]
            gates = [1 / (1 + (-z).exp()) for z in ([sum(here)] if form == "sum" else here)]
            expected[(n, slice(None), *at)] = x[(n, slice(None), *at)] * math.prod(gates)
    torch.testing.assert_close(ela(x), expected, rtol=0, atol=1e-12)


def test_a_sum_has_no_norm_that_groups_could_be_of():
    with pytest.raises(MechanismError, match="norm_groups=4, and form=sum has no norm"):
        make("ela", 64, form="sum", norm_groups=4)


@pytest.mark.parametrize(
    ("form", "count"), [("shared", 7 * 64 + 128), ("separate", 896 + 256), ("sum", 896)]
)
def test_what_each_form_has_and_computes(form, count):
    ela = make("ela", 64, form=form)
    assert params(ela) == count
    assert weigh(ela, (torch.empty(1, 64, 5, 11),)).layer_macs == 7 * 64 * (5 + 11)
