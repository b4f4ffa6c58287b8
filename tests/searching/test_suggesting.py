"""`suggest`: the best set in a network, against every set; its rule file; what it refuses."""

import itertools

import pytest
import yaml

import attnsurgeon
from attnsurgeon.errors import CheckFailed, MechanismError, RuleError, SurgeonError, UsageError
from attnsurgeon.rules.parse import parse_rules, read_rules
from tests.cli.tiny import Net
from tests.searching.networks import SIZE

SITES = ("blocks.0.norm", "blocks.1.norm", "late.norm")
# Stage 1 has two maps of 32 x 20 x 12, stage 2 one of 48 x 10 x 6: each stage counts half.
SHARES = {"blocks.0.norm": 0.25, "blocks.1.norm": 0.25, "late.norm": 0.5}
NAMES = ("cbam", "se", "eca")


@pytest.fixture(scope="module")
def net():
    return Net()


def suggested(net, **limits):
    return attnsurgeon.suggest(net, NAMES, input_size=SIZE, **limits)


@pytest.fixture(scope="module")
def made(net):
    """A suggestion with two mechanisms."""
    return suggested(net, max_params="+500")


@pytest.fixture(scope="module")
def prices(net):
    """What each mechanism costs at each site, alone, as `estimate` says."""
    return {
        (name, path): attnsurgeon.estimate(net, name, [path], input_size=SIZE).delta
        for name in NAMES
        for path in SITES
    }


def best_of_all(prices, room):
    """The best of all 64 sets by a plain loop: (worth, of cbam, of se), then the cheapest, then
    that at the first sites.
    """
    found = []
    for names in itertools.product((None, *NAMES), repeat=len(SITES)):
        taken = {path: name for path, name in zip(SITES, names, strict=True) if name}
        total = {key: sum(getattr(prices[n, p], key) for p, n in taken.items()) for key in room}
        if all(total[key] <= room[key] for key in room):
            worth = [
                sum(SHARES[p] for p, n in taken.items() if n == only or only is None)
                for only in (None, "cbam", "se")
            ]
            price = sum(total[key] / room[key] for key in room)
            places = sum(SITES.index(path) for path in taken)
            found.append((worth, -price, -places, taken))
    return max(found, key=lambda one: one[:3])[3]


@pytest.mark.parametrize(
    "room",
    [
        {"params": 3},
        {"params": 9},
        {"params": 200},
        {"params": 500},
        {"params": 700},
        {"macs": 30_000},
        {"macs": 60_000},
        {"params": 600, "macs": 130_000},
        {"params": 10_000, "macs": 90_000, "activations": 300},
        {"activations": 200},
    ],
    ids=str,
)
def test_the_suggested_set_is_the_best_of_all_by_what_estimate_says_of_each(net, prices, room):
    made = suggested(net, **{f"max_{key}": f"+{value}" for key, value in room.items()})
    taken = {site.path: one.attn for one in made.chosen for site in one.sites}
    assert taken == best_of_all(prices, room)
    assert made.worth == pytest.approx(sum(SHARES[path] for path in taken), abs=1e-5)
    assert made.features == made.worth
    whole = attnsurgeon.estimate(net, rules=made.rules, input_size=SIZE).delta
    assert made.additive
    assert (made.cost.delta.params, made.cost.delta.macs) == (whole.params, whole.macs)
    for key, value in room.items():
        assert getattr(whole, key) <= value


def test_insert_with_the_file_takes_exactly_the_suggested_sites(net, made, tmp_path):
    file = made.save(tmp_path / "rules.yaml")
    plan = attnsurgeon.insert(net, rules=file, input_size=SIZE).plan
    assert {(cut.site.path, cut.attn) for cut in plan} == {
        (site.path, one.attn) for one in made.chosen for site in one.sites
    }
    assert len({cut.attn for cut in plan}) > 1
    assert plan.refused == ()
    with pytest.raises(UsageError):
        made.save(file)
    made.save(file, overwrite=True)


def test_the_file_says_how_it_was_chosen_and_nothing_else_changes_it(net, tmp_path):
    made = suggested(net, max_params="+500", max_macs="+10%")
    head = [line for line in made.text.splitlines() if line.startswith("#")]
    said = " ".join(line.removeprefix("# ") for line in head)
    assert "9 candidates (cbam, se, eca)" in said
    assert "max_params +500, max_macs +10%" in said
    assert f"{made.cost.delta.params:+,} parameters" in said
    assert "features" in said
    assert max(map(len, head)) <= 100
    read = parse_rules(made.text)
    assert read == made.rules == read_rules(made.save(tmp_path / "r.yaml"))
    counted = {rule["id"]: rule["expect"]["count"] for rule in yaml.safe_load(made.text)["rules"]}
    assert sum(counted.values()) == 3


