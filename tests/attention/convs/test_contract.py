"""What every mechanism that replaces a convolution has to do, alone and in a network."""

import pytest
import torch

from attnsurgeon.errors import MechanismError
from tests.attention.cases import each_mode, gradients, params
from tests.attention.contract import contract, convolutions
from tests.attention.convs.cases import FORMS, Alone, InNetwork, forms

# Small ones, for speed: the defaults need 64 channels.
SMALL = {
    "sk": {"": {"groups": 8, "reduction": 4}},
    "psa": {"": {"kernels": (3, 5), "groups": (1, 4), "reduction": 2}},
    "sc": {"": {}, "split": {"split": True}},
    "halo": {"": {"heads": 4, "block": 4, "halo": 2}},
    "lambda": {"": {"depth": 4, "scope": 5}, "everywhere": {"depth": 4, "scope": None}},
    "involution": {"": {"kernel_size": 5, "share": 4, "reduction": 2}},
}
CASES = [
    case(card, rank, args, form)
    for case in (Alone, InNetwork)
    for card, rank, args, form in forms("conv", **SMALL)
]
globals().update(contract(convolutions))


def test_what_cannot_be_replaced_is_refused_with_a_hint(case):
    for form, what in case.refusals().items():
        with pytest.raises(MechanismError, match=what) as caught:
            case.build(conv=case.conv(**FORMS[form]))
        assert caught.value.hint


@pytest.mark.parametrize(
    "train", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eval", "train"]
)
def test_every_other_convolution_is_replaced_size_for_size(case, train):
    for conv in case.convs():
        x = case.input(channels=conv.in_channels)
        expected = conv(x)
        module = case.build(conv=conv).train(train)
        y, grads = gradients(module, x)
        assert (y.shape, y.dtype) == (expected.shape, x.dtype), conv
        assert y.isfinite().all(), conv
        assert all(g.isfinite().all() for g in grads), conv
        assert params(module) == case.count(conv), conv
        beside = 0 if isinstance(case, InNetwork) else params(conv)
        assert params(case.build("identity", conv=conv)) == case.count(conv) + beside + 1, conv


@each_mode
def test_in_a_network_the_identity_returns_what_was_computed_there(case, train):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        part, x = case.part("identity").to(dtype).train(train), case.input(dtype=dtype)
        old = torch.randn_like(x)
        assert torch.equal(part(x, old), old)
