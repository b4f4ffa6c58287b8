# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""Every public value prints as a table: bounded in lines and columns, with the figures in it."""

from __future__ import annotations

import dataclasses
import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import attnsurgeon
from attnsurgeon.cost.measured import Latency, Measurement, Memory, Settings, Spread
from attnsurgeon.models import Source, source_of
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.record import Traced
from attnsurgeon.report.values import _DRAWN, COLUMNS, LINES, as_html
from attnsurgeon.shown import Shown, brief
from attnsurgeon.sites.survey import Survey
from tests.cli.command import TINY
from tests.cli.tiny import Net, net

SIZE = (3, 40, 24)
# Of the public names, those that are called for a network or are not called for a value.
NETWORKS = {"load", "load_model", "create_attention"}
NOTHING = {"SurgeonError", "__version__", "freeze_backbone", "unfreeze", "remove"}
NOTHING |= {"two_phases", "update_optimizer"}  # epochs, and names
NOTHING |= {"save", "disabled", "recalibrate_norms"}  # a path; the paths that are off; of norms
NOTHING |= {"export"}  # a path
NOTHING |= {"sweep", "shard", "gathered"}  # a grid, as compare's; networks
PICTURE = Image.new("RGB", (30, 30), "orange")
CLASSES = {"Operation", "Site", "Sites", "Status"}  # of what the others return


SPREAD = Spread(0.01, 0.009, 0.02, 0.0096, 0.0153)
BRIEF = {"repeats": 6, "warm_up": 0, "seconds": 0}


def values() -> dict[str, Any]:
    """What each public function returns."""
    made = attnsurgeon.load_model(f"{TINY}net")
    operation = attnsurgeon.insert(made, "se", "residual-branch", input_size=SIZE)
    return {
        "find_sites": attnsurgeon.find_sites(made, input_size=SIZE),
        "plan": operation.plan,
        "insert": operation,
        "estimate": attnsurgeon.estimate(made, "se", input_size=SIZE),
        "compare": attnsurgeon.compare(made, "se,sk", ["residual-branch"], input_size=SIZE),
        "suggest": attnsurgeon.suggest(made, "se", max_params="+3%", input_size=SIZE),
        "audit": attnsurgeon.audit(operation.model, input_size=SIZE),
        "status": attnsurgeon.status(operation.model, input_size=SIZE),
        "gate_statistics": attnsurgeon.gate_statistics(operation.model, [PICTURE, PICTURE]),
        "heatmap": attnsurgeon.heatmap(operation.model, PICTURE),
        "prune": attnsurgeon.prune(operation.model, [PICTURE]),
        "fold": attnsurgeon.fold(attnsurgeon.insert(net(), "we", input_size=SIZE).model),
        "gates": attnsurgeon.gates(operation.model, torch.rand(2, *SIZE)),
        "param_groups": attnsurgeon.param_groups(operation.model, 0.1),
        "mechanisms": attnsurgeon.mechanisms(),
        "verify": operation.verify(full=False),
        "measure": attnsurgeon.measure(made, operation.model, torch.rand(2, *SIZE), **BRIEF),
        "source_of": source_of(made),
    }


@pytest.fixture(scope="module")
def returned() -> dict[str, Any]:
    return values()


def bounded(text: str) -> bool:
    lines = text.split("\n")
    return len(lines) <= LINES and max(map(len, lines)) <= COLUMNS and "\x1b" not in text


def within(value: Any, seen: dict[int, tuple[str, Any]], path: str) -> None:
    """Collects a value of ours and the values of ours that its public attributes lead to."""
    if id(value) in seen or path.count(".") > 4:
        return
    if isinstance(value, (tuple, list)):
        for item in value[:3]:
            within(item, seen, f"{path}[]")
    elif isinstance(value, Mapping):
        if isinstance(value, Shown):
            seen[id(value)] = (path, value)
        for item in list(value.values())[:3]:
            within(item, seen, f"{path}{{}}")
    elif type(value).__module__.startswith("attnsurgeon") and not isinstance(value, nn.Module):
        seen[id(value)] = (path, value)
        fields = (
            [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        )
        properties = [n for n, p in vars(type(value)).items() if isinstance(p, property)]
        engine = isinstance(value, (Survey, Traced))  # for those who change the engine
        for name in () if engine else (*fields, *properties):
            if not name.startswith("_"):
                within(getattr(value, name), seen, f"{path}.{name}")


def test_every_public_function_is_looked_at(returned):
    named = set(returned) - {"verify", "source_of"} | NETWORKS | NOTHING | CLASSES
    assert named == set(attnsurgeon.__all__)


def test_every_value_and_all_that_it_leads_to_is_bounded(returned):
    seen: dict[int, tuple[str, Any]] = {}
    for name, value in returned.items():
        within(value, seen, name)
    kinds = {type(value).__name__ for _, value in seen.values()}
    assert kinds >= {*_DRAWN, "Site", "Cut", "Survey", "Source", "Delta", "Latency", "Memory"}
    assert {path: repr(v) for path, v in seen.values() if not bounded(repr(v))} == {}


@pytest.mark.slow
def test_every_card_is_bounded_and_names_its_paper(returned):
    for card in returned["mechanisms"].values():
        assert bounded(repr(card)), card.name
        assert card.paper in repr(card).replace("\n" + 14 * " ", "")


def test_what_a_value_leads_to_is_found():
    seen: dict[int, tuple[str, Any]] = {}
    within((SPREAD, [Source("a")]), seen, "x")
    assert [path for path, _ in seen.values()] == ["x[]", "x[][]"]
    assert not bounded("x" * (COLUMNS + 1))
    assert not bounded("\n" * LINES)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("plan", ["+ se", "blocks.0.norm … blocks.1.norm", "32", "20×12", "+162", "+339", "+663"]),
        ("insert", ["late.norm", "48", "10×6", "3 sites", "+663", "as the code"]),
        ("find_sites", ["residual-branch", "late.norm", "48", "10×6", "21 sites", "3×40×24"]),
        ("estimate", ["+663", "parameters", "MACs", "activations", "late.norm", "+339"]),
        ("audit", ["3 inserted modules", "every inserted module runs"]),
        ("status", ["+ se", "162", "339", "1.000", "yes", "trainable params: "]),
        ("gates", ["late.attn", "late.norm", "se", "channel", "1.000", "0.000"]),
        ("mechanisms", ["eca", "cbam", "sa", "Squeeze-and-excitation"]),
        ("verify", ["bit-equal", "every original key kept", "every inserted module runs"]),
        ("source_of", ["tiny.py:net()", "weights: as built"]),
    ],
)
def test_the_figures_that_matter_are_said(returned, name, figures):
    text = repr(returned[name])
    assert [figure for figure in figures if figure not in text] == []
    assert text == str(returned[name])


