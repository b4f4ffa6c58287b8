"""Large kernel attention: how far it sees, its starts, and the totals of a VAN's attention."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_it_sees_eleven_places_to_each_side():
    lka = stir(make("lka", 4).double())
    x = torch.randn(1, 4, 1, 31, dtype=torch.float64).requires_grad_()
    lka.gate(x)[0, :, 0, 15].sum().backward()
    seen = x.grad.abs().sum((0, 1, 2)) > 0
    assert seen.nonzero().flatten().tolist() == list(range(4, 27))


def test_a_row_is_a_signal():
    flat, line = make("lka", 4).double(), make("lka", 4, rank=1).double()
    state = {}
    for key, value in line.state_dict().items():
        wide = flat.state_dict()[key]
        state[key] = wide[:, :, wide.shape[2] // 2] if wide.dim() == 4 else wide
        assert state[key].shape == value.shape
    line.load_state_dict(state)
    x = torch.randn(2, 4, 13, dtype=torch.float64)
    torch.testing.assert_close(flat(x.unsqueeze(2)).squeeze(2), line(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("args", [{}, {"projections": True}], ids=str)
def test_the_identity_start_is_exact_and_every_part_learns_from_it(args):
    lka, x = make("lka", 16, init="identity", **args), torch.randn(2, 16, 5, 3)
    assert torch.equal(lka(x), x)


def test_an_even_kernel_is_refused():
    with pytest.raises(MechanismError, match="kernel_size=4 has no centre"):
        make("lka", 16, kernel_size=4)


def test_parameters_of_the_attention_in_a_van_b0():
    lka, widths = lookup("lka"), [32] * 3 + [64] * 3 + [160] * 5 + [256] * 2
    alone = sum(c * 25 + c + c * 49 + c + c * c + c for c in widths)
    assert sum(lka.params(c) for c in widths) == alone
    both = alone + sum(2 * (c * c + c) for c in widths)
    assert sum(lka.params(c, projections=True) for c in widths) == both
