"""The models of a rule file -> their reference in Markdown, from the same descriptions."""

from __future__ import annotations

from typing import Any

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

_HEAD = """\
# Keys of a rule file

`attnsurgeon rules reference` prints this page: it is made from the models that check the files.
The keys of `match`, and of `find_sites(model).where(...)` in Python, are those of the matcher
below. What a value may look like stands in the JSON Schema that `attnsurgeon rules schema` prints.
"""


def reference() -> str:
    """Returns every key that a rule file may have and what it means, a table for each mapping."""
    return "\n".join([_HEAD, *(_table(model) for model in _ORDER)])


def _table(model: type[Entry]) -> str:
    written = model.model_json_schema(by_alias=True)
    written = written.get("properties") or written["$defs"][model.__name__]["properties"]
    rows = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        words = [f"`{word}`" for word in _words(written[key])]
        said = (field.description or "") + (f" One of {', '.join(words)}." if words else "")
        required = "yes" if field.is_required() else ""
        rows.append(f"| `{key}` | {required} | {said.replace('|', chr(92) + '|')} |")
    head = [f"## {model.noun}", "", model.__doc__ or "", "", "| key | required | meaning |"]
    return "\n".join([*head, "|---|---|---|", *rows, ""])


def _words(written: Any) -> list[str]:
    """Returns the words that are all that a key takes, each alone or in a list."""
    if isinstance(written, dict) and "enum" in written:
        return list(written["enum"])
    inner = written.values() if isinstance(written, dict) else written
    found = [_words(one) for one in inner if isinstance(one, (dict, list))]
    return max(found, key=len, default=[])
