"""Operated network -> folder: `surgery.json`, the weights as safetensors, and a README."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnsurgeon.checks.verify import Verification
from attnsurgeon.cost.comparing import Cost
from attnsurgeon.cost.course import Course, course
from attnsurgeon.cost.measured import Measurement
from attnsurgeon.errors import CheckFailed, ModelError, UsageError, nearest
from attnsurgeon.forwards.retype import original_class
from attnsurgeon.given import takes_networks
from attnsurgeon.models import Source, left_random
from attnsurgeon.plain import to_plain
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import input_record, recorded_form
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.saved.base import (
    Form,
    find_source,
    rebuild,
    source_record,
)
from attnsurgeon.saved.card import write_card
from attnsurgeon.saved.config import timm_config
from attnsurgeon.saved.folder import CARD, CONFIG, RECORD, check_output, new_folder
from attnsurgeon.saved.hub import check_repository, push
from attnsurgeon.saved.origin import Origin, attention_prefixes, measure, noted
from attnsurgeon.saved.pricing import price
from attnsurgeon.saved.schema import FORMAT, FORMAT_VERSION
from attnsurgeon.saved.trust import needs_trust
from attnsurgeon.saved.weights import Packed, buffers_left_out, pack, write_tensors
from attnsurgeon.splicing.history import changes_of, history, inserted
from attnsurgeon.splicing.selecting import operated_in
from attnsurgeon.version import __version__

__all__ = ["MODES", "Origin", "check_output", "save", "save_operation"]

MODES = ("full", "adapter")
WEIGHTS = {"full": "model.safetensors", "adapter": "adapter.safetensors"}
BUFFERS = "buffers.safetensors"
_SAVE_ALL = 'save all weights: mode="full"'


@takes_networks()
@known_state()
def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    mode: str = "full",
    push_to_hub: str | None = None,
) -> Path:
    """Write an operated network to a folder that `attnsurgeon.load` reads.

    However it came about: operated here, loaded, unpickled, of `from_pretrained`, trained since,
    with another classifier since. All or nothing: after an error or a crash there is the folder of
    before, or none, or the new one. Nothing is pickled.

    Args:
        model: a network that carries the records of its operations, on any device.
        path: of the folder; its parents are created.
        overwrite: replace a folder that this tool wrote.
        mode: "full" for all weights; "adapter" for those of the attention only, where the base
            network can be had again and still has the weights it had.
        push_to_hub: `ORG/NAME` of a repository of the Hugging Face hub to which the folder is
            uploaded as well; it is created where it does not exist.

    Returns:
        The path.

    Raises:
        UsageError: the folder cannot be written, the network has no attention, or cannot be saved
            that way; or the hub does not take it.
        CheckFailed: the network no longer has the attention that was put in.
        ModelError: it can no longer be run on the input that it was operated with.
    """
    check_mode(mode)
    check_output(path, overwrite)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    refuse_unoperated(model)
    _refuse_lost(model)
    cost, way = price(model, recorded_form(history(model)[-1]))
    written = write_network(path, model, cost, way, noted(model), overwrite=overwrite, mode=mode)
    if push_to_hub is not None:
        push(written, push_to_hub)
    return written


def save_operation(
    path: str | os.PathLike[str],
    model: nn.Module,
    plan: Plan,
    cost: Cost,
    origin: Origin,
    *,
    overwrite: bool = False,
    mode: str = "full",
    verification: Verification | None = None,
    measurement: Measurement | None = None,
) -> Path:
    """Write the network of an operation, as `save` does; refuse one that was operated since.

    Args:
        path, model, overwrite, mode: as for `save`.
        plan: what was last carried out on it; all earlier operations are saved, too.
        cost: of that plan.
        origin: of the base network.
        verification, measurement: of that operation, for reports.
    """
    check_mode(mode)
    check_output(path, overwrite)
    records = history(model)
    if not records or records[-1] != plan.record():
        what = "has been operated on again since" if records else "has no attention any more"
        raise CheckFailed(
            f"this operation cannot be saved: its network {what}",
            "save the network as it is now: attnsurgeon.save(operation.model, path)",
        )
    _refuse_lost(model)
    if len(records) > 1:  # the folder says what all its attention costs
        cost, way = price(model, recorded_form(records[-1]))
    else:
        way = course(plan.survey, cost.before, [price.site for price in cost.per_site])
    return write_network(
        path, model, cost, way, origin,
        overwrite=overwrite, mode=mode, verification=verification, measurement=measurement,
    )  # fmt: skip


@known_state()
def save_without(
    model: nn.Module, path: str | os.PathLike[str], form: InputForm, *, overwrite: bool
) -> Path:
    """Write a network from which attention was taken out, be there any left or not.

    Args:
        model: what `remove` left.
        path, overwrite: as for `save`.
        form: of the input to look at it with.
    """
    if history(model):
        return save(model, path, overwrite=overwrite)
    cost, way = price(model, form)
    return write_network(
        path, model, cost, way, noted(model), overwrite=overwrite, mode="full", form=form
    )


def check_mode(mode: str) -> None:
    """Refuse a way to save that there is not."""
    if mode not in MODES:
        raise UsageError(f"mode={mode!r} is not a way to save", nearest(str(mode), MODES))


def write_network(
    path: str | os.PathLike[str],
    model: nn.Module,
    cost: Cost,
    way: Course | None,
    origin: Origin,
    *,
    overwrite: bool,
    mode: str,
    form: InputForm | None = None,
    verification: Verification | None = None,
    measurement: Measurement | None = None,
) -> Path:
    """Write a network, its operations and its cost to a folder.

    Args:
        path, model, overwrite, mode: as for `save`.
        cost: of all its attention.
        way: of the forward through the network without attention, where it is known.
        origin: of the base network.
        form: of the input to look at it with, where no operation says so.
        verification, measurement: of the operation, where it was verified and measured.
    """
    target = check_output(path, overwrite)
    source = find_source(model, weights=mode == "adapter", form=form)
    base = Form.of(model) if mode == "adapter" else None
    if base is not None:
        _refuse_baseless(model, source, origin, base, target)
    record = _record(model, cost, origin, source, base, mode)
    record["input"] = None if form is None else input_record(form)
    for name, known in [("network", way), ("verification", verification), ("latency", measurement)]:
        record[name] = None if known is None else _plain(dataclasses.asdict(known))
    if measurement is not None and record["latency"] != dataclasses.asdict(measurement):
        record["latency"] = None  # a time that is no number: the clock stood still
    weights = pack(_state(model, mode))
    buffers = pack(dict(buffers_left_out(model)))
    with new_folder(path, overwrite=overwrite) as folder:
        record["weights"] = _write(folder, WEIGHTS[mode], weights)
        record["buffers"] = _write(folder, BUFFERS, buffers) if buffers.tensors else None
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        _write_text(folder / RECORD, text)
        if (config := timm_config(model, source)) is not None:
            _write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        card = write_card(
            record, target.name, needs_trust=needs_trust(source), for_timm=config is not None
        )
        _write_text(folder / CARD, card)
    return Path(path)


def _state(model: nn.Module, mode: str) -> dict[str, Any]:
    state = model.state_dict()
    if mode == "full":
        return state
    new = attention_prefixes(model)
    return {name: tensor for name, tensor in state.items() if name.startswith(new)}


def _write(folder: Path, name: str, packed: Packed) -> dict[str, Any]:
    return {
        "file": name,
        "sha256": write_tensors(packed, folder / name),
        "aliases": dict(packed.aliases),
        "strides": {name: list(strides) for name, strides in packed.strides.items()},
    }


def _write_text(file: Path, text: str) -> None:
    """Write text; of what is no letter in UTF-8 the escape, which JSON and Python read alike."""
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def _record(
    model: nn.Module,
    cost: Cost,
    origin: Origin,
    source: Source | None,
    form: Form | None,
    mode: str,
) -> dict[str, Any]:
    kind = original_class(model)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "mode": mode,
        "source": source_record(source),
        "base": {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "sha256": origin.sha256,
            "form": None if form is None else _form_record(form),
        },
        "operations": [_operation(record) for record in history(model)],
        "cost": _cost(cost),
        "versions": {
            "attnsurgeon": __version__,
            "torch": torch.__version__,
            "timm": _installed("timm"),
            "python": platform.python_version(),
        },
    }


def _operation(record: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return to_plain(record)
    except TypeError as error:
        raise UsageError(
            f"the operation cannot be written down: it has an argument {error}",
            "give mechanisms numbers, texts, truth values and lists of these",
        ) from error


def _form_record(form: Form) -> dict[str, Any]:
    return {
        "dtypes": {name: str(dtype).removeprefix("torch.") for name, dtype in form.dtypes.items()},
        "strides": {name: list(strides) for name, strides in form.strides.items()},
    }


def _cost(cost: Cost) -> dict[str, Any]:
    figures = ("params", "macs", "activations")
    return {
        **{
            title: {name: getattr(part, name) for name in figures}
            for title, part in [
                ("before", cost.before),
                ("after", cost.after),
                ("delta", cost.delta),
            ]
        },
        "uncounted": list(cost.uncounted),
        "per_site": [dataclasses.asdict(price) for price in cost.per_site],
    }


def _plain(value: Any) -> Any:
    """Values as JSON gives them back; a figure that is no number becomes None."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def refuse_unoperated(model: nn.Module) -> None:
    """Refuse what carries no record of an operation, and say where in it a network does.

    Raises:
        UsageError: naming what to save instead.
    """
    if history(model):
        return
    inside, _ = operated_in(model)
    raise UsageError(
        f"this {type(model).__name__} is not the network that was operated: that stands in it, at"
        f" {inside}",
        f"save that one: attnsurgeon.save(model.get_submodule({inside!r}), path)",
    )


