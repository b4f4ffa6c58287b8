"""What an earlier version has written is read by this one: folders, adapters, pickles, exports."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.moved import MOVED
from tests.saved.written import network

ARCHIVES = sorted((Path(__file__).parent / "written").glob("*.zip"))
NAMES = [
    pytest.param(archive, name, id=f"{archive.stem}-{name}")
    for archive in ARCHIVES
    for name in zipfile.ZipFile(archive).namelist()
]


def written(kind: str) -> pytest.MarkDecorator:
    """Every case of one kind: its archive, and the folder or file in it."""
    found = dict.fromkeys(
        (archive, "/".join(name.split("/")[:2]))
        for archive, name in (param.values for param in NAMES)
        if name.startswith(f"{kind}/") and name != f"{kind}/"
    )
    assert found
    while_working = 1 if len(found) < 10 else 5  # one of so many; the others are slow in all
    return pytest.mark.parametrize(
        ("archive", "case"),
        [
            pytest.param(
                a, c, id=f"{a.stem}-{c}", marks=pytest.mark.slow if at % while_working else ()
            )
            for at, (a, c) in enumerate(found)
        ],
    )


def unpack(archive: Path, case: str, to: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        members = [n for n in opened.namelist() if n == case or n.startswith(f"{case}/")]
        opened.extractall(to, members)
    return to / case


def expected(archive: Path, case: str) -> Tensor:
    with zipfile.ZipFile(archive) as opened:
        return load(opened.read("outputs.safetensors"))[Path(case).stem]


def assert_works(model: nn.Module, archive: Path, case: str) -> None:
    with torch.no_grad():
        made = model(network.image())
    torch.testing.assert_close(made, expected(archive, case), rtol=1e-4, atol=1e-5)


@written("folders")
def test_a_folder_is_loaded(archive, case, tmp_path):
    model = attnsurgeon.load(unpack(archive, case, tmp_path), trust=True).eval()
    assert_works(model, archive, case)
    assert attnsurgeon.audit(model, input_size=(3, 32, 24)).calls


@written("adapters")
def test_an_adapter_is_loaded(archive, case, tmp_path):
    assert_works(
        attnsurgeon.load(unpack(archive, case, tmp_path), trust=True).eval(), archive, case
    )


@written("pickles")
def test_a_pickled_network_is_unpickled(archive, case, tmp_path):
    file = unpack(archive, case, tmp_path)
    assert_works(torch.load(file, weights_only=False).eval(), archive, case)


@written("exports")
def test_an_exported_file_is_run(archive, case, tmp_path):
    file = unpack(archive, case, tmp_path)
    if file.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (made,) = session.run(None, {session.get_inputs()[0].name: network.image().numpy()})
        torch.testing.assert_close(
            torch.from_numpy(made), expected(archive, case), rtol=1e-4, atol=1e-5
        )
    else:
        assert_works(torch.export.load(file).module(), archive, case)


def test_what_was_written_names_every_module_that_is_said_to_have_moved():
    with zipfile.ZipFile(ARCHIVES[0]) as opened:
        text = b"".join(opened.read(n) for n in opened.namelist() if n.startswith("pickles/"))
    named = {name.decode() for name in re.findall(rb"attnsurgeon\.[a-z]+", text)}
    assert set(MOVED) <= named


def test_an_old_name_is_the_new_module_and_an_unknown_one_is_none():
    import attnsurgeon.splice  # pyright: ignore[reportMissingImports]

    from attnsurgeon.splicing.history import Mark

    assert attnsurgeon.splice.Mark is Mark
    with pytest.raises(AttributeError):
        _ = attnsurgeon.splice.never
    with pytest.raises(ImportError):
        import attnsurgeon.spliced  # pyright: ignore[reportMissingImports]
