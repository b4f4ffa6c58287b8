"""A rule file's tests + a way to find sites -> outcomes: ok, noisy, missing or invalid.

`noisy` is a site taken that must not be, `missing` one left that must be taken; `invalid` is the
test's own fault: a path that the network does not have, or a network that cannot be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attnsurgeon.errors import ModelError, SurgeonError
from attnsurgeon.models.bounded import out_of_size
from attnsurgeon.models.vocabulary import objection, reserved, shown
from attnsurgeon.rules.match import Refusal, RuleMatches, match_rules
from attnsurgeon.rules.schema import Expectation, RuleFile, RuleTest
from attnsurgeon.rules.values import NumberTest
from attnsurgeon.sites.site import Site

Status = Literal["ok", "noisy", "missing", "invalid"]
FindSites = Callable[[str, Mapping[str, Any], tuple[int, ...] | None], Sequence[Site]]
_SHOWN = 3  # paths in a detail
_ALLOW_COMMAND = "if you trust the file, say so: attnsurgeon rules test FILE --trust-code"


@dataclass(frozen=True)
class Outcome:
    """What one rule did in one network, against one thing that was expected of it.

    Attributes:
        rule: the rule's id.
        model: the network, as the test names it.
        status: `ok` once for a rule that does all it must; else one outcome for each failure.
        detail: the number of sites taken, or what went wrong and why.
    """

    rule: str
    model: str
    status: Status
    detail: str


def run_tests(file: RuleFile, find_sites: FindSites, *, trust: bool = False) -> list[Outcome]:
    """Returns the outcomes of all tests of a rule file, in order.

    Args:
        file: the rules and their tests.
        find_sites: builds the model of a test, with its arguments, and finds its sites at an
            input size (None is the model's own).
        trust: let the file name code and addresses; else a test of such a model is invalid.
    """
    tests = file.tests or ()
    return [outcome for test in tests for outcome in _run(test, file, find_sites, trust)]


def _run(test: RuleTest, file: RuleFile, find_sites: FindSites, trust: bool) -> Iterator[Outcome]:
    given = test.args or {}
    try:
        _refuse_untrusted(test.model, given, trust)
        sites = find_sites(test.model, given, test.input_size)
    except SurgeonError as error:
        said = "; ".join(filter(None, (error.what, error.command or error.hint)))
        for rule_id in test.expect:
            yield Outcome(rule_id, test.model, "invalid", said)
        return
    matches = {found.rule.id: found for found in match_rules(file, sites)}
    for rule_id, expectation in test.expect.items():
        found = matches[rule_id]
        failures = list(_failures(expectation, found))
        taken = len(found.sites)
        for status, detail in failures or [("ok", f"{taken} site{'s' * (taken != 1)}")]:
            yield Outcome(rule_id, test.model, status, detail)


def _refuse_untrusted(spec: str, given: Mapping[str, Any], trust: bool) -> None:
    """Refuses a model that a file may not have built, as loading refuses one of a folder."""
    names = f"the test names the model {shown(spec)}"
    if wrong := reserved(given):
        raise ModelError(f"{names}; {wrong}")
    if not trust and (wrong := objection(spec, given) or out_of_size(spec, given, None)):
        raise ModelError(f"{names}; {wrong}", command=_ALLOW_COMMAND)


def _failures(expected: Expectation, found: RuleMatches) -> Iterator[tuple[Status, str]]:
    taken = [site.path for site in found.sites]
    if expected.count is not None and not expected.count.holds(len(taken)):
        yield _wrong_count(expected.count, found)
    if expected.first is not None and taken[:1] != [expected.first]:
        yield _wrong_end("first", expected.first, taken[:1], found)
    if expected.last is not None and taken[-1:] != [expected.last]:
        yield _wrong_end("last", expected.last, taken[-1:], found)
    if expected.matches is not None:
        for path in expected.matches:
            if path not in taken:
                yield _left(path, found)
        for path in taken:
            if path not in expected.matches:
                yield "noisy", f"{path}: taken, but not among the expected matches"
    for path, reason in (expected.leaves or {}).items():
        if path in taken:
            yield "noisy", f"{path}: taken, but must be left ({reason})"
        elif path not in found.scene.sites:
            yield _left(path, found)


def _wrong_count(count: NumberTest, found: RuleMatches) -> tuple[Status, str]:
    taken = len(found.sites)
    what = f"takes {taken} sites, not {count}"
    if taken > count.high or count.compare in ("<", "<=", "!="):
        return "noisy", _with_some(what, [site.path for site in found.sites])
    near = [f"{refusal.site.path} ({refusal.reason})" for refusal in found.candidates()]
    return "missing", _with_some(f"{what}; nearest", near)


def _wrong_end(which: str, path: str, got: list[str], found: RuleMatches) -> tuple[Status, str]:
    if any(site.path == path for site in found.sites):
        return "noisy", f"{got[0]}: the {which} site taken, which must be {path}"
    return _left(path, found)


def _left(path: str, found: RuleMatches) -> tuple[Status, str]:
    if path not in found.scene.sites:
        return "invalid", f"{path}: is not a site of this network"
    answer = found.explain(path)
    assert isinstance(answer, Refusal)  # the caller knows that it is not taken
    return "missing", f"{path}: {answer.reason}"


def _with_some(what: str, paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{what}: {'; '.join(paths[:_SHOWN])}{more}" if paths else what
