"""Coordinate attention against its equations by plain loops, and its totals."""

import math

import pytest
import torch
from timm.layers.coord_attn import CoordAttn, SimpleCoordAttn

from attnsurgeon.attention.registry import lookup
from attnsurgeon.cost.weighing import weigh
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50_BRANCHES


def h_swish(z):
    return z * min(max(z + 3, 0), 6) / 6


def axis_gates(coord, conv, pooled):
    """Returns gates (L, C) for the means (L, C) along one axis, by loops; eval mode."""
    norm, rows = coord.norm, []
    for means in pooled:
        hidden = []
        for j in range(len(coord.conv.weight)):
            z = (coord.conv.weight[j, :, 0] * means).sum() + coord.conv.bias[j]
            z = (z - norm.running_mean[j]) / (norm.running_var[j] + 1e-5) ** 0.5
            hidden.append(h_swish((z * norm.weight[j] + norm.bias[j]).item()))
        logits = [
            sum(w * h for w, h in zip(row.tolist(), hidden, strict=True)) + b.item()
            for row, b in zip(conv.weight[:, :, 0], conv.bias, strict=True)
        ]
        rows.append([1 / (1 + math.exp(-z)) for z in logits])
    return rows


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3)])
def test_each_axis_gates_by_the_means_over_the_others(size):
    rank = len(size)
    coord = stir(make("coord", 7, rank=rank).double().eval())
    x = 3 * torch.randn(2, 7, *size, dtype=torch.float64)
    expected = x.clone()
    for n in range(2):
        for axis in range(rank):
            along = x[n].movedim(1 + axis, 0).flatten(2)  # (L, C, all others)
            gates = axis_gates(coord, coord.convs[axis], along.sum(2) / along.shape[2])
            for at, row in enumerate(gates):
                for c, gate in enumerate(row):
                    expected[n, c].select(axis, at).mul_(gate)
    torch.testing.assert_close(coord(x), expected, rtol=0, atol=1e-12)


def test_the_hidden_width_is_eight_at_least():
    assert make("coord", 64).conv.out_channels == 8
    assert make("coord", 512).conv.out_channels == 16


@pytest.mark.parametrize(("channels", "count"), [(64, 1_688), (256, 6_680)])
def test_parameters_of_one_site(channels, count):
    assert lookup("coord").params(channels) == count


def test_total_of_a_resnet50():
    assert sum(lookup("coord").params(c) for c in RESNET50_BRANCHES) == 1_917_832


def test_rows_and_columns_are_not_exchanged():
    coord = make("coord", 16).eval()
    x = torch.randn(1, 16, 5, 7)
    assert not torch.allclose(coord(x), coord(x.mT).mT, atol=1e-4)
    coord.convs[0].load_state_dict(coord.convs[1].state_dict())
    torch.testing.assert_close(coord(x), coord(x.mT).mT)


def test_the_defaults_are_the_authors():
    args = {"form": "product", "reduction": 32, "divisor": None, "bias": True}
    assert dict(lookup("coord").args) == args


def silu(z):
    return z / (1 + math.exp(-z))


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3)])
def test_a_sum_has_one_gate_of_all_axes_and_no_norm(size):
    coord = stir(make("coord", 7, rank=len(size), form="sum").double())
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        lines = []
        for axis, conv in enumerate(coord.convs):
            along = x[n].movedim(1 + axis, 0).flatten(2)  # (L, C, all others)
            hidden = along.mean(2) @ coord.conv.weight[:, :, 0].T + coord.conv.bias
            hidden = x.new_tensor([[silu(z) for z in row] for row in hidden.tolist()])
            lines.append(hidden @ conv.weight[:, :, 0].T + conv.bias)  # (L, C)
        for at in torch.cartesian_prod(*map(torch.arange, size)).tolist():
            total = sum(line[place] for line, place in zip(lines, at, strict=True))
            gates = x.new_tensor([1 / (1 + math.exp(-z)) for z in total.tolist()])
            expected[(n, slice(None), *at)] = x[(n, slice(None), *at)] * gates
    torch.testing.assert_close(coord(x), expected, rtol=0, atol=1e-12)


def test_of_a_sum_the_first_bias_learns_too():
    x = torch.randn(3, 16, 5, 7)
    for form, learns in (("product", False), ("sum", True)):
        coord = stir(make("coord", 16, form=form))
        (coord(x) * torch.randn(3, 16, 5, 7)).sum().backward()
        assert (coord.conv.bias.grad.abs().max() > 1e-4) == learns


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (CoordAttn, {"reduction": 24, "divisor": 8, "bias": False}),
        (SimpleCoordAttn, {"form": "sum", "reduction": 6, "divisor": 8}),
    ],
)
def test_a_divisor_makes_the_width_that_timm_has_everywhere(kind, args):
    for channels in (*range(4, 300, 4), 512, 960, 1024, 1280, 1536, 2048):
        with torch.device("meta"):
            theirs = params(kind(channels))
        assert lookup("coord").params(channels, **args) == theirs


def test_both_forms_have_the_same_layers_to_compute():
    x = torch.empty(1, 64, 5, 7)
    for args in ({}, {"form": "sum"}):
        weight = weigh(make("coord", 64, **args), (x,))
        assert weight.layer_macs == (5 + 7) * 64 * 8 + (5 + 7) * 8 * 64
