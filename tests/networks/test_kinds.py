"""Every kind of attention beyond gates, on networks: identity, paper, save, load, conflicts."""

import copy
import pickle

import pytest
import timm
import torch

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.models import load_model
from tests.nets.stages import Stages

# Of decoders, which these networks have none of: see test_gated_skips.py.
FOR_SKIPS = {"attention-gate"}
# Mechanism -> arguments; a gate is here where it looks at more than one value.
BEYOND: dict[str, dict] = {
    name: {}
    for name, card in mechanisms().items()
    if (card.kind != "gate" or card.inputs({}) != ("value",)) and name not in FOR_SKIPS
}
BEYOND |= {"spa": {"variant": "B"}}
DENSE = {"sk", "psa", "sc", "aw", "cot", "splat", "involution", "bot", "halo", "lambda"}
# Network -> what it has no site for: dense 3x3 convolutions that the mechanism can divide,
# activations behind 3x3 convolutions, maps.
NETWORKS: dict[str, set[str]] = {
    "stages": set(),
    "resnet18": set(),
    "torchvision:resnet18": set(),  # one ReLU module for all activations of a block
    "mobilenetv3_small_050": DENSE,
    "regnety_002": {"sk", "psa", "aw"},
    "convnext_atto": DENSE | {"acon"},
    "vit_tiny_patch16_224": DENSE | {"acon", "frelu", "spa", "ran", "csra", "interflow"},
}
# Where the authors' start would take the layer between the last map and the classifier away.
IDENTITY_ONLY = {("mobilenetv3_small_050", "csra")}
# Where the authors' start gives other scales than norms that are not of training expect, so that
# values run over in a deep network.
RUNS_OVER = {"involution", "lambda"}
CASES = [
    pytest.param(network, name, marks=() if network == "stages" else pytest.mark.slow)
    for network, without in NETWORKS.items()
    for name in BEYOND
    if name not in without
]
each_case = pytest.mark.parametrize(("network", "name"), CASES)
each_that_can_start_anew = pytest.mark.parametrize(
    ("network", "name"),
    [
        case
        for case in CASES
        if case.values not in IDENTITY_ONLY
        and not (case.values[1] in RUNS_OVER and case.values[0] != "stages")
    ],
)


def build(network):
    torch.manual_seed(0)
    model = (Stages() if network == "stages" else load_model(network)).eval()
    randomise_norms(model)
    return model


def image(network):
    return torch.randn(2, *(size_of(network) or (3, 96, 64)))


def size_of(network):
    """The input size that has to be named, or is the only one."""
    sizes = {"stages": (3, 32, 24), "vit_tiny_patch16_224": (3, 224, 224)}
    return sizes.get(network)


def insert(network, model, name, **more):
    args = {"attn_args": BEYOND[name], "input_size": size_of(network)}
    return attnsurgeon.insert(model, name, **args, **more)


@pytest.mark.slow
@each_case
def test_an_identity_start_changes_no_bit_and_keeps_every_key(network, name):
    model, x = build(network), image(network)
    operation = insert(network, model, name)
    kept = [key for key in operation.model.state_dict() if key in model.state_dict()]
    with torch.no_grad():
        assert torch.equal(operation.model(x), model(x))
    assert kept == list(model.state_dict())
    assert type(operation.model) is type(model)
    verification = operation.verify()
    assert verification.problems == ()
    assert verification.identity


