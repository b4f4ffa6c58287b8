"""Files of weights: what is read, what is refused, and that nothing in them is ever run."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.files.stand_ins import StandIn


def weights() -> dict[str, torch.Tensor]:
    return {"conv.bias": torch.ones(3), "conv.weight": torch.arange(12.0).reshape(3, 2, 2)}


def save(path: Path, value, *, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_holds_weights(content) -> None:
    assert content.keys() == weights().keys()
    assert all(torch.equal(content[key], value) for key, value in weights().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin", "renamed.safetensors.part"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_content_decides_what_a_file_is_not_its_name(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "safetensors":
        save_file(weights(), path)
    else:
        save(path, weights(), legacy=kind == "legacy")
    checkpoint = read_checkpoint(path)
    assert_holds_weights(checkpoint.content)
    assert checkpoint.name == name


class Payload:
    """Pickles as a call that writes a file: the proof that code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def armed_file(tmp_path: Path, kind: str) -> Path:
    value = {"extra": Payload(tmp_path / "ran"), "state_dict": weights()}
    path = tmp_path / ("w.safetensors" if kind == "named safetensors" else "w.pth")
    if kind.startswith("plain pickle"):
        path.write_bytes(pickle.dumps(value, protocol=int(kind[-1])))
        return path
    return save(path, value, legacy=kind == "legacy")


@pytest.mark.parametrize(
    "kind", ["zip", "legacy", "plain pickle 2", "plain pickle 4", "named safetensors"]
)
def test_a_pickle_that_would_run_code_is_read_and_not_run(tmp_path, kind):
    content = read_checkpoint(armed_file(tmp_path, kind)).content
    assert_named_only(content["extra"])
    assert not (tmp_path / "ran").exists()


def assert_named_only(stand_in) -> None:
    assert isinstance(stand_in, StandIn)
    assert stand_in.called in ("builtins.exec", "__builtin__.exec")
    assert "open(" in stand_in.args[0]


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_the_payload_is_live_when_the_user_says_so(tmp_path, kind):
    content = read_checkpoint(armed_file(tmp_path, kind), unsafe_pickle=True).content
    assert_holds_weights(content["state_dict"])
    assert (tmp_path / "ran").exists()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 2)


def test_a_pickle_of_a_class_that_is_gone_is_read_but_not_run(tmp_path, monkeypatch):
    path = save(tmp_path / "w.pth", Net())
    monkeypatch.delattr(f"{__name__}.Net")
    assert read_checkpoint(path).content.kind == "Net"
    with pytest.raises(ModelError, match=r"cannot be read: AttributeError: .*Net"):
        read_checkpoint(path, unsafe_pickle=True)


def zip_of(**entries: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty\n.*copy or download it again"),
        (b"layer1.0.conv: 3\n", "is a text file"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\x93NUMPY\x01\x00\xff\xfe", "starts with unknown bytes"),
        (zip_of(arr_0=b"123", arr_1=b"4"), r"a zip archive without weights.*arr_0, arr_1"),
        (b"PK\x03\x04" + bytes(40), "cannot be read: it is damaged: File is not a zip file"),
        (b"\x80\x04", "cannot be read: its pickle is damaged"),
        (b"\x89HDF\r\n\x1a\n\xff", "is an HDF5 file"),
    ],
)
def test_a_foreign_file_is_called_what_it_is(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 3


def test_a_file_named_safetensors_that_is_none_is_told_so(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(bytes(range(200, 250)))
    with pytest.raises(ModelError, match="it has no safetensors header"):
        read_checkpoint(path)


def test_an_exported_program_is_called_what_it_is(tmp_path):
    path = tmp_path / "w.pt2"
    path.write_bytes(zip_of(**{"w/archive_format": b"pt2", "w/models/model.json": b"{}"}))
    with pytest.raises(ModelError, match="a zip archive without weights"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_one_message_wherever_it_was_cut(tmp_path, kind, kept):
    path = tmp_path / "w.pth"
    state = {"conv.weight": torch.randn(64, 32), "conv.bias": torch.randn(64)}
    save_file(state, path) if kind == "safetensors" else save(path, state, legacy=kind == "legacy")
    whole = path.read_bytes()
    assert read_checkpoint(path).content.keys() == state.keys()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_flipped_bytes_are_read_or_refused_but_never_a_traceback(tmp_path, kind):
    path = tmp_path / "w.pth"
    save_file(weights(), path) if kind == "safetensors" else save(
        path, weights(), legacy=kind == "legacy"
    )
    whole, dice, refused = path.read_bytes(), random.Random(5), 0
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(3):
            broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        path.write_bytes(bytes(broken))
        try:
            read_checkpoint(path)
        except ModelError:
            refused += 1
    assert refused > 0


def test_a_missing_file_is_answered_with_the_nearest_in_its_folder(tmp_path):
    save(tmp_path / "resnet50_best.pth", weights())
    with pytest.raises(ModelError, match=r"did you mean 'resnet50_best\.pth'"):
        read_checkpoint(tmp_path / "resnet50_bset.pth")
    with pytest.raises(ModelError, match=r"there is no folder .*runs either"):
        read_checkpoint(tmp_path / "runs" / "best.pth")


def test_a_folder_and_an_address_are_not_files(tmp_path):
    with pytest.raises(ModelError, match=r"is a folder\n.*attnsurgeon\.load\("):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"is an address.*\n.*download it first"):
        read_checkpoint("https://example.org/w.pth")


def test_a_file_that_may_not_be_opened_is_not_called_incomplete(tmp_path, monkeypatch):
    path = save(tmp_path / "w.pth", weights())

    def refuse(*_args):
        raise PermissionError(13, "Permission denied", "w.pth")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match="Permission denied") as caught:
        read_checkpoint(path)
    assert caught.value.hint is None
