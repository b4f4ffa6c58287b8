# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""The page of a comparison: the drawing's places and front, the table, what is refused."""

import json
import re
from html import unescape

import pytest

from attnsurgeon.report.comparison import comparison_page
from attnsurgeon.report.scales import Axis, ticks
from attnsurgeon.report.scatter import front
from tests.report.grids import Grid, measured, network, refused, row
from tests.report.reading import Reader

BEFORE = 4_111_512_576


def marks(made):
    """(label, is best, row) of every mark."""
    found = re.findall(r'<circle class="([^"]*)" [^>]*aria-label="([^"]*)" data-row="(\d+)"', made)
    return [(unescape(label), "best" in kinds.split(), int(at)) for kinds, label, at in found]


def test_the_front_has_what_no_other_beats():
    #         x, y:    best   best    beaten  best    beaten by the last on y alone
    assert front([(1, 9), (2, 5), (3, 6), (4, 1), (4, 2)]) == [0, 1, 3]
    assert front([(2, 2), (1, 1)]) == [1]
    assert front([(1, 1), (1, 1), (2, 1)]) == [0, 1]  # equals are both as good
    assert front([]) == []


def test_an_axis_is_even_where_figures_are_near_and_compressed_where_they_are_not():
    even = Axis.over([0.0, 5.0, 10.0])
    assert [even.at(figure) for figure in (0, 5, 10)] == [4, 50, 96]
    far = Axis.over([0.01, 1.0, 100.0])
    gaps = [
        far.at(b) - far.at(a) for a, b in ((0, 0.01), (0.01, 0.1), (0.1, 1), (1, 10), (10, 100))
    ]
    assert gaps == pytest.approx([92 / 5] * 5)
    assert far.ticks() == [0, 0.01, 0.1, 1, 10, 100]
    assert Axis.over([0.01, 100.0], even=True).knee is None


def test_an_axis_has_room_for_what_is_less_than_before():
    both = Axis.over([-100.0, 0.5, 10.0])
    assert both.at(-100) == 4
    assert both.at(10) == 96
    assert both.at(-100) < both.at(-1) < both.at(0) < both.at(0.5) < both.at(10)
    assert both.ticks() == [-100, -10, -1, -0.1, 0, 0.1, 1, 10]
    assert Axis.over([0.0]).at(0) == 4


def test_round_numbers_stand_at_an_axis():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.3, 0.25) == [-0.2, 0, 0.2]
    assert ticks(3, 3) == [3]
    assert ticks(0, float("inf")) == [0]


def test_latency_is_drawn_where_it_was_measured_else_macs():
    rows = [row("eca", 86, 1000, ratio=1.01), row("se", 2_500_000, 900, ratio=1.1)]
    made = comparison_page(Grid(rows=rows))
    assert "2 of 2 rows: parameters against latency" in Reader(made).text
    rows = [row("eca", 86, 1000), row("se", 2_500_000, 900)]
    made = comparison_page(Grid(rows=rows))
    assert "2 of 2 rows: parameters against MACs" in Reader(made).text
    assert "latency" not in Reader(made).text


