"""The page of the gates says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from attnsurgeon.attention.pictures import PICTURES
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["gates.md", "gates.zh-CN.md"]


def table(page: str, mark: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = re.search(rf"<!-- {mark} -->\n((?:\|.*\n)+)", text)
    assert rows is not None
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in rows[1].strip().split("\n")[2:]
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_a_row_for_every_mechanism_as_its_card_says(page):
    rows = table(page, "mechanisms")
    assert [row[0] for row in rows] == [f"`{name}`" for name in mechanisms()]
    for row, card in zip(rows, mechanisms().values(), strict=True):
        assert row[2] == ", ".join(f"`{name}`" for name in card.picture.names)
        if page == "gates.md":
            assert row[1] == card.kind
            assert row[3] == card.picture.how


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_a_row_for_every_picture(page):
    rows = table(page, "pictures")
    assert [row[0] for row in rows] == [f"`{name}`" for name in PICTURES]
    assert [row[1] for row in rows] == [shape for shape, _ in PICTURES.values()]
    if page == "gates.md":
        assert [row[2] for row in rows] == [meaning for _, meaning in PICTURES.values()]


def test_the_command_line_says_which_pictures_a_mechanism_has():
    listed = CliRunner().invoke(app, ["attn", "list", "--json"])
    by_name = {record["name"]: record for record in json.loads(listed.stdout)}
    assert by_name["cbam"]["pictures"] == ["channel", "spatial"]
    assert by_name["sk"]["pictures"] == ["branches"]
    assert "gate" in by_name["cbam"]["pictures_how"]
    shown = CliRunner().invoke(app, ["attn", "show", "cbam"], env={"COLUMNS": "100"}).stdout
    assert "pictures    channel, spatial: the gate of each channel" in shown
