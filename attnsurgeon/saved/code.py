"""Attention of a saved folder that is code of the user's -> admitted, or the reason why not.

The folder names the file and its hash. It is run where the one who loads the folder trusts it, and
only if it is what it was; or they hand in the attention themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnsurgeon.attention.own.card import is_code, recorded
from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.errors import MechanismError, ModelError, UsageError
from attnsurgeon.models.own_attention import (
    Attention,
    code_file,
    known_as,
    named,
    objection,
    sha256_of,
)
from attnsurgeon.models.vocabulary import shown
from attnsurgeon.saved.folder import RECORD
from attnsurgeon.saved.trust import ALLOW

_NAME_IT_COMMAND = "name it, and it is taken as it is: --attn-code FILE.py:CLASS"


def admit_attention(
    operations: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    trust: bool,
    given: Attention | Mapping[str, Attention] | None,
) -> tuple[dict[str, Any], ...]:
    """Admit the attention of a folder that is code, where the one who loads it allows it.

    Args:
        operations: as the folder records them.
        folder: the folder.
        trust: whether the folder may name code, which is then run if it is what it was.
        given: the mechanism itself, or name in the record -> mechanism; it is taken as it is.

    Returns:
        The operations; what was handed in stands there by the name and hash it has now.

    Raises:
        ModelError: the folder names code, and nobody allows it; or the code is not there, or is no
            longer what it was.
        UsageError: something was handed in that is not needed.
    """
    operations = tuple(operations)
    sites = [site for made in operations for site in made["sites"]]
    names = list(dict.fromkeys(site["attn"] for site in sites))
    code = {one["name"]: one for made in operations for one in made.get("code", ())}
    handed = _handed(given, [name for name in names if is_code(name)], folder)
    now: dict[str, Mechanism] = {}
    for name in names:
        if name in handed:
            now[name] = known_as(name, handed[name])
            continue
        wrong = objection(name, *(site["args"] for site in sites if site["attn"] == name))
        if wrong and not trust:
            raise ModelError(
                f"{folder / RECORD} says that its attention is {shown(name)}; {wrong}",
                f"{ALLOW}; or hand it in: attn=MyAttention",
                command="if you trust it, say so: --trust-code; or name it yourself: --attn-code"
                " FILE.py:CLASS",
            )
        if is_code(name):
            _refuse_changed(name, code.get(name), folder)
    return tuple(_renamed(made, now) for made in operations)


def _handed(given: Any, names: list[str], folder: Path) -> Mapping[str, Attention]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(names) > 1:
            raise UsageError(
                f"{folder} has several mechanisms that are code: {', '.join(names)}",
                f"say which this one is: attn={{{names[0]!r}: MyAttention}}",
            )
        given = dict.fromkeys(names, given)
    if not names or (odd := [name for name in given if name not in names]):
        what = f"none called {odd[0]!r}" if names else "none"
        raise UsageError(
            f"{folder} needs no attention handed in: of what is code it has {what}",
            f"it has {', '.join(names)}" if names else "leave attn out: load(path)",
        )
    return given


def _refuse_changed(name: str, code: Mapping[str, Any] | None, folder: Path) -> None:
    """Import code that a folder names, if it is what the folder was made with."""
    hand_in = "hand it in, and it is taken as it is: attn=MyAttention"
    command: str = _NAME_IT_COMMAND
    then = None if code is None else code["sha256"]
    file = code_file(name)
    if then is None:
        raise ModelError(
            f"{folder / RECORD} says that its attention is {shown(name)}, which stood in no file",
            hand_in,
            command=command,
        )
    if file is not None and (now := sha256_of(file)) != then:
        raise ModelError(
            f"{file} has changed since {folder} was saved with its {name.rpartition(':')[2]}: its"
            f" sha256 was {then[:12]}..., and is {now[:12]}...",
            f"if you know what has changed, {hand_in}",
            command=f"if you know what has changed, {command}",
        )
    try:
        card = named(name)
    except MechanismError as error:
        raise ModelError(
            f"the attention of {folder} is not there: {error.what}", hand_in
        ) from error
    if card.sha256 != then:
        raise ModelError(
            f"{name} is no longer what {folder} was saved with: the sha256 of {card.file} was"
            f" {then[:12]}..., and is {str(card.sha256)[:12]}...",
            f"if you know what has changed, {hand_in}",
            command=f"if you know what has changed, {command}",
        )


def _renamed(made: Mapping[str, Any], now: Mapping[str, Mechanism]) -> dict[str, Any]:
    """Return an operation with the names and hashes that handed-in attention has now."""
    names = {old: card.name for old, card in now.items()}
    others = [one for one in made.get("code", ()) if one["name"] not in names]
    here = {site["attn"] for site in made["sites"]}
    return {
        **made,
        "attn": "+".join(names.get(name, name) for name in str(made["attn"]).split("+")),
        "sites": [{**s, "attn": names.get(s["attn"], s["attn"])} for s in made["sites"]],
        "code": [*others, *recorded(card for old, card in now.items() if old in here)],
    }
