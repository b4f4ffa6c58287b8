"""Constructor arguments -> the width they mean, or a MechanismError that names one that works."""

from __future__ import annotations

from attnsurgeon.errors import MechanismError


def hidden_width(channels: int, reduction: int) -> int:
    """Returns C // reduction, the width of a squeeze, which has to leave at least one channel."""
    if not 1 <= reduction <= channels:
        raise MechanismError(
            f"reduction={reduction} leaves no hidden channel out of {channels}",
            f"the largest that works here is reduction={channels}",
        )
    return channels // reduction


def odd_kernel(size: int) -> int:
    """Returns `size`; an even kernel has no centre, so its output would be shifted and smaller."""
    if size < 1 or size % 2 == 0:
        raise MechanismError(
            f"kernel_size={size} has no centre",
            f"use an odd number, as kernel_size={abs(size) + 1}",
        )
    return size


def are_tokens(size: tuple[int, ...], rank: int) -> bool:
    """Says whether the sizes are those of a row of tokens, (L,), instead of a map of that rank."""
    return len(size) != rank


def map_size(size: tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """Returns the spatial sizes that a layer with a weight for every position is built for."""
    form = {1: "(L,)", 2: "(H, W)", 3: "(D, H, W)"}[rank]
    if size is None:
        raise MechanismError(
            "size is missing, and there is a weight for every position",
            f"give the map's size={form}; a plan takes it from the site",
        )
    if len(size) != rank:
        raise MechanismError(f"size={size} is no map of rank {rank}", f"give size={form}")
    return size
