"""What is known of the base network <-> the base network, built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source, build_on_meta, identify, load_model, source_of
from attnsurgeon.models.fitting import Wishes
from attnsurgeon.models.provenance import stamp
from attnsurgeon.plain import from_plain, to_plain
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.twin import meta_twin
from attnsurgeon.saved.behaviour import computes_like, is_altered
from attnsurgeon.saved.origin import base_tensors
from attnsurgeon.saved.trust import cannot_be_built, refuse_untrusted
from attnsurgeon.saved.weights import cast_to, strides_of
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.removing import remove_all


def find_source(model: nn.Module, *, weights: bool, form: InputForm | None = None) -> Source | None:
    """Return how the base of an operated network is built again; None where that is not known.

    The network's note is not taken on trust: since it was written the classifier may have been
    replaced, or layers converted. What is returned has been built on meta and compared; where hooks
    hang on the network, or methods were put on it, so has what it computes.

    Args:
        model: is only read.
        weights: whether the source has to tell of the weights, too, for an adapter.
        form: of the input to look at it with, where no operation says so.
    """
    records = history(model)
    form = recorded_form(records[-1]) if records else form
    twin = meta_twin(model)
    remove_all(twin, refill=True)  # only its form is compared
    found = _found(twin, weights=weights)
    if found is None or not is_altered(twin):
        return found
    built = build_on_meta(found.spec, **found.model_args)
    return found if computes_like(twin, built, form) else None


def _found(twin: nn.Module, *, weights: bool) -> Source | None:
    noted = source_of(twin)
    if noted is not None and _at_the_hub(noted.spec) and not weights:
        # A hub's configuration may change or be out of reach; the name it stands for does not.
        plain = identify(_without_note(twin))
        if plain is not None and _writable(plain):
            return Source(plain.spec, plain.model_args, noted.weights, noted.stripped)
        stamp(twin, noted)
    found = identify(twin)
    return found if found is not None and _writable(found) else None


def _without_note(twin: nn.Module) -> nn.Module:
    for name, value in list(twin.__dict__.items()):
        if isinstance(value, Source):
            del twin.__dict__[name]
    return twin


def _at_the_hub(spec: str) -> bool:
    return spec.startswith(("hf-hub:", "hf_hub:", "transformers:"))


def _writable(source: Source) -> bool:
    try:
        to_plain(source.model_args)
    except TypeError:  # a class or a function among the arguments
        return False
    return True


def source_record(source: Source | None) -> dict[str, Any] | None:
    """Return a source as plain values."""
    if source is None:
        return None
    return {
        "spec": source.spec,
        "model_args": to_plain(source.model_args),
        "weights": source.weights,
        "stripped": list(source.stripped),
    }


def source_from(record: Mapping[str, Any] | None) -> Source | None:
    """Return the source that `source_record` wrote down."""
    if record is None:
        return None
    return Source(
        record["spec"],
        {name: from_plain(value) for name, value in record["model_args"].items()},
        record["weights"],
        tuple(record["stripped"]),
    )


@dataclass(frozen=True)
class Form:
    """How the base network's tensors differ from those its constructor makes.

    Attributes:
        dtypes: name -> dtype of floating-point tensors that are not float32.
        strides: name -> strides of tensors that are not row-major.
    """

    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    strides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Form:
        """Return the form of an operated network's base."""
        dtypes: dict[str, torch.dtype] = {}
        strides: dict[str, tuple[int, ...]] = {}
        for name, tensor in base_tensors(model):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                dtypes[name] = tensor.dtype
            if (laid_out := strides_of(tensor)) is not None:
                strides[name] = laid_out
        return cls(dtypes, strides)

    def give_to(self, base: nn.Module) -> None:
        """Convert a base network's tensors in place."""
        for name, tensor in base_tensors(base):
            dtype = tensor.dtype
            if tensor.is_floating_point():
                dtype = self.dtypes.get(name, torch.float32)
            cast_to(tensor, dtype, self.strides.get(name))


def rebuild(
    source: Source,
    *,
    folder: Path,
    weights: bool,
    checkpoint: Any = None,
    trust: bool = False,
    most: int | None = None,
    wishes: Wishes | None = None,
    empty: bool = False,
) -> nn.Module:
    """Build a base network again.

    Args:
        source: how.
        folder: the saved folder that says so.
        weights: with the weights it had, else with random ones, which costs no download.
        checkpoint: the file of weights, where the source says that it had one.
        trust: let the folder name code and addresses.
        most: numbers that the network may hold; None for a few times those that it usually has.
        wishes: how to take the file of weights.
        empty: on the meta device, without any.

    Raises:
        ModelError: it cannot be built, or a saved folder may not have it built.
    """
    arguments: dict[str, Any] = {**source.model_args}
    if weights and source.weights.startswith("checkpoint"):
        arguments |= {"checkpoint": checkpoint, **(wishes or Wishes()).arguments}
    elif source.weights == "pretrained":
        arguments.setdefault("pretrained", weights)
    refuse_untrusted(source, folder, trust=trust, most=most)
    try:
        model = (build_on_meta if empty else load_model)(source.spec, **arguments)
    except ModelError as error:
        raise cannot_be_built(error) from error
    noted = source_of(model)
    return stamp(model, replace(source, notes=noted.notes if noted else ()))
