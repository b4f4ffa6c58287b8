"""Classifiers of 1000 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 1000
EARLIER = (256, 512, 1024)  # channels of the stages before the last


class CSRA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, CLASSES, 1, bias=False)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.norm(self.head.weight, dim=1, keepdim=True).transpose(0, 1)
        score = (self.head(x) / norm).flatten(2)
        base = torch.mean(score, dim=2)
        attended = torch.sum(score * self.softmax(score), dim=2)
        return base + 0.1 * attended


class Interflow(nn.Module):
    """The votes side by side, and a convolution over as many of them as there are."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.vote = nn.Conv1d(1, 1, len(EARLIER) + 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifiers = nn.ModuleList(nn.Linear(c, CLASSES) for c in EARLIER)

    def forward(self, logits: Tensor, *maps: Tensor) -> Tensor:
        votes = [
            layer(self.pool(x).flatten(1)) for layer, x in zip(self.classifiers, maps, strict=True)
        ]
        rows = torch.stack([*votes, logits], dim=2)
        return self.vote(rows.view(-1, 1, rows.shape[2])).view(logits.shape)


PLAIN: dict[str, type[nn.Module]] = {"csra": CSRA, "interflow": Interflow}
