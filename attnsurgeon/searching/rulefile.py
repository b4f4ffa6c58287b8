"""Chosen candidates -> a rule file that takes exactly their sites, and says how it was made."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.parse import parse_rules, write_rules
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.searching.candidates import Candidate, label

_WIDTH = 98


def rules_of(chosen: Sequence[Candidate], init: str) -> RuleFile:
    """Returns rules that take the sites of these candidates and no others.

    A mechanism with its arguments is one rule; so is what rules do with it (`action`, `scope`).
    """
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for one in chosen:
        rule = one.rule
        key = label(rule.attn), rule.init or init, rule.action, rule.scope
        groups.setdefault(key, []).append(one)
    rules, ids = [], set[str]()
    for group in groups.values():
        rule = group[0].rule
        assert rule.attn is not None
        sites = {site.path: site.index for one in group for site in one.sites}
        paths = sorted(sites, key=sites.__getitem__)
        made = {
            "id": _id(rule.attn, ids),
            "match": {"name": [literal(path) for path in paths]},
            "attn": rule.attn.spelled,
            "init": rule.init or init,
            "expect": {"count": len(paths)},
        }
        made |= {key: value for key in ("action", "scope") if (value := getattr(rule, key))}
        rules.append(made)
    return RuleFile.model_validate({"version": 1, "name": "suggested", "rules": rules})


def text_of(file: RuleFile, how: Iterable[str]) -> str:
    """Returns the rules as YAML, below lines that say how they were chosen."""
    plain = ("".join(c if c.isprintable() else "?" for c in said) for said in how)
    lines = [line for said in plain for line in textwrap.wrap(said, _WIDTH) or [""]]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    text = head + write_rules(file)
    parse_rules(text)  # what is handed on can be read
    return text


def literal(path: str) -> str:
    """Spells a path as a glob that matches it alone."""
    spelled = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
    return f"[r]{spelled[1:]}" if spelled.startswith("re:") else spelled


def _id(attn: Attn, taken: set[str]) -> str:
    """A name in kebab-case that no rule has yet."""
    plain = re.sub(r"[^a-z0-9]+", "-", attn.type.rpartition(":")[2].lower()).strip("-") or "rule"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(name)
    return name
