"""TorchScript: traced and saved, or scripted."""

from __future__ import annotations

import io
import warnings

import torch

from benchmarks.portability.comparing import apart
from benchmarks.portability.subject import Subject


def trace_and_save(subject: Subject) -> str:
    """Traced at a batch of 2 with gradients on, saved, loaded, run at a batch of 3."""
    network, file = subject.network(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, subject.input(2), check_trace=False), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    other = subject.input(3)
    with torch.no_grad():
        return apart(loaded(other), network(other))


def script(subject: Subject) -> str:
    """Scripted, saved, loaded, run at another batch and size."""
    network, file = subject.network(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    other = subject.input(3, (40, 32))
    with torch.no_grad():
        return apart(loaded(other), network(other))
