"""What the tests of `gates` share: an operated network, and what its sites were handed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from tests.nets.stages import Stages

SIZE = (3, 26, 22)


def stirred(model: nn.Module) -> nn.Module:
    """The network, whose attention no longer starts as anything in particular."""
    generator = torch.Generator().manual_seed(5)
    for _, part in inserted(model):
        for name, tensor in part.state_dict().items():
            if not tensor.is_floating_point():
                continue
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith(("var", "gamma")):
                tensor.copy_(drawn + 0.5)
            elif name.endswith(".g") or name == "g":
                tensor.copy_(drawn * 0 + 0.3)
            else:
                tensor.add_((drawn - 0.5).to(tensor.dtype))
    return model


def operated(name: str, init: str = "paper", where: Any = None, **args: Any) -> nn.Module:
    """A small network in double precision with a mechanism at its own place, stirred."""
    net = Stages().double().eval()
    randomise_norms(net)
    where = "residual-branch" if name == "coord" else where  # its place is in MobileNets
    made = attnsurgeon.insert(net, name, where, attn_args=args, init=init, input_size=SIZE)
    return stirred(made.model)


def handed(model: nn.Module, x: Tensor) -> dict[str, tuple[tuple[Tensor, ...], Any]]:
    """Path of each inserted module -> what it is given and gives, by a plain run."""
    seen: dict[str, tuple[tuple[Tensor, ...], Any]] = {}
    hooks = []
    for path, part in inserted(model):
        runs = part.head if isinstance(part, Tapped) else part

        def note(module, args, output, path=path):
            seen[path] = (
                tuple(a.clone() for a in args),
                output.clone() if isinstance(output, Tensor) else output,
            )

        hooks.append(runs.register_forward_hook(note))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def image(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(batch, *SIZE, generator=generator, dtype=torch.float64)
