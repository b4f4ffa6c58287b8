"""A network -> a file of Python and its weights, run in a process without attnsurgeon first."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from attnsurgeon.errors import CheckFailed, ModelError, UsageError
from attnsurgeon.exporting.code.alone import computed
from attnsurgeon.exporting.code.page import page_of
from attnsurgeon.exporting.code.running import SEED, Ran, run
from attnsurgeon.exporting.code.tidy import can_format, formatted
from attnsurgeon.exporting.subject import drawn
from attnsurgeon.models import build_on_meta
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.saved.base import find_source
from attnsurgeon.saved.file import check_file, new_file
from attnsurgeon.splicing.history import history


@dataclass(frozen=True)
class Written:
    """What was written besides the file.

    Attributes:
        beside: the file of weights.
        note: what is to be said of the file.
    """

    beside: tuple[Path, ...]
    note: str


@dataclass(frozen=True)
class Draft:
    """A file of Python before it is kept.

    Attributes:
        text: of it.
        state: the weights that go beside it.
        folders: that have to be importable for it: of a file of the user's.
    """

    text: str
    state: Mapping[str, Tensor]
    folders: tuple[Path, ...]


def drafted(model: nn.Module, *, stem: str, inline: bool = False) -> Draft:
    """Writes the text of a network, without running it.

    Args:
        model: an operated network.
        stem: of the names of both files.
        inline: as for `export`.

    Raises:
        ModelError: it cannot be written so that it computes the same, and why.
    """
    if not history(model):
        raise ModelError(
            "there is no attention in this network, so there is nothing to write out",
            "export a network that attnsurgeon operated",
        )
    source = find_source(model, weights=False)
    if source is None:
        raise ModelError(
            f"nothing says how the base of this {type(model).__name__} is built, so the file could"
            " not build it",
            "build it by attnsurgeon.load_model, from a name or from your file",
        )
    outline = build_on_meta(source.spec, **source.model_args)
    page = page_of(model, source, outline, stem=stem, inline=inline)
    file = None if inline else page.base.file
    folders, beside = ((), ()) if file is None else ((file.parent,), (file.stem,))
    state = {n: t.detach().cpu().clone().contiguous() for n, t in model.state_dict().items()}
    return Draft(formatted(page.text, beside=beside), state, folders)


def write_code(
    model: nn.Module, given: InputForm, file: Path, *, inline: bool, overwrite: bool
) -> Written:
    """Writes FILE.py and FILE.safetensors, if what they build is this network to the bit.

    Args:
        model: an operated network.
        given: the form of its input.
        file: of Python.
        inline, overwrite: as for `export`.

    Raises:
        ModelError: it cannot be written, or run.
        CheckFailed: what runs is not this network.
        UsageError: a file is there already, or the name is none of a module.
    """
    if not file.stem.isidentifier():
        raise UsageError(
            f"{file.name} cannot be imported: {file.stem!r} is no name of Python",
            f"call it {file.with_stem(''.join(c if c.isalnum() else '_' for c in file.stem)).name}",
        )
    weights = check_file(file.with_suffix(".safetensors"), overwrite, option="FILE")
    draft = drafted(model, stem=file.stem, inline=inline)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / file.name
        tried.write_text(draft.text, encoding="utf-8")
        save_file(dict(draft.state), tried.with_suffix(".safetensors"))
        compare(model, tried, given, draft.folders)
        text, tensors = tried.read_bytes(), tried.with_suffix(".safetensors")
        with new_file(weights, overwrite=overwrite, option="FILE") as kept:
            kept.write_bytes(tensors.read_bytes())
        with new_file(file, overwrite=overwrite, option="FILE") as kept:
            kept.write_bytes(text)
    note = "" if can_format() else 'not formatted, for ruff is missing: pip install "ruff"'
    return Written((weights,), note)


def compare(model: nn.Module, file: Path, given: InputForm, folders: tuple[Path, ...] = ()) -> None:
    """Compares a written file with its network: keys, outputs, gradients in training mode.

    Args:
        model: the network; it is left as it is.
        file: with its weights beside it.
        given: the form of its input.
        folders: that are importable too.

    Raises:
        CheckFailed: they are not the same to the bit.
        ModelError: it does not run, or the input is none that can be handed over.
    """
    inputs = drawn(given.at_batch(2))
    if len(inputs.args) != 1 or inputs.kwargs or not isinstance(inputs.args[0], Tensor):
        raise ModelError(
            "code is compared on one image, and this network takes other inputs",
            "export it to torch-export or onnx",
        )
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        made = run(file, {"x": inputs.args[0]}, Path(folder), path=folders, threads=threads)
    if (why := difference(model, made, {"x": inputs.args[0]})) is not None:
        raise CheckFailed(
            f"the written file is not this network: {why}; nothing was written",
            "export it to torch-export or onnx",
        )


def _following_its_mode(twin: nn.Module) -> nn.Module:
    """Lets norms train that were held in evaluation: how a network is trained is in no file."""
    for module in twin.modules():
        vars(module).pop("train", None)
    return twin


def difference(model: nn.Module, made: Ran, inputs: Mapping[str, Tensor]) -> str | None:
    """Says in what a network and what a written file did differ; None where in nothing."""
    if list(made.keys) != list(model.state_dict()):
        odd = sorted({*made.keys} ^ {*model.state_dict()})
        return f"the state dicts differ: {', '.join(odd[:3]) or 'in their order'}"
    before = torch.get_rng_state()
    expected = computed(_following_its_mode(full_twin(model)), dict(inputs), SEED)
    torch.set_rng_state(before)
    for name, tensor in expected.items():
        found = made.tensors.get(name)
        if found is None:
            return f"it has no {name}"
        if not torch.equal(found, tensor):
            return f"{name} is off by {float((found - tensor).abs().max()):.2g}"
    return None
