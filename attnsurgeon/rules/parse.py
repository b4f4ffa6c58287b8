"""A rule file's text -> RuleFile, or one `RuleError` with file, line and column; and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    root = read_document(text, source=source)
    checked = check(root.data)
    problems = checked if isinstance(checked, list) else _attn_problems(checked, check_attn)
    if isinstance(checked, list) or problems:
        raise _first_of(problems, root, source)
    return checked


def read_rules(path: str | Path, *, check_attn: Callable[[Attn], object] | None = None) -> RuleFile:
    """Returns the rules in the file at `path`; see `parse_rules`."""
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
    return parse_rules(decode(raw, source=str(path)), source=str(path), check_attn=check_attn)


def write_rules(file: RuleFile) -> str:
    """Returns the rules as YAML that `parse_rules` reads back as the same rules."""
    if any(rule.match.predicate for rule in file.rules):
        raise RuleError("a Python function cannot be written to a rule file", "use matcher keys")
    return write_document(file.model_dump(by_alias=True, exclude_unset=True))


def _attn_problems(file: RuleFile, check_attn: Callable[[Attn], object] | None) -> list[Problem]:
    problems = []
    for i, rule in enumerate(file.rules if check_attn else ()):
        try:
            if check_attn and rule.attn:
                check_attn(rule.attn)
        except SurgeonError as error:
            said = f"{error.what}; {error.hint}" if error.hint else error.what
            problems.append(Problem(("rules", i, "attn"), said))
    return problems


def _first_of(problems: list[Problem], root: Node, source: str) -> RuleError:
    first = min(problems, key=lambda problem: (problem.missing, *_place(problem, root)))
    line, column = _place(first, root)
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    return RuleError(f"{source}:{line}:{column}: {shortened(first.message)}{more}")


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
