"""torch.jit.script reads an operated network wherever it reads the network itself."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import RuleError
from tests.nets.families.segmenters import TransposedUNet
from tests.surgery import active

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning"),
]
# A trace takes no shortcut of a size, and so adds in another order; condconv's sum is two steps.
ROUNDED = {"tse", "nam", "ran", "soca", "sge", "fca", "mlca", "condconv", "odconv"}
ROUNDED |= {"dyconv", "lambda"}


class Turning(nn.Module):
    """A block whose way depends on numbers, so that torch.fx cannot trace it: a hook is left."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        y = self.conv(x)
        if bool(y.sum() > 0):
            y = y.relu()
        return y + shift


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 32, 3, padding=1), Turning(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if bool(x.sum() > 1e9):
            x = -x
        x = x + self.block(x, shift=0.5)
        return self.head(x.mean((2, 3)))


def resnet() -> nn.Module:
    return ready(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7))


def deit() -> nn.Module:
    name, small = "deit_tiny_distilled_patch16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2}
    return ready(timm.create_model(name, img_size=32, patch_size=8, num_classes=5, **small))


def ready(net: nn.Module) -> nn.Module:
    randomise_norms(net)
    return net.eval()


def operated(net: nn.Module, attn: str, where: str | None = None, init: str = "identity"):
    """The network with a mechanism that is no longer the identity, by default where it goes."""
    places = [where] if where else [None, "residual-branch"]
    # At 32 the last maps have one position, behind which no head stands; at 64 they have four.
    for place, side in itertools.product(places, (32, 64)):
        at: dict[str, Any] = {} if place is None else {"where": place}
        if attn in ("lka", "lambda"):  # one product or sum of maps behind the other overflows
            at["stage"] = 1
        try:
            made = attnsurgeon.insert(net, attn, input_size=(3, side, side), init=init, **at)
        except RuleError:
            continue
        return made.plan, active(made.model).eval()
    raise AssertionError(f"{attn} goes nowhere")


def loaded(net: nn.Module):
    """The network as a file of TorchScript that was written and read."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    return torch.jit.load(file)


def assert_scripts(net: nn.Module, *inputs: Tensor, exact: bool = True) -> None:
    made = loaded(net)
    with torch.no_grad():
        for x in inputs:
            expected = net(x)
            close = 0.0 if exact else 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(made(x), expected, rtol=0, atol=close)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["identity", pytest.param("paper", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("attn", mechanisms())
def test_every_mechanism_in_a_resnet_computes_the_same_to_the_bit(attn, init):
    base = ready(TransposedUNet()) if attn == "attention-gate" else resnet()  # it is for skips
    _, net = operated(base, attn, init=init)
    sizes = [(3, 3, 32, 32), *[(1, 3, 64, 48)] * mechanisms()[attn].resolution_free]
    assert_scripts(net, *map(torch.randn, sizes), exact=attn not in ROUNDED)


@pytest.mark.slow
@pytest.mark.parametrize("attn", ["se", "cbam", "dia", "aff"])
def test_among_tokens_it_computes_the_same_to_the_bit(attn):
    _, net = operated(deit(), attn)
    assert_scripts(net, torch.randn(3, 3, 32, 32))


@pytest.mark.parametrize("attn", ["eca", "cbam"])
def test_behind_a_block_that_torch_fx_cannot_trace_the_hook_becomes_code(attn):
    plan, net = operated(ready(Hooked()), attn, "residual-branch")
    assert {cut.place.technique for cut in plan.cuts} == {"output-hook"}
    with torch.no_grad():
        biases = [8.0, -8.0]  # the block goes both ways, and so has the script to
        for bias in biases:
            net.block.conv.bias.fill_(bias)  # pyright: ignore
            assert_scripts(net, torch.randn(2, 3, 32, 32), torch.randn(3, 3, 16, 24))


def test_the_network_itself_stays_what_it_is():
    _, net = operated(ready(Hooked()), "cbam", "residual-branch")
    before, kinds = copy.deepcopy(net.state_dict()), [type(m) for m in net.modules()]
    modes, hooks = [m.training for m in net.modules()], len(net.block._forward_hooks)  # pyright: ignore
    made = torch.jit.script(net)
    assert kinds == [type(m) for m in net.modules()]
    assert modes == [m.training for m in net.modules()]
    assert hooks == len(net.block._forward_hooks) == 1  # pyright: ignore
    assert list(made.state_dict()) == list(before)
    assert all(torch.equal(before[name], now) for name, now in net.state_dict().items())
    assert made.stem.weight.data_ptr() == net.stem.weight.data_ptr()  # pyright: ignore


def test_in_training_mode_it_does_what_the_network_does_there():
    _, net = operated(ready(Hooked()), "cbam", "residual-branch")
    made, x = torch.jit.script(copy.deepcopy(net)), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(net.train()(x), net.eval()(x))
    y, expected = made.train()(x), net.train()(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert all(p.grad is not None for name, p in made.named_parameters() if "attn" in name)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_answers_for_itself(copied):
    _, net = operated(ready(Hooked()), "eca", "residual-branch")
    twin = copied(net)
    with torch.no_grad():
        twin.stem.weight.zero_()
    assert_scripts(twin, torch.randn(2, 3, 16, 16))
    assert not torch.equal(twin(torch.ones(1, 3, 8, 8)), net(torch.ones(1, 3, 8, 8)))


def test_without_attention_it_answers_no_longer():
    net = ready(Hooked())
    made = attnsurgeon.insert(net, "eca", "residual-branch", input_size=(3, 32, 32)).model
    assert hasattr(made, "__prepare_scriptable__")
    attnsurgeon.remove(made)
    assert not hasattr(made, "__prepare_scriptable__")


def test_what_torch_does_not_read_before_it_does_not_read_after():
    class Odd(Hooked):
        def forward(self, *images: Tensor) -> Tensor:
            return super().forward(images[0])

    with pytest.raises(Exception, match="variable number of arguments"):
        torch.jit.script(ready(Odd()))
    _, net = operated(ready(Odd()), "eca", "residual-branch")
    with pytest.raises(Exception, match="number of arguments"):
        torch.jit.script(net)
