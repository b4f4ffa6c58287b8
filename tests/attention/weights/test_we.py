"""Weight excitation against its equations by plain loops, and against the published total."""

import math

import pytest
import timm
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, create_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.weights.sites import resnet50_convs

WE = lookup("we")
KERNELS = [
    nn.Conv2d(6, 4, 3),
    nn.Conv2d(6, 4, (1, 5)),
    nn.Conv2d(6, 4, 1),
    nn.Conv2d(6, 4, 3, groups=2),
    nn.Conv3d(6, 4, (1, 3, 2)),
]
each_kernel = pytest.mark.parametrize("conv", KERNELS, ids=lambda c: str(tuple(c.weight.shape)))


def part(conv, init="paper", **args):
    return create_part("we", conv, init=init, **args).double()


def excited(local, weight):
    """Returns the weight times its gates, pair by pair of channels."""
    made = weight.clone()
    for o in range(weight.shape[0]):
        means = [kernel.sum().item() / kernel.numel() for kernel in weight[o]]
        hidden = []
        for j, bias in enumerate(local.fc1.bias.tolist()):
            total = sum(w * m for w, m in zip(local.fc1.weight[j].tolist(), means, strict=True))
            hidden.append(max(total + bias, 0))
        for i, bias in enumerate(local.fc2.bias.tolist()):
            logit = sum(w * h for w, h in zip(local.fc2.weight[i].tolist(), hidden, strict=True))
            made[o, i] /= 1 + math.exp(-logit - bias)
    return made


def enlarged(weight, eps):
    """Returns the weight with each value enlarged by the equation."""
    most = (1 + eps) * max(abs(w) for w in weight.flatten().tolist())
    values = [
        most * 0.5 * math.log((1 + w / most) / (1 - w / most)) for w in weight.flatten().tolist()
    ]
    return torch.tensor(values, dtype=weight.dtype).reshape(weight.shape)


@each_kernel
def test_each_pair_of_channels_has_a_gate_made_from_the_means_of_its_row(conv):
    we, weight = stir(part(conv, reduction=2)), conv.weight.detach().double()
    torch.testing.assert_close(we(weight), excited(we.local, weight), rtol=0, atol=1e-12)


@each_kernel
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_magnitudes_are_enlarged_the_more_the_larger_they_are(conv, eps):
    sizes = 0.01 * torch.randperm(conv.weight.numel()).add(1).double()  # no two of one size
    weight = (sizes * torch.randn_like(sizes).sign()).reshape(conv.weight.shape)
    made = part(conv, form="mwe", eps=eps)(weight)
    torch.testing.assert_close(made, enlarged(weight, eps), rtol=0, atol=1e-12)
    gain = (made / weight).flatten()[sizes.argsort()]
    assert (gain.diff() > 0).all()
    assert gain[0] >= 1


@each_kernel
def test_both_is_the_magnitude_of_the_location(conv):
    we, weight = stir(part(conv, form="both", reduction=2)), conv.weight.detach().double()
    expected = enlarged(excited(we.local, weight), 0.1)
    torch.testing.assert_close(we(weight), expected, rtol=0, atol=1e-12)


def test_the_magnitude_is_blended_in_under_the_identity():
    conv = nn.Conv2d(6, 4, 3)
    we, weight = part(conv, "identity", form="both", reduction=2), conv.weight.detach().double()
    assert torch.equal(we(weight), weight)
    nn.init.constant_(we.magnitude.g, 0.5)
    expected = (weight + enlarged(weight, 0.1)) / 2
    torch.testing.assert_close(we(weight), expected, rtol=0, atol=1e-12)


def test_the_excited_weight_is_the_one_that_is_convolved_with():
    conv, x = nn.Conv2d(6, 4, 3, 2, 1).double(), torch.randn(2, 6, 7, 5, dtype=torch.float64)
    module = stir(create_attention("we", conv=conv, reduction=2).double())
    weight = excited(module.excitation.local, conv.weight.detach())
    expected = nn.functional.conv2d(x, weight, conv.bias, 2, 1)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_total_of_a_resnet50():
    convs = resnet50_convs()
    assert len(convs) == 53
    assert RESNET50 + sum(WE.params(conv) for conv in convs) == 28_059_058
    assert sum(WE.params(conv, form="mwe") for conv in convs) == 0


@pytest.mark.slow
def test_total_of_timms_resnet50():
    with torch.device("meta"):
        network = timm.create_model("resnet50")
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert params(network) + sum(WE.params(conv) for conv in convs) == 28_059_058
    ours, theirs = (sorted(tuple(c.weight.shape) for c in cs) for cs in (resnet50_convs(), convs))
    assert ours == theirs


def test_the_hidden_layer_of_a_grouped_convolution_follows_from_all_inputs():
    conv = nn.Conv2d(64, 32, 3, groups=4)
    assert WE.params(conv) == 16 * 4 + 4 + 4 * 16 + 16 == params(part(conv))
    assert WE.params(nn.Conv2d(3, 64, 7)) == 3 + 1 + 3 + 3


@pytest.mark.parametrize("eps", [0, -0.1])
def test_an_infinite_weight_is_refused(eps):
    with pytest.raises(MechanismError, match="makes the largest weight infinite"):
        create_part("we", nn.Conv2d(3, 5, 3), form="mwe", eps=eps)


def test_an_unknown_form_is_refused():
    with pytest.raises(MechanismError, match="'lwe', 'mwe', 'both'"):
        create_part("we", nn.Conv2d(3, 5, 3), form="gwe")


def test_the_defaults_are_the_authors():
    assert dict(WE.args) == {"form": "lwe", "reduction": 16, "eps": 0.1}
