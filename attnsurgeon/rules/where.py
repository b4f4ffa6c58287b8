"""What a user gives as `where` -> RuleFile: a placement, a file, a matcher, paths, a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnsurgeon.errors import RuleError, nearest
from attnsurgeon.rules.checking import Way, check
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.parse import read_rules
from attnsurgeon.rules.placements import PAPER, shipped
from attnsurgeon.rules.schema import Rule, RuleFile, RuleMatcher
from attnsurgeon.rules.values import kind_of
from attnsurgeon.sites.site import Site

Where = (
    str
    | Path
    | Mapping[str, Any]
    | Sequence[str]
    | Sequence[Site]
    | Callable[[Site], object]
    | RuleFile
)
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
            sites or their paths, a function that tells of a site whether to take it, or rules
            already read.
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
    if isinstance(where, Sequence) and not isinstance(where, bytes):
        return _from_matcher({"name": [_literal(path) for path in paths_of(where)]})
    if callable(where):
        rule = Rule.model_construct(id=_ID, match=RuleMatcher.calling(where))
        return RuleFile.model_construct(version=1, rules=(rule,))
    raise RuleError(
        f"'where' cannot be {kind_of(where)}",
        "give a placement, a rule file, a matcher such as {'site': 'conv'}, paths, or a function",
    )


def paths_of(where: Any) -> tuple[str, ...]:
    """Returns the paths of sites that `where` lists; of anything else that it may be, none.

    Raises:
        RuleError: it lists nothing, or something else.
    """
    if isinstance(where, (str, bytes, Mapping)) or not isinstance(where, Sequence):
        return ()
    paths = tuple(item.path if isinstance(item, Site) else item for item in where)
    if not paths:
        raise RuleError("'where' lists no site", "find_sites(model) finds them")
    for path in paths:
        if not isinstance(path, str):
            raise RuleError(
                f"'where' lists {kind_of(path)}", "list sites, or their paths: ['layer4.1.bn2']"
            )
    return paths


def require_listed(where: Any, sites: Sequence[Site]) -> None:
    """Refuses paths that `where` lists and no site has: none of a list is left in silence.

    Raises:
        RuleError: with the nearest path.
    """
    known = [site.path for site in sites]
    for path in paths_of(where):
        if path not in known:
            raise RuleError(f"'where': no site of this network is {path!r}", nearest(path, known))


def _literal(path: str) -> str:
    """Spells a path as a glob that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def select(sites: Sequence[Site], matcher: Mapping[str, Any]) -> tuple[Site, ...]:
    """Returns the sites that a matcher takes, in execution order; none is not an error here."""
    return match_rules(_from_matcher(matcher), sites)[0].sites


def _named(name: str, paper: Where | None) -> RuleFile:
    if name != PAPER:
        return shipped(name)
    if paper is None or paper == PAPER:
        raise RuleError(
            f"{PAPER!r} is each mechanism's own placement, and no mechanism is named",
            "name one: attn='eca'",
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
