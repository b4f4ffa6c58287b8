"""README and docs keep their word: their code runs, their figures come out, languages agree."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cli.app import app
from attnsurgeon.rules.cases import run_tests
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.rules.placements import shipped_names
from attnsurgeon.rules.reference import reference
from attnsurgeon.sites.site import ROLES

ROOT = Path(__file__).parents[1]
READMES = ["README.md", "README.zh-CN.md"]
# Every page that there is in Chinese, too.
PAGES = [
    "README.md",
    *sorted(
        f"docs/{path.name.replace('.zh-CN', '')}" for path in (ROOT / "docs").glob("*.zh-CN.md")
    ),
]
LANGUAGES = ["python", "yaml", "", "console"]


SESSIONS = ["docs/tutorial.md"]  # whose blocks follow on each other: tests/test_tutorial.py


def chinese(name: str) -> str:
    return name.replace(".md", ".zh-CN.md")


def both(name: str) -> list[str]:
    return [name, chinese(name)]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", read(name), re.MULTILINE | re.DOTALL)
    return [code for said, code in found if said == language]


def marked(name: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```\n(.*?)```", read(name), re.DOTALL)
    assert found, f"{name} has no block marked {mark!r}"
    return found[1]


def codes(language: str) -> list:
    """The code blocks of all pages, in English: the Chinese ones are the same."""
    return [
        pytest.param(code, id=f"{name}-{at}")
        for name in PAGES
        if name not in SESSIONS
        for at, code in enumerate(blocks(name, language))
    ]


@pytest.mark.parametrize("code", codes("python"))
def test_the_python_of_a_page_runs_and_asserts_something(code, tmp_path, monkeypatch):
    assert "assert " in code
    monkeypatch.chdir(tmp_path)  # for what it writes
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("text", codes("yaml"))
def test_the_rules_of_a_page_do_what_they_say(text):
    from attnsurgeon.models import build_on_meta
    from attnsurgeon.sites.analysis import analyse

    rules = parse_rules(text)
    outcomes = run_tests(
        rules, lambda spec, args, size: analyse(build_on_meta(spec, **args), size).sites
    )
    assert rules.tests
    assert [outcome for outcome in outcomes if outcome.status != "ok"] == []
    assert len(outcomes) == sum(len(test.expect) for test in rules.tests)


def test_the_readme_and_the_pages_have_code_of_each_language():
    assert [len(blocks("README.md", language)) for language in LANGUAGES] == [1, 1, 7, 0]
    assert len(blocks("docs/python.md", "python")) == 10
    assert len(blocks("docs/rules.md", "yaml")) == 1


def test_the_output_shown_is_the_output_printed():
    shown = marked("README.md", "output of insert")
    command = ["plan", "resnet50", "--attn", "eca", "--where", "bottleneck"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    tables = [line.split() for line in done.stdout.splitlines() if re.search(r"\d{3}|layer", line)]
    assert len(tables) >= 7
    lines = [line.split() for line in shown.splitlines()]
    assert [row for row in tables if row not in lines] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READMES)
def test_the_main_command_prints_every_line_that_is_shown(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = marked(name, "main command").partition("attnsurgeon insert")[2].split()
    done = CliRunner().invoke(app, ["insert", *command], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == marked(name, "output of insert").strip()


COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in blocks("README.md", "")
    for line in block.splitlines()
    if line.startswith("attnsurgeon ")
]


def test_there_are_commands_in_the_readme():
    assert len(COMMANDS) >= 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the main command was run, and its network trained since."""
    path = tmp_path_factory.mktemp("readme")
    words = ["resnet50", "--attn", "eca", "--where", "bottleneck", "--verify", "none", "-o"]
    done = CliRunner().invoke(app, ["insert", *words, str(path / "resnet50-eca")])
    assert done.exit_code == 0, done.output
    torch.save(attnsurgeon.load(path / "resnet50-eca").state_dict(), path / "last.pth")
    (path / "photos").mkdir()
    for i, photo in enumerate(load_sample_images().images):
        Image.fromarray(photo).resize((160, 120)).save(path / "photos" / f"{i}.jpg")
    shutil.copy(path / "photos" / "0.jpg", path / "cat.jpg")
    return path


