"""Fills a module's parameters and running statistics from their shapes alone.

The vectors in this folder were made by filling each author's own module in this way, so a module
that computes the same function from parameters of the same shapes gives the same output, whatever
its parameters are called. Dimensions of size 1 are dropped first: Linear (o, i) and
Conv2d (o, i, 1, 1) are filled alike.
"""

import zlib

import numpy as np
import torch
from torch import nn


def _normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)


def fill(module: nn.Module) -> nn.Module:
    """Returns `module` in eval mode, filled: matrices 0.1*N(0,1), vectors 0.5 + 0.1*N(0,1)."""
    with torch.no_grad():
        for _, p in module.named_parameters():
            shape = tuple(d for d in p.shape if d > 1)
            value = 0.1 * _normal("param " + ("x".join(map(str, shape)) or "1"), shape or (1,))
            value = value + 0.5 if len(shape) <= 1 else value
            p.copy_(torch.tensor(value, dtype=torch.float32).reshape(p.shape))
        for name, b in module.named_buffers():
            n = b.numel()
            if name.endswith("running_mean"):
                b.copy_(
                    torch.tensor(0.1 * _normal(f"mean {n}", (n,)), dtype=torch.float32).reshape(
                        b.shape
                    )
                )
            if name.endswith("running_var"):
                draw = np.random.RandomState(zlib.crc32(f"var {n}".encode()) & 0x7FFFFFFF).uniform(
                    size=n
                )
                b.copy_(torch.tensor(1 + 0.1 * draw, dtype=torch.float32).reshape(b.shape))
    return module.eval()
