"""What the tests of the engine share: survey a network, plan, operate a copy, run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.planning.plan import Plan, Request, plan_requests
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.recording.trace import trace
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.sites.survey import Survey, survey
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.splice import splice


def ready(net: nn.Module) -> nn.Module:
    """The network in eval mode with random norms: a zero-initialised one would hide everything."""
    randomise_norms(net)
    net.eval()
    return net


def surveyed(net: nn.Module, size: tuple[int, ...] = (3, 13, 11)) -> Survey:
    return survey(trace(net, (torch.empty(2, *size, device="meta"),)))


def paths(found: Survey, role: str) -> list[str]:
    return [site.path for site in found.sites if role in site.roles]


def plan_of(
    found: Survey,
    role: str = "residual-branch",
    *,
    attn: str | tuple[str, ...] = "eca",
    action: str = "insert-after",
    init: str = "identity",
    only: tuple[str, ...] = (),
    **args: Any,
) -> Plan:
    """Plans one mechanism, or several in the order of rules, at all sites of a role."""
    sites = [s for s in found.sites if role in s.roles and (not only or s.path in only)]
    names = (attn,) if isinstance(attn, str) else attn
    requests = [
        Request(f"rule-{i}", site, name, args, action, init)
        for i, name in enumerate(names)
        for site in sites
    ]
    return plan_requests(found, requests, attn="+".join(names), where=role, init=init)


def operated(net: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the network on which the plan has been carried out."""
    twin = full_twin(net)
    splice(twin, plan)
    return twin


def outputs(net: nn.Module, x: Tensor, *, train: bool = False) -> list[Tensor]:
    """What a copy of the network returns, always under the same dice."""
    twin = full_twin(net)
    twin.train(train)
    with torch.no_grad():
        return list(tensors_in(settled(lambda: twin(x), 7)))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def active(net: nn.Module, *names: str) -> nn.Module:
    """A copy in which the attention (of the given paths) no longer is the identity."""
    twin = full_twin(net)
    for path, module in inserted(twin):
        if not names or path in names:
            for parameter in module.parameters():
                parameter.data.add_(0.7)
    return twin


def ways(plan: Plan) -> dict[str, str]:
    """Site path -> how it is cut, or "refused"."""
    found = {
        site.path: cut.place.technique for cut in plan.cuts for site in (cut.site, *cut.shared)
    }
    return found | {refused.site.path: "refused" for refused in plan.refused}