@pytest.mark.slow
@each_that_can_start_anew
def test_a_paper_start_changes_the_outputs_and_comes_back_from_its_folder(network, name, tmp_path):
    model, x = build(network), image(network)
    operation = insert(network, model, name, init="paper")
    x = x.repeat(2, 1, 1, 1)
    mode = name == "ba2m"  # it weighs the samples of a batch, and only in training
    with torch.no_grad():
        moved = not torch.equal(operation.model.train(mode)(x), model.train(mode)(x))
    assert moved
    operation.model.eval()
    verification = operation.verify()
    assert verification.problems == ()
    assert set(verification.replaced_keys) == set(model.state_dict()) - set(
        operation.model.state_dict()
    )
    operation.save(tmp_path / "saved")
    base = {"model": build(network)} if network == "stages" else {}
    again = attnsurgeon.load(tmp_path / "saved", **base).eval()
    with torch.no_grad():
        assert torch.equal(again(x), operation.model(x))
    assert list(again.state_dict()) == list(operation.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", BEYOND)
def test_copies_agree_also_after_a_forward_with_gradients(name):
    operated = insert("stages", build("stages"), name, init="paper").model
    x = image("stages")
    operated(x).sum().backward()
    expected = operated(x)
    for twin in (copy.deepcopy(operated), pickle.loads(pickle.dumps(operated))):
        assert torch.equal(twin(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", BEYOND)
def test_an_audit_sees_every_module_run(name):
    operated = insert("stages", build("stages"), name).model
    audit = attnsurgeon.audit(operated, input_size=(3, 32, 24))
    assert audit.ok
    assert audit.calls


@pytest.mark.slow
@pytest.mark.parametrize("name", BEYOND)
def test_what_is_taken_out_leaves_the_network_as_it_was(name):
    model, x = build("stages"), image("stages")
    operated = insert("stages", model, name).model
    attnsurgeon.remove(operated)
    assert list(operated.state_dict()) == list(model.state_dict())
    assert torch.equal(operated(x), model(x))
    assert all(type(a) is type(b) for a, b in zip(operated.modules(), model.modules(), strict=True))


def test_what_was_replaced_for_good_cannot_be_put_back():
    operated = attnsurgeon.insert(build("resnet18"), "sk", init="paper").model
    with pytest.raises(attnsurgeon.SurgeonError, match="its weights are gone"):
        attnsurgeon.remove(operated)


def test_the_norm_behind_goes_with_the_convolution_where_the_mechanism_brings_its_own():
    model = build("stages")
    paper = {
        name: insert("stages", model, name, init="paper").model.state_dict()
        for name in ("sk", "sc", "psa")
    }
    assert "stage1.0.bn2.weight" in model.state_dict()
    assert [name for name in paper if "stage1.0.bn2.weight" in paper[name]] == ["psa"]
    assert not any("stage1.0.conv2.weight" in state for state in paper.values())


def test_a_fusion_is_given_branch_and_shortcut_in_this_order():
    """CMPE-SE gates only the branch, so that exchanged terms would show."""
    model, x = build("resnet18"), image("resnet18")
    operated = attnsurgeon.insert(model, "cmpe-se", {"site": "residual-add", "first": 1}).model
    seen = []
    operated.layer1[0].attn.register_forward_hook(lambda m, args, y: seen.extend(args))
    operated(x)
    block = model.layer1[0]
    start = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    branch = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(start)))))
    assert torch.equal(seen[0], branch)
    assert torch.equal(seen[1], start)


def test_a_gate_of_the_blocks_input_is_given_it():
    model, x = build("resnet18"), image("resnet18")
    operated = attnsurgeon.insert(model, "spa", attn_args={"variant": "C"}).model
    seen = {}
    operated.layer2[0].attn.register_forward_hook(lambda m, args, y: seen.update(enumerate(args)))
    operated.layer1.register_forward_hook(lambda m, args, y: seen.update(start=y))
    operated(x)
    assert torch.equal(seen[1], seen["start"])
    assert seen[0].shape[1] == 2 * seen[1].shape[1]


def test_an_activation_in_place_does_not_take_its_input_from_the_attention():
    model, x = build("resnet18"), image("resnet18")  # timm's ReLUs work in place
    operated = attnsurgeon.insert(model, "atac", {"site": "act", "name": "layer1.0.act1"}).model
    seen = []
    operated.layer1[0].act1.attn.register_forward_hook(lambda m, args, y: seen.extend(args))
    with torch.no_grad():
        assert torch.equal(operated(x), model(x))
    assert seen[0].min() < 0  # the input itself
    assert torch.equal(seen[1], seen[0].relu())


