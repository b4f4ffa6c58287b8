"""ODConv against its equation with gates on input, output and kernel, and its parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.attention.weights.odconv import gated
from tests.attention.cases import stir


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kernels", [1, 3])
def test_odconv_gates_input_output_and_places_of_the_kernel(groups, kernels):
    conv = nn.Conv2d(8, 8, 3, 1, 1, groups=groups, bias=False)
    made = stir(create_attention("odconv", conv=conv, kernels=kernels).double().eval())
    part, x = made.excitation, torch.randn(2, 8, 5, 4, dtype=torch.float64)
    z = torch.relu(part.norm(part.fc(x.mean((2, 3)))))
    shares = part.share(z).softmax(1) if kernels > 1 else torch.ones(2, 1).double()
    others = list(part.experts.kernels) if kernels > 1 else []
    assert (part.filter is None) == (groups == 8)
    for n in range(2):
        weight = sum(a * w for a, w in zip(shares[n], (made.conv.weight, *others), strict=True))
        weight = weight * torch.sigmoid(part.place(z))[n].reshape(3, 3)
        gated = x[n : n + 1] * torch.sigmoid(part.channel(z))[n, :, None, None]
        y = F.conv2d(gated, weight, padding=1, groups=groups)
        if part.filter is not None:
            y = y * torch.sigmoid(part.filter(z))[n, :, None, None]
        torch.testing.assert_close(made(x)[n : n + 1], y)


def test_parameters_of_one_site():
    expected = 64 * 16 + 32 + (64 + 64 + 9 + 4) * 17 + 3 * 36_864
    assert lookup("odconv").params(nn.Conv2d(64, 64, 3)) == expected


def test_gates_that_there_are_not_cost_nothing():
    odconv = lookup("odconv")
    assert odconv.params(nn.Conv2d(64, 64, 1), kernels=1) == 64 * 16 + 32 + 128 * 17
    assert odconv.params(nn.Conv2d(64, 64, 3, groups=64), kernels=1) == 64 * 16 + 32 + 73 * 17


@pytest.mark.parametrize(
    ("groups", "outputs", "places", "others"), [(1, 3, 4, 2), (2, 2, 1, 1), (3, 1, 4, 1)]
)
def test_gated_kernels_have_gradients_of_both_orders_and_keep_nothing_large(
    groups, outputs, places, others
):
    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    weight = (outputs * groups, 2, places)
    rows = 1 if groups == 3 else outputs  # depthwise: no gates of outputs
    given = [drawn(*weight), drawn(others, *weight), drawn(2, 1 + others)]
    given += [drawn(2, groups, 2), drawn(2, groups, rows), drawn(2, places)]
    assert torch.autograd.gradcheck(gated, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(gated, given, fast_mode=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        gated(*given)
    assert {tuple(t.shape) for t in kept} == {tuple(t.shape) for t in given}
