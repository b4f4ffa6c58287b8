"""Autograd functions of a stranger: no trace runs through them, no gradient of theirs is lost."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon


class Swish(torch.autograd.Function):
    """x sigmoid(x), as networks have it that save memory."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * (gate * (1 + x * (1 - gate)))


class Straight(torch.autograd.Function):
    """Rounds, and lets the gradient through: nothing that autograd would find by itself."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


class Reversed(torch.autograd.Function):
    """Does nothing but turn the gradient: no operation inside tells of it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        return -grad


class Block(nn.Module):
    def __init__(self, function, kept: bool) -> None:
        super().__init__()
        self.function = function
        self.kept = function.apply if kept else None
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        y = self.norm1(self.conv1(x))
        y = self.function.apply(y) if self.kept is None else self.kept(y)
        y = self.act(y)
        return self.act(x + self.norm2(self.conv2(y)))


class Net(nn.Module):
    def __init__(self, function, kept: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(Block(function, kept), Block(function, kept))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("where", ["residual-branch", "norm", "residual-block"])
@pytest.mark.parametrize(
    ("function", "kept"),  # kept under a name: `swish = Swish.apply`
    [(Swish, False), (Swish, True), (Straight, False), (Straight, True), (Reversed, False)],
)
def test_a_network_with_an_autograd_function_keeps_its_outputs_and_its_gradients(
    function, kept, where
):
    net = Net(function, kept)
    for name, parameter in net.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    operation = attnsurgeon.insert(net, "eca", where, input_size=(3, 24, 24))
    assert len(operation.plan.cuts) >= 2
    x = torch.randn(2, 3, 24, 24)
    for model in (net, operation.model):
        model.train()
        model(x).square().sum().backward()
    gradients = dict(operation.model.named_parameters())
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, gradients[name].grad), name
    assert operation.verify().ok


def test_a_function_is_applied_as_ever_in_another_thread_meanwhile():
    apply, seen, stop = torch.autograd.Function.__dict__.get("apply"), [], threading.Event()

    def draw() -> None:
        while not stop.is_set():
            x = torch.full((3,), 2.0, requires_grad=True)
            Reversed.apply(x).sum().backward()
            seen.append(x.grad.tolist())

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        attnsurgeon.plan(Net(Swish), "eca", "norm", input_size=(3, 24, 24))
    finally:
        stop.set()
        thread.join()
    assert seen
    assert all(gradient == [-1.0, -1.0, -1.0] for gradient in seen)
    assert torch.autograd.Function.__dict__.get("apply") is apply
