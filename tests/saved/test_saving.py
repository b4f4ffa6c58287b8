"""`attnsurgeon.save`: whatever carries its history is saved, however it came about."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import attnsurgeon
from attnsurgeon.errors import CheckFailed, SurgeonError, UsageError
from attnsurgeon.models import source_of
from attnsurgeon.saved import restore
from attnsurgeon.saved.save import save_without
from attnsurgeon.splicing.history import history, inserted
from tests.saved import networks
from tests.saved.test_restore import kinds

load = functools.partial(restore.load, trust=True)
SIZE = (3, 20, 28)


@pytest.fixture
def spec(tmp_path) -> str:
    return f"{networks.write(tmp_path)}:make"


def trained(model: nn.Module) -> nn.Module:
    """The network after a step that moved every weight, and its statistics."""
    networks.randomise(model, seed=9)
    return model


def assert_comes_back(model: nn.Module, path: Path, size=(2, *SIZE), **how) -> nn.Module:
    assert attnsurgeon.save(model, path) == path
    again = load(path, **how)
    networks.assert_same(again, model)
    assert kinds(again) == kinds(model)
    assert history(again) == history(model)
    assert torch.equal(networks.outputs(again, size), networks.outputs(model, size))
    return again


def test_however_it_came_about_it_comes_back(spec, tmp_path):
    made = networks.operated(spec).model
    loaded = load(attnsurgeon.save(made, tmp_path / "first"))
    for at, model in enumerate(
        (made, loaded, copy.deepcopy(made), pickle.loads(pickle.dumps(loaded)))
    ):
        assert_comes_back(trained(model), tmp_path / f"again-{at}")


@pytest.mark.slow
def test_what_a_loaded_network_was_operated_with_later_is_saved_too(spec, tmp_path):
    first = load(attnsurgeon.save(networks.operated(spec).model, tmp_path / "first"))
    both = attnsurgeon.insert(first, "eca", "residual-branch", input_size=SIZE).model
    again = assert_comes_back(trained(both), tmp_path / "both")
    assert [record["attn"] for record in history(again)] == ["se", "eca"]
    assert len(list(inserted(again))) == 4


def test_a_part_taken_out_is_not_in_the_folder(spec, tmp_path):
    model = trained(networks.operated(spec).model)
    attnsurgeon.remove(model, "blocks.0.*")
    again = assert_comes_back(model, tmp_path / "out")
    assert [path for path, _ in inserted(again)] == ["blocks.1.attn"]


@pytest.mark.parametrize("new", ["reset_classifier", "by hand"])
def test_another_classifier_comes_back(new, tmp_path):
    model = attnsurgeon.insert(timm.create_model("test_resnet"), "eca", "residual-branch").model
    if new == "by hand":
        model.fc = nn.Linear(model.fc.in_features, 13)
    else:
        model.reset_classifier(13)
    again = assert_comes_back(trained(model), tmp_path / "out", (2, 3, 64, 64))
    assert again.num_classes == 13


@pytest.mark.slow
def test_another_classifier_of_torchvision_comes_back(tmp_path):
    base = torchvision.models.mobilenet_v3_small()
    model = attnsurgeon.insert(
        attnsurgeon.load_model("torchvision:mobilenet_v3_small"), "eca", "residual-branch"
    ).model
    model.classifier[3] = nn.Linear(base.classifier[3].in_features, 13)
    again = assert_comes_back(trained(model), tmp_path / "out", (2, 3, 64, 64))
    assert source_of(again).model_args == {"num_classes": 13}


@pytest.mark.slow
def test_a_head_that_no_argument_makes_needs_the_base(tmp_path):
    model = attnsurgeon.insert(timm.create_model("test_resnet"), "eca", "residual-branch").model
    base = timm.create_model("test_resnet")
    for net in (model, base):
        net.fc = nn.Sequential(nn.Linear(net.fc.in_features, 7), nn.ReLU(), nn.Linear(7, 3))
    attnsurgeon.save(trained(model), tmp_path / "out")
    with pytest.raises(SurgeonError, match="does not know how to build"):
        load(tmp_path / "out")
    networks.assert_same(load(tmp_path / "out", model=base), model)


@pytest.mark.slow
def test_the_folder_prices_all_attention_against_none(spec, tmp_path):
    first = networks.operated(spec)
    second = attnsurgeon.insert(first.model, "eca", "residual-branch", input_size=SIZE)
    costs = []
    for name, write in [
        ("method", second.save),
        ("function", functools.partial(attnsurgeon.save, second.model)),
    ]:
        write(tmp_path / name)
        costs.append(json.loads((tmp_path / name / "surgery.json").read_text())["cost"])
    assert costs[0] == costs[1]
    assert costs[0]["before"]["macs"] == first.cost.before.macs
    assert costs[0]["after"]["macs"] == second.cost.after.macs
    assert costs[0]["delta"]["params"] == first.cost.delta.params + second.cost.delta.params


def test_the_folder_is_the_one_that_the_operation_writes(spec, tmp_path):
    operation = networks.operated(spec)
    operation.save(tmp_path / "one")
    attnsurgeon.save(operation.model, tmp_path / "two")
    one, two = (json.loads((tmp_path / n / "surgery.json").read_text()) for n in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_an_adapter_of_a_loaded_network_is_saved(spec, tmp_path):
    published = spec.replace(":make", ":published")
    made = networks.operated(published, pretrained=True, randomised=False)
    loaded = load(made.save(tmp_path / "full"))
    attnsurgeon.save(loaded, tmp_path / "adapter", mode="adapter")
    networks.assert_same(load(tmp_path / "adapter"), made.model)
    with pytest.raises(UsageError, match="weights of the base network changed"):
        attnsurgeon.save(trained(loaded), tmp_path / "no", mode="adapter")


def test_what_has_no_attention_is_refused(spec, tmp_path):
    model = attnsurgeon.load_model(spec)
    with pytest.raises(UsageError, match="has no attention in it") as raised:
        attnsurgeon.save(model, tmp_path / "out")
    assert "attnsurgeon.insert" in raised.value.hint
    made = networks.operated(spec).model
    attnsurgeon.remove(made)
    with pytest.raises(UsageError, match="has no attention in it"):
        attnsurgeon.save(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_stands_around_the_network_is_refused_and_told_where_it_is(spec, tmp_path):
    made = networks.operated(spec).model
    for around in (torch.compile(made), nn.DataParallel(made), nn.ModuleDict({"net": made})):
        inside = next(path for path, module in around.named_modules() if module is made)
        with pytest.raises(UsageError, match="is not the network that was operated") as raised:
            attnsurgeon.save(around, tmp_path / "out")
        assert f"model.get_submodule({inside!r})" in raised.value.hint


def test_attention_that_was_lost_is_not_saved_in_silence(spec, tmp_path):
    made = networks.operated(spec).model
    made.blocks[0].attn = nn.Identity()
    with pytest.raises(CheckFailed, match=r"it has lost blocks\.0\.attn"):
        attnsurgeon.save(made, tmp_path / "out")


def test_a_folder_that_is_there_is_not_replaced_unasked(spec, tmp_path):
    made = networks.operated(spec).model
    attnsurgeon.save(made, tmp_path / "out")
    with pytest.raises(UsageError, match="exists"):
        attnsurgeon.save(made, tmp_path / "out")
    attnsurgeon.save(made, tmp_path / "out", overwrite=True)
    with pytest.raises(SurgeonError, match="is not a way to save"):
        attnsurgeon.save(made, tmp_path / "new", mode="ful")


@pytest.mark.slow
def test_a_training_checkpoint_goes_into_a_fresh_copy(spec, tmp_path):
    """The state dict, what Lightning writes, and what timm's saver writes."""
    made = networks.operated(spec).model
    attnsurgeon.save(made, tmp_path / "out")
    after = trained(copy.deepcopy(made))
    state = after.state_dict()
    lightning = {
        "epoch": 3,
        "global_step": 99,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
        "optimizer_states": [{"state": {}, "param_groups": []}],
    }
    timm_saver = {"epoch": 3, "arch": "net", "state_dict": state, "version": 2, "metric": 71.0}
    for name, kept in [("state", state), ("lightning", lightning), ("timm", timm_saver)]:
        torch.save(kept, tmp_path / f"{name}.pth")
        again = load(tmp_path / "out", checkpoint=tmp_path / f"{name}.pth")
        networks.assert_same(again, after)
        assert_comes_back(again, tmp_path / f"out-{name}")


