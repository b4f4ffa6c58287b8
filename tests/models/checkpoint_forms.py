"""Files of weights as people have them, each made from one small network; see docs/checkpoints.md.

Every form is a function that writes a file (or folder) and returns its path. Its docstring is no
explanation: the row of the same name in the document is, and the test reads it there.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import pickle
import struct
import sys
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import attnsurgeon

State = dict[str, Tensor]
Form = Callable[[Path, nn.Module, State], Path]


class Net(nn.Module):
    """A block with a norm, so that there are buffers and counters, and a classifier."""

    def __init__(self, num_classes: int = 7, in_chans: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_chans, 5, 3, padding=1)
        self.blocks = nn.Sequential(*(self.block() for _ in range(depth)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, num_classes)

    @staticmethod
    def block() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


def net(**how: Any) -> nn.Module:
    """The factory that load_model is told."""
    return Net(**how)


def trained() -> nn.Module:
    """A network whose every number is its own."""
    made = net()
    generator = torch.Generator().manual_seed(11)
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
        else:
            value.fill_(17)
    return made


def _saved(folder: Path, value: Any, name: str = "w.pth", **how: Any) -> Path:
    torch.save(value, folder / name, **how)
    return folder / name


def _under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _others(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def _arrays(state: State) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


FORMS: dict[str, Form] = {}
REFUSED: set[str] = set()


def form(function: Form) -> Form:
    FORMS[function.__name__.replace("_", "-")] = function
    return function


def refused(function: Form) -> Form:
    REFUSED.add(function.__name__.replace("_", "-"))
    return form(function)


# --- kinds of files


@form
def state_dict(folder, model, state):
    return _saved(folder, state)


@form
def before_zip(folder, model, state):
    return _saved(folder, state, _use_new_zipfile_serialization=False)


@form
def tar(folder, model, state):
    """As torch 0.1 wrote it: three parts, of pickles with numbers between them."""
    parts = {name: io.BytesIO() for name in ("storages", "tensors", "pickle")}
    pickle.dump(len(state), parts["storages"], protocol=2)
    pickle.dump(len(state), parts["tensors"], protocol=2)
    for number, value in enumerate(state.values()):
        kind = torch.FloatStorage if value.is_floating_point() else torch.LongStorage
        pickle.dump((number, "cpu", kind), parts["storages"], protocol=2)
        parts["storages"].write(struct.pack("<q", value.numel()))
        parts["storages"].write(value.contiguous().numpy().tobytes())
        pickle.dump((100 + number, number, torch.Tensor), parts["tensors"], protocol=2)
        parts["tensors"].write(struct.pack("<i4x", value.dim()))
        parts["tensors"].write(struct.pack(f"<{value.dim()}q", *value.shape))
        parts["tensors"].write(struct.pack(f"<{value.dim()}q", *value.stride()))
        parts["tensors"].write(struct.pack("<q", 0))
    pickle.dump([], parts["storages"], protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return str(value.number) if isinstance(value, _Number) else None

    named = {name: _Number(100 + number) for number, name in enumerate(state)}
    Pickler(parts["pickle"], protocol=2).dump(named)
    with tarfile.open(folder / "w.pth", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, part in parts.items():
            info = tarfile.TarInfo(name)
            info.size = part.tell()
            part.seek(0)
            archive.addfile(info, part)
    return folder / "w.pth"


class _Number:
    def __init__(self, number: int) -> None:
        self.number = number


@form
def packed_zip(folder, model, state):
    torch.save(state, folder / "plain.pth")
    with (
        zipfile.ZipFile(folder / "plain.pth") as plain,
        zipfile.ZipFile(folder / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return folder / "w.pth"


@form
def big_endian(folder, model, state):
    torch.save(state, folder / "little.pth")
    with (
        zipfile.ZipFile(folder / "little.pth") as little,
        zipfile.ZipFile(folder / "w.pth", "w") as big,
    ):
        sizes = {str(number): value.element_size() for number, value in enumerate(state.values())}
        for name in little.namelist():
            content, last = little.read(name), name.rpartition("/")[2]
            if "/data/" in name:
                content = np.frombuffer(content, f"V{sizes[last]}").tobytes()
                pieces = [content[i : i + sizes[last]] for i in range(0, len(content), sizes[last])]
                content = b"".join(piece[::-1] for piece in pieces)
            big.writestr(name, b"big" if last == "byteorder" else content)
    return folder / "w.pth"


@form
def safetensors(folder, model, state):
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


@form
def safetensors_shards(folder, model, state):
    return _shards(folder, state, "model{}.safetensors", save_file)


@form
def bin_shards(folder, model, state):
    return _shards(folder, state, "pytorch_model{}.bin", torch.save)


def _shards(folder: Path, state: State, name: str, save: Callable[..., Any]) -> Path:
    homes = {key: name.format(f"-0000{at % 2 + 1}-of-00002") for at, key in enumerate(state)}
    for home in set(homes.values()):
        save({key: value for key, value in state.items() if homes[key] == home}, folder / home)
    index = folder / f"{name.format('')}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": homes}))
    return index


@form
def folder_of_shards(folder, model, state):
    safetensors_shards(folder, model, state)
    return folder


@form
def folder_with_one_file(folder, model, state):
    save_file(state, folder / "model.safetensors")
    return folder


@form
def distributed(folder, model, state):
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"model": state, "epoch": 3}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    return folder / "dcp"


@form
def torchscript(folder, model, state):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), folder / "w.pt")
    return folder / "w.pt"


@form
def pickle_of_arrays(folder, model, state):
    (folder / "w.pkl").write_bytes(pickle.dumps({"model": _arrays(state), "__author__": "x"}))
    return folder / "w.pkl"


@form
def pickle_of_python_2(folder, model, state):
    (folder / "w.pkl").write_bytes(pickle.dumps(_arrays(state), protocol=2))
    return folder / "w.pkl"


@form
def oldest_pickle(folder, model, state):
    (folder / "w.pkl").write_bytes(pickle.dumps(_arrays(state), protocol=0))
    return folder / "w.pkl"


# --- whole networks


@form
def whole_network(folder, model, state):
    return _saved(folder, model)


@form
def whole_network_before_zip(folder, model, state):
    return _saved(folder, {"model": model}, _use_new_zipfile_serialization=False)


@form
def whole_network_of_a_lost_class(folder, model, state):
    lost = types.ModuleType("lost_and_gone")
    kind = type("Net", (Net,), {"__module__": "lost_and_gone"})
    lost.Net = kind
    sys.modules["lost_and_gone"] = lost
    try:
        model.__class__ = kind
        return _saved(folder, model)
    finally:
        model.__class__ = Net
        del sys.modules["lost_and_gone"]


@form
def whole_network_in_parallel(folder, model, state):
    return _saved(folder, {"net": nn.DataParallel(model), "acc": 93.1})


@form
def whole_average(folder, model, state):
    return _saved(folder, {"model": net(), "ema": model, "updates": 3, "date": "today"})


# --- entries


@form
def training_script(folder, model, state):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    state |= kept
    return _saved(
        folder, {"epoch": 3, "state_dict": kept, "optimizer": optimizer.state_dict(), "best": 0.9}
    )


@form
def tutorial(folder, model, state):
    return _saved(
        folder,
        {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}, "loss": torch.ones(())},
    )


@form
def any_entry(folder, model, state):
    return _saved(folder, {"whatever": {"it": {"is": state}}, "epoch": 1})


@form
def in_a_tuple(folder, model, state):
    return _saved(folder, (state, {"lr": 0.1}, 7))


@form
def attribute_of_an_object(folder, model, state):
    return _saved(folder, types.SimpleNamespace(step=3, weights=state))


@form
def moving_average_beside(folder, model, state):
    return _saved(folder, {"params": _others(state), "params_ema": state})


@form
def timm_average(folder, model, state):
    args = argparse.Namespace(lr=0.1, model="x")
    return _saved(
        folder, {"arch": "x", "state_dict": _others(state), "state_dict_ema": state, "args": args}
    )


@form
def empty_average(folder, model, state):
    return _saved(folder, {"state_dict": state, "model_ema": {}, "state_dict_ema": None})


@form
def student_and_teacher(folder, model, state):
    return _saved(
        folder,
        {
            "student": _under("module.backbone.", _others(state)),
            "teacher": _under("backbone.", state),
        },
    )


@form
def online_and_average(folder, model, state):
    both = {**_under("online_model.", _others(state)), **_under("ema_model.", state)}
    return _saved(folder, {**both, "initted": torch.tensor(True), "step": torch.tensor(3)})


@form
def averaged_model(folder, model, state):
    return _saved(folder, torch.optim.swa_utils.AveragedModel(model).state_dict())


@form
def lightning(folder, model, state):
    return _saved(
        folder,
        {
            "epoch": 3,
            "global_step": 99,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": {**_under("model.", state), "loss.weight": torch.ones(7)},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
            "hyper_parameters": collections.defaultdict(list, lr=0.1),
        },
    )


@form
def mmengine(folder, model, state):
    history = {"loss": np.zeros(3), "seed": np.float64(1.0)}
    return _saved(
        folder,
        {
            "meta": {"epoch": 3, "time": datetime.datetime(2024, 1, 1), "cfg": "x = 1"},
            "state_dict": _under("backbone.", state) | {"decode_head.weight": torch.ones(3)},
            "message_hub": {"log_scalars": history},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
    )


@form
def parts_of_a_network(folder, model, state):
    parts: dict[str, Any] = {"epoch": 3}
    for name, value in state.items():
        top, _, rest = name.partition(".")
        parts.setdefault(top, {})[rest] = value
    return _saved(folder, parts)


# --- names


@form
def in_parallel(folder, model, state):
    return _saved(folder, _under("module.", state))


@form
def compiled(folder, model, state):
    return _saved(folder, torch.compile(model).state_dict())


@form
def compiled_in_parallel(folder, model, state):
    return _saved(folder, {"model": _under("module._orig_mod.", state)})


@form
def sixty_prefixes(folder, model, state):
    return _saved(folder, _under("module." * 60, state))


@form
def wrapped_inside(folder, model, state):
    return _saved(
        folder,
        {
            name.replace("blocks.", "blocks._checkpoint_wrapped_module.module."): value
            for name, value in state.items()
        },
    )


@form
def backbone(folder, model, state):
    return _saved(folder, {**_under("backbone.", state), "roi_head.weight": torch.ones(3)})


@form
def moco(folder, model, state):
    both = {
        **_under("module.encoder_q.", state),
        **_under("module.encoder_k.", _others(state)),
        "module.queue": torch.ones(3, 4),
    }
    return _saved(folder, {"arch": "x", "state_dict": both})


@form
def loss_with_weights(folder, model, state):
    return _saved(folder, {**state, "criterion.weight": torch.ones(7)})


@form
def auxiliary_classifier(folder, model, state):
    more = {"aux_classifier.0.weight": torch.ones(3), "aux_classifier.0.bias": torch.ones(3)}
    return _saved(folder, {**state, **more})


@form
def before_counters(folder, model, state):
    return _saved(folder, {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")})


# --- values


@form
def half(folder, model, state):
    return _saved(folder, _converted(state, torch.float16))


@form
def bfloat16(folder, model, state):
    return _saved(folder, _converted(state, torch.bfloat16))


@form
def double(folder, model, state):
    return _saved(folder, _converted(state, torch.float64))


def _converted(state: State, dtype: torch.dtype) -> State:
    """Converts what is saved, and what has to come out."""
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value.to(dtype)
    return dict(state)


@form
def arrays(folder, model, state):
    return _saved(folder, {"state_dict": _arrays(state), "mean": np.zeros(3)})


@form
def parameters(folder, model, state):
    return _saved(
        folder,
        {n: nn.Parameter(v, v.is_floating_point()) if v.is_floating_point() else v
         for n, v in state.items()},
    )  # fmt: skip


@form
def from_a_gpu(folder, model, state):
    """The place of a tensor is a word in the file."""
    torch.save(state, folder / "cpu.pth")
    with (
        zipfile.ZipFile(folder / "cpu.pth") as plain,
        zipfile.ZipFile(folder / "w.pth", "w") as moved,
    ):
        for name in plain.namelist():
            content = plain.read(name)
            if name.endswith("data.pkl"):
                word = b"X\x03\x00\x00\x00cpu"
                assert word in content
                content = content.replace(word, b"X\x06\x00\x00\x00cuda:3")
            moved.writestr(name, content)
    return folder / "w.pth"


@form
def averaged_counters(folder, model, state):
    return _saved(
        folder, {n: v if v.is_floating_point() else v.to(torch.float32) for n, v in state.items()}
    )


@form
def with_code(folder, model, state):
    return _saved(folder, {"state_dict": state, "extra": _Payload(folder / "ran")})


class _Payload:
    """Pickles as a call that writes a file: the proof that code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


