"""The hint of an error, which speaks Python -> the same for the command line."""

from __future__ import annotations

import re

from attnsurgeon.errors import MechanismError, SurgeonError

# Keyword of the library -> the option that says it.
OPTIONS = {
    "accept": "--accept",
    "address": "--address",
    "at": "--at",
    "attn": "--attn",
    "attn_args": "--arg",
    "batch_size": "--batch-size",
    "below": "--below",
    "channels": "--channels",
    "checkpoint": "--checkpoint",
    "checkpoint_key": "--checkpoint-key",
    "config": "--config",
    "cpus": "--cpus",
    "data": "--data",
    "every": "--every",
    "example": "--input FILE",  # which holds it, whatever it is
    "gpus": "--gpus",
    "image_size": "--image-size",
    "init": "--init",
    "input_size": "--input-size",
    "journal": "--journal",
    "latency": "--latency",
    "limit": "--limit",
    "max_activations": "--max-activations",
    "max_latency": "--max-latency",
    "max_macs": "--max-macs",
    "max_networks": "--max-networks",
    "max_params": "--max-params",
    "mean": "--mean",
    "metric": "--metric",
    "mode": "--save",
    "model": "--base",
    "new_head": "--new-head",
    "overwrite": "--overwrite",
    "partial": "--partial",
    "position": "--position",
    "pretrained": "--pretrained",
    "rate": "--rate",
    "rules": "--rules",
    "scheduler": "--scheduler",
    "seconds": "--seconds",
    "seeds": "--seeds",
    "skip_bad": "--skip-bad",
    "stage": "--stage",
    "std": "--std",
    "steps": "--steps",
    "trust": "--trust-code",
    "unsafe_pickle": "--unsafe-pickle",
    "weights": "--weights",
    "weights_only": "--weights-only",
    "where": "--where",
}
_YAML = {"None": "null", "True": "true", "False": "false"}
_VALUE = r"""(True\b|\.\.\.|'[^']*'|"[^"]*"|[\w.]*\((?:[^()]|\([^()]*\))*\)|[\w./*-]*)"""
_GIVEN = re.compile(rf"(?<![\w.-])([a-z]\w*)={_VALUE}")


def hint_of(error: SurgeonError) -> str | None:
    """Returns the next step after an error, in options: what the error says of it, or its hint.

    Keywords are turned into options, `checkpoint=FILE` into `--checkpoint FILE`; where the other
    arguments of a mechanism are meant, `reduction=8` into `--arg reduction=8`.
    """
    if error.command is not None or error.hint is None:
        return error.command
    return in_options(error.hint, arguments=isinstance(error, MechanismError))


def in_options(text: str, *, arguments: bool = False) -> str:
    """Returns a text about keywords with options in their place.

    Args:
        text: in which keywords stand as `name=value`, `name=True` or `name=`.
        arguments: whether other names are arguments of a mechanism.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name in OPTIONS:
            return _spelled(OPTIONS[name], value)
        return f"--arg {name}={_as_argument(value)}" if arguments else found[0]

    return _GIVEN.sub(option, text)


def _spelled(option: str, value: str) -> str:
    if value in ("", "True", "...") or " " in option:
        return option
    if value.startswith("(("):  # of several inputs each
        return " ".join(
            f"{option} {_plain(f'({one})')}" for one in re.findall(r"\(([^()]+)\)", value)
        )
    return f"{option} {_plain(value)}"


def _plain(value: str) -> str:
    """Returns a value as an option takes it: 3,224,224."""
    if value.startswith("("):
        return ",".join(part.strip() for part in value[1:-1].split(",") if part.strip())
    return value.strip("'\"")


def _as_argument(value: str) -> str:
    """Returns a value as `--arg` takes it, which reads YAML: true, null, [3,5]."""
    plain = re.sub(r"\b(?:None|True|False)\b", lambda found: _YAML[found[0]], _plain(value))
    return f"[{plain}]" if value.startswith("(") else plain
