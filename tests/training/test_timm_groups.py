"""The groups of what a network had before its attention, held against timm's own functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import attnsurgeon
from attnsurgeon.splicing.history import inserted
from attnsurgeon.training.groups import param_groups
from attnsurgeon.training.layer_depth import layers_of
from tests.training.steps import images, operated

NETWORKS = pytest.mark.parametrize(
    ("name", "where"),
    [
        ("test_resnet", "residual-branch"),
        ("test_resnet", {"site": "stem"}),  # a pooling, registered between stem and blocks
        ("test_vit", {"site": "block"}),  # position embedding and class token by their names
        pytest.param("test_convnext", {"site": "stage"}, marks=pytest.mark.slow),
        pytest.param("test_efficientnet", {"site": "stage"}, marks=pytest.mark.slow),
        pytest.param("test_nfnet", {"site": "stage"}, marks=pytest.mark.slow),  # gains of four axes
        pytest.param("test_byobnet", {"site": "stage"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value["site"],
)


def rates(model: nn.Module, groups: Any, scale: str = "lr") -> dict[str, tuple[float, float]]:
    """Name -> rate and decay; fails where a parameter is in two groups."""
    names = {id(p): n for n, p in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found
            found[name] = (group.get(scale, 1.0), group["weight_decay"])
    return found


def listed(model: Any) -> Any:
    return model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()


def new(model: nn.Module) -> set[str]:
    prefixes = tuple(f"{path}." for path, _ in inserted(model))
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@NETWORKS
def test_what_was_there_is_grouped_by_name_and_value_as_timm_groups_it(name, where):
    base = attnsurgeon.load_model(name)
    model = attnsurgeon.insert(base, "cbam", where).model
    named = {n for n, _ in model.named_parameters()}
    excepted = listed(base)

    ours = rates(model, param_groups(model, 1.0, weight_decay=0.3))
    theirs = rates(base, param_groups_weight_decay(base, 0.3, no_weight_decay_list=excepted))
    assert {n: v for n, v in ours.items() if n not in new(model)} == theirs
    assert ours.keys() == named

    ours = rates(model, param_groups(model, 1.0, weight_decay=0.3, layer_decay=0.7))
    groups = param_groups_layer_decay(base, 0.3, no_weight_decay_list=excepted, layer_decay=0.7)
    theirs = rates(base, groups, "lr_scale")
    assert {n: v for n, v in ours.items() if n not in new(model)} == {
        n: (pytest.approx(rate, rel=1e-12), decay) for n, (rate, decay) in theirs.items()
    }
    assert len({rate for rate, _ in theirs.values()}) > 2
    assert ours.keys() == named


def test_frozen_parameters_change_no_rate_of_the_others():
    base = attnsurgeon.load_model("test_resnet")
    model = attnsurgeon.insert(base, "se", "residual-branch").model
    for net in (base, model):
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.startswith(("fc", "layer2", "conv1")))
    ours = rates(model, param_groups(model, 1.0, layer_decay=0.5, weight_decay=0.1))
    theirs = rates(base, param_groups_layer_decay(base, 0.1, layer_decay=0.5), "lr_scale")
    assert {n: v for n, v in ours.items() if n not in new(model)} == theirs


# ------------------------------------------------------------------ where attention stands


def test_attention_has_the_layer_of_its_place():
    layers = layers_of(operated("test_resnet"))
    assert layers["conv1.0.weight"] == 0
    for stage in range(1, 5):
        inside = {layer for name, layer in layers.items() if name.startswith(f"layer{stage}.0.")}
        assert inside == {stage}
    assert layers["fc.weight"] == 5


def test_attention_behind_a_pooling_has_the_layer_before_it():
    model = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "eca", {"site": "stem"}).model
    (name,) = new(model)
    assert name.startswith("maxpool.")  # it holds no parameter itself
    layers = layers_of(model)
    assert layers[name] == layers["conv1.0.weight"] == 0
    assert max(layers.values()) == 5


def test_attention_of_a_whole_stage_has_its_last_layer():
    model = attnsurgeon.insert(attnsurgeon.load_model("resnet18"), "eca", {"site": "stage"}).model
    layers = layers_of(model)
    found = {name: layer for name, layer in layers.items() if name in new(model)}
    assert sorted(found.values()) == [2, 4, 6, 8]  # two blocks a stage, behind the stem
    assert layers["fc.weight"] == 9


def test_attention_that_a_stage_shares_is_grouped_once_in_the_layer_of_its_last_place():
    model = attnsurgeon.insert(attnsurgeon.load_model("resnet18"), "dia", "residual-branch").model
    groups = param_groups(model, 1.0, layer_decay=0.5)
    found = rates(model, groups)
    shared = {n for n in new(model) if n.startswith("layer1.")}
    assert {n.rpartition(".attn.")[0] for n in shared} == {"layer1.0"}  # the first of its names
    assert {found[n] for n in shared} == {found["layer1.1.conv1.weight"]}
    assert found["layer1.0.conv1.weight"] != found["layer1.1.conv1.weight"]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


class Around(nn.Module):
    """A task around an operated network, with an argument that nobody can guess."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.stem_of_its_own = nn.Conv2d(3, 3, 1)
        self.backbone = backbone
        self.head = nn.Linear(7, 3)

    def forward(self, batch, temperature):
        return self.head(self.backbone(self.stem_of_its_own(batch["image"]))) / temperature


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_network_inside_another_is_grouped_like_the_one_by_itself(name):
    model = operated(name)
    model.reset_classifier(7)
    alone = rates(model, param_groups(model, 1.0, weight_decay=0.1, layer_decay=0.5))
    task = Around(model)
    inside = rates(task, param_groups(task, 1.0, weight_decay=0.1, layer_decay=0.5))
    prefix = "backbone."
    assert {n.removeprefix(prefix): v for n, v in inside.items() if n.startswith(prefix)} == alone
    outside = {n: v for n, v in inside.items() if not n.startswith(prefix)}
    assert {rate for rate, _ in outside.values()} == {1.0}  # new, and the last
    assert len(outside) == 4


