"""A file surgery.json -> the record of a surgery, every field checked; or what is wrong with it.

Whoever made the file may have meant harm, so it is bounded before it is looked at, and nothing goes
on from here that no field of `Record` has checked: what these do not know is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
)

from attnsurgeon.errors import ModelError
from attnsurgeon.plain import from_plain
from attnsurgeon.recording.input_records import form_of_record
from attnsurgeon.sites.site import LAYOUTS
from attnsurgeon.sizes import checked
from attnsurgeon.version import __version__

FORMAT = "attnsurgeon"
FORMAT_VERSION = 1
# A record is some kilobytes; of the largest networks, a megabyte. See docs/limits.md.
MAX_BYTES = 1 << 23
MAX_DEPTH = 30
MAX_VALUES = 500_000
MAX_SITES = 20_000
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
        if made.example is None and not _is_input_size(made.input_size):
            return f"{name}.input_size is not valid: {str(made.input_size)[:60]!r}"
    if record.weights.file != f"{'model' if mode == 'full' else 'adapter'}.safetensors":
        return f"weights.file is not that of mode {mode!r}"
    if mode == "adapter" and (base.form is None or base.sha256 is None):
        return "it is an adapter, and base does not say of what"
    return None


def _valid(check: Callable[[Any], bool]) -> PlainValidator:
    """A field that takes what passes a check, as it is."""

    def validate(value: Any) -> Any:
        if not check(value):
            raise ValueError
        return value

    return PlainValidator(validate)


def _is_input_size(value: Any) -> bool:
    """Whether a value is the size of one input, or a list of these."""
    try:
        return isinstance(value, list) and bool(checked(value))
    except ModelError:
        return False


def _are_sides(value: Any) -> bool:
    """Whether a value is what is shown of an input that `example` describes; of a number, []."""
    several = isinstance(value, list) and any(isinstance(one, list) for one in value)
    return all(
        isinstance(size, list) and all(type(n) is int and 0 <= n < 1 << 31 for n in size)
        for size in (value if several else [value])
    )


def _is_example(value: Any) -> bool:
    """Whether a value is the form of an input, or None, where its size is all of it."""
    try:
        return value is None or bool(form_of_record(value).tensors)
    except ModelError:
        return False


def _is_dtype(value: Any) -> bool:
    """Whether a value names a type of floating-point number that tensors can be converted to."""
    dtype = getattr(torch, value, None) if isinstance(value, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return False
    try:
        return torch.zeros(1).to(dtype).dtype == dtype
    except (RuntimeError, NotImplementedError):
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_strides(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 63 for v in value
    )


def _are_texts_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_map_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_named(value: Any) -> bool:
    """Whether a value is a mapping of names to plain values, and is one for Python, too."""
    return isinstance(value, dict) and isinstance(from_plain(value), dict) and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return math.isfinite(value) if isinstance(value, float) else True


def _is_digest(value: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", value) is None:
        raise ValueError
    return value


Text = Annotated[str, StringConstraints(max_length=100_000)]
Rules = Annotated[str, StringConstraints(max_length=1_000_000)]  # as `rules.document.MAX_BYTES`
Digest = Annotated[str, AfterValidator(_is_digest)]
Number = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Sides = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=8), FailFast()]
Texts = Annotated[list[Text], Field(max_length=MAX_SITES), FailFast()]
Example = Annotated[Any, _valid(_is_example)]
InputSize = Annotated[Any, _valid(_are_sides)]
Aliases = Annotated[Any, _valid(_is_map_of(_is_text))]
Strides = Annotated[Any, _valid(_is_map_of(_is_strides))]
Dtypes = Annotated[Any, _valid(_is_map_of(_is_dtype))]
Versions = Annotated[Any, _valid(_is_map_of(lambda value: value is None or _is_text(value)))]
Named = Annotated[Any, _valid(_is_named)]
Layout = Annotated[str, _valid(lambda value: _is_text(value) and value in LAYOUTS)]


class _Part(BaseModel):
    """An object of the record; nothing is converted, and fields that it does not know are left."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class Source(_Part):
    """How the base network is built."""

    spec: Text
    model_args: Named
    weights: Text
    stripped: Texts


class Form(_Part):
    """How the base network's tensors differ from those its constructor makes."""

    dtypes: Dtypes
    strides: Strides


class Base(_Part):
    """What is known of the base network."""

    class_: Text = Field(alias="class")
    sha256: Digest | None
    form: Form | None


