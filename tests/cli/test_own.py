"""Your own attention on the command line: --attn FILE.py:CLASS, --trust-code, attn check."""

from __future__ import annotations

import sys
import textwrap

import pytest

from attnsurgeon import contract
from attnsurgeon.attention.own import plugins
from tests.cli.command import TINY, attnsurgeon
from tests.models.test_own_attention import Installed

NET = [f"{TINY}net", "--input-size", "3,40,24"]
SLOW = ("torch.compile", "torch.export", "ONNX")
MINE = """
    import torch
    from torch import nn

    class MyAttention(nn.Module):
        '''Gates by means.'''
        def __init__(self, c1, ratio=4):
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(c1, c1 // ratio), nn.ReLU(), nn.Linear(c1 // ratio, c1))

        def forward(self, x):
            return torch.sigmoid(self.fc(x.mean((2, 3))))

    class Needs(MyAttention):
        def __init__(self, c1, heads):
            super().__init__(c1)

    class Pair(MyAttention):
        def forward(self, x):
            return x, x
"""  # noqa: E501


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


def test_from_the_command_line_into_a_folder_and_on(mine):
    done = attnsurgeon("insert", *NET, "--attn", "mine.py:MyAttention", "-o", "out")
    assert (done.code, done.err) == (0, "")
    assert "attention  mine.py:MyAttention: Gates by means\n" in done.out
    assert "3 new modules" in done.out
    assert "model = attnsurgeon.load('out', trust=True)" in done.out
    assert (
        "what the attention is, `mine.py:MyAttention`"
        in (mine.parent / "out/README.md").read_text()
    )

    refused = attnsurgeon("verify", "out")
    assert refused.code == 3
    assert "--trust-code" in refused.err
    reported = attnsurgeon("report", "out")
    assert "mine.py:MyAttention: code of its own, mine.py, sha256" in reported.out
    assert "paper (residual-branch): 3 sites" in reported.out


@pytest.mark.slow
def test_a_folder_is_verified_with_the_file_that_it_names_or_that_you_name(mine):
    attnsurgeon("insert", *NET, "--attn", "mine.py:MyAttention", "-o", "out", "--verify", "none")
    assert attnsurgeon("verify", "out", "--trust-code").code == 0
    mine.write_text(mine.read_text() + "# later\n")
    changed = attnsurgeon("verify", "out", "--trust-code")
    assert changed.code == 3
    assert "mine.py has changed since out was saved" in changed.err
    assert "--attn-code FILE.py:CLASS" in changed.err
    named = ["--attn-code", "mine.py:MyAttention", "--base", f"{TINY}net"]
    assert attnsurgeon("verify", "out", *named).code == 0


def test_arguments_are_given_by_value_or_by_what_they_are_at_the_site():
    argv = ["plan", *NET, "--attn", "mine.py:Needs", "--json"]
    refused = attnsurgeon(*argv)
    assert refused.code == 4
    assert "mine.py:Needs needs 'heads'" in refused.err
    assert "--arg heads=8; or --arg heads='$C'" in refused.err
    record = attnsurgeon(*argv, "--arg", "heads=$H").json()
    assert [site["args"] for site in record["sites"]] == [
        {"heads": 20},
        {"heads": 20},
        {"heads": 10},
    ]


def test_a_rule_file_with_code_needs_the_word(mine):
    rule = "{id: a, match: {site: residual-branch}, attn: 'mine.py:MyAttention'}"
    rules = f"version: 1\nrules:\n  - {rule}\n"
    (mine.parent / "mine.yaml").write_text(rules)
    for argv in (
        ["plan", *NET, "--rules", "mine.yaml"],
        ["compare", *NET, "--attn", "mine.py:Pair", "--where", "mine.yaml"],
        ["rules", "check", "mine.yaml"],
        ["rules", "test", "mine.yaml"],
    ):
        refused = attnsurgeon(*argv)
        assert refused.code == 4, argv
        assert "--trust-code" in refused.err
    assert attnsurgeon("plan", *NET, "--rules", "mine.yaml", "--trust-code").code == 0
    assert attnsurgeon("rules", "check", "mine.yaml", "--trust-code").code == 0


def test_it_stands_beside_the_catalogue_in_a_comparison():
    record = attnsurgeon("compare", *NET, "--attn", "se,mine.py:MyAttention", "--json").json()
    assert [row["attn"] for row in record["rows"]] == ["se", "mine.py:MyAttention"]
    assert [len(row["sites"]) for row in record["rows"]] == [3, 3]


def test_an_installed_package_is_listed_and_a_broken_one_named(monkeypatch):
    points = Installed(mygate="mine:MyAttention", gone="no_such_package:Gate")
    monkeypatch.setattr(plugins, "entry_points", points)
    listed = attnsurgeon("attn", "list")
    assert "mygate" in listed.out
    assert "gone" not in listed.out
    assert "note: the mechanism 'gone' of no_such_package:Gate cannot be imported" in listed.err
    assert attnsurgeon("plan", *NET, "--attn", "mygate").code == 0


def test_it_has_a_card():
    done = attnsurgeon("attn", "show", "mine.py:MyAttention")
    assert done.code == 0
    for said in ("Gates by means", "c1=$C\n", "ratio=4\n", "sha256", "residual-branch"):
        assert said in done.out


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("mine.py:Pair", 1, "returns a tuple of 2"),
        ("mine.py:Needs", 4, "needs 'heads'"),
        ("mine.py:MyAttenton", 4, "did you mean 'MyAttention'"),
        ("nobody.py:X", 4, "there is no file nobody.py"),
        ("sk", 2, "which is tried inside of a network only"),
    ],
)
def test_what_cannot_be_checked_is_one_message(name, code, said):
    done = attnsurgeon("attn", "check", name)
    assert (done.code, "Traceback" in done.err) == (code, False)
    assert said in done.err


def test_a_check_says_what_it_is_for(monkeypatch):
    quick = [test for test in contract._TESTS if test[0] not in SLOW]
    monkeypatch.setattr(contract, "_TESTS", tuple(quick))
    done = attnsurgeon("attn", "check", "mine.py:MyAttention")
    assert (done.code, done.err) == (0, "")
    assert "mine.py:MyAttention: 64 channels, 2,128 parameters" in done.out
    (line,) = [line for line in done.out.splitlines() if " rank 2 " in line]
    assert line.startswith("  ✓ yes  rank 2")
    argv = ["attn", "check", "mine.py:MyAttention", "--json", "--arg", "ratio=8"]
    record = attnsurgeon(*argv).json()
    assert (record["ok"], record["params"], record["rank"]) == (True, 2 * 64 * 8 + 8 + 64, 2)
    assert {one["name"]: one["ok"] for one in record["findings"]}["rank 3"] is False


@pytest.mark.slow
def test_a_check_exports_too():
    record = attnsurgeon("attn", "check", "mine.py:MyAttention", "--json").json()
    found = {one["name"]: one["ok"] for one in record["findings"]}
    assert found["torch.export"] is True
    assert found["ONNX"] is not False