def test_a_file_for_another_network_is_refused_there(made, tmp_path):
    file = made.save(tmp_path / "rules.yaml")
    smaller = Net()
    del smaller.blocks[1]
    with pytest.raises(CheckFailed):
        attnsurgeon.plan(smaller, rules=file, input_size=SIZE)


def test_stage_weights_decide_what_is_taken_first(net):
    by = {
        weight: suggested(net, max_params="+3", weights={2: weight}).chosen[0].sites[0].path
        for weight in (1, 0.2)
    }
    assert by == {1: "late.norm", 0.2: "blocks.0.norm"}
    none = suggested(net, max_params="+500", weights={1: 0})
    assert [site.path for one in none.chosen for site in one.sites] == ["late.norm"]


def test_the_front_rises_and_the_chosen_set_is_on_it_or_marked(made):
    front = [point for point in made.front if not point.chosen]
    assert sum(point.chosen for point in made.front) == 1
    assert [p.worth for p in front] == sorted({p.worth for p in front})
    assert [p.used for p in front] == sorted(p.used for p in front)
    assert front[-1].worth == 1
    # eca everywhere: 3 parameters a site.
    assert [(p.sites, p.cost.params) for p in front] == [(1, 3), (2, 6), (3, 9)]


def test_what_the_networks_weights_are_and_the_programs_dice_stay_as_they_were(net):
    import torch

    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    suggested(net, max_params="+500")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.state_dict().keys() == before.keys()


def test_a_limit_that_nothing_meets_is_answered_with_the_cheapest(net):
    with pytest.raises(CheckFailed) as refused:
        suggested(net, max_params="+2")
    assert "cheapest is eca at blocks.0.norm" in str(refused.value)
    assert "adds 3 params" in str(refused.value)
    with pytest.raises(CheckFailed):
        suggested(net, max_params="-1%", max_macs="+10%")
    assert suggested(net, max_params="+3").cost.delta.params == 3


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({}, UsageError, "nothing limits"),
        ({"max_params": "1%"}, UsageError, "does not say of what"),
        ({"max_macs": "lots"}, UsageError, "is no limit"),
        ({"max_activations": "+1x"}, UsageError, "unknown unit"),
        ({"max_params": "+1%", "attn": []}, UsageError, "no mechanism"),
        ({"max_params": "+1%", "attn": "sse"}, MechanismError, "'sse'"),
        ({"max_params": "+1%", "where": "botleneck"}, RuleError, "botleneck"),
        ({"max_params": "+1%", "where": ["late.nrm"]}, RuleError, "late.nrm"),
        ({"max_params": "+1%", "weights": {9: 1}}, UsageError, "stage 9"),
        ({"max_params": "+1%", "weights": {1: -1}}, UsageError, "no weight"),
        ({"max_params": "+1%", "weights": {1: 0, 2: 0}}, UsageError, "every stage counts 0"),
        ({"max_params": "+1%", "init": "zero"}, MechanismError, "zero"),
        ({"max_params": "+1%", "data": 3}, UsageError, "no iterable"),
        ({"max_params": "+1%", "data": []}, UsageError, "0 batches"),
        ({"max_params": "+1%", "data": [1, 2]}, UsageError, "without a loss"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_message(net, wrong, error, words):
    asked = {"attn": "eca", "input_size": SIZE, **wrong}
    with pytest.raises(SurgeonError) as refused:
        attnsurgeon.suggest(net, asked.pop("attn"), asked.pop("where", None), **asked)
    assert type(refused.value) is error
    assert words in refused.value.what


@pytest.mark.slow
def test_several_placements_and_arguments_are_alternatives(net):
    made = attnsurgeon.suggest(
        net, ["se", "eca"], ["residual-branch", "stem"], max_params="+20%", input_size=SIZE
    )
    assert {one.sites[0].path for one in made.found.candidates} == {*SITES, "stem"}
    assert len(made.chosen) == 4


def test_a_suggestion_prints_as_a_table(made):
    printed = repr(made)
    assert "Net: attention at 3 sites" in printed
    assert "max_params +500" in printed
    assert "chosen" in printed
