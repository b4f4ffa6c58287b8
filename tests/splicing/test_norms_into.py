"""A norm folded into a convolution that holds attention is refused; beside it all is right."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import ModelError

SIZE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x)).relu()


def operated(attn: str, where: Any, **how: Any) -> Any:
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(stem, Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    randomise_norms(model)
    return attnsurgeon.insert(model, attn, where, init="paper", input_size=SIZE, **how).model.eval()


@pytest.mark.parametrize(
    ("attn", "how"),
    [("we", {}), ("aw", {"attn_args": {"reduction": 1}}), ("eca", {})],
    ids=["we", "aw", "a hook"],
)
@pytest.mark.parametrize(
    "between",
    [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_into_a_convolution_that_holds_attention_it_is_refused(attn, how, between):
    conv, norm, _ = between(operated(attn, ["0.0"], **how))[0]
    with pytest.raises(ModelError, match=rf"this Conv2d holds attention \({attn} for 0\.0\)"):
        fuse_conv_bn_eval(conv, norm)


def test_it_would_have_computed_something_else():
    conv, norm, _ = operated("we", ["0.0"])[0]
    x = torch.randn(2, 3, 16, 16)
    plain = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    plain.weight = conv.weight
    plain = fuse_conv_bn_eval(plain.eval(), norm)
    conv.weight.data.copy_(plain.weight)
    assert plain.bias is not None
    assert not torch.allclose(conv(x) + plain.bias[:, None, None], norm(conv(x)), atol=1e-2)


def test_beside_the_attention_it_is_right():
    model = operated("eca", "residual-branch")
    x = torch.randn(2, *SIZE)
    expected = model(x)
    block = model[1]
    block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    torch.testing.assert_close(model(x), expected)


def test_where_the_excitation_was_folded_first_it_is_right():
    model = operated("we", ["0.0"])
    x = torch.randn(2, *SIZE)
    expected = model(x)
    attnsurgeon.fold(model)
    model[0] = nn.Sequential(fuse_conv_bn_eval(model[0][0], model[0][1]), nn.ReLU())
    torch.testing.assert_close(model(x), expected)


def test_weights_may_still_be_exchanged():
    model, other = operated("we", ["0.0"]), operated("we", ["0.0"])
    model.load_state_dict(other.state_dict(), assign=True)
    model[0][0].weight = nn.Parameter(model[0][0].weight.clone())
    model[0][0].bias = None
    x = torch.randn(2, *SIZE)
    assert torch.equal(model(x), other(x))
    attnsurgeon.remove(model)
    model[0][0].bias = nn.Parameter(torch.zeros(8))
