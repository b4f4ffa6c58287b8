"""`attnsurgeon rules`: the shipped placements, and help with rule files of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.groups import Named
from attnsurgeon.cli.options import Network, json_flag, trust_option
from attnsurgeon.cli.values import PathName, complete_where, matching
from attnsurgeon.errors import CheckFailed, RuleError
from attnsurgeon.report import words
from attnsurgeon.report.streams import out, write_json, write_text
from attnsurgeon.report.surfaces import hint_of

if TYPE_CHECKING:
    from attnsurgeon.rules.fields import Attn
    from attnsurgeon.rules.schema import RuleFile
    from attnsurgeon.sites.site import Site


@click.group(cls=Named)
def command() -> None:
    """List, show, check and test rule files."""


@command.command("list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete_where)
@json_flag
def list_rules(patterns: tuple[str, ...], as_json: bool) -> None:
    """List the placements that --where takes; a PATTERN such as 'late-*' narrows."""
    from attnsurgeon.rules.placements import placements

    messages = {one.name: one.message for one in placements()}
    found = matching(patterns, messages, "placement", RuleError)
    record = [{"name": name, "message": messages[name]} for name in found]
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.rulebook import show_placements

    show_placements(out(), record)


@command.command("show")
@click.argument("name", shell_complete=complete_where)
def show_rules(name: str) -> None:
    """Print a shipped rule file."""
    from attnsurgeon.rules.placements import shipped_text

    write_text(shipped_text(name))


@command.command("check")
@click.argument("files", nargs=-1, required=True, type=PathName())
@trust_option
def check_rules(files: tuple[str, ...], trust_code: bool) -> None:
    """Check keys, values and mechanisms of rule files, and say all that is wrong."""
    from attnsurgeon.asked import check_attn
    from attnsurgeon.rules.parse import read_text, review

    def check(attn: Attn) -> None:
        check_attn(attn, trust=trust_code)

    wrong: list[str] = []
    for name in files:
        try:
            reviewed = review(read_text(name), source=name, check_attn=check)
        except RuleError as error:
            reviewed = ["; ".join(filter(None, (error.what, hint_of(error))))]
        if isinstance(reviewed, list):
            wrong += reviewed
        else:
            write_text(f"{name}: fine ({', '.join(rule.id for rule in reviewed.rules)})")
    if wrong:
        raise RuleError("\n".join(wrong))


@command.command("test")
@click.argument("files", nargs=-1, type=PathName())
@trust_option
@json_flag
def test_rules(files: tuple[str, ...], trust_code: bool, as_json: bool) -> None:
    """Run the tests inside rule files. By default of all shipped ones; no weights are loaded."""
    from attnsurgeon.rules.cases import run_tests
    from attnsurgeon.rules.placements import shipped, shipped_names

    sources = [(name, _read(name, trust_code)) for name in files] or [
        (n, shipped(n)) for n in shipped_names()
    ]
    record = []
    for name, file in sources:
        outcomes = run_tests(file, _find_sites, trust=trust_code or not files)
        record.append({"file": name, "outcomes": [vars(outcome) for outcome in outcomes]})
    if as_json:
        write_json(record)
    else:
        from attnsurgeon.report.rulebook import show_outcomes

        show_outcomes(out(), record)
    failed = [one for file in record for one in file["outcomes"] if one["status"] != "ok"]
    if failed:
        raise CheckFailed(f"{words.several(len(failed), 'rule test')} failed")


@command.command("schema")
def rules_schema() -> None:
    """Print the JSON Schema of rule files, for editors."""
    from attnsurgeon.rules.schema import json_schema

    write_text(json.dumps(json_schema(), indent=2))


@command.command("reference")
def rules_reference() -> None:
    """Print every key that a rule file may have, and what it means, as Markdown."""
    from attnsurgeon.rules.reference import reference

    write_text(reference())


@command.command("new")
@click.argument("name")
@click.option("-o", "--output", type=PathName(), help="File to write.  [default: NAME.yaml]")
def new_rules(name: str, output: str | None) -> None:
    """Write a rule file to start from, with comments and tests."""
    from attnsurgeon.rules.template import rule_template

    text = rule_template(name)
    from attnsurgeon.saved.file import write_file

    file = write_file(output or f"{name}.yaml", text)
    write_text(f"{file} written; `attnsurgeon rules test {file}` runs its tests")


def _read(name: str, trust: bool) -> RuleFile:
    from attnsurgeon.asked import check_attn
    from attnsurgeon.rules.parse import read_rules

    return read_rules(name, check_attn=lambda attn: check_attn(attn, trust=trust))


def _find_sites(
    spec: str, args: Mapping[str, Any], input_size: tuple[int, ...] | None
) -> Sequence[Site]:
    from attnsurgeon.cli.networks import sketch

    return sketch(Network(spec, dict(args), input_size))[1].sites
