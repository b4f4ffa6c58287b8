"""What a call and a rule file say together: completed where open, refused where they differ."""

import pytest

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.errors import UsageError
from attnsurgeon.rules.parse import parse_rules


def rules(*attns: str, more: str = ""):
    """Rules a, b, ... with these mechanisms; "" leaves it to the call."""
    lines = [
        f"  - {{id: {name}, match: {{site: act}}{f', attn: {attn}' if attn else ''}{more}}}"
        for name, attn in zip("abc", attns, strict=False)
    ]
    return parse_rules("version: 1\nname: mine\nrules:\n" + "\n".join(lines) + "\n")


def chosen(*call, **more) -> list[str]:
    return [rule.attn.spelled for rule in rules_for(*call, **more).rules if rule.attn]


@pytest.mark.parametrize("by", ["where", "rules"])
def test_a_mechanism_that_no_rule_would_hear_is_refused_and_both_are_named(by):
    file = rules("{type: cbam, reduction: 8}")
    where, as_rules = (file, None) if by == "where" else (None, file)
    with pytest.raises(UsageError, match=r"asks for se, and rule 'a' names .* cbam reduction=8"):
        rules_for("se", where, as_rules, None, "identity")


def test_one_of_several_rules_that_differs_is_named():
    with pytest.raises(UsageError, match=r"asks for se, and rule 'b' names .* eca"):
        rules_for("se", rules("se", "eca"), None, None, "identity")


def test_arguments_that_no_rule_would_hear_are_refused():
    file = rules("{type: se, reduction: 8}")
    with pytest.raises(UsageError, match=r"se reduction=4, and rule 'a' .* se reduction=8"):
        rules_for("se", file, None, {"reduction": 4}, "identity")
    with pytest.raises(UsageError, match=r"se reduction=4, and rule 'a' .* se\n"):
        rules_for("se", rules("se"), None, {"reduction": 4}, "identity")


@pytest.mark.parametrize("args", [None, {}, {"reduction": 8}])
def test_what_every_rule_says_as_well_is_no_contradiction(args):
    file = rules("{type: se, reduction: 8}", "{type: se, reduction: 8}")
    made = chosen("se", file, None, args, "identity")
    assert made == [{"type": "se", "reduction": 8}] * 2


def test_a_rule_that_leaves_it_open_hears_the_call_and_the_others_keep_what_they_say():
    made = chosen("se", rules("", "eca"), None, {"reduction": 4}, "identity")
    assert made == [{"type": "se", "reduction": 4}, "eca"]


def test_without_a_mechanism_in_the_call_the_rules_say_it():
    assert chosen(None, rules("se", "eca"), None, None, "identity") == ["se", "eca"]


def test_a_start_that_no_rule_would_hear_is_refused():
    file = rules("se", more=", init: identity")
    with pytest.raises(UsageError, match=r"'paper', and rule 'a' .* 'identity'"):
        rules_for(None, file, None, None, "paper")
    kept = rules_for(None, rules("se", more=", init: paper"), None, None, "paper")
    assert [rule.init for rule in kept.rules] == ["paper"]
    left_open = rules_for(None, rules("se"), None, None, "paper")
    assert [rule.init for rule in left_open.rules] == ["paper"]


def test_nothing_is_cut_and_the_network_is_untouched():
    model = attnsurgeon.load_model("test_resnet")
    for call in (attnsurgeon.plan, attnsurgeon.insert, attnsurgeon.estimate):
        with pytest.raises(UsageError, match=r"gam.*cbam"):
            call(model, "gam", rules("cbam"))
    assert not attnsurgeon.audit(model).calls
