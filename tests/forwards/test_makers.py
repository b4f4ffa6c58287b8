"""Tensors that a forward makes of plain numbers are steps of it, at every size, type and mode."""

import pytest
import torch
from torch import fx, nn

import attnsurgeon
from attnsurgeon.errors import SurgeonError
from tests.surgery import ready

C = 8


class Making(nn.Module):
    """A block that makes a tensor itself; `make` says how."""

    def __init__(self, make) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)
        self.norm, self.head, self.make = nn.BatchNorm2d(C), nn.Linear(C, 5), make
        self.register_buffer("scale", torch.rand(C))

    def forward(self, x):
        h = self.one(x)
        h = h + self.make(self, h)
        return self.head((h + self.norm(self.two(h)).relu()).mean((2, 3)))


def frequencies(net, h):
    """As time steps are embedded: numbers alone, brought to where the image is."""
    half = torch.exp(-torch.arange(start=0, end=C // 2, dtype=torch.float32) / C)
    half = half.to(device=h.device)
    return torch.cat([torch.cos(half), torch.sin(half)])[:, None, None]


MADE = {
    "frequencies": frequencies,
    "of-sizes": lambda net, h: torch.linspace(0, 1, h.shape[-1]),
    "of-sizes-there": lambda net, h: torch.arange(h.shape[2], device=h.device)[:, None] * 0.1,
    "there": lambda net, h: torch.arange(C, device=h.device, dtype=h.dtype).view(1, -1, 1, 1),
    "of-a-list": lambda net, h: torch.tensor([0.5] * C).to(h.dtype).view(1, -1, 1, 1),
    "like-another": lambda net, h: torch.ones(C).type_as(h)[None, :, None, None],
    "to-another": lambda net, h: torch.arange(C).to(h)[None, :, None, None],
    "scale-to-another": lambda net, h: net.scale.to(h)[None, :, None, None],
    "read": lambda net, h: h * torch.linspace(0, 1, 4).tolist()[2],
}


# torch.fx of an older torch cannot trace these: its functions take no proxy as a size or a device.
BY_PROXIES = {"frequencies", "of-sizes", "of-sizes-there", "there"}


def torch_takes_proxies() -> bool:
    """Asks torch alone."""
    try:
        fx.symbolic_trace(Sized())
    except TypeError:
        return False
    return True


class Sized(nn.Module):
    def forward(self, x):
        return x + torch.arange(x.shape[-1], device=x.device)


def operated(name):
    torch.manual_seed(0)
    net = ready(Making(MADE[name]))
    made = attnsurgeon.insert(net, "cmpe-se", "residual-add", input_size=(3, 12, 10))
    assert len(made.plan) == 1
    return net, made


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("train", [False, True])
def test_a_block_that_makes_a_tensor_is_cut_and_starts_as_it_was(name, train):
    if name in BY_PROXIES and not torch_takes_proxies():
        with pytest.raises(SurgeonError, match=r"cannot be rewritten: TypeError"):
            operated(name)
        return
    net, made = operated(name)
    for size in ((2, 3, 12, 10), (3, 3, 9, 17)):
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(size, dtype=dtype)
            ours, theirs = made.model.to(dtype).train(train), net.to(dtype).train(train)
            assert torch.equal(ours(x), theirs(x)), (size, dtype)


def test_no_tensor_is_left_on_the_network_that_was_looked_at():
    net, _ = operated("frequencies" if torch_takes_proxies() else "of-a-list")
    assert not [name for name in (*vars(net), *net._buffers) if "constant" in name]


def test_noise_that_a_forward_makes_is_no_constant():
    net = Making(lambda net, h: torch.rand(C).view(1, -1, 1, 1))
    with pytest.raises(
        SurgeonError, match=r"that it draws or no attribute is \(test_makers.py:\d+\)"
    ):
        attnsurgeon.insert(net, "cmpe-se", "residual-add", input_size=(3, 12, 10))
