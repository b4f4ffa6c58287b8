"""What a rule file may say: one set of models that validates, documents and helps editors.

Every key of every model is refused unless it is listed here, and every key says what it means;
`attnsurgeon rules schema` prints the JSON Schema made from this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from attnsurgeon.rules import fields
from attnsurgeon.shown import brief
from attnsurgeon.sites.site import Site


class AtKey(ValueError):
    """A mapping is wrong at one of its keys, which pydantic alone would not point at."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(what)
        self.key = key


MAX_TESTS = 200  # of one file; each builds a network and looks for its sites


class Entry(BaseModel):
    """A mapping of a rule file: only its own keys, and never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    noun: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _no_key_without_a_value(cls, value: Any) -> Any:
        empty = [key for key in value if value[key] is None] if isinstance(value, dict) else []
        if empty:
            raise AtKey(f"{empty[0]!r} has no value", empty[0])
        return value


class ModuleMatcher(Entry):
    """Which modules: every key given must hold."""

    noun: ClassVar[str] = "module matcher"

    name: fields.Patterns | None = Field(
        None, description="Glob on the module's whole path, or `re:...`; a list means any."
    )
    type: fields.Patterns | None = Field(
        None, description="Class of the module, without its package; a glob or `re:...`."
    )
    any_of: tuple[ModuleMatcher, ...] | None = Field(
        None, alias="any", min_length=1, description="At least one of these holds."
    )
    all_of: tuple[ModuleMatcher, ...] | None = Field(
        None, alias="all", min_length=1, description="All of these hold."
    )
    not_: ModuleMatcher | None = Field(None, alias="not", description="This does not hold.")

    @model_validator(mode="after")
    def _says_something(self) -> ModuleMatcher:
        return _not_empty(self)


class Matcher(Entry):
    """Which sites: every key given must hold. Wherever a key takes a list, any item may hold."""

    noun: ClassVar[str] = "matcher"

    site: fields.Roles | None = Field(None, description="The role the site plays in the network.")
    name: fields.Patterns | None = Field(
        None, description="Glob on the site's whole path (`layer[34].*`), or `re:...`, searched."
    )
    type: fields.Patterns | None = Field(
        None, description="Class of the producing module, or name of the function; glob or `re:`."
    )
    stage: fields.Stages | None = Field(
        None, description="Stage by resolution, from 1; a negative number counts from the last."
    )
    channels: fields.Numbers | None = Field(
        None, description='Channels of the value: a number, `">=128"` or `"64..256"`.'
    )
    resolution: fields.Sides | None = Field(
        None, description='Spatial sides: each must pass (`"<=28"`), or exactly (`"56x28"`).'
    )
    stride: fields.Numbers | None = Field(
        None, description="Input size / feature size, rounded to a whole number."
    )
    kernel: fields.Sides | None = Field(
        None, description='Of a convolution: each side (`3`), or the sides exactly (`"1x7"`).'
    )
    conv_stride: fields.Sides | None = Field(
        None, description="Of a convolution: its own stride, like `kernel`."
    )
    groups: fields.Numbers | None = Field(None, description="Of a convolution: its groups.")
    depthwise: fields.Flag | None = Field(
        None, description="Whether the site is a depthwise convolution."
    )
    branch: fields.Branches | None = Field(
        None,
        description="Convolutions along a residual branch, a word each: `1x1 spatial 1x1`. Words: "
        "`spatial` (one or more beyond 1x1), `pointwise`, `linear`, or a glob such as `dw*`.",
    )
    layout: fields.Layouts | None = Field(None, description="Order of the axes, such as `NHWC`.")
    matches: fields.Names | None = Field(
        None, description="Name of a matcher in `define`; a list means any."
    )
    any_of: tuple[Matcher, ...] | None = Field(
        None, alias="any", min_length=1, description="At least one of these holds."
    )
    all_of: tuple[Matcher, ...] | None = Field(
        None, alias="all", min_length=1, description="All of these hold."
    )
    not_: Matcher | None = Field(None, alias="not", description="This does not hold.")
    inside: ModuleMatcher | None = Field(
        None, description="Some module around the site, near or far, is such a one."
    )
    has: ModuleMatcher | None = Field(
        None, description="Some module inside the producing module is such a one."
    )
    follows: Matcher | None = Field(
        None, description="A site whose value this one takes as direct input is such a one."
    )
    precedes: Matcher | None = Field(
        None, description="A site that takes this value as direct input is such a one."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Matcher:
        return _not_empty(self)


class RuleMatcher(Matcher):
    """Which sites a rule takes; at this level one key may choose among those that are left."""

    nth: fields.Positions | None = Field(
        None, description='Of the sites left, in order, from 1: `"2n"`, `"odd"`, `"-n+3"`, `3`.'
    )
    first: fields.Count | None = Field(None, description="The first so many of the sites left.")
    last: fields.Count | None = Field(None, description="The last so many of the sites left.")

    _predicate: Callable[[Site], object] | None = PrivateAttr(default=None)

    @classmethod
    def calling(cls, predicate: Callable[[Site], object]) -> RuleMatcher:
        """Returns a matcher that asks a Python function; only code can make one, no file."""
        matcher = cls.model_construct()
        matcher._predicate = predicate
        return matcher

    @property
    def predicate(self) -> Callable[[Site], object] | None:
        """The Python function that decides in place of keys, or None."""
        return self._predicate

    @model_validator(mode="after")
    def _chooses_once(self) -> RuleMatcher:
        given = [key for key in ("nth", "first", "last") if getattr(self, key) is not None]
        if len(given) > 1:
            both = " and ".join(repr(key) for key in given)
            raise AtKey(f"{both} each choose among what is left; keep one", given[1])
        return self


class Expect(Entry):
    """How many sites a rule must take."""

    noun: ClassVar[str] = "expect"

    count: fields.Number = Field(
        description='How many: 8, "1..20" or ">=4"; a count that 0 passes makes the rule optional.'
    )


class Rule(Entry):
    """What to put where."""

    noun: ClassVar[str] = "rule"

    id: fields.Id = Field(description="Unique name in kebab-case.")
    message: fields.Text | None = Field(None, description="One sentence that says what it does.")
    match: RuleMatcher = Field(description="Which sites the rule takes.")
    attn: fields.Mechanism | None = Field(
        None,
        description="The mechanism, `eca` or `{type: eca, kernel_size: 5}`, also with arguments "
        "under `args`; your own is `my.py:MyAttention`, followed only with `--trust-code`. Without "
        "it this is a placement and `--attn` names the mechanism.",
    )
    action: fields.Action | None = Field(
        None, description="What is done there; default: what the mechanism's kind asks for."
    )
    init: fields.Init | None = Field(
        None, description="`identity` leaves the outputs as they are, `paper` starts as published."
    )
    scope: fields.Scope | None = Field(
        None,
        description="Of linked attention: the sites of a `stage`, or of the whole `network`, hand "
        "on to each other; default: as published.",
    )
    expect: Expect | None = Field(None, description="How many sites it must take; default: one.")

    def __repr__(self) -> str:
        attn = "a placement" if self.attn is None else self.attn.type
        return brief(self, f"{self.id}: {attn}")


class Expectation(Entry):
    """What one rule must take and leave in one network."""

    noun: ClassVar[str] = "expectation"

    count: fields.Number | None = Field(None, description="How many sites are taken.")
    first: fields.Text | None = Field(None, description="Path of the first site taken.")
    last: fields.Text | None = Field(None, description="Path of the last site taken.")
    matches: tuple[fields.Text, ...] | None = Field(
        None, description="Paths of exactly the sites taken, in any order."
    )
    leaves: dict[str, fields.Text] | None = Field(
        None, description="Paths of sites not taken, each with the reason."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Expectation:
        return _not_empty(self)


class RuleTest(Entry):
    """A network and what the rules must do there."""

    noun: ClassVar[str] = "test"

    model: fields.Text = Field(description="Any model name that `attnsurgeon insert` takes.")
    args: fields.Args | None = Field(None, description="Arguments to build the model with.")
    input_size: fields.InputSize | None = Field(
        None, description="Channels and sides to look at it with, such as [3, 224, 192]."
    )
    expect: dict[str, Annotated[Expectation, fields.OrWord("none", {"count": 0})]] = Field(
        min_length=1, description="By rule id: what it takes; `none` is `{count: 0}`."
    )


class RuleFile(Entry):
    """Rules, the matchers they share, and their tests."""

    noun: ClassVar[str] = "rule file"

    version: fields.Version = Field(description="Version of this format: 1.")
    name: fields.Id | None = Field(None, description="Name of the file, in kebab-case.")
    define: dict[str, Matcher] | None = Field(None, description="Matchers by name, for `matches`.")
    rules: tuple[Rule, ...] = Field(
        min_length=1, description="In order; each is matched against the original network."
    )
    tests: tuple[RuleTest, ...] | None = Field(
        None,
        max_length=MAX_TESTS,
        description="Networks and what must match there, run by `attnsurgeon rules test`.",
    )

    def __repr__(self) -> str:
        return brief(self, f"{self.name or 'rules'}: {', '.join(rule.id for rule in self.rules)}")


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a rule file, for editors."""
    schema = RuleFile.model_json_schema(by_alias=True)
    title = {"title": "attnsurgeon rule file"}
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**dialect, **_as_written(schema), **title}


def _as_written(schema: Any) -> Any:
    """Drops what the models add for Python: null, which no file may write, defaults and titles."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema if item != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: {name: _as_written(sub) for name, sub in value.items()}
        if key in ("properties", "$defs")
        else _as_written(value)
        for key, value in schema.items()
        if key not in ("default", "title")
    }
    if len(kept.get("anyOf", ())) == 1:
        kept |= kept.pop("anyOf")[0]
    return kept


def _not_empty(entry: Any) -> Any:
    if not entry.model_fields_set:
        raise ValueError(f"this {entry.noun} says nothing; name at least one key")
    return entry
