"""A file surgery.json -> the record of a surgery, every field checked; or what is wrong with it.

Whoever made the file may have meant harm, so it is bounded before it is looked at, and nothing goes
on from here that no field of `Record` has checked: what these do not know is left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from attnsurgeon.errors import ModelError
from attnsurgeon.saved.fields import MAX_VALUES, is_input_size
from attnsurgeon.saved.parts import Record
from attnsurgeon.version import __version__

FORMAT = "attnsurgeon"
FORMAT_VERSION = 1
# A record is some kilobytes; of the largest networks, a megabyte. See docs/limits.md.
MAX_BYTES = 1 << 23
MAX_DEPTH = 30
_AGAIN = "copy or download the whole folder again"


def read_record(file: Path) -> dict[str, Any]:
    """Read a record of surgery, and check every field of it.

    Raises:
        ModelError: naming what is wrong with the file, or the first field that is missing or of
            the wrong kind.
    """
    record = _read_json(file)
    _refuse_newer(record, file)
    return check_record(record, file)


def check_record(record: Any, file: Path) -> dict[str, Any]:
    """Return the fields of a record that `Record` knows, those of later versions by default.

    Raises:
        ModelError: naming the first part that is missing or of the wrong kind.
    """
    try:
        _refuse_boundless(record)
        found = Record.model_validate(record)
        wrong = _contradiction(found)
    except ValidationError as error:
        found, wrong = None, _worded(error.errors(include_url=False)[0])
    except ValueError as error:
        found, wrong = None, str(error)
    if found is None or wrong is not None:
        raise ModelError(
            f"{file} is not a record of surgery: {wrong}",
            "it was not written by attnsurgeon, or has been edited; copy the folder again",
        )
    return found.model_dump(by_alias=True)


def _read_json(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ModelError(
                f"{file} is too large to be a record of surgery: more than {MAX_BYTES:,} bytes"
            )
        return json.loads(raw.decode("utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ModelError(f"{file} cannot be read: {why}", _AGAIN) from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _refuse_newer(record: Any, file: Path) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return
    written = record.get("format_version")
    if isinstance(written, int) and written > FORMAT_VERSION:
        raise ModelError(
            f"{file} has format version {str(written)[:20]}; this attnsurgeon reads up to"
            f" {FORMAT_VERSION}",
            f"upgrade attnsurgeon{_writer(record)}",
        )


def _writer(record: dict[Any, Any]) -> str:
    """Which version wrote a record and which reads it, where it says so in no more than numbers."""
    versions = record.get("versions")
    said = versions.get("attnsurgeon") if isinstance(versions, dict) else None
    if not isinstance(said, str) or not re.fullmatch(r"[0-9a-z.+]{1,20}", said):
        return ""
    return f": {said} wrote it, and this is {__version__}"


def _refuse_boundless(record: Any) -> None:
    """Refuse values that are more, or nested deeper, than in any record; without recursion."""
    level, seen = [record], 0
    for _ in range(MAX_DEPTH):
        seen += len(level)
        if seen > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _worded(detail: Any) -> str:
    """Say what is wrong in one place, and where that is: `operations[0].sites[0]`."""
    at, kind = detail["loc"], detail["type"]
    if kind == "missing":
        return f"{_spelled(at[:-1])} has no {at[-1]!r}"
    if kind == "model_type":
        return f"{_spelled(at)} is not an object"
    if kind == "list_type":
        return f"{_spelled(at)} is not a list"
    if kind == "too_short":
        return f"{_spelled(at)} is empty"
    if kind == "too_long":
        return f"{_spelled(at)} has more than {detail['ctx']['max_length']:,} entries"
    return f"{_spelled(at)} is not valid: {str(detail['input'])[:60]!r}"


def _spelled(way: tuple[str | int, ...]) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)
    return steps.removeprefix(".") or "the file"


def _contradiction(record: Record) -> str | None:
    mode, base = record.mode, record.base
    if not record.operations and (mode == "adapter" or record.input is None):
        return "it has no operations, and says no input"
    given = {f"operations[{at}]": made for at, made in enumerate(record.operations)}
    for name, made in (given | ({"input": record.input} if record.input else {})).items():
        if made.example is None and not is_input_size(made.input_size):
            return f"{name}.input_size is not valid: {str(made.input_size)[:60]!r}"
    if record.weights.file != f"{'model' if mode == 'full' else 'adapter'}.safetensors":
        return f"weights.file is not that of mode {mode!r}"
    if mode == "adapter" and (base.form is None or base.sha256 is None):
        return "it is an adapter, and base does not say of what"
    return None
