"""Parameters in the arrangement of a mechanism's authors -> the same in ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.golden.fill import fill


def ulsam(module: Any) -> Any:
    """Returns `module` filled as the authors' code is, which has a set of modules a group."""
    g, c = module.point.shape
    layers = {"dws": nn.Conv2d(c, c, 1, groups=c), "bn_dws": nn.BatchNorm2d(c)}
    layers |= {"point": nn.Conv2d(c, 1, 1), "bn_point": nn.BatchNorm2d(1)}
    theirs = [fill(nn.ModuleDict(layers)).state_dict() for _ in range(g)]

    def of_all_groups(name: str) -> torch.Tensor:
        return torch.cat([group[name].flatten() for group in theirs])

    own = {"weight": "dws.weight", "bias": "dws.bias", "point_bias": "point.bias"}
    for ours, norm in (("norm", "bn_dws"), ("point_norm", "bn_point")):
        for part in ("weight", "bias", "running_mean", "running_var"):
            own[f"{ours}.{part}"] = f"{norm}.{part}"
    state = module.state_dict() | {name: of_all_groups(theirs) for name, theirs in own.items()}
    state["point"] = of_all_groups("point.weight").reshape(g, c)
    module.load_state_dict(state, strict=True)
    return module.eval()


def csra(module: Any) -> Any:
    """Returns `module` filled as the authors' code is, which has a layer for each head."""
    heads, classes, channels = module.weight.shape
    theirs = fill(nn.Linear(channels, classes, bias=False)).get_parameter("weight")
    module.load_state_dict({"weight": theirs.expand(heads, -1, -1)}, strict=True)
    return module.eval()


def dynamic(module: Any, *, rows: bool = False) -> Any:
    """Returns `module` filled as the authors' code is, which has all kernels in one parameter.

    Args:
        rows: whether each kernel is a row of it.
    """
    fill(module)
    own, others = module.conv.weight, module.excitation.experts.kernels
    shape = (own.numel(),) if rows else own.shape
    theirs = nn.ParameterDict({"weight": torch.empty(len(others) + 1, *shape)})
    first, *rest = fill(theirs).get_parameter("weight").detach()
    with torch.no_grad():
        own.copy_(first.view_as(own))
        others.copy_(torch.stack(rest).view_as(others))
    return module.eval()


# Every other mechanism's parameters have the shapes of its authors', and are filled as they are.
FILL: dict[str, Callable[[Any], Any]] = {
    "ulsam": ulsam,
    "csra": csra,
    "odconv": dynamic,
    "dyconv": dynamic,
    "condconv": functools.partial(dynamic, rows=True),
}
