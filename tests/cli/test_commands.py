# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""The commands that only look: plan, inspect, cost, compare, attn, rules."""

import json
import re

import pytest
import yaml

from attnsurgeon.attention.registry import KINDS, mechanisms
from attnsurgeon.rules.placements import placements, shipped_text
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]
BRIEF = ("--repeats", "6", "--warm-up", "0", "--seconds", "0")


def test_a_plan_of_resnet50_costs_no_weights():
    record = attnsurgeon(
        "plan", "resnet50", "--attn", "eca", "--where", "bottleneck", "--json"
    ).json()
    channels = [site["channels"] for site in record["sites"]]
    assert channels == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert record["cost"]["before"]["params"] == 25_557_032
    assert record["cost"]["after"]["params"] == 25_557_118
    assert (record["weights"], record["output"]) == ("none", None)


def test_a_plan_says_in_the_terminal_what_would_be_done():
    done = attnsurgeon("plan", "resnet50", "--attn", "eca", "--where", "bottleneck")
    assert (done.code, done.err) == (0, "")
    assert "layer3.0.bn3 … layer3.5.bn3" in done.out
    assert "+0.00034 %" in done.out
    assert "✓" not in done.out


def test_a_network_that_looks_at_values_is_planned_with_random_ones():
    done = attnsurgeon(
        "plan", f"{TINY}Decides", "--attn", "se", "--input-size", "3,40,24", "--json"
    )
    assert done.code == 0
    assert "looks at values" in done.err
    assert done.json()["weights"] == "as built"


def test_a_plan_explains_why_a_site_is_taken_or_left():
    argv = ["plan", *NET, "--attn", "se", "--where", "residual-branch", "--explain"]
    taken = attnsurgeon(*argv, "late.norm", "--json").json()
    assert taken == {
        "path": "late.norm",
        "rules": [{"rule": "residual-branch", "takes": True, "reason": None}],
    }
    left = attnsurgeon(*argv, "stem", "--json").json()
    assert left["rules"][0]["takes"] is False
    assert "residual-branch" in left["rules"][0]["reason"]
    assert "✗ residual-branch leaves it" in attnsurgeon(*argv, "stem").out


def test_a_site_to_explain_that_does_not_exist_is_answered_with_the_nearest():
    done = attnsurgeon("plan", *NET, "--attn", "se", "--explain", "late.nrm")
    assert done.code == 4
    assert "did you mean 'late.norm'" in done.err


def test_inspect_lists_the_structural_roles():
    done = attnsurgeon("inspect", *NET)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["residual-branch", "3"] in [line[:2] for line in lines]
    assert "blocks.0.norm … blocks.1.norm" in done.out
    assert "blocks.0.conv1" not in done.out
    assert "blocks.0.conv1" in attnsurgeon("inspect", *NET, "--all").out


def test_inspect_stays_short_on_a_large_network():
    lines = attnsurgeon("inspect", "resnet152").out.splitlines()
    assert len(lines) < 50


def test_inspect_as_json_has_every_site():
    record = attnsurgeon("inspect", *NET, "--json").json()
    branches = [s for s in record["sites"] if "residual-branch" in s["roles"]]
    assert [(s["path"], s["channels"], s["resolution"]) for s in branches] == [
        ("blocks.0.norm", 32, [20, 12]),
        ("blocks.1.norm", 32, [20, 12]),
        ("late.norm", 48, [10, 6]),
    ]
    assert len(record["sites"]) > 10


