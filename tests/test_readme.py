"""The READMEs keep their word: their code runs, their figures come out, both say the same."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cli.app import app
from attnsurgeon.rules.cases import run_tests
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.rules.placements import shipped_names

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for said, code in found if said == language]


def marked(name: str, mark: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n```\n(.*?)```", text, re.DOTALL)
    assert found, f"{name} has no block marked {mark!r}"
    return found[1]


@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_the_python_of_the_readme_runs_and_asserts_something(code):
    assert "assert " in code
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_rules_of_the_readme_do_what_they_say():
    from attnsurgeon.models import build_on_meta
    from attnsurgeon.sites.analysis import analyse

    (text,) = blocks("README.md", "yaml")
    outcomes = run_tests(
        parse_rules(text), lambda spec, args, size: analyse(build_on_meta(spec, **args), size).sites
    )
    assert [outcome.status for outcome in outcomes] == ["ok"]


def test_the_output_shown_is_the_output_printed():
    shown = marked("README.md", "output of insert")
    command = ["plan", "resnet50", "--attn", "eca", "--where", "bottleneck"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    tables = [line.split() for line in done.stdout.splitlines() if re.search(r"\d{3}|layer", line)]
    assert len(tables) >= 7
    lines = [line.split() for line in shown.splitlines()]
    assert [row for row in tables if row not in lines] == []


def test_the_chinese_readme_has_the_same_code_but_for_comments():
    for language in ("python", "yaml", ""):
        english, chinese = (
            [re.sub(r"\s+#.*|message:.*", "", block) for block in blocks(name, language)]
            for name in READMES
        )
        assert english == chinese


@pytest.mark.parametrize("name", READMES)
def test_every_mechanism_and_placement_is_in_the_readme(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| .*arxiv|^\| `([a-z0-9-]+)` \| .*http", text, re.MULTILINE
    )
    assert [a or b for a, b in rows] == list(mechanisms())
    assert [place for place in shipped_names() if f"`{place}`" not in text] == []


def test_ci_runs_the_command_that_the_readme_gives():
    command = marked("README.md", "test command").strip()
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in script
    assert command.endswith("-m pytest")
