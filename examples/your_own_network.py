"""Operate a network of your own: no registration, no base class, no change to your code."""

import torch
from torch import Tensor, nn

import attnsurgeon


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(x + y)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList([Block(24) for _ in range(3)])
        self.classify = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(x.mean((2, 3)))


def main() -> None:
    torch.manual_seed(0)
    network = Network().eval()
    operation = attnsurgeon.insert(network, "cbam", "residual-branch", input_size=(3, 40, 56))
    operated = operation.model
    x = torch.randn(2, 3, 40, 56)

    assert isinstance(operated, Network)
    assert all(isinstance(block, Block) for block in operated.blocks)
    assert set(network.state_dict()) < set(operated.state_dict())
    assert torch.equal(operated(x), network(x))
    print(f"{len(operation.plan)} CBAM gates in, outputs bit-equal, still a Network:")
    print(operated.blocks[0])


if __name__ == "__main__":
    main()
