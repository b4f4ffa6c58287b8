"""What a user gives as `where` -> RuleFile: a placement, a file, a matcher or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.checking import Way, check
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.parse import read_rules
from attnsurgeon.rules.placements import PAPER, shipped
from attnsurgeon.rules.schema import Rule, RuleFile, RuleMatcher
from attnsurgeon.rules.values import kind_of
from attnsurgeon.sites.site import Site

Where = str | Path | Mapping[str, Any] | Callable[[Site], object] | RuleFile
_ID = "where"  # of the rule made from a matcher or a function


def resolve_where(
    where: Where,
    *,
    paper: Where | None = None,
    check_attn: Callable[[Attn], object] | None = None,
) -> RuleFile:
    """Returns the rules that `where` stands for.

    Args:
        where: the name of a shipped placement, the path of a rule file, a matcher as a mapping,
            a function that tells of a site whether to take it, or rules already read.
        paper: what `paper` stands for, which is the mechanism's to say.
        check_attn: see `parse_rules`.

    Raises:
        RuleError: with the nearest placement, file or key.
    """
    if isinstance(where, RuleFile):
        return where
    if isinstance(where, Mapping):
        return _from_matcher(where)
    if isinstance(where, Path) or (isinstance(where, str) and _looks_like_a_path(where)):
        return read_rules(where, check_attn=check_attn)
    if isinstance(where, str):
        return _named(where, paper)
    if callable(where):
        rule = Rule.model_construct(id=_ID, match=RuleMatcher.calling(where))
        return RuleFile.model_construct(version=1, rules=(rule,))
    raise RuleError(
        f"'where' cannot be {kind_of(where)}",
        "give a placement, a rule file, a matcher such as {'site': 'conv'}, or a function",
    )


def select(sites: Sequence[Site], matcher: Mapping[str, Any]) -> tuple[Site, ...]:
    """Returns the sites that a matcher takes, in execution order; none is not an error here."""
    return match_rules(_from_matcher(matcher), sites)[0].sites


def _named(name: str, paper: Where | None) -> RuleFile:
    if name != PAPER:
        return shipped(name)
    if paper is None or paper == PAPER:
        raise RuleError(
            f"{PAPER!r} is each mechanism's own placement, and no mechanism is named",
            "name one with --attn",
        )
    return resolve_where(paper)


def _looks_like_a_path(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text


def _from_matcher(matcher: Mapping[str, Any]) -> RuleFile:
    rule = {"id": _ID, "match": dict(matcher)}
    checked = check({"version": 1, "rules": [rule]})
    if isinstance(checked, RuleFile):
        return checked
    more = f" (and {len(checked) - 1} more)" if len(checked) > 1 else ""
    way = checked[0].at[3:-1] if checked[0].key else checked[0].at[3:]
    raise RuleError(f"{_spell(way, matcher)}: {checked[0].message}{more}")


def _spell(way: Way, matcher: Any) -> str:
    """Spells the way into a matcher as Python does: `where['any'][0]`."""
    spelled = "where"
    for step in way:
        if not isinstance(matcher, (Mapping, list, tuple)):
            break  # a single value was read as a list of one
        spelled, matcher = f"{spelled}[{step!r}]", matcher[step]  # pyright: ignore
    return spelled
