"""What every mechanism has to do besides that is built from a convolution."""

import copy

import pytest
import torch

from tests.attention.cases import each_init, each_mode, stir


@each_mode
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_identity_is_a_convolution_of_any_form_to_the_bit(case, train, batch):
    for conv in case.convs():
        module = case.build("identity", conv=conv).train(train)
        x = 3 * case.input(batch, channels=conv.in_channels)
        assert torch.equal(module(x), conv(x)), conv
        assert torch.equal(module(x), conv(x)), conv  # the first call may have moved statistics


@each_init
def test_nothing_of_the_convolution_is_kept_by_the_part(case, init):
    conv = case.conv()
    part, before = case.part(init, conv=conv), copy.deepcopy(conv.state_dict())
    stir(part)
    assert conv not in list(part.modules())
    assert all(p is not conv.weight for p in part.parameters())
    assert torch.equal(conv.weight, before["weight"])


def test_the_part_has_the_declared_number_of_parameters(case, channels):
    conv = case.conv(channels)
    assert case.count(conv) == sum(p.numel() for p in case.part(conv=conv).parameters())


def test_one_instance_serves_every_resolution(case):
    assert case.card.resolution_free
