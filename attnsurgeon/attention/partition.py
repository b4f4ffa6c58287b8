"""Channels -> groups of one size, or a MechanismError that names a number of groups that works."""

from __future__ import annotations

from attnsurgeon.errors import MechanismError


def groups_of(channels: int, groups: int, *, parts: int = 1) -> int:
    """Returns `groups`, which have to divide the channels, each into `parts` of one size again."""
    if channels % (groups * parts):
        raise MechanismError(
            f"groups={groups} do not divide {channels} channels evenly"
            + (f" into {parts} parts each" if parts > 1 else ""),
            f"the largest number below that does is groups={most_groups(channels, groups, parts)}",
        )
    return groups


def heads_of(channels: int, heads: int) -> int:
    """Returns `heads`, which have to divide the channels."""
    if not 1 <= heads <= channels or channels % heads:
        limit = max(heads, 1)
        raise MechanismError(
            f"heads={heads} do not divide {channels} channels evenly",
            f"the largest number up to that which does is heads={most_groups(channels, limit)}",
        )
    return heads


def most_groups(channels: int, limit: int, parts: int = 1) -> int:
    """Returns the largest number of groups up to `limit` that divides the channels."""
    for groups in range(min(limit, channels // parts), 0, -1):
        if channels % (groups * parts) == 0:
            return groups
    raise MechanismError(
        f"{channels} channels do not divide into {parts} parts of one size",
        f"this mechanism is for multiples of {parts}",
    )
