"""SPANet-A against its equation by plain loops, and its weight."""

import itertools
import math

import pytest
import torch

from attnsurgeon.attention.gates.spa import pyramid
from attnsurgeon.attention.registry import lookup
from tests.attention.cases import FORMATS, make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES


def window_means(channel, parts):
    """Returns the means over parts x parts windows, row by row, of one channel (H, W) or more."""
    spans = [
        [(i * n // parts, -(-(i + 1) * n // parts)) for i in range(parts)] for n in channel.shape
    ]
    found = []
    for window in itertools.product(*spans):
        values = channel[tuple(slice(*span) for span in window)].flatten().tolist()
        found.append(sum(values) / len(values))
    return found


@pytest.mark.parametrize("size", [(8, 12), (5, 3), (2, 5, 3), (1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_gates_come_from_means_at_several_scales(size, last):
    rank = len(size)
    spa = stir(make("spa", 7, rank=rank, reduction=3, pools=(1, 3)).double())
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=FORMATS[rank]) if last else x
    expected = torch.empty_like(x)
    for n in range(2):
        z = [m for parts in (1, 3) for channel in x[n] for m in window_means(channel, parts)]
        weights = spa.fc1.weight.tolist()
        hidden = [max(sum(w * v for w, v in zip(row, z, strict=True)), 0) for row in weights]
        for c, row in enumerate(spa.fc2.weight.tolist()):
            logit = sum(w * h for w, h in zip(row, hidden, strict=True))
            expected[n, c] = x[n, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(spa(x), expected, rtol=0, atol=1e-12)


def test_the_means_of_one_scale_stand_together_channel_by_channel():
    x = torch.arange(2 * 2 * 4.0).reshape(1, 2, 2, 4)
    assert pyramid(x, (1, 2)).tolist() == [[3.5, 11.5, 0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]]


@pytest.mark.parametrize(("rank", "means"), [(2, 1 + 4 + 16), (3, 1 + 8 + 64)])
def test_parameters_of_one_site(rank, means):
    assert lookup("spa").params(64, rank=rank) == (means + 1) * 64 * 4


def test_the_total_of_a_resnet50_is_more_than_twice_the_network():
    card = lookup("spa")
    added = sum(card.params(c) for c in RESNET50_BRANCHES)
    assert RESNET50 + added == 53_221_416
    assert RESNET50 + added > 2 * RESNET50
    assert "reduction=64" in card.lighter
    assert sum(card.params(c, reduction=64) for c in RESNET50_BRANCHES) * 4 == added


@pytest.mark.parametrize("size", [(3, 2), (2, 3, 1)])
def test_gradients_of_the_first_and_second_order(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pyramid(x, (1, 2)), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pyramid(x, (1, 2)), (x,))


def test_nothing_is_kept_of_the_windows_for_the_backward():
    kept = []
    x = torch.randn(2, 3, 8, 12, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        pyramid(x, (1, 2, 4))
    assert kept == []
