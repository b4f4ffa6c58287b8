"""Small networks in a user's own file, for tests that save and load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import attnsurgeon

FILE = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 17, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(17)
        self.out = nn.Conv2d(17, channels, 1)

    def forward(self, x):
        return torch.relu(x + self.out(torch.relu(self.bn(self.conv(x)))))


class Net(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.register_buffer("table", torch.arange(width) / 7, persistent=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.blocks(self.stem(x)).mean((2, 3))
        return self.head(x + self.table)


def make(classes=5, width=24):
    return Net(classes, width)


def published(pretrained=False, seed=11):
    net = Net(5, 24)
    if pretrained:
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            parameter.data.normal_(generator=generator)
    return net


def fixed():
    generator = torch.Generator().manual_seed(3)
    net = Net(5, 24)
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator)
    return net


def not_kept(width=24):
    return Net(5, width)
"""


def write(folder: Path) -> str:
    """Writes the file; returns its path."""
    file = folder / "own_net.py"
    file.write_text(FILE)
    return str(file)


def operated(
    spec: str, *, attn: str = "se", randomised: bool = True, **loading
) -> attnsurgeon.Operation:
    """Loads a network and puts attention in, with values that show where they came from."""
    model = attnsurgeon.load_model(spec, **loading)
    operation = attnsurgeon.insert(model, attn, {"site": "residual-branch"}, input_size=(3, 20, 28))
    if randomised:
        randomise(operation.model)
    return operation


def randomise(model: nn.Module, seed: int = 5) -> None:
    """Gives every floating-point tensor of a state dict its own random values."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        else:
            tensor.fill_(17)


def outputs(model: nn.Module, size: tuple[int, ...] = (2, 3, 20, 28)) -> Tensor:
    """What a network answers in evaluation mode to a fixed random input of its dtype."""
    like = next(model.parameters())
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(like)
    training = model.training
    model.eval()
    with torch.no_grad():
        made = model(x)
    model.train(training)
    return made


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """Every tensor bit-equal, in the same order, of the same dtype and strides; buffers too."""
    for tensors in (
        lambda net: net.state_dict(),
        lambda net: dict(net.named_parameters(remove_duplicate=False)),
        lambda net: dict(net.named_buffers(remove_duplicate=False)),
    ):
        ours, theirs = tensors(one), tensors(other)
        assert list(ours) == list(theirs)
        for name, tensor in ours.items():
            assert (tensor.dtype, tensor.stride()) == (theirs[name].dtype, theirs[name].stride()), (
                name
            )
            assert torch.equal(tensor, theirs[name]), name
