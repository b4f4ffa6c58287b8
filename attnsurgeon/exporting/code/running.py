"""Runs written files in a process of their own, where attnsurgeon cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from attnsurgeon.errors import ModelError
from attnsurgeon.exporting.code import alone

SEED = 11


@dataclass(frozen=True)
class Ran:
    """What the network of a written file did.

    Attributes:
        keys: of its state dict, in order.
        tensors: `eval.INPUT.i` and `grad.PARAMETER` -> tensor.
    """

    keys: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def run_all(
    files: Sequence[Path],
    inputs: Mapping[str, Tensor],
    folder: Path,
    *,
    path: Sequence[Path] = (),
    threads: int = 1,
) -> list[Ran | str]:
    """Runs `build()` of files, its network on inputs, and its gradients in training mode.

    Args:
        files: each with its weights beside it.
        inputs: name -> images; those of the first name are trained on.
        folder: for what goes there and back.
        path: folders that are importable too.
        threads: of torch.

    Returns:
        Of each file what its network did, or what it raised.
    """
    given = folder / "given.safetensors"
    save_file({name: x.contiguous() for name, x in inputs.items()}, given)
    jobs = [(str(file), str(folder / f"made{i}.safetensors")) for i, file in enumerate(files)]
    asked = {"given": str(given), "jobs": jobs, "seed": SEED, "threads": threads}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", alone.__file__],
        input=json.dumps({**asked, "path": [str(p) for p in path]}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        return [lines[-1]] * len(jobs)
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    return [
        answer["error"] or Ran(tuple(answer["keys"]), load_file(made))
        for answer, (_, made) in zip(answers, jobs, strict=True)
    ]


def run(
    file: Path,
    inputs: Mapping[str, Tensor],
    folder: Path,
    *,
    path: Sequence[Path] = (),
    threads: int = 1,
) -> Ran:
    """Runs one file, as `run_all`.

    Raises:
        ModelError: it raises, or needs attnsurgeon; the message has what it said.
    """
    (made,) = run_all([file], inputs, folder, path=path, threads=threads)
    if isinstance(made, str):
        raise ModelError(f"the written file does not run: {made}")
    return made
