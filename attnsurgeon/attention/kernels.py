"""One kernel size -> one number an axis: clips have few frames, so kernels span few of them."""

from __future__ import annotations

FRAMES = 3


def kernel_along(kernel_size: int, rank: int) -> tuple[int, ...]:
    """Returns (k,), (k, k), or (3, k, k) for clips and volumes; never more than k an axis."""
    if rank < 3:
        return (kernel_size,) * rank
    return (min(FRAMES, kernel_size), kernel_size, kernel_size)


def around(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the padding that keeps the size where the kernel is odd, in numbers.

    Quantisers and converters refuse `padding="same"`, which is an operator of its own in a graph.
    """
    return tuple(k // 2 for k in kernel)