def _refuse_lost(model: nn.Module) -> None:
    """Refuse a network that has not the attention that its records speak of, as it was put in."""
    planned = {site["module_path"] for record in history(model) for site in record["sites"]}
    present = {name for name, _ in inserted(model)}
    if planned != present:
        lost = sorted(planned - present)
        what = f"has lost {_some(lost)}" if lost else f"also has {_some(sorted(present - planned))}"
        raise CheckFailed(
            f"this network cannot be saved: it {what}",
            "`attnsurgeon.audit` counts what still runs; fuse(), reparameterize() and"
            " switch_to_deploy() drop attention, so save before them",
        )
    for path, module in inserted(model):
        if changed := changes_of(module):
            raise CheckFailed(
                f"this network cannot be saved: its attention at {path} is not what was put in:"
                f" {changed}",
                "it would be built again as it was, and differ: take off first what others have put"
                " on its layers (parametrizations, adapters); `attnsurgeon.export` keeps a network"
                " whose sizes a pruner has changed",
            )


def _refuse_baseless(
    model: nn.Module, source: Source | None, origin: Origin, form: Form, target: Path
) -> None:
    """Refuse an adapter whose base network could not be had again."""
    known = source is not None and source.weights not in ("random", "none")
    if source is None or not known:
        why = "where its base network came from is not known"
        if source is not None:
            why = (
                f"its base network, {source.spec}, had random weights, which are not kept anywhere"
            )
        raise UsageError(f"an adapter would be of no use: {why}", _SAVE_ALL)
    if random := left_random(model):
        raise UsageError(
            f"an adapter would be of no use: {_some(list(random))} of the base network started with"
            " random weights, which are not kept anywhere",
            _SAVE_ALL,
        )
    now = measure(model)
    if origin.sha256 is None or now.sha256 != origin.sha256:
        which = _some(sorted(origin.differences(now))) or "they"
        raise UsageError(
            "an adapter would be of no use: weights of the base network changed since the"
            f" operation ({which})",
            f"{_SAVE_ALL}; `freeze_backbone` before training keeps the base as it is, running"
            " statistics included",
        )
    if source.weights.startswith("checkpoint"):
        return  # the file's name is known but not where it is; its sha256 is checked on loading
    try:
        base = rebuild(source, folder=target, weights=True, trust=True)
    except ModelError as error:
        raise UsageError(f"an adapter would be of no use: {error.what}", _SAVE_ALL) from error
    form.give_to(base)
    if measure(base).sha256 != origin.sha256:
        raise UsageError(
            f"an adapter would be of no use: {source.spec} ({source.weights}) does not give the"
            " weights that the base network has",
            f"{_SAVE_ALL}; or build the base with pretrained=True or checkpoint=, so that its"
            " weights can be found again",
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
