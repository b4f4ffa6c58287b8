"""The benchmark of the mechanisms: its plain forms compute the same, and it notices what is worse.

The plain forms were written from the equations for the benchmark, so they are a second oracle too.
"""

import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.mechanisms import (
    Result,
    gates,
    keep_memory,
    main,
    pair,
    same,
    saved_bytes,
    step,
    table,
    time_both,
    weigh,
)
from benchmarks.plain import PLAIN


@pytest.mark.parametrize("name", gates())
def test_every_gate_computes_what_its_plain_form_computes(name):
    ours, plain = pair(name, (256, 14, 14))
    x = torch.randn(2, 256, 14, 14, requires_grad=True)
    cotangent = torch.randn_like(x)
    mine, theirs = step(ours, x, cotangent)[1:], step(plain, x, cotangent)[1:]
    same(name, mine, theirs)
    with pytest.raises(AssertionError, match=f"{name}: the output is"):
        same(name, (1.01 * mine[0], mine[1]), theirs)


def test_there_is_no_plain_form_of_something_else():
    assert set(PLAIN) <= set(gates())


def test_bytes_are_counted_once_and_without_input_and_parameters():
    square = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Sigmoid())
    x = torch.randn(7, 3, requires_grad=True)
    assert saved_bytes(square, x) == 7 * 5 * 4  # the sigmoid's output; input and weight are known
    square = torch.nn.Sequential(torch.nn.Sigmoid(), torch.nn.Linear(3, 5))
    assert saved_bytes(square, x) == 7 * 3 * 4  # kept by both, counted once


def result(seconds, saved):
    return Result("se", (256, 56, 56), seconds, saved, 1_000_000)


def test_slower_than_the_noise_and_more_than_a_little_is_missed():
    good = result({1: (1.0, 0.96), 2: (1.0, 3.0)}, (109_000, 100_000))
    assert list(good.misses()) == []
    slow = result({1: (1.0, 0.94), 2: (1.0, 3.0)}, (0, 0))
    assert list(slow.misses()) == ["se at 256x56x56, threads 1: 0.94 times as fast as plain"]
    large = result({1: (1.0, 3.0)}, (2_110_000, 2_000_000))
    assert list(large.misses()) == ["se at 256x56x56: keeps 2.1 MB, plain 2.0 MB"]


def test_the_table_shows_how_many_times_as_fast():
    line = table([result({1: (1.0, 2.0), 2: (1.0, 0.5)}, (2_000_000, 3_000_000))]).splitlines()[-1]
    assert line == "| se | 1.00 | 2.00 0.50 | 2.0 / 3.0 |"


def test_the_first_run_of_each_is_not_counted_and_one_slow_run_is_not_the_result():
    ours, plain = iter([90.0, 4.0, 80.0, 3.0]), iter([9.0, 6.0, 5.0, 70.0])
    assert time_both([ours.__next__, plain.__next__], 1.0) == (3.0, 5.0)


def test_the_noise_is_that_of_the_plain_form_against_itself():
    result = weigh("bam", (32, 14, 10), [1], 0.01, time.perf_counter, noise=True)
    assert result.saved[0] == result.saved[1]
    result = weigh("bam", (32, 14, 10), [1], 0.01, time.perf_counter)
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
