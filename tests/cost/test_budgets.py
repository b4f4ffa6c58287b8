"""Budgets: how they are written, and which costs they refuse."""

import dataclasses

import pytest

from attnsurgeon.cost.budgets import Budget, check_budgets, is_decided, parse_budget
from attnsurgeon.cost.comparing import Cost, SiteCost
from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings, Spread
from attnsurgeon.cost.weight import Weight
from attnsurgeon.errors import CheckFailed, UsageError


def weight(params, macs):
    return Weight(params, macs, 0, {}, {}, {}, {}, {}, {})


# 2,000,000 -> 2,050,000 parameters (+2.5 %), 4.0 -> 4.1 GMACs (+2.5 %)
COST = Cost(
    weight(2_000_000, 4_000_000_000),
    weight(2_050_000, 4_100_000_000),
    tuple(
        SiteCost(f"layer{n}", f"layer{n}.attn", params, macs, 0)
        for n, params, macs in [
            (1, 4_000, 60_000_000),
            (2, 6_000, 20_000_000),
            (3, 30_000, 15_000_000),
            (4, 10_000, 5_000_000),
        ]
    ),
)

# 10 -> 11 ms, of which nobody doubts; 40,000,000 -> 41,000,000 bytes (+2.5 %)
FORWARD = Latency(
    Spread(0.010, 0.009, 0.012, 0.0099, 0.0101),
    Spread(0.011, 0.010, 0.013, 0.0108, 0.0112),
    Spread(1.1, 1.05, 1.2, 1.1, 1.1),
    pairs=20,
)
MEASURED = Measurement(
    Settings(1, "cpu", "float32", 2, 60.0),
    FORWARD,
    memory=Memory(40_000_000, 41_000_000, "saved tensors"),
)


def with_interval(low, high, **changes):
    ratio = dataclasses.replace(FORWARD.ratio, low=low, high=high)
    forward = dataclasses.replace(FORWARD, ratio=ratio, **changes)
    return dataclasses.replace(MEASURED, forward=forward)


@pytest.mark.parametrize(
    ("text", "ceiling"),
    [
        ("+2%", 2_040_000),
        ("+0.5%", 2_010_000),
        ("-10%", 1_800_000),
        ("+0%", 2_000_000),
        ("+0.5M", 2_500_000),
        ("+20k", 2_020_000),
        ("+7", 2_000_007),
        ("-1m", 1_000_000),
        ("2.", 2),
        ("30M", 30_000_000),
        ("1.5 G", 1_500_000_000),
        (".5T", 500_000_000_000),
        ("0", 0),
        (" +2 % ", 2_040_000),
    ],
)
def test_a_limit_says_how_high_a_figure_may_go(text, ceiling):
    assert parse_budget(text).ceiling(2_000_000) == pytest.approx(ceiling, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "ceiling"), [("+5%", 0.021), ("+0.5ms", 0.0205), ("15 ms", 0.015), ("+100us", 0.0201)]
)
def test_a_limit_on_latency_takes_times(text, ceiling):
    assert parse_budget(text, name="max_latency").ceiling(0.020) == pytest.approx(ceiling)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2%", "'2%' does not say of what\n  hint: write \\+2%"),
        ("two", "'two' is no limit\n  hint: write \\+2%, \\+0.5M or 30M"),
        ("", "'' is no limit"),
        ("+", r"'\+' is no limit"),
        ("+2x", "unknown unit 'x'"),
        ("+2ms", "unknown unit 'ms'"),
        ("++2%", "is no limit"),
        ("1e3", "is no limit"),
        ("nan", "is no limit"),
        ("1,000", "is no limit"),
        ("+" + "9" * 5000, "is no limit"),
        ("\u0663%", "is no limit"),
        ("+2%%", "is no limit"),
    ],
)
def test_what_is_no_limit_is_refused_with_one_that_is(text, message):
    with pytest.raises(UsageError, match=message):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "ceiling"),
    [
        ("+5%", 42_000_000),
        ("+500kB", 40_500_000),
        ("+1.5mb", 41_500_000),
        ("-1MB", 39_000_000),
        ("+1KiB", 40_001_024),
        ("+2MiB", 42_097_152),
        ("1.5GB", 1_500_000_000),
        ("1 GiB", 1_073_741_824),
        ("1TiB", 1_099_511_627_776),
        ("+64B", 40_000_064),
    ],
)
def test_a_limit_on_memory_takes_sizes(text, ceiling):
    assert parse_budget(text, name="max_memory").ceiling(40_000_000) == ceiling