def test_stages_have_a_chain_each_and_a_network_one():
    model = build("resnet18")
    operated = attnsurgeon.insert(model, "dia", "residual-branch").model
    cells = [operated.get_submodule(f"layer{i}.{j}.attn.attention") for i in (1, 2) for j in (0, 1)]
    assert cells[0] is cells[1]
    assert cells[2] is cells[3]
    assert cells[0] is not cells[2]
    plan = attnsurgeon.plan(model, "dca", "residual-branch")
    assert len({cut.chain for cut in plan}) == 1
    assert [cut.link for cut in plan] == list(range(8))


def test_a_rule_says_how_far_a_chain_reaches():
    rule = {"id": "links", "match": {"site": "residual-branch"}, "attn": "dca", "scope": "stage"}
    file = {"version": 1, "rules": [rule]}
    plan = attnsurgeon.plan(build("resnet18"), rules=rules(file))
    assert [cut.link for cut in plan] == [0, 1] * 4


def rules(file):
    from attnsurgeon.rules.schema import RuleFile

    return RuleFile.model_validate(file)


def test_mixed_surgery_in_one_file_is_exact_and_comes_back(tmp_path):
    file = {
        "version": 1,
        "rules": [
            {"id": "late", "match": {"site": "conv", "kernel": 3, "stage": 2}, "attn": "sk"},
            {"id": "adds", "match": {"site": "residual-add"}, "attn": "aff"},
            {"id": "early", "match": {"site": "residual-branch", "stage": 1}, "attn": "eca"},
            {"id": "acts", "match": {"site": "act", "stage": 1}, "attn": "atac"},
            {"id": "weights", "match": {"site": "conv", "kernel": 1}, "attn": "we"},
            {"id": "head", "match": {"site": "classifier"}, "attn": "csra"},
        ],
    }
    model, x = build("stages"), image("stages")
    operation = attnsurgeon.insert(model, rules=rules(file), input_size=(3, 32, 24))
    with torch.no_grad():
        assert torch.equal(operation.model(x), model(x))
    assert operation.plan.refused == ()
    assert operation.verify().problems == ()
    price = operation.cost
    assert sum(site.params for site in price.per_site) == price.delta.params
    operation.save(tmp_path / "saved")
    again = attnsurgeon.load(tmp_path / "saved", model=build("stages")).eval()
    assert torch.equal(again(x), operation.model(x))


def test_two_replacements_of_one_operation_are_refused_with_both_rules():
    for first, second in (("sk", "psa"), ("sk", "we")):
        file = {
            "version": 1,
            "rules": [
                {"id": "one", "match": {"site": "conv", "kernel": 3}, "attn": first},
                {"id": "two", "match": {"site": "conv", "stage": 4}, "attn": second},
            ],
        }
        with pytest.raises(attnsurgeon.SurgeonError, match="'one' and 'two' both replace layer4"):
            attnsurgeon.plan(build("resnet18"), rules=rules(file))


@pytest.mark.parametrize(
    ("attn", "action"), [("eca", "replace"), ("sk", "insert-after"), ("aff", "replace")]
)
def test_an_action_that_a_kind_cannot_do_is_refused(attn, action):
    match = {"site": "residual-add" if attn == "aff" else "conv"}
    file = {
        "version": 1,
        "rules": [{"id": "wrong", "match": match, "attn": attn, "action": action}],
    }
    with pytest.raises(attnsurgeon.SurgeonError, match=f"'wrong': {attn} .* cannot {action}"):
        attnsurgeon.plan(build("resnet18"), rules=rules(file))


def test_gates_and_replacements_stand_at_one_site():
    file = {
        "version": 1,
        "rules": [
            {"id": "convs", "match": {"site": "conv", "name": "stage1.0.conv2"}, "attn": "psa"},
            {"id": "gates", "match": {"site": "conv", "name": "stage1.0.conv2"}, "attn": "se"},
        ],
    }
    model, x = build("stages"), image("stages")
    operation = attnsurgeon.insert(model, rules=rules(file), input_size=(3, 32, 24))
    assert len(operation.plan) == 2
    assert torch.equal(operation.model(x), model(x))
    assert operation.verify().problems == ()


