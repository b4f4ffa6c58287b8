"""Makes vectors from authors' own modules: `python -m tests.golden.make FOLDER`.

FOLDER has a clone of each repository, named OWNER+NAME, with the commit that is named here checked
out. Nothing of it is copied: a file is run as it is, and what it imports beside torch and does not
use in its module is replaced by empty names. Vectors that are there already are left.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.golden.fill import fill

HERE = Path(__file__).parent


class Nothing(nn.Module):
    """Whatever a file wants of a package that is not there: a base, a decorator, an initialiser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @staticmethod
    def register() -> Any:
        return lambda made: made


class Absent(types.ModuleType):
    """A package that is not there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return Nothing


@dataclass(frozen=True)
class Origin:
    """One vector: where the module is, how its authors build it, and what we call the same.

    Attributes:
        source: OWNER/NAME of the repository.
        commit: of that repository.
        file, name: of the class.
        args: it is built with.
        config: our name and arguments.
        absent: modules that the file imports and that need not be there.
    """

    source: str
    commit: str
    file: str
    name: str
    args: dict[str, Any]
    config: dict[str, Any]
    absent: tuple[str, ...] = ()
    note: str = ""
    shape: tuple[int, ...] = field(default=(2, 64, 14, 10))


_VOVNET = {
    "source": "youngwanLEE/vovnet-detectron2",
    "commit": "b81c813cbf6e7253655c20a16b83038988b881d9",
    "file": "vovnet/vovnet.py",
    "absent": (
        "detectron2",
        "detectron2.layers",
        "detectron2.modeling",
        "detectron2.modeling.backbone",
        "detectron2.modeling.backbone.build",
        "detectron2.modeling.backbone.fpn",
    ),
}
_GCT = {
    "source": "z-x-yang/GCT",
    "commit": "68983edd87f8cfbe709b1b51214c69eb9c81abd7",
    "file": "PyTorch/GCT.py",
    "name": "GCT",
}
_GC = {
    "source": "xvjiarui/GCNet",
    "commit": "029db5407dc27147eb1d41f62b09dfed8ec88837",
    "file": "mmdet/ops/gcb/context_block.py",
    "name": "ContextBlock",
    "absent": ("mmcv", "mmcv.cnn"),
}


def _gc(config: dict[str, Any], **args: Any) -> Origin:
    args = {"inplanes": 64, "ratio": 1 / 16, **args}
    return Origin(**_GC, args=args, config={"attn": "gc", "channels": 64, **config})


ORIGINS = {
    "ese": Origin(
        **_VOVNET, name="eSEModule", args={"channel": 64}, config={"attn": "ese", "channels": 64}
    ),
    "gct": Origin(**_GCT, args={"num_channels": 64}, config={"attn": "gct", "channels": 64}),
    "gct_l1": Origin(
        **_GCT,
        args={"num_channels": 64, "mode": "l1"},
        config={"attn": "gct", "channels": 64, "norm": "l1"},
    ),
    "gc": _gc({}),
    "gc_r4": _gc({"reduction": 4}, ratio=1 / 4),
    "gc_mean": _gc({"pool": "mean"}, pooling_type="avg"),
    "gc_scale": _gc({"fusion": "scale"}, fusion_types=("channel_mul",)),
    "gc_both": _gc({"fusion": "both"}, fusion_types=("channel_mul", "channel_add")),
}


def theirs(origin: Origin, folder: Path) -> nn.Module:
    """Returns the authors' module."""
    file = folder / origin.source.replace("/", "+") / origin.file
    for name in origin.absent:
        sys.modules.setdefault(name, Absent(name))
    spec = importlib.util.spec_from_file_location("theirs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, origin.name)(**origin.args)


def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    """Returns normal numbers that only depend on a word and a shape."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.tensor(state.standard_normal(shape).astype("f4"))


def vector(origin: Origin, folder: Path) -> tuple[dict[str, Tensor], int]:
    """Returns input, output and gradient of the authors' module, and its number of parameters."""
    module = fill(theirs(origin, folder))
    x = drawn("input0", origin.shape).requires_grad_()
    y = module(x)
    y.backward(drawn("cot0", tuple(y.shape)))
    assert x.grad is not None
    found = {"input0": x.detach(), "output0": y.detach(), "grad0": x.grad}
    return found, sum(p.numel() for p in module.parameters())


def main(folder: Path) -> None:
    """Writes the vectors that are not there yet."""
    index = json.loads((HERE / "index.json").read_text(encoding="utf-8"))
    for name, origin in ORIGINS.items():
        if name in index:
            continue
        tensors, params = vector(origin, folder)
        save_file({key: t.contiguous() for key, t in tensors.items()}, HERE / f"{name}.safetensors")
        index[name] = {
            "config": origin.config,
            "shape": list(origin.shape),
            "params": params,
            "source": origin.source,
            "note": origin.note,
        }
    (HERE / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
