"""What the tests of `gates` share: operated networks, and what their sites were handed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.looking.told import Gates
from attnsurgeon.operate import plan_rules
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import map_tensors
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.splice import splice
from tests.nets.families.segmenters import UNet
from tests.nets.stages import Stages

SIZE = (3, 26, 22)
# Of those whose own place is in MobileNets, or in the middle of more than two stages.
ELSEWHERE = {"coord": "residual-branch", "nl": "residual-block", "a2": "residual-block"}
ELSEWHERE |= {"bat": "residual-block"}
FOR_SKIPS = ("attention-gate",)  # which a classifier has none of
Handed = dict[str, tuple[tuple[Tensor, ...], Any]]


@functools.cache
def _surveyed(skips: bool) -> Survey:
    return analyse(_net(skips), SIZE)


def _net(skips: bool) -> nn.Module:
    with OwnDice():
        net = (UNet(transposed=False) if skips else Stages()).double().eval()
    randomise_norms(net)
    return net


def fresh(name: str, init: str = "identity", where: Any = None, **args: Any) -> nn.Module:
    """A small network in double precision with a mechanism at its own place."""
    where = ELSEWHERE.get(name, where)
    rules = rules_for(name, where, None, args, init, Narrowing())
    skips = name in FOR_SKIPS
    net = _net(skips)
    splice(net, plan_rules(_surveyed(skips), rules, init=init, where=""))
    return net


def operated(name: str, init: str = "paper", where: Any = None, **args: Any) -> nn.Module:
    """The same, whose attention no longer starts as anything in particular."""
    return stirred(fresh(name, init, where, **args))


def stirred(model: nn.Module) -> nn.Module:
    """The network with every weight and statistic of its attention moved."""
    generator = torch.Generator().manual_seed(5)
    for _, part in inserted(model):
        for name, tensor in part.state_dict().items():
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith(("var", "gamma")):
                tensor.copy_(drawn + 0.5)
            elif name.endswith(".g") or name == "g":
                tensor.fill_(0.3)
            elif tensor.is_floating_point():
                tensor.add_((drawn - 0.5).to(tensor.dtype))
    return model


def handed(model: nn.Module, x: Tensor) -> Handed:
    """Path of each inserted module -> what it is given and gives, by a plain run."""
    seen: Handed = {}
    hooks = []
    for path, part in inserted(model):

        def note(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            seen[path] = map_tensors((args, output), lambda t: t.detach().clone())

        runs = part.head if isinstance(part, Tapped) else part
        hooks.append(runs.register_forward_hook(note))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def image(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(batch, *SIZE, generator=generator, dtype=torch.float64)


@functools.cache
def _looked(name: str, init: str, args: tuple[tuple[str, Any], ...]) -> Any:
    model = operated(name, init, **dict(args))
    return model, attnsurgeon.gates(model, image()), handed(model, image())


def looked(name: str, init: str = "paper", **args: Any) -> tuple[nn.Module, Gates, Handed]:
    """An operated network, what `gates` says of an image, and what its sites were handed."""
    return _looked(name, init, tuple(args.items()))
