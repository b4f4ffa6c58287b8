"""The numbers of a checkpoint -> numbers of the kinds a network has, and what that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from attnsurgeon.errors import ModelError
from attnsurgeon.models.finding import shown

ACCEPTED = ("non-finite", "integers", "complex")  # what is refused unless it is asked for


def converted(
    state: Mapping[str, Tensor], own: Mapping[str, Any], accept: Collection[str], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors in the network's dtypes, and what has to be said of that.

    Args:
        state: by the network's names, in its shapes.
        own: the network's tensors.
        accept: kinds of numbers to take all the same.
        name: of the file.

    Raises:
        ModelError: some are of a kind that a network cannot have by right: complex or whole
            numbers in place of fractions, NaN or Inf.
    """
    made: dict[str, Tensor] = {}
    odd: dict[str, list[str]] = {kind: [] for kind in ACCEPTED}
    changed: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    for key, value in state.items():
        value, dtype = value.detach(), own[key].dtype
        value = value.to_dense() if value.layout is not torch.strided else value
        if (kind := _mismatch(value, dtype)) is not None:
            odd[kind].append(f"{shown(key)} ({_short(value.dtype)} into {_short(dtype)})")
        if (many := _not_finite(value)) is not None:
            odd["non-finite"].append(f"{shown(key)} ({many})")
        if value.dtype != dtype:
            changed[value.dtype, dtype] += 1
        made[key] = _to(value, dtype)
    notes = [
        f"{count} tensors of {_short(was)} converted to {_short(now)}"
        for (was, now), count in changed.items()
    ]
    for kind, found in odd.items():
        if not found:
            continue
        said = f"{len(found)} with {_WORDS[kind]}: {'; '.join(found[:5])}"
        said += f"; and {len(found) - 5} more" if len(found) > 5 else ""
        if kind not in accept:
            raise ModelError(
                f"{name} holds weights that no network should have, {said}",
                f"take them all the same with accept={kind!r}",
                command=f"take them all the same with --accept {kind}",
            )
        notes.append(f"taken as asked, {said}")
    return made, notes


_WORDS = {
    "non-finite": "NaN or Inf",
    "integers": "whole numbers where the network has fractions, or the reverse",
    "complex": "complex numbers where the network has real ones",
}


def _mismatch(value: Tensor, dtype: torch.dtype) -> str | None:
    if value.is_complex() and not dtype.is_complex:
        return "complex"
    fractions = dtype.is_floating_point or dtype.is_complex
    if fractions != (value.is_floating_point() or value.is_complex()):
        # Averages of weights average the counts of steps, too; 100.0 is 100.
        whole = value.is_floating_point() and bool((value == value.trunc()).all())
        return None if whole and not fractions else "integers"
    return None


def _not_finite(value: Tensor) -> str | None:
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return None
    wide = value.float() if value.element_size() < 2 else value
    if bool(torch.isfinite(wide).all()):
        return None
    return f"{int(torch.isnan(wide).sum())} NaN, {int(torch.isinf(wide).sum())} Inf"


def _to(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.is_complex() and not dtype.is_complex:
        value = value.real
    return value.to(dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
