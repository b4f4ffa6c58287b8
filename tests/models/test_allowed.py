"""Whole pickled networks: weights are read, names are checked, and nothing in them is ever run."""

from __future__ import annotations

import functools
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from attnsurgeon import load_model
from attnsurgeon.errors import ModelError
from attnsurgeon.models.allowed import Husk, is_allowed
from attnsurgeon.models.checkpoint import read_checkpoint


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def small() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()))
    net.add_module("again", net[0])  # shared: under both names, as the network itself has it
    net[1].register_buffer("scratch", torch.ones(2), persistent=False)
    return net


@pytest.mark.parametrize(
    "make",
    [
        small,
        lambda: timm.create_model("test_vit"),
        lambda: torchvision.models.shufflenet_v2_x0_5(),
    ],
    ids=["torch", "timm", "torchvision"],
)
def test_a_network_of_known_layers_gives_its_state_dict_key_by_key(make, tmp_path):
    net = make()
    found = read_checkpoint(saved(tmp_path / "w.pt", {"epoch": 3, "model": net}))
    expected = net.state_dict()
    assert list(found.state) == list(expected)
    assert all(torch.equal(found.state[key], value) for key, value in expected.items())
    assert found.unwrapped == ("model", f"pickled {type(net).__name__}")


def test_its_weights_are_those_of_the_network_that_is_built_anew(tmp_path):
    net = timm.create_model("test_resnet", num_classes=7)
    path = saved(tmp_path / "w.pt", {"ema": net, "model": None})
    model = load_model("test_resnet", checkpoint=path, num_classes=7)
    assert all(torch.equal(v, net.state_dict()[key]) for key, v in model.state_dict().items())


class Called:
    """Pickles as a call of anything with any arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


class Named:
    """Pickles as a name alone, which need not exist."""


def as_if(path: Path, name: str, value: Any) -> Path:
    """A file that asks for `name` wherever `value` asks for the function `_placeholder`."""
    torch.save(value, path)
    import zipfile

    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    module, _, last = name.rpartition(".")
    ours = f"c{__name__}\n_placeholder\n".encode()
    for entry, content in entries.items():
        if entry.endswith("data.pkl"):
            assert ours in content
            entries[entry] = content.replace(ours, f"c{module}\n{last}\n".encode())
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path


def _placeholder(*_args: Any) -> None:
    """Stands in a pickle for the name that `as_if` writes over it."""


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.__import__",
        "operator.attrgetter",
        "torch.hub.load",
        "torch.load",
        "torch.nn.modules.utils._ntuple",  # functions among the layers
        "torch.nn.modules.module.register_module_forward_hook",
        "torch.nn.modules.module.OrderedDict",  # classes that are no networks
        "torch.nn.modules.module.functools",  # modules
        "torch.nn.modules.module.functools.partial",  # dotted ways out of the libraries
        "torch.nn.modules.activation.warnings.os.system",
        "torch.nn.modules.module.Module.__init__.__globals__",
        "torch.nn.modules.__main__.Linear",
        "torch.nn.modules.no_such_file.Linear",
        "torch.nn.modulesque.Linear",
        "timm.models._builder.load_pretrained",
        "timm.models.resnet.resnet18",
        "timm.models._hub.load_state_dict_from_hf",
        "torchvision.models.get_model",
        "torchvision.ops._utils.os.system",
        "ultralytics.utils.downloads.safe_download",
    ],
)
def test_what_is_no_network_is_refused_by_its_name(name, tmp_path):
    assert not is_allowed(name)
    value = {"model": small(), "extra": Called(_placeholder, "touch ran")}
    path = as_if(tmp_path / "w.pt", name, value)
    with pytest.raises(ModelError, match="nothing was run") as caught:
        read_checkpoint(path)
    assert name in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("transformers.models.vit.modeling_vit.ViTLayer", True),
        ("transformers.models.vit.configuration_vit.ViTConfig", True),
        ("transformers.models.auto.configuration_auto.AutoConfig.from_pretrained", False),
        ("transformers.models.vit.modeling_vit.eager_attention_forward", False),
        ("ultralytics.nn.tasks.DetectionModel", True),
        ("ultralytics.nn.modules.block.C2f", True),
        ("ultralytics.nn.tasks.torch_safe_load", False),
        ("ultralytics.nn.tasks.parse_model", False),
        ("ultralytics.nn.tasks.yaml_model_load", False),
        ("ultralytics.nn.tasks._SafeLoad", False),
        ("ultralytics.nn.autobackend.check_requirements", False),
    ],
)
def test_of_the_optional_libraries_networks_are_allowed_and_functions_are_not(name, allowed):
    pytest.importorskip(name.partition(".")[0])
    assert is_allowed(name) == allowed


ran: list[Any] = []


class Loud(nn.Module):
    """A network of a known library, for these tests, whose every method would be heard."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        ran.append(("__init__", args))

    def __setstate__(self, state: Any) -> None:
        ran.append(("__setstate__", state))


