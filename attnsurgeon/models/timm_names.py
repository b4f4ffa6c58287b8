"""A timm or hub name -> the network that timm builds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.foreign import explain_call, first_line, guarded
from attnsurgeon.models.offline import is_network_error, quick_refusal
from attnsurgeon.models.recipes import Recipe
from attnsurgeon.models.suggestions import unknown_network

# Arguments of timm.create_model that bring weights of their own.
_OTHER_WEIGHTS = {"pretrained_cfg", "pretrained_cfg_overlay"}


def timm_recipe(name: str) -> Recipe:
    """Return how to build `resnet50` or `resnet50.a1_in1k`.

    Raises:
        ModelError: timm knows no such network; the nearest names are in the hint.
    """
    if not known_to_timm(name):
        raise unknown_network(name, "timm")
    return Recipe(partial(_build, name))


def known_to_timm(name: str) -> bool:
    """Tell whether timm has a network of this name, with or without a tag of weights."""
    import timm

    return timm.is_model(name)


def hub_recipe(repository: str) -> Recipe:
    """Return how to build the timm network of a hub repository, `timm/resnet18.a1_in1k`.

    The architecture stands in the repository's configuration, so that file is fetched (or taken
    from the hub's cache) even where no weights are asked for.
    """
    return Recipe(partial(_build, f"hf-hub:{repository}"))


def _build(name: str, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
    import timm

    if "checkpoint_path" in model_args:
        raise ModelError(
            "checkpoint_path is timm's own way to load weights, with fewer checks",
            "pass the file as checkpoint=",
        )
    hub = name.startswith("hf-hub:")
    if pretrained and not hub and not model_args.keys() & _OTHER_WEIGHTS:
        _refuse_without_weights(name)  # timm itself says so only after building the network
    fetches = pretrained or hub
    with quick_refusal() if fetches else nullcontext():
        return guarded(
            lambda: timm.create_model(name, pretrained=pretrained, **model_args),
            partial(_explain, name=name, fetches=fetches, model_args=model_args),
        )


def _explain(
    error: BaseException, *, name: str, fetches: bool, model_args: Mapping[str, Any]
) -> ModelError:
    hub = name.startswith("hf-hub:")
    if fetches and is_network_error(error):
        return _not_fetched(error, name)
    if "Invalid pretrained tag" in str(error):
        return _unknown_tag(name)
    if hub and "Unknown model (attnsurgeon)" in str(error):
        return ModelError(
            f"{name} is a network with attention in it, saved by attnsurgeon",
            f"load it: attnsurgeon.load({name!r})",
            command=f"save it to a folder first: `attnsurgeon save {name} -o DIR`",
        )
    if hub and (isinstance(error, KeyError) or "Unknown model" in str(error)):
        return ModelError(
            f"{name} is not a network that this timm can build: {first_line(error)}",
            "its config.json must name a timm architecture; build other networks in your own"
            " code and give 'path/file.py:factory'",
        )
    from timm.models import model_entrypoint

    # A hub name says nothing of the architecture, so its arguments cannot be compared.
    factory = None if hub else model_entrypoint(name)
    return explain_call(error, what=name, factory=factory, given=model_args)


def _not_fetched(error: BaseException, name: str) -> ModelError:
    if not name.startswith("hf-hub:"):
        return ModelError(
            f"could not fetch the pretrained weights of {name}: {first_line(error)}",
            f"download the weights ({_weights_address(name)}) where there is a network and pass"
            " the file as checkpoint=, or leave pretrained out for random weights",
        )
    refusals = ("RepositoryNotFoundError", "GatedRepoError", "HFValidationError")
    if type(error).__name__ in refusals:
        return ModelError(
            f"the hub does not hand out {name}: {first_line(error)}",
            "check the spelling, hf-hub:ORG/NAME; for a private or gated repository log in first",
        )
    last = name.rpartition("/")[2]
    example = last if known_to_timm(last) else "ARCHITECTURE"
    said = (
        "its architecture stands in its config.json on the hub: fetch it once where there is a"
        " network and the cache serves from then on, or name the architecture yourself: "
    )
    return ModelError(
        f"could not fetch {name}: {first_line(error)}",
        f"{said}load_model({example!r}, checkpoint=FILE)",
        command=f"{said}{example} --checkpoint FILE",
    )


def _weights_address(name: str) -> str:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return str((config and (config.hf_hub_id or config.url)) or name)


def _unknown_tag(name: str) -> ModelError:
    import timm

    architecture, _, tag = name.partition(".")
    tagged = timm.list_models(f"{architecture}*", include_tags=True)
    tags = [known for known in tagged if known.partition(".")[0] == architecture]
    return ModelError(
        f"timm has no weights {tag!r} of {architecture}",
        nearest(name, [architecture, *tags]),
    )


def _refuse_without_weights(name: str) -> None:
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture = name.partition(".")[0]
    configs = get_arch_pretrained_cfgs(architecture)
    if not configs or any(config.has_weights for config in configs.values()):
        return  # none of a deprecated name: timm maps it to the present one
    close = difflib.get_close_matches(architecture, timm.list_models(pretrained=True), n=3)
    near = f"{' and '.join(close)} have some; or " if close else ""
    raise ModelError(
        f"timm has no pretrained weights for {name}",
        f"{near}pass a file of your own as checkpoint=",
    )
