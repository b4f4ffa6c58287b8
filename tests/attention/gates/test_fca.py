"""FcaNet against its equations by plain loops, its frequencies, sizes, and published totals."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from attnsurgeon.attention.gates.fca import NAMES, ORDERS, chosen, spectrum, waves
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, make, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES

exact = {"rtol": 0, "atol": 1e-12}


def wave(u, place, size):
    value = math.cos(math.pi * u * (place + 0.5) / size) / math.sqrt(size)
    return value * math.sqrt(2) if u else value


def component(plane, u, v):
    """Returns one component of the cosine transform of a plane."""
    height, width = len(plane), len(plane[0])
    total = 0.0
    for h, row in enumerate(plane):
        for w, value in enumerate(row):
            total += value * wave(u * (height // 7), h, height) * wave(v * (width // 7), w, width)
    return total


@pytest.mark.parametrize("size", [(7, 7), (14, 9), (8, 21)])
@pytest.mark.parametrize("last", [False, True])
def test_each_group_of_channels_has_a_frequency_of_its_own(size, last):
    fca = stir(make("fca", 12, reduction=3, dct_size=size, frequencies="top4").double())
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=FORMATS[2]) if last else x
    frequencies = [(0, 0), (0, 1), (6, 0), (0, 5)]
    expected = torch.empty_like(x)
    for n in range(2):
        z = [component(x[n, c].tolist(), *frequencies[c // 3]) for c in range(12)]
        weights = fca.fc1.weight.tolist()
        hidden = [max(sum(w * v for w, v in zip(row, z, strict=True)), 0) for row in weights]
        for c, row in enumerate(fca.fc2.weight.tolist()):
            logit = sum(w * h for w, h in zip(row, hidden, strict=True))
            expected[n, c] = x[n, c] / (1 + math.exp(-logit))
    torch.testing.assert_close(fca(x), expected, **exact)


@pytest.mark.parametrize("seen", [(7, 7), (9, 12), (14, 14), (3, 5), (1, 1)])
@pytest.mark.parametrize("size", [7, (14, 9)])
def test_a_map_of_another_size_is_pooled_as_in_the_authors_code(seen, size):
    fca = stir(make("fca", 32, dct_size=size).double())
    x = torch.randn(2, 32, *seen, dtype=torch.float64)
    pooled = F.adaptive_avg_pool2d(x, size)
    gate = (fca(pooled) / pooled)[..., :1, :1]
    torch.testing.assert_close(fca(x), x * gate, **exact)


def test_the_lowest_frequency_is_the_mean_times_the_root_of_the_size():
    x = torch.randn(2, 3, 14, 10, dtype=torch.float64)
    z = spectrum(x, waves([0], 14, x).mT @ waves([0], 10, x)[None])
    torch.testing.assert_close(z, math.sqrt(140) * x.mean((2, 3)), **exact)


@pytest.mark.parametrize("size", [7, 14, 31, 56])
def test_waves_have_length_one_and_are_at_right_angles(size):
    basis = waves(range(7), size, torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(7, dtype=torch.float64), **exact)


def test_the_basis_follows_every_conversion():
    x = torch.randn(2, 32, 9, 12, dtype=torch.float64)
    exactly = stir(make("fca", 32, dct_size=(9, 12)).double())
    back = copy.deepcopy(exactly).bfloat16()
    assert back.basis.dtype == torch.float32
    back = back.double()
    assert torch.equal(back.basis, exactly.basis)
    back.load_state_dict(exactly.state_dict())
    assert torch.equal(back(x), exactly(x))


def test_the_basis_is_there_after_a_detour_over_the_meta_device():
    trained, x = stir(make("fca", 32, dct_size=(9, 12))), torch.randn(2, 32, 9, 12)
    with torch.device("meta"):
        fca = make("fca", 32, dct_size=(9, 12))
    assert fca.basis.is_meta
    fca.to_empty(device="cpu").load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(fca(x), trained(x))


def test_every_order_has_frequencies_of_a_7x7_map_each_once():
    for order, first in (("top", (0, 0)), ("bot", (6, 6)), ("low", (0, 0))):
        pairs = chosen(f"{order}32", 64)
        assert pairs[0] == first
        assert len(set(pairs)) == 32
        assert all(0 <= u < 7 and 0 <= v < 7 for u, v in pairs)
    heights = [u + v for u, v in chosen("low32", 64)]
    assert heights[:3] == [0, 1, 1]
    assert max(heights[:28]) == 6
    assert set(ORDERS) == {name[:3] for name in NAMES}


def test_the_basis_is_no_part_of_the_state():
    assert set(make("fca", 64, dct_size=56).state_dict()) == {"fc1.weight", "fc2.weight"}


def test_a_plan_takes_the_size_from_the_site_but_not_below_the_grid():
    card = lookup("fca")
    assert card.args_at((56, 48), {}) == {"dct_size": (56, 48)}
    assert card.args_at((4, 9), {}) == {"dct_size": (7, 9)}
    assert card.args_at((56, 48), {"dct_size": 14}) == {"dct_size": 14}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dct_size": 6}, r"dct_size=6 is not a size of 7 x 7 or more.*\n.*use dct_size=7"),
        ({"dct_size": (7, 6)}, r"dct_size=\(7, 6\) is not a size"),
        ({"dct_size": (7, 7, 7)}, r"dct_size=\(7, 7, 7\) is not a size"),
        ({"frequencies": "top3"}, r"frequencies='top3' is no choice\n.*did you mean 'top32'"),
        ({"channels": 24}, r"24 channels cannot be split into 16.*\n.*use frequencies='top8'"),
        ({"rank": 3}, r"not defined for rank 3\n.*the accuracy that each brings on images"),
    ],
)
def test_what_cannot_be_built_is_refused(args, message):
    with pytest.raises(MechanismError, match=message):
        make("fca", **{"channels": 64, **args})
    assert make("fca", 24, frequencies="top8", reduction=4).fc1.out_features == 6


def test_parameters_are_those_of_se_without_biases():
    for channels in (64, 256):
        assert lookup("fca").params(channels) == lookup("se").params(channels, bias=False)
    assert RESNET50 + sum(lookup("fca").params(c) for c in RESNET50_BRANCHES) == 28_071_976