@pytest.mark.slow
def test_every_command_of_the_readme_does_what_it_says(folder, monkeypatch):
    monkeypatch.chdir(folder)  # one after the other: some take what others have written
    for words in COMMANDS:
        done = CliRunner().invoke(app, words, env={"COLUMNS": "100"})
        refused = words[0] == "insert" and "--max-params" in words
        assert done.exit_code == (1 if refused else 0), (words, done.output)
        assert done.output, words
    made = {"resnet50-eca", "resnet50-both", "resnet50-again", "resnet50-trained", "last.pth"}
    made |= {"cat.jpg", "photos", "cat.png", "grid.html", "page.html", "rules.yaml"}
    assert {path.name for path in folder.iterdir()} == made


def comparable(code: str) -> str:
    return re.sub(r"\s+#.*|message:.*", "", code)


@pytest.mark.parametrize("name", PAGES)
def test_a_chinese_page_has_the_same_code_but_for_comments(name):
    for language in LANGUAGES:
        english, translated = (
            [comparable(block) for block in blocks(page, language)] for page in both(name)
        )
        assert english == translated


def outline(name: str) -> dict[str, list]:
    """What has to be the same in both languages: headings, pictures, rows and list items."""
    prose = re.sub(r"^```.*?^```$", "", read(name), flags=re.MULTILINE | re.DOTALL)
    return {
        "headings": re.findall(r"^#+ ", prose, re.MULTILINE),
        "pictures": re.findall(r"!\[[^]]*\]\(([^)]*)\)", prose),
        "columns": [row.count("|") for row in re.findall(r"^\|.*\|$", prose, re.MULTILINE)],
        "items": re.findall(r"^(?:-|\d\.) ", prose, re.MULTILINE),
        "figures": sorted(re.findall(r"\d+\.\d+|\d+,\d{3}", prose)),
    }


@pytest.mark.parametrize("name", PAGES)
def test_a_chinese_page_has_the_same_headings_tables_items_and_figures(name):
    english, translated = map(outline, both(name))
    assert english == translated


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_a_door_and_no_manual(name):
    assert len(read(name).splitlines()) <= 200


@pytest.mark.parametrize("name", both("docs/mechanisms.md"))
def test_every_mechanism_is_in_the_table_of_mechanisms(name):
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| .*arxiv|^\| `([a-z0-9-]+)` \| .*http", read(name), re.MULTILINE
    )
    assert [a or b for a, b in rows] == list(mechanisms())


@pytest.mark.parametrize("name", both("docs/mechanisms.md"))
@pytest.mark.parametrize("card", mechanisms().values(), ids=lambda card: card.name)
def test_a_row_of_the_table_says_what_the_card_says(name, card):
    table = read(name).partition("<!-- mechanisms -->")[2].partition("\n\n")[0]
    (row,) = re.findall(rf"^\| `{card.name}` \|.*", table, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert cells[2] == ", ".join(map(str, card.ranks))
    assert cells[3] == f"[{card.title}]({card.paper}), {card.venue}"
    assert cells[4:] == [f"`{card.placement}`", card.identity, f"`{card.formula}`"]
    if name == "docs/mechanisms.md":
        assert cells[1] == card.kind


@pytest.mark.parametrize("name", both("docs/rules.md"))
def test_every_placement_and_every_role_is_in_the_rules(name):
    text = read(name)
    assert [place for place in shipped_names() if f"`{place}`" not in text] == []
    roles = re.findall(
        r"`([a-z-]+)`", text[text.index("`site:`") : text.index("`attnsurgeon insp")]
    )
    assert sorted(roles) == sorted(ROLES)


def test_the_page_of_the_keys_is_the_one_that_the_models_make():
    assert read("docs/matchers.md") == reference()


@pytest.mark.parametrize("name", READMES)
def test_a_readme_counts_mechanisms_and_placements_right(name):
    text = read(name)
    linked = re.findall(r"\[(\d+)[^]]*\]\(docs/(mechanisms|rules)[^)]*\)", text)
    assert {page: int(count) for count, page in linked} == {
        "mechanisms": len(mechanisms()),
        "rules": len(shipped_names()),
    }


def test_ci_runs_the_command_that_the_readme_gives():
    command = marked("README.md", "test command").strip()
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in script
    assert command.endswith("-m pytest")
