"""Dual attention: what its two parts are, alone and together, and in a clip."""

import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir


def test_both_add_what_each_adds_alone():
    both = stir(make("danet", 16).double())
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
    position, channel = (make("danet", 16, form=f).double() for f in ("position", "channel"))
    position.load_state_dict({k: v for k, v in both.state_dict().items() if "positions" in k})
    channel.load_state_dict({k: v for k, v in both.state_dict().items() if "among" in k})
    torch.testing.assert_close(both(x), position(x) + channel(x) - x, rtol=0, atol=1e-12)
    assert not torch.allclose(position(x), channel(x))


def test_a_channel_takes_most_of_those_that_it_goes_together_with_least():
    channel = make("danet", 3, form="channel").double()
    torch.nn.init.ones_(channel.among.gamma)
    x = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    x[0, :, 0, :] = 9 * torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    added = channel(x) - x
    torch.testing.assert_close(added[0, 0], x[0, 2])  # the first takes the third, its negative
    torch.testing.assert_close(added[0, 2], x[0, 0], rtol=0, atol=0.01)


def test_the_bias_of_the_keys_changes_nothing():
    danet, x = stir(make("danet", 16).double()), torch.randn(2, 16, 5, 3).double()
    before = danet(x)
    torch.nn.init.constant_(danet.positions.key.bias, 3.0)
    torch.testing.assert_close(danet(x), before, rtol=0, atol=1e-12)
    torch.nn.init.constant_(danet.positions.query.bias, 3.0)
    assert not torch.allclose(danet(x), before)


def test_a_clip_is_one_long_row_of_positions():
    flat, deep = stir(make("danet", 16)), make("danet", 16, rank=3)
    state = {k: v.reshape(deep.state_dict()[k].shape) for k, v in flat.state_dict().items()}
    deep.load_state_dict(state)
    x = torch.randn(2, 16, 2, 3, 5)
    torch.testing.assert_close(deep(x), flat(x.flatten(2, 3)).reshape(x.shape))


def test_parameters_in_the_authors_head():
    assert lookup("danet").params(512) == 2 * (512 * 64 + 64) + 512 * 512 + 512 + 2
