"""Pickles are taken apart, not run: what is in them, and that no name is ever looked up."""

from __future__ import annotations

import collections
import datetime
import functools
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.files.limits import LIMITS, Meter, Unreadable
from attnsurgeon.models.files.pickles import read_pickle
from attnsurgeon.models.files.stand_ins import StandIn, state_of
from attnsurgeon.models.files.values import Finder, as_tensor


def read(value: Any, protocol: int = 4) -> Any:
    return read_bytes(pickle.dumps(value, protocol))


def read_bytes(content: bytes) -> Any:
    meter = Meter(len(content))
    return read_pickle(io.BytesIO(content), meter, Finder(meter), lambda _: None)


PLAIN = {
    "numbers": [1, -1, 255, 70_000, 1 << 40, -(1 << 200), 1.5, float("inf"), True, False, None],
    "texts": ["", "a", "ü\n\t", b"", b"\x00\xff", "x" * 300, b"y" * 300],
    "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[]], {}], "b": {1: {2: {3: 4}}}},
    "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    "sets": [{1, 2}, frozenset({"a", "b"}), set()],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_are_those_of_the_standard_unpickler(name, protocol):
    content = pickle.dumps(PLAIN[name], protocol)
    assert read_bytes(content) == pickle.loads(content)


def test_an_object_that_stands_twice_is_one():
    inner = [1]
    loop: list[Any] = [inner, inner]
    loop.append(loop)
    found = read(loop)
    assert found[0] is found[1]
    assert found[2] is found


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
        np.arange(4, dtype=">i8"),
        np.array([True, False]),
        np.array(3.0, dtype="f2"),
        np.zeros((0, 5)),
        np.array([1 + 2j]),
    ],
    ids=str,
)
def test_an_array_becomes_the_tensor_of_its_numbers(array, protocol):
    found = as_tensor(read(array, protocol), Meter(1))
    assert found is not None
    assert torch.equal(found, torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))))


def test_arrays_of_texts_and_objects_are_no_tensors():
    for array in (np.array(["a"]), np.array([{}, None], dtype=object)):
        assert as_tensor(read(array), Meter(1)) is None


class Own:
    """Anybody's class."""

    def __init__(self) -> None:
        self.x = 1


class Slots:
    """A class without a dict."""

    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, [2]


class Mapping(dict):
    """A mapping with attributes."""


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_become_stand_ins_that_keep_what_the_file_says(protocol):
    mapping = Mapping(a=1)
    mapping.note = "x"
    found = read([Own(), Slots(), mapping, datetime.date(2024, 1, 2)], protocol)
    assert [one.kind for one in found] == ["Own", "Slots", "Mapping", "date"]
    assert found[0].called == f"{__name__}.Own"
    assert found[0].attributes == {"x": 1}
    assert found[1].attributes == {"a": 1, "b": [2]}
    assert (found[2].items, found[2].attributes) == ({"a": 1}, {"note": "x"})
    assert found[3].args