def test_inspect_narrows_by_role_and_by_placement():
    convs = attnsurgeon("inspect", *NET, "--role", "conv", "--json").json()["sites"]
    assert len(convs) == 8
    assert all("conv" in site["roles"] for site in convs)
    placed = attnsurgeon("inspect", *NET, "--where", "residual-branch", "--json").json()["sites"]
    assert [site["path"] for site in placed] == ["blocks.0.norm", "blocks.1.norm", "late.norm"]
    text = attnsurgeon("inspect", *NET, "--role", "residual-branch").out
    assert "blocks.1.norm" in text


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of a tree by the name of their module, without the guides; the last of a name."""
    lines = [line.strip(" │├└") for line in text.splitlines()]
    return {cells[0]: cells[1:] for line in lines if len(cells := re.split(r"  +", line)) > 1}


def test_inspect_draws_a_tree_with_shapes_parameters_and_macs():
    text = attnsurgeon("inspect", *NET, "--tree").out
    rows = rows_of(text)
    assert list(rows)[:5] == ["module", f"{TINY}net", "stem", "blocks", "0"]
    # A block: 32 -> 11 -> 32 channels, 3x3, biases in the first and a norm: of one of the two.
    block = 32 * 11 * 9 + 11 + 11 * 32 * 9 + 2 * 32
    assert rows["0"] == ["Block", "32×20×12", f"{block / 1000:.2f} k", "1.54 M"]
    macs = (32 * 11 * 9 + 11 * 32 * 9 + 2 * 32) * 20 * 12  # fvcore: a norm is two an element
    assert f"{macs / 1e6:.2f} M" == "1.54 M"
    assert rows["fc"] == ["Linear", "7", "343", "336", "classifier"]
    assert "residual-branch" in rows["norm"][-1]
    assert "norm" not in rows["norm"][-1]  # which --all says
    assert "conv1" not in rows
    assert "1 single operation" in text or "single operations" in text
    every = attnsurgeon("inspect", *NET, "--tree", "--all").out
    assert rows_of(every)["conv1"] == ["Conv2d", "11×10×6", "4.76 k", "285 k", "conv"]


def test_inspect_of_a_tree_as_json_has_the_modules():
    record = attnsurgeon("inspect", *NET, "--tree", "--json").json()
    late = next(module for module in record["modules"] if module["path"] == "late")
    params = 48 * 11 * 9 + 11 + 11 * 48 * 9 + 2 * 48
    assert (late["type"], late["shape"], late["params"]) == ("Block", [48, 10, 6], params)
    assert "modules" not in attnsurgeon("inspect", *NET, "--json").json()


@pytest.mark.parametrize("ask", [["--where", "depthwise"], ["--role", "decoder"]])
def test_inspect_of_what_is_not_there_is_an_error_like_that_of_a_plan(ask):
    done = attnsurgeon("inspect", *NET, *ask)
    assert (done.code, done.out) == (4, "")
    if ask[0] == "--where":
        assert done.err == attnsurgeon("plan", *NET, "--attn", "se", *ask).err
    else:
        assert "no site has the role 'decoder'" in done.err
        assert "roles found: " in done.err
        assert "residual-branch" in done.err


def test_cost_weighs_a_network_alone():
    record = attnsurgeon("cost", *NET, "--json").json()
    conv = 3 * 32 * 9 + 32 + 2 * (2 * 32 * 11 * 9 + 11 + 64) + (32 * 48 * 9 + 48)
    late = 2 * 48 * 11 * 9 + 11 + 96
    assert record["cost"]["before"]["params"] == conv + late + 48 * 7 + 7
    parts = {part["path"]: part["params"] for part in record["parts"]}
    assert parts["late"] == late
    assert list(parts) == ["stem", "blocks", "down", "late", "fc"]
    assert "late" in attnsurgeon("cost", *NET).out


def test_cost_weighs_the_difference_of_attention():
    record = attnsurgeon("cost", *NET, "--attn", "se", "--json").json()
    assert [one["params"] for one in record["cost"]["per_site"]] == [162, 162, 339]
    assert "each site adds" in attnsurgeon("cost", *NET, "--attn", "se").out


def test_cost_measures_latency_of_one_network_or_of_two():
    alone = attnsurgeon("cost", *NET, "--latency", *BRIEF, "--json").json()["latency"]
    assert alone["forward"]["before"]["median_seconds"] > 0
    assert alone["training_memory"]["delta_bytes"] == 0
    both = attnsurgeon("cost", *NET, "--attn", "se", "--latency", *BRIEF, "--json").json()
    assert both["latency"]["training_step"]["ratio"]["median"] > 0
    assert both["latency"]["training_memory"]["delta_bytes"] > 0
    text = attnsurgeon("cost", *NET, "--latency", *BRIEF).out
    assert "training step" in text
    assert "ratio" not in text  # of one network to itself


def test_plan_measures_what_would_be_made_with_random_weights():
    done = attnsurgeon("plan", *NET, "--attn", "se", "--latency", *BRIEF, "--json")
    assert done.code == 0
    record = done.json()
    assert record["weights"] == "none"
    assert record["latency"]["forward"]["pairs"] == 6
    assert attnsurgeon("plan", *NET, "--attn", "se", "--json").json()["latency"] is None
    done = attnsurgeon("plan", *NET, "--attn", "se", "--max-latency", "0.001us", *BRIEF)
    assert (done.code, "max_latency 0.001us is exceeded" in done.err) == (1, True)


@pytest.mark.parametrize("name", ["plan", "insert", "cost"])
def test_a_device_that_is_not_there_is_said_before_the_network_is_built(name):
    done = attnsurgeon(name, "no/such/file.py:f", "--attn", "se", "--latency", "--device", "gpu9")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: there is no device 'gpu9' here\nhint: there is cpu\n"


@pytest.mark.parametrize("way", [["--print-rules"], ["--explain", "late.norm"]])
def test_what_measures_nothing_refuses_to(way):
    done = attnsurgeon("plan", *NET, "--attn", "se", *way, "--latency")
    assert done.code == 2
    assert "leave --latency out" in done.err


def test_compare_puts_mechanisms_side_by_side():
    done = attnsurgeon("compare", *NET, "--attn", "se,eca", "--init", "paper", "--json")
    assert done.code == 0
    rows = {row["attn"]: row for row in done.json()["rows"]}
    assert rows["se"]["delta"]["params"] == 663
    assert rows["eca"]["delta"]["params"] == 3 + 3 + 3  # k = 3 for 32 and for 48 channels
    assert len(rows["se"]["sites"]) == 3
    text = attnsurgeon("compare", *NET, "--attn", "se,eca").out
    assert "+663" in text


def test_compare_shows_the_reason_where_a_mechanism_cannot_go_in():
    done = attnsurgeon("compare", *NET, "--attn", "eca,coord", "--json")
    assert done.code == 0
    rows = {row["attn"]: row for row in done.json()["rows"]}
    assert rows["eca"]["error"] is None
    assert "own placement is the activation after the depthwise" in rows["coord"]["error"]
    assert rows["coord"]["hint"] == "try --where residual-branch (3 sites)"


def test_compare_fails_where_no_mechanism_can_go_in():
    done = attnsurgeon("compare", *NET, "--attn", "eca,se", "--where", "depthwise")
    assert (done.code, done.out) == (4, "")
    assert "matches nothing" in done.err


@pytest.mark.slow
def test_compare_takes_all_mechanisms():
    rows = attnsurgeon("compare", *NET, "--attn", "all", "--json").json()["rows"]
    assert [row["attn"] for row in rows] == list(mechanisms())


def test_every_mechanism_is_listed_and_has_a_card():
    record = attnsurgeon("attn", "list", "--json").json()
    assert [card["name"] for card in record] == list(mechanisms())
    text = attnsurgeon("attn", "list").out
    for name in mechanisms():
        assert any(line.split()[:1] == [name] for line in text.splitlines())
        shown = attnsurgeon("attn", "show", name)
        assert shown.code == 0
        assert mechanisms()[name].paper in shown.out


def listed(*argv: str) -> list[str]:
    return [one["name"] for one in attnsurgeon(*argv, "--json").json()]


def test_mechanisms_are_listed_by_name_kind_start_and_placement():
    assert listed("attn", "list", "e?a") == ["eca", "ela", "ema"]
    assert listed("attn", "list", "*ca", "se") == ["se", "eca", "fca", "dca", "soca", "mlca", "mca"]
    assert listed("attn", "list", "--kind", "linked") == ["dia", "dca"]
    natives = listed("attn", "list", "--kind", "gate", "--identity", "native")
    assert "eca" in natives
    assert "cbam" in natives
    assert "nam" not in natives
    assert "aff" not in natives
    assert listed("attn", "list", "--placement", "late-*") == [
        "atac",
        "aff",
        "iaff",
        "generalized",
    ]


def test_every_kind_and_every_start_can_be_asked_for():
    kinds = {card.kind for card in mechanisms().values()}
    assert kinds == set(KINDS)
    for option, every in [("--kind", KINDS), ("--identity", ("native", "blend"))]:
        found = [listed("attn", "list", option, one) for one in every]
        assert sorted(name for names in found for name in names) == sorted(mechanisms())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["attn", "list", "ecaa"], "did you mean 'eca'"),
        (["attn", "list", "se", "--kind", "head"], "no mechanism se has --kind head"),
        (["rules", "list", "bottlneck"], "did you mean 'bottleneck'"),
    ],
)
def test_a_list_of_nothing_is_an_error(argv, said):
    done = attnsurgeon(*argv)
    assert (done.code, done.out) == (4, "")
    assert said in done.err


def test_placements_are_listed_by_name():
    assert listed("rules", "list", "late-*", "st?m") == [
        "late-activation",
        "late-conv3x3-act",
        "late-residual-add",
        "stem",
    ]
    assert len(listed("rules", "list")) == len(placements())


def test_a_card_says_of_each_argument_what_it_is():
    text = attnsurgeon("attn", "show", "cbam").out
    assert "reduction=16: r, by which the hidden layer of the channel gate is narrower." in text
    for card in mechanisms().values():
        assert set(card.meanings) == set(card.args), card.name
        assert all(said.endswith(".") for said in card.meanings.values())


def test_a_card_as_json_has_its_arguments():
    card = attnsurgeon("attn", "show", "se", "--json").json()
    assert card["args"]["reduction"] == 16
    assert card["placement"] == "block-branch"


def test_every_placement_is_listed_and_can_be_shown():
    record = attnsurgeon("rules", "list", "--json").json()
    assert [one["name"] for one in record] == [one.name for one in placements()]
    text = attnsurgeon("rules", "list").out
    assert all(one.message in text for one in placements())
    assert attnsurgeon("rules", "show", "stem").out == shipped_text("stem")


def test_a_new_rule_file_passes_its_own_check_and_tests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert attnsurgeon("rules", "new", "wide-blocks").code == 0
    assert yaml.safe_load((tmp_path / "wide-blocks.yaml").read_text())["name"] == "wide-blocks"
    assert attnsurgeon("rules", "check", "wide-blocks.yaml").out == (
        "wide-blocks.yaml: fine (wide-blocks)\n"
    )
    done = attnsurgeon("rules", "test", "wide-blocks.yaml")
    assert (done.code, done.err) == (0, "")
    assert "2 outcomes in 1 file, 0 failed" in done.out


def test_a_rule_file_is_never_overwritten_by_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("precious")
    done = attnsurgeon("rules", "new", "mine")
    assert done.code == 2
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_a_rule_test_that_fails_exits_with_1(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        "version: 1\nname: bad\nrules:\n  - id: stems\n    match: {site: stem}\n"
        "tests:\n  - model: resnet18\n    expect: {stems: {count: 3}}\n"
    )
    done = attnsurgeon("rules", "test", file, "--json")
    assert done.code == 1
    assert [one["status"] for one in done.json()[0]["outcomes"]] == ["missing"]
    assert "1 rule test failed" in done.err


def test_every_mistake_of_every_file_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "version: 1\nrules:\n"
    rules = [
        "  - {id: one, match: {chanels: 3, stage: x}, attn: ecaa}\n",
        "  - {id: two, match: {site: stem}, attn: {type: se, reductoin: 3}}\n",
        "  - {id: two, match: {site: stem}, attn: se}\n",
    ]
    (tmp_path / "bad.yaml").write_text(head + "".join(rules))
    (tmp_path / "good.yaml").write_text(head + rules[2])
    (tmp_path / "tabs.yaml").write_text(head + "\t- id: one\n")
    done = attnsurgeon("rules", "check", "bad.yaml", "good.yaml", "tabs.yaml", "gone.yaml")
    assert (done.code, done.out) == (4, "good.yaml: fine (two)\n")
    said = done.err.splitlines()
    assert [line.split(" ")[0] for line in said[1:]] == [
        "bad.yaml:3:42:", "bad.yaml:3:52:", "bad.yaml:4:42:", "tabs.yaml:3:1:", "there",
    ]  # fmt: skip
    assert said[0].startswith("error: bad.yaml:3:23: 'chanels' is not a matcher key")
    assert "'ecaa'" in said[2]
    assert "did you mean 'eca'" in said[2]
    assert "'reductoin'" in said[3]
    one = attnsurgeon("plan", *NET, "--rules", "bad.yaml")
    assert "(and 3 more)" in one.err
    assert "hint: `attnsurgeon rules check bad.yaml` lists them" in one.err


def test_the_reference_has_every_key_of_a_matcher():
    text = attnsurgeon("rules", "reference").out
    for key in ("site", "stage", "channels", "nth", "inside", "conv_stride"):
        assert re.search(rf"^\| `{key}` \|", text, re.MULTILINE)


def test_the_schema_is_a_json_schema():
    schema = json.loads(attnsurgeon("rules", "schema").out)
    assert schema["title"] == "attnsurgeon rule file"
    assert set(schema["properties"]) == {"version", "name", "define", "rules", "tests"}


@pytest.mark.nightly  # what they are is asked one by one in tests/rules/test_shipped_rules.py
def test_all_shipped_rules_pass_their_tests_through_the_command():
    done = attnsurgeon("rules", "test")
    assert (done.code, done.err) == (0, "")
