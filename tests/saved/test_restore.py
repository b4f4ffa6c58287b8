"""What was saved comes back bit-equal, or is refused with a reason."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError, SurgeonError, UsageError
from attnsurgeon.models import source_of
from attnsurgeon.saved import restore
from attnsurgeon.saved.restore import read_folder
from attnsurgeon.saved.weights import sha256_of
from attnsurgeon.splicing.history import history, inserted
from tests.saved import networks

load = functools.partial(restore.load, trust=True)  # the networks here are of the user's own code


@pytest.fixture
def spec(tmp_path) -> str:
    return f"{networks.write(tmp_path)}:make"


def kinds(model: nn.Module) -> list[tuple[str, str]]:
    return [(path, type(module).__name__) for path, module in model.named_modules()]


def assert_round_trip(operation: attnsurgeon.Operation, path: Path, **how: Any) -> Any:
    """Saves, loads and compares everything; returns the loaded network."""
    size = (2, *operation.plan.record()["input_size"])
    wanted = networks.outputs(operation.model, size)
    loaded = load(operation.save(path), **how)

    networks.assert_same(loaded, operation.model)
    assert kinds(loaded) == kinds(operation.model)
    assert torch.equal(networks.outputs(loaded, size), wanted)
    assert history(loaded) == history(operation.model)
    return loaded


@pytest.mark.parametrize("attn", ["se", "eca", "cbam", "bam", "coord", "simam", "scse", "srm"])
def test_every_mechanism_comes_back_bit_equal(spec, tmp_path, attn):
    assert_round_trip(networks.operated(spec, attn=attn), tmp_path / "out")


@pytest.mark.parametrize("init", ["identity", "paper"])
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet.r160_in1k",
        pytest.param("torchvision:mobilenet_v3_small", marks=pytest.mark.slow),
    ],
)
def test_networks_of_timm_and_torchvision_come_back(name, init, tmp_path):
    model = attnsurgeon.load_model(name, num_classes=7)
    operation = attnsurgeon.insert(model, "se", "residual-branch", init=init)
    networks.randomise(operation.model)
    loaded = assert_round_trip(operation, tmp_path / "out")

    assert source_of(loaded) == source_of(model)
    assert type(loaded) is type(model)


def test_a_network_that_timm_built_comes_back_without_our_note(tmp_path):
    model = timm.create_model("test_resnet.r160_in1k", in_chans=1)
    operation = attnsurgeon.insert(model, "eca", "residual-branch")

    assert_round_trip(operation, tmp_path / "out")


def test_a_classifier_replaced_after_the_operation_comes_back(tmp_path):
    model = attnsurgeon.load_model("test_resnet")
    operation = attnsurgeon.insert(model, "eca", "residual-branch")
    operation.model.reset_classifier(13)  # type: ignore[operator]

    loaded = assert_round_trip(operation, tmp_path / "out")
    assert loaded.get_classifier().out_features == 13


def test_two_stacked_operations_come_back(spec, tmp_path):
    first = networks.operated(spec, attn="se")
    second = attnsurgeon.insert(first.model, "cbam", "residual-branch", input_size=(3, 20, 28))
    networks.randomise(second.model)
    loaded = assert_round_trip(second, tmp_path / "out")

    assert [type(m).__name__ for _, m in inserted(loaded)].count("SE") == 2
    assert len(list(inserted(loaded))) == 4


def test_two_rules_at_one_site_come_back_in_their_order(spec, tmp_path):
    rules = tmp_path / "two.yaml"
    rules.write_text(
        "version: 1\nrules:\n"
        "- {id: a, match: {site: residual-branch}, attn: se}\n"
        "- {id: b, match: {site: residual-branch}, attn: {type: eca, kernel_size: 5}}\n"
    )
    model = attnsurgeon.load_model(spec)
    operation = attnsurgeon.insert(model, rules=rules, input_size=(3, 20, 28))
    networks.randomise(operation.model)

    assert_round_trip(operation, tmp_path / "out")


def test_sites_chosen_by_a_function_come_back(spec, tmp_path):
    model = attnsurgeon.load_model(spec)
    operation = attnsurgeon.insert(
        model, "se", lambda site: site.path == "blocks.1.out", input_size=(3, 20, 28)
    )
    networks.randomise(operation.model)

    assert len(operation.plan) == 1
    assert_round_trip(operation, tmp_path / "out")


def test_refused_sites_are_remembered(spec, tmp_path):
    operation = attnsurgeon.insert(
        attnsurgeon.load_model(spec),
        "se",
        {"site": "conv"},
        attn_args={"reduction": 20},  # more than the 17 channels inside the blocks
        input_size=(3, 20, 28),
    )
    networks.randomise(operation.model)
    loaded = assert_round_trip(operation, tmp_path / "out")

    refused = [refusal["path"] for refusal in history(loaded)[0]["refused"]]
    assert refused == ["blocks.0.conv", "blocks.1.conv"]


HOOKED = """
import torch
from torch import nn
from own_net import Block


