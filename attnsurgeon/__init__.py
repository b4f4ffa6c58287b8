"""Model surgery for vision networks: add attention, keep the weights, know the price.

    operation = attnsurgeon.insert(attnsurgeon.load_model("resnet50"), "eca", "bottleneck")

Every name is imported when it is first used, so that `import attnsurgeon` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnsurgeon.errors import SurgeonError
from attnsurgeon.moved import install
from attnsurgeon.shown import drawn_by
from attnsurgeon.version import __version__

if TYPE_CHECKING:
    from attnsurgeon.attention.registry import create_attention, mechanisms
    from attnsurgeon.checks.auditing import audit
    from attnsurgeon.checks.status import Status, status
    from attnsurgeon.cost.measuring import measure
    from attnsurgeon.exporting.exports import export
    from attnsurgeon.grid.comparing import compare
    from attnsurgeon.looking.gates import gates
    from attnsurgeon.looking.heatmap import heatmap
    from attnsurgeon.looking.pruning import prune
    from attnsurgeon.looking.statistics import gate_statistics
    from attnsurgeon.models import load_model
    from attnsurgeon.operate import Operation, estimate, find_sites, insert, plan
    from attnsurgeon.planning.selection import Sites
    from attnsurgeon.saved.restore import load
    from attnsurgeon.saved.save import save
    from attnsurgeon.searching.suggesting import suggest
    from attnsurgeon.sites.site import Site
    from attnsurgeon.splicing.folding import fold
    from attnsurgeon.splicing.switching import disabled
    from attnsurgeon.splicing.thinning import remove
    from attnsurgeon.sweeping.sweeps import sweep
    from attnsurgeon.training.finetune import freeze_backbone, unfreeze
    from attnsurgeon.training.groups import param_groups
    from attnsurgeon.training.norms import recalibrate_norms
    from attnsurgeon.training.optimizers import update_optimizer
    from attnsurgeon.training.phases import two_phases
    from attnsurgeon.training.sharding import gathered, shard

install()
drawn_by("attnsurgeon.report.values")

_HOMES = {
    "Operation": "operate",
    "Site": "sites.site",
    "Sites": "planning.selection",
    "Status": "checks.status",
    "audit": "checks.auditing",
    "compare": "grid.comparing",
    "create_attention": "attention.registry",
    "disabled": "splicing.switching",
    "estimate": "operate",
    "export": "exporting.exports",
    "find_sites": "operate",
    "fold": "splicing.folding",
    "freeze_backbone": "training.finetune",
    "gathered": "training.sharding",
    "gate_statistics": "looking.statistics",
    "gates": "looking.gates",
    "heatmap": "looking.heatmap",
    "insert": "operate",
    "load": "saved.restore",
    "load_model": "models",
    "measure": "cost.measuring",
    "mechanisms": "attention.registry",
    "param_groups": "training.groups",
    "plan": "operate",
    "recalibrate_norms": "training.norms",
    "prune": "looking.pruning",
    "remove": "splicing.thinning",
    "save": "saved.save",
    "shard": "training.sharding",
    "status": "checks.status",
    "suggest": "searching.suggesting",
    "sweep": "sweeping.sweeps",
    "two_phases": "training.phases",
    "unfreeze": "training.finetune",
    "update_optimizer": "training.optimizers",
}

__all__ = [
    "Operation",
    "Site",
    "Sites",
    "Status",
    "SurgeonError",
    "__version__",
    "audit",
    "compare",
    "create_attention",
    "disabled",
    "estimate",
    "export",
    "find_sites",
    "fold",
    "freeze_backbone",
    "gate_statistics",
    "gates",
    "gathered",
    "heatmap",
    "insert",
    "load",
    "load_model",
    "measure",
    "mechanisms",
    "param_groups",
    "plan",
    "prune",
    "recalibrate_norms",
    "remove",
    "save",
    "shard",
    "status",
    "suggest",
    "sweep",
    "two_phases",
    "unfreeze",
    "update_optimizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attnsurgeon' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"attnsurgeon.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
