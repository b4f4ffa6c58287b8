"""`attnsurgeon suggest` as a shell runs it."""

import sys

import pytest
import torch

from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.rules.parse import parse_rules
from tests.cli.command import TINY, attnsurgeon
from tests.cli.tiny import Net
from tests.searching.test_images import folder_of

NET = (f"{TINY}net", "--input-size", "3,40,24")


def suggest(*argv):
    return attnsurgeon("suggest", *NET, *argv)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    net = Net()
    randomise_norms(net)
    file = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(net.state_dict(), file)
    return file


def test_what_is_suggested_is_printed_and_the_file_is_what_insert_takes(tmp_path):
    rules = tmp_path / "rules.yaml"
    done = suggest("--max-params", "+500", "-o", rules)
    assert (done.code, done.err) == (0, "")
    assert "--max-params +500" in done.out
    assert "chosen" in done.out
    assert "9 candidates (cbam, se, eca)" in done.out
    inserted = attnsurgeon("insert", *NET, "--rules", rules, "--json")
    assert inserted.code == 0
    taken = {(site["path"], site["attn"]) for site in inserted.json()["sites"]}
    assert len(taken) == len(inserted.json()["sites"]) == 3
    assert {attn for _, attn in taken} == {"cbam", "eca"}
    again = suggest("--max-params", "+500", "-o", rules)
    assert again.code == 2
    assert "--overwrite" in again.err


def test_the_record_says_all_that_the_tables_do():
    record = suggest(
        "--max-params", "+500", "--attn", "se,eca", "--weights", "2=3", "--json"
    ).json()
    assert record["limits"] == {"max_params": "+500"}
    assert record["cost"]["delta"]["params"] == sum(site["params"] for site in record["sites"])
    assert record["additive"]
    assert parse_rules(record["rules"]).rules[0].attn is not None
    assert record["proven"]
    assert sum(point["chosen"] for point in record["front"]) == 1
    assert record["mechanisms"] == ["se", "eca"]
    # Stage 2 counts three of four.
    by_path = {site["path"]: site["stage"] for site in record["sites"]}
    assert record["worth"] == pytest.approx(
        sum({1: 0.125, 2: 0.75}[stage] for stage in by_path.values()), abs=1e-5
    )
    assert record["latency"] is None
    assert record["trial"] is None


@pytest.mark.slow
def test_on_sixty_columns_no_line_is_longer_and_the_limit_is_still_there(monkeypatch):
    from attnsurgeon.report import suggesting
    from attnsurgeon.report.streams import out

    monkeypatch.setattr(suggesting, "show_suggestion", narrow(suggesting.show_suggestion, out))
    done = suggest("--max-params", "+500")
    assert max(map(len, done.out.splitlines())) <= 60
    assert "of the limit" in done.out
    assert "left out on 60 columns" in done.out


def narrow(show, out):
    return lambda _console, record: show(out(60), record)


