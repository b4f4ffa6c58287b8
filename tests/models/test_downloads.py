"""Pretrained weights: the libraries' own download code, against local files and a local hub."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file

from attnsurgeon.errors import ModelError
from attnsurgeon.models import load_model, source_of
from attnsurgeon.models.offline import quick_refusal


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No name resolves, and no cache holds anything: the real exceptions of a lost network.

    Returns the names that were looked up.
    """
    asked: list[str] = []

    def lost(host, *_args, **_kwargs):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return asked


def test_timm_weights_come_through_timms_own_loader(tmp_path):
    torch.manual_seed(3)
    trained = timm.create_model("test_resnet").state_dict()
    save_file(trained, tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors")}

    model = load_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)

    assert all(torch.equal(trained[key], value) for key, value in model.state_dict().items())
    source = source_of(model)
    assert source is not None
    assert source.weights == "pretrained"
    # timm's own adaptation is at work, not ours: the classifier is dropped, the rest is kept.
    adapted = load_model(
        "test_resnet", pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay
    )
    assert torch.equal(adapted.state_dict()["conv1.0.weight"], trained["conv1.0.weight"])


def test_a_timm_download_without_network_says_what_to_do_instead(offline, tmp_path):
    with pytest.raises(ModelError, match="could not fetch the pretrained weights") as caught:
        load_model("test_resnet", pretrained=True, cache_dir=str(tmp_path))
    assert "download the weights (timm/test_resnet.r160_in1k)" in str(caught.value)
    assert "checkpoint=" in str(caught.value)
    assert caught.value.exit_code == 3
    # Looked up once, not in the client's many retries, and its switch is as it was.
    assert len(offline) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_behind_a_proxy_the_hubs_client_is_left_to_itself(offline, monkeypatch):
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
    with quick_refusal():
        assert constants.HF_HUB_OFFLINE is False
    assert offline == []
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with quick_refusal():
        assert constants.HF_HUB_OFFLINE is True


def test_a_hub_name_without_network_says_what_to_do_instead(offline, tmp_path):
    with pytest.raises(ModelError, match="could not fetch hf-hub:timm/test_resnet") as caught:
        load_model("hf-hub:timm/test_resnet.r160_in1k", cache_dir=str(tmp_path))
    assert "load_model('test_resnet.r160_in1k', checkpoint=FILE)" in str(caught.value)


def test_a_misspelt_hub_name_is_not_blamed_on_the_network(offline):
    with pytest.raises(ModelError, match=r"does not hand out.*\n.*hf-hub:ORG/NAME"):
        load_model("hf-hub:timm/resnet/18")


def test_a_torchvision_download_without_network_names_the_file(offline):
    with pytest.raises(ModelError, match="could not fetch the pretrained weights") as caught:
        load_model("torchvision:squeezenet1_1", pretrained=True)
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    assert f"download {url}" in str(caught.value)
    assert isinstance(caught.value.__cause__, urllib.error.URLError)


def test_torchvision_weights_come_through_its_own_loader(offline, tmp_path):
    trained = torchvision.models.squeezenet1_1().state_dict()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    torch.save(trained, folder / url.rpartition("/")[2])
    model = load_model("torchvision:squeezenet1_1", pretrained=True)
    assert all(torch.equal(trained[key], value) for key, value in model.state_dict().items())


def test_a_timm_network_without_weights_is_refused_before_it_is_built(monkeypatch):
    def building(*_args, **_kwargs):
        pytest.fail("a network was built for nothing")

    monkeypatch.setattr(timm, "create_model", building)
    with pytest.raises(ModelError, match="no pretrained weights for botnet50ts") as caught:
        load_model("botnet50ts_256", pretrained=True)
    assert re.search(r"botnet26t_256\S* .*have some; or pass a file", str(caught.value))


CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 7,
    "model_args": {"in_chans": 5},
    "pretrained_cfg": {"input_size": [5, 64, 64], "first_conv": "conv1.0", "classifier": "fc"},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of a hub that its client needs to fetch a file."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        self.answer(send=True)

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def answer(self, *, send: bool) -> None:
        content = self.files.get(self.path.partition("?")[0])
        repository = "/org/known/" in self.path
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if repository else "RepoNotFound")
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("ETag", f'"{len(content or b"")}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if send and content:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def hub(tmp_path):
    weights = tmp_path / "model.safetensors"
    torch.manual_seed(3)
    save_file(timm.create_model("test_resnet", num_classes=7, in_chans=5).state_dict(), weights)
    root = "/org/known/resolve/main/"
    Hub.files = {
        f"{root}config.json": json.dumps(CONFIG).encode(),
        f"{root}model.safetensors": weights.read_bytes(),
        "/org/foreign/resolve/main/config.json": b'{"model_type": "vit"}',
        "/org/newer/resolve/main/config.json": b'{"architecture": "net_of_tomorrow"}',
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", weights
    server.shutdown()
    server.server_close()


PROGRAM = """
    import sys
    import torch
    from safetensors.torch import load_file
    from attnsurgeon.errors import ModelError
    from attnsurgeon.models import input_size_of, load_model, source_of

    model = load_model("hf-hub:org/known", pretrained=True)
    saved = load_file(sys.argv[1])
    equal = all(torch.equal(saved[key], value) for key, value in model.state_dict().items())
    print(type(model).__name__, equal, input_size_of(model), source_of(model).weights)
    model = load_model("hf-hub:org/known", num_classes=3)
    print(model.num_classes, source_of(model).weights)
    for name in ("absent", "foreign", "newer"):
        try:
            load_model(f"hf-hub:org/{name}")
        except ModelError as error:
            print(error.what)
"""


@pytest.mark.slow
def test_a_hub_name_fetches_its_configuration_and_only_on_request_its_weights(hub, tmp_path):
    address, weights = hub
    # The hub's client reads its address and its cache folder once, when it is imported.
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(weights)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "ResNet True (5, 64, 64) pretrained"
    assert lines[1] == "3 random"
    assert lines[2].startswith("the hub does not hand out hf-hub:org/absent: RepositoryNotFound")
    assert lines[3].startswith("hf-hub:org/foreign is not a network that this timm can build")
    assert lines[4].startswith("hf-hub:org/newer is not a network that this timm can build")
