"""Network -> a file for elsewhere, compared with the network before it is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import CheckFailed, ModelError, UsageError
from attnsurgeon.exporting.forms import FORMS, form_of, require
from attnsurgeon.exporting.programs import MAKERS, READERS, Run
from attnsurgeon.exporting.subject import Subject, drawn
from attnsurgeon.given import takes_networks
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.inputs import InputForm, Inputs
from attnsurgeon.saved.file import check_file, new_file
from attnsurgeon.sizes import InputSize
from attnsurgeon.splicing.history import history


@dataclass(frozen=True)
class Exported:
    """A file that computes what the network computes.

    Attributes:
        path: of the file.
        form: one of `FORMS`.
        batches: the batch sizes at which both were run.
        sizes: the input sizes at which both were run.
        relative_diff: largest difference of any output, over the largest output.
        dynamic_batch, dynamic_sizes: whether the file takes every batch size, and every size.
        beside: the other files that belong to it: the weights of code.
        note: what else is to be said of it.
    """

    path: Path
    form: str
    batches: tuple[int, ...]
    sizes: tuple[InputSize, ...]
    relative_diff: float
    dynamic_batch: bool
    dynamic_sizes: bool
    beside: tuple[Path, ...] = ()
    note: str = ""


@takes_networks()
@known_state(own_dice=False)
def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    input_size: InputSize | None = None,
    example: Any = None,
    dynamic_batch: bool = False,
    dynamic_sizes: bool = False,
    inline: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Writes a network, in eval mode, to one file, and compares the two on random inputs.

    Args:
        model: the network; every part of it is left in the mode it was in.
        path: of the file, written only if the comparison holds.
        to: "torch-export" (.pt2, read by `torch.export.load`), "onnx" (.onnx), "onnx-classic"
            (.onnx by the exporter that traces, for converters), "torchscript" (.torchscript, .pt)
            or "code" (.py: a readable file of Python that needs no attnsurgeon, and its weights
            beside it as .safetensors); default: what the file's name ends in says.
        input_size: (C, L), (C, H, W) or (C, D, H, W), a tuple of one for each input; default:
            what the last operation on the network was made with.
        example: any other input, as for `insert`.
        dynamic_batch: let the file take every batch size; else a batch of one. Code does.
        dynamic_sizes: let it take images of every size that the network takes. Code does.
        inline: of code: write out the code of a base network that a file of yours builds, too;
            a library's stays an import.
        overwrite: replace an existing file.

    Raises:
        UsageError: the file cannot be written, its name says another form or none, what the form
            needs is not installed, or the size of the input is not known.
        ModelError: the network cannot be exported.
        CheckFailed: the exported program computes something else.
    """
    file = check_file(path, overwrite, option="FILE")
    form = form_of(path, to)
    require(form)
    if inline and form != "code":
        raise UsageError(f"inline is for code, and this is {form}", "leave it out")
    given = _input_of(model, input_size, example)
    if form == "code":
        from attnsurgeon.exporting.code.writing import write_code

        made = write_code(model, given, file, inline=inline, overwrite=overwrite)
        sizes = (given.size,)
        return Exported(file, form, (2,), sizes, 0.0, True, True, made.beside, made.note)
    with _evaluating(model):
        subject = Subject(model, given, dynamic_batch, dynamic_sizes)
        return _program(subject, file, form, overwrite)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode; afterwards every part is in the mode it was in itself."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _input_of(model: nn.Module, input_size: InputSize | None, example: Any) -> InputForm:
    if example is not None and input_size is not None:
        raise UsageError("input_size and example both say what the input is", "give one of the two")
    if example is not None:
        return InputForm.of_inputs(example)
    if input_size is not None:
        return InputForm.of_size(input_size)
    if made := history(model):
        return recorded_form(made[-1])
    raise UsageError(
        "nothing says which input this network takes", "give input_size=(3, 224, 224), or example="
    )


def _program(subject: Subject, file: Path, form: str, overwrite: bool) -> Exported:
    def refusal(error: BaseException) -> ModelError:
        return _refusal(error, subject, form)

    tried = subject.tried()
    _check_sizes(subject)
    made = guarded(lambda: MAKERS[form](subject), refusal)
    with new_file(file, overwrite=overwrite, suffix=FORMS[form].suffixes[0]) as draft:
        draft.write_bytes(made)
        run = guarded(lambda: READERS[form](draft), refusal)
        moved = 0.0
        for at in tried:
            inputs = drawn(at)
            off = guarded(lambda inputs=inputs: _difference(subject, run, inputs), refusal)
            if not off <= FORMS[form].tolerance:
                raise CheckFailed(
                    f"the exported program differs from the network by {off:.2g} of the largest "
                    f"output, at {_words(at)}; nothing was written",
                    f"up to {FORMS[form].tolerance:g} would be rounding",
                )
            moved = max(moved, off)
    batches = tuple(dict.fromkeys(at.batch for at in tried))
    sizes = tuple(dict.fromkeys(at.size for at in tried))
    return Exported(file, form, batches, sizes, moved, subject.batch, subject.sizes)


def _check_sizes(subject: Subject) -> None:
    """Refuses dynamic sizes of a network that takes one size only."""
    if not subject.sizes:
        return
    other = drawn(subject.tried()[-1])
    guarded(
        lambda: subject.expected(other),
        lambda error: ModelError(
            f"this {type(subject.model).__name__} does not take images of another size:"
            f" {quote(error)}",
            "export it for its own size: dynamic_sizes=False",
            command="export it for its own size: without --dynamic-sizes",
        ),
    )


def _words(at: InputForm) -> str:
    return f"batch {at.batch} of {at.size}"


def _refusal(error: BaseException, subject: Subject, form: str) -> ModelError:
    others = " or ".join(name for name in FORMS if name not in (form, "code"))
    fixed = ", or a fixed batch and size" if subject.batch or subject.sizes else ""
    return ModelError(
        f"this {type(subject.model).__name__} cannot be exported to {form}: {quote(error)}",
        f"does the network without attention export? try {others}{fixed}",
    )


def _difference(subject: Subject, run: Run, inputs: Inputs) -> float:
    """The largest difference of any output, over the largest output."""
    with torch.no_grad():
        pairs = list(zip(subject.expected(inputs), run(inputs), strict=True))
    # By torch, whose maximum is NaN where any is; Python's depends on which comes first.
    moved = float(torch.stack([(a - b).abs().max().double() for a, b in pairs]).max())
    return moved / max(float(a.abs().max()) for a, b in pairs) if moved else 0.0
