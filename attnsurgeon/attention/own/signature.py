"""A constructor's signature -> which of its arguments follow from the site, by their names.

    $C      channels           $H, $W, $D   sides of the map       $size   all sides
    $stage  stage of the site  $rank        how many sides there are

The same words may be given as values: `--arg width='$C'`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from attnsurgeon.errors import MechanismError

REQUIRED = inspect.Parameter.empty
WORDS = ("$C", "$H", "$W", "$D", "$size", "$stage", "$rank")
OF_THE_MAP = ("$H", "$W", "$D", "$size")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names are compared in small letters. Of these a default stands for an example, not for a wish:
# `channel=512` in a public collection of mechanisms is never the width of the site.
_CHANNELS = _names(
    """
    c ch channel channels n_channels num_channels nchannels gate_channel gate_channels chans
    c1 c_in cin in_c in_ch in_chan in_chans in_channel in_channels inchannel inchannels
    in_plane in_planes inplane inplanes plane planes inp in_dim dim n_dims embed_dim embed_dims
    d_model features num_features n_features in_features n_feat n_feats
    """
)
# What comes out has the width of what goes in; taken only where it has no default.
_OUT = _names(
    """
    c2 c_out cout out_c out_ch out_chan out_chans out_channel out_channels outchannel outchannels
    out_plane out_planes outplanes oup outp out_dim out_features
    """
)
_HEIGHT = _names("h height in_h in_height map_h feat_h fmap_h")
_WIDTH = _names("w width in_w in_width map_w feat_w fmap_w")
_DEPTH = _names("d depth frames in_d in_depth map_d")
_SIZE = _names(
    """
    spatial_size input_size img_size image_size resolution input_resolution map_size
    fmap_size feat_size feature_size feature_map_size spatial_shape hw
    """
)
_STAGE = _names("stage stage_index stage_idx stage_id")
_RANK = _names("ndim spatial_dims")
_AXIS = 3  # `dim=1` is an axis, `dim=64` a width


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns the named parameters of a class or function; of `*args` and `**kwargs` none."""
    try:
        found = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in found.items() if p.kind not in variadic}


def takes_any(factory: Callable[..., Any]) -> bool:
    """Tells whether a class or function hands unknown named arguments on."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is p.VAR_KEYWORD for p in found)


def following(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Returns argument -> the word it stands for, of those that follow from the site."""
    names = {name.lower() for name in parameters}
    # Alone `width` may be that of a layer, and `h` a number of heads.
    sides = bool(names & _HEIGHT) and bool(names & _WIDTH)
    found: dict[str, str] = {}
    for name, parameter in parameters.items():
        low, default = name.lower(), parameter.default
        required = default is REQUIRED
        if (low in _CHANNELS and not _is_axis(low, default)) or (low in _OUT and required):
            found[name] = "$C"
        elif low in _STAGE:
            found[name] = "$stage"
        elif low in _RANK:
            found[name] = "$rank"
        elif low in _SIZE and (required or default is None):
            found[name] = "$size"
        elif sides:
            known = {"$H": _HEIGHT, "$W": _WIDTH, "$D": _DEPTH if required else frozenset()}
            if word := next((word for word, names in known.items() if low in names), ""):
                found[name] = word
    return found


def _is_axis(name: str, default: Any) -> bool:
    whole = isinstance(default, int) and not isinstance(default, bool)
    return name in ("dim", "n_dims") and whole and default <= _AXIS


def resolved(value: Any, facts: Mapping[str, Any], name: str) -> Any:
    """Returns an argument with the words in it replaced, also those inside of lists.

    Args:
        value: of the argument.
        facts: word -> what it stands for here, None where that is not known; of words that are
            not among them nothing is replaced.
        name: of the argument, for errors.

    Raises:
        MechanismError: a word that there is none of, or what it stands for is not known here.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(resolved(item, facts, name) for item in value)
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value not in WORDS:
        raise MechanismError(f"{name}={value!r} stands for nothing", f"known: {', '.join(WORDS)}")
    if value not in facts:
        return value
    if facts[value] is None:
        raise MechanismError(
            f"{name} is {value}, and that is not known here",
            f"give {name} as a number among its arguments",
            command=f"give it as a number: --arg {name}=...",
        )
    return facts[value]


def facts_of_site(size: tuple[int, ...], stage: int | None) -> dict[str, Any]:
    """Returns word -> value of what a site tells beside its channels."""
    sides = size if len(size) > 1 else (*size, 1)  # a row is a map of one column
    known = dict(zip(("$D", "$H", "$W")[-len(sides) :], sides, strict=True))
    return {"$D": None, **known, "$size": tuple(size), "$stage": stage}