def test_no_name_is_imported_or_called(tmp_path, monkeypatch):
    """530 names cost nothing, for none is looked up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "canary_of_pickles.py").write_text("open('sang', 'w').close()\n")
    names = "".join(f"ccanary_of_pickles\nname{n}\n)R" for n in range(530))
    found = read_bytes(f"\x80\x02({names}l.".encode("latin-1"))
    assert len(found) == 530
    assert "canary_of_pickles" not in sys.modules
    assert not (tmp_path / "sang").exists()


def test_a_file_cannot_ask_torch_for_parts_that_it_imports_late():
    """`torch.onnx` is imported by asking for it."""
    found = read_bytes(b"\x80\x02ctorch\nonnx\nctorch\nfloat16\n\x86.")
    assert found[0].called == "torch.onnx"
    assert found[1] is torch.float16


def test_getattr_and_partial_reach_nothing():
    found = read([functools.partial(nn.Linear, 2, 3), nn.Linear.forward])
    assert all(isinstance(one, StandIn) or one.called for one in found)


def small() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()))
    net.add_module("again", net[0])  # shared: under both names, as the network itself has it
    net[1].register_buffer("scratch", torch.ones(2), persistent=False)
    return net


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        small,
        lambda: timm.create_model("test_vit"),
        lambda: torchvision.models.shufflenet_v2_x0_5(),
    ],
    ids=["torch", "timm", "torchvision"],
)
def test_a_whole_network_gives_its_state_dict_key_by_key(make, legacy, tmp_path):
    net = make()
    torch.save(net, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    found = state_of(read_checkpoint(tmp_path / "w.pt").content)
    expected = net.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_stand_in_keeps_what_it_is_told_beside_its_own_attributes():
    stand_in = StandIn("anything")
    stand_in.set_state({"is_network": print, "children": print, "x": 1})
    stand_in.set_state({"x": 2})
    assert stand_in.attributes["x"] == 2
    assert not stand_in.is_network


def test_a_network_that_contains_itself_is_refused(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2))
    net._modules["self"] = net
    torch.save(net, tmp_path / "w.pth")
    found = read_checkpoint(tmp_path / "w.pth").content
    with pytest.raises(Unreadable, match="may not contain itself"):
        state_of(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"N", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02}]Ns.", "a key of type list"),
        (b"\x80\x02}\x8a\x09" + (1 << 64).to_bytes(9, "little") + b"Ns.", "a key of type int"),
        (b"\x80\x05\x96" + (8_000_000_000).to_bytes(8, "little") + b".", "damaged"),
        (b"\x80\x02" + b"N0" * LIMITS.pickle_steps + b"N.", "more than 1,000,000 steps"),
    ],
)
def test_a_damaged_or_endless_pickle_is_refused(content, said):
    with pytest.raises(Unreadable, match=said):
        read_bytes(content)


class Tagged(torch.Tensor):
    """A tensor of a class of its own."""


def views() -> dict[str, torch.Tensor]:
    """Tensors that are more than numbers in a row."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    pairs = torch.view_as_complex(torch.arange(12.0).reshape(6, 2))
    tagged = torch.arange(3.0).as_subclass(Tagged)
    tagged.note = "x"  # type: ignore[attr-defined]
    return {
        "transposed": base.transpose(0, 2),
        "sliced": base[:, 1:, ::2],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conjugate": pairs.conj(),
        "negative": pairs.conj().imag,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": nn.Parameter(torch.ones(2)),
        "tagged": tagged,
        "unsigned": torch.tensor([1, 2, 3], dtype=torch.int32).to(torch.uint16),
        "eight bits": torch.arange(3.0).to(torch.float8_e4m3fn),
    }


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", views())
def test_a_tensor_is_the_one_that_torch_itself_reads(name, how, tmp_path):
    value = views()[name]
    path = tmp_path / "w.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"a": value, "b": value}))
    else:
        torch.save({"a": value, "b": value}, path, _use_new_zipfile_serialization=how == "zip")
    found = read_checkpoint(path).content["a"]
    value = value.detach().as_subclass(torch.Tensor)
    assert (found.dtype, found.shape, found.stride()) == (value.dtype, value.shape, value.stride())
    assert torch.equal(found.to(torch.complex128), value.to(torch.complex128))


def test_a_number_of_bytes_makes_no_bytes():
    """`bytearray(8e9)` in 80 bytes."""
    for kind in ("__builtin__", "builtins"):
        found = read_bytes(f"\x80\x02c{kind}\nbytearray\nL8000000000L\n\x85R.".encode("latin-1"))
        assert isinstance(found, StandIn)
    assert read(bytearray(b"abc"), 2) == bytearray(b"abc")


@pytest.mark.parametrize(
    ("stored", "size", "stride"),
    [(64, (65,), (1,)), (64, (8, 9), (9, 1)), (64, (-1,), (1,)), (64, (4,), (1 << 60,))],
)
def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(stored, size, stride, tmp_path):
    from tests.models.hostile_checkpoints import _tensor, _zipped

    (tmp_path / "w.pth").write_bytes(_zipped(_tensor(size, stride), **{"0": bytes(stored)}))
    with pytest.raises(ModelError, match=r"holds for it|no shape|shorter"):
        read_checkpoint(tmp_path / "w.pth")


def test_limits_are_asked_for(tmp_path: Path):
    meter = Meter(1)
    with pytest.raises(Unreadable, match="unfolds to more than"):
        meter.copy(LIMITS.copied_mebibytes * (1 << 20) + 5)
    with pytest.raises(Unreadable, match="more than 100,000 tensors"):
        collections.deque(meter.tensor() for _ in range(LIMITS.tensors + 1))
    slow = Meter(1)
    slow._end = 0
    with pytest.raises(Unreadable, match="more than 30 s"):
        slow.tick()