@pytest.fixture
def loud(monkeypatch):
    """Puts it where the names of networks are looked up."""
    monkeypatch.setattr(Loud, "__module__", "torch.nn.modules.linear")
    monkeypatch.setattr(torch.nn.modules.linear, "Loud", Loud, raising=False)
    ran.clear()
    yield
    ran.clear()


def test_an_allowed_class_is_never_called_whatever_the_file_gives_it(loud, tmp_path):
    """A constructor may do anything: a YOLO evaluates texts of its configuration."""
    path = saved(tmp_path / "w.pt", {"model": small(), "extra": [Called(Loud, "x"), Loud()]})
    assert is_allowed("torch.nn.modules.linear.Loud")
    ran.clear()
    assert list(read_checkpoint(path).state) == list(small().state_dict())
    assert ran == []
    read_checkpoint(path, unsafe_pickle=True)
    assert [name for name, _ in ran] == ["__init__", "__setstate__"]  # the trap was live


def test_nor_is_one_that_the_program_has_declared_safe_for_all_files(loud, tmp_path):
    path = saved(tmp_path / "w.pt", {"model": small(), "extra": [Called(Loud, "x"), Loud()]})
    ran.clear()
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([Loud]):
        assert list(read_checkpoint(path).state) == list(small().state_dict())
        assert ran == []
        assert Loud in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == before


def test_getattr_and_partial_reach_nothing(tmp_path):
    inner = Called(getattr, nn.Linear, "__init__")
    deeper = Called(getattr, inner, "__globals__")
    value = {"model": small(), "extra": [deeper, functools.partial(nn.Linear, 2, 3)]}
    found = read_checkpoint(saved(tmp_path / "w.pt", value))
    assert list(found.state) == list(small().state_dict())


def test_a_husk_keeps_what_it_is_told_beside_its_own_attributes():
    husk = Husk("anything", at="all")
    husk.__setstate__({"__setstate__": print, "state_dict": print, "x": 1})
    husk.__setstate__({"x": 2})
    assert husk.attributes == {"x": 2}
    assert not husk.is_network


def test_a_network_that_contains_itself_is_one_message(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2))
    net._modules["self"] = net
    with pytest.raises(ModelError, match="cannot be read: RecursionError"):
        read_checkpoint(saved(tmp_path / "w.pt", {"model": net}))


def test_a_whole_network_beside_code_is_refused_with_the_code_alone_named(tmp_path):
    class_of_yours = Called(os.getcwd)
    path = saved(tmp_path / "w.pt", {"model": small(), "extra": class_of_yours})
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    assert f"{os.getcwd.__module__}.getcwd" in str(caught.value)
    assert "torch.nn" not in str(caught.value)


def test_a_pickle_in_no_zip_is_not_read(tmp_path):
    torch.save({"model": small()}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="wants to run code"):
        read_checkpoint(tmp_path / "w.pt")
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"model": small()}, protocol=2))
    with pytest.raises(ModelError):
        read_checkpoint(tmp_path / "p.pt")
