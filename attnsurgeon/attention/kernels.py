"""One kernel size -> one number an axis: clips have few frames, so kernels span few of them."""

from __future__ import annotations

FRAMES = 3


def kernel_along(kernel_size: int, rank: int) -> tuple[int, ...]:
    """Returns (k, k), or (3, k, k) for clips and volumes; never more than k along any axis."""
    return (kernel_size,) * 2 if rank == 2 else (min(FRAMES, kernel_size), kernel_size, kernel_size)
