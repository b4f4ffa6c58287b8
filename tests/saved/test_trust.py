"""What a saved folder names is built only from the vocabulary, or where the caller allows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source
from attnsurgeon.saved.trust import (
    needs_trust,
    refuse_links,
    refuse_out_of_size,
    refuse_untrusted,
    size_of,
)
from tests.saved import networks


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of a network of the user's own code."""
    spec = f"{networks.write(tmp_path)}:make"
    return networks.operated(spec).save(tmp_path / "out")


def edited(folder: Path, **source: object) -> None:
    record = json.loads((folder / "surgery.json").read_text())
    record["source"] |= source
    (folder / "surgery.json").write_text(json.dumps(record))


def test_your_own_code_is_run_only_where_you_say_so(folder, tmp_path):
    with pytest.raises(ModelError) as caught:
        attnsurgeon.load(folder)

    for said in (str(folder / "surgery.json"), "own_net.py:make", f"in {tmp_path}/own_net.py"):
        assert said in caught.value.what
    for way in ("trust=True", "model=base"):
        assert way in (caught.value.hint or "")
    assert attnsurgeon.load(folder, trust=True)
    assert attnsurgeon.load(folder, model=attnsurgeon.load_model(f"{tmp_path}/own_net.py:make"))


def test_code_is_judged_before_it_is_imported(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "never").mkdir()
    (tmp_path / "never" / "inside.py").write_text("import pathlib; pathlib.Path('ran').touch()\n")
    for spec in ("never.inside:make", "never/inside.py:make", f"{tmp_path}/never/inside.py:make"):
        edited(folder, spec=spec)
        with pytest.raises(ModelError, match="code of its own"):
            attnsurgeon.load(folder)
        assert not (tmp_path / "ran").exists()

    with pytest.raises(ModelError, match="'make'"):
        attnsurgeon.load(folder, trust=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["spec", "checkpoint", "pretrained", "unsafe_pickle"])
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_for_the_one_who_loads_comes_from_no_folder(folder, name, trust):
    edited(folder, model_args={name: True})

    with pytest.raises(ModelError, match=f"its argument {name} is for the one who loads it"):
        attnsurgeon.load(folder, trust=trust)


@pytest.mark.slow
def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(tmp_path):
    source = Source("test_resnet", {"layers": [100_000, 1, 1, 1]})

    with pytest.raises(ModelError, match="would have more than") as caught:
        refuse_untrusted(source, tmp_path, trust=False, most=1_000)
    assert "trust=True" in (caught.value.hint or "")
    refuse_untrusted(Source("test_resnet"), tmp_path, trust=False, most=1_000)
    refuse_untrusted(source, tmp_path, trust=True, most=1_000)


def record(params: int, size: list[int]) -> dict[str, object]:
    return {"operations": [{"sites": [{"params": params}, {"params": -9}], "input_size": size}]}


def test_attention_and_inputs_out_of_all_size_are_refused(tmp_path):
    refuse_out_of_size(record(1 << 25, [3, 3000, 3000]), tmp_path, 10)
    with pytest.raises(ModelError, match="the attention has"):
        refuse_out_of_size(record((1 << 25) + 11, [3, 8, 8]), tmp_path, 10)
    with pytest.raises(ModelError, match="an input of"):
        refuse_out_of_size(record(1, [3, 65536, 65536]), tmp_path, 10)


def test_a_link_may_lead_through_the_folder_and_the_cache_of_the_hub_alone(tmp_path):
    home = tmp_path / "models--org--net" / "snapshots" / "0123"
    home.mkdir(parents=True)
    blobs = tmp_path / "models--org--net" / "blobs"
    blobs.mkdir()
    for place in (blobs, home, tmp_path):
        (place / "kept").write_text("x")
    inside, cached, outside = (home / name for name in ("a", "b", "c"))
    inside.symlink_to("kept")
    cached.symlink_to("../../blobs/kept")
    outside.symlink_to(tmp_path / "kept")

    refuse_links(home, [inside, cached, home / "kept"])
    with pytest.raises(ModelError, match=rf"leads out of the folder, to {tmp_path}/kept"):
        refuse_links(home, [inside, outside])
    elsewhere = tmp_path / "models--org--net" / "other" / "0123"
    elsewhere.mkdir(parents=True)
    (elsewhere / "b").symlink_to("../../blobs/kept")
    with pytest.raises(ModelError, match="leads out"):
        refuse_links(elsewhere, [elsewhere / "b"])


def test_a_folder_whose_files_are_links_out_of_it_is_not_read(folder, tmp_path):
    for name in ("surgery.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(ModelError, match="leads out of the folder"):
            attnsurgeon.load(folder, trust=True)
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)
    assert attnsurgeon.load(folder, trust=True)


def test_the_card_and_the_command_say_whether_trust_is_needed(folder, tmp_path):
    assert needs_trust(Source("own.py:make"))
    assert needs_trust(Source("hf-hub:org/net"))
    assert not needs_trust(Source("test_resnet", {"num_classes": 7}))
    assert not needs_trust(None)
    assert "trust=True" in (folder / "README.md").read_text()
    plain = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "eca", "residual-branch")
    assert "trust" not in (plain.save(tmp_path / "plain") / "README.md").read_text()


def test_the_size_of_weights_is_that_of_a_file_or_of_all_files_of_a_folder(tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "one").write_bytes(b"x" * 7)
    (tmp_path / "in" / "deeper" / "other").write_bytes(b"x" * 5)

    assert size_of(tmp_path / "in" / "one") == 7
    assert size_of(tmp_path / "in") == 12
    assert size_of(tmp_path / "gone") == 0