class Tight(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = nn.Sequential(Block(24), Block(24))

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError("too bright")
        return self.blocks(self.stem(x)).mean((2, 3))
"""


def test_attention_that_hangs_on_a_hook_comes_back(spec, tmp_path):
    (tmp_path / "tight.py").write_text(HOOKED)
    model = attnsurgeon.load_model(f"{tmp_path}/tight.py:Tight")
    operation = attnsurgeon.insert(model, "se", {"name": "stem"}, input_size=(3, 20, 28))
    networks.randomise(operation.model)

    assert [cut.place.technique for cut in operation.plan] == ["output-hook"]
    loaded = assert_round_trip(operation, tmp_path / "out")
    assert len(loaded.stem._forward_hooks) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to(memory_format=torch.channels_last),
        lambda net: net.bfloat16(),
        lambda net: net.double(),
        lambda net: net.eval(),
        lambda net: net.requires_grad_(False),
    ],
    ids=["channels_last", "bfloat16", "double", "eval", "frozen"],
)
def test_a_network_converted_after_the_operation_comes_back(spec, tmp_path, change):
    operation = networks.operated(spec)
    change(operation.model)
    assert_round_trip(operation, tmp_path / "out")


def test_a_network_of_several_types_comes_back(spec, tmp_path):
    operation = networks.operated(spec)
    operation.model.get_submodule("blocks.0").half()
    operation.model.get_submodule("head").double()

    networks.assert_same(load(operation.save(tmp_path / "out")), operation.model)


def test_a_network_converted_before_the_operation_comes_back(spec, tmp_path):
    model = attnsurgeon.load_model(spec).bfloat16().to(memory_format=torch.channels_last)
    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 20, 28))
    networks.randomise(operation.model)

    assert_round_trip(operation, tmp_path / "out")


def test_trained_weights_come_back(spec, tmp_path):
    operation = networks.operated(spec, randomised=False)
    optimiser = torch.optim.SGD(operation.model.parameters(), lr=0.1)
    start = copy.deepcopy(operation.model.state_dict())
    for _ in range(2):
        optimiser.zero_grad()
        operation.model(torch.randn(2, 3, 20, 28)).square().sum().backward()
        optimiser.step()

    moved = [k for k, v in operation.model.state_dict().items() if not torch.equal(v, start[k])]
    assert len(moved) > 10
    assert_round_trip(operation, tmp_path / "out")


def test_tied_weights_stay_tied(spec, tmp_path):
    operation = networks.operated(spec)
    one, other = (operation.model.get_submodule(f"blocks.{i}.conv") for i in (0, 1))
    other.weight = one.weight
    loaded = assert_round_trip(operation, tmp_path / "out")

    assert loaded.blocks[0].conv.weight is loaded.blocks[1].conv.weight
    assert "blocks.1.conv.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_buffer_outside_the_state_dict_comes_back_as_it_was_left(spec, tmp_path):
    operation = networks.operated(spec)
    operation.model.table.mul_(3)  # type: ignore[operator, union-attr]

    assert_round_trip(operation, tmp_path / "out")


def test_the_loaded_network_is_fresh_from_its_factory_and_leaves_no_trace(spec, tmp_path):
    operation = networks.operated(spec)
    operation.model.eval().requires_grad_(False)
    path = operation.save(tmp_path / "out")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    loaded = load(path)

    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in loaded.modules())
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())


def test_the_loaded_network_can_be_copied_pickled_verified_and_trained(spec, tmp_path):
    loaded = load(networks.operated(spec).save(tmp_path / "out"))
    wanted = networks.outputs(loaded)

    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(networks.outputs(twin), wanted)
    assert attnsurgeon.audit(loaded, input_size=(3, 20, 28)).ok
    loaded(torch.randn(2, 3, 20, 28)).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_loaded_network_can_be_operated_and_saved_again(spec, tmp_path):
    first = networks.operated(spec, attn="se")
    loaded = load(first.save(tmp_path / "one"))
    second = attnsurgeon.insert(loaded, "eca", {"site": "stem"}, input_size=(3, 20, 28))
    networks.randomise(second.model)

    again = assert_round_trip(second, tmp_path / "two")
    assert second.origin.sha256 == first.origin.sha256
    assert source_of(again) == source_of(first.model)


def test_a_loaded_network_becomes_the_original_when_the_attention_is_removed(spec, tmp_path):
    operation = networks.operated(spec)
    loaded = load(operation.save(tmp_path / "out"))
    attnsurgeon.remove(loaded)
    attnsurgeon.remove(operation.model)

    networks.assert_same(loaded, operation.model)
    assert kinds(loaded) == kinds(attnsurgeon.load_model(spec))


def test_a_moved_folder_loads(spec, tmp_path, monkeypatch):
    operation = networks.operated(spec)
    operation.save(tmp_path / "out")
    (tmp_path / "other").mkdir()
    shutil.move(tmp_path / "out", tmp_path / "other" / "renamed")
    monkeypatch.chdir(tmp_path / "other")

    networks.assert_same(load("renamed"), operation.model)


# ------------------------------------------------------------------ the base is given


def test_a_network_of_unknown_origin_needs_its_base_and_takes_a_copy(spec, tmp_path):
    base = attnsurgeon.load_model(spec, classes=3)
    del base.__dict__["_attnsurgeon_source"]
    operation = attnsurgeon.insert(base, "se", "residual-branch", input_size=(3, 20, 28))
    networks.randomise(operation.model)
    path = operation.save(tmp_path / "out")

    with pytest.raises(
        ModelError, match="does not know how to build its base network, a"
    ) as caught:
        load(path)
    assert "model=base" in (caught.value.hint or "")

    fresh = attnsurgeon.load_model(spec, classes=3)
    before = copy.deepcopy(fresh)
    networks.assert_same(load(path, model=fresh), operation.model)
    networks.assert_same(fresh, before)


def test_a_base_of_another_kind_is_refused_with_the_differences(spec, tmp_path):
    path = networks.operated(spec).save(tmp_path / "out")

    with pytest.raises(ModelError, match=r"blocks\.0\.out: channels was 24, is 32"):
        load(path, model=attnsurgeon.load_model(spec, width=32))
    with pytest.raises(ModelError, match=r"blocks\.0\.out: there is no such site"):
        load(path, model=attnsurgeon.load_model("test_resnet"))
    with pytest.raises(ModelError, match=r"head\.weight has the shape \(5, 24\), not \(3, 24\)"):
        load(path, model=attnsurgeon.load_model(spec, classes=3))


def test_a_base_with_attention_in_it_is_refused(spec, tmp_path):
    operation = networks.operated(spec)

    with pytest.raises(ModelError, match="already"):
        load(operation.save(tmp_path / "out"), model=operation.model)


def test_a_factory_that_changed_since_is_refused(spec, tmp_path):
    path = networks.operated(spec).save(tmp_path / "out")
    file = tmp_path / "own_net.py"
    file.write_text(file.read_text().replace("self.out = nn.Conv2d(17", "self.exit = nn.Conv2d(17"))
    file.write_text(file.read_text().replace("self.out(", "self.exit("))

    with pytest.raises(ModelError, match=r"blocks\.0\.out: there is no such site") as caught:
        load(path)
    assert "timm" in (caught.value.hint or "")


def test_a_site_that_can_no_longer_be_cut_the_same_way_is_refused(spec, tmp_path):
    path = networks.operated(spec).save(tmp_path / "out")
    file = tmp_path / "own_net.py"
    file.write_text(
        file.read_text().replace(
            "        return torch.relu(x + self.out(",
            "        if x.sum() > 1e9:\n            raise ValueError\n"
            "        return torch.relu(x + self.out(",
        )
    )

    with pytest.raises(ModelError, match="technique was retype, is output-hook"):
        load(path)


def test_a_base_that_is_gone_says_what_else_can_be_done(spec, tmp_path):
    path = networks.operated(spec).save(tmp_path / "out")
    (tmp_path / "own_net.py").rename(tmp_path / "moved_net.py")

    with pytest.raises(ModelError, match=r"there is no file .*own_net\.py") as caught:
        load(path)
    assert "model=base" in (caught.value.hint or "")
    base = attnsurgeon.load_model(f"{tmp_path}/moved_net.py:make")
    assert load(path, model=base)


# ------------------------------------------------------------------ adapters


@pytest.fixture
def adapter(tmp_path) -> tuple[attnsurgeon.Operation, Path]:
    operation = networks.operated(
        f"{networks.write(tmp_path)}:published", pretrained=True, randomised=False
    )
    for _, module in inserted(operation.model):
        networks.randomise(module)
    return operation, operation.save(tmp_path / "out", mode="adapter")


def test_an_adapter_comes_back_on_its_base(adapter):
    operation, path = adapter
    loaded = load(path)

    networks.assert_same(loaded, operation.model)
    assert torch.equal(networks.outputs(loaded), networks.outputs(operation.model))
    assert source_of(loaded) == source_of(operation.model)


def test_an_adapter_of_a_converted_base_comes_back(tmp_path):
    spec = f"{networks.write(tmp_path)}:published"
    model = attnsurgeon.load_model(spec, pretrained=True)
    model = model.bfloat16().to(memory_format=torch.channels_last)
    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(3, 20, 28))
    for _, module in inserted(operation.model):
        networks.randomise(module)

    networks.assert_same(load(operation.save(tmp_path / "out", mode="adapter")), operation.model)


def test_an_adapter_goes_on_a_base_that_is_given_only_if_it_has_the_same_weights(adapter):
    operation, path = adapter
    spec = source_of(operation.model).spec  # type: ignore[union-attr]
    right = attnsurgeon.load_model(spec, pretrained=True)
    networks.assert_same(load(path, model=right), operation.model)

    wrong = attnsurgeon.load_model(spec, pretrained=True, seed=12)
    with pytest.raises(ModelError, match="does not have the weights"):
        load(path, model=wrong)
    right.head.bias.data[3] += 1e-6  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match="sha256 differs"):
        load(path, model=right)


def test_an_adapter_of_a_checkpoint_needs_that_file(spec, tmp_path):
    for name in ("base", "other"):
        torch.save(attnsurgeon.load_model(spec).state_dict(), tmp_path / f"{name}.pth")
    operation = networks.operated(spec, checkpoint=tmp_path / "base.pth", randomised=False)
    path = operation.save(tmp_path / "out", mode="adapter")

    networks.assert_same(load(path, checkpoint=tmp_path / "base.pth"), operation.model)
    with pytest.raises(ModelError, match=r"with the weights of checkpoint base\.pth"):
        load(path)
    with pytest.raises(ModelError, match="sha256 differs"):
        load(path, checkpoint=tmp_path / "other.pth")


def test_a_checkpoint_that_would_not_be_used_is_refused(spec, tmp_path, adapter):
    full = networks.operated(spec).save(tmp_path / "full")
    torch.save(attnsurgeon.load_model(spec).state_dict(), tmp_path / "base.pth")

    for path, how in [
        (full, {}),
        (adapter[1], {}),
        (full, {"model": attnsurgeon.load_model(spec)}),
    ]:
        with pytest.raises(UsageError, match="needs no checkpoint"):
            load(path, checkpoint=tmp_path / "base.pth", **how)


def trained_since(operation: attnsurgeon.Operation) -> nn.Module:
    """The operated network as it may be after a training: every number is another."""
    model = copy.deepcopy(operation.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
            else:
                value.fill_(9)
    return model


@pytest.mark.parametrize("mode", ["full", pytest.param("adapter", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kept",
    [
        lambda model: model.state_dict(),
        lambda model: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in
                                                  model.state_dict().items()}},
        lambda model: model,
        lambda model: {"net": nn.DataParallel(model)},
    ],
    ids=["state dict", "trainer", "whole", "whole in parallel"],
)  # fmt: skip
def test_weights_trained_since_go_into_a_fresh_copy_of_their_folder(
    spec, tmp_path, adapter, mode, kept
):
    if mode == "adapter":
        operation, path = adapter
    else:
        operation = networks.operated(spec)
        path = operation.save(tmp_path / "full")
    model = trained_since(operation)
    torch.save(kept(model), tmp_path / "trained.pth")
    loaded = load(path, checkpoint=tmp_path / "trained.pth")
    networks.assert_same(loaded, model)
    assert history(loaded) == history(operation.model)
    given = load(path, model=attnsurgeon.load_model(spec), checkpoint=tmp_path / "trained.pth")
    networks.assert_same(given, model)


def test_weights_trained_since_that_lack_something_are_refused(spec, tmp_path):
    operation = networks.operated(spec)
    path = operation.save(tmp_path / "full")
    state = trained_since(operation).state_dict()
    del state["head.weight"]
    torch.save(state, tmp_path / "trained.pth")
    with pytest.raises(ModelError, match=r"missing: head\.weight"):
        load(path, checkpoint=tmp_path / "trained.pth")
    loaded = load(path, checkpoint=tmp_path / "trained.pth", partial=True)
    source = source_of(loaded)
    assert source is not None
    assert "1 tensor stays as the network was built: head.weight" in source.notes[0]
    saved = operation.model.state_dict()["head.weight"]
    assert torch.equal(loaded.state_dict()["head.weight"], saved)


def test_what_was_saved_after_surgery_is_sent_to_its_folder(spec, tmp_path):
    operation = networks.operated(spec)
    for name, value in [
        ("state.pth", operation.model.state_dict()),
        ("whole.pth", operation.model),
    ]:
        torch.save(value, tmp_path / name)
        with pytest.raises(ModelError, match=r"surgery") as caught:
            attnsurgeon.load_model(spec, checkpoint=tmp_path / name)
        assert "attnsurgeon.load(DIR, checkpoint=" in str(caught.value.hint)
        assert "attnsurgeon verify DIR --checkpoint" in str(caught.value.command)


def test_a_loaded_adapter_can_be_operated_and_saved_as_an_adapter_again(adapter, tmp_path):
    operation, path = adapter
    second = attnsurgeon.insert(load(path), "eca", {"site": "stem"}, input_size=(3, 20, 28))

    assert second.origin.sha256 == operation.origin.sha256
    again = second.save(tmp_path / "again", mode="adapter")
    networks.assert_same(load(again), second.model)


# ------------------------------------------------------------------ damaged folders


def edit(path: Path, change) -> None:
    record = json.loads((path / "surgery.json").read_text())
    change(record)
    (path / "surgery.json").write_text(json.dumps(record))


def set_at(*keys: Any, value: Any):
    def change(record: Any) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


def drop(*keys: Any):
    def change(record: Any) -> None:
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


SITE = ("operations", 0, "sites", 0)
EDITS = [
    (set_at("format", value="other"), "format is not valid: 'other'"),
    (set_at("format_version", value=2), "format version 2; this attnsurgeon reads up to 1"),
    (set_at("format_version", value="1"), "format_version is not valid"),
    (set_at("mode", value="half"), "mode is not valid: 'half'"),
    (set_at("mode", value="adapter"), r"weights\.file is not that of mode"),
    (drop("base"), "the file has no 'base'"),
    (drop("versions"), "has no 'versions'"),
    (set_at("base", value=[]), "base is not an object"),
    (set_at("base", "sha256", value="0" * 63), r"base\.sha256 is not valid"),
    (set_at("source", "spec", value=7), r"source\.spec is not valid"),
    (set_at("source", "model_args", value=[1]), r"source\.model_args is not valid"),
    (set_at("source", "model_args", value={"checkpoint": "a"}), "for the one who loads it to give"),
    (set_at("source", "model_args", value={"colour": 1}), "takes no argument 'colour'"),
    (set_at("operations", value={}), "operations is not a list"),
    (set_at("operations", value=[]), "it has no operations"),
    (set_at("operations", 0, "input_size", value=[3, -20, 28]), r"input_size is not valid"),
    (set_at("operations", 0, "input_size", value=[3, 1 << 40, 28]), r"input_size is not"),
    (drop(*SITE, "rule"), r"operations\[0\]\.sites\[0\] has no 'rule'"),
    (set_at(*SITE, "args", value={"rank": 3}), "there is no argument 'rank'"),
    (set_at(*SITE, "args", value={"reduktion": 3}), "reduktion"),
    (set_at(*SITE, "path", value="blocks.7.out"), r"blocks\.7\.out: there is no such site"),
    (set_at(*SITE, "attn", value="sea"), "no attention mechanism is called 'sea'"),
    (set_at(*SITE, "action", value="explode"), "cannot explode"),
    (set_at(*SITE, "init", value="hope"), "init='hope' is not a way to start"),
    (set_at(*SITE, "channels", value=25), "channels was 25, is 24"),
    (set_at(*SITE, "layout", value="NHWC"), "layout was NHWC, is NCHW"),
    (set_at(*SITE, "module_path", value="blocks.0.other"), "module_path was blocks.0.other"),
    (set_at(*SITE, "params", value=1), "params was 1"),
    (set_at("weights", "sha256", value="f" * 64), "sha256 begins with .*, not with ffffffff"),
    (set_at("weights", "file", value="../evil.safetensors"), r"weights\.file is not valid"),
    (set_at("weights", "aliases", value={"a": "b"}), "do not belong together"),
    (set_at("weights", "strides", value={"head.bias": [1, 1]}), "do not belong together"),
    (set_at("weights", "strides", value={"head.bias": [-1]}), r"weights\.strides is not valid"),
    (set_at("buffers", "file", value="model.safetensors"), r"buffers\.file is not valid"),
    (set_at("cost", "delta", value={}), "cost.delta has no 'params'"),
]


@pytest.fixture
def folder(spec, tmp_path) -> Path:
    return networks.operated(spec).save(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("change", "why"), EDITS)
def test_an_edited_record_is_refused_by_what_is_wrong(folder, change, why):
    edit(folder, change)

    with pytest.raises(ModelError, match=why) as caught:
        load(folder)
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_a_record_edited_at_random_is_loaded_or_refused_but_never_a_traceback(folder):
    whole = json.loads((folder / "surgery.json").read_text())
    dice = random.Random(7)
    places = [place for place in _places(whole) if place]
    values = [None, True, -1, 10**30, 0.5, "", "x", "../..", [], {}, [1], {"a": 1}, [[]], "eca", 24]
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(150):
        record = copy.deepcopy(whole)
        *path, last = dice.choice(places)
        holder = functools.reduce(lambda part, key: part[key], path, record)
        if dice.random() < 0.25:
            del holder[last]
        else:
            holder[last] = dice.choice(values)
        (folder / "surgery.json").write_text(json.dumps(record))
        try:
            load(folder)
            outcomes["loaded"] += 1
        except SurgeonError:
            outcomes["refused"] += 1

    assert outcomes["refused"] > outcomes["loaded"] > 0  # a version or a note may be anything


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every part of a JSON value."""
    yield place
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, part in value.items() if isinstance(value, dict) else ():
        yield from _places(part, (*place, key))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read: JSONDecodeError"),
        (b"\xff\xfe\x00", "cannot be read: UnicodeDecodeError"),
        (b"[]", "the file is not an object"),
        (b"null", "the file is not an object"),
        (b'"text"', "the file is not an object"),
        (b"[" * 100_000, "cannot be read: RecursionError"),
        (b"1" * 10_000, "cannot be read|not an object"),
        (b" " * ((1 << 23) + 1), "too large"),
    ],
    ids=["empty", "cut", "bytes", "list", "null", "text", "deep", "number", "huge"],
)
def test_a_file_that_is_no_record_is_refused(folder, content, why):
    (folder / "surgery.json").write_bytes(content)

    with pytest.raises(ModelError, match=why):
        read_folder(folder)


