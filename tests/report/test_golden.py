# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""Whole reports against files: `pytest tests/report --renew-golden` writes them anew.

The records are written by hand. What a report must contain is asserted besides, so that a renewed
file cannot hide that something is gone.
"""

import re

import pytest

from attnsurgeon.report.cards import show_card, show_cards
from attnsurgeon.report.folder import show_checkup
from attnsurgeon.report.modules import show_tree
from attnsurgeon.report.network import show_list, show_network
from attnsurgeon.report.operation import show_operation, show_saved
from attnsurgeon.report.pricing import show_difference, show_weight
from attnsurgeon.report.rulebook import show_outcomes, show_placements, show_reasons
from tests.report.records import (
    ECA,
    MEASURED,
    NETWORK,
    OPERATION,
    VERIFIED,
    operation,
    troubled,
)

COST = OPERATION["cost"]


def test_the_report_of_an_operation(printed, golden):
    text = printed(show_operation, operation())
    for figure in ("25,557,032", "25,557,118", "+86", "+0.00034 %", "4,111,512,576", "+0.27 %"):
        assert figure in text
    assert text.count("✓") == 4
    golden("operation", text)


def test_the_report_of_an_operation_with_everything_wrong(printed, golden):
    text = printed(show_operation, troubled(), width=100)
    for part in ("num_classes=10", "stripped model_ema, module.", "refused: 3 of 6 matched sites",
                 "it rebuilds itself", "x1.040", "se reduction=4 init=paper", "insert-before",
                 "the parameters more than double; se: a larger reduction", "a norm",
                 "layer1.2.attn also serves layer1.2.conv3#2", "x1.010 to x1.070",
                 "forward: 40 pairs put the ratio at x1.025 to x1.051 with 95 % confidence",
                 "training step: undecided after 60 s: 20 pairs put the ratio at x0.990 to x1.110",
                 "measured at batch 1, cpu, float32, 2 threads", "102.5 MB", "+16.4 MB",
                 "step memory: what autograd saves for the backward pass"):  # fmt: skip
        assert part in text
    assert text.count("✗") == 7 + 1  # seven checks and one run of refused sites
    golden("troubled", text)


def test_the_same_report_in_ascii(printed, golden):
    text = printed(show_operation, troubled(), encoding="ascii")
    assert "!! original keys are gone: fc.weight" in text
    golden("troubled-ascii", text)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("random", "RANDOM, not trained"),
        ("pretrained", "weights    pretrained"),
        ("none", "shapes only"),
        ("as built", "as the code that built the network left them"),
        ("unknown", "not known"),
    ],
)
def test_which_weights_were_used_is_said(printed, weights, said):
    assert said in printed(show_operation, operation(weights=weights))


def test_the_placement_behind_paper_is_named(printed):
    text = printed(show_operation, operation(where="paper"))
    assert "paper (residual-branch): 16 sites" in text


def test_no_column_for_sizes_that_are_not_known(printed):
    sites = [{k: v for k, v in one.items() if k != "resolution"} for one in OPERATION["sites"]]
    assert "H×W" not in printed(show_operation, operation(sites=sites))


def test_sites_refused_for_one_reason_are_one_line(printed):
    refused = [
        {"path": path, "rule": "r", "reason": "tokens have no map"}
        for path in ("layer1.0.fc", "layer1.1.fc", "layer2.0.proj")
    ]
    text = printed(show_operation, operation(refused=refused))
    assert "✗ layer1.0.fc … layer1.1.fc ×2, layer2.0.proj: tokens have no map" in text


def test_digits_are_not_cut_off_on_a_narrow_terminal(printed):
    text = printed(show_operation, operation(), width=40)
    for figure in ("25,557,118", "4,122,684,416", "+11,171,840"):
        assert figure in text


def test_what_to_do_next_is_printed_line_by_line(printed):
    record = operation(output="out/r50-eca", load="model = attnsurgeon.load('out/r50-eca')")
    text = printed(show_saved, record, size=102_487_040)
    assert "saved to out/r50-eca (102.5 MB)" in text
    assert "    model = attnsurgeon.load('out/r50-eca')\n    attnsurgeon.freeze_back" in text


def test_the_sites_of_a_network(printed, golden):
    text = printed(show_network, NETWORK, width=100)
    assert "layer2.0.bn2 … layer2.2.bn2 ×3" in text
    assert "7x7" not in text  # single operations are not listed
    golden("network", text)


def test_every_site_of_a_network(printed, golden):
    text = printed(show_network, NETWORK, width=100, every=True)
    assert "Conv2d (7×7 /2×2)" in text
    assert "Conv2d (dw 3×3)" in text
    golden("network-all", text)


def test_the_tree_of_a_network_draws_equal_branches_once(printed, golden):
    text = printed(show_tree, NETWORK)
    assert "0 … 1 ×2" in text
    assert "conv2" not in text
    golden("tree", text)


def test_a_list_of_sites_has_a_row_for_each(printed):
    text = printed(show_list, NETWORK, width=120)
    assert [text.count(one["path"] + " ") for one in NETWORK["sites"]] == [1] * 17
    assert "…" not in text


def test_the_weight_of_a_network(printed, golden):
    parts = [{"path": "layer1", "params": 215_808, "macs": 691_000_000, "activations": 3_211_264}]
    text = printed(show_weight, {**OPERATION, "parts": parts})
    assert "215,808" in text
    golden("weight", text)


def test_the_measured_weight_of_a_network(printed, golden):
    text = printed(show_weight, {**OPERATION, "parts": [], "latency": MEASURED})
    for part in ("53.10 ms (50.00 ms to 60.00 ms)", "159.00 ms (140.00 ms to 170.00 ms)",
                 "86.1 MB", "batch 1, cpu, float32, 2 threads"):  # fmt: skip
        assert part in text
    for of_two in ("55.20", "102.5", "the ratio", "pairs", "undecided"):
        assert of_two not in text
    golden("weight-measured", text)


@pytest.mark.parametrize(
    ("changes", "there", "gone"),
    [
        (
            {"forward": None, "training_step": None},
            ["step memory", "measured at batch 1, cpu"],
            ["forward", "training step", "pairs"],
        ),
        (
            {"training_step": None, "training_memory": None, "no_training_step": "no targets"},
            ["forward", "no training step: no targets"],
            ["step memory", "autograd"],
        ),
        (
            {"training_memory": {**MEASURED["training_memory"], "counts": "allocated"}},
            ["the most that the device gave out"],
            ["autograd"],
        ),
        (
            {"forward": {**MEASURED["forward"], "pairs": 3, "interval_known": False}},
            ["3 pairs put the ratio at x1.025 to x1.051, too few for"],
            ["x1.051 with 95 % confidence"],
        ),
    ],
)
@pytest.mark.parametrize("show", [show_operation, show_weight])
def test_what_was_not_measured_is_not_shown(printed, show, changes, there, gone):
    record = operation(latency={**MEASURED, **changes}, parts=[])
    text = printed(show, record, width=200)
    if show is show_weight:
        there = [part for part in there if "pairs" not in part]
    assert [part for part in there if part not in text] == []
    assert [part for part in gone if part in text] == []


def test_the_difference_that_attention_makes(printed, golden):
    per_site = [
        {"site": one["path"], "module_path": one["module_path"], "params": one["params"],
         "macs": 1000 * one["channels"], "activations": one["channels"]}
        for one in OPERATION["sites"]
    ]  # fmt: skip
    cost = {**COST, "per_site": per_site}
    text = printed(show_difference, operation(cost=cost))
    assert "layer3.0.bn3 … layer3.5.bn3" in text
    assert "+1,024,000" in text
    golden("difference", text)


def test_a_card(printed, golden):
    text = printed(show_card, ECA)
    for fact in ("CVPR 2020", "arxiv.org/abs/1910.03151", "kernel_size=null", "is odd"):
        assert fact in text
    golden("card", text)


def test_the_list_of_cards(printed):
    text = printed(show_cards, [ECA, {**ECA, "name": "se"}], width=120)
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["eca", "se"]


def test_outcomes_of_rule_tests(printed, golden):
    outcomes = [
        {"rule": "bottleneck", "model": "resnet50", "status": "ok", "detail": "16 sites"},
        {"rule": "bottleneck", "model": "vgg11", "status": "noisy", "detail": "takes 2 sites"},
    ]
    files = [{"file": "mine.yaml", "outcomes": outcomes}, {"file": "none.yaml", "outcomes": []}]
    text = printed(show_outcomes, files)
    assert "2 outcomes in 2 files, 1 failed" in text
    golden("outcomes", text)


def test_placements_and_reasons(printed):
    text = printed(show_placements, [{"name": "stem", "message": "The value after the stem."}])
    assert "stem  The value after the stem." in text
    rules = [
        {"rule": "wide", "takes": True, "reason": None},
        {"rule": "deep", "takes": False, "reason": "stage is 1, not 3"},
    ]
    text = printed(show_reasons, {"path": "layer1.0.bn3", "rules": rules})
    assert "✓ wide takes it" in text
    assert "✗ deep leaves it: stage is 1, not 3" in text


@pytest.mark.parametrize(
    ("base_kept", "identity", "said"),
    [
        (True, True, ["✓ the base has the weights", "✓ outputs bit-equal to those of its base"]),
        (False, False, ["· the base has been trained", "· outputs differ from those of its base"]),
        (None, True, ["· what the weights of the base were"]),
    ],
)
def test_training_is_a_note_in_a_checkup_not_a_fault(printed, base_kept, identity, said):
    record = {
        **OPERATION,
        "folder": "r50-eca",
        "modules": 16,
        "base_kept": base_kept,
        "now": {**VERIFIED, "identity": identity, "relative_diff": 0.5},
        "afresh": [VERIFIED],
        "audit": {
            "calls": {},
            "dead": [],
            "shared": {"a.attn": [[2, 3, 5], [2, 3, 7]]},
            "altered": {},
        },
    }
    text = printed(show_checkup, record)
    for part in [*said, "a.attn sees several shapes: (2, 3, 5), (2, 3, 7)"]:
        assert part in text
    assert "✗" not in text
    record["audit"]["dead"] = ["layer1.0.attn"]
    assert "✗ inserted modules never run: layer1.0.attn" in printed(show_checkup, record)
    record["audit"]["altered"] = {"a.attn": "fc1.weight is gone"}
    said = "✗ a.attn is not what was put in: fc1.weight is gone"
    assert said in printed(show_checkup, record)


def test_macs_of_layers_alone_are_a_row_where_they_differ(printed):
    layers = {"before": 100, "after": 100 + COST["delta"]["macs"]}
    assert "conv, linear" not in printed(
        show_difference, operation(cost={**COST, "layer_macs": layers})
    )
    other = {"before": 100, "after": 112}
    text = printed(show_difference, operation(cost={**COST, "layer_macs": other}))
    assert re.search(r"MACs .*\n +conv, linear +100 +112 +\+12 +\+12\.00 %\n +activations", text)
    assert "; most papers count conv, linear alone" in " ".join(text.split())