def test_small_values_take_one_line(returned):
    plan: Plan = returned["plan"]
    site = plan.cuts[-1].site
    assert (
        repr(site)
        == "<Site late.norm: BatchNorm2d 48x10x6, stage 2, block-branch, norm, residual-branch>"
    )
    cut = "<Cut late.norm: se at late.attn, 48 channels, params +339>"
    assert repr(plan.cuts[-1]) == cut
    cost = returned["estimate"]
    assert repr(cost.per_site[0]).startswith("<SiteCost blocks.0.norm: params +162, macs +")
    assert repr(cost.delta).startswith("<Delta params +663 (+")
    assert "\n" not in repr(plan.survey) + repr(plan.survey.traced)


def test_python_is_told_of_keywords_and_not_of_options(returned):
    said = "".join(repr(value) for value in returned.values())
    assert "--" not in said
    random = attnsurgeon.plan(attnsurgeon.load_model("test_resnet"), "eca")
    assert "RANDOM, not trained: see pretrained= and checkpoint= of load_model" in repr(random)


def test_the_price_is_shown_once_it_has_been_asked_for():
    operation = attnsurgeon.insert(net(), "se", input_size=SIZE)
    assert "MACs" not in repr(operation)
    assert "cost" not in vars(operation)  # a repr runs nothing
    assert f"{operation.cost.after.macs:,}" in repr(operation)


class Deep(Net):
    """As many blocks, each of other channels, as no table of 40 lines holds."""

    def __init__(self) -> None:
        super().__init__()
        from tests.cli.tiny import Block

        self.blocks = nn.Sequential(
            *(part for n in range(30) for part in (nn.Conv2d(32 + n, 33 + n, 1), Block(33 + n)))
        )
        self.down = nn.Conv2d(62, 48, 3, stride=2, padding=1)


def test_a_long_table_keeps_its_ends_and_says_how_much_is_left_out():
    plan = attnsurgeon.plan(Deep(), "eca", "residual-branch", input_size=SIZE)
    lines = repr(plan).split("\n")
    assert len(lines) == LINES
    assert any(line.strip().endswith("more lines") and "…" in line for line in lines)
    assert "blocks.1.norm" in repr(plan)
    assert lines[-1].split()[0] == "parameters"  # the figures stand at the end
    assert f"+{plan.params}" in lines[-1]
    html = plan._repr_html_()
    assert all(f"blocks.{2 * n + 1}.norm" in html for n in range(30))  # a page holds all of them


def test_a_notebook_gets_html_with_nothing_left_to_be_read_as_html():
    settings = Settings(1, "<b>cpu</b>", "float32", 1, 60)
    forward, memory = Latency(SPREAD, SPREAD, SPREAD, 20), Memory(4, 5, "saved tensors")
    made = Measurement(settings, forward, memory=memory)
    html = made._repr_html_()
    assert html.startswith("<pre")
    assert html.endswith("</pre>")
    assert "&lt;b&gt;cpu" in html
    assert "<b>" not in html
    assert "10.00 ms" in html
    assert "interleaved pairs" in repr(made)
    assert "20 pairs put the ratio at x0.010 to x0.015" in repr(made)
    assert "+25.00 %" in repr(made)


def test_a_stream_that_has_no_such_letters_gets_ascii(monkeypatch, returned):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print(returned["plan"])  # would raise
    monkeypatch.undo()
    stream.flush()
    assert b"blocks.0.norm .. blocks.1.norm  x2" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_value_that_is_not_whole_is_named_and_does_not_raise():
    half = Plan.__new__(Plan)
    assert repr(half).startswith("<Plan: AttributeError")
    assert "AttributeError" in as_html(half)


def test_values_survive_a_copy_and_a_pickle(returned):
    for name in ("audit", "status", "estimate", "verify", "source_of"):
        value = returned[name]
        assert repr(pickle.loads(pickle.dumps(value))) == repr(value)


def test_one_line_is_cut_where_it_would_be_longer():
    assert brief(SPREAD, "a\nb") == "<Spread a b>"
    cut = brief(SPREAD, "x" * 200)
    assert len(cut) == COLUMNS
    assert cut.endswith("x...>")


def test_every_value_that_is_shown_has_its_drawing(returned):
    def below(kind: type) -> set[str]:
        return {kind.__name__}.union(*(below(sub) for sub in kind.__subclasses__()))

    ours = set(below(Shown)) - {"Shown"}
    assert ours - {"Own"} == set(_DRAWN)  # which is a Mechanism, and drawn as one
