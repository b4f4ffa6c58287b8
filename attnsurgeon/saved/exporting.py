"""Network -> a torch.export program or an ONNX file, compared with it before it is kept."""

from __future__ import annotations

import importlib.util
import inspect
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from attnsurgeon.errors import CheckFailed, ModelError, UsageError, nearest
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.inputs import InputForm, Inputs, TensorForm
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.saved.file import check_file, new_file
from attnsurgeon.sizes import InputSize

FORMATS = ("torch-export", "onnx")
_TOLERANCE = {"torch-export": 1e-5, "onnx": 1e-4}  # of the largest output
_SUFFIX = {"torch-export": ".pt2", "onnx": ".onnx"}  # torch.export warns of any other
_BATCHES = (1, 3)
_NEEDED = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file that computes what the network computes.

    Attributes:
        path: of the file.
        form: one of `FORMATS`.
        batches: the batch sizes at which both were run.
        relative_diff: largest difference of any output, over the largest output.
        dynamic: whether the file takes every batch size.
    """

    path: Path
    form: str
    batches: tuple[int, ...]
    relative_diff: float
    dynamic: bool


@known_state(own_dice=False)
def export(
    model: nn.Module,
    input_size: InputSize | InputForm,
    path: str | os.PathLike[str],
    *,
    form: str | None = None,
    dynamic: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes a network, in eval mode, to one file, and compares the two on random inputs.

    Args:
        model: the network; it is left in the mode it was in.
        input_size: (C, L), (C, H, W) or (C, D, H, W), a tuple of one for each input, or the form
            of any input.
        path: of the file, written only if the comparison holds.
        form: "torch-export" (read by `torch.export.load`) or "onnx"; default: what the file's
            name ends in says, .pt2 or .onnx.
        dynamic: let the file take every batch size; else a batch of one.
        overwrite: replace an existing file.

    Raises:
        UsageError: the file cannot be written, its name says another format or none, or what
            ONNX needs is not installed.
        ModelError: the network cannot be exported.
        CheckFailed: the exported program computes something else.
    """
    file = check_file(path, overwrite)
    form = format_of(path, form)
    given = input_size if isinstance(input_size, InputForm) else InputForm.of_size(input_size)
    if form == "onnx":
        _require_onnx()
    was_training = model.training
    model.eval()
    try:
        made = guarded(
            lambda: _MAKERS[form](model, given, dynamic),
            lambda error: _refusal(error, model, form),
        )
        with new_file(path, overwrite=overwrite, suffix=_SUFFIX[form]) as draft:
            draft.write_bytes(made)
            run = guarded(lambda: _READERS[form](draft), lambda error: _refusal(error, model, form))
            batches = _BATCHES if dynamic else _BATCHES[:1]
            moved = max(_difference(model, run, given, batch) for batch in batches)
            if not moved <= _TOLERANCE[form]:
                raise CheckFailed(
                    f"the exported program differs from the network by {moved:.2g} of the largest "
                    "output; nothing was written",
                    f"up to {_TOLERANCE[form]:g} would be rounding",
                )
    finally:
        model.train(was_training)
    return Exported(file, form, batches, moved, dynamic)


def format_of(path: str | os.PathLike[str], form: str | None) -> str:
    """Returns the format of a file to write: the one that is asked for, else its name's.

    Raises:
        UsageError: there is no such format, the name says another one, or nothing says which.
    """
    if form is not None and form not in FORMATS:
        raise UsageError(f"{form!r} is not a format to export to", nearest(str(form), FORMATS))
    suffix = Path(path).suffix
    said = next((name for name, own in _SUFFIX.items() if own == suffix.lower()), None)
    if said is None:
        if form is not None:
            return form
        ends = f"ends in {suffix}" if suffix else "ends in nothing"
        known = " or ".join(f"{own} ({name})" for name, own in _SUFFIX.items())
        raise UsageError(
            f"{path} {ends}, which names no format to export to", f"let it end in {known}"
        )
    if form is not None and form != said:
        raise UsageError(
            f"{path} is {said} by its name, and the format asked for is {form}",
            f"call it {Path(path).with_suffix(_SUFFIX[form])}, or ask for no format",
        )
    return said


def _require_onnx() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"exporting to ONNX needs {', '.join(missing)}",
            'pip install "attnsurgeon[export]"; or write a .pt2 file, which needs nothing',
        )


def _refusal(error: BaseException, model: nn.Module, form: str) -> ModelError:
    return ModelError(
        f"this {type(model).__name__} cannot be exported to {form}: {quote(error)}",
        "does the network without attention export? try the other format, or a fixed batch",
    )


def _program(model: nn.Module, given: InputForm, dynamic: bool) -> bytes:
    """The file of a torch.export program, made in memory.

    Torch's own writer ends the process where the disk is full.
    """
    example, shapes = _example(model, given, dynamic)
    program = torch.export.export(
        model, example.args, example.kwargs or None, dynamic_shapes=shapes
    )
    made = io.BytesIO()
    torch.export.save(program, made)
    return made.getvalue()


def _onnx(model: nn.Module, given: InputForm, dynamic: bool) -> bytes:
    """The file of an ONNX program, made in memory."""
    example, shapes = _example(model, given, dynamic)
    program = torch.onnx.export(
        model,
        example.args,
        kwargs=example.kwargs or None,
        dynamo=True,
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program.model_proto.SerializeToString()


def _example(model: nn.Module, given: InputForm, dynamic: bool) -> tuple[Inputs, Any]:
    """Inputs to export with, and which of their axes may change: those of the batch."""
    form = given.at_batch(2 if dynamic else 1)
    example = _images(form)
    if not dynamic:
        return example, None
    batch = {0: torch.export.Dim("batch")}

    def changing(part: Any) -> Any:
        follows = isinstance(part, TensorForm) and part.shape[:1] == (form.batch,)
        return batch if follows else None

    args, kwargs = tree_map(changing, (form.args, dict(form.kwargs)))
    if not kwargs:
        return example, args
    return example, inspect.signature(model.forward).bind(*args, **kwargs).arguments


def _read_program(file: Path) -> Run:
    read = torch.export.load(file).module()
    return lambda inputs: list(tensors_in(inputs.feed(read)))


def _read_onnx(file: Path) -> Run:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, tensors_in(inputs), strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run


_MAKERS = {"torch-export": _program, "onnx": _onnx}
_READERS = {"torch-export": _read_program, "onnx": _read_onnx}


def _images(form: InputForm) -> Inputs:
    generator = torch.Generator().manual_seed(form.batch)
    return form.drawn(generator, torch.randn)


def _difference(model: nn.Module, run: Run, given: InputForm, batch: int) -> float:
    """The largest difference of any output, over the largest output."""
    inputs = _images(given.at_batch(batch))
    with torch.no_grad():
        pairs = list(zip(tensors_in(inputs.feed(model)), run(inputs), strict=True))
    moved = max(float((a - b).abs().max()) for a, b in pairs)
    return moved / max(float(a.abs().max()) for a, b in pairs) if moved else 0.0
