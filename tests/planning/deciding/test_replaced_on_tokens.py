"""What takes the place of something on tokens does so for every token, or is refused."""

import pytest
import timm
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import SurgeonError


@pytest.mark.parametrize("init", ["identity", "paper"])
def test_a_class_token_is_not_left_without_its_activation(init):
    model = timm.create_model("test_vit").eval()
    with pytest.raises(SurgeonError, match=r"leave tokens of no position \(1: class"):
        attnsurgeon.insert(model, "frelu", init=init)
    # One that works on tokens as they come takes all of them.
    made = attnsurgeon.insert(model, "dyrelu", "activation").model
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(made(x), model(x))


def test_tokens_that_all_stand_in_the_map_are_taken():
    model = timm.create_model("test_vit", class_token=False, reg_tokens=0, global_pool="avg").eval()
    operation = attnsurgeon.insert(model, "frelu")
    x = torch.randn(2, 3, 160, 160)
    assert len(operation.plan) == 6
    assert torch.equal(operation.model(x), model(x))
    assert operation.verify().problems == ()


class Mixed(nn.Module):
    """A fusion of one's own that works on maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return x + shortcut + self.conv(torch.cat([x, shortcut], 1))


def test_a_class_token_is_not_left_without_its_addition():
    model = timm.create_model("test_vit").eval()
    with pytest.raises(SurgeonError, match=r"leave tokens of no position \(1: class"):
        attnsurgeon.insert(model, Mixed, "residual-add")
    model = timm.create_model("test_vit", class_token=False, reg_tokens=0, global_pool="avg").eval()
    made = attnsurgeon.insert(model, Mixed, "residual-add").model
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(made(x), model(x))
