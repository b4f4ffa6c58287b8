"""The columns of the table, in order: title -> probe.

A probe takes a `Subject`, carries its network somewhere, and compares. It returns "" where that
holds, or the reason why not, in words for a user; what it raises is taken for a reason too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.portability.probes import (
    copies,
    numerics,
    onnx_files,
    processes,
    programs,
    pruned,
    quantised,
    torchscript,
)
from benchmarks.portability.subject import Subject

Probe = Callable[[Subject], str]

PROBES: Mapping[str, Probe] = {
    "trace + save": torchscript.trace_and_save,
    "script": torchscript.script,
    "ONNX": onnx_files.dynamo,
    "ONNX classic": onnx_files.classic,
    "torch.export": programs.export_any_size,
    "compile": programs.compile_whole,
    "PT2E int8": quantised.pt2e,
    "FX int8": quantised.fx,
    "fx": programs.trace_symbolically,
    "copy + pickle": copies.copy_and_pickle,
    "DDP": processes.data_parallel,
    "FSDP2": processes.fully_sharded,
    "bf16": numerics.autocast,
    "channels_last": numerics.channels_last,
    "deterministic": numerics.deterministic,
    "pruning": pruned.channels,
}


def tried(probe: Probe, subject: Subject) -> str:
    """Returns the reason why a probe does not hold, or ""."""
    try:
        return probe(subject)
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:160]
