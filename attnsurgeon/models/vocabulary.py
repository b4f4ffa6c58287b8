"""What a file names as a network -> of the closed vocabulary, or the reason why it is not.

A saved folder and a rule file may come from anywhere, and the spec in it is something to call. No
list of what is dangerous is complete, so this is one of what may be called: names that timm and
torchvision register, classes that transformers and segmentation_models_pytorch register, models
that ultralytics ships. Everything else is code or an address, and needs the caller's word. Of an
argument that a network takes only a plain value is taken; what it may name beside that, a backbone
or an encoder, is of the same vocabulary.

It is all judged by name. Nothing that a file names is imported, opened or called to find out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from attnsurgeon.errors import ModelError
from attnsurgeon.models.foreign import first_line, guarded, parameters
from attnsurgeon.models.plain_arguments import (
    not_labels,
    not_names,
    not_plain,
    points_elsewhere,
)
from attnsurgeon.models.smp_names import SMP, architecture, known_encoder
from attnsurgeon.models.timm_names import known_to_timm
from attnsurgeon.models.transformers_names import config_class, network_class
from attnsurgeon.models.ultralytics_names import known_to_ultralytics

Arguments = Mapping[str, Any]
LONGEST = 300  # characters of a spec
_REGISTERED = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
# Of `load_model`, not of a network: they would choose the weights, or let a file run code.
_OURS = (
    *("spec", "pretrained", "checkpoint", "unsafe_pickle"),
    *("checkpoint_key", "partial", "weights_only", "accept", "new_head"),
)


def objection(spec: str, model_args: Arguments) -> str | None:
    """Return why a network is not of the vocabulary, to go on after its name; None where it is.

    Args:
        spec: as for `load_model`.
        model_args: as for `load_model`.

    Raises:
        ModelError: the package that would know the name is not installed.
    """
    if own := reserved(model_args):
        return own
    if len(spec) > LONGEST:
        return f"a name of {len(spec):,} characters is none of a network"
    family, colon, name = spec.partition(":")
    if not colon:
        family, name = "timm", spec
    if family.partition(".")[0] == SMP:
        return _judge_smp(family, name, model_args)
    judge = _JUDGES.get(family)
    return _code(spec) if judge is None else judge(name, model_args)


def shown(spec: str) -> str:
    """Return a spec for a message: quoted, with nothing that a terminal would act on, and short."""
    return repr(spec) if len(spec) <= LONGEST else f"{spec[:60]!r}..."


def reserved(model_args: Arguments) -> str | None:
    """Return which argument is none of a network but of loading, which is for the caller alone."""
    given = dict(model_args)
    if given.get("pretrained", True) in (None, False):  # which asks for nothing
        del given["pretrained"]
    found = next((name for name in _OURS if name in given), None)
    return f"its argument {found} is for the one who loads it to give" if found else None


def _judge_timm(name: str, given: Arguments) -> str | None:
    if not _registered_at_timm(name):
        return "timm registers no such name" if _REGISTERED.fullmatch(name) else _code(name)
    from timm.models import model_entrypoint

    known = _parameters_in(model_entrypoint(name), "timm.models") | _OF_EVERY_TIMM
    return _wrong_argument(known, given)


_OF_EVERY_TIMM = {"features_only", "out_indices", "feature_cls", "output_stride"}


def _registered_at_timm(name: Any) -> bool:
    whole = isinstance(name, str) and _REGISTERED.fullmatch(name)
    return bool(whole) and known_to_timm(name)


def _judge_torchvision(name: str, given: Arguments) -> str | None:
    from torchvision.models import get_model_builder, list_models

    if name.lower() not in list_models():
        return "torchvision registers no such name"
    return _wrong_argument(_parameters_in(get_model_builder(name), "torchvision."), given)


def _judge_ultralytics(name: str, given: Arguments) -> str | None:
    if not known_to_ultralytics(name):
        return "it is no model that ultralytics ships, and a description may hold code"
    return _wrong_argument(_OF_ULTRALYTICS, given)


_OF_ULTRALYTICS = {"nc", "ch", "num_classes", "in_chans", "data_kpt_shape", "verbose"}


def _judge_hub(name: str, given: Arguments) -> str | None:
    return "it is an address, and what stands there decides what is built"


def _judge_smp(module: str, name: str, given: Arguments) -> str | None:
    kind = architecture(name)
    if kind is None or module not in (SMP, kind.__module__):
        return f"{SMP} registers no such class"
    encoder = given.get("encoder_name")
    if encoder is not None and not known_encoder(encoder, _registered_at_timm):
        return f"its argument encoder_name is {str(encoder)[:60]!r}, which is no registered encoder"
    rest = {key: value for key, value in given.items() if key != "encoder_name"}
    known = {n for n, p in parameters(kind).items() if p.kind is not p.VAR_KEYWORD}
    return _wrong_argument(known, rest)


def _judge_transformers(name: str, given: Arguments) -> str | None:
    if not name.isidentifier():
        return "it is an address or a folder, and what stands there decides what is built"
    kind = network_class(name)
    if kind is None:
        return "transformers registers no such class"
    return _wrong_config(kind.config_class, given)


def _wrong_config(kind: Any, given: Arguments, depth: int = 0) -> str | None:
    """Say what is wrong with the arguments of a config of transformers, those inside included."""
    if kind is None or depth > 4:
        return "it has a config inside of no registered kind"
    known = _of_config(kind)
    for name, value in given.items():
        if depth and name in _SAVED_WITH:
            wrong = None if value in (None, "") else not_plain("saved", value)
        elif name == "use_pretrained_backbone":
            wrong = f"{name} asks for weights that would be downloaded" if value else None
        elif name in _OF_STAGES and hasattr(kind, "out_features"):
            wrong = not_names(name, value)
        elif name not in known:
            wrong = f"{str(name)[:60]!r} is none that a file may give"
        elif name in _CHOOSING:
            chosen = value is None or _registered_at_timm(value)
            wrong = None if chosen else f"{name} is {str(value)[:60]!r}, which timm does not know"
        elif name in ("id2label", "label2id"):
            wrong = not_labels(name, value)
        elif name in ("dtype", "torch_dtype"):
            wrong = None if value in _DTYPES else f"{name} is {str(value)[:60]!r}"
        elif isinstance(value, Mapping) and (
            "model_type" in value or name in (getattr(kind, "sub_configs", None) or {})
        ):
            inner = config_class(value.get("model_type")) if "model_type" in value else None
            if inner is None and "model_type" not in value:
                inner = kind.sub_configs[name]
            if wrong := _wrong_config(inner, value, depth + 1):
                return wrong
        else:
            wrong = not_plain(name, value)
        if wrong is not None:
            return f"its argument {wrong}"
    return None


_CHOOSING = {"backbone", "architecture"}
_DTYPES = (None, "float32", "float16", "bfloat16", "float64")
_OF_STAGES = ("stage_names", "out_features", "_out_features")
# Of a config inside a config, what is no argument of it.
_SAVED_WITH = {"model_type", "transformers_version", "architectures", "_name_or_path"}


def _of_config(kind: Any) -> set[str]:
    """The arguments of a config: its fields, and what its defaults make of them."""
    properties = {n for n in dir(kind) if isinstance(getattr(kind, n, None), property)}
    try:
        made = guarded(lambda: set(vars(kind())), lambda error: ModelError(first_line(error)))
    except ModelError:  # it cannot be made of its defaults alone
        made = set()
    attributes = {*getattr(kind, "__dataclass_fields__", ()), *properties, *made}
    attributes |= {*getattr(kind, "attribute_map", ()), *parameters(kind), "output_attentions"}
    return {name for name in attributes if not name.startswith("_")} - {"kwargs"}


def _wrong_argument(known: Collection[str], given: Arguments) -> str | None:
    for name, value in given.items():
        if wrong := not_plain(name, value):
            return f"its argument {wrong}"
        if name not in known and not (points_elsewhere(name) and value is None):
            return f"it takes no argument {name!r}"
    return None


def _parameters_in(builder: Callable[..., Any], package: str) -> set[str]:
    """The parameters of everything in the file of a builder that belongs to a package.

    Builders hand their `**kwargs` on to a class, a config or a function beside them.
    """
    home = vars(sys.modules[builder.__module__])
    makers = [builder]
    for value in home.values():
        if callable(value) and str(getattr(value, "__module__", "")).startswith(package):
            makers.append(value)
    return {name for maker in makers for name in parameters(maker)} - {"args", "kwargs", "self"}


def _code(spec: str) -> str:
    place = code_place(spec)
    return "that is code of its own" + (f", in {place}" if place else "")


def code_place(spec: str) -> str | None:
    """Return where the code stands that a spec names; nothing of it is imported."""
    left, colon, _ = spec.rpartition(":")
    if not colon or "\0" in left:
        return None
    if left.endswith(".py"):
        return os.path.abspath(os.path.expanduser(left))
    package = left.partition(".")[0]
    if not package.isidentifier():
        return None
    found = PathFinder.find_spec(package, [os.fspath(Path.cwd()), *sys.path])
    places = [found.origin, *(found.submodule_search_locations or [])] if found else []
    return next((place for place in places if place), None)


_JUDGES: Mapping[str, Callable[[str, Arguments], str | None]] = {
    "timm": _judge_timm,
    "torchvision": _judge_torchvision,
    "ultralytics": _judge_ultralytics,
    "transformers": _judge_transformers,
    "hf-hub": _judge_hub,
    "hf_hub": _judge_hub,
}
