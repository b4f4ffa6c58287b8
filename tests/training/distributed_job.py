"""What torchrun starts in the tests: operated networks trained in several processes and in one.

    torchrun --nproc-per-node 2 -m tests.training.distributed_job WHAT ARGUMENTS

The first process prints one line of JSON for each result. Everything is in float64, so that a sum
in another order does not look like a difference.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted

TINY = f"{Path(__file__).parents[1] / 'cli' / 'tiny.py'}:net"
SIZE = (3, 64, 64)
BATCH = 6  # 1, 2 and 3 processes have equal parts of it
STEPS = 2
KEPT = (("resnet", "dia"), ("vit", "se"))


def resnet() -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, (2, 1, 1, 1), channels=(32, 32, 64, 64), stem_width=8, num_classes=5)


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=5
    )


def blocks_of(net: nn.Module) -> list[nn.Module]:
    if hasattr(net, "blocks"):
        return [*net.blocks]
    return [block for at in range(1, 5) for block in getattr(net, f"layer{at}")]


def base_of(kind: str) -> nn.Module:
    return {"resnet": resnet, "vit": vit}[kind]()


def operated(kind: str, attn: str, init: str, where: str | None = None, seed: int = 3) -> nn.Module:
    """The network with attention that does something: nothing of it stands at the identity."""
    torch.manual_seed(seed)
    net = base_of(kind)
    randomise_norms(net)
    args = {"dropout": 0.0} if attn == "bat" else None  # which each process draws for itself
    made = attnsurgeon.insert(net, attn, where, attn_args=args, init=init, input_size=SIZE).model
    for _, module in inserted(made):
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(100 + step)
    x = torch.randn(BATCH, *SIZE, generator=dice, dtype=torch.float64)
    return x, torch.randint(0, 5, (BATCH,), generator=dice)


def parts(count: int) -> list[slice]:
    each = BATCH // count
    return [slice(at * each, (at + 1) * each) for at in range(count)]


def alone(net: nn.Module, count: int) -> list[float]:
    """Losses of one process that takes the parts of the batch one after the other."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = sum(F.cross_entropy(net(x[at]), y[at]) for at in parts(count)) / count
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def together(net: nn.Module) -> list[float]:
    """The same where each process has its part."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(STEPS):
        x, y = batch(step)
        at = parts(dist.get_world_size())[dist.get_rank()]
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[at]), y[at])
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
    return losses


def spread(net: nn.Module, how: str) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return attnsurgeon.shard(net, blocks_of(net) if how == "blocks" else (), mesh=mesh)


def trained(net: nn.Module, how: str) -> tuple[list[float], nn.Module | None]:
    """Losses, and in the first process the whole network after training."""
    net = copy.deepcopy(net)
    if how == "ddp":  # find_unused_parameters=False: what gets no gradient ends in an error
        return together(DistributedDataParallel(net)), net
    losses = together(spread(net, how))
    return losses, attnsurgeon.gathered(net)


def compare(cases: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Each case in several processes and in one: how far losses and weights are apart."""
    for kind, attn, init, where, *hows in cases:
        net = operated(kind, attn, init, where or None)
        net.train()
        one = copy.deepcopy(net)
        expected = alone(one, dist.get_world_size())
        for how in hows:
            losses, whole = trained(net, how)
            result: dict[str, Any] = {"case": [kind, attn, init, how]}
            result["loss"] = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            if whole is not None:
                pairs = zip(whole.named_parameters(), one.named_parameters(), strict=True)
                result["names"] = [name for (name, _), (other, _) in pairs if name != other]
                result["weights"] = _apart(whole, one)
                result["moved"] = _apart(whole, net)
            yield result


def _apart(net: nn.Module, other: nn.Module) -> float:
    pairs = zip(net.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def step_on_all(net: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One step on the whole batch in every process: the same for any number of them."""
    x, y = batch(step)
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def write(folder: str) -> Iterator[dict[str, Any]]:
    """Trains networks, keeps checkpoints of the middle; yields the losses after it."""
    place = Path(folder)
    for kind, attn in KEPT:
        net = operated(kind, attn, "identity").train()
        spread(net, "blocks")
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for step in range(2):
            step_on_all(net, optimizer, step)
        state, optim = get_state_dict(net, optimizer)
        save_checkpoint({"model": state, "optim": optim}, checkpoint_id=place / f"{kind}-middle")
        whole = attnsurgeon.gathered(net)
        if whole is not None:
            attnsurgeon.save(whole, place / f"{kind}-whole")
        yield {"kind": kind, "losses": [step_on_all(net, optimizer, step) for step in (2, 3)]}


def read(folder: str) -> Iterator[dict[str, Any]]:
    """Goes on from these checkpoints, in however many processes there are now."""
    place = Path(folder)
    for kind, attn in KEPT:
        net = operated(kind, attn, "identity", seed=5).train()  # other weights, until they are read
        spread(net, "blocks")
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        state, optim = get_state_dict(net, optimizer)
        held = {"model": state, "optim": optim}
        load_checkpoint(held, checkpoint_id=place / f"{kind}-middle")
        set_state_dict(
            net, optimizer, model_state_dict=held["model"], optim_state_dict=held["optim"]
        )
        yield {"kind": kind, "losses": [step_on_all(net, optimizer, step) for step in (2, 3)]}


def adapter(folder: str) -> Iterator[dict[str, Any]]:
    """Trains the attention alone, and saves it alone."""
    torch.manual_seed(1)  # of other numbers no hidden unit of a gate may live, and nothing moves
    base = attnsurgeon.load_model(TINY, checkpoint=f"{folder}/base.pt")
    net = attnsurgeon.insert(base, "se", "residual-branch", input_size=(3, 40, 24)).model
    attnsurgeon.freeze_backbone(net)
    net.train()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    attnsurgeon.shard(net, [*net.blocks, net.late], mesh=mesh)
    learning = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.5)
    x = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(dist.get_rank()))
    before = [p.detach().full_tensor().clone() for p in learning]
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    moved = sum(
        not torch.equal(a, b.detach().full_tensor()) for a, b in zip(before, learning, strict=True)
    )
    whole = attnsurgeon.gathered(net)
    if whole is not None:
        attnsurgeon.save(whole, Path(folder) / "adapter", mode="adapter")
        back = attnsurgeon.load(
            Path(folder) / "adapter", checkpoint=f"{folder}/base.pt", trust=True
        )
        state = whole.state_dict()
        same = [torch.equal(value, state[name]) for name, value in back.state_dict().items()]
        yield {"moved": moved, "same": all(same), "keys": len(same)}
    else:
        yield {}


def main() -> None:
    what, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    made = {"write": write, "read": read, "adapter": adapter}
    results = compare(json.loads(arguments[0])) if what == "compare" else made[what](*arguments)
    for result in results:
        if dist.get_rank() == 0:
            print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
