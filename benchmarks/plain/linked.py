"""Two blocks one after the other, of which the first hands on to the second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DIA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

        def cell() -> nn.Sequential:
            m = channels // 4
            return nn.Sequential(
                nn.Linear(channels, m), nn.ReLU(inplace=True), nn.Linear(m, 4 * channels)
            )

        self.pool = nn.AdaptiveAvgPool2d(1)
        self.of_input, self.of_hidden = cell(), cell()

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        hidden = cell = torch.zeros(n, c, dtype=x.dtype, device=x.device)
        for _ in range(2):
            gates = self.of_input(self.pool(x).view(n, c)) + self.of_hidden(hidden)
            i, f, g, o = gates.chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.sigmoid(cell)
            x = x * hidden.view(n, c, 1, 1)
        return x


class DCA(nn.Module):
    """With an SE inside, the default."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.first, self.second = self.excite(channels), self.excite(channels)
        self.mix, self.norm = nn.Conv2d(2, 1, 1), nn.LayerNorm(channels)

    def excite(self, channels: int) -> nn.Sequential:
        m = channels // 16
        return nn.Sequential(nn.Linear(channels, m), nn.ReLU(inplace=True), nn.Linear(m, channels))

    def in_our_order(self) -> list[Tensor]:
        mixing = [*self.mix.parameters(), *self.norm.parameters()]
        return [*self.first.parameters(), *mixing, *self.second.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        own = self.pool(x).view(n, c)
        gate = torch.sigmoid(self.first(own))
        x, before = x * gate.view(n, c, 1, 1), own * gate
        own = self.pool(x).view(n, c)
        both = torch.cat([own.view(n, 1, 1, c), before.view(n, 1, 1, c)], dim=1)
        mixed = F.relu(self.norm(self.mix(both).view(n, c)))
        return x * torch.sigmoid(self.second(mixed)).view(n, c, 1, 1)


PLAIN: dict[str, type[nn.Module]] = {"dia": DIA, "dca": DCA}
