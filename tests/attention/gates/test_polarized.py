"""Polarized self-attention: the sequential form by its equation, and what each refuses."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, stir


def test_the_sequential_form_looks_at_what_it_gated():
    psa = stir(make("polarized", 16, form="sequential").double())
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
    flat = x.flatten(2)
    shares = torch.softmax(psa.query @ flat, dim=-1)  # (N, 1, P)
    context = (psa.value.weight @ flat) @ shares.transpose(1, 2)  # (N, C / 2, 1)
    z = flat * torch.sigmoid(psa.up(context.squeeze(2))).unsqueeze(2)
    query = (psa.spatial_query.weight @ z).mean(2, keepdim=True).transpose(1, 2)
    spatial = query @ torch.softmax(psa.spatial_value.weight @ z, dim=-1)
    expected = (z * torch.sigmoid(spatial)).reshape(x.shape)
    torch.testing.assert_close(psa(x), expected, rtol=0, atol=1e-12)


def test_of_a_single_position_the_parallel_form_is_half_open():
    psa, x = stir(make("polarized", 16).double()), torch.randn(2, 16, 1, 1).double()
    whole = torch.sigmoid(psa.up(psa.value(x[:, :, 0, 0])))[:, :, None, None]
    torch.testing.assert_close(psa(x), x * (whole + torch.sigmoid(torch.ones(1).double())))


def test_too_few_channels_are_refused_with_how_many_work():
    with pytest.raises(
        MechanismError, match="15 channels are too few for its sequential"
    ) as caught:
        make("polarized", 15, form="sequential")
    assert "16 channels" in str(caught.value)
    make("polarized", 15)


@pytest.mark.parametrize(
    ("form", "count"),
    [
        ("parallel", 64 + 4 * 64 * 32),
        ("sequential", 64 + 3 * 64 * 32 + 32 * 8 + 4 * 8 + 8 * 64 + 64 - 8),
    ],
)
def test_parameters_of_one_site(form, count):
    assert lookup("polarized").params(64, form=form) == count
