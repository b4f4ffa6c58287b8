"""What a start as identity asks of training: gradients in proportion to the network's own."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnsurgeon.asked import rules_for
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.registry import Mechanism, mechanisms
from attnsurgeon.operate import plan_rules
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.splice import splice
from tests.looking.operated import ELSEWHERE
from tests.nets.families.segmenters import UNet
from tests.nets.stages import Stages

SIZE = (3, 26, 22)
# The attention's gradient norm over the network's, in any of the first four steps. Of the native
# starts the largest is 0.1, that of a head with a loss of its own; what is amplified is at 0.4.
BOUND = 0.25
# Kernels beside a weight have that weight's own gradient times their shares, and the bound is the
# norm of these: of a softmax at most 1, and at its temperature of 30 three quarters; of seven gates
# at one half each.
KERNELS = {"odconv": 1.0, "dyconv": 1.05 * 3**0.5 / 4, "condconv": 1.05 * 7**0.5 / 2}
FAST = ("srm", "scse")  # what was amplified, and the largest of the gates


@functools.cache
def surveyed(skips: bool) -> Survey:
    return analyse(based(skips), SIZE)


def based(skips: bool) -> nn.Module:
    """Returns a small network: a residual one, or for what gates skips one that has them."""
    return (UNet(transposed=False) if skips else Stages()).double()


def grown(name: str, steps: int = 4) -> list[float]:
    """Returns that ratio at each step of gradient descent, in a small residual network."""
    skips = name == "attention-gate"
    with OwnDice():
        net = based(skips)
    rules = rules_for(name, ELSEWHERE.get(name), None, {}, "identity", Narrowing())
    torch.manual_seed(0)
    splice(net, plan_rules(surveyed(skips), rules, init="identity", where=""))
    new = {p for _, part in inserted(net) for p in part.parameters()}
    old = [p for p in net.parameters() if p not in new]
    x = torch.randn(8, *SIZE, dtype=torch.float64)
    labels = torch.randint(2 if skips else 10, (8,))
    descent = torch.optim.SGD(net.parameters(), lr=1e-3)
    found = []
    for _ in range(steps):
        descent.zero_grad()
        scores = net.train()(x)
        F.cross_entropy(scores.flatten(2).mean(2) if skips else scores, labels).backward()
        found.append(norm(new) / norm(old))
        descent.step()
    return found


def norm(parameters) -> float:
    """Returns the norm of all their gradients together."""
    return sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name, card in mechanisms().items()
    ],
)
def test_no_start_has_a_gradient_out_of_proportion(name):
    assert max(grown(name)) < KERNELS.get(name, BOUND)


def test_zeros_before_a_batch_norm_are_out_of_proportion(monkeypatch):
    """As SRM's authors start it, with the gates opened: bit-equal as well."""

    def started(module: nn.Module, replaced: nn.Module | None) -> nn.Module:
        return native(how="").start(module, replaced)

    card = dataclasses.replace(mechanisms()["srm"], start=started)
    monkeypatch.setitem(known(), "srm", card)
    assert min(grown("srm")) > BOUND


def known() -> dict[str, Mechanism]:
    """Returns the table that every lookup reads."""
    from attnsurgeon.attention import registry

    return registry._TABLE
