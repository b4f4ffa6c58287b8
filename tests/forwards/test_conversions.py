"""`int` and `float` of sizes in a forward: steps of it, that follow every later size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import SurgeonError
from tests.surgery import ready

WINDOW = 2


def cut(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = x.view(n, c, h // WINDOW, WINDOW, w // WINDOW, WINDOW)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, WINDOW**2, c)


def joined(windows: Tensor, h: int, w: int) -> Tensor:
    """As Swin's authors say how many images there are: by a division of floats."""
    n = int(windows.shape[0] / (h * w / WINDOW / WINDOW))
    x = windows.view(n, h // WINDOW, w // WINDOW, WINDOW, WINDOW, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)


class Windows(nn.Module):
    """A block that works on windows and joins them again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(7, 11), nn.Linear(11, 7)

    def forward(self, x: Tensor) -> Tensor:
        windows = torch.relu(self.one(cut(x)))
        y = joined(self.two(windows), x.shape[2], x.shape[3])
        return x + y * (1.0 / float(x.shape[1]))


class OfValues(Windows):
    """A number that the image decides: no size says it."""

    def forward(self, x: Tensor) -> Tensor:
        y = joined(self.two(torch.relu(self.one(cut(x)))), x.shape[2], x.shape[3])
        return x + y * int(x.abs().mean() + 2)


class AsksForNumbers(Windows):
    """Asks whether a size, and a plain number, are ints, before it makes one."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[2]
        asked = isinstance(h, int) and isinstance(WINDOW, int) and type(WINDOW) == int  # noqa: E721
        asked = asked and not isinstance("2", int) and issubclass(bool, int) and int("3") == 3
        y = joined(self.two(torch.relu(self.one(cut(x)))), h, int(x.shape[3]))
        return x + y if asked else x - y


class MeansTheType(nn.Module):
    """Makes no number of a size, and means the type itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(7, 11, 1), nn.Conv2d(11, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(torch.relu(self.one(x)))
        if type(WINDOW) is int:
            y = y * int.bit_length(5)
        return x + y


class MeansOneOfIt(Windows):
    """Makes a number of a size, and takes one of the type's functions."""

    def forward(self, x: Tensor) -> Tensor:
        y = joined(self.two(torch.relu(self.one(cut(x)))), x.shape[2], x.shape[3])
        return x + y * int.bit_length(5)


def net(block: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return ready(nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), block(), block()))


@pytest.mark.parametrize("block", [Windows, AsksForNumbers])
def test_a_number_made_of_sizes_is_made_again_at_every_size(block):
    model = net(block)
    operation = attnsurgeon.insert(model, "se", "residual-block", input_size=(3, 8, 6))
    assert [cut.place.host for cut in operation.plan] == ["1", "2"]
    inner = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 8, 6))
    assert len(inner.plan) == 2
    assert not inner.plan.refused
    for shape in ((2, 3, 8, 6), (5, 3, 8, 6), (1, 3, 12, 10)):
        x = torch.randn(shape)
        assert torch.equal(operation.model(x), model(x))
        assert torch.equal(inner.model(x), model(x))


@pytest.mark.parametrize("block", [MeansTheType, MeansOneOfIt])
def test_a_forward_may_mean_the_types_themselves(block):
    model, args = net(block), {"reduction": 3}
    made = attnsurgeon.insert(model, "aff", "residual-add", attn_args=args, input_size=(3, 8, 6))
    assert len(made.plan) == 2
    assert not made.plan.refused
    for shape in ((2, 3, 8, 6), (1, 3, 12, 10)):
        x = torch.randn(shape)
        assert torch.equal(made.model(x), model(x))


def test_the_names_are_as_they_were_afterwards():
    attnsurgeon.plan(net(Windows), "se", "residual-branch", input_size=(3, 8, 6))
    assert not {"int", "float"} & set(globals())


def test_a_number_that_the_image_decides_is_refused_in_words():
    with pytest.raises(SurgeonError, match="makes a number of a value"):
        attnsurgeon.insert(net(OfValues), "aff", "residual-add", input_size=(3, 8, 6))
