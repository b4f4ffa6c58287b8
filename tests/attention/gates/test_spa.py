"""SPANet against its equation by plain loops, and its weight."""

import itertools
import math

import pytest
import torch

from attnsurgeon.attention.gates.spa import pyramid
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES
from tests.attention.loops import linear, normalised, relu


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


@pytest.mark.parametrize("size", [(3, 2), pytest.param((2, 3, 1), marks=pytest.mark.slow)])
def test_gradients_of_the_first_and_second_order(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pyramid(x, (1, 2)), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: pyramid(x, (1, 2)), (x,), fast_mode=True)


def test_nothing_is_kept_of_the_windows_for_the_backward():
    kept = []
    x = torch.randn(2, 3, 8, 12, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        pyramid(x, (1, 2, 4))
    assert kept == []


@pytest.mark.parametrize("variant", ["B", "C"])
@pytest.mark.parametrize("seen", [7, 9])
def test_b_and_c_look_at_the_input_of_the_block(variant, seen):
    args = {"reduction": 3, "pools": (1, 3), "variant": variant, "source_channels": seen}
    spa = stir(make("spa", 7, **args).double().eval())
    x = torch.randn(2, 7, 3, 4, dtype=torch.float64)
    source = torch.randn(2, seen, 6, 5, dtype=torch.float64)
    expected = torch.empty_like(x)
    for n in range(2):
        maps = source[n]
        if variant == "C" and seen != 7:
            conv, norm, _ = spa.project
            places = maps.flatten(1).T.tolist()
            columns = [relu(normalised(norm, linear(conv, place))) for place in places]
            maps = torch.tensor(columns, dtype=x.dtype).T.reshape(7, 6, 5)
        z = [m for parts in (1, 3) for channel in maps for m in window_means(channel, parts)]
        for c, logit in enumerate(linear(spa.fc2, relu(linear(spa.fc1, z)))):
            expected[n, c] = x[n, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(spa(x, source), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seen", [None, 64, 32])
def test_parameters_of_b_and_c(seen):
    s, card = seen or 64, lookup("spa")
    assert card.params(64, variant="B", source_channels=seen) == (21 * s + 64) * (s // 16)
    project = 32 * 64 + 2 * 64 if s == 32 else 0
    assert card.params(64, variant="C", source_channels=seen) == 22 * 64 * 4 + project
    for variant in ("B", "C"):
        args = {"variant": variant, "source_channels": seen}
        assert card.params(64, **args) == params(make("spa", 64, **args))


def test_what_a_variant_takes_and_needs_to_know():
    card = lookup("spa")
    assert card.inputs({}) == card.inputs({"variant": "A"}) == ("value",)
    assert card.args_at((7, 5), {}, source_channels=9) == {}
    for variant in ("B", "C"):
        given = {"variant": variant}
        assert card.inputs(given) == ("value", "source")
        assert card.args_at((7, 5), given, source_channels=9) == given | {"source_channels": 9}


def test_a_call_without_the_source_is_refused():
    with pytest.raises(MechanismError, match="variant B looks at the block's input"):
        make("spa", 64, variant="B")(torch.randn(2, 64, 5, 3))