@pytest.mark.parametrize(
    ("name", "text", "example"),
    [
        ("max_latency", "+2M", "+5%, +0.5ms or 20ms"),
        ("max_latency", "+2MB", "+5%, +0.5ms or 20ms"),
        ("max_memory", "+2M", "+5%, +20MB or 1.5GB"),  # of what?
        ("max_memory", "+2", "+5%, +20MB or 1.5GB"),
        ("max_memory", "+2ms", "+5%, +20MB or 1.5GB"),
        ("max_params", "+2MB", "+2%, +0.5M or 30M"),
    ],
)
def test_each_limit_has_its_own_units(name, text, example):
    unit = text.lstrip("+2")
    with pytest.raises(UsageError, match=f"{name}: .* unknown unit '{unit}'") as caught:
        Budget.parse(**{name: text})
    assert caught.value.hint == f"write {example}"


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_params": "+2.5%"},
        {"max_params": "+50k", "max_macs": "+0.1G"},
        {"max_params": "2.05M", "max_macs": "4.1G"},
        {"max_latency": "+10%"},
        {"max_memory": "+2.5%"},
        {"max_memory": "41MB", "max_latency": "12ms"},
    ],
)
def test_a_cost_that_keeps_its_budget_passes(limits):
    check_budgets(COST, Budget.parse(**limits), measured=MEASURED)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_params": "+2%"},
            "max_params +2% is exceeded: 2,000,000 -> 2,050,000 params (+2.50 %), "
            "10,000 too many; heaviest: layer3 +30,000, layer4 +10,000, layer2 +6,000",
        ),
        (
            {"max_macs": "4G"},
            "max_macs 4G is exceeded: 4,000,000,000 -> 4,100,000,000 macs (+2.50 %), "
            "100,000,000 too many; heaviest: layer1 +60,000,000, layer2 +20,000,000, "
            "layer3 +15,000,000",
        ),
        (
            {"max_latency": "+5%"},
            "max_latency +5% is exceeded: 10.00 -> 11.00 ms (+10.00 %), 0.50 ms too long",
        ),
        (
            {"max_memory": "+2%"},
            "max_memory +2% is exceeded: 40,000,000 -> 41,000,000 bytes (+2.50 %), "
            "200,000 too many",
        ),
    ],
)
def test_a_cost_beyond_its_budget_is_refused_with_how_much_and_where(limits, message):
    with pytest.raises(CheckFailed) as caught:
        check_budgets(COST, Budget.parse(**limits), measured=MEASURED)
    assert caught.value.what == message
    assert caught.value.exit_code == 1
    assert caught.value.hint


def test_every_limit_that_is_exceeded_is_named():
    budget = Budget.parse(max_params="+2%", max_macs="+1%", max_latency="20ms", max_memory="0B")
    named = r"max_params \+2% is .*; max_macs \+1% is .*; max_memory 0B is"
    with pytest.raises(CheckFailed, match=named) as caught:
        check_budgets(COST, budget, measured=MEASURED)
    assert "max_latency" not in caught.value.what


def test_what_is_counted_is_limited_without_a_measurement():
    budget = Budget.parse(max_params="+2%", max_latency="+1%", max_memory="+1%")
    assert budget.counted == Budget.parse(max_params="+2%")
    with pytest.raises(CheckFailed, match="max_params"):
        check_budgets(COST, budget.counted)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("+20%", None),  # 1.1, surely below 1.15
        ("+9%", "is undecided: 20 pairs put the change between +8.00 and +15.00 %"),
        ("+12%", "is undecided"),
        ("+5%", "is exceeded"),
    ],
)
def test_a_limit_inside_of_the_interval_is_undecided(limit, said):
    measured = with_interval(1.08, 1.15)
    budget = Budget.parse(max_latency=limit)
    assert is_decided(budget, measured.forward) == (said is None or "undecided" not in said)
    if said is None:
        check_budgets(COST, budget, measured=measured)
        return
    with pytest.raises(CheckFailed) as caught:
        check_budgets(COST, budget, measured=measured)
    assert said in caught.value.what
    assert ("longer: seconds=" in str(caught.value.hint)) == ("undecided" in said)


@pytest.mark.parametrize(("pairs", "decided"), [(2, False), (5, False), (6, True)])
def test_a_limit_is_undecided_by_fewer_pairs_than_an_interval_takes(pairs, decided):
    measured = with_interval(1.08, 1.15, pairs=pairs)
    for limit in ("+1%", "+50%"):
        assert is_decided(Budget.parse(max_latency=limit), measured.forward) is decided


def test_a_limit_on_memory_is_undecided_without_a_training_step():
    without = dataclasses.replace(MEASURED, memory=None, why="ValueError: no targets")
    with pytest.raises(CheckFailed) as caught:
        check_budgets(COST, Budget.parse(max_memory="+5%"), measured=without)
    said = "max_memory +5% is undecided: no training step, ValueError: no targets"
    assert caught.value.what == said
    assert "trained on" in str(caught.value.hint)
    check_budgets(COST, Budget.parse(max_latency="+20%"), measured=without)


@pytest.mark.parametrize("limit", ["max_latency", "max_memory"])
def test_a_limit_on_what_is_measured_needs_a_measurement(limit):
    with pytest.raises(UsageError, match=f"{limit} needs a measurement"):
        check_budgets(COST, Budget.parse(**{limit: "+5%"}))
    only_memory = dataclasses.replace(MEASURED, forward=None)
    check_budgets(COST, Budget.parse(max_memory="+5%"), measured=only_memory)
    with pytest.raises(UsageError, match="max_latency needs a measurement"):
        check_budgets(COST, Budget.parse(max_latency="+5%"), measured=only_memory)
