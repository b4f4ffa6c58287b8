"""Freezing, unfreezing and parameter groups, held against what training really does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import SurgeonError, UsageError
from attnsurgeon.splicing.history import inserted
from attnsurgeon.training.finetune import freeze_backbone, unfreeze
from attnsurgeon.training.groups import param_groups
from tests.saved import networks


def operated(name: str = "test_resnet", attn: str = "se", **loading: Any) -> Any:
    model = attnsurgeon.load_model(name, **loading)
    return attnsurgeon.insert(model, attn, "residual-branch").model


def new_keys(model: nn.Module) -> set[str]:
    prefixes = tuple(f"{path}." for path, _ in inserted(model))
    return {key for key in model.state_dict() if key.startswith(prefixes)}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


def train(model: nn.Module, groups: list[dict[str, Any]], steps: int = 3) -> None:
    """Some steps in training mode, with fresh data each."""
    optimiser = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        optimiser.zero_grad()
        x = torch.randn(3, 3, 40, 52, generator=generator)
        model.train()
        model(x).square().mean().backward()
        optimiser.step()


def test_a_two_phase_fine_tune_trains_the_attention_and_then_everything():
    model = operated()
    randomise_norms(model)
    before = copy.deepcopy(model.state_dict())

    freeze_backbone(model)
    train(model, param_groups(model, 1e-3, weight_decay=0.05))
    # Every new parameter moved, and of the backbone nothing: no weight, statistic or counter.
    assert changed(model, before) == new_keys(model)

    middle = copy.deepcopy(model.state_dict())
    unfreeze(model)
    train(model, param_groups(model, 1e-3, weight_decay=0.05))
    assert changed(model, middle) == set(middle)


def test_without_freezing_the_statistics_would_have_moved():
    model = operated()
    before = copy.deepcopy(model.state_dict())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".attn." in name)
    train(model, [{"params": [p for p in model.parameters() if p.requires_grad]}])

    assert {k for k in changed(model, before) if "running_" in k}


def test_a_frozen_backbone_computes_in_training_as_in_evaluation():
    model = operated()
    randomise_norms(model)
    x = torch.randn(2, 3, 40, 52)
    calm = copy.deepcopy(model).eval()(x)

    freeze_backbone(model)
    assert model.training
    assert torch.equal(model(x), calm)  # at once, before anybody calls train()
    model.eval()
    model.train()
    assert torch.equal(model(x), calm)


def test_freezing_changes_no_module_key_or_text_and_leaves_the_attention_trainable():
    model = operated()
    before = copy.deepcopy(model)
    freeze_backbone(model)

    assert list(model.state_dict()) == list(before.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert repr(model) == repr(before)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == new_keys(model)  # SE has parameters only


@pytest.mark.parametrize(
    "repeat",
    [
        lambda model: model,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: freeze_backbone(model) or model,
        lambda model: model.eval().train().float(),
    ],
    ids=["itself", "deepcopy", "pickle", "twice", "modes"],
)
def test_a_frozen_network_stays_frozen_and_can_be_unfrozen(repeat: Callable[[Any], Any]):
    model = operated()
    model.fc.bias.requires_grad_(False)  # frozen by its user, before and for good
    modes = {path: module.training for path, module in model.named_modules()}
    freeze_backbone(model)
    model = repeat(model)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(torch.randn(2, 3, 40, 52))
    assert changed(model, before) == set()

    unfreeze(model)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"fc.bias"}
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert all("train" not in module.__dict__ for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_unfreezing_follows_the_mode_that_the_network_is_in():
    model = operated()
    freeze_backbone(model)
    model.eval()
    unfreeze(model)

    assert not any(module.training for module in model.modules())


def test_a_copy_of_a_frozen_network_is_frozen_on_its_own():
    model = operated()
    freeze_backbone(model)
    twin = copy.deepcopy(model)
    unfreeze(model)
    twin.train()

    ours, theirs = (
        [m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for net in (model, twin)
    )
    assert len(ours) > 5
    assert all(ours)
    assert not any(theirs)


def test_norms_of_the_attention_go_on_learning():
    model = operated(attn="coord")
    freeze_backbone(model)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(torch.randn(2, 3, 40, 52))

    statistics = {key for key in new_keys(model) if "running_" in key or "batches" in key}
    assert statistics
    assert changed(model, before) == statistics


class WithDropout(nn.Module):
    """A norm with a module inside it, and dropout beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 17, 3)
        self.norm = BatchNormAct2d(17, drop_layer=nn.Dropout)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(17, 5)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).mean((2, 3))))


