"""Tensors through a safetensors file: sharing, strides and types come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.saved.weights import (
    Packed,
    buffers_left_out,
    cast_to,
    pack,
    read_tensors,
    reshape_to,
    set_buffers,
    write_tensors,
)


def through_a_file(named, tmp_path):
    packed = pack(named)
    file = tmp_path / "t.safetensors"
    return packed, read_tensors(file, write_tensors(packed, file))


def test_a_shared_tensor_is_written_once(tmp_path):
    shared = torch.rand(3, 5)
    packed, read = through_a_file({"a": shared, "b": shared.clone(), "c": shared}, tmp_path)

    assert packed.aliases == {"c": "a"}
    assert set(read) == {"a", "b"}


def test_views_that_overlap_are_written_apart(tmp_path):
    whole = torch.arange(7.0)
    named = {"whole": whole, "front": whole[:4], "back": whole[3:], "turned": whole.view(7, 1)}
    packed, read = through_a_file(named, tmp_path)

    assert packed.aliases == {}
    assert all(torch.equal(read[name], tensor) for name, tensor in named.items())


def test_empty_tensors_are_never_taken_for_shared(tmp_path):
    packed, read = through_a_file({"a": torch.zeros(0, 3), "b": torch.zeros(3, 0)}, tmp_path)

    assert packed.aliases == {}
    assert (read["a"].shape, read["b"].shape) == ((0, 3), (3, 0))


def test_strides_are_recorded_where_they_are_unusual():
    conv = torch.rand(5, 3, 2, 7)
    one_by_one = torch.rand(5, 3, 1, 1)
    named = {
        "row-major": conv,
        "channels-last": conv.to(memory_format=torch.channels_last),
        "one-by-one": one_by_one.to(memory_format=torch.channels_last),
        "turned": torch.rand(3, 5).t(),
        "expanded": torch.rand(3, 1).expand(3, 4),
        "gapped": torch.rand(3, 8)[:, ::2],
    }

    assert pack(named).strides == {
        "channels-last": (42, 1, 21, 3),
        "one-by-one": (3, 1, 3, 3),
        "turned": (1, 5),
    }


def test_every_common_type_keeps_its_values(tmp_path):
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
    named = {str(dtype): torch.tensor([0, 1, 3]).to(dtype) for dtype in dtypes}
    _, read = through_a_file(named, tmp_path)

    assert all(torch.equal(read[name], tensor) for name, tensor in named.items())
    assert [read[str(dtype)].dtype for dtype in dtypes] == dtypes


def test_the_file_is_plain_safetensors_with_usual_permissions(tmp_path):
    through_a_file({"a": torch.ones(3)}, tmp_path)
    (tmp_path / "usual").touch()

    assert torch.equal(load_file(tmp_path / "t.safetensors")["a"], torch.ones(3))
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "t.safetensors").stat().st_mode == usual


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        ({"not": "a tensor"}, "could only be pickled"),
        (torch.ones(3, device="meta"), "has no values"),
        (torch.eye(3).to_sparse(), "not a plain tensor"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_its_name(tensor, why):
    with pytest.raises(UsageError, match=f"odd.*{why}"):
        pack({"fine": torch.ones(2), "odd": tensor})


def test_a_type_that_safetensors_lacks_is_refused(tmp_path):
    with pytest.raises(UsageError, match="complex128"):
        write_tensors(pack({"a": torch.ones(2, dtype=torch.complex128)}), tmp_path / "f")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_file_that_changed_since_is_refused(tmp_path, damage):
    file = tmp_path / "t.safetensors"
    sha256 = write_tensors(pack({"a": torch.ones(300)}), file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[damage])

    with pytest.raises(ModelError, match="cannot be read" if damage == "gone" else "sha256"):
        read_tensors(file, sha256)


class Two(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.one = nn.Linear(5, 3)
        self.other = nn.Linear(5, 3)
        if tied:
            self.other.weight = self.one.weight


@pytest.mark.parametrize("was_tied", [True, False])
@pytest.mark.parametrize("is_tied", [True, False])
def test_sharing_comes_back_as_it_was_saved(tmp_path, was_tied, is_tied):
    saved, fresh = Two(was_tied), Two(is_tied)
    packed, read = through_a_file(saved.state_dict(), tmp_path)

    reshape_to(fresh, packed)
    fresh.load_state_dict(read | {name: read[kept] for name, kept in packed.aliases.items()})

    assert (fresh.one.weight is fresh.other.weight) == was_tied
    assert all(torch.equal(v, saved.state_dict()[k]) for k, v in fresh.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in fresh.parameters())


def test_types_and_strides_come_back_in_the_same_parameter_objects(tmp_path):
    saved = nn.Conv2d(3, 5, 2).to(torch.bfloat16).to(memory_format=torch.channels_last)
    fresh = nn.Conv2d(3, 5, 2)
    weight = fresh.weight
    packed, read = through_a_file(saved.state_dict(), tmp_path)

    reshape_to(fresh, packed)
    fresh.load_state_dict(read)

    assert fresh.weight is weight
    assert (weight.dtype, weight.stride()) == (torch.bfloat16, saved.weight.stride())
    assert torch.equal(weight, saved.weight)


def test_cast_to_converts_values_and_layout_in_place():
    tensor = nn.Parameter(torch.rand(5, 3, 2, 2))
    before = tensor.detach().clone()

    cast_to(tensor, torch.float64, (12, 1, 6, 3))

    assert (tensor.dtype, tensor.stride()) == (torch.float64, (12, 1, 6, 3))
    assert torch.equal(tensor, before.double())


def test_buffers_left_out_of_the_state_dict_are_found_and_set(tmp_path):
    def net() -> Any:
        made = nn.Sequential(nn.Identity(), nn.BatchNorm1d(3))
        made[0].register_buffer("table", torch.zeros(2), persistent=False)
        made[0].register_buffer("none", None, persistent=False)
        return made

    saved, fresh = net(), net()
    saved[0].table = torch.rand(5, 2).t()
    saved.register_buffer("late", torch.ones(3), persistent=False)
    packed, _ = through_a_file(dict(buffers_left_out(saved)), tmp_path)
    assert set(packed.tensors) == {"0.table", "late"}

    set_buffers(fresh, packed)

    assert torch.equal(fresh[0].table, saved[0].table)
    assert fresh[0].table.stride() == (1, 2)
    assert torch.equal(fresh.late, saved.late)
    assert list(fresh.state_dict()) == list(net().state_dict())


def test_a_buffer_of_a_module_that_is_gone_is_refused():
    with pytest.raises(ModelError, match=r"no gone\.module"):
        set_buffers(nn.Identity(), pack({"gone.module.table": torch.ones(1)}))


@pytest.mark.parametrize("strides", [(10**15, 1), (1, 10**15), (6, 1), (1,), (1, 1, 1), (0, 0)])
def test_strides_with_gaps_are_refused_for_they_have_no_bound(strides):
    stored = torch.ones(3, 5)
    packed = Packed({"weight": stored, "table": stored}, {}, {"weight": strides, "table": strides})
    layer = nn.Linear(5, 3, bias=False)
    with pytest.raises(ModelError, match=r"do not fit a tensor of the shape \[3, 5\]"):
        reshape_to(layer, packed)
    with pytest.raises(ModelError, match="do not fit"):
        set_buffers(layer, packed)
    with pytest.raises(ModelError, match="do not fit"):
        cast_to(torch.ones(3, 5), torch.float32, strides)


def test_a_nested_tensor_is_refused_by_name():
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    with pytest.raises(UsageError, match="table is a nested tensor"):
        pack({"table": nested})
