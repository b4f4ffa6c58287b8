"""A torchvision name, of any of its tasks -> the network that torchvision builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models.foreign import explain_call, first_line, guarded, parameters
from attnsurgeon.models.offline import is_network_error
from attnsurgeon.models.recipes import Recipe
from attnsurgeon.models.suggestions import unknown_network


def torchvision_recipe(name: str) -> Recipe:
    """Return how to build `resnet50`, `deeplabv3_resnet50`, `r3d_18`, ...

    Raises:
        ModelError: torchvision knows no such network; the nearest names are in the hint.
    """
    from torchvision.models import list_models

    if name.lower() not in list_models():
        raise unknown_network(name, "torchvision")
    return Recipe(partial(_build, name.lower()))


def _build(name: str, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    asked = {key for key in ("weights", "weights_backbone") if model_args.get(key) is not None}
    if asked and not pretrained:
        raise ModelError(
            f"{' and '.join(sorted(asked))} of torchvision:{name} would be downloaded",
            "say pretrained=True as well: nothing is downloaded without it",
        )
    chosen = {"weights": "DEFAULT" if pretrained else None, **_offline_defaults(builder)}
    if not pretrained:
        chosen |= _silent_init(name)
    return guarded(
        lambda: builder(**{**chosen, **model_args}),
        partial(_explain, name=name, fetches=pretrained, given=model_args),
    )


def arguments_of_no_download(name: str) -> dict[str, Any]:
    """Return the arguments with which torchvision builds a name from nothing, and says nothing."""
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    return {"weights": None, **_offline_defaults(builder), **_silent_init(name)}


def _offline_defaults(builder: Callable[..., nn.Module]) -> dict[str, None]:
    """Detectors and segmenters fetch their backbone's weights unless told not to."""
    return {"weights_backbone": None} if "weights_backbone" in parameters(builder) else {}


def _silent_init(name: str) -> dict[str, bool]:
    """These two warn about a coming change of their default; saying today's aloud avoids it."""
    warns = name.removeprefix("quantized_") in ("googlenet", "inception_v3")
    return {"init_weights": True} if warns else {}


def _explain(
    error: BaseException, *, name: str, fetches: bool, given: Mapping[str, Any]
) -> ModelError:
    from torchvision.models import get_model_builder, get_model_weights

    spec = f"torchvision:{name}"
    if fetches and is_network_error(error):
        address = getattr(getattr(get_model_weights(name), "DEFAULT", None), "url", name)
        return ModelError(
            f"could not fetch the pretrained weights of {spec}: {first_line(error)}",
            f"download {address} where there is a network and pass the file as checkpoint=,"
            " or leave pretrained out for random weights",
        )
    return explain_call(error, what=spec, factory=get_model_builder(name), given=given)