def test_dropout_keeps_following_the_mode_even_inside_a_frozen_norm():
    model = attnsurgeon.insert(WithDropout(), "eca", {"site": "conv"}, input_size=(3, 20, 28)).model
    freeze_backbone(model)
    model.eval()
    model.train()

    assert not model.get_submodule("norm").training
    assert model.get_submodule("norm.drop").training
    assert model.get_submodule("drop").training
    assert model.train() is model
    assert model.get_submodule("norm").train() is model.get_submodule("norm")


def test_a_frozen_network_can_be_verified_saved_and_operated_again(tmp_path):
    spec = f"{networks.write(tmp_path)}:make"
    operation = networks.operated(spec, attn="eca", randomised=False)
    freeze_backbone(operation.model)

    assert operation.verify().problems == ()
    again = attnsurgeon.load(operation.save(tmp_path / "out"), trust=True)
    networks.assert_same(again, operation.model)
    second = attnsurgeon.insert(
        operation.model, "eca", {"site": "stem"}, input_size=(3, 20, 28)
    ).model
    freeze_backbone(second)
    assert {n for n, p in second.named_parameters() if p.requires_grad} == new_keys(second)


def test_training_the_attention_alone_keeps_an_adapter_possible(tmp_path):
    spec = f"{networks.write(tmp_path)}:published"
    operation = networks.operated(spec, pretrained=True, randomised=False)
    freeze_backbone(operation.model)
    train(operation.model, param_groups(operation.model, 1e-2))

    loaded = attnsurgeon.load(operation.save(tmp_path / "out", mode="adapter"), trust=True)
    networks.assert_same(loaded, operation.model)


@pytest.mark.parametrize(
    "call", [freeze_backbone, unfreeze, lambda model: param_groups(model, 0.1)]
)
def test_a_network_without_attention_is_refused(call):
    with pytest.raises(SurgeonError, match="no inserted attention") as caught:
        call(attnsurgeon.load_model("test_resnet"))
    assert caught.value.hint


def test_a_frozen_network_whose_attention_was_removed_can_be_unfrozen():
    model = operated()
    freeze_backbone(model)
    attnsurgeon.remove(model)
    unfreeze(model)

    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


# ------------------------------------------------------------------ parameter groups


def names_of(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}


def assert_each_once(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}


def test_groups_have_names_rates_and_decay():
    model = operated(attn="cbam")
    groups = param_groups(model, 0.02, weight_decay=0.3)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}

    assert_each_once(model, groups)
    assert list(found.items()) == [
        ("base", (0.02, 0.3)),
        ("base.no_decay", (0.02, 0.0)),
        ("new", (0.02, 0.3)),
        ("new.no_decay", (0.02, 0.0)),
    ]


def test_groups_print_as_a_table_of_their_rates():
    model = operated(attn="eca")
    text = str(param_groups(model, 1e-3, new_lr=2e-3, weight_decay=0.05))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["group", "lr", "weight", "decay", "tensors", "parameters"]
    assert [line[:3] for line in lines[1:]] == [
        ["base", "0.001", "0.05"],
        ["base.no_decay", "0.001", "0"],
        ["new", "0.002", "0.05"],
    ]
    sizes = [int(line[-1].replace(",", "")) for line in lines[1:]]
    assert sum(sizes) == sum(p.numel() for p in model.parameters())


def test_the_attention_learns_at_the_rate_that_is_given_unless_another_is_asked_for():
    assert {group["lr"] for group in param_groups(operated("test_resnet", "cbam"), 1e-3)} == {1e-3}


def test_new_parameters_get_the_rate_that_is_asked_for():
    groups = param_groups(operated(), 0.02, new_lr=0.7)

    assert {g["lr"] for g in groups if g["name"].startswith("new")} == {0.7}
    assert {g["lr"] for g in groups if g["name"].startswith("base")} == {0.02}


def test_biases_norms_and_gates_are_not_decayed_and_matrices_are():
    blended = operated(attn="bam")  # starts by a blend, whose gate is one number
    names = names_of(blended, param_groups(blended, 0.1, weight_decay=0.1))

    assert {n for n in names["new.no_decay"] if n.endswith(".g")}
    for title in ("base", "new"):
        assert all(n.endswith("weight") for n in names[title])
        undecayed = names[f"{title}.no_decay"]
        assert {n.rpartition(".")[2] for n in undecayed} >= {"bias", "weight"}
    shapes = {name: p.dim() for name, p in blended.named_parameters()}
    assert all(shapes[n] == 1 for n in names["base.no_decay"])
    assert all(shapes[n] > 1 for n in names["base"] | names["new"])