@pytest.mark.parametrize("name", ["surgery.json", "model.safetensors", "buffers.safetensors"])
def test_a_folder_with_a_file_missing_is_refused(folder, name):
    (folder / name).unlink()

    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        read_folder(folder)


def test_a_folder_without_its_readme_loads(folder):
    (folder / "README.md").unlink()

    assert load(folder)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_truncated_weights_are_refused(folder, cut):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])

    with pytest.raises(ModelError, match="not the file that was saved"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: state.pop("head.bias"), r"head\.bias is missing"),
        (lambda state: state.update(more=torch.ones(2)), "more is not of this network"),
        (lambda state: state.update({"head.bias": torch.ones(2)}), r"head\.bias has the shape"),
        # stem 2, twice conv 1, norm 5, out 2 and attention 4, head 2; five of these are named
        (lambda state: state.clear(), "is missing\n  and 23 more"),
    ],
    ids=["missing", "more", "shape", "nothing"],
)
def test_weights_that_do_not_fit_are_refused_even_with_the_right_hash(folder, change, why):
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    edit(folder, set_at("weights", "sha256", value=sha256_of(file)))

    with pytest.raises(ModelError, match=why):
        load(folder)


def test_garbage_with_the_right_hash_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(b"\x80\x04garbage that is neither safetensors nor to be unpickled")
    edit(folder, set_at("weights", "sha256", value=sha256_of(file)))

    with pytest.raises(ModelError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone", "does not exist"),
        ("own_net.py", "is a file"),
        (".", r"has no surgery\.json"),
    ],
)
def test_what_is_no_saved_folder_is_refused(spec, tmp_path, path, why):
    with pytest.raises(ModelError, match=why) as caught:
        load(tmp_path / path)
    assert "name a folder" in (caught.value.hint or "")


def test_nothing_is_unpickled_while_loading(folder, monkeypatch):
    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, lambda *args, **kwargs: 1 / 0)

    assert load(folder)


def test_a_folder_can_be_read_without_its_weights_being_touched(folder):
    (folder / "model.safetensors").write_bytes(b"not read")
    saved = read_folder(folder)

    assert (saved.path, saved.mode) == (folder, "full")
    assert saved.weights == folder / "model.safetensors"
    assert saved.source is not None
    assert saved.source.spec.endswith("own_net.py:make")
    assert [site["path"] for site in saved.operations[0]["sites"]] == [
        "blocks.0.out",
        "blocks.1.out",
    ]


def test_the_public_names_are_these(folder):
    assert attnsurgeon.load is restore.load
    assert os.path.isdir(folder)
    networks.assert_same(attnsurgeon.load(str(folder), trust=True), load(folder))
