"""A new rule file is a rule file, under the name that was asked for."""

from __future__ import annotations

import pytest

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.rules.template import rule_template


def test_the_template_is_read_and_tests_itself_on_a_match_and_a_network_without():
    file = parse_rules(rule_template("my-rule"))
    assert (file.name, file.rules[0].id) == ("my-rule", "my-rule")
    assert [sorted(test.expect) for test in file.tests or ()] == [["my-rule"], ["my-rule"]]


@pytest.mark.parametrize("name", ["My Rule", "", "a_b", "a/../b", "x\ny"])
def test_a_name_that_is_not_kebab_case_is_refused(name):
    with pytest.raises(RuleError, match="use kebab-case"):
        rule_template(name)