def test_what_is_named_to_be_left_out_is_where_a_plain_rule_would_decay_it():
    model = operated("test_vit")
    found = rates(model, param_groups(model, 1.0, weight_decay=0.1))
    assert model.pos_embed.dim() > 1
    assert found["pos_embed"] == (1.0, 0.0)
    plain = copy.deepcopy(model)
    plain.no_weight_decay = lambda: set()
    assert rates(plain, param_groups(plain, 1.0, weight_decay=0.1))["pos_embed"] == (1.0, 0.1)


def test_every_group_learns_what_it_says():
    model = operated()
    groups = param_groups(model, 0.5, new_lr=0.25, layer_decay=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(groups)
    model.train()(images(0)).square().mean().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    optimizer.step()
    for name, (rate, _) in rates(model, groups).items():
        torch.testing.assert_close(
            model.get_parameter(name).detach(), before[name] - rate * grads[name]
        )


def test_a_part_of_a_network_that_names_what_is_not_decayed_is_not_asked_as_timm_does_not():
    base = attnsurgeon.load_model("edgenext_xx_small")
    model = attnsurgeon.insert(base, "eca", {"site": "stage"}).model
    name = "stages.1.blocks.1.xca.temperature"
    assert base.get_parameter(name).dim() > 1
    assert base.get_submodule("stages.1.blocks.1.xca").no_weight_decay() == {"temperature"}
    assert not hasattr(base, "no_weight_decay")
    ours = rates(model, param_groups(model, 1.0, weight_decay=0.3))
    theirs = rates(base, param_groups_weight_decay(base, 0.3))
    assert ours[name] == theirs[name] == (1.0, 0.3)
