"""ATAC against its equation by plain loops, and against published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, normalised, relu

# Inside the bottlenecks of the last two stages of a ResNet-50: two activations a block.
RESNET50_LATE = [256] * 12 + [512] * 6


def test_each_position_is_gated_by_its_own_channels():
    atac = stir(make("atac", 6, reduction=3).double().eval())
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        for h in range(5):
            for w in range(3):
                here = x[n, :, h, w].tolist()
                hidden = relu(normalised(atac.squeeze_norm, linear(atac.squeeze, here)))
                gates = normalised(atac.expand_norm, linear(atac.expand, hidden))
                for c in range(6):
                    expected[n, c, h, w] = here[c] / (1 + math.exp(-gates[c]))
    torch.testing.assert_close(atac(x), expected, rtol=0, atol=1e-12)


def test_a_volume_is_activated_like_the_image_it_unrolls_to():
    flat, deep = stir(make("atac", 8).eval()), make("atac", 8, rank=3).eval()
    state = {k: v.reshape(deep.state_dict()[k].shape) for k, v in flat.state_dict().items()}
    deep.load_state_dict(state)
    x = torch.randn(2, 8, 3, 7, 5)
    torch.testing.assert_close(deep(x), flat(x.flatten(2, 3)).reshape(x.shape))


@pytest.mark.parametrize(("reduction", "expected"), [(2, 66_304), (4, 33_408), (16, 8_736)])
def test_parameters_of_one_site(reduction, expected):
    assert lookup("atac").params(256, reduction=reduction) == expected
    assert params(make("atac", 256, reduction=reduction)) == expected


def test_total_of_a_resnet50():
    atac = lookup("atac")
    assert RESNET50 + sum(atac.params(c) for c in RESNET50_LATE) == 27_934_760
    assert RESNET50 + sum(atac.params(c, reduction=4) for c in RESNET50_LATE) != 27_934_760


def test_no_layer_has_a_bias_that_a_norm_would_take_away():
    atac = make("atac", 8)
    assert atac.squeeze.bias is None
    assert atac.expand.bias is None


def test_the_default_is_that_of_the_authors_large_network():
    assert dict(lookup("atac").args) == {"reduction": 2}


def test_a_reduction_that_leaves_nothing_is_refused():
    with pytest.raises(MechanismError, match="reduction=9 leaves no hidden channel out of 8"):
        make("atac", 8, reduction=9)
