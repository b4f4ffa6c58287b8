"""Writes, with the attnsurgeon of today, what `test_written.py` reads with a later one.

    python -m tests.saved.written.write 0.2

makes `tests/saved/written/0.2.zip`: of every mechanism a folder, an adapter where it takes nothing
away, and a pickled network, of both starts in turn; of every technique of cutting an exported
file; and the outputs of all of them. Of a mechanism that an archive of an earlier version has,
nothing is written again: what is read of it does not change with the mechanism.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import attnsurgeon
from tests.saved.written import network

HERE = Path(__file__).parent
SIZE = (3, 32, 24)
ARGS: dict[str, dict[str, Any]] = {
    "gc": {"reduction": 4},
    "gsop": {"hidden": 8},
    "psa": {"groups": (1, 2, 4, 4), "reduction": 2},
    "sk": {"groups": 8},
    "spa": {"variant": "B"},
}
# Whose own place this network does not have.
ELSEWHERE = {"coord": "residual-branch", "nl": "residual-block", "a2": "residual-block"}
ELSEWHERE |= {"bat": "residual-block"}
# Name of the case -> mechanism and arguments that change what it computes.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "eca-circular": ("eca", {"padding": "circular"}),
    "eca-hidden": ("eca", {"hidden": 4}),
    "gc-scale": ("gc", {"fusion": "scale", "pool": "mean", "reduction": 4}),
}
# Name of the case -> where; one for each technique by which a network is cut.
WHERE = {
    "retype": {"site": "residual-branch", "stage": 2},
    "output-hook": {"name": "stem.0"},
    "input-hook": {"name": "stem.1"},
}


def written_before(version: str) -> set[str]:
    """The cases that archives of other versions hold."""
    archives = [file for file in HERE.glob("*.zip") if file.stem != version]
    names = [name for file in archives for name in zipfile.ZipFile(file).namelist()]
    return {name.split("/")[1] for name in names if name.startswith("folders/")} - {""}


def operations(before: set[str]) -> Iterator[tuple[str, attnsurgeon.Operation, bool]]:
    """Yields name, operation, and whether nothing was taken away, so that it can be an adapter.

    Args:
        before: cases of earlier versions, whose mechanisms are left out.
    """
    for at, name in enumerate(attnsurgeon.mechanisms()):
        init = ("identity", "paper")[at % 2]
        if {f"{name}-identity", f"{name}-paper"} & before:
            continue
        if name == "attention-gate":  # for skips, which the network of these cases has none of
            continue
        operation = insert(name, ELSEWHERE.get(name), init, ARGS.get(name, {}))
        yield f"{name}-{init}", operation, not operation.removed
    for name, (attn, args) in FORMS.items():
        if name not in before:
            yield name, insert(attn, "residual-branch", "identity", args), True
    for name, where in WHERE.items():
        yield f"se-{name}", insert("se", where, "identity", {"reduction": 4}), True
    both = insert("eca", "residual-branch", "identity", {}).model
    twice = attnsurgeon.insert(both, "se", "stage", input_size=SIZE)
    yield "twice", twice, True


def insert(name: str, where: Any, init: str, args: dict[str, Any]) -> attnsurgeon.Operation:
    model = attnsurgeon.load_model("tests.saved.written.network:fixed").eval()
    return attnsurgeon.insert(model, name, where, init=init, attn_args=args, input_size=SIZE)


def awake(model: nn.Module, generator: torch.Generator) -> None:
    """Gives the attention values of its own, so that it is seen in the outputs."""
    for path, parameter in model.named_parameters():
        if "attn" in path:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), written_before(version))
        shutil.make_archive(str(HERE / version), "zip", folder)


def write(folder: Path, before: set[str]) -> None:
    outputs = {}
    for name, operation, adapts in operations(before):
        torch.manual_seed(0)
        model = operation.model.eval()
        awake(model, torch.Generator().manual_seed(1))
        with torch.no_grad():
            outputs[name] = model(network.image()).clone()
        operation.save(folder / "folders" / name)
        if adapts:
            operation.save(folder / "adapters" / name, mode="adapter")
        (folder / "pickles").mkdir(exist_ok=True)
        torch.save(model, folder / "pickles" / f"{name}.pt")
        print(name, [(c.site.path, c.place.technique) for c in operation.plan][:2])
    from attnsurgeon.exporting.exports import export

    (folder / "exports").mkdir()
    for name in ("se-output-hook", "dia-identity", "csra-identity"):
        if name not in outputs:
            continue
        model = torch.load(folder / "pickles" / f"{name}.pt", weights_only=False)
        exported = folder / "exports" / f"{name}.pt2"
        export(model, exported, input_size=SIZE, dynamic_batch=True)
        export(model, exported.with_suffix(".onnx"), input_size=SIZE, dynamic_batch=True)
    save_file(outputs, folder / "outputs.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
