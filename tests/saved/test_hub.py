"""The Hugging Face hub, played by a folder: what is uploaded, what is fetched, what is trusted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

import attnsurgeon
from attnsurgeon.errors import ModelError, UsageError
from tests.saved import networks

NAME = "someone/resnet-eca"


class Hub:
    """Repositories in a folder; fetched as the hub's cache has them, files as links to blobs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: list[Any] = []

    def create_repo(self, repo_id: str, **how: Any) -> None:
        self.asked.append(("create", repo_id, how))
        (self.home / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **how: Any) -> None:
        if repo_id.startswith("forbidden/"):
            raise PermissionError("403 Forbidden")
        self.asked.append(("upload", repo_id))
        for file in Path(folder_path).iterdir():
            assert file.name in how["allow_patterns"]
            shutil.copy(file, self.home / repo_id)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str]
    ) -> str:
        self.asked.append(("fetch", repo_id, revision))
        there = self.home / repo_id
        if not there.is_dir():
            raise RepositoryNotFoundError(f"404: no {repo_id}", response=Answer())
        cache = self.home / "cache" / f"models--{repo_id.replace('/', '--')}"
        snapshot, blobs = cache / "snapshots" / (revision or "main"), cache / "blobs"
        snapshot.mkdir(parents=True, exist_ok=True)
        blobs.mkdir(exist_ok=True)
        for file in there.iterdir():
            if file.name in allow_patterns:
                shutil.copy(file, blobs / file.name)
                (snapshot / file.name).unlink(missing_ok=True)
                (snapshot / file.name).symlink_to(blobs / file.name)
        return str(snapshot)


class Answer:
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def operated():
    model = attnsurgeon.insert(
        attnsurgeon.load_model("test_resnet"), "eca", "residual-branch"
    ).model
    networks.randomise(model)
    return model


def test_what_is_pushed_is_loaded_again(hub, tmp_path):
    model = operated()
    attnsurgeon.save(model, tmp_path / "out", push_to_hub=NAME)
    assert [call[:2] for call in hub.asked] == [("create", NAME), ("upload", NAME)]
    networks.assert_same(attnsurgeon.load(f"hf-hub:{NAME}"), model)
    networks.assert_same(attnsurgeon.load(f"hf-hub:{NAME}@v2"), model)
    assert hub.asked[2:] == [("fetch", NAME, None), ("fetch", NAME, "v2")]


@pytest.mark.slow
def test_only_the_files_of_a_saved_folder_are_fetched(hub, tmp_path):
    attnsurgeon.save(operated(), tmp_path / "out", push_to_hub=NAME)
    (hub.home / NAME / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    attnsurgeon.load(f"hf-hub:{NAME}")
    assert not list((hub.home / "cache").rglob("pytorch_model.bin"))


def test_code_that_a_folder_of_the_hub_names_is_not_run(hub, tmp_path):
    spec = f"{networks.write(tmp_path)}:make"
    attnsurgeon.save(networks.operated(spec).model, tmp_path / "out", push_to_hub=NAME)
    record = hub.home / NAME / "surgery.json"
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('this was run')\n")
    said = json.loads(record.read_text())
    said["source"]["spec"] = f"{trap}:make"
    record.write_text(json.dumps(said))
    with pytest.raises(ModelError, match="code of its own") as raised:
        attnsurgeon.load(f"hf-hub:{NAME}")
    assert "trust=True" in raised.value.hint


def test_a_link_out_of_the_cache_is_refused(hub, tmp_path):
    attnsurgeon.save(operated(), tmp_path / "out", push_to_hub=NAME)
    attnsurgeon.load(f"hf-hub:{NAME}")
    (snapshot,) = (hub.home / "cache").rglob("snapshots/main")
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(secret)
    with pytest.raises(ModelError, match="leads out of the folder"):
        attnsurgeon.load(snapshot)


@pytest.mark.parametrize("name", ["", "alone", "a/b/c", "../x", "a b/c"])
def test_what_is_no_name_of_a_repository_is_refused_before_anything_is_written(name, hub, tmp_path):
    with pytest.raises(UsageError, match="no name of a repository"):
        attnsurgeon.save(operated(), tmp_path / "out", push_to_hub=name)
    with pytest.raises(UsageError, match="no name of a repository"):
        attnsurgeon.load(f"hf-hub:{name}")
    assert hub.asked == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_repository_that_is_not_there_and_one_that_refuses_are_said(hub, tmp_path):
    with pytest.raises(ModelError, match=r"could not fetch hf-hub:someone/resnet-eca: Repository"):
        attnsurgeon.load(f"hf-hub:{NAME}")
    with pytest.raises(UsageError, match="was written, and the hub did not take it") as raised:
        attnsurgeon.save(operated(), tmp_path / "out", push_to_hub="forbidden/net")
    assert "hf auth login" in raised.value.hint
    networks.assert_same(attnsurgeon.load(tmp_path / "out"), attnsurgeon.load(tmp_path / "out"))


@pytest.mark.slow
def test_a_folder_of_the_hub_is_called_by_its_name_there(hub, tmp_path):
    from tests.cli.command import attnsurgeon as run

    attnsurgeon.save(operated(), tmp_path / "out", push_to_hub=NAME)
    record = run("report", f"hf-hub:{NAME}", "--json").json()
    assert record["load"] == f"model = attnsurgeon.load('hf-hub:{NAME}')"
    assert run("save", f"hf-hub:{NAME}", "-o", tmp_path / "mine").code == 0
    networks.assert_same(attnsurgeon.load(tmp_path / "mine"), attnsurgeon.load(tmp_path / "out"))


@pytest.mark.slow
def test_load_model_says_how_such_a_repository_is_loaded(hub, tmp_path, monkeypatch):
    import timm

    attnsurgeon.save(operated(), tmp_path / "out", push_to_hub=NAME)
    config = str(hub.home / NAME / "config.json")
    monkeypatch.setattr(timm.models._hub, "download_from_hf", lambda *a, **k: config)
    if timm.is_model("attnsurgeon"):  # another test has imported the integration
        monkeypatch.delitem(timm.models._registry._model_entrypoints, "attnsurgeon")
    with pytest.raises(ModelError, match="a network with attention in it") as raised:
        attnsurgeon.load_model(f"hf-hub:{NAME}")
    assert f"attnsurgeon.load('hf-hub:{NAME}')" in raised.value.hint
