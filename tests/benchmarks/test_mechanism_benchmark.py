"""The benchmark of the mechanisms: its plain forms compute the same, and it notices what is worse.

The plain forms were written from the authors' code for the benchmark, so they are a second oracle.
"""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attnsurgeon.attention.registry import mechanisms
from benchmarks import mechanisms as benchmark
from benchmarks.mechanisms import (
    Result,
    keep_memory,
    main,
    same,
    saved_bytes,
    step,
    summary,
    table,
    time_both,
    weigh,
)
from benchmarks.plain import PLAIN
from benchmarks.subjects import STAGES, shape_at, subject

SMALL = {"conv": 64, "weight": 32, "activation": 32, "fusion": 64, "linked": 64}
SIDE = {"ran": 14, "sc": 8}  # to be pooled: one of these is deeper, the other has windows of four


@pytest.mark.parametrize("name", PLAIN)
def test_every_mechanism_computes_what_its_plain_form_computes(name):
    side = SIDE.get(name, 7)
    shape = (SMALL.get(mechanisms()[name].kind, 128), side, side)
    made = subject(
        name, (2048, 1, 1) if name == "interflow" else shape, batch=2, dtype=torch.float64
    )
    mine, theirs = (step(module, made.inputs)[1] for module in (made.ours, made.plain))
    assert len(mine) == 1 + len(made.inputs)
    same(name, mine, theirs, 1e-9)
    with pytest.raises(AssertionError, match=f"{name}: the output is"):
        same(name, [1.01 * mine[0], *mine[1:]], theirs, 1e-9)
    with pytest.raises(AssertionError, match=f"{name}: the gradient of input 0 is"):
        same(name, [mine[0], 1.01 * mine[1], *mine[2:]], theirs, 1e-9)


def test_every_mechanism_has_a_plain_form_and_nothing_else_has():
    assert set(PLAIN) == set(mechanisms())


def test_a_mechanism_is_weighed_where_it_stands_in_a_resnet50():
    assert [shape_at("se", stage) for stage in STAGES][1:3] == [(512, 28, 28), (1024, 14, 14)]
    assert shape_at("cot", 2) == shape_at("odconv", 2) == shape_at("frelu", 2) == (128, 28, 28)
    assert shape_at("aff", 4) == shape_at("dia", 4) == shape_at("csra", 4) == (2048, 7, 7)
    assert [shape_at("csra", stage) for stage in STAGES[:3]] == [None] * 3
    with pytest.raises(ValueError, match="csra is not put into stage 1"):
        weigh("csra", 1, 1.0, time.perf_counter)


def test_what_is_handed_several_values_gets_them():
    shape = (64, 7, 7)
    assert [len(subject(n, shape, batch=2).inputs) for n in ("se", "aff", "ran", "we")] == [
        1,
        2,
        2,
        1,
    ]
    logits, *maps = subject("interflow", (2048, 2, 1), batch=3).inputs
    assert logits.shape == (3, 1000)
    assert [x.shape[1:] for x in maps] == [(256, 16, 8), (512, 8, 4), (1024, 4, 2)]


def test_bytes_are_counted_once_and_without_input_and_parameters():
    square = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid())
    x = torch.randn(7, 3, requires_grad=True)
    assert saved_bytes(square, [x]) == 7 * 5 * 4  # the sigmoid's output; input and weight are known
    square = nn.Sequential(nn.Sigmoid(), nn.Linear(3, 5))
    assert saved_bytes(square, [x]) == 7 * 3 * 4  # kept by both, counted once


def result(ratios, saved=(0, 0), name="se", stage=1):
    return Result(name, stage, tuple(ratios), saved, 1_000_000)


def test_the_median_of_the_pairs_counts_and_the_ranks_say_how_sure_it_is():
    odd = result([1.0, 9.0, 3.0, 2.0, 4.0])
    assert (odd.ratio, odd.interval) == (3.0, (1.0, 9.0))  # of five nothing is left out
    many = result(range(1, 26))
    assert (many.ratio, many.interval) == (13, (8, 18))  # 7 of 25 on each side, as tables have it


