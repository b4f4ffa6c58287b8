"""Modules that are TorchScript inside a network: opaque, and cut around."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from tests.nets.families import wild

SIZE = (3, 24, 32)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def made(how: str) -> Any:
    with warnings.catch_warnings():  # deprecated, and in many a network
        warnings.simplefilter("ignore")
        if how == "script":
            return torch.jit.script(Part())
        return torch.jit.trace(Part().eval(), torch.randn(1, 16, 8, 8))


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.before, self.after = nn.Conv2d(3, 16, 1), Part(), Part()
        self.scripted = made(how)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.stem(x))
        x = x + self.scripted(x)
        x = x + self.after(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize(
    ("attn", "where", "count"), [("eca", "residual-branch", 1), ("aff", "residual-add", 1)]
)
def test_a_network_with_a_scripted_module_is_operated_around_it(how, attn, where, count):
    model = Net(how).eval()
    args = {"reduction": 2} if attn == "aff" else {}
    operation = attnsurgeon.insert(model, attn, where, attn_args=args, input_size=SIZE)
    assert len(operation.plan) == count
    assert not any("scripted" in site.path for site in attnsurgeon.find_sites(model))
    assert {*model.state_dict()} <= {*operation.model.state_dict()}
    for size in (SIZE, (3, 15, 11)):
        x = torch.randn(2, *size)
        assert torch.equal(operation.model(x), model(x))
        assert torch.equal(copy.deepcopy(operation.model)(x), model(x))
    assert operation.verify().ok
    parameters = sum(p.numel() for p in model.parameters())
    assert operation.cost.before.params == parameters
    operation.model.train()(torch.randn(2, *SIZE)).sum().backward()


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_is_scripted_as_a_whole_is_refused():
    with pytest.raises(ModelError, match="the network is scripted") as error:
        attnsurgeon.plan(made("script"), "eca", "conv", input_size=(16, 8, 8))
    assert "quantized" not in str(error.value)
    assert "before torch.jit.script" in error.value.hint


@pytest.mark.filterwarnings("ignore")
def test_a_script_takes_no_attention_and_says_so():
    model = wild.scripted_stages().eval()
    with_others = attnsurgeon.insert(model, "eca", "block", input_size=SIZE)
    reasons = {refused.site.path: refused.reason for refused in with_others.plan.refused}
    assert reasons == {p: f"{p} is a script, and takes no module" for p in ("s1.0", "s2.0")}
    assert [cut.site.path for cut in with_others.plan] == ["s1.1", "s2.1", "s3"]
    x = torch.randn(2, *SIZE)
    assert torch.equal(with_others.model(x), model(x))
