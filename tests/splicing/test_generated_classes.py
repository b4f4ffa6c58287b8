"""Classes that surgery generates, in the hands of code that knows nothing of them."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.forwards import retype
from attnsurgeon.splicing.history import inserted
from tests.nets.blocks import Net, Plain
from tests.surgery import ready

SIZE = (3, 13, 11)
# What takes the place of a layer under paper, and the layers whose parameters go with it.
REPLACED = {
    "sk": ({"groups": 1}, ("conv2", "bn2")),
    "sc": ({}, ("conv2", "bn2")),
}
LAYERS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.Linear)


class Row(nn.Module):
    """Layers in a row, into which only hooks can go."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.row(x)


def images() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


def bare() -> nn.Module:
    torch.manual_seed(0)
    return ready(Net(Plain(), Plain()))


def operated(attn: str, where: Any = None, **how: Any) -> Any:
    made = attnsurgeon.insert(bare(), attn, where, input_size=SIZE, **how).model
    dice = torch.Generator().manual_seed(2)
    for _, part in inserted(made):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, -0.9, 0.9, generator=dice)
    return made


def replaced(attn: str) -> Any:
    arguments, _ = REPLACED[attn]
    return operated(attn, "block-conv", init="paper", attn_args=arguments)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


@pytest.mark.parametrize(
    ("attn", "where", "path", "arguments"),
    [
        ("eca", "residual-branch", "blocks.0", (7,)),  # a block whose forward is generated
        ("we", "conv3x3", "blocks.0.conv1", (7, 2, 3)),  # a convolution that holds attention
        ("sc", "block-conv", "blocks.0.conv2", (7, 2, 3)),  # one that a mechanism stands around
    ],
)
def test_called_by_hand_it_makes_an_object_of_the_original_class(attn, where, path, arguments):
    module = operated(attn, where).get_submodule(path)
    original = type(bare().get_submodule(path))
    assert type(module) is not original
    assert isinstance(module, original)
    torch.manual_seed(3)
    made = type(module)(*arguments)
    torch.manual_seed(3)
    expected = original(*arguments)
    assert type(made) is original
    assert list(made.state_dict()) == list(expected.state_dict())
    x = torch.randn(2, 7, 6, 5)
    assert torch.equal(made(x), expected(x))


def test_so_does_a_class_that_others_derive_from_it():
    """As FSDP2 and parametrizations derive one, which then stands in the module's place."""
    block = operated("eca", "residual-branch").blocks[0]
    expected = block(torch.ones(1, 5, 6, 7))
    block.__class__ = type("Sharded", (type(block),), {})
    assert torch.equal(block(torch.ones(1, 5, 6, 7)), expected)
    assert type(type(block)(5)) is Plain


@pytest.mark.parametrize("attn", REPLACED)
def test_what_replaces_a_layer_is_none_of_its_kind(attn):
    model = replaced(attn)
    _, names = REPLACED[attn]
    for block in model.blocks:
        for name in names:
            layer = getattr(block, name)
            assert not isinstance(layer, LAYERS)
            assert not hasattr(layer, "weight")
            assert type(layer).__name__ == "Replaced"  # found by no "Conv" in a class's name
            assert f"instead of {type(getattr(bare().blocks[0], name)).__name__}" in repr(layer)
    kept = operated(attn, "block-conv", attn_args=REPLACED[attn][0]).blocks[0].conv2
    assert isinstance(kept, nn.Conv2d)  # under identity it goes on computing
    assert kept.weight is not None


@pytest.mark.parametrize("attn", REPLACED)
def test_the_loops_of_the_world_run_over_it(attn):
    model = replaced(attn)
    for module in model.modules():  # none of these asks whether there is a weight
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if hasattr(module, "weight"):
            module.weight.data.mul_(1)
        if "Conv" in type(module).__name__:
            module.weight.data.normal_(0, 0.02)
    before = list(model.state_dict())
    made = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert list(made.state_dict()) == before
    norms = [m for m in made.modules() if isinstance(m, nn.SyncBatchNorm)]
    # In each block its own first norm, and those of the mechanism.
    assert len(norms) >= len(model.blocks)
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.parametrize("attn", REPLACED)
def test_it_is_copied_pickled_and_given_back(attn):
    model = replaced(attn)
    expected = outputs(model)
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(made), expected)
        assert type(made.blocks[0].conv2) is type(model.blocks[0].conv2)
    with pytest.raises(ModelError, match="its weights are gone"):
        attnsurgeon.remove(model)
    attnsurgeon.remove(model, refill=True)
    original = bare()
    assert list(model.state_dict()) == list(original.state_dict())
    for was, now in zip(original.modules(), model.modules(), strict=True):
        assert type(was) is type(now)
        assert list(was._parameters) == list(now._parameters)
        assert [p is None for p in was._parameters.values()] == [
            p is None for p in now._parameters.values()
        ]


