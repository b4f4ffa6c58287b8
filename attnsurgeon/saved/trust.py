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

from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source
from attnsurgeon.models.bounded import SPARE, out_of_size
from attnsurgeon.models.vocabulary import objection, reserved, shown
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.saved.folder import RECORD

MOST_INPUT = 1 << 25  # numbers of one input: 3 x 3300 x 3300

_GIVE = "build the base network yourself and pass it: model=base"
ALLOW = "if you trust it, say so: trust=True"


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
        raise ModelError(f"{says}; {wrong}", f"{ALLOW}; or {_GIVE}")


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
                ALLOW,
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
