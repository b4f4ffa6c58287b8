"""EMA: its groups, and what they share."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_groups_have_gates_of_their_own_and_parameters_in_common():
    ema = stir(make("ema", 12, groups=3).double())
    x = torch.randn(2, 12, 5, 3, dtype=torch.float64)
    single = make("ema", 4, groups=1).double()
    single.load_state_dict(ema.state_dict())
    expected = torch.cat([single(part) for part in x.split(4, dim=1)], dim=1)
    torch.testing.assert_close(ema(x), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(ema(x)[:, :4] / x[:, :4], ema(x)[:, 4:8] / x[:, 4:8])


def test_the_channels_of_a_group_have_one_gate():
    ema, x = stir(make("ema", 12, groups=3).double()), torch.randn(2, 12, 5, 3).double()
    gate = (ema(x) / x).unflatten(1, (3, 4))
    torch.testing.assert_close(gate, gate[:, :, :1].expand_as(gate))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 24), (24, 24), (17, 17)])
def test_there_are_thirty_two_groups_or_the_most_that_there_can_be(channels, groups):
    assert make("ema", channels).groups == groups


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(MechanismError, match="groups=5 do not divide 64"):
        make("ema", 64, groups=5)


def test_parameters_follow_from_the_channels_of_a_group():
    assert lookup("ema").params(256) == 8 * 8 + 8 + 9 * 8 * 8 + 8 + 2 * 8
