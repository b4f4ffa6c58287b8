"""The table of a comparison, whole and on narrow terminals; the grid is written by hand."""

import dataclasses

from attnsurgeon.grid.table import Grid, Network, Row
from attnsurgeon.report.grid import left_out, show_grid

FIGURES = {"params": 25_557_032, "macs": 4_111_512_576, "activations": 11_114_984}
R50 = Network("resnet50", "resnet50", {}, "none", (), [3, 224, 224], FIGURES, {"relu": 49}, ())
ECA = Row(
    "resnet50",
    "eca",
    "bottleneck",
    "identity",
    mechanisms=("eca",),
    identity="native",
    sites=tuple(f"layer1.{i}" for i in range(16)),
    after={"params": 25_557_118, "macs": 4_122_684_416, "activations": 11_130_088},
    delta={
        "params": 86,
        "macs": 11_171_840,
        "activations": 15_104,
        "params_percent": 0.000336502,
        "macs_percent": 0.271721,
        "activations_percent": 0.135889,
    },
)
BAM = dataclasses.replace(
    ECA,
    attn="bam",
    where="downsample",
    identity="blend",
    sites=("a", "b"),
    refused=({"path": "x", "rule": "r", "reason": "it rebuilds itself"},),
    notes=("counted as it trains",),
)
COORD = Row("resnet50", "coord", "depthwise", "identity", error="it matches nothing", hint="conv1")
GE = dataclasses.replace(COORD, attn="ge")
GRID = Grid((R50,), (ECA, BAM, COORD, GE), "identity")
SPREAD = {"median": 1.04, "q1": 1.03, "q3": 1.05, "low": 1.031, "high": 1.049}
SECONDS = {"median": 0.02, "q1": 0.02, "q3": 0.02, "low": 0.02, "high": 0.02}
MEASURED = {
    "settings": {"batch": 1, "device": "cpu", "dtype": "float32", "threads": 1},
    "forward": {
        "before": SECONDS,
        "after": SECONDS,
        "ratio": SPREAD,
        "pairs": 20,
        "undecided": False,
    },
    "step": None,
    "memory": {"before": 100_000_000, "after": 103_000_000, "what": "saved tensors"},
    "why": "",
}


def test_a_comparison_says_what_cannot_go_in(printed, golden):
    text = printed(show_grid, GRID, width=110)
    assert "✗ coord, ge: it matches nothing; conv1" in text
    assert "bam: 1 site refused, x: it rebuilds itself" in text
    assert "bam: counted as it trains" in text
    golden("grid", text)


def test_a_narrow_one_says_which_columns_had_no_room(printed):
    text = printed(show_grid, GRID, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "left out on 80 columns: identity, activations" in text
    assert "+15,104" not in text
    assert "+11,171,840" in text
    assert "left out" not in printed(show_grid, GRID, width=110)


def test_reasons_that_differ_only_in_their_hints_are_one_line(printed):
    other = dataclasses.replace(GE, hint="conv2")
    text = printed(show_grid, dataclasses.replace(GRID, rows=(ECA, COORD, other)), width=110)
    assert "it matches nothing; what would help each says --json" in text


def test_placements_are_named_where_a_mechanism_has_several(printed):
    rows = (ECA, dataclasses.replace(COORD, attn="eca"))
    text = printed(show_grid, dataclasses.replace(GRID, rows=rows), width=110)
    assert "✗ eca at depthwise: it matches nothing" in text


def test_reasons_that_differ_only_in_the_mechanism_are_one_line(printed):
    eca = dataclasses.replace(COORD, attn="eca(kernel_size=5)", error="eca's map is no map, as eca",
                              hint="eca is for maps")  # fmt: skip
    sge = dataclasses.replace(eca, attn="sge", error="sge's map is no map, as sge",
                              hint="sge is for maps")  # fmt: skip
    text = printed(show_grid, dataclasses.replace(GRID, rows=(ECA, eca, sge)), width=110)
    assert "eca(kernel_size=5), sge: its map is no map, as it; it is for maps" in text
    text = printed(show_grid, dataclasses.replace(GRID, rows=(ECA, sge)), width=110)
    assert "sge: sge's map is no map, as sge; sge is for maps" in text
    other = dataclasses.replace(BAM, attn="gam")
    assert "bam, gam: 1 site refused, x: it rebuilds itself" in printed(
        show_grid, dataclasses.replace(GRID, rows=(BAM, other)), width=110
    )


def test_networks_are_named_where_there_are_several(printed):
    other = dataclasses.replace(R50, name="resnet34", model="resnet34", notes=("at batch 2",))
    rows = (ECA, dataclasses.replace(ECA, model="resnet34"), COORD)
    text = printed(show_grid, Grid((R50, other), rows, "paper"), width=120)
    lines = [line.split() for line in text.splitlines()]
    assert ["resnet34", "eca", "bottleneck", "16"] in [line[:4] for line in lines]
    assert "✗ resnet50 coord: " in text
    assert "resnet34: at batch 2" in text
    assert "identity" not in text.replace("init", "")


def test_what_was_measured_has_its_interval_and_how_it_was_measured(printed):
    row = dataclasses.replace(ECA, measured=MEASURED)
    text = printed(show_grid, dataclasses.replace(GRID, rows=(row, BAM)), width=180)
    assert "x1.040  1.031 to 1.049" in text
    assert "+3.0 MB  +3.00 %" in text
    assert "batch 1, cpu, float32, 1 thread" in text
    assert "what autograd saves for the backward pass" in text
    unsure = {**MEASURED, "forward": {**MEASURED["forward"], "undecided": True}}
    text = printed(show_grid, dataclasses.replace(
        GRID, rows=(dataclasses.replace(ECA, measured=unsure),)), width=180)  # fmt: skip
    assert "1.031 to 1.049 undecided" in text


def test_how_many_rows_each_limit_leaves_out_is_said():
    grid = Grid((R50,), (ECA,), "identity", "", {"max_params": "+10", "max_macs": "+20M"}, (BAM,))
    heavy = dataclasses.replace(
        ECA, after={**FIGURES, "macs": FIGURES["macs"] + 20_000_001}, attn="gam"
    )
    assert left_out(grid) == ["1 row left out by limits: 1 over params +10"]
    both = dataclasses.replace(grid, left_out=(BAM, heavy))
    assert left_out(both) == ["2 rows left out by limits: 1 over params +10, 1 over macs +20M"]
    assert left_out(dataclasses.replace(grid, left_out=())) == ["0 rows left out by limits"]
    assert left_out(GRID) == []
