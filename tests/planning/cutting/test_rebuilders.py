"""Modules that rebuild themselves: what is wanted inside goes behind them, or nowhere."""

import copy

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon import SurgeonError
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from tests.attention.cases import stir


class FoldingConv(nn.Module):
    """Convolution and norm, or two of them side by side, which `fuse` makes one convolution."""

    def __init__(self, channels: int, branches: int = 1, deep: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(branches)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(branches))
        self.last = nn.Conv2d(channels, channels, 1) if deep else nn.Identity()

    def fuse(self) -> nn.Module:
        conv = nn.Conv2d(*self.convs[0].weight.shape[:2], 3, padding=1)
        conv.weight.data, conv.bias.data = 0 * conv.weight, 0 * conv.bias
        for branch, norm in zip(self.convs, self.norms, strict=True):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.data += branch.weight * scale[:, None, None, None]
            conv.bias.data += norm.bias - norm.running_mean * scale
        return nn.Sequential(conv, self.last)

    def forward(self, x: Tensor) -> Tensor:
        made = [norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True)]
        return self.last(torch.relu(sum(made[1:], made[0])))


class Net(nn.Module):
    def __init__(self, **args: object) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 1), FoldingConv(8, **args)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.block(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize("branches", [1, 2])
def test_a_site_inside_goes_behind_and_outlives_the_rebuilding(branches):
    network = Net(branches=branches).eval()
    operation = attnsurgeon.insert(network, "eca", "conv3x3", input_size=(3, 16, 16))
    (cut,) = operation.plan
    assert (cut.module_path, len(cut.shared)) == ("attn", branches - 1)
    assert "behind block (FoldingConv), which may fold what is inside (fuse())" in cut.place.note
    assert operation.verify().ok
    assert operation.cost.delta.params == 3
    model = operation.model.eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), network(x))
    stir(model.attn)
    before = model(x)
    assert not torch.allclose(before, network(x))
    model.block = nn.Sequential(model.block.fuse()[0], nn.ReLU())
    torch.testing.assert_close(model(x), before)
    assert not attnsurgeon.audit(model, input_size=(3, 16, 16)).dead


def test_a_site_before_further_convolutions_is_refused():
    with pytest.raises(SurgeonError, match=r"inside block \(FoldingConv\), which rebuilds itself"):
        attnsurgeon.plan(Net(deep=True), "eca", "conv3x3", input_size=(3, 16, 16))


def test_what_goes_behind_is_saved_and_loaded(tmp_path):
    operation = attnsurgeon.insert(Net(branches=2), "eca", "conv3x3", input_size=(3, 16, 16))
    stir(operation.model.attn)
    operation.save(tmp_path / "out")
    loaded = attnsurgeon.load(tmp_path / "out", model=Net(branches=2)).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), operation.model.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0", "fastvit_t8", "repvit_m0_9"])
def test_attention_outlives_the_reparameterisation_of_timm(name):
    network = timm.create_model(name, num_classes=7).eval()
    size = (3, 64, 64)
    operation = attnsurgeon.insert(network, "eca", "conv3x3", input_size=size)
    model = copy.deepcopy(operation.model).eval()
    randomise_norms(model, operation.plan)
    plain = copy.deepcopy(model)
    for _, module in inserted(model):
        stir(module)
    x = torch.randn(2, *size)
    with torch.no_grad():
        before = model(x)
        assert not torch.allclose(before, plain(x), rtol=1e-2)
        fast = reparameterize_model(model)
        scale = before.abs().max()
        torch.testing.assert_close(fast(x) / scale, before / scale, rtol=1e-3, atol=1e-4)
    assert not attnsurgeon.audit(fast, input_size=size).dead
