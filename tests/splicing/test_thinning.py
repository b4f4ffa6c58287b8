"""Some attention is taken out: what stays is the network that only ever had the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.splicing.history import added, history, inserted
from tests.networks.test_kinds import build
from tests.saved.networks import assert_same
from tests.splicing.test_switching import SIZE, image, operated
from tests.surgery import active


def kinds(model: nn.Module) -> list[tuple[str, type]]:
    return [(path, type(module)) for path, module in model.named_modules()]


def insert(base: nn.Module, attn: str, where: object, **how: object) -> nn.Module:
    return attnsurgeon.insert(base, attn, where, input_size=SIZE, **how).model


@pytest.mark.parametrize(
    "attn", ["se", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dia", "we", "sk"))]
)
def test_what_stays_is_the_network_that_only_ever_had_the_rest(attn):
    base, net = operated(attn)
    first = next(iter(inserted(net)))[0]
    site = history(net)[0]["sites"][0]["path"]
    asked = {path for cut in history(net)[0]["sites"] for path in (cut["path"], *cut["shared"])}
    rest = insert(base, attn, lambda found: found.path in asked - {site})
    attnsurgeon.remove(net, first)
    for (_, ours), (_, theirs) in zip(inserted(net), inserted(rest), strict=True):
        theirs.load_state_dict(ours.state_dict())
    assert_same(net, rest)
    assert kinds(net) == kinds(rest)
    assert [s["module_path"] for s in history(net)[0]["sites"]] == [
        s["module_path"] for s in history(rest)[0]["sites"]
    ]
    with torch.no_grad():
        assert torch.equal(net(image()), rest(image()))
    assert attnsurgeon.audit(net, input_size=SIZE).ok


def test_what_stays_keeps_its_very_modules_and_parameters():
    _, net = operated("se", "residual-branch")
    net.stage1[1].attn.requires_grad_(False)
    kept = {path: module for path, module in inserted(net) if not path.startswith("stage2")}
    base = {name: p for name, p in net.named_parameters() if "attn" not in name}
    attnsurgeon.remove(net, "stage2.*")
    assert dict(inserted(net)) == kept
    assert not any(p.requires_grad for p in net.stage1[1].attn.parameters())
    assert all(net.get_parameter(name) is p for name, p in base.items())


def test_several_patterns_take_out_all_and_leave_the_original():
    base, net = operated("se", "residual-branch")
    attnsurgeon.remove(net, ["stage1.*", "stage2.*"])
    assert_same(net, base)
    assert kinds(net) == kinds(base)
    assert history(net) == ()
    assert attnsurgeon.remove(net) is None  # nothing is left, and nothing is wrong with that


@pytest.mark.slow
def test_of_two_operations_either_can_go():
    base = build("stages")
    both = active(insert(insert(base, "se", "residual-branch"), "eca", "residual-branch"))
    x = image()
    for attn, other in [("se", "eca"), ("eca", "se")]:
        net = copy.deepcopy(both)
        alone = insert(base, other, "residual-branch")
        for (_, ours), (_, theirs) in zip(
            [found for found in inserted(both) if type(found[1]).__name__.lower() == other],
            inserted(alone),
            strict=True,
        ):
            theirs.load_state_dict(ours.state_dict())
        attnsurgeon.remove(net, [s["module_path"] for r in history(net) for s in r["sites"]
                                 if s["attn"] == attn])  # fmt: skip
        assert_same(net, alone)
        assert [record["attn"] for record in history(net)] == [other]
        with torch.no_grad():
            assert torch.equal(net(x), alone(x))


@pytest.mark.slow
def test_one_mechanism_of_one_rule_file_can_go():
    rules = [
        {"id": "a", "match": {"site": "residual-branch", "stage": 1}, "attn": "se"},
        {"id": "b", "match": {"site": "residual-branch", "stage": 2}, "attn": "eca"},
    ]
    file = RuleFile.model_validate({"version": 1, "rules": rules})
    net = attnsurgeon.insert(build("stages"), rules=file, input_size=SIZE).model
    assert history(net)[0]["attn"] == "se+eca"
    attnsurgeon.remove(net, "stage1.*")
    assert history(net)[0]["attn"] == "eca"
    assert {site["attn"] for site in history(net)[0]["sites"]} == {"eca"}


def test_what_was_replaced_for_good_is_refused_and_nothing_changes():
    _, net = operated("sk", init="paper")
    before = copy.deepcopy(net)
    with pytest.raises(ModelError, match=r"stage2\.0\.conv2 was replaced"):
        attnsurgeon.remove(net, "stage2.0.conv2")
    assert_same(net, before)
    assert kinds(net) == kinds(before)
    attnsurgeon.remove(net, "stage2.0.conv2", refill=True)
    assert net.stage2[0].conv2.weight.shape == (64, 64, 3, 3)


@pytest.mark.slow
def test_a_part_that_was_exchanged_is_refused_where_it_would_stay():
    _, net = operated("se", "residual-branch")
    net.stage1[0].attn = nn.Identity()
    with pytest.raises(UsageError, match=r"stage1\.0\.attn is not what was inserted"):
        attnsurgeon.remove(net, "stage2.*")
    attnsurgeon.remove(net, "stage1.0.attn")
    assert [path for path, _ in inserted(net)] == [
        "stage1.1.attn",
        "stage2.0.attn",
        "stage2.1.attn",
    ]


@pytest.mark.slow
def test_what_a_chain_hands_on_keeps_its_middle_from_going():
    """The third of them is built for the channels of the second, and would be handed others."""
    rule = {"id": "a", "match": {"site": "residual-branch"}, "attn": "dca", "scope": "network"}
    rules = RuleFile.model_validate({"version": 1, "rules": [rule]})
    net = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), rules=rules).model.eval()
    before = copy.deepcopy(net)
    with pytest.raises(ModelError, match="what would stay depends on what would go"):
        attnsurgeon.remove(net, "layer2.*")
    assert_same(net, before)
    assert kinds(net) == kinds(before)
    attnsurgeon.remove(net, ["layer3.*", "layer4.*"])
    assert [path for path, _ in inserted(net)] == ["layer1.0.attn", "layer2.0.attn"]


def test_a_new_classifier_stays_new():
    net = insert(build("stages"), "se", "residual-branch")
    net.fc = nn.Linear(64, 3)
    attnsurgeon.remove(net, "stage2.*")
    assert {"fc.weight", "fc.bias"} <= added(net)


def test_the_network_may_stand_in_another():
    base, net = operated("se", "residual-branch")
    wrapper = nn.Sequential(net, nn.Softmax(1))
    attnsurgeon.remove(wrapper, "stage2.*")
    assert [path for path, _ in inserted(net)] == ["stage1.0.attn", "stage1.1.attn"]
    attnsurgeon.remove(wrapper)
    assert_same(wrapper[0], base)


def test_a_name_of_nothing_and_a_network_of_nothing_are_refused():
    base, net = operated("se", "residual-branch")
    with pytest.raises(UsageError, match="no inserted attention is called 'layer4"):
        attnsurgeon.remove(net, "layer4.*")
    with pytest.raises(UsageError, match="has no attention"):
        attnsurgeon.remove(base, "stage1.*")
