"""The hash of a base network: what it sees, and what it must not see."""

from __future__ import annotations

import copy
import hashlib
import pickle
from typing import Any

import torch
from torch import nn

import attnsurgeon
from attnsurgeon.saved.origin import Origin, measure
from tests.saved import networks


def small() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, (3, 2)), nn.BatchNorm2d(5), nn.Linear(7, 2))


def by_hand(model: nn.Module) -> str:
    """The documented hash, from the state dict: one line a tensor, sorted by name."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {values}\n".encode())
    return whole.hexdigest()


def test_the_hash_is_the_documented_one():
    assert measure(small()).sha256 == by_hand(small())


def test_every_kind_of_change_changes_the_hash():
    changes = {
        "a weight": lambda net: net[0].weight.data[1, 2, 0, 1].add_(1e-6),
        "a statistic": lambda net: net[1].running_var[4].add_(1),
        "a counter": lambda net: net[1].num_batches_tracked.add_(1),
        "a dtype": lambda net: net[2].double(),
        "a name": lambda net: net.append(net.pop(2)) and net.insert(2, nn.Identity()),
        "a sign of zero": lambda net: net[1].running_mean.mul_(-1),
    }
    seen = {measure(small()).sha256}
    for change in changes.values():
        net = small()
        change(net)
        seen.add(measure(net).sha256)

    assert len(seen) == 1 + len(changes)


def test_layout_mode_and_gradients_do_not_change_the_hash():
    net = small().to(memory_format=torch.channels_last).eval().requires_grad_(False)

    assert net[0].weight.stride() != small()[0].weight.stride()
    assert measure(net).sha256 == measure(small()).sha256


def test_a_buffer_that_is_not_saved_does_not_count():
    net = small()
    net.register_buffer("table", torch.ones(3), persistent=False)

    assert measure(net).sha256 == measure(small()).sha256


def test_tensors_without_values_or_plain_memory_have_no_hash():
    sparse = small()
    sparse.register_buffer("sparse", torch.eye(3).to_sparse())

    assert measure(small().to("meta")).sha256 is None
    assert measure(sparse).sha256 is None


def test_unusual_types_and_shapes_are_hashed():
    net = nn.Module()
    for i, dtype in enumerate([torch.bfloat16, torch.complex64, torch.bool, torch.float8_e5m2]):
        net.register_buffer(f"b{i}", torch.ones((), dtype=dtype))
    net.register_buffer("empty", torch.zeros(0, 3))
    net.register_buffer("conjugate", torch.tensor([1 + 2j]).conj())
    net.register_buffer("expanded", torch.ones(1).expand(4))

    assert set(measure(net).tensors) == set(net.state_dict())


def test_inserted_attention_is_left_out(tmp_path):
    base = attnsurgeon.load_model(f"{networks.write(tmp_path)}:make")
    operation = attnsurgeon.insert(base, "se", {"site": "residual-branch"}, input_size=(3, 20, 28))

    assert len(operation.model.state_dict()) > len(base.state_dict())
    assert measure(operation.model).sha256 == measure(base).sha256 == operation.origin.sha256


def test_a_second_operation_keeps_the_origin_of_the_first(tmp_path):
    first = networks.operated(f"{networks.write(tmp_path)}:make")  # its weights changed since
    again = attnsurgeon.insert(first.model, "eca", {"site": "head"}, input_size=(3, 20, 28))

    assert again.origin.sha256 == first.origin.sha256 != measure(again.model).sha256


def test_the_origin_is_measured_anew_once_all_attention_is_out(tmp_path):
    operation = networks.operated(f"{networks.write(tmp_path)}:make")
    attnsurgeon.remove(operation.model)

    assert Origin.of(operation.model).sha256 == measure(operation.model).sha256
    assert operation.origin.sha256 != measure(operation.model).sha256


def test_differences_name_the_tensors():
    net = small()
    before = measure(net)
    net[1].running_mean.add_(1)
    net[2].bias.data.add_(1)

    assert sorted(before.differences(measure(net))) == ["1.running_mean", "2.bias"]
    assert before.differences(measure(copy.deepcopy(small()))) == []
    assert before.differences(Origin(None)) == []


def test_an_origin_can_be_pickled():
    origin = measure(small())

    assert pickle.loads(pickle.dumps(origin)) == origin
