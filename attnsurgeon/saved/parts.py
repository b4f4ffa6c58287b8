"""What a record of a surgery has: its parts, and the fields of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from attnsurgeon.saved.fields import (
    MAX_SITES,
    MAX_VALUES,
    Aliases,
    Count,
    Digest,
    Dtypes,
    Example,
    Finite,
    InputSize,
    Layout,
    Named,
    Number,
    Rules,
    Sides,
    Strides,
    Text,
    Texts,
    Versions,
    are_texts_or_none,
    is_count,
    is_map_of,
    valid,
)


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
    at: Annotated[Any, valid(is_map_of(is_count))]
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
    stuck: Annotated[Any, valid(are_texts_or_none)]
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