def test_slower_beyond_doubt_and_more_than_a_little_is_missed():
    assert list(result([0.9, 0.91, 0.92, 0.93, 0.96], (109_000, 100_000)).misses()) == []
    slow = result([0.9, 0.91, 0.92, 0.93, 0.94])
    assert list(slow.misses()) == ["se at stage 1: 0.92 times as fast as plain (0.90 to 0.94)"]
    large = result([3.0], (2_110_000, 2_000_000))
    assert list(large.misses()) == ["se at stage 1: keeps 2.1 MB, plain 2.0 MB"]


def test_the_table_shows_how_many_times_as_fast_at_each_stage():
    results = [
        result([2.0], (2_000_000, 3_000_000)),
        result([0.5], (1_000_000, 1_500_000), stage=3),
    ]
    line = table(results).splitlines()[-1]
    assert line == "| `se` | 1.00 | 2.00 |  | 0.50 |  | 2.0 / 3.0, 1.0 / 1.5 |"


def test_the_summary_says_the_mean_and_the_worst_and_what_is_missed():
    good = [result([2.0]), result([4.0], stage=2), result([1.0], name="eca")]
    said = summary(good)
    assert "2 mechanisms at 3 shapes: 2.00 times" in said
    assert "1.00 without `se`" in said
    assert "The slowest is `eca` at stage 1: 1.00" in said
    assert "none keeps more" in said
    said = summary([*good, result([0.5], name="eca", stage=4)])
    assert "- eca at stage 4: 0.50 times as fast as plain" in said
    assert "none keeps more" not in said


def test_the_first_run_of_each_is_not_counted_and_each_is_ahead_in_turn():
    seen = []

    def runs(name, seconds):
        return lambda: (seen.append(name), seconds.pop(0))[1]

    # One hundred seconds for the first runs leave no time for more than the least number of pairs.
    ours, plain = runs("ours", [90.0, 4, 4, 4, 4, 4]), runs("plain", [10.0, 8, 12, 8, 12, 8])
    assert time_both([ours, plain], 100.0) == (2.0, 3.0, 2.0, 3.0, 2.0)
    assert seen[2:6] == ["ours", "plain", "plain", "ours"]


def test_the_noise_is_that_of_the_plain_form_against_itself():
    result = weigh("bam", 1, 0.01, time.perf_counter, shape=(32, 14, 10), noise=True)
    assert result.saved[0] == result.saved[1]
    result = weigh("bam", 1, 0.01, time.perf_counter, shape=(32, 14, 10))
    assert result.saved[0] < result.saved[1]


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    said = []
    libc = SimpleNamespace(mallopt=lambda *pair: said.append(pair))
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    keep_memory()
    assert said == [(-1, -1), (-4, 0)]  # malloc.h: no trimming, no mapping
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    with pytest.raises(SystemExit, match="glibc"):
        keep_memory()


def test_a_mechanism_without_a_plain_form_fails_the_run(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mechanisms", "se", "nothing"])
    assert main() == 1
    assert "no plain form of nothing" in capsys.readouterr().err


def test_a_run_goes_on_where_it_was_stopped_and_writes_its_page(monkeypatch, tmp_path, capsys):
    out, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    out.write_text(json.dumps({"case": "se 2", "ratios": [2.0], "saved": [0, 0], "input_bytes": 1}))
    with out.open("a") as file:
        file.write("\n")
    page.write_text("<!-- speed mechanisms summary -->\nold\n<!-- speed end -->\nrest\n")
    weighed = []

    def weigh(name, stage, *rest, **more):
        weighed.append((name, stage))
        return result([3.0], stage=stage)

    monkeypatch.setattr(benchmark, "weigh", weigh)
    arguments = ["se", "--stages", "1,2", "--out", str(out), "--write", str(page)]
    monkeypatch.setattr("sys.argv", ["mechanisms", *arguments])
    assert main() == 0  # the geometric mean of 3 and 2 is above the target
    assert weighed == [("se", 1)]
    assert main() == 0
    assert weighed == [("se", 1)]
    written = page.read_text()
    assert "1 mechanism at 2 shapes: 2.45 times" in written
    assert "old" not in written
    assert written.endswith("rest\n")
    monkeypatch.setattr(benchmark, "TARGET", 2.5)
    assert main() == 0  # of a mechanism by itself nobody asked for a mean
    monkeypatch.setattr(benchmark, "mechanisms", lambda: {"se": None})
    monkeypatch.setattr("sys.argv", ["mechanisms", *arguments[1:]])
    assert main() == 1
    assert "| `se` | 2.45 | 3.00 | 2.00 |" in capsys.readouterr().out
