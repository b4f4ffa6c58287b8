"""Every field of surgery.json is checked, and nothing that no field checked goes on."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings, Spread
from attnsurgeon.errors import ModelError
from attnsurgeon.report.folder import folder_record
from attnsurgeon.report.page import page
from attnsurgeon.report.record import measurement_record
from attnsurgeon.saved.restore import read_folder
from attnsurgeon.saved.schema import check_record
from tests.saved import networks

FILE = Path("surgery.json")
SITE = ("operations", 0, "sites", 0)


SPREAD = Spread(0.5, 0.4, 0.6, 0.45, 0.55)
LATENCY = Measurement(
    Settings(1, "cpu", "float32", 1, 60.0),
    forward=Latency(SPREAD, SPREAD, SPREAD, pairs=7, warm_up=2),
    memory=Memory(100, 120, "saved tensors"),
    why="it asks for targets",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("schema")
    made = networks.operated(f"{networks.write(home)}:make")
    return made.save(home / "out", verification=made.verify(full=False), measurement=LATENCY)


@pytest.fixture
def record(folder) -> dict[str, Any]:
    return json.loads((folder / "surgery.json").read_text())


def set_at(record: Any, way: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(record)
    holder = changed
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = value
    return changed


def copied(folder: Path, record: Any, home: Path) -> Path:
    """A folder that has another record."""
    out = home / "out"
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    (out / "surgery.json").write_text(json.dumps(record))
    return out


def test_what_was_written_is_read_as_it_was_written(record):
    assert check_record(record, FILE) == record


def test_what_no_field_knows_is_left_out(record):
    more = set_at(set_at(record, ("surprise",), 1), (*SITE, "surprise"), {"a": [1]})
    assert check_record(more, FILE) == record


def test_a_network_without_operations_says_its_input_size(record):
    given = {"input_size": [3, 20, 28], "example": None}
    bare = set_at(set_at(record, ("operations",), []), ("input",), given)
    assert check_record(bare, FILE) == bare
    for size in (None, [3, -1, 2], "3,20,28"):
        with pytest.raises(ModelError, match="input_size"):
            check_record(set_at(bare, ("input", "input_size"), size), FILE)
    with pytest.raises(ModelError, match="no operations, and says no input"):
        check_record(set_at(bare, ("input",), None), FILE)


@pytest.mark.parametrize(
    ("field", "default"),
    [("resolution", []), ("beside", 0), ("replaced", []), ("scope", ""), ("chain", ""),
     ("note", "")],
)  # fmt: skip
def test_what_came_later_than_the_format_has_a_default(record, field, default):
    older = copy.deepcopy(record)
    del older["operations"][0]["sites"][0][field]
    assert check_record(older, FILE)["operations"][0]["sites"][0][field] == default


@pytest.mark.parametrize("field", ["network", "verification", "latency"])
def test_a_folder_of_before_says_nothing_of_what_only_reports_want(record, field):
    older = copy.deepcopy(record)
    del older[field]
    assert check_record(older, FILE)[field] is None
    del older["cost"]["per_site"]
    assert check_record(older, FILE)["cost"]["per_site"] == []


def test_what_was_measured_and_verified_comes_back_as_it_was(folder, record):
    found = folder_record(read_folder(folder))
    assert found["latency"] == measurement_record(LATENCY)
    assert found["verification"] == record["verification"]
    assert found["verification"]["init"] == record["operations"][0]["init"]
    assert found["verification"]["values_checked"] > 0


def test_a_time_that_is_no_number_is_left_out(tmp_path):
    made = networks.operated(f"{networks.write(tmp_path)}:make")
    still = dataclasses.replace(SPREAD, median=math.inf)
    lost = Latency(SPREAD, SPREAD, still, pairs=2)
    out = made.save(tmp_path / "out", measurement=dataclasses.replace(LATENCY, forward=lost))
    assert read_folder(out).record["latency"] is None


def test_a_figure_that_is_no_number_is_none_in_the_file_and_none_again(folder, record, tmp_path):
    lost = set_at(record, ("verification", "top1_agreement"), None)
    assert check_record(lost, FILE) == lost
    out = copied(folder, lost, tmp_path)
    found = folder_record(read_folder(out))
    assert math.isnan(found["verification"]["top1_agreement"])
    assert "top-1 agreement" in page(found)


def test_an_operation_without_its_refusals_has_none(record):
    older = copy.deepcopy(record)
    del older["operations"][0]["refused"]
    assert check_record(older, FILE) == record


WRONG = [
    *(((*SITE, "resolution"), value) for value in (7, [1.5], ["x"], [-1], [2**40], {"tuple": [1]})),
    *(((*SITE, "replaced"), value) for value in ("x", [1], [None], {"tuple": ["x"]})),
    *(((*SITE, "note"), value) for value in (7, None, ["x"], "x" * 100_001)),
    *(((*SITE, "beside"), value) for value in ("1", -1, 0.0, True, None)),
    *(((*SITE, "args"), value) for value in ([], {"tuple": [1]}, {"a": 10**30})),
    *(((*SITE, "channels"), value) for value in (None, True, 2**63, -1)),
    *(((*SITE, "layout"), value) for value in ("WHC", None, [])),
    *((("operations", 0, "refused"), value) for value in ({}, [1], [{"path": "x"}])),
    (("operations", 0, "sites"), []),
    (("operations", 0, "input_size"), {"tuple": [3, 20, 28]}),
    (("operations", 0, "input_size"), [3, 16_000, 16_000]),
    (("operations", 0, "attn"), {"tuple": ["se"]}),
    (("source", "model_args"), {"tuple": [1]}),
    (("source", "stripped"), [1]),
    (("cost", "before", "params"), -1),
    (("cost", "delta", "macs"), 1e300),
    *((("cost", "per_site"), value) for value in ({}, [1], [{"site": "x"}], None)),
    (("network", "elsewhere"), -1),
    (("network", "parts", 0, "macs"), 1.5),
    *((("network", "at"), value) for value in ([], {"x": -1}, {"x": True}, {"x": 1.5})),
    (("verification", "relative_diff"), "0"),
    (("verification", "stuck"), [1]),
    *((("verification", "sizes"), value) for value in ([["x"]], "3x4", [[-1]])),
    (("latency", "forward", "before", "median"), None),
    (("latency", "settings", "threads"), -1),
    (("cost", "uncounted"), [["relu"]]),
    (("versions",), {"torch": 2}),
    (("weights", "strides"), {"head.bias": [2**63]}),
]


@pytest.mark.parametrize(("way", "value"), WRONG, ids=lambda value: str(value)[-40:])
def test_a_field_of_another_kind_is_refused_by_its_name(record, way, value):
    name = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in way).removeprefix(".")
    with pytest.raises(ModelError, match="is not a record of surgery") as caught:
        check_record(set_at(record, way, value), FILE)
    assert name in caught.value.what
    assert len(str(caught.value)) < 500


def test_a_report_needs_nothing_but_what_the_schema_promises(folder, record, tmp_path):
    """Of the fields with defaults none is there, and every text is hostile."""
    bare = copy.deepcopy(record)
    del bare["operations"][0]["refused"], bare["cost"]["per_site"]
    for field in ("network", "verification", "latency"):
        del bare[field]
    for site in bare["operations"][0]["sites"]:
        for field in ("resolution", "beside", "replaced", "scope", "chain", "note"):
            del site[field]
        site.update(path="\x1b[31m</td>", attn="\u202e", args={"a": {"tuple": [1, [2]]}, "b": None})
    text = page(folder_record(read_folder(copied(folder, bare, tmp_path))))
    assert "\\x1b[31m&lt;/td&gt;" in text
    assert {"\x1b", "\u202e"}.isdisjoint(text)
