"""Freezing, groups and optimizers of a network that is wrapped before or after it is operated."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import param_groups
from attnsurgeon.training.optimizers import update_optimizer
from tests.training.steps import attention, operated, steps


class Task(nn.Module):
    """A task around a network, with a parameter of its own before it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.net = net

    def forward(self, x):
        return self.net(x) * self.scale.mean()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


Wrap = Callable[[nn.Module], Any]
WRAPS: dict[str, Wrap] = {
    "compile": compiled,
    "parallel": nn.DataParallel,
    "sequential": nn.Sequential,
    "task": Task,
    "parallel task": lambda model: nn.DataParallel(Task(model)),
}
wraps = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def every(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


# ------------------------------------------------------------------ frozen here, unfrozen there


@wraps
@pytest.mark.parametrize("outer_first", [False, True])
def test_what_is_frozen_inside_is_unfrozen_from_around_and_the_other_way(wrap, outer_first):
    model = operated()
    around = wrap(model) if outer_first else None
    freeze_backbone(model if around is None else around)
    assert trainable(model) == attention(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    unfreeze(wrap(model) if around is None else model)
    assert trainable(model) == every(model)
    model.train()
    assert all(norm.training for norm in norms)


@wraps
def test_what_never_learnt_does_not_learn_after_either(wrap):
    model = operated()
    model.conv1[0].weight.requires_grad_(False)
    freeze_backbone(model)
    unfreeze(wrap(model))
    assert trainable(model) == every(model) - {"conv1.0.weight"}


def test_a_part_is_unfrozen_alone_and_the_rest_after_it():
    model = operated()
    freeze_backbone(model)
    unfreeze(model.layer4)
    assert trainable(model) == attention(model) | {n for n in every(model) if n[:6] == "layer4"}
    unfreeze(model)
    assert trainable(model) == every(model)


@pytest.mark.parametrize("repeat", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_frozen_network_is_unfrozen_from_around_it(repeat):
    model = operated()
    freeze_backbone(model)
    twin = repeat(model)
    unfreeze(nn.Sequential(twin))
    assert trainable(twin) == every(twin)
    assert trainable(model) == attention(model)


@pytest.mark.parametrize("outer", [False, True])
def test_norms_that_were_converted_in_between_are_unfrozen(outer):
    model = operated()
    around = nn.Sequential(model)
    freeze_backbone(around if outer else model)
    nn.SyncBatchNorm.convert_sync_batchnorm(around)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert trainable(model) == attention(model)
    unfreeze(model if outer else around)
    assert trainable(model) == every(model)


class Adapted(nn.Module):
    """As adapters wrap a layer: the layer inside, and a way beside it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Conv2d(layer.in_channels, 1, 1, stride=layer.stride, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_A(x)


def test_a_layer_that_an_adapter_wrapped_is_no_new_one():
    model = operated()
    freeze_backbone(model)
    block = model.layer1[0]
    block.conv1 = Adapted(block.conv1)
    name = "layer1.0.conv1"
    freeze_backbone(model)  # as callbacks do, in every epoch
    assert trainable(model) == attention(model) | {f"{name}.lora_A.weight"}
    unfreeze(model)
    assert trainable(model) == every(model)
    groups = {g["name"]: g for g in param_groups(model, 1e-4, new_lr=1e-3)}
    held = {key: {id(p) for p in group["params"]} for key, group in groups.items()}
    assert id(block.conv1.base_layer.weight) in held["base"]
    assert id(block.conv1.lora_A.weight) in held["new"]


class Named(nn.Module):
    """A network that calls a part of its own what adapters call a layer, as DLA does."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.last(self.base_layer(x)).mean((2, 3))


@pytest.mark.parametrize("wrap", [compiled, lambda model: model], ids=["compile", "alone"])
def test_a_network_may_have_a_part_of_a_wrappers_name(wrap):
    made = attnsurgeon.insert(Named(), "eca", ["base_layer.2"], input_size=(3, 8, 8)).model
    model = wrap(made)
    freeze_backbone(model)
    assert {name.removeprefix("_orig_mod.") for name in trainable(model)} == attention(made)
    made.base_layer[0] = Adapted(made.base_layer[0])  # under both names at once
    freeze_backbone(model)
    assert (
        len(trainable(model) - {f"_orig_mod.{n}" for n in attention(made)} - attention(made)) == 1
    )


@pytest.mark.parametrize("compute", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_a_weight_that_is_computed_since_is_frozen_and_unfrozen_through_what_it_is_computed_from(
    compute,
):
    model = operated()
    freeze_backbone(model)
    compute(model.fc)
    freeze_backbone(model)
    assert trainable(model) == attention(model)
    unfreeze(model)
    assert trainable(model) == every(model)


# ------------------------------------------------------------------ DDP


@pytest.fixture
def processes(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_a_ddp_that_was_made_of_a_frozen_network_would_not_average_what_is_unfrozen(processes):
    model = operated()
    freeze_backbone(model)
    spread = DistributedDataParallel(model)
    with pytest.raises(UsageError, match="DDP was made while the backbone was frozen"):
        unfreeze(spread)
    assert trainable(model) == attention(model)
    unfreeze(spread.module)
    unfreeze(DistributedDataParallel(model))
    assert trainable(model) == every(model)


def test_a_ddp_that_was_made_before_averages_all_of_it(processes):
    model = operated()
    spread = DistributedDataParallel(model, find_unused_parameters=True)
    freeze_backbone(spread)
    assert trainable(model) == attention(model)
    unfreeze(spread)
    assert trainable(model) == every(model)


def test_a_ddp_that_ignores_a_part_does_not_miss_it(processes):
    model = operated()
    ignored: Any = DistributedDataParallel
    ignored._set_params_and_buffers_to_ignore_for_model(model, ["fc.weight"])
    spread = DistributedDataParallel(model, find_unused_parameters=True)
    freeze_backbone(spread)
    unfreeze(spread)
    assert trainable(model) == every(model)


# ------------------------------------------------------------------ optimizers


def as_it_is(model: Any) -> Any:
    return model


EVERY = {"plain": as_it_is, **WRAPS}


@pytest.mark.parametrize("around", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("wrap", EVERY.values(), ids=EVERY)
def test_moments_are_kept_whichever_of_the_two_networks_is_wrapped(wrap, around):
    base = attnsurgeon.load_model("test_resnet")
    before = wrap(base)
    optimizer = torch.optim.SGD(before.parameters(), lr=0.01, momentum=0.9)
    for parameter in before.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = {n: optimizer.state[p]["momentum_buffer"] for n, p in base.named_parameters()}

    model = attnsurgeon.insert(base, "se", "residual-branch").model
    whole = around(model)
    update_optimizer(optimizer, whole, before=before)
    for name, parameter in model.named_parameters():
        kept = optimizer.state.get(parameter, {}).get("momentum_buffer")
        assert kept is moments.get(name)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in whole.parameters()]


def parallel_task(model: nn.Module) -> Any:
    return nn.DataParallel(Task(model))


@pytest.mark.parametrize(
    ("wrap", "around"), [(parallel_task, Task), (Task, parallel_task)], ids=["off", "on"]
)
def test_a_task_around_both_keeps_its_moments_too(wrap, around):
    base = attnsurgeon.load_model("test_resnet")
    before = wrap(base)
    optimizer = torch.optim.SGD(before.parameters(), lr=0.01, momentum=0.9)
    for parameter in before.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    whole = around(attnsurgeon.insert(base, "se", "residual-branch").model)
    update_optimizer(optimizer, whole, before=before)
    scale = next(p for name, p in whole.named_parameters() if name.endswith("scale"))
    assert "momentum_buffer" in optimizer.state[scale]


def test_a_network_of_before_that_is_another_is_refused():
    base = attnsurgeon.load_model("test_resnet")
    model = attnsurgeon.insert(base, "se", "residual-branch").model
    other = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="no parameter of a name that this one has"):
        update_optimizer(torch.optim.SGD(other.parameters(), lr=1.0), model, before=other)


def test_a_resumed_run_finds_every_state_where_the_optimizer_left_it():
    base = attnsurgeon.load_model("test_resnet")

    def made(model: nn.Module) -> torch.optim.Optimizer:
        plain = [p for p in model.parameters() if p.dim() <= 1]
        rest = [p for p in model.parameters() if p.dim() > 1]
        return torch.optim.AdamW([{"params": rest}, {"params": plain, "weight_decay": 0.0}])

    optimizer = made(base)
    steps(base, optimizer, range(1))
    model = attnsurgeon.insert(base, "se", "residual-branch").model
    update_optimizer(optimizer, model, before=base)
    steps(model, optimizer, range(1, 3))

    resumed = copy.deepcopy(model)
    again = made(resumed)
    again.load_state_dict(optimizer.state_dict())
    named = dict(model.named_parameters())
    for name, parameter in resumed.named_parameters():
        ours, theirs = again.state[parameter], optimizer.state[named[name]]
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])
        assert ours["step"] == theirs["step"]


def test_an_order_of_the_users_own_stays_and_what_is_new_stands_behind_it():
    base = attnsurgeon.load_model("test_resnet")
    backwards = [*base.parameters()][::-1]
    optimizer = torch.optim.SGD(backwards, lr=0.1)
    model = attnsurgeon.insert(base, "se", "residual-branch", inplace=True).model
    update_optimizer(optimizer, model)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"][: len(backwards)]] == [id(p) for p in backwards]
