"""One mechanism at its own placement -> what of the pretrained network is left before training."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from benchmarks.pretrained import material
from benchmarks.pretrained.measures import agreement, logits

BRANCHES = ("se", "eca", "cbam", "triplet", "coord")


def jobs(seed: int) -> list[str]:
    """Every mechanism from both starts; as the identity, which is exact, with one seed only.

    `se@residual-branch` is SE there and not at its own placement: in blocks with a shortcut only.
    """
    import attnsurgeon

    names = [*attnsurgeon.mechanisms(), *(f"{attn}@residual-branch" for attn in BRANCHES)]
    inits = ("identity", "paper") if seed == 0 else ("paper",)
    return [f"start|{name}|{init}|{seed}" for init in inits for name in names]


def measured(name: str, init: str, seed: int) -> dict[str, Any]:
    """Operates the network and compares its answers to the photographs."""
    import attnsurgeon

    attn, _, where = name.partition("@")
    torch.manual_seed(seed)
    try:
        operation = attnsurgeon.insert(material.network(), attn, where or None, init=init)
    except attnsurgeon.SurgeonError as error:
        return {"refused": error.what}
    ours, theirs = logits(operation.model, material.photographs(), 5), _original()
    found = {
        "sites": len(tuple(operation.plan)),
        "params": operation.cost.delta.params,
        "equal": torch.equal(ours, theirs),
        "agreement": agreement(ours, theirs),
    }
    if seed == 0:
        found["problems"] = list(operation.verify().problems)
    return found


@functools.cache
def _original() -> Tensor:
    return logits(material.network(), material.photographs(), 5)