def test_a_second_operation_finds_what_the_first_one_left():
    model, x = build("resnet18"), image("resnet18")
    first = attnsurgeon.insert(model, "sk", {"site": "conv", "name": "layer4.1.conv2"}).model
    second = attnsurgeon.insert(first, "eca", "residual-branch").model
    assert torch.equal(second(x), model(x))
    with pytest.raises(attnsurgeon.SurgeonError, match="no module is this operation"):
        attnsurgeon.insert(first, "psa", {"site": "conv", "name": "layer4.1.conv2*"})


def test_a_head_goes_with_the_classifier_that_is_reset_and_the_audit_says_so():
    model, x = build("resnet18"), image("resnet18")
    operated = attnsurgeon.insert(model, "csra", init="paper").model
    operated.reset_classifier(7)
    assert operated(x).shape == (2, 7)
    assert attnsurgeon.audit(operated).dead == ("fc.attn",)


def test_a_head_takes_the_map_also_through_forward_head():
    model, x = build("resnet18"), image("resnet18")
    operated = attnsurgeon.insert(model, "csra", init="paper").model
    whole = operated(x)
    assert torch.equal(operated.forward_head(operated.forward_features(x)), whole)
    with pytest.raises(RuntimeError, match="were not made in this forward"):
        operated.fc(torch.randn(2, 512))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dia", "dca"])
def test_linked_attention_trains_alike_under_checkpointing(name):
    torch.manual_seed(0)
    model = timm.create_model("resnet18")
    randomise_norms(model)
    operated = attnsurgeon.insert(model, name, "residual-branch", init="paper").model.train()
    x = image("resnet18")
    grads = []
    for checkpointed in (False, True):
        network = copy.deepcopy(operated)
        network.set_grad_checkpointing(checkpointed)
        network(x).square().sum().backward()
        grads.append({n: p.grad for n, p in network.named_parameters()})
    for parameter, grad in grads[0].items():
        torch.testing.assert_close(grads[1][parameter], grad, rtol=1e-4, atol=1e-4)


def test_excited_weights_fold_into_plain_ones():
    model, x = build("resnet18"), image("resnet18")
    operated = attnsurgeon.insert(model, "we", init="paper").model
    expected = operated(x)
    folded = attnsurgeon.fold(operated)
    assert len(folded) == 20
    assert torch.equal(operated(x), expected)
    assert list(operated.state_dict()) == list(model.state_dict())
    assert not torch.equal(operated.conv1.weight, model.conv1.weight)
    with pytest.raises(attnsurgeon.SurgeonError, match="no weight excitation"):
        attnsurgeon.fold(operated)


def test_what_depends_on_the_image_or_on_changed_weights_does_not_fold():
    operated = attnsurgeon.insert(build("resnet18"), "aw").model
    with pytest.raises(attnsurgeon.SurgeonError, match="a weight for every image"):
        attnsurgeon.fold(operated)
    standardised = timm.create_model("nf_resnet26", num_classes=0)
    where = {"site": "conv", "name": "stages.0.0.conv2"}
    operated = attnsurgeon.insert(standardised, "we", where).model
    with pytest.raises(attnsurgeon.SurgeonError, match="changes its weight before"):
        attnsurgeon.fold(operated)


@pytest.mark.parametrize(
    ("name", "where", "reason"),
    [
        ("aff", "residual-branch", "no residual addition"),
        ("sk", "residual-branch", "a BatchNorm2d, not a convolution"),
        ("we", {"site": "norm"}, "made by a BatchNorm2d, not by one convolution"),
        ("csra", {"site": "norm"}, "made by a BatchNorm2d, not by a linear layer"),
        ("ran", "stem", "not the end of a residual block"),
        ("attention-gate", "stage", "it meets no value of a decoder"),
    ],
)
def test_a_site_of_the_wrong_kind_is_refused_with_the_right_one(name, where, reason):
    with pytest.raises(attnsurgeon.SurgeonError, match=reason) as caught:
        attnsurgeon.plan(Stages(), name, where, input_size=(3, 32, 24))
    if mechanisms()[name].kind != "gate":
        assert f"for the placement {mechanisms()[name].placement}; " in caught.value.hint
