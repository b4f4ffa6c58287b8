"""Everything of a checkpoint but its head: the commonest wish of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models import left_random, load_model, source_of
from tests.cli.command import attnsurgeon as run

MINE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, pretrained=False, num_classes=3):
        super().__init__()
        self.body = nn.Conv2d(3, 10, 3)
        self.first = nn.Linear(10, num_classes)
        self.middle = nn.Linear(10, 10)
        self.second = nn.Conv2d(10, 2 * num_classes, 1)
        self.num_classes = num_classes
        if pretrained:
            for parameter in self.parameters():
                nn.init.constant_(parameter, 0.5)

    def forward(self, x):
        x = self.body(x)
        y = self.middle(x.mean((2, 3)))
        return self.first(y), self.second(x)


def headless():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
"""


def filled(model: nn.Module) -> dict[str, torch.Tensor]:
    """The network's state with other values everywhere than any start gives."""
    return {
        name: torch.full_like(value, 0.25 + i)
        for i, (name, value) in enumerate(model.state_dict().items())
    }


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("spec", "args", "head"),
    [
        ("test_resnet", {}, {"fc.weight", "fc.bias"}),
        ("test_resnet", {"num_classes": 0}, {"fc.weight", "fc.bias"}),
        ("test_vit", {}, {"head.weight", "head.bias"}),
    ],
)
def test_everything_but_the_head_is_taken(tmp_path, spec, args, head):
    theirs = timm.create_model(spec, **args)
    state = filled(theirs)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="does not fit"):
        load_model(spec, checkpoint=tmp_path / "w.pth", num_classes=10)

    torch.manual_seed(5)
    fresh = load_model(spec, num_classes=10).state_dict()
    torch.manual_seed(5)
    model = load_model(spec, checkpoint=tmp_path / "w.pth", num_classes=10, new_head=True)

    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name] if name in head else state[name]), name
    assert {*left_random(model)} == head
    source = source_of(model)
    assert source is not None
    (said,) = [note for note in source.notes if "new head" in note]
    assert all(name in said for name in head)


def test_several_heads_of_your_own_network_are_found_whatever_they_are_called(mine, tmp_path):
    spec = f"{mine}:Net"
    torch.save(filled(load_model(spec)), tmp_path / "w.pth")
    model = load_model(spec, checkpoint=tmp_path / "w.pth", num_classes=10, new_head=True)
    assert {*left_random(model)} == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert torch.equal(model.state_dict()["middle.bias"], torch.full((10,), 5.25))


def test_published_weights_of_any_factory_keep_all_but_the_head(mine):
    model = load_model(f"{mine}:Net", pretrained=True, num_classes=10, new_head=True)
    kept = {name for name, value in model.state_dict().items() if bool((value == 0.5).all())}
    assert kept == {"body.weight", "body.bias", "middle.weight", "middle.bias"}
    source = source_of(model)
    assert source is not None
    assert (source.weights, source.model_args) == ("pretrained", {"num_classes": 10})


@pytest.mark.slow
def test_nothing_else_may_be_missing(tmp_path):
    state = filled(timm.create_model("test_resnet"))
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"1 of its keys missing.*\n.*layer1\.0\.conv1\.weight"):
        load_model("test_resnet", checkpoint=tmp_path / "w.pth", num_classes=10, new_head=True)


def test_a_network_without_a_head_has_none_that_could_be_new(mine, tmp_path):
    spec = f"{mine}:headless"
    torch.save(load_model(spec).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="has no head that could be new"):
        load_model(spec, checkpoint=tmp_path / "w.pth", new_head=True)


def test_a_new_head_is_about_weights():
    with pytest.raises(UsageError, match="there are none to load"):
        load_model("test_resnet", new_head=True)
    assert run("insert", "test_resnet", "--attn", "se", "--new-head").code == 2


def test_the_misfit_names_the_way(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        load_model("test_resnet", checkpoint=tmp_path / "w.pth", num_classes=10)
    assert "new_head=True" in (caught.value.hint or "")
    assert "--new-head" in (caught.value.command or "")


def test_a_new_head_is_trained_first_and_kept_in_a_folder_but_in_no_adapter(tmp_path):
    torch.save(filled(timm.create_model("test_resnet")), tmp_path / "w.pth")
    model = load_model("test_resnet", checkpoint=tmp_path / "w.pth", num_classes=10, new_head=True)
    operation = attnsurgeon.insert(model, "eca", "residual-branch")
    with pytest.raises(UsageError, match=r"fc\.weight, fc\.bias of the base network started"):
        operation.save(tmp_path / "adapter", mode="adapter")
    operation.save(tmp_path / "full")
    again = attnsurgeon.load(tmp_path / "full")
    for name, value in operation.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])

    attnsurgeon.freeze_backbone(operation.model)
    free = {name for name, p in operation.model.named_parameters() if p.requires_grad}
    assert {"fc.weight", "fc.bias"} <= free
    assert "conv1.weight" not in free


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_the_command_line_takes_a_new_head_and_a_dry_run_looks_at_the_file(tmp_path, dry):
    file = tmp_path / "w.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    words = ("insert", "test_resnet", "--attn", "eca", "--where", "residual-branch", *dry)
    words = (*words, "--checkpoint", file, "--model-arg", "num_classes=10", "--json")
    refused = run(*words)
    assert refused.code == 3
    assert "--new-head" in refused.err
    done = run(*words, "--new-head")
    assert done.code == 0
    assert "new head: fc.weight, fc.bias" in done.err
    assert done.json()["sites"]
