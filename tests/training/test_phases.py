"""The recipe of two phases, held against the same written by hand."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import param_groups
from attnsurgeon.training.phases import two_phases
from tests.training.steps import attention, moved, operated, state, steps

SGD = functools.partial(torch.optim.SGD, momentum=0.9)


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("make", [torch.optim.AdamW, SGD], ids=["AdamW", "SGD"])
def test_it_is_the_loop_that_one_would_write_by_hand(make):
    ours = operated()
    by_hand = copy.deepcopy(ours)
    rates: Any = {"new_lr": 3e-3, "weight_decay": 0.1, "layer_decay": 0.7}

    for epoch, optimizer in two_phases(ours, (2, 3), 1e-3, **rates, optimizer=make):
        steps(ours, optimizer, range(2 * epoch, 2 * epoch + 2))

    # By hand, of torch alone: nothing of the package but which parameters are in which group.
    optimizer = make(param_groups(by_hand, 1e-3, **rates))
    new = {n for n, _ in by_hand.named_parameters() if ".attn." in n}
    for name, parameter in by_hand.named_parameters():
        parameter.requires_grad_(name in new)
    for step in range(10):
        if step == 4:
            by_hand.requires_grad_(True)
        by_hand.train()
        for name, module in by_hand.named_modules():
            if step < 4 and isinstance(module, torch.nn.BatchNorm2d) and ".attn." not in name:
                module.eval()
        optimizer.zero_grad()
        x = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(step))
        by_hand(x).square().mean().backward()
        optimizer.step()
    assert same(ours, by_hand)


def test_each_phase_trains_what_it_says():
    model = operated()
    seen = []
    for epoch, optimizer in two_phases(model, (2, 2), 1e-3):
        before = state(model)
        steps(model, optimizer, range(2))
        seen.append((epoch, moved(model, before)))
    everything = set(model.state_dict())
    new = attention(model)
    assert seen == [(0, new), (1, new), (2, everything), (3, everything)]


def test_what_is_new_goes_on_with_the_moments_it_has():
    model = operated()
    optimizers = {id(optimizer) for _, optimizer in two_phases(model, (1, 1), 1e-3)}
    assert len(optimizers) == 1


@pytest.mark.parametrize(
    ("epochs", "frozen"), [((0, 2), []), ((2, 0), [0, 1]), ((1, 1), [0]), ((0, 0), [])]
)
def test_a_phase_may_be_left_out(epochs, frozen):
    model = operated()
    found = [
        epoch for epoch, _ in two_phases(model, epochs, 1e-3) if not model.fc.weight.requires_grad
    ]
    assert found == frozen


def test_a_network_that_was_frozen_before_learns_whole_in_the_second_phase():
    model = operated()
    freeze_backbone(model)
    for _, optimizer in two_phases(model, (1, 1), 1e-3):
        before = state(model)
        steps(model, optimizer, range(1))
    assert moved(model, before) == set(before)


def test_a_scheduler_made_in_the_first_epoch_is_right_for_both():
    model = operated()
    scheduler = None
    rates = []
    for _, optimizer in two_phases(model, (1, 2), 0.4, new_lr=0.8):
        scheduler = scheduler or torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        optimizer.step()
        scheduler.step()
    assert rates == [[0.4, 0.8], [0.2, 0.4], [0.1, 0.2]]


def test_what_is_to_be_kept_and_the_policy_are_handed_on():
    model = operated()
    (_, optimizer), *_ = two_phases(model, (1, 0), 1e-3, keep="fc", norm_statistics="updated")
    before = state(model)
    steps(model, optimizer, range(1))
    kept = {"fc.weight", "fc.bias"}
    assert {n for n in moved(model, before) if "running" not in n and "num_b" not in n} == (
        attention(model) | kept
    )
    assert any("running" in n for n in moved(model, before))


@pytest.mark.parametrize("epochs", [(2,), (1, 2, 3), (-1, 2), (1.5, 2)])
def test_what_are_no_two_numbers_of_epochs_is_refused_at_once(epochs):
    model = operated()
    with pytest.raises(UsageError, match="not two numbers"):
        two_phases(model, epochs, 1e-3)
    assert all(p.requires_grad for p in model.parameters())


def test_a_rate_that_is_none_is_refused_before_anything_is_frozen():
    model = operated()
    with pytest.raises(UsageError, match="lr=-1"):
        two_phases(model, (1, 1), -1)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(UsageError, match="no inserted attention"):
        two_phases(attnsurgeon.load_model("test_resnet"), (1, 1), 1e-3)


def test_a_pickle_of_an_earlier_version_is_released():
    """It named the function by which a norm was held as an attribute of this module."""
    from attnsurgeon.training import finetune

    model = operated()
    norm = model.conv1[1]
    norm.__dict__["train"] = functools.partial(finetune._stay_in_evaluation, norm)
    assert not norm.train().training
    unfreeze(model)
    assert norm.train().training
    assert "train" not in norm.__dict__
