"""Folder -> network: the base is built again, the surgery replayed, the weights loaded."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.models import Source
from attnsurgeon.models.checkpoint import Checkpoint, read_checkpoint
from attnsurgeon.models.files.folders import is_index
from attnsurgeon.models.finding import holds_modules
from attnsurgeon.models.fitting import Wishes, fit_checkpoint
from attnsurgeon.models.own_attention import Attention
from attnsurgeon.models.provenance import note_on
from attnsurgeon.plain import from_plain
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.saved.base import Form, rebuild, source_from
from attnsurgeon.saved.code import admit_attention
from attnsurgeon.saved.folder import RECORD
from attnsurgeon.saved.hub import fetched, is_at_hub
from attnsurgeon.saved.loading import Loading, loading
from attnsurgeon.saved.origin import Origin, measure, note
from attnsurgeon.saved.save import BUFFERS, WEIGHTS
from attnsurgeon.saved.schema import read_record
from attnsurgeon.saved.trust import (
    needs_trust,
    refuse_links,
    refuse_out_of_size,
    size_of,
)
from attnsurgeon.saved.weights import Packed, read_tensors, reshape_to, set_buffers
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.replay import not_repeatable, replay


@dataclass(frozen=True, eq=False)
class Saved:
    """A saved folder, read but not yet loaded.

    Attributes:
        path: of the folder.
        record: what stands in its surgery.json.
        name: what it was asked for by: its path, or `hf-hub:ORG/NAME`.
    """

    path: Path
    record: Mapping[str, Any]
    name: str

    @property
    def mode(self) -> str:
        """What the weights are of: "full" or "adapter"."""
        return self.record["mode"]

    @property
    def source(self) -> Source | None:
        """How the base network is built again, where that is known."""
        return source_from(self.record["source"])

    @property
    def operations(self) -> tuple[dict[str, Any], ...]:
        """The operations as `Plan.record` gave them, oldest first."""
        return tuple(from_plain(record) for record in self.record["operations"])

    @property
    def form(self) -> InputForm:
        """The form of the input that the last operation was made with."""
        made = self.record["operations"]
        return recorded_form(made[-1] if made else self.record["input"])

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return self.path / WEIGHTS[self.mode]


def read_folder(path: str | os.PathLike[str]) -> Saved:
    """Read the record of a folder that `save` wrote; the weights are not touched.

    Args:
        path: of the folder; or `hf-hub:ORG/NAME`, which is fetched into the hub's cache.

    Raises:
        ModelError: it is no such folder, it is damaged, or a newer version wrote it.
    """
    name = os.fspath(path)
    if is_at_hub(path):
        path = fetched(name)
    folder = Path(path)
    file = folder / RECORD
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"{path} {what}",
            "name a folder that attnsurgeon.save wrote",
            command="name a folder that `attnsurgeon insert -o` wrote",
        )
    if not file.is_file():
        raise ModelError(
            f"{path} has no {RECORD}: it is not a network saved after surgery",
            "name a folder that attnsurgeon.save wrote; a file of weights alone is read by"
            " load_model(..., checkpoint=FILE)",
            command="name a folder that `attnsurgeon insert -o` wrote; a file of weights alone is"
            " read with --checkpoint FILE",
        )
    refuse_links(folder, [file])
    record = read_record(file)
    saved = Saved(folder, record, name if is_at_hub(name) else str(folder))
    files = (saved.weights, *([folder / BUFFERS] if record["buffers"] else []))
    for needed in files:
        if not needed.is_file():
            raise ModelError(
                f"{path} is not complete: {needed.name} is missing",
                "copy or download the whole folder again",
            )
    refuse_links(folder, files)
    return saved


def loading_of(saved: Saved, *, checkpoint: str | None = None) -> Loading:
    """Returns the Python that loads a folder; `checkpoint` as for `loading`."""
    trust = needs_trust(saved.source)
    return loading(saved.record, saved.name, trust=trust, checkpoint=checkpoint)


@takes_networks(or_else=(type(None),))
@known_state()
def load(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    trust: bool = False,
    checkpoint_key: str | None = None,
    partial: bool = False,
    weights_only: bool = False,
    accept: str | Collection[str] = (),
    attn: Attention | Mapping[str, Attention] | None = None,
) -> nn.Module:
    """Load a network that was saved after surgery.

    Its base is built again from where it came from, the same attention is put in at the same
    places, and the saved weights are loaded. Nothing that the folder holds is unpickled, and
    nothing that it names is run: its base is a network that an installed library registers, by
    its name and plain arguments, unless you say `trust`. Like a network fresh from its factory,
    the result is in training mode and every parameter is trainable.

    Args:
        path: a folder that `save` wrote, or `hf-hub:ORG/NAME` for one of the Hugging Face hub, to
            which it was pushed; `hf-hub:ORG/NAME@REVISION` for an earlier state of it.
        model: the base network, where it cannot be built from what the folder knows, or should
            not be; it is copied. Of an adapter, with its weights.
        checkpoint: a file of the operated network's weights, trained since: a state dict, what a
            trainer saved, or the whole network pickled. Or, for an adapter on a base that was
            loaded from a checkpoint, the file of the base's weights; what it is, the file says.
        trust: let the folder name code of your own, which is run, or an address, which is asked.
        checkpoint_key, partial, weights_only, accept: how to take it, as for `load_model`.
        attn: the attention itself where it is code of your own, as for `insert`; or of several,
            name in the folder -> attention. It is taken as it is, changed or not.

    Raises:
        ModelError: the folder is damaged, it names code that you did not allow, the base cannot
            be built, or it is no longer the network that was operated; or the checkpoint does not
            fit.
        UsageError: a checkpoint was given that would not be used.
    """
    saved = read_folder(path)
    if not trust:
        refuse_out_of_size(saved.record, saved.path, size_of(saved.weights))
    wishes = Wishes.of(checkpoint_key, partial, weights_only, accept)
    operations = admit_attention(saved.operations, saved.path, trust=trust, given=attn)
    trained = None if checkpoint is None else _trained(saved, checkpoint)
    with OwnDice():  # the random start is overwritten, so leave no trace
        base = _base(saved, model, checkpoint, trained, wishes, trust)
        if saved.mode == "adapter":
            _check_base(saved, base, compare=trained is None)
        replay(base, operations, functools.partial(_drift, saved))
    _load_weights(saved, base)
    if trained is not None:
        fitted = fit_checkpoint(base, trained, what=str(saved.path), wishes=wishes)
        note_on(base, fitted.notes)
    if saved.mode == "full" or trained is not None:
        note(base, Origin(saved.record["base"]["sha256"]))
    return base


def outline(saved: Saved, *, trust: bool = False) -> nn.Module:
    """Build the network of a saved folder on the meta device.

    Args:
        saved: the folder.
        trust: as for `load`.

    Raises:
        ModelError: as `load`.
    """
    return without_weights(saved, trust=trust, empty=True)


@known_state(own_dice=False)
def without_weights(
    saved: Saved, *, base: nn.Module | None = None, trust: bool = False, empty: bool = False
) -> nn.Module:
    """Build the network of a saved folder with random weights.

    Args:
        saved: the folder.
        base: the base network, which is operated itself; None to build it.
        trust: as for `load`.
        empty: on the meta device, without weights.

    Raises:
        ModelError: as `load`.
    """
    if saved.source is None:
        raise _unknown_base(saved)
    if not trust:
        refuse_out_of_size(saved.record, saved.path, size_of(saved.weights))
    most = None if saved.mode == "adapter" else size_of(saved.weights)
    if base is None:
        base = rebuild(
            saved.source, folder=saved.path, weights=False, trust=trust, most=most, empty=empty
        )
    operations = admit_attention(saved.operations, saved.path, trust=trust, given=None)
    with OwnDice():
        replay(base, operations, functools.partial(_drift, saved))
    return base


def _unknown_base(saved: Saved) -> ModelError:
    return ModelError(
        f"{saved.path} does not know how to build its base network, a"
        f" {saved.record['base']['class']}",
        "build it yourself and pass it: model=base",
    )


def _trained(saved: Saved, checkpoint: str | os.PathLike[str]) -> Checkpoint | None:
    """Read a file of the operated network's weights; None of one of an adapter's base alone."""
    read = read_checkpoint(checkpoint)
    paths = [s["module_path"] for op in saved.operations for s in op["sites"] if s["params"]]
    if holds_modules(read, paths):
        return read
    if saved.mode == "adapter" and paths:
        return None
    if paths:
        raise UsageError(
            f"{saved.path} needs no checkpoint of its base, and {read.name} has none of its"
            f" attention ({paths[0]}{' …' if len(paths) > 1 else ''})",
            "leave it out, or give a file of the operated network's weights",
        )
    return read  # of attention without parameters, every file is of the operated network


def _base(
    saved: Saved,
    model: nn.Module | None,
    checkpoint: Any,
    trained: Checkpoint | None,
    wishes: Wishes,
    trust: bool,
) -> nn.Module:
    """Build or copy the base network."""
    source = saved.source
    adapter = saved.mode == "adapter" and trained is None
    given, checkpoint = checkpoint, checkpoint if trained is None else None
    wants_file = adapter and source is not None and source.weights.startswith("checkpoint")
    if checkpoint is not None and (model is not None or not wants_file):
        raise UsageError(
            f"{saved.path} needs no checkpoint",
            "leave it out" if model is None else "the base network brings its weights",
        )
    if model is not None:
        if history(model):
            raise ModelError(
                "the base network has attention in it already", "pass it as it was before surgery"
            )
        return copy.deepcopy(model)
    if source is None:
        raise _unknown_base(saved)
    if wants_file and checkpoint is None:
        raise ModelError(
            f"{saved.path} is an adapter for {source.spec} with the weights of {source.weights}",
            "pass that file: checkpoint=FILE",
        )
    held_by = given if saved.mode == "adapter" else saved.weights
    if held_by is not None and is_index(Path(held_by)):  # its files lie beside it
        held_by = Path(held_by).parent
    return rebuild(
        source,
        folder=saved.path,
        weights=adapter,
        checkpoint=checkpoint,
        trust=trust,
        most=None if held_by is None else size_of(held_by),
        wishes=wishes,
    )


def _check_base(saved: Saved, base: nn.Module, *, compare: bool) -> None:
    """Give the base its form; refuse one that is not the one the adapter was trained on."""
    form = saved.record["base"]["form"]
    Form(
        {name: getattr(torch, dtype) for name, dtype in form["dtypes"].items()},
        {name: tuple(strides) for name, strides in form["strides"].items()},
    ).give_to(base)
    if not compare:  # all its weights come from another file
        return
    origin = measure(base)
    note(base, origin)
    if origin.sha256 != saved.record["base"]["sha256"]:
        raise ModelError(
            f"the base network does not have the weights that the adapter {saved.path} was made"
            " for: their sha256 differs",
            "give the base it was made from: model=base",
        )


def _drift(saved: Saved, differences: list[str]) -> ModelError:
    made = ", ".join(f"{name} {version}" for name, version in saved.record["versions"].items())
    return not_repeatable(
        differences,
        what=f"the surgery of {saved.path}",
        hint=f"the network has changed since; it was saved with {made}",
    )


def _load_weights(saved: Saved, network: nn.Module) -> None:
    packed = _packed(saved, saved.record["weights"], saved.weights)
    state = dict(packed.tensors)
    state |= {name: packed.tensors[kept] for name, kept in packed.aliases.items()}
    own = network.state_dict()
    new = {site["module_path"] for operation in saved.operations for site in operation["sites"]}
    prefixes = tuple(f"{path}." for path in new) if saved.mode == "adapter" else ("",)
    expected = [name for name in own if name.startswith(prefixes)]
    wrong = [
        *(f"{name} is missing" for name in expected if name not in state),
        *(f"{name} is not of this network" for name in state if name not in expected),
        *(
            f"{name} has the shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
            for name in expected
            if name in state and state[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ModelError(
            f"{saved.weights} does not fit the network:\n  " + "\n  ".join(wrong[:5]) + more,
            "it belongs to another network, or the base network has changed since it was saved",
        )
    reshape_to(network, packed)
    network.load_state_dict(state, strict=saved.mode == "full")
    if saved.record["buffers"]:
        set_buffers(network, _packed(saved, saved.record["buffers"], saved.path / BUFFERS))


def _packed(saved: Saved, record: Mapping[str, Any], file: Path) -> Packed:
    tensors = read_tensors(file, record["sha256"])
    aliases = record["aliases"]
    strides = {name: tuple(found) for name, found in record["strides"].items()}
    odd = [name for name in aliases.values() if name not in tensors]
    odd += [n for n, s in strides.items() if n not in tensors or len(s) != tensors[n].dim()]
    if odd:
        raise ModelError(
            f"{saved.path / RECORD} and {file.name} do not belong together: {odd[0]} does not fit",
            "copy or download the whole folder again",
        )
    return Packed(tensors, aliases, strides)
