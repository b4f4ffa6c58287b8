"""Spec and checkpoint -> nn.Module, and what is known of its origin and its input.

The only door to timm and torchvision; neither, nor any extra, is imported before a spec asks for
it.
"""

from __future__ import annotations

from attnsurgeon.models.build import build_on_meta, load_model
from attnsurgeon.models.heads import left_random
from attnsurgeon.models.inputs import (
    arguments_asked,
    arguments_hint,
    guess_input_sizes,
    input_size_of,
    size_hint,
)
from attnsurgeon.models.provenance import Source, source_of
from attnsurgeon.models.recognition import identify

__all__ = [
    "Source",
    "arguments_asked",
    "arguments_hint",
    "build_on_meta",
    "guess_input_sizes",
    "identify",
    "input_size_of",
    "left_random",
    "load_model",
    "size_hint",
    "source_of",
]
