"""The calls of single objects are answered by somebody else, and by themselves again afterwards."""

import pytest
import torch
from torch import nn

from attnsurgeon.recording.calls import answered


def doubled(module):
    return lambda x: 2 * module._call_impl(x)


def test_only_these_objects_are_answered_for_and_only_while_it_lasts():
    one, other, x = nn.ReLU(), nn.ReLU(), torch.ones(3)
    with answered([one], doubled):
        assert torch.equal(one(x), 2 * x)
        assert torch.equal(other(x), x)
    assert torch.equal(one(x), x)


def test_an_error_inside_ends_it_as_well():
    one, x = nn.Linear(3, 3), torch.ones(4)
    with pytest.raises(RuntimeError, match="shape"), answered([one], doubled):
        one(x)
    assert "_compiled_call_impl" not in vars(one)


def test_what_was_compiled_is_compiled_again_afterwards():
    net, x = nn.ReLU(), torch.ones(3)
    net._compiled_call_impl = compiled = lambda x: 3 * x
    with answered(iter([net]), doubled):
        assert torch.equal(net(x), 2 * x)
    assert net._compiled_call_impl is compiled
    assert torch.equal(net(x), 3 * x)
