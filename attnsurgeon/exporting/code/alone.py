"""Run as a program: builds the networks of written files and says what they compute.

It imports nothing of attnsurgeon, and sees to it that nobody can. What it is to do comes as JSON on
its standard input; what came of it goes out the same way, tensors in files.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def built(file: str) -> Any:
    """Returns the network of a file."""
    spec = importlib.util.spec_from_file_location("written", file)
    assert spec is not None, "a file of Python has a loader"
    assert spec.loader is not None, "a file of Python has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules["written"] = module
    spec.loader.exec_module(module)
    return module.build()


def tensors_of(value: Any) -> list[Tensor]:
    """Returns the tensors in an output of any structure, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for one in value for t in tensors_of(one)] if isinstance(value, (list, tuple)) else []


def computed(model: Any, inputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Returns outputs in eval mode, and gradients of their sum of squares in training mode."""
    found: dict[str, Tensor] = {}
    model.eval()
    for name, x in inputs.items():
        with torch.no_grad():
            outputs = tensors_of(model(x))
        found |= {f"eval.{name}.{i}": y.clone().contiguous() for i, y in enumerate(outputs)}
    model.train()
    torch.manual_seed(seed)
    learned = [y for y in tensors_of(model(inputs[min(inputs)])) if y.requires_grad]
    if learned:
        sum((y.square().sum() for y in learned[1:]), learned[0].square().sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"grad.{name}"] = parameter.grad.clone().contiguous()
    return found


def main() -> None:
    """Does what standard input says."""
    asked = json.loads(sys.stdin.read())
    sys.modules["attnsurgeon"] = None  # type: ignore[assignment] -- so that importing it fails
    sys.path[:0] = asked["path"]
    torch.set_num_threads(asked["threads"])
    inputs = load_file(asked["given"])
    answers = []
    for file, made in asked["jobs"]:
        try:
            model = built(file)
            save_file(computed(model, inputs, asked["seed"]), made)
            answers.append({"keys": list(model.state_dict()), "error": ""})
        except Exception as error:
            answers.append({"keys": [], "error": f"{type(error).__name__}: {error}"})
    print(json.dumps(answers))


if __name__ == "__main__":
    # Python put the folder of this file first, where a `names` or a `page` would be found.
    del sys.path[0]
    main()
