"""Records of real operations: plain values, and the figures of the engine unchanged."""

import json

import pytest

from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.models import Source
from attnsurgeon.operate import find_sites, insert, plan, weigh_plan
from attnsurgeon.report.record import card_record, model_record, network_record, operation_record
from tests.cli.tiny import Net, Twice

SIZE = (3, 40, 24)
ABOUT = model_record(Source("mine:net", {"num_classes": 7}, "pretrained", ("model", "module.")))


def test_a_record_is_plain_and_keeps_every_figure():
    operation = insert(Net(), "se", input_size=SIZE)
    record = operation_record(
        operation.plan, operation.cost, model=ABOUT, verification=operation.verify(full=False)
    )
    assert json.loads(json.dumps(record))["stripped"] == ["model", "module."]
    assert [s["module_path"] for s in record["sites"]] == [c.module_path for c in operation.plan]
    for name in ("params", "macs", "activations"):
        assert record["cost"]["delta"][name] == getattr(operation.cost.delta, name)
        assert sum(site[name] for site in record["sites"]) == record["cost"]["delta"][name]


def test_a_module_that_serves_two_sites_is_one_entry_with_both_in_the_price():
    made = plan(Twice(), "eca", "residual-branch", input_size=SIZE)
    record = operation_record(made, weigh_plan(made), model=ABOUT)
    assert [(site["path"], site["shared"]) for site in record["sites"]] == [
        ("blocks.0.norm", ["blocks.0.norm#2"])
    ]
    priced = [one["site"] for one in record["cost"]["per_site"]]
    assert priced == ["blocks.0.norm", "blocks.0.norm#2"]


def test_the_sites_of_a_network_are_plain_too():
    sites = find_sites(Net(), input_size=SIZE)
    record = json.loads(json.dumps(network_record("mine:net", sites.survey, sites)))
    assert record["input_size"] == [3, 40, 24]
    assert [site["path"] for site in record["sites"]] == [site.path for site in sites]
    assert record["sites"][0]["roles"] == sorted(sites[0].roles)


@pytest.mark.parametrize("name", mechanisms())
def test_every_card_is_plain(name):
    record = json.loads(json.dumps(card_record(mechanisms()[name])))
    assert record["name"] == name
    assert set(record["args"]) | set(record["required"]) == set(mechanisms()[name].args)