def test_a_limit_that_nothing_meets_is_answered_with_the_cheapest(tmp_path):
    rules = tmp_path / "rules.yaml"
    done = suggest("--max-params", "+0%", "-o", rules)
    assert done.code == 1
    assert done.out == ""
    assert "nothing fits: the cheapest is eca at blocks.0.norm" in done.err
    assert not rules.exists()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ((), 2, "--max-params +1%"),
        (("--max-params", "5%"), 2, "write +5%"),
        (("--max-params", "+1%", "--steps", "3"), 2, "--steps is about --data"),
        (("--max-params", "+1%", "--journal", "x"), 2, "--journal is about --data"),
        (("--max-params", "+1%", "--pretrained"), 2, "--pretrained is about weights"),
        (("--max-params", "+1%", "--data", "x"), 2, "--checkpoint FILE"),
        (("--max-params", "+1%", "--weights", "4"), 2, "stage=weight"),
        (("--max-params", "+1%", "--weights", "a=1"), 2, "stage=weight"),
        (("--max-params", "+1%", "--weights", "1=1", "--weights", "1=2"), 2, "twice"),
        (("--max-params", "+1%", "--weights", "8=1"), 2, "stage 8"),
        (("--max-params", "+1%", "--plot", "front.gif"), 2, ".svg or a .png"),
        (("--max-params", "+1%", "--attn", "sse"), 4, "did you mean"),
        (("--max-params", "+1%", "--where", "botleneck"), 4, "did you mean"),
        (("--max-params", "+1%", "--repeats", "3"), 2, "--repeats is about --latency"),
        (("--max-latency", "+1%", "--device", "tpu"), 2, "'tpu'"),
        (("--max-params", "+1%", "--trust-code"), 2, "--trust-code"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_words_of_the_command_line(argv, code, words):
    done = suggest(*argv)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err


def test_latency_is_measured_and_what_is_undecided_is_an_error(monkeypatch, tmp_path):
    from attnsurgeon.searching.latencies import Clock, Timed

    def whole(self, plan, budget):
        return Timed(0.01, 0.0105, 1.05, low, high, 20, 1, "cpu", 1)

    monkeypatch.setattr(Clock, "whole", whole)
    monkeypatch.setattr(Clock, "alone", lambda self: Timed(0.01, 0.01, 1, 1, 1, 20, 1, "cpu", 1))
    monkeypatch.setattr(Clock, "each", lambda self, found, tell=None: (0.0001,) * len(found))
    rules = tmp_path / "rules.yaml"
    low, high = 1.01, 1.09
    done = suggest("--max-latency", "+5%", "-o", rules)
    assert done.code == 1
    assert "max_latency +5% is undecided: 1 set measured as a whole" in done.err
    assert "+1.00 to +9.00 %" in done.out
    assert "undecided" in rules.read_text()
    low, high = 1.03, 1.04
    done = suggest("--max-latency", "+5%", "-o", rules, "--overwrite")
    assert (done.code, done.err) == (0, "")
    assert "+3.00 % estimated, +5.00 % measured as a whole" in done.out


@pytest.mark.slow
def test_a_trial_on_a_folder_of_images_ranks_and_goes_on_from_its_journal(tmp_path, checkpoint):
    folder, journal = folder_of(tmp_path / "data", each=4), tmp_path / "trial.jsonl"
    argv = ["--max-params", "+500", "--attn", "eca", "--data", folder, "--checkpoint", checkpoint,
            "--steps", "3", "--seeds", "2", "--rate", "0.01", "--journal", journal]  # fmt: skip
    first = suggest(*argv, "--json")
    assert first.code in (0, 1)  # whether any of three sites gains is the data's to say
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + 3 * 2
    again = suggest(*argv, "--json")
    assert (again.code, again.out) == (first.code, first.out)
    assert journal.read_text().splitlines() == lines
    if first.code == 0:
        ranked = first.json()["trial"]["ranked"]
        assert [one["gain"] for one in ranked] == sorted((o["gain"] for o in ranked), reverse=True)
        shown = suggest(*argv).out
        assert "trained alone" in shown
        assert "between seeds" in shown
    other = suggest(*argv[:-6], "--steps", "4", "--journal", journal)
    assert other.code == 2


def test_a_folder_of_other_classes_is_refused_with_how_many_there_are(tmp_path, checkpoint):
    folder = folder_of(tmp_path / "data", classes=2)
    done = suggest("--max-params", "+500", "--data", folder, "--checkpoint", checkpoint)
    assert done.code == 3
    assert "has 2 classes, and the network tells 7 apart" in done.err


@pytest.mark.parametrize(
    ("module", "argv", "extra"),
    [("scipy", (), "attnsurgeon[suggest]"), ("matplotlib", ("--plot", "f.png"), "[pictures]")],
)
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, module, argv, extra):
    monkeypatch.setitem(sys.modules, module, None)
    done = suggest("--max-params", "+500", *argv)
    assert done.code == 2
    assert extra in done.err


@pytest.mark.slow
def test_a_picture_is_drawn_as_its_name_says(tmp_path):
    png, svg = tmp_path / "front.png", tmp_path / "front.svg"
    assert suggest("--max-params", "+500", "--max-macs", "+5%", "--plot", png).code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert suggest("--max-params", "+500", "--plot", svg).code == 0
    drawn = svg.read_text()
    assert all(word in drawn for word in ("parameters, % added", "suggested", "Pareto front"))
    assert suggest("--max-params", "+500", "--plot", svg, "--overwrite").code == 0
    assert svg.read_text() == drawn