class Site(_Part):
    """One cut, as `Cut.record` writes it; what has a default came later than the format."""

    path: Text
    shared: Texts
    channels: Count
    resolution: Sides = []
    layout: Layout
    rank: Count = 0
    beside: Count = 0
    module_path: Text
    technique: Text
    params: Number
    attn: Text
    args: Named
    init: Text
    action: Text
    rule: Text
    replaced: Texts = []
    scope: Text = ""
    chain: Text = ""
    note: Text = ""


class Code(_Part):
    """A mechanism that is code of the user's: its name, and the file that it stood in."""

    name: Text
    file: Text
    sha256: Digest | None


class Refused(_Part):
    """A matched site that was left as it is."""

    path: Text
    rule: Text
    reason: Text


class Operation(_Part):
    """One operation, as `Plan.record` writes it."""

    attn: Text
    where: Text
    init: Text
    rules: Rules
    input_size: InputSize
    example: Example = None
    sites: Annotated[list[Site], Field(min_length=1, max_length=MAX_SITES), FailFast()]
    refused: Annotated[list[Refused], Field(max_length=MAX_SITES), FailFast()] = []
    code: Annotated[list[Code], Field(max_length=100), FailFast()] = []


class Input(_Part):
    """What a network is looked at with."""

    input_size: InputSize
    example: Example = None


class Tensors(_Part):
    """A file of tensors, and what such a file cannot hold."""

    sha256: Digest
    aliases: Aliases
    strides: Strides


class Weights(Tensors):
    """The weights."""

    file: Literal["model.safetensors", "adapter.safetensors"]


class Buffers(Tensors):
    """The buffers that are in no state dict."""

    file: Literal["buffers.safetensors"]


class Figures(_Part):
    """What a network weighs."""

    params: Count
    macs: Count
    activations: Count


class Difference(_Part):
    """What it weighs more, or less."""

    params: Number
    macs: Number
    activations: Number


class SiteCost(Difference):
    """What one site adds, as `cost.comparing.SiteCost` has it."""

    site: Text
    module_path: Text


class Cost(_Part):
    """What the last operation cost."""

    before: Figures
    after: Figures
    delta: Difference
    uncounted: Texts
    per_site: Annotated[list[SiteCost], Field(max_length=MAX_VALUES), FailFast()] = []


class Stretch(_Part):
    """A part of the base network, as `cost.course.Stretch` has it."""

    part: Text
    roles: Texts
    stage: Number | None
    path: Text
    channels: Count | None
    resolution: Sides
    macs: Count


class Course(_Part):
    """Where in the base network its work is done, and where the sites are."""

    parts: Annotated[list[Stretch], Field(max_length=MAX_SITES), FailFast()]
    at: Annotated[Any, _valid(_is_map_of(_is_count))]
    elsewhere: Count


class Verification(_Part):
    """What was checked before the folder was written, as `checks.verify.Verification` has it."""

    init: Text
    identity: bool
    max_abs_diff: Finite | None
    relative_diff: Finite | None
    top1_agreement: Finite | None
    values_checked: Count
    values_equal: Count
    sizes: Annotated[list[InputSize], Field(max_length=100), FailFast()]
    missing_keys: Texts
    replaced_keys: Texts
    unexpected_keys: Texts
    reordered: bool
    dead: Texts
    repeated: Texts
    still: Texts
    stuck: Annotated[Any, _valid(_are_texts_or_none)]
    excused: Texts
    round_trip: bool | None
    not_finite: Texts
    notes: Texts


class Spread(_Part):
    """What many runs gave, as `cost.measured` has it, like the next four."""

    median: Finite
    q1: Finite
    q3: Finite
    low: Finite
    high: Finite


class Latency(_Part):
    """Seconds before and after."""

    before: Spread
    after: Spread
    ratio: Spread
    pairs: Count
    warm_up: Count
    undecided: bool


class Memory(_Part):
    """Bytes before and after."""

    before: Count
    after: Count
    what: Text


class Settings(_Part):
    """What was measured with."""

    batch: Count
    device: Text
    dtype: Text
    threads: Count
    seconds: Finite


class Measurement(_Part):
    """What was measured before the folder was written."""

    settings: Settings
    forward: Latency | None = None
    step: Latency | None = None
    memory: Memory | None = None
    why: Text = ""


class Record(_Part):
    """Everything that surgery.json says."""

    format: Literal["attnsurgeon"]
    format_version: Literal[1]
    mode: Literal["full", "adapter"]
    source: Source | None
    base: Base
    operations: Annotated[list[Operation], Field(max_length=100), FailFast()]
    input: Input | None = None  # of a network without operations, which say their own
    weights: Weights
    buffers: Buffers | None
    cost: Cost
    network: Course | None = None
    verification: Verification | None = None
    latency: Measurement | None = None
    versions: Versions
