"""MLCA: its windows, its shares, and that the whole alone is ECA."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_with_no_weight_on_the_windows_it_is_eca_of_the_means_of_windows():
    mlca, eca = stir(make("mlca", 64, weight=0.0).double()), make("eca", 64).double()
    eca.load_state_dict({"conv.weight": mlca.conv.weight})
    x = torch.randn(2, 64, 10, 15, dtype=torch.float64)  # windows of one size: their mean is that
    torch.testing.assert_close(mlca(x), eca(x), rtol=0, atol=1e-12)


def test_each_window_of_a_map_has_a_gate_of_its_own():
    mlca = stir(make("mlca", 64, weight=1.0).double())
    x = torch.randn(1, 64, 10, 15, dtype=torch.float64)
    gate = (mlca(x) / x).unflatten(2, (5, 2)).unflatten(4, (5, 3))
    torch.testing.assert_close(gate, gate[:, :, :, :1, :, :1].expand_as(gate))
    assert not torch.allclose(gate[:, :, 0], gate[:, :, 1])


def test_the_windows_of_a_signal_follow_one_another_in_one_row_of_channels():
    mlca = stir(make("mlca", 64, rank=1, weight=1.0).double())
    x = torch.randn(2, 64, 15, dtype=torch.float64)
    means = x.unflatten(2, (5, 3)).mean(3)  # (N, C, 5)
    row = torch.cat([means[:, :, i] for i in range(5)], 1)
    gate = torch.nn.functional.conv1d(row.unsqueeze(1), mlca.local.weight, padding=1).sigmoid()
    spread = torch.stack(gate.squeeze(1).split(64, 1), 2).repeat_interleave(3, 2)
    torch.testing.assert_close(mlca(x), x * spread, rtol=0, atol=1e-12)


def test_the_identity_start_is_exact_where_windows_are_larger_and_smaller_than_places():
    mlca = make("mlca", 64, init="identity")
    for size in ((1, 1), (3, 7), (13, 4)):
        x = torch.randn(2, 64, *size)
        assert torch.equal(mlca(x), x)


def test_a_weight_that_is_no_share_is_refused():
    with pytest.raises(MechanismError, match="weight=2 is no share"):
        make("mlca", 64, weight=2.0)


@pytest.mark.parametrize(("channels", "count"), [(64, 6), (256, 10), (2048, 14)])
def test_parameters_of_one_site(channels, count):
    assert lookup("mlca").params(channels) == count
