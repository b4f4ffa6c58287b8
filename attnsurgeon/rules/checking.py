"""Plain values -> RuleFile, or every problem in words with the way to where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from attnsurgeon.rules.schema import (
    AtKey,
    Entry,
    Matcher,
    ModuleMatcher,
    Rule,
    RuleFile,
    RuleMatcher,
)
from attnsurgeon.rules.values import closest, kind_of

Way = tuple[str | int, ...]
MAX_DEPTH = 100  # keys and indices from a matcher down, through the names that it refers to


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        at: keys and indices from the top to the value at fault.
        said: what is wrong with it, in one sentence, or what makes that sentence.
        key: whether it is the key that is wrong, not its value.
        missing: whether something is not there, often because its key is misspelt.
    """

    at: Way
    said: str | Callable[[], str]
    key: bool = False
    missing: bool = False

    @property
    def message(self) -> str:
        """What is wrong; the nearest word is looked for only here, of a thousand mistakes once."""
        return self.said if isinstance(self.said, str) else self.said()


def check(data: Any) -> RuleFile | list[Problem]:
    """Returns the rule file that `data` describes, or everything that is wrong with it."""
    try:
        file = RuleFile.model_validate(data)
    except ValidationError as error:
        return [_worded(detail) for detail in error.errors() if not _is_echo(detail)]
    return list(_disagreements(file)) or file


def _is_echo(detail: Any) -> bool:
    """Tells whether a list counts as short only because its items are wrong, which is said."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _worded(detail: Any) -> Problem:
    at, value = detail["loc"], detail["input"]
    key = next((step for step in reversed(at) if isinstance(step, str)), "the rule file")
    match detail["type"]:
        case "extra_forbidden":
            return Problem(at, lambda: _unknown_key(key, _model_at(at[:-1])), key=True)
        case "missing":
            return Problem(
                at[:-1],
                lambda: f"{key!r} is missing from this {_model_at(at[:-1]).noun}",
                missing=True,
            )
        case "value_error":
            error = detail["ctx"]["error"]
            message = str(error).replace("{key}", repr(key))
            return (
                Problem((*at, error.key), message, True)
                if isinstance(error, AtKey)
                else (Problem(at, message))
            )
        case "model_type" | "dict_type":
            what = f"{key!r}" if at else key
            return Problem(at, f"{what} must be a mapping of keys to values, not {kind_of(value)}")
        case "tuple_type" | "list_type":
            return Problem(at, f"{key!r} must be a list, not {kind_of(value)}")
        case "too_long":
            return Problem(at, f"{key!r}: more than {detail['ctx']['max_length']:,} of them")
        case "too_short":
            return Problem(at, f"{key!r} is empty")
    return Problem(at, f"{key!r}: {detail['msg']}")


def _unknown_key(key: str, model: type[Entry]) -> str:
    article = "an" if model.noun[0] in "aeiou" else "a"
    what = f"{key!r} is not {article} {model.noun} key"
    if model is Rule and key in _keys(RuleMatcher):
        return f"{what}; write it under 'match'"
    if model is Matcher and key in _keys(RuleMatcher):
        return f"{what} here; it counts what is left in the end: write it at the top of 'match'"
    if model is ModuleMatcher and key in _keys(RuleMatcher):
        return f"{what}; 'inside' and 'has' ask for a module: {', '.join(_keys(model))}"
    return f"{what}; {closest(key, _keys(model))}"


def _keys(model: type[Entry]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(way: Way) -> type[Entry]:
    """Returns the model of the mapping that `way` leads to."""
    model, steps = RuleFile, iter(way)
    for step in steps:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if step not in fields:
            continue  # the index of a list
        annotation = fields[step].annotation
        model = next(_models_in(annotation), model)
        if any(get_origin(part) is dict for part in (annotation, *get_args(annotation))):
            next(steps, None)  # the user's own name, which may be spelled like a key
    return model


def _models_in(annotation: Any) -> Iterator[type[Entry]]:
    plain = get_origin(annotation) is None  # `list[int]` is a type, too, before Python 3.11
    if plain and isinstance(annotation, type) and issubclass(annotation, Entry):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _disagreements(file: RuleFile) -> Iterator[Problem]:
    """Yields what single entries cannot see: ids, names in `define`, tests of unknown rules."""
    define, seen = file.define or {}, {}
    for i, rule in enumerate(file.rules):
        if rule.id in seen:
            taken = f"the id {rule.id!r} is taken by rule number {seen[rule.id] + 1}"
            yield Problem(("rules", i, "id"), taken)
        seen.setdefault(rule.id, i)
    roots: list[tuple[Way, Matcher]] = [(("define", n), m) for n, m in define.items()]
    roots += [(("rules", i, "match"), rule.match) for i, rule in enumerate(file.rules)]
    for at, matcher in roots:
        for name, where in _references(matcher, at):
            if name not in define:
                yield Problem(where, partial(_undefined, name, define))
    yield from _too_deep(roots, define)
    for i, test in enumerate(file.tests or ()):
        for rule_id in test.expect:
            if rule_id not in seen:
                said = partial(_no_such_rule, rule_id, seen)
                yield Problem(("tests", i, "expect", rule_id), said, key=True)


def _undefined(name: str, define: Iterable[str]) -> str:
    known = closest(name, define) if define else "nothing is defined"
    return f"{name!r} is not in 'define'; {known}"


def _no_such_rule(rule_id: str, known: Iterable[str]) -> str:
    return f"no rule has the id {rule_id!r}; {closest(rule_id, known)}"


def _references(matcher: Matcher, at: Way) -> Iterator[tuple[str, Way]]:
    """Yields every name that a matcher refers to, with the way to where it says so."""
    for i, name in enumerate(matcher.matches or ()):
        yield name, (*at, "matches", i)
    for key, inner in (("any", matcher.any_of), ("all", matcher.all_of)):
        for i, one in enumerate(inner or ()):
            yield from _references(one, (*at, key, i))
    for key in ("not", "follows", "precedes"):
        inner = getattr(matcher, "not_" if key == "not" else key)
        if inner is not None:
            yield from _references(inner, (*at, key))


def _too_deep(roots: list[tuple[Way, Matcher]], define: dict[str, Matcher]) -> Iterator[Problem]:
    """Yields the matchers that contain themselves, or are nested too deep, through names."""
    refers = {at: [(n, len(w)) for n, w in _references(m, ()) if n in define] for at, m in roots}
    names = {name: {n for n, _ in refers["define", name]} for name in define}
    try:
        order = tuple(TopologicalSorter(names).static_order())
    except CycleError as error:
        for name in dict.fromkeys(error.args[1]):
            yield Problem(("define", name), f"{name!r} is defined by itself", key=True)
        return
    depth: dict[str, int] = {}
    for at in (*(("define", name) for name in order), *(at for at, _ in roots if at[0] == "rules")):
        down = max((level + depth[name] for name, level in refers[at]), default=0)
        if at[0] == "define":
            depth[str(at[1])] = down
        if down > MAX_DEPTH:
            yield Problem(at, f"it is nested more than {MAX_DEPTH} levels deep, names followed")
