"""`attnsurgeon compare` on the command line: what it prints, writes, refuses, and goes on from."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnsurgeon as surgeon
from tests.cli.command import TINY, attnsurgeon

ROOT = Path(__file__).parents[2]
NET = [f"{TINY}net", "--input-size", "3,40,24"]
BRANCH = ("--where", "residual-branch")
# Ends its process where it stands, as long as the file `armed` is there: the middle of the work.
DEADLY = """
import os, signal
from torch import nn

class Deadly(nn.Module):
    def __init__(self, channels):
        super().__init__()
        if os.path.exists("armed"):
            # A suite in the background hands down that interrupts are ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), getattr(signal, open("armed").read()))

    def forward(self, x):
        return x * 0.5
"""


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_csv_json_and_markdown_have_the_same_rows():
    argv = ["compare", *NET, "--attn", "se(reduction=8),eca,coord", "--sort", "-params"]
    rows = attnsurgeon(*argv, "--json").json()["rows"]
    read = list(csv.DictReader(io.StringIO(attnsurgeon(*argv, "--csv").out)))
    assert [row["attn"] for row in rows] == ["se(reduction=8)", "eca", "coord"]
    assert [one["attn"] for one in read] == [row["attn"] for row in rows]
    assert [one["params_change"] for one in read] == ["1214", "9", ""]
    marked = attnsurgeon(*argv, "--markdown").out
    assert "| se(reduction=8) | block-branch | 3 | native | +1,214 |" in marked
    assert "coord at depthwise-act: coord's own placement" in marked


def test_a_placement_is_narrowed_as_for_plan():
    narrow = ["--at", "blocks", "--channels", ">=32", "--every", "2", "--stage", "1"]
    planned = attnsurgeon("plan", *NET, "--attn", "se", *BRANCH, *narrow, "--json").json()
    rows = attnsurgeon("compare", *NET, "--attn", "se,sk", *BRANCH, *narrow, "--json").json()[
        "rows"
    ]
    assert rows[0]["sites"] == [site["path"] for site in planned["sites"]] == ["blocks.1.norm"]
    assert rows[0]["where"] == planned["where"]
    assert rows[0]["where"].startswith("residual-branch, at: blocks, ")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--json", "--csv"], 2, "--json and --csv each say"),
        (["--csv", "--markdown"], 2, "--csv and --markdown"),
        (["--overwrite"], 2, "--html FILE"),
        (["--pretrained"], 2, "--save-all DIR"),
        (["--save", "adapter"], 2, "--save-all DIR"),
        (["--verify", "none"], 2, "--save-all DIR"),
        (["--save-all", "x", "--new-head"], 2, "--new-head is about weights"),
        (["--save-all", "x", "--partial"], 2, "--partial is about a --checkpoint"),
        (["--save-all", "x", "--pretrained", "--checkpoint", "y"], 2, "give one"),
        (["--batch", "2"], 2, "--batch is about --latency"),
        (["--sort", "mac"], 2, "did you mean 'macs'"),
        (["--max-params", "2%"], 2, "does not say of what"),
        (["--html", "no/such/page.html"], 2, "choose a folder"),
        (["--trust-code"], 2, "leave it out"),
        (["--every", "0"], 2, "every 0"),
        (["--attn", "se(8)"], 2, "'8' has no name"),
        (["--attn", "se,"], 2, "empty name"),
        (["--max-params", "+5"], 1, "eca at block-branch (+9, +0.024 %)"),
    ],
)
def test_what_contradicts_itself_or_cannot_be_met_is_said(argv, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = attnsurgeon("compare", *NET, "--attn", "se,eca", *argv)
    assert done.code == code, done.err
    assert said in done.err
    assert done.out == ""
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_wildcards_that_stand_for_too_many_say_how_to_allow_them():
    done = attnsurgeon("compare", "torchvision:resnet*", "--attn", "se", "--max-networks", "2")
    assert done.code == 2
    assert "torchvision:resnet* stands for 5 networks, and 2 are the most" in done.err
    assert "--max-networks 5" in done.err


def test_a_checkpoint_is_of_one_network(tmp_path):
    more = ["--save-all", tmp_path / "x", "--checkpoint", tmp_path / "y.pth"]
    done = attnsurgeon("compare", *NET, f"{TINY}Twice", "--attn", "se", *more)
    assert done.code == 2
    assert "a checkpoint is of one network" in done.err


def test_nothing_is_left_in_the_cache_of_what_was_finished(tmp_path):
    assert attnsurgeon("compare", *NET, "--attn", "eca", *BRANCH).code == 0
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_where_no_journal_can_be_written_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert attnsurgeon("compare", *NET, "--attn", "eca", *BRANCH).code == 0


def test_a_page_is_written_beside_what_is_printed_and_never_over_another(tmp_path):
    argv = ["compare", *NET, "--attn", "eca", *BRANCH, "--csv", "--html", tmp_path / "page.html"]
    done = attnsurgeon(*argv)
    assert (done.code, done.out.splitlines()[1].split(",")[1]) == (0, "eca")
    assert "eca" in (tmp_path / "page.html").read_text("utf-8")
    refused = attnsurgeon(*argv)
    assert (refused.code, refused.out) == (2, "")
    assert "--overwrite" in refused.err
    assert attnsurgeon(*argv, "--overwrite").code == 0


def test_insert_prints_the_rules_that_say_the_same():
    argv = [*NET, "--attn", "se", *BRANCH, "--stage", "2"]
    printed = attnsurgeon("insert", *argv, "--print-rules")
    assert (printed.code, printed.err) == (0, "")
    assert printed.out == attnsurgeon("plan", *argv, "--print-rules").out
    assert "stage: 2" in printed.out
    for more in (["--json"], ["-o", "x"], ["--latency"]):
        refused = attnsurgeon("insert", *argv, "--print-rules", *more)
        assert (refused.code, refused.out) == (2, "")
        assert "--print-rules" in refused.err


def process(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(cwd)])
    env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, "-m", "attnsurgeon", *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_what_is_ended_in_the_middle_goes_on_and_ends_as_if_nothing_had_been(
    name, tmp_path, monkeypatch
):
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "armed").write_text(name)
    argv = ["compare", *NET, "--attn", "se,cbam,deadly.py:Deadly,eca", *BRANCH]
    ended = process(*argv, "--save-all", "out", cwd=tmp_path)
    assert ended.returncode == (130 if name == "SIGINT" else -signal.SIGKILL)
    if name == "SIGINT":
        assert "interrupted after 2 of 4 rows; they are kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    out = tmp_path / "out"
    kept = {p.name: (p / "surgery.json").stat().st_ino for p in out.iterdir() if p.is_dir()}
    assert len(kept) == 2
    assert not (out / "index.json").exists()
    (tmp_path / "armed").unlink()
    done = process(*argv, "--save-all", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on from 2 of 4 rows" in done.stderr
    monkeypatch.chdir(tmp_path)
    whole = attnsurgeon(*argv, "--save-all", "whole")
    assert "going on" not in whole.err
    assert done.stdout == whole.out
    index, other = (json.loads((tmp_path / d / "index.json").read_text()) for d in ("out", "whole"))
    for row in (*index["rows"], *other["rows"]):
        del row["seal"]
    assert index == other
    assert len(index["rows"]) == 4
    for made, inode in kept.items():  # not written again
        assert (out / made / "surgery.json").stat().st_ino == inode
    for row in index["rows"]:
        first, second = (
            surgeon.load(tmp_path / d / row["folder"], trust=True).state_dict()
            for d in ("out", "whole")
        )
        assert all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.slow
def test_without_a_folder_an_interrupted_comparison_goes_on_from_the_cache(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "armed").write_text("SIGKILL")
    argv = ["compare", *NET, "--attn", "se,deadly.py:Deadly,eca", *BRANCH, "--json"]
    assert process(*argv, cwd=tmp_path).returncode == -signal.SIGKILL
    (journal,) = (tmp_path / "cache" / "attnsurgeon" / "compare").iterdir()
    assert journal.read_bytes().count(b'"row"') == 1
    (tmp_path / "armed").unlink()
    with journal.open("ab") as stream:
        stream.write(b"12345678 {torn")
    done = process(*argv, "--sort", "params", cwd=tmp_path)
    assert "going on from 1 of 3 rows" in done.stderr
    assert "1 line of " in done.stderr
    assert sorted(row["attn"] for row in json.loads(done.stdout)["rows"]) == [
        "deadly.py:Deadly",
        "eca",
        "se",
    ]
    assert not journal.exists()
