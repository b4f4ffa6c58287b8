"""SK against its equations by plain loops, its published totals, and its start."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, create_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir
from tests.attention.convs.oracle import convolved, normalised
from tests.attention.convs.sites import (
    RESNET50,
    RESNET50_WIDTHS,
    RESNEXT50,
    RESNEXT50_WIDTHS,
    conv3x3,
)

SK = lookup("sk")


def make(conv, init="paper", **args):
    return create_attention("sk", conv=conv, init=init, **args)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("stride", "own"), [(1, 1), (2, 2)])
def test_two_branches_are_mixed_by_a_softmax_of_their_means(stride, own, dilation):
    conv = nn.Conv2d(4, 6, 3, stride, 1, groups=own, bias=False)
    sk = stir(make(conv, groups=2, dilation=dilation, reduction=3).double().eval())
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    expected = []
    for image in x:
        first = {"stride": stride, "padding": (1, 1), "groups": own}
        apart = {"padding": (dilation,) * 2, "dilation": (dilation,) * 2, "groups": 2}
        branches = [
            normalised(branch[1], convolved(branch[0].weight, image, **form)).clamp(min=0)
            for branch, form in ((sk.first, first), (sk.second, {**first, **apart}))
        ]
        means = [
            sum(b[c].sum().item() for b in branches) / branches[0][c].numel() for c in range(6)
        ]
        squeezed = sk.fc1.weight @ torch.tensor(means, dtype=torch.float64)
        logits = (sk.fc2.weight @ normalised(sk.norm, squeezed).clamp(min=0)).tolist()
        made = torch.empty_like(branches[0])
        for c in range(6):
            parts = [math.exp(logits[c]), math.exp(logits[6 + c])]
            made[c] = sum(p * b[c] for p, b in zip(parts, branches, strict=True)) / sum(parts)
        expected.append(made)
    torch.testing.assert_close(sk(x), torch.stack(expected), rtol=0, atol=1e-12)


def total(network, widths, own, **args):
    """Returns the parameters of a network whose 3x3 convolutions and their norms are replaced."""
    convs = [conv3x3(width, own) for width in widths]
    return network + sum(
        SK.params(c, **args) - params(c) - 2 * c.out_channels for c in convs
    )  # fmt: skip


def test_totals_of_published_networks():
    assert total(RESNET50, RESNET50_WIDTHS, 1) == 26_154_496
    assert total(RESNEXT50, RESNEXT50_WIDTHS, 32, dilation=2, minimum=32) == 27_479_784
    assert round(total(RESNET50, RESNET50_WIDTHS, 1, groups=1, dilation=2) / 1e6, 2) == 37.12


@pytest.mark.parametrize("p", [64, 128])
def test_parameters_of_one_site(p):
    added = 9 * p**2 // 32 + 3 * p**2 // 16 + 4 * p + p // 8
    assert SK.params(conv3x3(p)) == 9 * p**2 + added == params(make(conv3x3(p)))


def test_the_norm_behind_the_convolution_is_its_own():
    assert SK.swallows_norm


def test_a_number_of_groups_that_does_not_divide_is_refused_with_one_that_does():
    for conv in (nn.Conv2d(48, 64, 3), nn.Conv2d(64, 48, 3)):
        with pytest.raises(MechanismError, match="sk: groups=32 do not divide 48") as caught:
            make(conv)
        assert "groups=24" in caught.value.hint


def test_the_hidden_layer_keeps_a_channel_or_what_it_is_told_to():
    conv = nn.Conv2d(8, 8, 3)
    assert make(conv, groups=2).fc1.out_features == 1
    assert make(conv, groups=2, minimum=32).fc1.out_features == 32


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("own", [1, 4])
def test_a_warm_start_takes_over_the_weight(init, own):
    conv = nn.Conv2d(8, 16, 3, groups=own)
    sk = make(conv, init, groups=4, warm_start=True)
    branch = (sk if init == "paper" else sk.inner).first[0]
    assert torch.equal(branch.weight, conv.weight)
    nn.init.zeros_(branch.weight)
    assert conv.weight.any()


def test_a_cold_start_does_not():
    conv = nn.Conv2d(8, 16, 3)
    assert not torch.equal(make(conv, groups=4).first[0].weight, conv.weight)


def test_a_warm_start_reaches_what_a_network_holds():
    conv = nn.Conv2d(8, 16, 3)
    part = create_part("sk", conv, init="identity", groups=4, warm_start=True)
    assert SK.adopt is not None
    SK.adopt(part, conv)
    assert torch.equal(part.get_parameter("inner.first.0.weight"), conv.weight)


def test_a_warm_start_from_another_convolution_is_refused():
    part = create_part("sk", nn.Conv2d(8, 16, 3), groups=4, warm_start=True)
    assert SK.adopt is not None
    with pytest.raises(MechanismError, match=r"\(16, 8, 3, 3\) and .* \(16, 8, 1, 1\)"):
        SK.adopt(part, nn.Conv2d(8, 16, 1))


def test_a_channel_whose_logits_are_alike_is_the_mean_of_the_branches():
    sk = make(nn.Conv2d(8, 8, 3, padding=1), groups=4).eval()
    nn.init.zeros_(sk.fc2.weight)
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(sk(x), (sk.first(x) + sk.second(x)) / 2)


def test_the_defaults_are_the_second_code_of_the_authors():
    defaults = {"groups": 32, "dilation": 1, "reduction": 16, "minimum": 1, "warm_start": False}
    assert dict(SK.args) == {**defaults, "split": False}


def test_split_gives_each_branch_a_half_of_the_input():
    sk = stir(make(nn.Conv2d(8, 6, 3, padding=1), groups=2, split=True).eval())
    x = torch.randn(2, 8, 5, 3)
    assert [branch[0].in_channels for branch in (sk.first, sk.second)] == [4, 4]
    whole = make(nn.Conv2d(4, 6, 3, padding=1), groups=2).eval()
    whole.load_state_dict(sk.state_dict())
    halves = x.chunk(2, dim=1)
    a, b = sk.first(halves[0]), sk.second(halves[1])
    assert torch.equal(a, whole.first(halves[0]))
    means = (a + b).mean((2, 3))
    logits = sk.fc2(sk.norm(sk.fc1(means)).relu()).unflatten(1, (2, 6)).softmax(1)
    expected = a * logits[:, 0, :, None, None] + b * logits[:, 1, :, None, None]
    torch.testing.assert_close(sk(x), expected)


def test_split_is_refused_where_there_are_no_halves():
    with pytest.raises(MechanismError, match="split halves the input's channels, and there are 9"):
        make(nn.Conv2d(9, 6, 3, padding=1), groups=3, split=True)
    with pytest.raises(MechanismError, match="groups=8 do not divide 4"):
        make(nn.Conv2d(8, 8, 3, padding=1, groups=8), groups=2, split=True)
