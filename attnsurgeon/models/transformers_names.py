"""A repository of the hub, a folder or a class of Hugging Face's transformers -> the network.

transformers is an extra (`pip install "attnsurgeon[transformers]"`). Which class is built stands in
`architectures` of the config; code that a repository brings is never run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.foreign import first_line, guarded, quote
from attnsurgeon.models.offline import is_network_error, quick_refusal
from attnsurgeon.models.provenance import Source
from attnsurgeon.models.recipes import Recipe
from attnsurgeon.models.suggestions import close_to, nearest_file

_INSTALL = 'pip install "attnsurgeon[transformers]"'
_FAMILY = "transformers:"
# Of a config, what is no argument of the architecture.
_SAVED_WITH = {
    "transformers_version",
    "architectures",
    "dtype",
    "model_type",
    "quantization_config",
    "fusion_config",
}


def transformers_recipe(name: str) -> Recipe:
    """Return how to build `ORG/NAME`, `path/to/folder`, or `ResNetForImageClassification`.

    The config of a repository is fetched (or taken from the hub's cache) even where no weights
    are asked for. A class is built from its config's defaults and the arguments of the network.

    Raises:
        ModelError: transformers is not installed, or the name is no folder, class or repository.
    """
    guarded(_library, _missing)
    if not name:
        raise ModelError(
            "the name of the network is empty", "for example transformers:microsoft/resnet-50"
        )
    path = Path(os.path.expanduser(name))
    if path.exists():
        return Recipe(partial(_build, str(path)))
    if name.isidentifier():
        return Recipe(partial(_build_class, _class(name)))
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name:
        raise ModelError(f"there is no folder {name}", nearest_file(path))
    return Recipe(partial(_build, name))


def class_and_config(model: nn.Module) -> Source | None:
    """Return the source that builds a network of transformers from its class and its config.

    It needs neither the hub nor a folder, and knows what was changed in the config since.

    Returns:
        None for any other network.
    """
    config: Any = getattr(model, "config", None)
    kind: Any = getattr(type(model), "_surgeon_base", type(model))
    if not kind.__module__.startswith("transformers.") or not hasattr(config, "to_json_string"):
        return None
    known = _known(kind.config_class()) - _SAVED_WITH
    plain = json.loads(config.to_json_string(use_diff=True))  # its labels have numbers for keys
    arguments = {name: value for name, value in plain.items() if name in known}
    return Source(_FAMILY + kind.__name__, arguments, weights="as built")


def network_class(name: str) -> Any:
    """Return the class of this name if transformers registers one of networks, else None.

    Raises:
        ModelError: transformers is not installed.
    """
    library = guarded(_library, _missing)
    found = guarded(lambda: getattr(library, name, None), partial(_explain, name))
    is_network = isinstance(found, type) and issubclass(found, library.PreTrainedModel)
    return found if is_network and found.__module__.startswith("transformers.models.") else None


def config_class(model_type: Any) -> Any:
    """Return the class of the configs of a type that transformers registers, else None."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # pyright: ignore[reportMissingImports]

    known = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    found = CONFIG_MAPPING[model_type] if known else None
    return found if found is not None and found.__module__.startswith("transformers.") else None


def image_processor(config: Any, folder: Path | None) -> Any:
    """Return the image processor of a network, with what its folder says; None where none is known.

    Nothing is fetched: without a folder it is that of the architecture, with its defaults.

    Args:
        config: of the network.
        folder: with a preprocessor_config.json, as `save_pretrained` writes it, or None.
    """
    from transformers.models.auto.image_processing_auto import (  # pyright: ignore[reportMissingImports]
        IMAGE_PROCESSOR_MAPPING,
    )

    kind = IMAGE_PROCESSOR_MAPPING.get(type(config), None)
    if isinstance(kind, Mapping):  # one for Pillow, one for torchvision; that needs no more
        kind = kind.get("torchvision") or kind.get("pil")
    elif isinstance(kind, tuple):
        kind = kind[0] or kind[-1]
    if kind is None:
        return None
    if folder is None:
        return guarded(kind, partial(_explain, getattr(kind, "__name__", "image processor")))
    return guarded(lambda: kind.from_pretrained(str(folder)), partial(_explain_folder, str(folder)))


def _library() -> Any:
    import transformers  # pyright: ignore[reportMissingImports]

    return transformers


def _missing(error: BaseException) -> ModelError:
    if isinstance(error, ModuleNotFoundError) and error.name == "transformers":
        return ModelError("this network needs transformers, which is not installed", _INSTALL)
    return ModelError(f"transformers cannot be imported: {first_line(error)}", _INSTALL)


def _class(name: str) -> Any:
    library = _library()
    found = getattr(library, name, None)
    if not isinstance(found, type) or not issubclass(found, library.PreTrainedModel):
        names = [n for n in dir(library) if n.endswith("Model") or "For" in n]
        hint = "a repository is named as 'transformers:ORG/NAME', a folder by its path"
        raise ModelError(
            f"transformers has no network called {name!r}", close_to(name, names, hint)
        )
    return found


def _build_class(kind: Any, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
    if pretrained:
        raise ModelError(
            f"{kind.__name__} is a class; it has no weights of its own",
            "name a repository, 'transformers:ORG/NAME', or pass a file as checkpoint=",
        )
    known = guarded(lambda: kind.config_class(), partial(_explain, kind.__name__))
    _refuse_unknown(kind.__name__, known, model_args)
    config = guarded(lambda: kind.config_class(**model_args), partial(_explain, kind.__name__))
    return _made(kind, config)


def _build(name: str, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
    local = Path(name).exists()
    with nullcontext() if local else quick_refusal():
        explain = partial(_explain_folder if local else _explain_repository, name)
        config, unknown = guarded(
            lambda: _library().AutoConfig.from_pretrained(
                name, trust_remote_code=False, return_unused_kwargs=True, **model_args
            ),
            explain,
        )
        _refuse_unknown(name, config, unknown)
        _refuse_operated(name, config)
        kind = _class((config.architectures or [_base_class(config)])[0])
        if not pretrained:
            return _made(kind, config)
        return guarded(lambda: kind.from_pretrained(name, config=config), explain)


def _made(kind: Any, config: Any) -> nn.Module:
    """Build a network with random weights; a backbone would fetch its own unless told not to."""
    parts: list[Any] = [config, getattr(config, "backbone_config", None)]
    for part in parts:
        if getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False
    return guarded(lambda: kind(config), partial(_explain, kind.__name__))


def _base_class(config: Any) -> str:
    return _library().AutoModel._model_mapping[type(config)].__name__


def _refuse_unknown(name: str, config: Any, arguments: Mapping[str, Any]) -> None:
    known = _known(config)
    for argument in arguments:
        if argument not in known:
            raise ModelError(
                f"the config of {name} has no {argument!r}", nearest(argument, sorted(known))
            )


def _known(config: Any) -> set[str]:
    """The arguments of a config; some are no attributes but properties (num_labels)."""
    return {n for n in (*vars(config), *dir(type(config))) if not n.startswith("_")}


def _refuse_operated(name: str, config: Any) -> None:
    found = getattr(config, "quantization_config", None) or {}
    if isinstance(found, Mapping) and found.get("quant_method") == "attnsurgeon":
        raise ModelError(
            f"{name} holds a network that has attention in it already",
            "import attnsurgeon.integrations.transformers, and load it by from_pretrained",
        )


def _explain(name: str, error: BaseException) -> ModelError:
    return ModelError(f"{name} cannot be built: {quote(error)}")


def _explain_folder(name: str, error: BaseException) -> ModelError:
    return ModelError(
        f"{name} is not a folder that transformers can read: {first_line(error)}",
        "it needs a config.json that names 'model_type' and 'architectures', as save_pretrained"
        " writes it",
    )


def _explain_repository(name: str, error: BaseException) -> ModelError:
    causes = [error, error.__cause__, error.__context__]
    refusals = ("RepositoryNotFoundError", "GatedRepoError", "HFValidationError")
    if any(type(cause).__name__ in refusals for cause in causes):
        return ModelError(
            f"the hub does not hand out {name}: {first_line(error)}",
            "check the spelling, transformers:ORG/NAME; for a private or gated one log in first",
        )
    if any(cause is not None and is_network_error(cause) for cause in causes):
        return ModelError(
            f"could not fetch {name}: {first_line(error)}",
            "fetch it once where there is a network and the cache serves from then on, or copy its"
            " config.json (and weights) into a folder: transformers:path/to/folder",
        )
    return ModelError(
        f"{name} is not a network that this transformers can build: {first_line(error)}",
        "its config.json must name an architecture of the library; no other code is run",
    )
