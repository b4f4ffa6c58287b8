"""Your own attention: from what you type or hand in to its name, and what a file may name."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
import textwrap
from typing import Any

import pytest

from attnsurgeon.attention.own import plugins
from attnsurgeon.attention.own.card import is_code, recorded
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from attnsurgeon.models.own_attention import find_attention, objection
from tests.attention.own import mechanisms as own

HERE = "tests.attention.own.mechanisms"
MINE = """
    from torch import nn

    class MyAttention(nn.Module):
        '''Scales the map. More is said here.'''
        def __init__(self, channels, scale=2.0):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return self.conv(x)

    NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working folder with mine.py in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE))
    yield file
    sys.modules.pop("mine", None)


def test_a_file_is_named_with_the_class_in_it(mine):
    name, given = find_attention("mine.py:MyAttention")
    card = lookup(name)
    assert (name, given) == ("mine.py:MyAttention", {})
    assert card.title == "Scales the map. More is said here"
    assert recorded([card]) == [
        {
            "name": "mine.py:MyAttention",
            "file": "mine.py",
            "sha256": hashlib.sha256(mine.read_bytes()).hexdigest(),
        }
    ]


def test_so_is_a_module_of_the_working_folder(mine):
    name, _ = find_attention("mine:MyAttention")
    assert (name, recorded([lookup(name)])[0]["file"]) == ("mine:MyAttention", "mine.py")


def test_a_file_that_has_changed_is_read_again(mine):
    before = lookup(find_attention("mine.py:MyAttention")[0])
    mine.write_text(mine.read_text().replace("scale=2.0", "scale=3.0, more=1"))
    after = lookup(find_attention("mine.py:MyAttention")[0])
    assert (before.args["scale"], after.args["scale"], after.args["more"]) == (2.0, 3.0, 1)
    assert recorded([before]) != recorded([after])


def test_classes_and_functions_have_the_name_by_which_they_are_found_again():
    assert find_attention(own.Gate)[0] == f"{HERE}:Gate"
    assert find_attention(own.make)[0] == f"{HERE}:make"
    assert find_attention(own.by_mean)[0] == f"{HERE}:by_mean"
    assert recorded([lookup(f"{HERE}:Gate")])[0]["file"] == "mechanisms.py"


def test_a_partial_is_the_class_with_arguments():
    assert find_attention(own.wide) == (f"{HERE}:Map", {"k": 7})
    assert find_attention(functools.partial(own.Gate, 48, ratio=2)) == (
        f"{HERE}:Gate",
        {"in_planes": 48, "ratio": 2},
    )


def test_what_is_found_nowhere_by_its_name_stands_in_no_file():
    class Local(own.Map):
        pass

    for thing in (Local, lambda channels: own.Map(channels)):
        name, _ = find_attention(thing)
        assert recorded([lookup(name)]) == [{"name": name, "file": "", "sha256": None}]


@pytest.mark.parametrize(
    ("spec", "said", "hint"),
    [
        ("mine.py:MyAttenton", "mine.py has no 'MyAttenton'", "did you mean 'MyAttention'?"),
        ("mine.py", "mine.py is a file; which of its names is attention?", "mine.py:MyAttention"),
        ("mine.py:", "mine.py is a file; which of its names is attention?", "mine.py:MyAttention"),
        ("mime.py:MyAttention", "there is no file mime.py", "did you mean 'mine.py'?"),
        ("mine:", "'mine:' is not 'path/file.py:NAME'", ""),
        ("mined:X", "there is no module mined", "did you mean 'mine'"),
        ("mine.py:NUMBER", "mine.py:NUMBER is of type int", "name the class"),
        ("eccca", "no attention mechanism is called 'eccca'", "did you mean 'eca'"),
    ],
)
def test_what_is_not_there_is_one_message(mine, spec, said, hint):
    with pytest.raises(MechanismError) as caught:
        find_attention(spec)
    assert said in caught.value.what
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 4


def test_a_file_that_raises_is_quoted_with_its_line(mine):
    mine.write_text("import torch\nraise ValueError('not today')\n")
    with pytest.raises(MechanismError, match=r"ValueError: not today \(mine.py:2\)"):
        find_attention("mine.py:MyAttention")


def test_a_file_may_name_the_catalogue_and_nothing_that_is_code(mine):
    assert objection("eca", {"kernel_size": 5}) is None
    assert objection("no-such-name", {}) is None  # it is refused where it is looked up
    for name in ("mine.py:MyAttention", "mine:MyAttention", "os:system", "mine.py"):
        assert is_code(name)
        assert "code of its own" in (objection(name, {}) or "")
    assert str(mine) in (objection("mine.py:MyAttention", {}) or "")
    assert "mine" not in sys.modules


class Installed:
    """Entry points as installed packages have them."""

    def __init__(self, **points: str) -> None:
        self.points = [
            importlib.metadata.EntryPoint(name, value, plugins.GROUP)
            for name, value in points.items()
        ]

    def __call__(self, *, group: str) -> list[importlib.metadata.EntryPoint]:
        return [point for point in self.points if point.group == group]


def test_a_package_offers_mechanisms_by_entry_points(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", Installed(mygate=f"{HERE}:Gate"))
    assert find_attention("mygate") == ("mygate", {})
    card = lookup("mygate")
    assert (card.own, card.kind, recorded([card])) == (True, "gate", [])
    with pytest.raises(MechanismError, match="'mygat'") as caught:
        find_attention("mygat")
    assert "'mygate'" in (caught.value.hint or "")


def test_a_file_may_name_them_with_plain_arguments_only(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", Installed(mygate=f"{HERE}:Gate"))
    assert objection("mygate", {"ratio": 8}) is None
    assert "points to something outside" in (objection("mygate", {"checkpoint": "a.pt"}) or "")
    assert "its argument ratio" in (objection("mygate", {"ratio": "../a"}) or "")


def test_a_package_that_is_broken_is_named(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", Installed(mine="no_such_package:Gate"))
    with pytest.raises(MechanismError, match=r"the mechanism 'mine' of .* cannot be imported"):
        lookup("mine")


def test_what_is_installed_is_looked_up_once_for_all_the_sites_of_a_name(monkeypatch):
    asked = []
    offered = Installed(mygate=f"{HERE}:Gate")
    monkeypatch.setattr(plugins, "entry_points", lambda **how: asked.append(1) or offered(**how))
    args: list[dict[str, Any]] = [{"reduction": 8}] * 500

    assert objection("mygate", *args) is None
    assert len(asked) == 1
    said = objection("mygate", *args, {"path": print})
    assert said is not None
    assert "its argument path" in said
