"""Static int8 quantisation: by PT2E (torchao), and by FX graph mode, still in torch 2.14."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.portability.subject import Subject, bare, base_of, images_of

LOSES = 10.0  # decibels more than the bare network: three times its error
Quantise = Callable[[nn.Module, list[Tensor]], Any]


def pt2e(subject: Subject) -> str:
    """By PT2E, calibrated and converted; its error is at most three times the bare network's."""
    return _compared(subject, _by_pt2e)


def fx(subject: Subject) -> str:
    """By FX graph mode, the same."""
    return _compared(subject, _by_fx)


def _compared(subject: Subject, quantise: Quantise) -> str:
    base = base_of(subject.mechanism)
    ours, theirs = _kept(subject.network(), quantise), _kept_bare(base, quantise)
    if ours > theirs - LOSES:
        return ""
    return f"the error is {10 ** ((theirs - ours) / 20):.1f} times that of the bare network"


@functools.cache
def _kept_bare(base: type[nn.Module], quantise: Quantise) -> float:
    return _kept(bare(base), quantise)


def _kept(network: nn.Module, quantise: Quantise) -> float:
    """Returns the decibels of a network's output above the error of the quantised one."""
    *images, x = (images_of(4, seed) for seed in (4, 5, 6, 7))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decibels(network(x), quantise(network, images)(x))


def _by_pt2e(network: nn.Module, images: list[Tensor]) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
        convert_pt2e,
        prepare_pt2e,
    )
    from torchao.testing.pt2e._xnnpack_quantizer import (  # pyright: ignore[reportMissingImports]
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True)
    program = torch.export.export(network, (images[0],)).module()
    prepared = prepare_pt2e(program, XNNPACKQuantizer().set_global(config))
    for batch in images:
        prepared(batch)
    return convert_pt2e(prepared)


def _by_fx(network: nn.Module, images: list[Tensor]) -> Any:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = get_default_qconfig_mapping("x86")
    prepared = prepare_fx(copy.deepcopy(network), mapping, (images[0],))
    for batch in images:
        prepared(batch)
    return convert_fx(prepared)


def _decibels(signal: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(signal.square().mean() / (signal - noisy).square().mean()))
