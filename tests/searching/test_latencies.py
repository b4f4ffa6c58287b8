"""Latency: an estimate of each module alone, the whole measured, and what follows from both."""

import pytest
import torch

import attnsurgeon
from attnsurgeon.errors import CheckFailed, UsageError
from attnsurgeon.searching.latencies import Clock, Timed
from attnsurgeon.searching.suggesting import ROUNDS, search, wish_of
from tests.cli.tiny import Net, Twice
from tests.searching.networks import SIZE, candidates_of, survey_of

BEFORE = 0.010  # seconds of a forward


class Scripted:
    """A clock that says of each mechanism what it takes at a site, and of wholes what it is told.

    Args:
        wholes: of each set that is measured, the interval of its ratio.
        each: mechanism -> seconds at each site.
    """

    def __init__(self, *wholes, **each):
        self.wholes = list(wholes)
        self.each_site = each
        self.measured = []

    def alone(self):
        return self._timed(1.0, 1.0)

    def each(self, candidates, tell=None):
        return tuple(self.each_site[one.rule.attn.type] for one in candidates)

    def whole(self, plan, budget):
        self.measured.append([cut.attn for cut in plan])
        return self._timed(*self.wholes[len(self.measured) - 1])

    @staticmethod
    def _timed(low, high):
        ratio = (low + high) / 2
        return Timed(BEFORE, BEFORE * ratio, ratio, low, high, 20, 1, "cpu", 1)


@pytest.fixture(scope="module")
def survey():
    return survey_of()


def searched(survey, clock, limit="+10%"):
    wish = wish_of(("se", "eca"), limits={"max_latency": limit})
    return search(survey, wish, clock=clock)


def test_the_estimates_are_added_up_and_the_whole_is_measured_once_where_it_keeps(survey):
    # 1 ms for 10 %: three at 0.3 ms fit, se is named first.
    clock = Scripted((1.05, 1.07), se=0.0003, eca=0.0001)
    made = searched(survey, clock)
    assert [one.attn for one in made.chosen] == ["se"] * 3
    assert made.estimated == pytest.approx(0.0009)
    assert (made.verdict, made.rounds) == ("kept", 1)
    assert made.latency.ratio == pytest.approx(1.06)


def test_where_the_whole_takes_more_there_is_less_room_and_it_is_solved_again(survey):
    # 0.9 ms estimated, 1.75 measured: room for 0.51 estimated, which is one se and two eca.
    clock = Scripted((1.17, 1.18), (1.08, 1.09), se=0.0003, eca=0.0001)
    made = searched(survey, clock)
    assert clock.measured == [["se"] * 3, ["se", "eca", "eca"]]
    assert (made.verdict, made.rounds) == ("kept", 2)
    assert sorted(one.attn for one in made.chosen) == ["eca", "eca", "se"]
    assert "measured as a whole +8.50 %" in " ".join(made.text.replace("\n# ", " ").split())


def test_after_so_many_sets_that_break_it_the_limit_is_left_undecided(survey):
    clock = Scripted(*[(1.2, 1.3)] * 9, se=0.0003, eca=0.00001)
    made = searched(survey, clock)
    assert made.verdict == "undecided"
    assert made.rounds == len(clock.measured) == ROUNDS
    assert len({tuple(one) for one in clock.measured}) == ROUNDS


def test_an_interval_around_the_limit_is_undecided_and_nothing_is_tried_again(survey):
    clock = Scripted((1.05, 1.15), se=0.0003, eca=0.0001)
    made = searched(survey, clock)
    assert (made.verdict, len(clock.measured)) == ("undecided", 1)


def test_where_nothing_is_left_after_the_first_whole_it_is_undecided(survey):
    clock = Scripted((1.5, 1.6), (1.5, 1.6), se=0.00095, eca=0.0009)
    made = searched(survey, clock)
    assert made.verdict == "undecided"
    assert len(clock.measured) == 1


def test_what_no_estimate_allows_is_refused_with_the_cheapest(survey):
    with pytest.raises(CheckFailed) as refused:
        searched(survey, Scripted(se=0.002, eca=0.0011))
    assert "eca at blocks.0.norm" in str(refused.value)
    assert "leaves 1.000 ms and it adds 1.100 ms" in str(refused.value)


def test_a_limit_on_latency_needs_weights(survey):
    with pytest.raises(UsageError):
        search(survey, wish_of("eca", limits={"max_latency": "+5%"}))
    with pytest.raises(UsageError, match="meta"):
        attnsurgeon.suggest(Net().to("meta"), "eca", max_latency="+5%", input_size=SIZE)


def test_modules_that_are_alike_are_measured_once_and_what_runs_twice_counts_twice(monkeypatch):
    net = Twice()
    survey = survey_of(net)
    clock = Clock(net, survey)
    found = candidates_of(survey, "se", "eca")
    alone = []

    def pairs(_before, after, **_more):
        alone.append(type(after).__name__)
        return Timed(0.001, 0.003, 3.0, 3.0, 3.0, 20, 1, "cpu", 1)

    monkeypatch.setattr(clock, "_pairs", pairs)
    assert clock.each(found.candidates) == pytest.approx((0.004, 0.004))  # 2 ms, in two runs
    assert len(alone) == 2
    whole = survey_of()
    of_three = candidates_of(whole, "eca").candidates
    other = Clock(Net(), whole)
    alone.clear()
    monkeypatch.setattr(other, "_pairs", pairs)
    assert other.each(of_three) == pytest.approx((0.002,) * 3)
    assert len(alone) == 2  # 32 channels, and 48


@pytest.mark.parametrize("name", ["sc", "we", "atac", "aff", "csra", "dia", "dca"])
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_every_kind_of_attention_is_measured_alone_on_what_it_is_given(name, init, monkeypatch):
    net = Net()
    survey = survey_of(net)
    clock = Clock(net, survey)
    found = candidates_of(survey, name, init=init)
    seen = []

    def run(before, after, *, inputs=None, **_more):
        with torch.no_grad():
            for one in (before, after):
                (inputs or clock._inputs).feed(one)
        seen.append(after)
        return Timed(0.001, 0.002, 2.0, 2.0, 2.0, 20, 1, "cpu", 1)

    monkeypatch.setattr(clock, "_pairs", run)
    seconds = clock.each(found.candidates)
    assert len(seconds) == len(found.candidates)
    assert seconds == pytest.approx([0.001 * len(one.sites) for one in found.candidates])
    assert seen


@pytest.mark.slow
def test_a_real_clock_tells_a_network_from_one_with_more_in_it():
    net = Net()
    survey = survey_of(net)
    clock = Clock(net, survey, repeats=8, warm_up=1)
    found = candidates_of(survey, "se")
    state = torch.get_rng_state()
    each = clock.each(found.candidates)
    assert all(0 < one < 0.1 for one in each)
    made = search(survey, wish_of("se", limits={"max_latency": "+400%"}), clock=clock)
    assert made.verdict == "kept"
    assert made.latency.after > 0
    assert torch.equal(state, torch.get_rng_state())
    assert not [path for path, _ in net.named_modules() if "attn" in path]
