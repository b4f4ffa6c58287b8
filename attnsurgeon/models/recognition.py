"""A network the user built himself -> the spec that builds the same one, if it can be proved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.build import build_on_meta
from attnsurgeon.models.inputs import input_size_of
from attnsurgeon.models.provenance import Source, source_of
from attnsurgeon.models.settings import plain_settings
from attnsurgeon.models.transformers_names import class_and_config
from attnsurgeon.models.ultralytics_names import described


def identify(model: nn.Module) -> Source | None:
    """Find the spec and arguments that build this network; None where none is proved to.

    The network's own note (`source_of`) and timm's `pretrained_cfg` are only where the search
    starts: each candidate is rebuilt on the meta device and must equal the network in class, in
    state-dict keys and shapes, in how every layer prints itself and in every plain setting of
    every layer. Keys and shapes alone do not see a stride, an activation or a dropout rate.

    Args:
        model: is only read.
    """
    for source in _origins(model):
        todo = list(_variants(source, model))
        while todo:
            candidate = todo.pop(0)
            try:
                twin = build_on_meta(candidate.spec, **candidate.model_args)
            except ModelError:  # a guess that cannot be built is a wrong guess
                continue
            if type(twin) is not type(model):
                break  # no argument makes it another class
            if _shapes(twin) != _shapes(model):
                number = _classes_of_its_head(model, twin)
                said = _with(source, {"num_classes": number})
                if number is not None and candidate != said and said not in todo:
                    todo.append(said)
                continue
            if repr(twin) == repr(model) and _settings(twin) == _settings(model):
                return candidate
            break  # nor, with shapes as they are, another arithmetic
    return None


def _classes_of_its_head(model: nn.Module, twin: nn.Module) -> int | None:
    """The number of outputs of a classifier that was put in by hand, if only it is different."""
    ours, theirs = model.state_dict(), twin.state_dict()
    if list(ours) != list(theirs):
        return None
    other = [name for name, tensor in ours.items() if tensor.shape != theirs[name].shape]
    sizes = {(len(ours[name]), len(theirs[name])) for name in other if ours[name].dim()}
    inside = all(ours[name].shape[1:] == theirs[name].shape[1:] for name in other)
    return next(iter(sizes))[0] if inside and len(sizes) == 1 else None


def _origins(model: nn.Module) -> Iterator[Source]:
    noted = source_of(model)
    if noted is not None:
        yield noted
    of_transformers = class_and_config(model)
    if of_transformers is not None:
        yield of_transformers
    arguments = getattr(model, "config", None)
    if isinstance(arguments, Mapping) and hasattr(type(model), "save_pretrained"):
        kind = getattr(type(model), "_surgeon_base", type(model))  # keeps how it was constructed
        plain = {name: value for name, value in arguments.items() if name != "encoder_weights"}
        yield Source(f"{kind.__module__}:{kind.__qualname__}", plain, weights="as built")
    of_ultralytics = described(model)
    if of_ultralytics is not None:
        yield of_ultralytics
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("architecture"):
        architecture = config["architecture"]
        tag = config.get("tag")
        name = f"{architecture}.{tag}" if tag else architecture
        yield Source(name, dict(getattr(model, "_model_args", {})), weights="as built")


def _variants(source: Source, model: nn.Module) -> Iterator[Source]:
    """As noted first; then with what the network says of its classes and its input."""
    yield source
    now: dict[str, Any] = {}
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int) and classes != source.model_args.get("num_classes"):
        now["num_classes"] = classes
    size = input_size_of(model)
    if size is not None and size[0] != source.model_args.get("in_chans"):
        now["in_chans"] = size[0]
    for names in ([name] for name in now):
        yield _with(source, {name: now[name] for name in names})
    if len(now) > 1:
        yield _with(source, now)


def _with(source: Source, arguments: Mapping[str, Any]) -> Source:
    return dataclasses.replace(source, model_args={**source.model_args, **arguments})


def _settings(model: nn.Module) -> list[dict[str, Any]]:
    """The plain settings of every layer, and its functions by name. What a network says of its
    classes is left out: a classifier put in by hand leaves it as it was, and the shapes tell.
    """
    found = [plain_settings(_own(module), _function) for module in model.modules()]
    return [{k: v for k, v in one.items() if k != "num_classes"} for one in found]


def _own(module: nn.Module) -> dict[str, Any]:
    """What a module holds, without methods that were put on it in place of those of its class."""
    return {k: v for k, v in vars(module).items() if not callable(getattr(type(module), k, None))}


def _function(value: Any) -> str | None:
    """A function by its name: an activation, say, that is no module."""
    if isinstance(value, (FunctionType, BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    return None


def _shapes(model: nn.Module) -> list[tuple[str, Any]]:
    return [(key, getattr(value, "shape", None)) for key, value in model.state_dict().items()]
