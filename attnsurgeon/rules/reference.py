"""The models of a rule file -> their reference in Markdown, from the same descriptions."""

from __future__ import annotations

from attnsurgeon.rules.schema import (
    Entry,
    Expect,
    Expectation,
    ModuleMatcher,
    Rule,
    RuleFile,
    RuleMatcher,
    RuleTest,
)

_ORDER: tuple[type[Entry], ...] = (
    RuleFile,
    Rule,
    RuleMatcher,
    ModuleMatcher,
    Expect,
    RuleTest,
    Expectation,
)


def reference() -> str:
    """Returns every key that a rule file may have and what it means, a table for each mapping."""
    return "\n".join(_table(model) for model in _ORDER)


def _table(model: type[Entry]) -> str:
    rows = [
        f"| `{field.alias or name}` | {'yes' if field.is_required() else ''} "
        f"| {(field.description or '').replace('|', chr(92) + '|')} |"
        for name, field in model.model_fields.items()
    ]
    head = [f"## {model.noun}", "", model.__doc__ or "", "", "| key | required | meaning |"]
    return "\n".join([*head, "|---|---|---|", *rows, ""])
