"""CondConv against timm's code, and its parameters."""

import pytest
import torch
from timm.layers.cond_conv2d import CondConv2d
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from tests.attention.cases import stir


@pytest.mark.parametrize("groups", [1, 2])
def test_condconv_is_timms_where_one_layer_routes(groups):
    conv = nn.Conv2d(8, 6, 3, 2, 1, groups=groups, bias=False)
    made = stir(create_attention("condconv", conv=conv, kernels=4).double())
    theirs = CondConv2d(8, 6, 3, 2, 1, groups=groups, num_experts=4).double()
    kernels = torch.cat((made.conv.weight[None], made.excitation.experts.kernels))
    theirs.load_state_dict({"weight": kernels.flatten(1)})
    x = torch.randn(3, 8, 7, 5, dtype=torch.float64)
    routing = torch.sigmoid(made.excitation.route(x.mean((2, 3))))
    torch.testing.assert_close(made(x), theirs(x, routing))


def test_parameters_of_one_site():
    assert lookup("condconv").params(nn.Conv2d(64, 64, 3)) == 64 * 8 + 8 + 7 * 36_864


def test_from_the_identity_all_kernels_together_learn_as_fast_as_their_authors():
    """Theirs and ours have eight gates of about a half, of which one is doubled here."""
    made = create_attention("condconv", conv=nn.Conv2d(8, 6, 3), init="identity")
    x = torch.randn(64, 8, 5, 4)
    first, *others = made.excitation.shares(x).mean(0).tolist()
    assert first == 1
    assert others == pytest.approx([0.5] * 7, abs=0.2)