def test_every_row_is_a_mark_that_says_itself_and_those_of_the_front_are_best():
    rows = [row("eca", 86, BEFORE // 100), row("se", 2_555_703, BEFORE // 1000),
            row("cbam", 2_555_703, BEFORE // 10)]  # fmt: skip
    found = marks(comparison_page(Grid(rows=rows)))
    assert [(best, at) for _, best, at in found] == [(True, 0), (True, 1), (False, 2)]
    assert found[1][0] == ("se at bottleneck: parameters +10.00 %, MACs +0.10 %, activations 0 %")


def test_the_places_of_marks_are_those_of_every_axis_that_can_be_chosen():
    rows = [row("eca", 86, 0, ratio=1.0), row("se", 86_000, 7, ratio=1.2)]
    made = comparison_page(Grid(rows=rows))
    keys = {"latency", "step", "memory", "params", "macs", "activations"}
    for at in re.findall(r'data-at="([^"]*)"', made):
        places = json.loads(unescape(at))
        assert set(places) == keys
        assert all(0 <= place <= 100 for place in places.values())
    assert set(json.loads(unescape(re.findall(r'data-ticks="([^"]*)"', made)[0]))) == keys
    options = re.findall(r'<option value="(\w+)"', made)
    assert sorted(options) == sorted([*keys, *keys])


def test_a_row_without_a_figure_is_drawn_where_it_has_both():
    rows = [row("eca", 86, 5, ratio=1.1), row("se", 9, 9), row("cbam", 1, 7, ratio=1.2)]
    made = comparison_page(Grid(rows=rows))
    assert "2 of 3 rows: parameters against latency" in Reader(made).text
    hidden = [
        tag.partition("aria-label=")[2][1:3]
        for tag in re.findall(r"<circle [^>]*>", made)
        if " hidden " in tag
    ]
    assert hidden == ["se"]
    assert 'data-value=""' in made
    assert [best for _, best, _ in marks(made)] == [True, False, True]
    alone = comparison_page(Grid(rows=[row("eca", 86, 5, ratio=1.1), row("se", 9, 9)]))
    assert "2 of 2 rows: parameters against MACs" in Reader(alone).text


def test_the_table_has_a_row_each_with_values_to_sort_by():
    rows = [row("eca", 86, 1000, ratio=1.142), row("se", -5, 900)]
    made = comparison_page(Grid(rows=rows))
    text = Reader(made).text
    assert "+14.2 % (+13.1 to +16.5)" in text
    assert 'data-value="86"' in made
    assert 'data-value="-5"' in made
    assert 'data-value=""' in made  # of what was not measured
    assert made.count('<button type="button">') == len(re.findall(r'<th scope="col"[^>]*><b', made))
    assert "aria-sort" not in made.partition("<table")[2].partition("<script>")[0]  # not yet


def test_what_cannot_go_in_is_there_with_its_reason_and_is_no_mark():
    made = comparison_page(Grid(rows=[row("eca", 86, 1000), row("se", 9, 9),
                                      refused("csra", "no classifier")]))  # fmt: skip
    text = Reader(made).text
    assert "2 variants priced, 1 refused" in text
    assert "no classifier name another placement" in text
    assert len(marks(made)) == 2
    assert "Refused" not in Reader(comparison_page(Grid(rows=[row("eca", 86, 1)]))).headings


def test_one_row_is_no_drawing_and_none_is_no_table():
    one = comparison_page(Grid(rows=[row("eca", 86, 1000)]))
    assert "<circle" not in one
    assert "<table" in one
    none = Reader(comparison_page(Grid(rows=[refused("csra", "no classifier")])))
    assert none.headings == ["Attention for resnet50", "The network", "Refused"]
    assert "script" not in none.tags


def test_networks_have_colours_and_a_legend_where_there_are_several():
    rows = [row("eca", 86, 1000, model=name) for name in ("resnet50", "vit")]
    made = comparison_page(Grid(networks=[network(), network("vit")], rows=rows))
    assert re.findall(r'class="point hue(\d)', made) == ["0", "1"]
    assert [label.partition(":")[0] for label, _, _ in marks(made)] == ["resnet50", "vit"]
    assert 'class="legend"' in made
    rows = [row("eca", 86, 1), row("se", 1, 2)]
    assert 'class="legend"' not in comparison_page(Grid(rows=rows))


def test_limits_and_what_they_leave_out_are_said():
    made = comparison_page(Grid(rows=[row("eca", 86, 1000)], limits={"max_params": "+1%"},
                                left_out=[row("se", 2_500_000, 1)]))  # fmt: skip
    text = Reader(made).text
    assert "max_params +1%" in text
    assert "left out by max_params +1%: se at bottleneck" in text


def test_what_has_to_be_said_of_rows_is_said_once():
    rows = [row("eca", 86, 1000, ratio=1.1, notes=["counted on random values"]),
            row("se", 9, 9, ratio=1.2, folder="se", verified=False,
                refused=[{"path": "a.b", "rule": "", "reason": "it rebuilds itself"}])]  # fmt: skip
    text = Reader(comparison_page(Grid(rows=rows))).text
    for part in (
        "eca: counted on random values",
        "se, failed its checks",
        "se at bottleneck: 1 site refused, a.b: it rebuilds itself",
        "relu ×49",
    ):
        assert text.count(part) == 1  # fmt: skip


def test_a_step_that_cannot_be_made_says_why():
    found = measured(1.1, step=None, memory=None, why="it asks for targets")
    rows = [row("eca", 86, 1000, measured=found), row("se", 9, 9, measured=found)]
    text = Reader(comparison_page(Grid(rows=rows))).text
    assert text.count("no training step: it asks for targets") == 1
    assert "training memory" not in text


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>\"'&", "' onclick='alert(1)",
                                     "\"}]' x=\"", "{{ 7 * 7 }}"])  # fmt: skip
def test_a_name_cannot_become_markup(hostile):
    rows = [row(hostile, 86, 1000, where=hostile, model=hostile, ratio=1.1, notes=[hostile],
                folder=hostile), row("se", 9, 9, model=hostile, ratio=1.2),
            refused(hostile, hostile, hint=hostile)]  # fmt: skip
    made = comparison_page(Grid(networks=[network(hostile, notes=[hostile])], rows=rows))
    found = Reader(made)
    assert found.tags.count("script") == 2
    assert hostile in found.text
    assert "alert(1)" not in "".join(re.findall(r"<script>(.*?)</script>", made, re.DOTALL))
