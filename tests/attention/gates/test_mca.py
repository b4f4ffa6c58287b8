"""MCA: its kernels, its parts, and a clip."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from tests.attention.cases import make, stir


@pytest.mark.parametrize(
    ("channels", "kernel"), [(2, 1), (8, 1), (64, 3), (128, 3), (256, 5), (512, 5), (2048, 7)]
)
def test_the_kernel_along_the_channels_follows_from_their_number(channels, kernel):
    assert make("mca", channels).channel.conv.kernel_size == (kernel,)
    assert lookup("mca").params(channels) == kernel + 2 + 2 * 5


@pytest.mark.parametrize("sides", [(7,), (4, 5), (2, 3, 5)])
def test_the_gate_is_the_mean_of_those_of_all_axes_also_of_a_signal_and_in_a_clip(sides):
    mca = stir(make("mca", 8, rank=len(sides)).double())
    x = torch.randn(2, 8, *sides, dtype=torch.float64)
    gates, axes = 0, range(1, x.dim())
    for part, axis in zip([mca.channel, *mca.axes], axes, strict=True):
        others = [a for a in axes if a != axis]
        a, b = (0.5 + part.weight.sigmoid()).tolist()
        z = a * x.mean(others) + b * x.std(others)
        z = torch.nn.functional.conv1d(
            z.unsqueeze(1), part.conv.weight, padding=part.conv.padding
        ).sigmoid()
        gates = gates + z.reshape([2, *(x.shape[a] if a == axis else 1 for a in axes)])
    torch.testing.assert_close(mca(x), x * gates / len(axes), rtol=0, atol=1e-9)


def test_without_the_gate_of_the_channels_two_are_left():
    mca = make("mca", 64, channel=False)
    assert sum(p.numel() for p in mca.parameters()) == 2 * 5
    x = torch.randn(2, 64, 5, 3)
    assert torch.equal(make("mca", 64, channel=False, init="identity")(x), x)
