"""Mechanisms on signals (N, C, L), against themselves on images of one column, and against loops.

On an image of one column a kernel of k x k sees its middle column alone, a mean over the map is a
mean over the column, and so on: the module of rank 2 is an oracle for all but the few whose
equation counts the columns, which stand here in words of their own.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import create_attention, mechanisms
from attnsurgeon.errors import MechanismError
from tests.attention.cases import Case, make, stir
from tests.attention.convs.cases import InConv

FILES = [
    import_module(f"tests.attention.{file.parent.name}.test_contract")
    for file in sorted(Path(__file__).parent.glob("*/test_contract.py"))
]
SIGNALS = [case for file in FILES for case in file.CASES if case.rank == 1]
# Shifts of s2 along the columns would take half of its channels; mca has one gate more for an axis
# more; the convolution of mlca runs over a row of windows before the next; the norm of cot is over
# all numbers of the windows, those beside the column too; bot and halo have a table of distances
# for an axis more, bat and generalized a layer, and halo's blocks reach beyond the column.
SQUARE = ("s2", "mca", "mlca", "cot", "bot", "halo", "bat", "generalized")
OF_ONE_COLUMN = [case for case in SIGNALS if case.card.name not in SQUARE]
OF_TWO_AXES = ("fca", "triplet", "coord", "crisscross", "ela", "ema")
each_signal = pytest.mark.parametrize("signal", SIGNALS, ids=str)


def twin_of(case: Case) -> nn.Module:
    """The same mechanism for images; it is built from a convolution whose kernel is a column."""
    image = replace(case, rank=2)
    if "stride" in dict(image.args):  # a window is a column too
        stride = (dict(image.args)["stride"], 1)
        image = replace(image, args=(*image.args, ("stride", stride)))
    if not isinstance(image, InConv):
        return image.build()
    shape = {"kernel_size": (3, 1), "padding": (1, 0)}
    return image.build(conv=image.conv(**shape))


def carry(name: str, weight: torch.Tensor, into: torch.Tensor) -> None:
    """Gives a weight to the twin: its middle column, beside which there is noise."""
    if name.startswith(("span.", "inner.span.")):  # of involution: a kernel for each group
        k = into.shape[0] // weight.shape[0]
        into.normal_()
        into.view(-1, k, k, weight[0].numel())[:, :, k // 2] = weight.view(-1, k, weight[0].numel())
    elif into.dim() > weight.dim():
        into.normal_()
        into[..., into.shape[-1] // 2] = weight
    elif into.shape == weight.shape:
        into.copy_(weight)
    else:
        assert name.endswith("fc1.weight"), name  # of spa
        into.copy_(over_columns(weight, into.shape[1]))


def over_columns(weight: torch.Tensor, features: int) -> torch.Tensor:
    """spa's p windows of each scale as p x p windows, whose shares add up to theirs."""
    pools = (1, 2, 4)
    channels = weight.shape[1] // sum(pools)
    assert features == channels * sum(p * p for p in pools)
    parts = weight.split([p * channels for p in pools], 1)
    spread = [
        part.unflatten(1, (channels, p, 1)).expand(-1, -1, -1, p).flatten(1) / p
        for part, p in zip(parts, pools, strict=True)
    ]
    return torch.cat(spread, 1)


@pytest.mark.parametrize("signal", OF_ONE_COLUMN, ids=str)
def test_a_signal_is_an_image_of_one_column(signal):
    module, twin = stir(signal.build()).double().eval(), twin_of(signal).double().eval()
    theirs = dict(module.state_dict())
    with torch.no_grad():
        for name, value in twin.state_dict().items():
            carry(name, theirs.pop(name), value)
    assert not theirs
    x = signal.input(dtype=torch.float64).requires_grad_()
    y, z = module(x), twin(x.unsqueeze(3)).reshape(module(x).shape)
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    ours, other = (torch.autograd.grad((made * weights).sum(), x)[0] for made in (y, z))
    torch.testing.assert_close(ours, other, rtol=1e-8, atol=1e-8)


@each_signal
def test_a_signal_passes_the_identity_start_to_the_bit(signal):
    x = 3 * signal.input()
    assert torch.equal(signal.build("identity").eval()(x), signal.before(x))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_s2_shifts_half_of_the_channels_forth_and_half_back(length):
    channels = 5  # of which the odd one goes forth
    module = stir(make("s2", channels, rank=1)).double()
    x = torch.randn(2, channels, length, dtype=torch.float64)
    first, plain = module.expand(x.mT).chunk(2, 2)  # (N, L, C) each
    moved = first.clone()
    for i in range(length):
        for c in range(channels):
            moved[:, i, c] = first[:, max(i - 1, 0) if c < 3 else min(i + 1, length - 1), c]
    hidden = nn.functional.gelu(module.squeeze((moved + plain).sum(1)))
    share = module.share(hidden).unflatten(1, (2, channels)).softmax(1)
    joined = moved * share[:, None, 0] + plain * share[:, None, 1]
    torch.testing.assert_close(module(x), module.project(joined).mT, rtol=0, atol=1e-12)


def test_spa_takes_the_means_of_one_two_and_four_spans():
    module = stir(make("spa", 32, rank=1)).double()
    x = torch.randn(2, 32, 8, dtype=torch.float64)
    spans = [x.unflatten(2, (p, -1)).mean(3).flatten(1) for p in (1, 2, 4)]  # each by channel
    gate = module.fc2(module.fc1(torch.cat(spans, 1)).relu()).sigmoid()
    torch.testing.assert_close(module(x), x * gate[:, :, None], rtol=0, atol=1e-12)


def test_tse_gates_every_seven_positions_apart():
    module, x = make("tse", 32, rank=1), torch.randn(1, 32, 17)
    alone = make("se", 32, rank=1)
    alone.load_state_dict(module.state_dict())
    expected = torch.cat([alone(tile) for tile in x.split(7, 2)], 2)
    torch.testing.assert_close(module(x), expected)
    assert make("tse", 32, rank=1, tile=(3,)).tile == (3,)
    with pytest.raises(MechanismError, match=r"tile=\(2, 3\) has 2 sides and the map 1"):
        create_attention("tse", 32, rank=1, tile=(2, 3))


def test_only_what_is_tied_to_two_axes_is_not_for_signals_and_says_why():
    assert {name for name, card in mechanisms().items() if 1 not in card.ranks} == set(OF_TWO_AXES)
    for name in OF_TWO_AXES:
        with pytest.raises(
            MechanismError, match=rf"{name}: it is not defined for rank 1\n.*\(.+\)"
        ):
            create_attention(name, 64, rank=1)


def test_a_module_for_signals_takes_no_image():
    with pytest.raises((RuntimeError, ValueError)):
        make("cbam", 32, rank=1)(torch.randn(1, 32, 5, 7))