def test_what_was_pickled_before_is_read():
    block = operated("eca", "residual-branch").blocks[0]
    build, (base, sources, references, gone), _ = block.__reduce_ex__(2)
    assert build is retype._rebuild
    assert gone is False
    assert type(build(base, sources, references)) is type(block)


def test_a_spectral_norm_and_pruning_keep_the_attention_on_a_weight():
    for change in (
        parametrizations.spectral_norm,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    ):
        model = operated("we", "conv3x3")
        paths = [path for path, _ in inserted(model)]
        before = outputs(model)
        change(model.blocks[0].conv1)
        assert [path for path, _ in inserted(model)] == paths
        changed = outputs(model)
        assert not torch.equal(changed, before)
        with attnsurgeon.disabled(model):
            off = outputs(model)
        assert not torch.equal(changed, off)  # it still acts, on the new weight
        assert torch.equal(outputs(copy.deepcopy(model)), changed)
        # The same by hand: the convolution's weight as it is now, excited by the module.
        conv: Any = model.blocks[0].conv1
        x = torch.randn(1, 5, 6, 7)
        with torch.no_grad():
            expected = nn.functional.conv2d(x, conv.attn(conv.weight), None, 1, 1)
            assert torch.equal(conv(x), expected)


@pytest.mark.parametrize(
    ("attn", "where", "path"),
    [
        ("we", "conv3x3", "blocks.0.conv1"),
        ("sc", "block-conv", "blocks.0.conv2"),
        ("csra", None, "fc"),
    ],
)
def test_a_layer_that_holds_attention_says_so_to_an_adapter(attn, where, path):
    model = operated(attn, where)
    layer = model.get_submodule(path)
    with pytest.raises(ModelError, match=rf"this {type(layer).__name__} holds attention \({attn}"):
        nn.ModuleDict({"base_layer": layer})  # the name under which PEFT has its layer
    assert not hasattr(layer, "base_layer")  # so PEFT asks all layers when it merges
    # Who lists its members, reads them or copies it sees nothing of that.
    assert "base_layer" not in dir(layer)
    assert dict(inspect.getmembers(layer))["weight"] is layer.weight
    assert torch.equal(outputs(copy.deepcopy(model)), outputs(model))
    # Layers without attention, blocks with it and the mechanism's own layers take adapters.
    for other in (bare().get_submodule(path), operated("eca", "residual-branch").blocks[0]):
        nn.ModuleDict({"base_layer": other})
    attnsurgeon.remove(model)
    nn.ModuleDict({"base_layer": model.get_submodule(path)})


def test_so_does_one_with_a_hook():
    row = attnsurgeon.insert(Row(), "eca", {"site": "conv"}, input_size=SIZE).model
    x = images()
    assert type(row.row[0]) is not nn.Conv2d
    assert isinstance(row.row[0], nn.Conv2d)
    with pytest.raises(ModelError, match=r"holds attention \(eca for row\.0"):
        nn.ModuleDict({"base_layer": row.row[0]})
    nn.ModuleDict({"base_layer": row.row[1]})
    assert torch.equal(copy.deepcopy(row)(x), row(x))
    attnsurgeon.remove(row, ["row.0"])
    assert type(row.row[0]) is nn.Conv2d


def test_a_classifier_that_is_replaced_is_none():
    model = operated("csra", init="paper")
    assert not isinstance(model.fc, nn.Linear)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
    assert outputs(model).shape == (4, 7)
    attnsurgeon.remove(model, refill=True)
    assert type(model.fc) is nn.Linear
    assert outputs(model).shape == (4, 7)
