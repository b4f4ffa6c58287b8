"""A status says what stands where, what of it learns, how open it is and whether it runs."""

import copy

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.checks.status import status
from tests.cli.tiny import Decides, Fixed, Twice, net

SIZE = (3, 40, 24)
SITES = ["blocks.0.norm", "blocks.1.norm", "late.norm"]
SE = {32: 2 * 32 * 2 + 2 + 32, 48: 2 * 48 * 3 + 3 + 48}  # C -> C // 16 -> C, with biases


def operated(attn: str = "se", model: nn.Module | None = None, **more) -> nn.Module:
    model = net() if model is None else model
    return attnsurgeon.insert(model, attn, "residual-branch", input_size=SIZE, **more).model


def test_every_site_is_there_with_its_parameters():
    found = status(operated(), input_size=SIZE)
    assert [site.path for site in found.sites] == SITES
    assert [site.attn for site in found.sites] == ["se"] * 3
    assert [site.channels for site in found.sites] == [32, 32, 48]
    assert [site.params for site in found.sites] == [SE[32], SE[32], SE[48]]
    assert [site.module_path for site in found.sites] == [
        "blocks.0.attn",
        "blocks.1.attn",
        "late.attn",
    ]
    assert found.params == sum(site.params for site in found.sites) == 663
    before = sum(p.numel() for p in net().parameters())
    assert (found.all_params, found.trainable_params) == (before + 663,) * 2
    assert found.trainable_percent == 100
    assert found.notes == ()


def test_what_learns_is_counted():
    model = operated()
    attnsurgeon.freeze_backbone(model)
    frozen = status(model, input_size=SIZE)
    assert frozen.trainable_params == 663
    assert [site.trainable for site in frozen.sites] == [SE[32], SE[32], SE[48]]
    model.get_parameter("late.attn.fc1.weight").requires_grad_(False)
    partly = status(model, input_size=SIZE)
    assert partly.sites[-1].trainable == SE[48] - 3 * 48
    assert partly.trainable_params == 663 - 3 * 48


def test_a_gate_is_one_at_the_start_and_says_where_it_went():
    model = operated()
    assert [site.gate for site in status(model, input_size=SIZE).sites] == [1, 1, 1]
    with torch.no_grad():
        model.get_parameter("late.attn.fc2.bias").fill_(1.0)
    late = status(model, input_size=SIZE).sites[-1]
    # fc2's weight is zero, so that the bias alone decides: 2 * sigmoid(1).
    assert late.gate == pytest.approx(2 / (1 + 2.718281828**-1), abs=1e-6)
    assert not late.blended
    assert [site.gate for site in status(operated(init="paper"), input_size=SIZE).sites] != [1] * 3


def test_of_a_blend_it_is_the_weight():
    model = operated("nam")
    assert [(site.gate, site.blended) for site in status(model, input_size=SIZE).sites] == [
        (0, True)
    ] * 3
    with torch.no_grad():
        model.get_parameter("blocks.1.attn.g").fill_(-0.25)
    gates = [site.gate for site in status(model, input_size=SIZE, run=False).sites]
    assert gates == [0, -0.25, 0]  # to know it nothing has to be run


def test_what_does_not_run_or_is_gone_is_said():
    model = operated()
    assert [site.runs for site in status(model, input_size=SIZE).sites] == [1, 1, 1]
    model.late.attn = nn.Identity()  # type: ignore[union-attr]
    found = status(model, input_size=SIZE)
    assert [site.runs for site in found.sites] == [1, 1, 0]
    assert "Identity stands in the place of the se" in found.sites[-1].altered
    assert (found.sites[-1].params, found.sites[-1].gate) == (0, None)
    assert "late.attn is not what was put in" in repr(found)
    del model.late.attn
    assert status(model, input_size=SIZE, run=False).sites[-1].altered == "it is gone"


def test_a_module_that_serves_two_sites_runs_twice_and_counts_once():
    model = operated(model=Twice())
    found = status(model, input_size=SIZE)
    assert [(site.path, site.runs, site.params) for site in found.sites] == [
        ("blocks.0.norm", 2, SE[32])
    ]


def test_modules_that_share_their_parameters_count_them_once():
    model = operated("dia")
    found = status(model, input_size=SIZE)
    own = {id(p): p.numel() for n, p in model.named_parameters() if ".attn." in n}
    assert found.params == sum(own.values())
    assert len(found.sites) == 3


def test_the_network_is_left_as_it_was():
    model = operated().train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    status(model, input_size=SIZE)
    assert torch.equal(torch.rand(1), drawn)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules() if type(m).__name__ == "Gate")


def test_a_network_on_meta_has_no_gates_to_show():
    found = status(operated().to("meta"), input_size=SIZE)
    assert [site.gate for site in found.sites] == [None] * 3
    assert [site.runs for site in found.sites] == [1, 1, 1]
    assert "gates are not known" in found.notes[0]


def test_a_network_that_looks_at_values_and_one_that_cannot_run():
    found = status(operated(model=Decides()), input_size=SIZE)
    assert [site.gate for site in found.sites] == [1, 1, 1]
    broken = operated()
    broken.fc = nn.Linear(47, 7)
    found = status(broken, input_size=SIZE)
    assert [site.runs for site in found.sites] == [None] * 3
    assert "whether it runs is not known" in found.notes[0]
    assert found.params == 663


def test_a_network_that_takes_one_size_is_looked_at_with_that():
    model = operated(model=Fixed())
    assert [site.runs for site in status(model).sites] == [1, 1, 1]
    assert [site.runs for site in status(model, input_size=(3, 64, 64)).sites] == [None] * 3


def test_several_operations_and_a_network_inside_another():
    model = operated("eca", operated())
    assert [site.attn for site in status(model, input_size=SIZE).sites] == ["se"] * 3 + ["eca"] * 3
    found = status(nn.Sequential(operated(), nn.Flatten()), input_size=SIZE)
    assert [site.path for site in found.sites] == [f"0.{path}" for path in SITES]
    assert [site.runs for site in found.sites] == [1, 1, 1]


def test_a_network_without_attention_has_none():
    found = status(net())
    assert found.sites == ()
    assert found.params == 0
    assert found.trainable_params == found.all_params == sum(p.numel() for p in net().parameters())


def test_it_prints_as_peft_does():
    model = operated()
    attnsurgeon.freeze_backbone(model)
    found = status(model, input_size=SIZE)
    line = f"trainable params: 663 || all params: {found.all_params:,} || trainable%: "
    assert f"{line}{66300 / found.all_params:.4f}" in repr(found)
    assert "late.norm" in repr(found)
