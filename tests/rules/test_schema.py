"""The JSON Schema and the reference say what the parser does: the same keys, and only those."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attnsurgeon.rules.document import read_document
from attnsurgeon.rules.placements import shipped_names, shipped_text
from attnsurgeon.rules.reference import reference
from attnsurgeon.rules.schema import json_schema
from tests.rules.test_parse import WHOLE

MATCHER_KEYS = {
    *("site", "name", "type", "stage", "channels", "resolution", "stride", "kernel"),
    *("conv_stride", "groups", "depthwise", "branch", "layout", "matches", "any", "all", "not"),
    *("inside", "has", "follows", "precedes"),
}


def complaints(schema: Any, value: Any, root: Any) -> list[str]:
    """A small independent reader of the part of JSON Schema that is used here."""
    if "$ref" in schema:
        return complaints(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "anyOf" in schema and all(complaints(one, value, root) for one in schema["anyOf"]):
        return [f"{value!r} is none of {schema['anyOf']}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (kind == "integer" and value is True)):
        return [f"{value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value!r} is not in {schema['enum']}"]
    if "const" in schema and value != schema["const"]:
        return [f"{value!r} is not {schema['const']}"]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{value!r} does not match {schema['pattern']}"]
    if kind == "integer" and value < schema.get("minimum", value):
        return [f"{value} is below {schema['minimum']}"]
    if kind == "array":
        return [c for item in value for c in complaints(schema.get("items", {}), item, root)]
    return complaints_of_object(schema, value, root) if kind == "object" else []


def complaints_of_object(schema: Any, value: Any, root: Any) -> list[str]:
    found = [f"{key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
        if inner is False:
            found.append(f"{key} is not allowed")
        else:
            found += complaints(inner, item, root)
    return found


def objects(schema: Any) -> list[Any]:
    return [schema, *schema["$defs"].values()]


def data(text: str) -> Any:
    return read_document(text, source="a.yaml").data


def test_the_schema_names_its_dialect_and_refuses_unknown_keys_everywhere():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {one["additionalProperties"] for one in objects(schema)} == {False}


def test_every_key_says_what_it_means():
    for one in objects(json_schema()):
        assert one["description"]
        for key, field in one["properties"].items():
            assert field.get("description"), key


def test_the_matcher_has_the_keys_of_the_format_and_only_a_rule_counts():
    defs = json_schema()["$defs"]
    assert set(defs["Matcher"]["properties"]) == MATCHER_KEYS
    assert set(defs["RuleMatcher"]["properties"]) == MATCHER_KEYS | {"nth", "first", "last"}
    assert set(defs["ModuleMatcher"]["properties"]) == {"name", "type", "any", "all", "not"}


def test_a_file_with_every_key_passes_the_schema():
    assert complaints(json_schema(), data(WHOLE), json_schema()) == []


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_file_passes_the_schema(name):
    assert complaints(json_schema(), data(shipped_text(name)), json_schema()) == []


@pytest.mark.parametrize(
    "damage",
    [
        ("channels: [", "chanels: ["),
        ("version: 1", "version: 2"),
        ("site: head", "site: heads"),
        ("layout: NCHW", "layout: 3"),
        ("depthwise: false", "depthwise: no"),
        ('resolution: "<=28"', "resolution: small"),
        ("id: plain", "id: Plain"),
        ("first: 3}", "first: 0}"),
        ('name: "*.se"', "channels: 3"),
    ],
)
def test_what_the_parser_refuses_does_not_pass_the_schema(damage):
    assert damage[0] in WHOLE
    assert complaints(json_schema(), data(WHOLE.replace(*damage)), json_schema()) != []


def test_the_reference_has_a_row_for_every_key():
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", reference(), flags=re.M))
    keys = {key for one in objects(json_schema()) for key in one["properties"]}
    assert rows == keys
