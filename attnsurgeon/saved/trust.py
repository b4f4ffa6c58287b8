"""What a saved folder names as its base network -> whether it may be built, before anything is.

A folder may come from anywhere. What it names is built unasked only where it is of the closed
vocabulary (`models.vocabulary`) and of a size that belongs to its weights (`models.bounded`);
everything else is code or an address, and needs the word of the one who loads it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnsurgeon.attention.registry import Mechanism
from attnsurgeon.errors import MechanismError, ModelError, UsageError
from attnsurgeon.models import Source
from attnsurgeon.models.bounded import SPARE, out_of_size
from attnsurgeon.models.own_attention import (
    Attention,
    code_file,
    is_code,
    known_as,
    named,
    recorded,
    sha256_of,
)
from attnsurgeon.models.own_attention import objection as attention_objection
from attnsurgeon.models.vocabulary import objection, reserved, shown
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.saved.folder import RECORD

MOST_INPUT = 1 << 25  # numbers of one input: 3 x 3300 x 3300

_GIVE = "build the base network yourself and pass it: attnsurgeon.load(path, model=base)"
_ALLOW = "if you trust it, say so: attnsurgeon.load(path, trust=True) (--trust-code)"


def refuse_untrusted(source: Source, folder: Path, *, trust: bool, most: int | None) -> None:
    """Refuse a base network that a folder may not have built.

    Args:
        source: what the folder says of it.
        folder: the folder.
        trust: whether the caller lets the folder name code and addresses.
        most: numbers that the network may hold, as for `out_of_size`.

    Raises:
        ModelError: saying what the folder wants to run, where that stands, and how to allow it.
    """
    says = f"{folder / RECORD} says that its base network is built by {shown(source.spec)}"
    if wrong := reserved(source.model_args):
        raise ModelError(f"{says}; {wrong}", _GIVE)
    if trust:
        return
    asked = source.spec, source.model_args
    try:
        wrong = objection(*asked) or out_of_size(*asked, most)
    except ModelError as error:
        raise cannot_be_built(error) from error
    if wrong:
        raise ModelError(f"{says}; {wrong}", f"{_ALLOW}; or {_GIVE}")


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
        args = [site["args"] for site in sites if site["attn"] == name]
        wrong = next((w for one in args if (w := attention_objection(name, one))), None)
        if wrong and not trust:
            raise ModelError(
                f"{folder / RECORD} says that its attention is {shown(name)}; {wrong}",
                f"{_ALLOW}; or hand it in: attnsurgeon.load(path, attn=MyAttention)",
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
    hand_in = "hand it in, and it is taken as it is: attnsurgeon.load(path, attn=MyAttention)"
    then = None if code is None else code["sha256"]
    file = code_file(name)
    if then is None:
        raise ModelError(
            f"{folder / RECORD} says that its attention is {shown(name)}, which stood in no file",
            hand_in,
        )
    if file is not None and (now := sha256_of(file)) != then:
        raise ModelError(
            f"{file} has changed since {folder} was saved with its {name.rpartition(':')[2]}: its"
            f" sha256 was {then[:12]}..., and is {now[:12]}...",
            f"if you know what has changed, {hand_in}",
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
        )


def _renamed(made: Mapping[str, Any], now: Mapping[str, Mechanism]) -> dict[str, Any]:
    """Return an operation with the names and hashes that handed-in attention has now."""
    names = {old: card.name for old, card in now.items()}
    others = [one for one in made.get("code", ()) if one["name"] not in names]
    here = {site["attn"] for site in made["sites"]}
    return {
        **made,
        "attn": "+".join(names.get(name, name) for name in made["attn"].split("+")),
        "sites": [{**s, "attn": names.get(s["attn"], s["attn"])} for s in made["sites"]],
        "code": [*others, *recorded(card for old, card in now.items() if old in here)],
    }


def cannot_be_built(error: ModelError) -> ModelError:
    """Return the error for a base network that may be built, and cannot."""
    hint = f"{error.hint}; or {_GIVE}" if error.hint else _GIVE
    return ModelError(f"the base network cannot be built again: {error.what}", hint)


def refuse_out_of_size(record: Mapping[str, Any], folder: Path, held: int) -> None:
    """Refuse a record that asks for more memory than belongs to the folder.

    Args:
        record: what stands in the folder's surgery.json.
        folder: the folder.
        held: bytes of its weights.

    Raises:
        ModelError: its inputs are larger than any that is used, or its attention has more numbers
            than its weights have bytes.
    """
    sites = [site for made in record["operations"] for site in made["sites"]]
    new = sum(max(site["params"], 0) for site in sites)
    if new > held + SPARE:
        raise ModelError(
            f"{folder / RECORD} says that the attention has {new:,} parameters, and its weights"
            f" are {held:,} bytes",
            "copy or download the whole folder again",
        )
    for made in record["operations"]:
        numbers = sum(math.prod(t.shape[1:]) for t in recorded_form(made).tensors)
        if numbers > MOST_INPUT:
            raise ModelError(
                f"{folder / RECORD} has an input of {numbers:,} numbers; up to {MOST_INPUT:,} are"
                " taken from a folder",
                _ALLOW,
            )


def refuse_links(folder: Path, files: Iterable[Path]) -> None:
    """Refuse a file of a folder that is a link to somewhere else.

    In the hub's cache the files of a snapshot are links to where all its blobs are.

    Raises:
        ModelError: naming the link and what it leads to.
    """
    home = folder.resolve()
    places = [home]
    if home.parent.name == "snapshots":
        places.append(home.parent.parent / "blobs")
    for file in files:
        at = file.resolve()
        if not any(at.is_relative_to(place) for place in places):
            raise ModelError(
                f"{file} is a link that leads out of the folder, to {at}",
                "copy what it leads to into the folder, if you trust it",
            )


def needs_trust(source: Source | None) -> bool:
    """Tell whether the one who loads a folder has to allow what it names."""
    try:
        return source is not None and objection(source.spec, source.model_args) is not None
    except ModelError:  # a package that is missing here, and known by its name
        return False


def size_of(file: str | os.PathLike[str]) -> int:
    """Return the bytes of a file, or of all files of a folder; a number takes at least one."""
    path = Path(file)
    try:
        found = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        return sum(one.stat().st_size for one in found)
    except OSError:  # that it is not there is said where it is read
        return 0
