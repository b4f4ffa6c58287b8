"""What a saved folder holds, and when it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import attnsurgeon
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.saved.origin import measure
from attnsurgeon.saved.save import check_output
from tests.saved import networks


@pytest.fixture
def spec(tmp_path) -> str:
    return f"{networks.write(tmp_path)}:make"


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "surgery.json").read_text())


def test_the_folder_says_what_was_done(spec, tmp_path):
    model = attnsurgeon.load_model(spec, classes=3)
    operation = attnsurgeon.insert(
        model,
        "se",
        {"site": "residual-branch"},
        attn_args={"reduction": 4},
        init="paper",
        input_size=(3, 20, 28),
    )
    path = operation.save(tmp_path / "out")
    record = record_of(path)

    assert path == tmp_path / "out"
    assert record["source"] == {
        "spec": spec,
        "model_args": {"classes": 3},
        "weights": "as built",
        "stripped": [],
    }
    assert record["base"]["sha256"] == measure(model).sha256
    (done,) = record["operations"]
    assert done["input_size"] == [3, 20, 28]
    assert "site: residual-branch" in done["rules"]
    assert [site["path"] for site in done["sites"]] == ["blocks.0.out", "blocks.1.out"]
    assert [site["module_path"] for site in done["sites"]] == ["blocks.0.attn", "blocks.1.attn"]
    for site in done["sites"]:
        assert (site["attn"], site["args"], site["init"]) == ("se", {"reduction": 4}, "paper")
        # Two linear layers with biases, 24 -> 6 -> 24.
        assert (site["channels"], site["params"]) == (24, 24 * 6 + 6 + 6 * 24 + 24)
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["attnsurgeon"] == attnsurgeon.__version__


def test_the_cost_in_the_folder_is_that_of_the_networks(spec, tmp_path):
    operation = networks.operated(spec)
    cost = record_of(operation.save(tmp_path / "out"))["cost"]

    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert cost["before"]["params"] == count(attnsurgeon.load_model(spec))
    assert cost["after"]["params"] == count(operation.model)
    assert cost["delta"]["params"] == cost["after"]["params"] - cost["before"]["params"] > 0
    assert cost["delta"]["macs"] == operation.cost.delta.macs > 0


def test_the_weights_are_the_state_dict_and_nothing_is_pickled(spec, tmp_path, monkeypatch):
    operation = networks.operated(spec)
    for name in ("pickle.dump", "pickle.dumps", "pickle.Pickler", "torch.save"):
        monkeypatch.setattr(name, lambda *args, **kwargs: 1 / 0)
    path = operation.save(tmp_path / "out")
    saved, state = load_file(path / "model.safetensors"), operation.model.state_dict()

    assert set(saved) == set(state)
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())
    assert sorted(os.listdir(path)) == [
        "README.md",
        "buffers.safetensors",
        "model.safetensors",
        "surgery.json",
    ]


def test_a_network_without_buffers_beside_its_state_has_no_file_of_them(tmp_path):
    operation = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "eca", "residual-branch")
    path = operation.save(tmp_path / "out")

    assert not (path / "buffers.safetensors").exists()
    assert record_of(path)["buffers"] is None


def test_saving_leaves_the_network_alone(spec, tmp_path):
    operation = networks.operated(spec)
    before = networks.outputs(operation.model)
    state = {name: tensor.clone() for name, tensor in operation.model.state_dict().items()}
    operation.save(tmp_path / "out")

    assert torch.equal(networks.outputs(operation.model), before)
    assert all(torch.equal(v, state[k]) for k, v in operation.model.state_dict().items())
    assert operation.model.training


def test_the_card_has_the_cost_the_sites_and_the_way_to_load(spec, tmp_path):
    operation = networks.operated(spec)
    card = (operation.save(tmp_path / "out") / "README.md").read_text()
    cost = operation.cost

    assert card.startswith("---\nlibrary_name: attnsurgeon\n")
    assert "model = attnsurgeon.load('out', trust=True)" in card
    for figure in (cost.before.params, cost.after.params, cost.after.macs):
        assert f"{figure:,}" in card
    for cut in operation.plan:
        assert f"| `{cut.site.path}` |" in card
        assert f"`{cut.module_path}`" in card
    assert "license of those who published them" in card


def test_the_card_of_a_network_of_unknown_origin_asks_for_the_base(tmp_path):
    networks.write(tmp_path)
    built = attnsurgeon.load_model(f"{tmp_path}/own_net.py:make")
    del built.__dict__["_attnsurgeon_source"]
    operation = attnsurgeon.insert(built, "se", "residual-branch", input_size=(3, 20, 28))
    path = operation.save(tmp_path / "out")

    assert record_of(path)["source"] is None
    assert "load('out', model=base)" in (path / "README.md").read_text()


def test_both_of_two_stacked_operations_are_written_down(spec, tmp_path):
    first = networks.operated(spec, attn="se")
    second = attnsurgeon.insert(first.model, "eca", {"site": "stem"}, input_size=(3, 20, 28))
    record = record_of(second.save(tmp_path / "out"))

    assert [done["attn"] for done in record["operations"]] == ["se", "eca"]
    assert record["base"]["sha256"] == first.origin.sha256


def test_overwriting_replaces_and_is_refused_unless_asked(spec, tmp_path):
    one, other = networks.operated(spec, attn="se"), networks.operated(spec, attn="eca")
    one.save(tmp_path / "out")
    with pytest.raises(UsageError, match="exists"):
        other.save(tmp_path / "out")
    assert record_of(tmp_path / "out")["operations"][0]["attn"] == "se"

    other.save(tmp_path / "out", overwrite=True)
    assert record_of(tmp_path / "out")["operations"][0]["attn"] == "eca"
    assert sorted(os.listdir(tmp_path)) == ["out", "own_net.py"]


STEPS = [
    "attnsurgeon.saved.weights.save_file",
    "attnsurgeon.saved.weights.sha256_of",
    "attnsurgeon.saved.save.json.dumps",
    "attnsurgeon.saved.save.write_card",
    "pathlib.Path.write_text",
    "os.fsync",
    "attnsurgeon.saved.folder._exchange",
]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_folder_of_before(
    spec, tmp_path, monkeypatch, step, error
):
    old = networks.operated(spec, attn="se").save(tmp_path / "out")
    before = {file.name: file.read_bytes() for file in old.iterdir()}
    new = networks.operated(spec, attn="eca")
    assert new.cost

    def failing(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, failing)
        with pytest.raises((UsageError, KeyboardInterrupt)):
            new.save(tmp_path / "out", overwrite=True)

    assert {file.name: file.read_bytes() for file in old.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["out", "own_net.py"]
    assert networks.outputs(attnsurgeon.load(old, trust=True)).isfinite().all()


@pytest.mark.parametrize("step", STEPS[:-1])
def test_a_first_save_that_fails_leaves_nothing(spec, tmp_path, monkeypatch, step):
    operation = networks.operated(spec)
    assert operation.cost

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        with pytest.raises(UsageError, match="No space left"):
            operation.save(tmp_path / "made" / "out")

    assert os.listdir(tmp_path) == ["own_net.py"]


def test_a_bad_path_is_refused_before_anything_is_hashed_or_packed(spec, tmp_path, monkeypatch):
    operation = networks.operated(spec)
    assert operation.cost
    (tmp_path / "file").touch()
    for name in ("find_source", "pack", "measure"):
        monkeypatch.setattr(f"attnsurgeon.saved.save.{name}", lambda *args, **kwargs: 1 / 0)

    with pytest.raises(UsageError, match="is a file"):
        operation.save(tmp_path / "file")
    with pytest.raises(UsageError, match="is a file"):
        check_output(tmp_path / "file")


def test_an_unknown_mode_is_refused_with_the_nearest(spec, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'adapter'"):
        networks.operated(spec).save(tmp_path / "out", mode="adaptor")


def test_a_network_on_meta_is_refused(spec, tmp_path):
    model = attnsurgeon.load_model(spec).to("meta")
    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 20, 28))

    with pytest.raises(UsageError, match="has no values"):
        operation.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_state_that_could_only_be_pickled_is_refused(spec, tmp_path):
    operation = networks.operated(spec)

    class Counting(nn.Identity):
        def get_extra_state(self):
            return {"seen": 3}

    blocks = operation.model.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    blocks.append(Counting())
    with pytest.raises(UsageError, match=r"blocks\.2\._extra_state is a dict.*pickled"):
        operation.save(tmp_path / "out")


def test_an_argument_that_json_cannot_hold_is_refused(spec, tmp_path):
    operation = networks.operated(spec)
    assert operation.cost
    operation.plan.cuts[0].attn_args["reduction"] = torch.ones(())  # type: ignore[index]
    operation.model.__dict__["_attnsurgeon_history"] = (operation.plan.record(),)

    with pytest.raises(UsageError, match="cannot be written down"):
        operation.save(tmp_path / "out")


def test_an_operation_whose_network_was_operated_again_is_refused(spec, tmp_path):
    first = networks.operated(spec)
    second = attnsurgeon.insert(
        first.model, "eca", {"site": "stem"}, input_size=(3, 20, 28), inplace=True
    )

    with pytest.raises(CheckFailed, match="operated on again"):
        first.save(tmp_path / "out")
    assert second.save(tmp_path / "out").is_dir()


def test_a_network_that_lost_attention_is_refused(spec, tmp_path):
    removed, replaced = networks.operated(spec), networks.operated(spec)
    attnsurgeon.remove(removed.model)
    replaced.model.get_submodule("blocks")[1] = nn.Identity()  # type: ignore[index]

    with pytest.raises(CheckFailed, match="no attention any more"):
        removed.save(tmp_path / "out")
    with pytest.raises(CheckFailed, match=r"has lost blocks\.1\.attn") as caught:
        replaced.save(tmp_path / "out")
    assert "audit" in (caught.value.hint or "")


# ------------------------------------------------------------------ adapters


@pytest.fixture
def published(tmp_path) -> str:
    return f"{networks.write(tmp_path)}:published"


def test_an_adapter_holds_the_attention_alone(published, tmp_path):
    operation = networks.operated(published, pretrained=True, randomised=False)
    path = operation.save(tmp_path / "out", mode="adapter")
    saved = load_file(path / "adapter.safetensors")

    assert set(saved) == {k for k in operation.model.state_dict() if ".attn." in k} != set()
    assert record_of(path)["weights"]["file"] == "adapter.safetensors"
    assert not (path / "model.safetensors").exists()
    assert "Only the weights of the attention are here" in (path / "README.md").read_text()


def test_an_adapter_of_a_checkpoint_names_the_file_in_its_card(spec, tmp_path):
    torch.save(attnsurgeon.load_model(spec).state_dict(), tmp_path / "base.pth")
    operation = networks.operated(spec, checkpoint=tmp_path / "base.pth", randomised=False)
    path = operation.save(tmp_path / "out", mode="adapter")

    assert "load('out', checkpoint='base.pth', trust=True)" in (path / "README.md").read_text()


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (lambda folder: attnsurgeon.load_model("test_resnet"), "random weights"),
        (lambda folder: nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU()), "not known"),
        (lambda folder: attnsurgeon.load_model(f"{folder}/own_net.py:make"), "does not give"),
    ],
)
def test_an_adapter_is_refused_where_the_base_could_not_be_had_again(tmp_path, loaded, why):
    networks.write(tmp_path)
    operation = attnsurgeon.insert(loaded(tmp_path), "eca", {"site": "act"}, input_size=(3, 32, 40))

    with pytest.raises(UsageError, match=why) as caught:
        operation.save(tmp_path / "out", mode="adapter")

    assert 'mode="full"' in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    assert operation.save(tmp_path / "out").is_dir()


def test_an_adapter_is_possible_where_the_users_code_always_builds_the_same(tmp_path):
    operation = networks.operated(f"{networks.write(tmp_path)}:fixed", randomised=False)

    assert operation.save(tmp_path / "out", mode="adapter").is_dir()


def test_an_adapter_is_refused_once_the_base_was_trained(published, tmp_path):
    operation = networks.operated(published, pretrained=True, randomised=False)
    operation.model(torch.randn(2, 3, 20, 28))  # in training mode: the statistics move

    with pytest.raises(UsageError, match=r"changed since .*bn\.\w+.* and 3 more") as caught:
        operation.save(tmp_path / "out", mode="adapter")
    assert "freeze_backbone" in (caught.value.hint or "")


def test_an_adapter_is_refused_where_the_base_was_trained_before_the_operation(published, tmp_path):
    model = attnsurgeon.load_model(published, pretrained=True)
    networks.randomise(model)
    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 20, 28))

    with pytest.raises(UsageError, match="does not give the weights"):
        operation.save(tmp_path / "out", mode="adapter")


def test_an_adapter_is_refused_where_the_base_is_gone(published, tmp_path):
    operation = networks.operated(published, pretrained=True, randomised=False)
    (tmp_path / "own_net.py").unlink()

    with pytest.raises(UsageError, match="not known"):
        operation.save(tmp_path / "out", mode="adapter")
