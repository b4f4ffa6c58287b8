"""The table of what belongs to the fast suite names tests that there are."""

import re
from pathlib import Path

from tests.conftest import FIRST, FIRST_OF_SLOW, SLOW_FILES

ROOT = Path(__file__).parent


def test_every_name_in_the_table_is_a_tests():
    text = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("test_*.py"))
    text += "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("contract/*.py"))
    assert {*FIRST, *FIRST_OF_SLOW} - {*re.findall(r"^def (test_\w+)", text, re.MULTILINE)} == set()


def test_every_file_in_the_list_is_there():
    assert [name for name in SLOW_FILES if not (ROOT / name).is_file()] == []
