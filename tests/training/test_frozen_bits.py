"""What is frozen does not move, bit for bit, whatever trains beside it."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm as timm_sync
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from tests.training.steps import attention, backward, images, moved, operated, state, steps

SGD = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=0.1, nesterov=True)
AdamW = functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
RMSprop = functools.partial(torch.optim.RMSprop, lr=1e-4, momentum=0.9, weight_decay=0.1)
OPTIMIZERS = pytest.mark.parametrize(
    "optimizer", [SGD, AdamW, RMSprop], ids=["SGD", "AdamW", "RMSprop"]
)
SYNC = pytest.mark.parametrize(
    "convert", [nn.SyncBatchNorm.convert_sync_batchnorm, timm_sync], ids=["torch", "timm"]
)


@OPTIMIZERS
def test_an_optimizer_that_trained_all_of_it_leaves_what_is_frozen_alone(optimizer):
    model = operated()
    optimizer = optimizer(model.parameters())
    steps(model, optimizer, range(2))  # momentum and moments of everything
    backward(model, 2)
    freeze_backbone(model)  # between a backward and its step
    before = state(model)
    optimizer.step()
    for step in range(3, 5):
        optimizer.zero_grad(set_to_none=False)  # zeros would be decayed
        backward(model, step)
        optimizer.step()
    assert moved(model, before) == attention(model)


@OPTIMIZERS
def test_it_would_have_moved_by_its_last_gradient_its_momentum_and_its_decay(optimizer):
    model = operated()
    optimizer = optimizer(model.parameters())
    steps(model, optimizer, range(2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".attn." in name)  # as it is usually done
    before = state(model)
    backward(model, 2)
    optimizer.step()
    assert {"fc.weight", "conv1.0.weight"} < moved(model, before)


def test_the_norm_of_all_gradients_is_that_of_what_learns():
    model = operated()
    backward(model, 0)
    everything = sum(p.grad.square().sum().item() for p in model.parameters()) ** 0.5
    own = [p.grad.square().sum().item() for n, p in model.named_parameters() if ".attn." in n]
    size = sum(own) ** 0.5
    freeze_backbone(model)
    clipped = nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    assert clipped == pytest.approx(size)
    assert size < everything


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("test_resnet", {"drop_rate": 0.3, "drop_path_rate": 0.3}),
        ("test_vit", {"drop_path_rate": 0.3, "proj_drop_rate": 0.2, "dynamic_img_pad": True}),
        pytest.param("test_convnext", {"drop_path_rate": 0.3}, marks=pytest.mark.slow),
        pytest.param("test_nfnet", {"drop_rate": 0.3}, marks=pytest.mark.slow),
    ],
)
def test_dropout_and_drop_path_go_on_and_move_nothing(name, more):
    model = operated(name, "eca", **more)
    freeze_backbone(model)
    before = state(model)
    optimizer = SGD(model.parameters())
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(images(0)), model(images(0)))
    steps(model, optimizer, range(3))
    assert moved(model, before) == attention(model)


@pytest.mark.parametrize(
    "average",
    [
        lambda model: AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
        ),
        lambda model: ModelEmaV3(model, decay=0.9, foreach=False),
        lambda model: ModelEmaV3(model, decay=0.9, foreach=True),
    ],
    ids=["torch", "timm", "timm foreach"],
)
@pytest.mark.parametrize("early", [True, False], ids=["before", "after"])
def test_an_average_of_the_weights_has_the_frozen_ones_as_they_are(average, early):
    model = operated()
    averaged = average(model) if early else None  # a copy of a network that is not frozen
    freeze_backbone(model)
    averaged = averaged or average(model)
    torchs = isinstance(averaged, AveragedModel)
    before = state(averaged.module)
    optimizer = AdamW(model.parameters())
    for step in range(3):
        steps(model, optimizer, range(step, step + 1))
        update = averaged.update_parameters if torchs else averaged.update
        update(model)
    assert moved(averaged.module, before) == attention(model)


# ------------------------------------------------------------------ statistics of norms


def statistics(model: nn.Module) -> set[str]:
    leaves = ("running_mean", "running_var", "num_batches_tracked")
    return {name for name in model.state_dict() if name.endswith(leaves)}


def test_statistics_that_are_to_be_updated_are_and_weights_are_not():
    model = operated()
    freeze_backbone(model, norm_statistics="updated")
    before = state(model)
    steps(model, SGD(model.parameters()), range(2))
    assert moved(model, before) == attention(model) | statistics(model)


def test_a_later_call_changes_the_policy():
    model = operated()
    freeze_backbone(model)
    freeze_backbone(model, norm_statistics="updated")
    assert all(m.training for m in model.modules())
    freeze_backbone(model)
    before = state(model)
    model.train()(images(0))
    assert moved(model, before) == set()


def test_unfrozen_weights_learn_beside_statistics_that_stay():
    model = operated()
    freeze_backbone(model)
    unfreeze(model, norm_statistics="frozen")
    before = state(model)
    steps(model, SGD(model.parameters()), range(2))
    assert moved(model, before) == set(before) - statistics(model)
    unfreeze(model)
    steps(model, SGD(model.parameters()), range(1))
    assert moved(model, before) == set(before)


def test_statistics_can_stay_without_having_been_frozen_with_the_weights():
    model = operated()
    unfreeze(model, norm_statistics="frozen")
    before = state(model)
    model.train()(images(0))
    assert moved(model, before) == set()


@pytest.mark.parametrize("average", [lambda m: m, AveragedModel], ids=["itself", "average"])
def test_statistics_gathered_for_averaged_weights_are_those_of_what_is_new(average):
    model = operated(attn="coord")
    freeze_backbone(model)
    model = average(model)
    before = state(model)
    update_bn([images(0), images(1)], model)
    new = {name for name in statistics(model) if ".attn." in name}
    assert moved(model, before) == new != set()
    unfreeze(model)
    update_bn([images(0), images(1)], model)
    assert moved(model, before) == statistics(model)
    assert all("reset_running_stats" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("call", [freeze_backbone, unfreeze])
def test_no_policy_is_answered_with_the_nearest(call):
    model = operated()
    with pytest.raises(UsageError, match="'froze' is neither") as caught:
        call(model, norm_statistics="froze")
    assert "'frozen'" in str(caught.value.hint)
    assert all(p.requires_grad for p in model.parameters())


# ------------------------------------------------------------------ norms that are replaced


@SYNC
@pytest.mark.parametrize(
    "between",
    [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_norms_stay_frozen_through_a_conversion(convert, between):
    model = operated()
    freeze_backbone(model)
    model = between(convert(between(model)))
    before = state(model)
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) > 5
    for train in (model, model.layer1, nn.Sequential(model)):
        train.train()
    assert not any(norm.training for norm in norms)
    steps(model, AdamW(model.parameters()), range(2))  # SyncBatchNorm trains on no CPU
    assert moved(model, before) == attention(model)
    assert model.eval().train().layer1[0].training

    unfreeze(model)
    assert all(m.train().training for m in model.modules())
    assert all("train" not in m.__dict__ for m in model.modules())


@SYNC
def test_norms_that_were_only_put_into_evaluation_come_back_from_it(convert):
    model = operated()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model = convert(model).train()
    assert all(m.training for m in model.modules() if isinstance(m, nn.SyncBatchNorm))


@SYNC
def test_norms_of_the_attention_are_converted_and_go_on_learning(convert):
    model = operated(attn="coord")
    freeze_backbone(model)
    model = convert(model).train()
    norms = {n: m.training for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert {n for n, training in norms.items() if training} == {n for n in norms if ".attn." in n}
    assert any(norms.values())


def test_a_train_of_ones_own_is_left_where_it_stands():
    model = operated()
    calls = []
    model.layer1.train = functools.partial(calls.append)
    freeze_backbone(model)
    model.layer1.train("called")
    assert calls == ["called"]
    unfreeze(model)
    assert "train" in model.layer1.__dict__


class Estimating(nn.Module):
    """A network whose weights are divided by an estimate that training refines."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv = norm(nn.Conv2d(3, 17, 3))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(17, 5)

    def forward(self, x):
        return self.head(self.drop(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "norm",
    [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm],
    ids=["parametrization", "hook"],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_estimates_of_spectral_norm_stay_as_well(norm):
    made: Any = attnsurgeon.insert(
        Estimating(norm), "eca", {"site": "conv"}, input_size=(3, 40, 52)
    ).model
    before = state(made)
    made.train()(images(0))
    assert len(moved(made, before)) == 2  # u and v
    freeze_backbone(made)
    before = state(made)
    steps(made, SGD(made.parameters()), range(2))
    assert moved(made, before) == {name for name in before if "attn" in name}
    assert made.drop.training
