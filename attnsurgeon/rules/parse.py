"""A rule file's text -> RuleFile, or one `RuleError` with file, line and column; and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attnsurgeon.errors import RuleError, SurgeonError, nearest
from attnsurgeon.rules.checking import Problem, check
from attnsurgeon.rules.document import (
    MAX_BYTES,
    Node,
    decode,
    read_document,
    shortened,
    write_document,
)
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.schema import RuleFile


def parse_rules(
    text: str,
    *,
    source: str = "rules.yaml",
    check_attn: Callable[[Attn], object] | None = None,
) -> RuleFile:
    """Returns the rules that `text` writes down.

    Args:
        text: the YAML.
        source: the file's name, for errors.
        check_attn: raises a `SurgeonError` for a mechanism that cannot be built as written; the
            names of mechanisms are not known on this floor.

    Raises:
        RuleError: with the place of the first problem, and how many more there are.
    """
    reviewed = review(text, source=source, check_attn=check_attn, most=1)
    if isinstance(reviewed, RuleFile):
        return reviewed
    first, *more = reviewed
    raise RuleError(
        f"{first} ({more[0]})" if more else first,
        command=f"`attnsurgeon rules check {source}` lists them" if more else None,
    )


def review(
    text: str,
    *,
    source: str,
    check_attn: Callable[[Attn], object] | None = None,
    most: int = 50,
) -> RuleFile | list[str]:
    """Returns the rules that `text` writes down, or what is wrong with them, each with its place.

    Args:
        text, source, check_attn: see `parse_rules`.
        most: how many mistakes are worded; a last line says how many more there are.

    Raises:
        RuleError: the text is no YAML, of which only the first mistake can be known.
    """
    root = read_document(text, source=source)
    checked = check(root.data)
    problems = checked if isinstance(checked, list) else []
    problems = [*problems, *_attn_problems(root.data, check_attn)]
    if not isinstance(checked, list) and not problems:
        return checked
    # Those last that follow from others: a key that is missing may stand there misspelt.
    ordered = sorted(problems, key=lambda problem: (problem.missing, *_place(problem, root)))
    said = [_said(problem, root, source) for problem in ordered[:most]]
    return [*said, f"and {len(ordered) - most:,} more"] if len(ordered) > most else said


def read_rules(path: str | Path, *, check_attn: Callable[[Attn], object] | None = None) -> RuleFile:
    """Returns the rules in the file at `path`; see `parse_rules`."""
    return parse_rules(read_text(path), source=str(Path(path)), check_attn=check_attn)


def read_text(path: str | Path) -> str:
    """Returns the text of the rule file at `path`.

    Raises:
        RuleError: there is no such file, or it is no text.
    """
    if "\0" in str(path):
        raise RuleError(f"{str(path)!r} is not a path: it has a null byte")
    path = Path(path)
    if not path.exists():
        beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        names = [str(near) for near in beside]
        raise RuleError(
            f"there is no rule file {path}", nearest(str(path), names) if names else None
        )
    if not path.is_file():
        raise RuleError(f"{path} is not a file", "name one rule file, such as rules/mine.yaml")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RuleError(f"cannot read {path}: {error.strerror}") from None
    return decode(raw, source=str(path))


def write_rules(file: RuleFile) -> str:
    """Returns the rules as YAML that `parse_rules` reads back as the same rules."""
    if any(rule.match.predicate for rule in file.rules):
        raise RuleError("a Python function cannot be written to a rule file", "use matcher keys")
    return write_document(file.model_dump(by_alias=True, exclude_unset=True))


def _attn_problems(data: Any, check_attn: Callable[[Attn], object] | None) -> Iterator[Problem]:
    """Yields what is wrong with the mechanisms, whatever else is wrong with their rules."""
    rules = data.get("rules") if isinstance(data, dict) else None
    checked: dict[str, str | None] = {}  # each once: a long file may name one in every rule
    for i, rule in enumerate(rules if isinstance(rules, list) and check_attn else ()):
        asked = rule.get("attn") if isinstance(rule, dict) else None
        try:
            attn = None if asked is None else Attn.parse(asked)
        except ValueError:
            continue  # which `check` says
        if attn is None or check_attn is None:
            continue
        key = repr(attn)
        if key not in checked:
            checked[key] = _refused(attn, check_attn)
        if (said := checked[key]) is not None:
            yield Problem(("rules", i, "attn"), said)


def _refused(attn: Attn, check_attn: Callable[[Attn], object]) -> str | None:
    try:
        check_attn(attn)
    except SurgeonError as error:
        return f"{error.what}; {error.hint}" if error.hint else error.what
    return None


def _said(problem: Problem, root: Node, source: str) -> str:
    line, column = _place(problem, root)
    return f"{source}:{line}:{column}: {shortened(problem.message)}"


def _place(problem: Problem, root: Node) -> tuple[int, int]:
    """Returns where a problem stands: at its key, at its value, or at the nearest value above."""
    node = root
    for i, step in enumerate(problem.at):
        if problem.key and i == len(problem.at) - 1 and step in node.keys:
            return node.keys[str(step)]
        if step not in node.children:
            break
        node = node.children[step]
    return node.line, node.column