def test_a_thin_matrix_is_a_matrix_and_what_is_named_or_marked_is_not_decayed():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 17, 3)
            self.scale = nn.Parameter(torch.ones(1, 17, 1, 1))
            self.marked = nn.Parameter(torch.ones(17, 2))
            self.head = nn.Linear(17, 1)

        def no_weight_decay(self):
            return {"conv.w*"}

        def forward(self, x):
            return self.head((self.conv(x) * self.scale).mean((2, 3))) + self.marked.sum()

    model: Any = attnsurgeon.insert(Odd(), "eca", {"site": "conv"}, input_size=(3, 20, 28)).model
    model.marked.no_weight_decay = True
    names = names_of(model, param_groups(model, 0.1, weight_decay=0.1))

    # Of what was there before, timm's rule says: a scale of four axes is decayed as ever.
    assert names["base"] == {"head.weight", "scale"}
    assert names["base.no_decay"] == {"conv.weight", "conv.bias", "marked", "head.bias"}
    (kernel,) = names["new"]  # (1, 1, 3): one axis only, but a convolution's
    assert kernel.endswith("attn.conv.weight")


def test_frozen_parameters_are_in_no_group():
    model = operated()
    freeze_backbone(model)
    groups = param_groups(model, 0.1, layer_decay=0.5)

    assert_each_once(model, groups)
    parts = [group["name"].split(".") for group in groups]
    assert {name for name, *_ in parts} == {"new"}
    assert {tuple(rest[1:]) for _, *rest in parts} == {(), ("no_decay",)}


def test_tied_parameters_are_in_one_group():
    model = operated("test_resnet")
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    same = [(a, b) for a in convs for b in convs if a is not b and a.weight.shape == b.weight.shape]
    one, other = same[0]
    other.weight = one.weight
    groups = param_groups(model, 0.1, layer_decay=0.5)

    assert_each_once(model, groups)
    freeze_backbone(model)
    assert not one.weight.requires_grad
    unfreeze(model)
    assert one.weight.requires_grad
    assert other.weight is one.weight


def test_frozen_layers_count_as_timm_counts_them_and_attention_is_where_it_stands():
    model = operated()  # layers: the stem, four blocks, the classifier
    for name, parameter in model.named_parameters():
        if name.startswith(("fc", "layer4", "conv1", "bn1")) and ".attn." not in name:
            parameter.requires_grad_(False)
    groups = param_groups(model, 0.1, new_lr=1.0, layer_decay=0.5)
    rates = {n: g["lr"] for g in groups for n in names_of(model, [g])[g["name"]]}

    assert_each_once(model, groups)
    for stage, base in ((1, 0.1 / 16), (2, 0.1 / 8), (3, 0.1 / 4)):
        inside = {n: r for n, r in rates.items() if n.startswith(f"layer{stage}")}
        assert {r for n, r in inside.items() if ".attn." not in n} == {base}
        assert {r for n, r in inside.items() if ".attn." in n} == {10 * base}
    assert {r for n, r in rates.items() if n.startswith("layer4")} == {0.5}  # its attention alone


def test_layer_decay_of_one_changes_no_rate():
    groups = param_groups(operated(), 0.1, layer_decay=1.0)

    assert {g["lr"] for g in groups if g["name"].startswith("base")} == {0.1}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"lr": -1}, "lr=-1 is not a rate"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"new_lr": float("inf")}, "new_lr=inf"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"layer_decay": 0}, "layer_decay=0"),
        ({"layer_decay": 1.5}, r"layer_decay=1\.5"),
    ],
)
def test_what_is_no_rate_is_refused(values, why):
    with pytest.raises(UsageError, match=why):
        param_groups(operated(), **{"lr": 0.1, **values})


def test_a_network_with_nothing_to_train_is_refused():
    model = operated()
    model.requires_grad_(False)

    with pytest.raises(UsageError, match="no parameter is trainable"):
        param_groups(model, 0.1)


def test_attention_without_parameters_gives_groups_of_the_base_alone():
    model = operated(attn="simam")
    model.requires_grad_(True)
    groups = param_groups(model, 0.1)

    assert_each_once(model, groups)


def test_every_torch_optimiser_takes_the_groups():
    model = operated()
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop):
        optimiser = kind(param_groups(model, 0.1, new_lr=1.0, weight_decay=0.01), lr=0.5)
        assert {g["lr"] for g in optimiser.param_groups} == {0.1, 1.0}
        assert all("name" in g for g in optimiser.param_groups)
