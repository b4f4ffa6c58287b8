"""Kernels that each image mixes: against timm's code, their equations, and their starts."""

import pytest
import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn
from torch.nn import functional as F

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import stir


@pytest.mark.parametrize("groups", [1, 2])
def test_condconv_is_timms_where_one_layer_routes(groups):
    conv = nn.Conv2d(8, 6, 3, 2, 1, groups=groups, bias=False)
    made = stir(create_attention("condconv", conv=conv, kernels=4).double())
    theirs = CondConv2d(8, 6, 3, 2, 1, groups=groups, num_experts=4).double()
    kernels = torch.cat((made.conv.weight[None], made.excitation.experts.weight))
    theirs.load_state_dict({"weight": kernels.flatten(1)})
    x = torch.randn(3, 8, 7, 5, dtype=torch.float64)
    routing = torch.sigmoid(made.excitation.route(x.mean((2, 3))))
    torch.testing.assert_close(made(x), theirs(x, routing))


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kernels", [1, 3])
def test_odconv_gates_input_output_and_places_of_the_kernel(groups, kernels):
    conv = nn.Conv2d(8, 8, 3, 1, 1, groups=groups, bias=False)
    made = stir(create_attention("odconv", conv=conv, kernels=kernels).double().eval())
    part, x = made.excitation, torch.randn(2, 8, 5, 4, dtype=torch.float64)
    z = torch.relu(part.norm(part.fc(x.mean((2, 3)))))
    shares = part.share(z).softmax(1) if kernels > 1 else torch.ones(2, 1).double()
    others = list(part.experts.weight) if kernels > 1 else []
    assert (part.filter is None) == (groups == 8)
    for n in range(2):
        weight = sum(a * w for a, w in zip(shares[n], (made.conv.weight, *others), strict=True))
        weight = weight * torch.sigmoid(part.place(z))[n].reshape(3, 3)
        gated = x[n : n + 1] * torch.sigmoid(part.channel(z))[n, :, None, None]
        y = F.conv2d(gated, weight, padding=1, groups=groups)
        if part.filter is not None:
            y = y * torch.sigmoid(part.filter(z))[n, :, None, None]
        torch.testing.assert_close(made(x)[n : n + 1], y)


def test_dyconv_mixes_by_a_softmax_that_the_temperature_flattens():
    conv = nn.Conv2d(8, 6, 3, bias=False)
    made = stir(create_attention("dyconv", conv=conv, temperature=2.0).double())
    part, x = made.excitation, torch.randn(2, 8, 5, 4, dtype=torch.float64)
    scores = part.fc2(torch.relu(part.fc1(x.mean((2, 3))))) / 2
    shares = scores.exp() / scores.exp().sum(1, keepdim=True)
    kernels = (made.conv.weight, *part.experts.weight)
    for n in range(2):
        weight = sum(a * w for a, w in zip(shares[n], kernels, strict=True))
        torch.testing.assert_close(made(x)[n : n + 1], F.conv2d(x[n : n + 1], weight))
    part.temperature = 1e9
    mean = torch.stack([k.detach() for k in kernels]).mean(0)
    torch.testing.assert_close(made(x), F.conv2d(x, mean), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["odconv", "dyconv", "condconv"])
def test_from_the_identity_all_kernels_and_what_chooses_among_them_learn(name):
    conv = nn.Conv2d(8, 6, 3, bias=False)
    made = create_attention(name, conv=conv, init="identity").double()
    x, target = torch.randn(4, 8, 5, 4).double(), torch.randn(4, 6, 3, 2).double()
    assert torch.equal(made(x), made.conv(x))
    before = {n: p.detach().clone() for n, p in made.named_parameters()}
    descent = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(2):
        descent.zero_grad()
        (made(x) - target).square().mean().backward()
        descent.step()
    assert all(not torch.equal(p, before[n]) for n, p in made.named_parameters())
    others = made.excitation.experts.weight
    assert not torch.allclose(others[0], others[1])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("odconv", 64 * 16 + 32 + (64 + 64 + 9 + 4) * 17 + 3 * 36_864),
        ("dyconv", 64 * 17 + 17 * 4 + 4 + 3 * 36_864),
        ("condconv", 64 * 8 + 8 + 7 * 36_864),
    ],
)
def test_parameters_of_one_site(name, count):
    assert lookup(name).params(nn.Conv2d(64, 64, 3)) == count


def test_gates_that_there_are_not_cost_nothing():
    odconv = lookup("odconv")
    assert odconv.params(nn.Conv2d(64, 64, 1), kernels=1) == 64 * 16 + 32 + 128 * 17
    assert odconv.params(nn.Conv2d(64, 64, 3, groups=64), kernels=1) == 64 * 16 + 32 + 73 * 17


@pytest.mark.parametrize("name", ["dyconv", "condconv"])
def test_a_single_kernel_is_refused(name):
    with pytest.raises(MechanismError, match="kernels=1 leaves nothing to mix"):
        create_attention(name, conv=nn.Conv2d(8, 8, 3), kernels=1)
