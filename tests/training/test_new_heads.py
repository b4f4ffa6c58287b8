"""A classifier that is new stays trainable beside frozen weights; the old one does not."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.models.provenance import Source, stamp
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import param_groups
from tests.saved import networks

HEAD = {"fc.weight", "fc.bias"}


def operated(**more: Any) -> Any:
    return attnsurgeon.insert(
        timm.create_model("test_resnet", **more), "se", "residual-branch"
    ).model


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def attention(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".attn" in name}


def with_layers(model: Any) -> set[str]:
    model.fc = nn.Sequential(nn.BatchNorm1d(model.num_features), nn.Linear(model.num_features, 7))
    return {"fc.0.weight", "fc.0.bias", "fc.1.weight", "fc.1.bias"}


def with_seven(model: Any) -> set[str]:
    model.reset_classifier(7)
    return HEAD


@pytest.mark.parametrize("renew", [with_seven, with_layers])
@pytest.mark.parametrize(
    "between",
    [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["itself", "deepcopy", "pickle"],
)
def test_a_head_that_was_reset_after_the_operation_stays_trainable(renew, between):
    model = operated()
    head = renew(model)
    model = between(model)
    freeze_backbone(model)
    assert trainable(model) == attention(model) | head
    groups = {g["name"]: {id(p) for p in g["params"]} for g in param_groups(model, 0.1, new_lr=0.2)}
    assert set(groups) == {"new", "new.no_decay"}
    unfreeze(model)
    assert trainable(model) == {name for name, _ in model.named_parameters()}


def test_the_norm_of_a_new_head_gathers_statistics_and_those_of_the_backbone_do_not():
    model = operated()
    with_layers(model)
    freeze_backbone(model)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(torch.randn(4, 3, 40, 52))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"fc.0.running_mean", "fc.0.running_var", "fc.0.num_batches_tracked"}


def test_a_head_that_was_there_is_frozen_and_one_operated_with_is_there():
    old = operated()
    freeze_backbone(old)
    assert trainable(old) == attention(old)
    made_before = timm.create_model("test_resnet")
    made_before.reset_classifier(7)
    model = attnsurgeon.insert(made_before, "se", "residual-branch").model
    freeze_backbone(model)  # nobody can tell that it is new: `keep` says so
    assert trainable(model) == attention(model)


def test_training_does_not_make_a_network_new():
    model = operated()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(torch.randn(2, 3, 40, 52)).sum().backward()
    optimiser.step()
    freeze_backbone(model.half().float())
    assert trainable(model) == attention(model)


def test_a_second_operation_leaves_a_new_head_new():
    model = operated()
    with_seven(model)
    second = attnsurgeon.insert(model, "eca", {"site": "stem"}).model
    freeze_backbone(second)
    assert trainable(second) == attention(second) | HEAD


def test_a_network_whose_attention_went_and_came_again_is_a_base_anew():
    model = operated()
    with_seven(model)
    attnsurgeon.remove(model)
    again = attnsurgeon.insert(model, "se", "residual-branch").model
    freeze_backbone(again)
    assert trainable(again) == attention(again)


def test_what_stands_around_the_operated_network_is_no_part_of_its_backbone():
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = operated(num_classes=0)
            self.head = nn.Linear(self.backbone.num_features, 3)

        def forward(self, x):
            return self.head(self.backbone(x))

    task = Task()
    freeze_backbone(task)
    assert trainable(task) == attention(task) | {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: nn.utils.parametrizations.weight_norm(model.fc) and model,
        lambda model: setattr(model, "layer1", torch.compile(model.layer1)) or model,
    ],
    ids=["weight norm", "compile"],
)
def test_another_name_for_an_old_tensor_does_not_make_it_new(wrap: Callable[[Any], Any]):
    model = wrap(operated())
    freeze_backbone(model)
    assert trainable(model) == attention(model)


# ------------------------------------------------------------------ weights that did not fit


def pretended(weights: str, num_classes: int) -> Any:
    """A network that says it was loaded with these weights, as `load_model` would say it."""
    model = timm.create_model("test_resnet", num_classes=num_classes)
    return stamp(model, Source("test_resnet", {"num_classes": num_classes}, weights))


@pytest.mark.parametrize(
    ("weights", "classes", "stays"),
    [
        ("pretrained", 7, True),
        ("pretrained", 1000, False),  # its own classes: the weights fit
        ("checkpoint mine.pth", 7, False),  # a checkpoint has to fit
        ("random", 7, False),  # all of it is random, and nothing newer than the rest
    ],
)
def test_a_head_that_pretrained_weights_did_not_fit_stays_trainable(weights, classes, stays):
    model = attnsurgeon.insert(pretended(weights, classes), "se", "residual-branch").model
    freeze_backbone(model)
    assert trainable(model) == attention(model) | (HEAD if stays else set())


def test_it_is_still_known_of_a_network_that_was_saved_and_loaded(tmp_path):
    operation = attnsurgeon.insert(pretended("pretrained", 7), "se", "residual-branch")
    model = attnsurgeon.load(operation.save(tmp_path / "out"))
    networks.assert_same(model, operation.model)
    freeze_backbone(model)
    assert trainable(model) == attention(model) | HEAD


# ------------------------------------------------------------------ saying so


@pytest.mark.parametrize("keep", ["fc", ["fc"], "fc.*", ("fc.weight", "fc.bias"), "f*"])
def test_what_is_to_be_kept_stays_trainable(keep):
    model = operated()
    freeze_backbone(model, keep=keep)
    assert trainable(model) == attention(model) | HEAD
    assert {g["name"] for g in param_groups(model, 0.1)} == {
        "base", "base.no_decay", "new", "new.no_decay",
    }  # fmt: skip


def test_a_part_that_is_kept_keeps_its_norms():
    model = operated()
    freeze_backbone(model, keep="layer4.*")
    norms = {n: m.train().training for n, m in model.named_modules()
             if isinstance(m, nn.BatchNorm2d)}  # fmt: skip
    assert all(training == name.startswith("layer4") for name, training in norms.items())
    assert trainable(model) - attention(model) == {
        n for n, _ in model.named_parameters() if n.startswith("layer4") and ".attn." not in n
    }


def test_a_later_call_may_keep_more_and_less():
    model = operated()
    model.fc.bias.requires_grad_(False)  # by its user, and for good
    freeze_backbone(model)
    freeze_backbone(model, keep=["fc", "layer4"])
    assert "fc.weight" in trainable(model)
    assert "fc.bias" not in trainable(model)
    assert model.get_submodule("layer4.0.bn1").train().training
    freeze_backbone(model)
    assert trainable(model) == attention(model)
    assert not model.get_submodule("layer4.0.bn1").train().training
    unfreeze(model)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"fc.bias"}


def test_a_name_that_the_network_does_not_have_is_answered_with_the_nearest():
    model = operated()
    with pytest.raises(UsageError, match="'layer5' is no module or parameter") as caught:
        freeze_backbone(model, keep=["fc", "layer5"])
    assert "layer" in str(caught.value.hint)
    assert trainable(model) == {name for name, _ in model.named_parameters()}  # nothing was done
