"""The public names, the commands and the examples -> their pages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import click

import attnsurgeon
from attnsurgeon.cli.app import app

# What the page of the API begins with; names that stand in no group come last, under "More".
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Networks": ("load_model", "find_sites", "Sites", "Site"),
    "Attention": ("mechanisms", "create_attention"),
    "Choose": ("estimate", "compare", "suggest", "measure"),
    "Operate": ("plan", "insert", "Operation", "remove", "prune", "disabled", "fold"),
    "Look": ("status", "Status", "audit", "gates", "gate_statistics", "heatmap"),
    "Train": ("freeze_backbone", "unfreeze", "param_groups", "recalibrate_norms"),
    "Save": ("save", "load"),
    "Errors": ("SurgeonError",),
}
_API = """\
# Python API

Everything here is imported as `attnsurgeon.NAME`, and is public: [what that means](stability.md).
How it is used: [Python](python.md).
"""
_COMMANDS = """\
# Commands

`attnsurgeon COMMAND --help` prints the same. Exit codes: 0 done, 1 a check or budget
refused, 2 usage, 3 model or checkpoint, 4 rule or mechanism.
"""


def api_page() -> str:
    """Returns the page of the public names, which mkdocstrings fills from their docstrings."""
    public = [name for name in attnsurgeon.__all__ if name != "__version__"]
    grouped = {name for names in GROUPS.values() for name in names}
    more = tuple(name for name in public if name not in grouped)
    groups = {**GROUPS, **({"More": more} if more else {})}
    parts = [_API]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        parts += [f"::: attnsurgeon.{name}\n" for name in names if name in public]
    return "\n".join(parts)


def commands_page() -> str:
    """Returns the page of the command line, from the commands themselves."""
    return "\n".join([_COMMANDS, *_commands(app, "attnsurgeon", None)])


def _commands(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _commands(found, inner, context)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {context.command_path}\n\n```\n{context.command_path} {usage}\n```\n"
    yield f"{_help(command.help or '')}\n"
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in record[0]:
            rows.append(f"| <code>{_cell(record[0])}</code> | {_cell(record[1])} |")
    if rows:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows, ""])


def _help(text: str) -> str:
    """A help text as Markdown: what is printed as it stands is a block of code."""
    paragraphs = [part.strip("\n") for part in inspect.cleandoc(text).split("\n\n")]
    return "\n\n".join(
        f"```\n{part.removeprefix(chr(8)).strip(chr(10))}\n```" if part.startswith("\b") else part
        for part in paragraphs
    )


def _cell(text: str) -> str:
    """A text as a cell of a table, in which nothing is Markdown: no column, no link."""
    text = escape(re.sub(r"\s+", " ", text), quote=False)
    return re.sub(r"[|\[\]*_]", lambda sign: f"&#{ord(sign[0])};", text)


def example_page(file: Path) -> str:
    """Returns the page of an example: its docstring as prose, and the file."""
    code = file.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(code)) or ""
    title, _, rest = said.partition("\n")
    name = file.stem.replace("_", " ").capitalize()
    body = code.partition('"""')[2].partition('"""')[2].lstrip("\n")
    return f"# {name}\n\n{title}\n{rest}\n\n`examples/{file.name}`:\n\n```python\n{body}```\n"


def examples_page(files: list[Path]) -> str:
    """Returns the list of the examples, each with the first sentence that it says of itself."""
    rows = []
    for file in files:
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.:])\s", said.replace("\n", " "))[0].rstrip(":.")
        rows.append(f"- [{file.stem.replace('_', ' ').capitalize()}]({file.stem}.md): {first}.")
    head = "# Examples\n\nFiles that run as they stand; the suite runs them all.\n\n"
    return head + "\n".join(rows) + "\n"