# --- refused


@refused
def other_classes(folder, model, state):
    return _saved(folder, net(num_classes=10).state_dict())


@refused
def other_channels(folder, model, state):
    return _saved(folder, net(in_chans=13).state_dict())


@refused
def other_network(folder, model, state):
    return _saved(folder, nn.Linear(2, 3).state_dict())


@refused
def deeper_network(folder, model, state):
    return _saved(folder, net(depth=3).state_dict())


@refused
def a_layer_missing(folder, model, state):
    return _saved(folder, {n: v for n, v in state.items() if not n.startswith("blocks.1.0")})


@refused
def after_surgery(folder, model, state):
    operated = attnsurgeon.insert(model, "eca", {"site": "conv"}, input_size=(3, 16, 24)).model
    return _saved(folder, operated.state_dict())


@refused
def whole_network_changed(folder, model, state):
    model.pool = nn.Identity()
    model.blocks[0][2] = nn.SiLU()
    model.blocks[1][0].padding = (0, 0)
    return _saved(folder, model)


@refused
def not_finite(folder, model, state):
    state["stem.weight"][0, 0, 0, 0] = float("nan")
    state["stem.weight"][1] = float("inf")
    return _saved(folder, state)


@refused
def integers(folder, model, state):
    return _saved(folder, {**state, "fc.bias": torch.arange(7)})


@refused
def complex_numbers(folder, model, state):
    return _saved(folder, {**state, "fc.bias": torch.ones(7, dtype=torch.complex64)})


@refused
def damaged(folder, model, state):
    path = _saved(folder, state)
    content = bytearray(path.read_bytes())
    at = content.index(state["stem.weight"].numpy().tobytes())
    content[at + 3] ^= 64
    path.write_bytes(bytes(content))
    return path


@refused
def itself_inside(folder, model, state):
    inside: dict[str, Any] = {}
    inside["state_dict"] = inside
    return _saved(folder, inside)


@refused
def no_names(folder, model, state):
    return _saved(folder, list(state.values()))


@refused
def cut_short(folder, model, state):
    path = _saved(folder, state)
    path.write_bytes(path.read_bytes()[:-300])
    return path


@refused
def web_page(folder, model, state):
    (folder / "w.pth").write_text("<!DOCTYPE html><html>404</html>")
    return folder / "w.pth"
