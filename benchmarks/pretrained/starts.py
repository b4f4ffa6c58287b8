"""One mechanism at its own placement -> what of the pretrained network is left before training."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from benchmarks.pretrained import material
from benchmarks.pretrained.measures import agreement, logits


def jobs(seed: int) -> list[str]:
    """Every mechanism from both starts; as the identity, which is exact, with one seed only."""
    import attnsurgeon

    inits = ("identity", "paper") if seed == 0 else ("paper",)
    return [f"start|{attn}|{init}|{seed}" for init in inits for attn in attnsurgeon.mechanisms()]


def measured(attn: str, init: str, seed: int) -> dict[str, Any]:
    """Operates the network and compares its answers to the photographs."""
    import attnsurgeon

    torch.manual_seed(seed)
    try:
        operation = attnsurgeon.insert(material.network(), attn, init=init)
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
