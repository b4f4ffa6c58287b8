"""Candidates: what they cost alone adds up to what they cost together, and what excludes what."""

import random

import pytest
import timm
from torch import nn

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.cost.weight import Count
from attnsurgeon.errors import SurgeonError
from attnsurgeon.operate import plan_rules, weigh_plan
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.searching.candidates import exclusions, find_candidates
from attnsurgeon.searching.choosing import cost_of
from attnsurgeon.searching.rulefile import rules_of
from attnsurgeon.sites.analysis import analyse
from tests.cli.tiny import Flat, Twice
from tests.searching.networks import SIZE, candidates_of, survey_of

# One or two of each kind: gates, linked in a stage and in the network, a convolution, a weight, an
# activation, a fusion, a head, and one that counts as it trains.
KINDS = ("se", "cbam", "simam", "dia", "dca", "sc", "we", "atac", "aff", "csra", "ba2m")


def count_of(delta):
    return Count(delta.params, delta.macs, delta.activations)


def paths(*candidates):
    return {site.path for one in candidates for site in one.sites}


def random_set(candidates, apart, size, dice):
    chosen = []
    for i in dice.sample(range(len(candidates)), len(candidates)):
        if len(chosen) < size and all(len(g.intersection([*chosen, i])) <= 1 for g in apart):
            chosen.append(i)
    return sorted(chosen)


def adds_up(survey, found, init, sizes, seed):
    """Weighs sets, chosen at random among all mechanisms, as a whole and site by site."""
    dice = random.Random(seed)
    apart = exclusions(found.candidates)
    for size in sizes:
        chosen = random_set(found.candidates, apart, size, dice)
        picked = [found.candidates[i] for i in chosen]
        plan = plan_rules(survey, rules_of(picked, init), init=init, where="suggested")
        assert plan.refused == ()
        assert {s.path for c in plan for s in (c.site, *c.shared)} == paths(*picked)
        assert count_of(weigh_plan(plan).delta) == cost_of(found.candidates, chosen)


@pytest.mark.parametrize("init", ["identity", "paper"])
def test_the_prices_of_sites_add_up_to_that_of_the_whole_whatever_goes_together(init):
    survey = survey_of()
    found = candidates_of(survey, *KINDS, init=init)
    assert {one.cuts[0].card.kind for one in found.candidates} == {
        "gate", "linked", "conv", "weight", "activation", "fusion", "head",
    }  # fmt: skip
    adds_up(survey, found, init, (2, 5, 99), seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["identity", "paper"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_the_prices_of_all_mechanisms_add_up_in_networks_that_people_use(name, init):
    survey = analyse(timm.create_model(name), (3, 64, 64))
    found = candidates_of(survey, *attnsurgeon.mechanisms(), init=init)
    adds_up(survey, found, init, (2, 9, 40, 999), seed=5)


def test_of_a_chain_each_link_alone_costs_another_price_so_that_it_is_one_candidate():
    survey = survey_of()
    (chain,) = candidates_of(survey, "dca").candidates
    assert len(chain.sites) == 3
    apart = [count_of(weigh_plan(_alone(survey, site.path)).delta) for site in chain.sites]
    assert sum(apart, Count()) != chain.cost
    together = weigh_plan(plan_rules(survey, rules_of([chain], "identity"), init="identity",
                                     where="suggested"))  # fmt: skip
    assert count_of(together.delta) == chain.cost


def _alone(survey, path):
    return plan_rules(survey, rules_for("dca", [path], None, None, "identity"), init="identity",
                      where="one")  # fmt: skip


def test_a_chain_of_each_stage_is_a_candidate_of_its_own():
    found = candidates_of(survey_of(), "dia")
    assert [len(one.sites) for one in found.candidates] == [2, 1]


def test_a_module_that_runs_twice_is_one_candidate_with_both_sites():
    survey = survey_of(Twice())
    (one,) = candidates_of(survey, "se").candidates
    assert [site.path for site in one.sites] == ["blocks.0.norm", "blocks.0.norm#2"]
    # 32 channels and a hidden layer of 2: two weights and two biases, once for both runs.
    assert one.cost.params == 32 * 2 + 2 + 2 * 32 + 32


def test_of_two_mechanisms_at_a_site_one_can_be_chosen_and_of_two_heads_one():
    survey = survey_of()
    found = candidates_of(survey, "se", "eca", "csra", "interflow")
    keys = [one.key for one in found.candidates]
    sets = [{keys[i] for i in group} for group in exclusions(found.candidates)]
    assert {"se at late.norm", "eca at late.norm"} in sets
    assert {"csra at fc", "interflow at fc"} in sets
    assert len(sets) == 4  # three norms and the classifier


def test_what_goes_with_a_replaced_convolution_excludes_it_under_paper_alone():
    """Selective kernels take the norm behind their convolution away as well."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, padding=1, bias=False)
            self.next = nn.Conv2d(32, 32, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(32)
            self.act = nn.ReLU()
            self.fc = nn.Linear(32, 7)

        def forward(self, x):
            y = self.act(self.norm(self.next(self.conv(x))))
            return self.fc(y.mean((2, 3)))

    survey = survey_of(Plain())

    def sets(init):
        asked = [("sk", "conv"), ("eca", "norm")]
        files = [(rules_for(n, where, None, None, init), False) for n, where in asked]
        found = find_candidates(survey, files, init=init)
        keys = [f"{one.attn} at {one.sites[0].path}" for one in found.candidates]
        assert "eca at norm" in keys
        assert "sk at next" in keys
        return [{keys[i] for i in group} for group in exclusions(found.candidates)]

    assert {"sk at next", "eca at norm"} in sets("paper")
    assert {"sk at next", "eca at norm"} not in sets("identity")


def test_a_mechanism_that_cannot_go_in_is_said_and_the_others_are_found():
    found = candidates_of(survey_of(), "coord", "eca")
    assert {one.attn for one in found.candidates} == {"eca"}
    assert [(name, path) for name, path, _ in found.refused] == [("coord", "")]


def test_where_nothing_can_go_in_the_first_reason_is_raised():
    with pytest.raises(SurgeonError):
        candidates_of(survey_of(Flat()), "se", "eca")


def test_the_same_mechanism_at_the_same_site_is_found_once():
    survey = survey_of()
    files = [(rules_for("eca", where, None, None, "identity"), False)
             for where in ("residual-branch", "block-branch")]  # fmt: skip
    assert len(find_candidates(survey, files).candidates) == 3
    with_args = [(rules_for("eca", None, None, {"kernel_size": k}, "identity"), True)
                 for k in (3, 5)]  # fmt: skip
    assert len(find_candidates(survey, with_args).candidates) == 6
    assert survey.traced.input_size == SIZE


def test_what_rules_do_otherwise_at_a_site_is_another_candidate_with_a_name_of_its_own():
    def rules(**more):
        rule = {"id": "r", "match": {"name": "late.norm"}, "attn": "eca", **more}
        return RuleFile.model_validate({"version": 1, "rules": [rule]}), False

    asked = [rules(), rules(action="insert-before"), rules(init="paper"), rules(init="identity")]
    found = find_candidates(survey_of(), asked)
    keys = [one.key for one in found.candidates]
    assert sorted(keys) == [  # the last of the four says what the first does
        "eca at late.norm", "eca at late.norm (insert-before)", "eca at late.norm (paper)"
    ]  # fmt: skip
    assert [len(group) for group in exclusions(found.candidates)] == [3]