class Timed(nn.Module):
    """A residual block that is also told a time, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.time = nn.Embedding(11, 16)

    def forward(self, x: torch.Tensor, *, step: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv1(x)) + self.time(step)[:, :, None, None]
        return x + self.conv2(torch.relu(y))


def test_inputs_that_are_no_images_are_kept_also_where_no_attention_is_left(tmp_path):
    example = (torch.randn(2, 16, 12, 12), {"step": torch.tensor([10, 3])})
    base = Timed()
    model = attnsurgeon.insert(base, "se", "residual-branch", example=example).model
    again = load(attnsurgeon.save(model, tmp_path / "out"), model=base)
    networks.assert_same(again, model)
    form = restore.read_folder(tmp_path / "out").form
    attnsurgeon.remove(model)
    save_without(model, tmp_path / "bare", form, overwrite=False)
    assert restore.read_folder(tmp_path / "bare").form == form
    networks.assert_same(load(tmp_path / "bare", model=base), base)


# ------------------------------------------------------------------ what a report wants to know

SOONER, LATER = ("sk", "aw", "dia"), ("eca", "atac", "aff", "csra")  # one of each kind


@pytest.mark.parametrize(
    ("attn", "init"),
    [
        *((attn, "identity") for attn in SOONER),
        *(pytest.param(attn, "paper", marks=pytest.mark.slow) for attn in SOONER),
        *(
            pytest.param(attn, init, marks=pytest.mark.slow)
            for attn in LATER
            for init in ("identity", "paper")
        ),
    ],
)
def test_a_network_alone_says_the_same_of_its_sites_as_its_operation(attn, init, tmp_path):
    """`Operation.save` knows the plan; `save` has only what the network remembers."""
    operation = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), attn, init=init)
    operation.save(tmp_path / "known")
    attnsurgeon.save(operation.model, tmp_path / "remembered")
    known, remembered = (
        json.loads((tmp_path / name / "surgery.json").read_text())
        for name in ("known", "remembered")
    )
    assert remembered["cost"] == known["cost"]
    assert remembered["network"] == known["network"]
    assert len(known["cost"]["per_site"]) >= len(operation.plan)
    assert sum(one["macs"] for one in known["cost"]["per_site"]) == known["cost"]["delta"]["macs"]


def test_of_several_operations_each_site_has_its_price(spec, tmp_path):
    first = networks.operated(spec, attn="eca")
    second = attnsurgeon.insert(first.model, "se", "residual-branch", input_size=SIZE)
    record = json.loads((second.save(tmp_path / "out") / "surgery.json").read_text())
    prices = record["cost"]["per_site"]
    paths = [site["module_path"] for made in record["operations"] for site in made["sites"]]
    assert [price["module_path"] for price in prices] == paths
    added = sum(price["params"] for price in prices)
    assert added == record["cost"]["delta"]["params"]
