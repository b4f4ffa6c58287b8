"""What is said of a release is so: version, changelog, citation, formats and their promise."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.saved.schema import FORMAT_VERSION, read_record

ROOT = Path(__file__).parents[1]
GROUPS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def releases(changelog: str) -> dict[str, date]:
    """Version -> day, as the headings have them, the newest first."""
    found = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    return {version: date.fromisoformat(day) for version, day in found}


def malformed(changelog: str) -> list[str]:
    """What is not as Keep a Changelog has it."""
    wrong = []
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    if not parts or not parts[0].startswith("[Unreleased]"):
        wrong.append("it does not begin with [Unreleased]")
    for part in parts:
        title, *groups = re.split(r"^### ", part, flags=re.MULTILINE)
        title = title.strip()
        if title != "[Unreleased]" and f"## {title}" not in changelog.splitlines():
            wrong.append(f"{title!r} holds text outside the groups")
        if title != "[Unreleased]" and not releases(f"## {title}\n"):
            wrong.append(f"{title!r} is no version with a day")
        for group in groups:
            name, _, text = group.partition("\n")
            if name not in GROUPS:
                wrong.append(f"{name!r} is no group")
            if not text.strip().startswith("- "):
                wrong.append(f"{name!r} of {title!r} is no list")
    days = list(releases(changelog).values())
    if days != sorted(days, reverse=True):
        wrong.append("the newest is not first")
    return wrong


def test_the_changelog_has_its_form():
    assert malformed(read("CHANGELOG.md")) == []


def test_a_changelog_without_its_form_is_found():
    assert malformed("## [1.0.0] - 2026-01-01\n\n### Added\n\n- a\n") != []
    head = "## [Unreleased]\n\n"
    assert malformed(f"{head}## [1.0.0] - 2026-01-01\n\n### Added\n\n- a\n") == []
    assert malformed(f"{head}## [1.0.0] - soon\n\n### Added\n\n- a\n") != []
    assert malformed(f"{head}## [1.0.0] - 2026-01-01\n\n### News\n\n- a\n") == [
        "'News' is no group"
    ]
    assert malformed(f"{head}## [1.0.0] - 2026-01-01\n\n### Added\n\na\n") != []
    two = "## [1.0.0] - 2026-01-01\n\n## [1.1.0] - 2026-02-01\n"
    assert malformed(head + two) == ["the newest is not first"]


def test_version_changelog_and_citation_name_the_same_release():
    newest, *_ = releases(read("CHANGELOG.md")).items()
    cited = yaml.safe_load(read("CITATION.cff"))
    assert (attnsurgeon.__version__, cited["version"]) == (newest[0], newest[0])
    assert date.fromisoformat(cited["date-released"]) == newest[1]


def test_the_citation_has_what_its_schema_asks_for():
    cited = yaml.safe_load(read("CITATION.cff"))
    known = {"cff-version", "message", "type", "title", "abstract", "authors", "version",
             "date-released", "license", "keywords"}  # fmt: skip
    assert set(cited) <= known
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["cff-version"], cited["type"], cited["license"]) == (
        *("1.2.0", "software", "Apache-2.0"),
    )
    assert all(set(author) == {"name"} and author["name"] for author in cited["authors"])
    assert len(set(cited["keywords"])) == len(cited["keywords"])


def test_of_every_release_there_is_something_that_it_wrote():
    minors = {version.rpartition(".")[0] for version in releases(read("CHANGELOG.md"))}
    written = {path.stem for path in (ROOT / "tests" / "saved" / "written").glob("*.zip")}
    assert minors == written == {"0.1", "0.2"}


def test_the_promise_names_the_format_of_today_and_every_one_before():
    text = read("docs/stability.md")
    assert f"It is **{FORMAT_VERSION}** today." in text
    rows = re.findall(r"^\| (\d+) \| ([\d., ]+) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, FORMAT_VERSION + 1))
    minors = {version.rpartition(".")[0] for version in releases(read("CHANGELOG.md"))}
    assert {minor for _, said in rows for minor in said.split(", ")} == minors


@pytest.mark.parametrize(
    ("versions", "hint"),
    [
        ({"attnsurgeon": "7.1.0"}, "upgrade attnsurgeon: 7.1.0 wrote it, and this is"),
        ({"attnsurgeon": "7 \x1b[2J"}, "upgrade attnsurgeon"),
        ({"attnsurgeon": None}, "upgrade attnsurgeon"),
        ([], "upgrade attnsurgeon"),
    ],
)
def test_a_folder_of_a_future_version_is_refused_by_its_number_and_writer(versions, hint, tmp_path):
    record = {"format": "attnsurgeon", "format_version": FORMAT_VERSION + 1, "versions": versions}
    file = tmp_path / "surgery.json"
    file.write_text(json.dumps({**record, "what_comes_then": [1, 2]}))
    said = (
        rf"has format version {FORMAT_VERSION + 1}; this attnsurgeon reads up to {FORMAT_VERSION}"
    )
    with pytest.raises(ModelError, match=said) as refused:
        read_record(file)
    assert refused.value.hint.startswith(hint)
    assert (refused.value.hint == "upgrade attnsurgeon") is (hint == "upgrade attnsurgeon")


def test_a_folder_of_today_with_a_field_of_tomorrow_is_read(tmp_path):
    model = attnsurgeon.load_model("test_resnet")
    folder = attnsurgeon.insert(model, "eca", "stage").save(tmp_path / "out")
    file = Path(folder) / "surgery.json"
    record = json.loads(file.read_text())
    record["operations"][0]["sites"][0]["what_comes_then"] = 1
    file.write_text(json.dumps({**record, "what_comes_then": [1, 2]}))
    assert attnsurgeon.audit(attnsurgeon.load(folder)).ok
