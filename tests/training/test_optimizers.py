"""An optimizer that goes on with the operated network, held against one that never stopped."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import UsageError
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import not_decayed, param_groups
from attnsurgeon.training.optimizers import update_optimizer
from tests.training.steps import attention, backward, moved, operated, state, steps

SGD = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=0.1)
AdamW = functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
OPTIMIZERS = pytest.mark.parametrize("make", [SGD, AdamW], ids=["SGD", "AdamW"])


@functools.cache
def _based() -> nn.Module:
    model = attnsurgeon.load_model("test_resnet")
    randomise_norms(model)
    return model


def based() -> Any:
    return copy.deepcopy(_based())


def with_attention(model: nn.Module, **how: Any) -> Any:
    return attnsurgeon.insert(model, "eca", "residual-branch", **how).model


def held(optimizer: Any) -> list[int]:
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


def group_of(optimizer: Any, model: nn.Module) -> dict[str, int]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: at
        for at, group in enumerate(optimizer.param_groups)
        for p in group["params"]
        if id(p) in names
    }


@OPTIMIZERS
@pytest.mark.parametrize("inplace", [True, False])
def test_the_backbone_goes_on_as_if_nothing_had_been_inserted(make, inplace):
    base = based()
    optimizer = make(base.parameters())
    steps(base, optimizer, range(2))
    alone = copy.deepcopy((base, optimizer))
    model = with_attention(base, inplace=inplace)
    added = update_optimizer(optimizer, model, before=None if inplace else base)

    assert set(added) == attention(model)
    assert sorted(held(optimizer)) == sorted(id(p) for p in model.parameters())
    steps(*alone, range(2, 4))
    with torch.no_grad():  # attention that stays the identity leaves all gradients as they were
        start = [(p, p.clone()) for n, p in model.named_parameters() if n in added]
    for step in range(2, 4):
        steps(model, optimizer, range(step, step + 1))
        assert not all(torch.equal(parameter, value) for parameter, value in start)  # it learns
        with torch.no_grad():
            for parameter, value in start:
                parameter.copy_(value)
    for name, value in alone[0].state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@OPTIMIZERS
def test_a_new_optimizer_would_not_have_gone_on_like_that(make):
    base = based()
    optimizer = make(base.parameters())
    steps(base, optimizer, range(2))
    alone = copy.deepcopy((base, optimizer))
    steps(base, make(base.parameters()), range(2, 4))
    steps(*alone, range(2, 4))
    assert not torch.allclose(base.conv1[0].weight, alone[0].conv1[0].weight, rtol=1e-4, atol=1e-5)


def test_without_it_the_optimizer_would_train_the_network_of_before():
    base = based()
    optimizer = SGD(base.parameters())
    model = with_attention(base)
    before = state(model)
    steps(model, optimizer, range(1))
    assert not any(n.endswith("weight") for n in moved(model, before))


@OPTIMIZERS
def test_the_state_is_moved_and_not_copied(make):
    base = based()
    optimizer = make(base.parameters())
    steps(base, optimizer, range(2))
    kept = {n: copy.deepcopy(optimizer.state[p]) for n, p in base.named_parameters()}
    model = with_attention(base)
    added = update_optimizer(optimizer, model, before=base)
    assert len(optimizer.state) == len(kept)
    for name, parameter in model.named_parameters():
        if name in added:
            assert parameter not in optimizer.state
            continue
        for key, value in kept[name].items():
            assert torch.equal(
                torch.as_tensor(optimizer.state[parameter][key]), torch.as_tensor(value)
            )
    assert update_optimizer(optimizer, model) == ()  # a second call finds nothing to do


def test_it_is_saved_and_loaded_like_one_made_for_the_network():
    base = based()
    optimizer = AdamW(base.parameters())
    steps(base, optimizer, range(1))
    model = with_attention(base)
    update_optimizer(optimizer, model, before=base)
    steps(model, optimizer, range(1, 2))
    again = AdamW([{"params": list(g["params"])} for g in optimizer.param_groups])
    again.load_state_dict(optimizer.state_dict())
    twin = copy.deepcopy(model)
    steps(model, again, range(2, 3))
    assert moved(model, twin.state_dict()) == set(twin.state_dict())


# ------------------------------------------------------------------ which group


def test_new_parameters_join_the_group_of_their_place_that_is_decayed_like_them():
    base = based()
    layers = [f"layer{i}" for i in range(1, 5)]
    parts = [base.conv1, *(base.get_submodule(name) for name in layers), base.fc]
    groups = []
    plain = {id(p) for p in base.parameters() if p.dim() == 1}
    for at, part in enumerate([*parts, base.bn1] if hasattr(base, "bn1") else parts):
        decayed = [p for p in part.parameters() if id(p) not in plain]
        others = [p for p in part.parameters() if id(p) in plain]
        groups += [{"params": ps, "lr": 0.01 * (at + 1), "weight_decay": wd}
                   for ps, wd in ((decayed, 0.1), (others, 0.0)) if ps]  # fmt: skip
    optimizer = torch.optim.SGD(groups)
    model = attnsurgeon.insert(base, "se", "residual-branch", inplace=True).model
    count = len(optimizer.param_groups)
    added = update_optimizer(optimizer, model)

    assert len(optimizer.param_groups) == count
    found = group_of(optimizer, model)
    undecayed = not_decayed(model)
    for name in added:
        group = optimizer.param_groups[found[name]]
        stage = name.split(".")[0]
        assert group["lr"] == 0.01 * (2 + layers.index(stage))
        assert group["weight_decay"] == (0.0 if id(model.get_parameter(name)) in undecayed else 0.1)
    assert {optimizer.param_groups[found[n]]["weight_decay"] for n in added} == {0.0, 0.1}


def test_a_scheduler_goes_on_and_rules_the_new_ones():
    base = based()
    optimizer = SGD(base.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    steps(base, optimizer, range(1))
    scheduler.step()
    model = with_attention(base)
    update_optimizer(optimizer, model, before=base)
    steps(model, optimizer, range(1, 2))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3 / 4]
    assert {*group_of(optimizer, model)} == {n for n, _ in model.named_parameters()}


def test_names_of_parameters_stay_beside_them():
    base = based()
    optimizer = SGD(base.named_parameters())
    model = with_attention(base)
    update_optimizer(optimizer, model, before=base)
    (group,) = optimizer.param_groups
    ours = {id(p): n for n, p in model.named_parameters()}
    assert group["param_names"] == [ours[id(p)] for p in group["params"]]


# ------------------------------------------------------------------ what comes and goes


def test_a_classifier_that_was_replaced_takes_the_place_of_the_old_one():
    base = based()
    optimizer = SGD([
        {"params": base.fc.parameters(), "lr": 0.7},
        {"params": [p for n, p in base.named_parameters() if not n.startswith("fc")]},
    ])  # fmt: skip
    steps(base, optimizer, range(2))
    model = with_attention(base)
    model.reset_classifier(7)
    added = update_optimizer(optimizer, model, before=base)
    assert {"fc.weight", "fc.bias"} < set(added)
    assert {group_of(optimizer, model)[n] for n in ("fc.weight", "fc.bias")} == {0}
    assert sorted(held(optimizer)) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in optimizer.state} < {id(p) for p in model.parameters()}


def test_what_belongs_to_neither_network_is_left_alone():
    base = based()
    margin = nn.Parameter(torch.ones(3))
    optimizer = SGD([*base.parameters(), margin])
    model = with_attention(base)
    update_optimizer(optimizer, model, before=base)
    assert id(margin) in held(optimizer)


def test_tied_parameters_stay_one():
    base = based()
    convs = [m for m in base.modules() if isinstance(m, nn.Conv2d)]
    one, other = next(
        (a, b) for a in convs for b in convs if a is not b and a.weight.shape == b.weight.shape
    )
    other.weight = one.weight
    optimizer = SGD(base.parameters())
    model = with_attention(base)
    update_optimizer(optimizer, model, before=base)
    assert sorted(held(optimizer)) == sorted(id(p) for p in model.parameters())


def test_linked_attention_is_added_once():
    base = attnsurgeon.load_model("resnet18")
    optimizer = SGD(base.parameters())
    model = attnsurgeon.insert(base, "dia", "residual-branch").model
    added = update_optimizer(optimizer, model, before=base)
    assert len(added) == len(set(added))
    assert sorted(held(optimizer)) == sorted(id(p) for p in model.parameters())


def test_what_is_frozen_loses_its_gradient_and_what_is_unfrozen_is_added():
    model = operated()
    freeze_backbone(model)
    optimizer = AdamW(param_groups(model, 1e-3))
    assert len(held(optimizer)) == len(attention(model))
    unfreeze(model)
    added = update_optimizer(optimizer, model)
    assert set(added) == {n for n, _ in model.named_parameters()} - attention(model)
    assert sorted(held(optimizer)) == sorted(id(p) for p in model.parameters())

    backward(model, 0)
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)  # by hand, which leaves a gradient
    assert model.layer1[0].conv1.weight.grad is not None
    assert update_optimizer(optimizer, model) == ()
    before = state(model)
    optimizer.step()
    assert not any(n.startswith("layer1") for n in moved(model, before))


def test_frozen_parameters_are_not_added():
    base = based()
    optimizer = SGD(base.fc.parameters())
    model = with_attention(base, inplace=True)
    freeze_backbone(model, keep="fc")
    assert set(update_optimizer(optimizer, model)) == attention(model)


# ------------------------------------------------------------------ refusals


def test_an_optimizer_of_another_network_is_refused():
    base = based()
    optimizer = SGD(base.parameters())
    model = with_attention(base)  # a copy
    groups = copy.copy(optimizer.param_groups[0]["params"])
    with pytest.raises(UsageError, match="holds no parameter of this network") as caught:
        update_optimizer(optimizer, model)
    assert "before=" in str(caught.value.hint)
    assert optimizer.param_groups[0]["params"] == groups


def test_a_state_for_all_parameters_together_is_refused():
    model = operated()
    with pytest.raises(UsageError, match="one state for all"):
        update_optimizer(torch.optim.LBFGS(model.parameters()), model)


def test_a_network_without_attention_is_refused():
    base = based()
    optimizer = SGD(base.fc.parameters())
    with pytest.raises(UsageError, match="no inserted attention"):
        update_optimizer(optimizer, base)
    assert len(held(optimizer)) == 2
