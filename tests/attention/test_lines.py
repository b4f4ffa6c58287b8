"""A gate along each axis: against broadcasting, its gradients, and what it keeps."""

import pytest
import torch

from attnsurgeon.attention.lines import along, gated, summed


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("size", [(3, 2), (2, 3, 4)])
def test_each_value_is_multiplied_by_the_gates_of_its_lines(size):
    given = [drawn(2, 3, *size), *(drawn(2, 3, side) for side in size)]
    x, *gates = given
    expected = x.detach().clone()
    for at in torch.cartesian_prod(*(torch.arange(side) for side in size)).tolist():
        for gate, place in zip(gates, at, strict=True):
            expected[(..., *at)] *= gate.detach()[..., place]
    torch.testing.assert_close(gated(*given), expected)
    assert torch.autograd.gradcheck(gated, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(gated, given, fast_mode=True)


def test_only_the_factors_are_kept():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        gated(drawn(2, 3, 5, 7), drawn(2, 3, 5), drawn(2, 3, 7))
    assert [tuple(t.shape) for t in kept] == [(2, 3, 5, 7), (2, 3, 5), (2, 3, 7)]


def test_a_gate_lies_along_its_own_axis():
    gate = torch.arange(3.0).reshape(1, 1, 3)
    assert along(gate, 1, 3).shape == (1, 1, 1, 3, 1)


def test_a_sum_of_lines_is_a_map():
    rows, columns = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[10.0, 20.0, 40.0]]])
    expected = torch.tensor([[[[11.0, 21.0, 41.0], [12.0, 22.0, 42.0]]]])
    assert torch.equal(summed(rows, columns), expected)
