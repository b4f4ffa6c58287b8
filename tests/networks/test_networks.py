"""Twenty architectures of timm stay what they were: outputs to the bit, keys, methods, copies."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms

MECHANISMS = ["se", "eca", "cbam", "bam", "coord", "simam", "scse", "srm"]
# Network -> residual branches, counted by hand from the published depths; None where there are no
# residual additions, and the gates go to the ends of the stages.
BRANCHES = {
    "resnet18": 8,
    "resnet50": 16,
    "resnext50_32x4d": 16,
    "wide_resnet50_2": 16,
    "res2net50_26w_4s": 16,
    "regnety_008": 14,
    "mobilenetv2_100": 10,
    "mobilenetv3_large_100": 10,
    "efficientnet_b0": 9,
    "convnext_tiny": 18,
    "densenet121": None,
    "vgg16_bn": None,
    "resnetv2_50": 16,
    "nf_resnet50": 16,
    "dla34": 12,
    "hrnet_w18_small": 23,
    "inception_v3": None,
    "ghostnet_100": 16,
    "repvgg_a2": None,
    "cspdarknet53": 23,
}
FAST = {"resnet18"}
each_network = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in BRANCHES]
)


def build(name: str) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    randomise_norms(model)
    return model


def placement(name: str) -> str:
    return "residual-branch" if BRANCHES[name] else "stage"


def image() -> torch.Tensor:
    return torch.randn(2, 3, 96, 128)


@pytest.mark.slow
@each_network
def test_outputs_are_bit_equal_with_every_mechanism(name):
    model, x = build(name), image()
    with torch.no_grad():
        expected = model(x)
    for mechanism in MECHANISMS:
        operation = attnsurgeon.insert(model, mechanism, placement(name))
        with torch.no_grad():
            assert torch.equal(operation.model(x), expected), mechanism
        assert operation.plan.refused == ()
        if BRANCHES[name]:
            assert len(operation.plan) == BRANCHES[name]
        added = tuple(f"{cut.module_path}." for cut in operation.plan)
        kept = [key for key in operation.model.state_dict() if not key.startswith(added)]
        assert kept == list(model.state_dict())


@each_network
def test_an_active_attention_moves_the_outputs(name):
    model, x = build(name), image()
    operated: Any = attnsurgeon.insert(model, "eca", placement(name)).model
    for key, parameter in operated.named_parameters():
        if key not in dict(model.named_parameters()):
            nn.init.normal_(parameter)
    with torch.no_grad():
        assert not torch.equal(operated(x), model(x))


@pytest.mark.slow
@each_network
def test_methods_and_copies_work_as_before(name):
    model, x = build(name), image()
    operated: Any = attnsurgeon.insert(model, "cbam", placement(name)).model
    assert isinstance(operated, type(model))
    with torch.no_grad():
        assert torch.equal(operated.forward_features(x), model.forward_features(x))
        assert_same_intermediates(operated, model, x)
        for twin in (copy.deepcopy(operated), pickle.loads(pickle.dumps(operated))):
            assert torch.equal(twin(x), model(x))
        exported = torch.export.export(operated, (x,)).module()
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-4)
    operated.reset_classifier(7)
    with torch.no_grad():
        assert operated(x).shape == (2, 7)


def assert_same_intermediates(operated, model, x):
    if not hasattr(model, "forward_intermediates"):
        assert not hasattr(operated, "forward_intermediates")
        return
    before, after = model.forward_intermediates(x)[1], operated.forward_intermediates(x)[1]
    assert len(before) == len(after) > 0
    assert all(map(torch.equal, after, before))


@each_network
def test_gradients_reach_the_attention_under_checkpointing_too(name):
    model = build(name)
    operated: Any = attnsurgeon.insert(model, "se", placement(name)).model
    try:
        operated.set_grad_checkpointing(True)
    except AssertionError:  # timm's word for a network that has no checkpointing
        with pytest.raises(AssertionError):
            model.set_grad_checkpointing(True)
    operated.train()(image()).square().mean().backward()
    learned: dict[str, Any] = dict(operated.named_parameters())
    new = [key for key in learned if key not in dict(model.named_parameters())]
    last = [
        key for key in new if ".fc2." in key
    ]  # under native identity the last layer learns first
    assert last
    gradients = {key: learned[key].grad for key in new}
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    assert any(gradients[key].abs().sum() > 0 for key in last)
