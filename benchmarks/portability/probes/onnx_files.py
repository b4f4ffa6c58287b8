"""ONNX files of both exporters, run by onnxruntime."""

from __future__ import annotations

import io
import warnings
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.portability.comparing import apart
from benchmarks.portability.subject import Subject

OPSET = 17


def dynamo(subject: Subject) -> str:
    """By the exporter of torch.export, batch left open."""
    network = subject.network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            (subject.input(2),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            verbose=False,
        )
    return _compared(subject, program.model_proto.SerializeToString())


def classic(subject: Subject) -> str:
    """By the exporter of torch.jit.trace, batch left open."""
    network, file = subject.network(), io.BytesIO()
    # Where it fails it prints the whole graph.
    silent = mock.patch.object(torch._C, "_jit_onnx_log")
    with warnings.catch_warnings(), silent:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (subject.input(2),),
            file,  # pyright: ignore[reportArgumentType]
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )
    return _compared(subject, file.getvalue())


def _compared(subject: Subject, file: bytes) -> str:
    other = subject.input(3)
    with torch.no_grad():
        return apart(_run(file, other), subject.network()(other))


def _run(file: bytes, x: Tensor) -> Tensor:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what it has to say is said by the exception
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
