"""A network -> torch.export programs, TorchScript and ONNX files, and how each is run."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from attnsurgeon.exporting.subject import Subject
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.record import tensors_in

Run = Callable[[Inputs], list[Tensor]]
OPSET = 17  # of the classic exporter: what converters of today read


def _torch_export(subject: Subject) -> bytes:
    """The file of a torch.export program, made in memory.

    Torch's own writer ends the process where the disk is full.
    """
    example = subject.example()
    program = torch.export.export(
        subject.model, example.args, example.kwargs or None, dynamic_shapes=_shapes(subject)
    )
    made = io.BytesIO()
    torch.export.save(program, made)
    return made.getvalue()


def _onnx(subject: Subject) -> bytes:
    """The file of an ONNX program, by the exporter that builds on torch.export."""
    example = subject.example()
    program = torch.onnx.export(
        subject.model,
        example.args,
        kwargs=example.kwargs or None,
        dynamo=True,
        dynamic_shapes=_shapes(subject),
        verbose=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    return program.model_proto.SerializeToString()


def _shapes(subject: Subject) -> Any:
    """Which axes may change, as torch.export wants it."""
    if not subject.batch and not subject.sizes:
        return None

    def dims(axes: dict[int, str]) -> dict[int, Any]:
        free = torch.export.Dim.DYNAMIC
        return {a: torch.export.Dim(n) if n == "batch" else free for a, n in axes.items()}

    args, kwargs = _mapped(subject.dynamic_axes(), dims)
    return subject.by_name(args, kwargs) if kwargs else args


def _mapped(tree: Any, change: Callable[[dict[int, str]], Any]) -> Any:
    """The tree with something else in the place of each {axis: name}."""

    def is_axes(node: Any) -> bool:
        return isinstance(node, dict) and bool(node) and all(isinstance(k, int) for k in node)

    return tree_map(lambda x: change(x) if is_axes(x) else x, tree, is_leaf=is_axes)


def _onnx_classic(subject: Subject) -> bytes:
    """The file of an ONNX program, by the exporter that traces."""
    example = subject.example()
    names, axes = _named_inputs(subject, example)
    outputs = subject.expected(example)
    made = [f"output{i}" if i else "output" for i in range(len(outputs))]
    if subject.batch:
        axes |= {n: {0: "batch"} for n, y in zip(made, outputs, strict=True) if y.shape[:1] == (2,)}
    file = io.BytesIO()
    # Where it fails it prints the whole graph, whoever asked for that or not.
    with _quiet(), mock.patch.object(torch._C, "_jit_onnx_log"):
        torch.onnx.export(
            subject.model,
            (*example.args, example.kwargs) if example.kwargs else example.args,
            file,  # pyright: ignore[reportArgumentType]
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=made,
            dynamic_axes=axes,
        )
    return file.getvalue()


def _named_inputs(subject: Subject, example: Inputs) -> tuple[list[str], dict[str, Any]]:
    """A name for each tensor that goes in, and the axes of it that may change."""
    free = subject.by_name(*subject.dynamic_axes())
    names: list[str] = []
    axes: dict[str, Any] = {}
    for name, value in subject.by_name(example.args, example.kwargs).items():
        found = list(tensors_in(value))
        here = [name] if len(found) == 1 else [f"{name}{i}" for i in range(len(found))]
        names += here
        changing: list[Any] = []
        _mapped(free.get(name), changing.append)
        axes |= dict(zip(here, changing, strict=False))
    return names, axes


def _torchscript(subject: Subject) -> bytes:
    """The file of a trace."""
    example = subject.example()
    given: Any = {"example_kwarg_inputs": subject.by_name(*example)} if example.kwargs else {
        "example_inputs": example.args
    }  # fmt: skip
    file = io.BytesIO()
    with _quiet(), torch.no_grad():
        traced = torch.jit.trace(subject.model, **given, check_trace=False)
        torch.jit.save(traced, file)
    return file.getvalue()


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the warnings of a tracer: what it bakes in is found by the comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _run_torch_export(file: Path) -> Run:
    read = torch.export.load(file).module()
    return lambda inputs: list(tensors_in(inputs.feed(read)))


def _run_torchscript(file: Path) -> Run:
    with _quiet():
        read = torch.jit.load(file)

    return lambda inputs: list(tensors_in(inputs.feed(read)))


def _run_onnx(file: Path) -> Run:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is said by the exception
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, tensors_in(inputs), strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run


MAKERS: Mapping[str, Callable[[Subject], bytes]] = {
    "torch-export": _torch_export,
    "onnx": _onnx,
    "onnx-classic": _onnx_classic,
    "torchscript": _torchscript,
}
READERS: dict[str, Callable[[Path], Run]] = {
    "torch-export": _run_torch_export,
    "onnx": _run_onnx,
    "onnx-classic": _run_onnx,
    "torchscript": _run_torchscript,
}
