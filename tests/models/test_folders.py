"""Tensors in pieces: put together where they make up the whole, refused where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attnsurgeon.errors import ModelError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.files.folders import read_distributed
from attnsurgeon.models.files.limits import Unreadable
from attnsurgeon.models.files.stand_ins import StandIn

WHOLE = torch.arange(35.0).reshape(5, 7)


def thing(**attributes: Any) -> StandIn:
    return StandIn("torch.distributed.checkpoint.metadata.Thing", attributes=attributes)


def joined(folder: Path, pieces: list[tuple[tuple[int, ...], Tensor]], size=(5, 7)) -> Tensor:
    """What comes out of pieces at their offsets, each in a place of its own in one file."""
    (folder / "0.distcp").touch()
    places = {
        thing(fqn="w", offset=offset): thing(relative_path="0.distcp", offset=at, length=1)
        for at, (offset, _) in enumerate(pieces)
    }
    described = thing(state_dict_metadata={"w": thing(size=size)}, storage_data=places)
    return read_distributed(folder, described, lambda file, at, length: pieces[at][1])["w"]


def test_pieces_of_a_tensor_are_put_together(tmp_path):
    pieces = [
        ((0, 0), WHOLE[:2, :3]),
        ((0, 3), WHOLE[:2, 3:]),
        ((2, 0), WHOLE[2:]),
    ]
    assert torch.equal(joined(tmp_path, pieces), WHOLE)
    assert torch.equal(joined(tmp_path, [((0, 0), WHOLE)]), WHOLE)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([((0, 0), WHOLE[:2])], "do not make up its shape"),
        ([((0, 0), WHOLE[:2]), ((1, 0), WHOLE[2:])], "overlap"),
        ([((0, 0), WHOLE[:2]), ((3, 0), WHOLE[2:])], "outside"),
        ([((0,), WHOLE[:2]), ((2, 0), WHOLE[2:])], "outside"),
        ([((0, 0), torch.ones(1).expand(5, 7))], "repeats its numbers"),
        ([((0, 0), "x")], "is no tensor"),
    ],
)
def test_pieces_that_are_not_the_whole_are_refused(pieces, said, tmp_path):
    with pytest.raises(Unreadable, match=said):
        joined(tmp_path, pieces)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../w.safetensors"}}, "a file outside of its folder"),
        ({"weight_map": {"a": "no.safetensors"}}, "no.safetensors is missing"),
        ({"weight_map": {"b": "w.safetensors"}}, "does not hold b"),
        ({"weight_map": [1]}, "has no weight_map"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_an_index_that_does_not_lead_to_its_tensors_is_refused(index, said, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(ModelError, match=said):
        read_checkpoint(file)
