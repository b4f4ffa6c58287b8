"""A place of a chain that was copied out of it, or that got other attention, says so."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.splicing.history import inserted
from tests.nets.blocks import C, Net, Plain
from tests.surgery import ready


def operated(attn: str) -> Any:
    arguments = {"reduction": 2} if attn == "dia" else {}
    net = ready(Net(Plain(), Plain(), Plain()))
    how = {"input_size": (3, 13, 11), "attn_args": arguments}
    made = attnsurgeon.insert(net, attn, "residual-branch", **how).model
    for _, part in inserted(made):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=torch.Generator().manual_seed(2))
    return made


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.randn(2, 3, 13, 11, generator=torch.Generator().manual_seed(1)))


class Wrapper(nn.Module):
    """Computes with a copy, as PEFT's modules_to_save do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.original = module
        self.saved = copy.deepcopy(module)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.saved, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.saved(x)


@pytest.mark.parametrize("attn", ["dia", "dca"])
def test_a_copy_of_the_network_or_of_the_whole_chain_is_as_before(attn):
    model = operated(attn)
    expected = outputs(model)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(made), expected)
    model.blocks = copy.deepcopy(model.blocks)
    assert torch.equal(outputs(model), expected)
    x = torch.randn(1, C, 6, 7)  # a block of the network may be run alone, as ever
    assert model.blocks[1](x).shape == x.shape


@pytest.mark.parametrize("attn", ["dia", "dca"])
def test_a_place_copied_alone_raises(attn):
    model = operated(attn)
    model.blocks[0] = copy.deepcopy(model.blocks[0])  # the first starts the chain anyway
    model.blocks[0].attn = copy.deepcopy(model.blocks[0].attn)
    for index in (1, 2):
        torn = operated(attn)
        torn.blocks[index].attn = Wrapper(torn.blocks[index].attn)
        with pytest.raises(ModelError, match=f"place {index} of a chain .* without place"):
            outputs(torn)
    alone = copy.deepcopy(operated(attn).blocks[2])
    with pytest.raises(ModelError, match="place 2 of a chain"):
        alone(torch.randn(1, C, 6, 7))


def test_one_place_with_other_attention_than_the_rest_raises_where_they_share_it():
    tied, own = operated("dia"), operated("dca")
    expected = outputs(own)
    own.blocks[0].attn.attention = Wrapper(own.blocks[0].attn.attention)
    assert torch.equal(outputs(own), expected)  # each place has its own here
    tied.blocks[0].attn.attention = Wrapper(tied.blocks[0].attn.attention)
    with pytest.raises(ModelError, match="all 3 places of a chain share was replaced by a Wrapper"):
        outputs(tied)
