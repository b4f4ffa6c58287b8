"""A table that is too wide is laid out anew: texts apart, turned, or as names and values."""

from attnsurgeon.report.tables import show_notes, show_table

NAMES = ["name", "kind", "what"]
WORDS = [["se", "gate", "squeeze and excitation of channels"], ["aff", "fusion", "fused"]]
FIGURES = [["parameters", "11,689,512", "11,778,592"], ["MACs", "1,819,065,856", "1,820,664,056"]]


def table(console, record, columns, **more):
    show_table(console, columns, record, **more)


def shown(printed, rows, columns, width, **more):
    return printed(table, rows, columns=columns, width=width, **more).splitlines()


def test_a_table_that_fits_stays_a_table(printed):
    lines = shown(printed, WORDS, ["!name", "!kind", "what"], 50)
    assert [line.split()[0] for line in lines] == ["name", 48 * "─", "se", "aff"]
    lines = shown(printed, WORDS, ["!name", "!kind", "what"], 34)  # the last column folds
    assert lines[2:5] == [
        "  se    gate    squeeze and",
        "                excitation of",
        "                channels",
    ]


def test_what_folds_gets_a_line_of_its_own(printed):
    lines = shown(printed, WORDS, ["!name", "!kind", "what"], 26)
    assert lines == [
        "  name  kind",
        "    what",
        "  ────────────",
        "  se    gate",
        "    squeeze and excitation",
        "    of channels",
        "  aff   fusion",
        "    fused",
    ]


def test_a_first_column_that_folds_stands_above(printed):
    rows = [["layer1.0.bn2 … layer1.1.bn2", "64", "+580"], ["layer4.0.bn2", "512", "+33,312"]]
    lines = shown(printed, rows, ["site", ">C", ">params each"], 28)
    assert lines == [
        "  site",
        "      C  params each",
        "    ────────────────",
        "  layer1.0.bn2 …",
        "  layer1.1.bn2",
        "     64         +580",
        "  layer4.0.bn2",
        "    512      +33,312",
    ]


def test_few_figures_are_turned(printed):
    lines = shown(printed, FIGURES, ["!", ">before", ">after"], 38)
    assert lines == [
        "          parameters           MACs",
        "  ─────────────────────────────────",
        "  before  11,689,512  1,819,065,856",
        "  after   11,778,592  1,820,664,056",
    ]


def test_where_nothing_fits_there_are_names_and_values(printed):
    lines = shown(printed, FIGURES, ["!", ">before", ">after"], 30)
    assert lines == [
        "  parameters",
        "    before 11,689,512",
        "    after 11,778,592",
        "  MACs",
        "    before 1,819,065,856",
        "    after 1,820,664,056",
    ]


def test_columns_that_can_be_spared_go_first_and_are_named(printed):
    columns = ["!name", "!kind", "what"]
    lines = shown(printed, WORDS, columns, 26, spare=("kind",))
    assert lines[0] == "  name  what"
    assert lines[-2:] == ["  · left out on 26", "    columns: kind"]
    whole = shown(printed, WORDS, columns, 80, spare=("kind",))
    assert not any("left out" in line for line in whole)


def test_a_column_of_nothing_takes_no_room(printed):
    lines = shown(printed, [["a", "", "1"], ["b", "", "2"]], ["!name", ">", ">C"], 80)
    assert lines == ["  name  C", "  ───────", "  a     1", "  b     2"]


def test_wide_letters_are_counted_as_terminals_show_them(printed):
    lines = shown(printed, [["网络", "1"], ["b", "2"]], ["!name", ">C"], 80)
    assert lines[2:] == ["  网络  1", "  b     2"]


def test_notes_wrap_under_themselves(printed):
    text = printed(lambda console, record: show_notes(console, record), ["one two three"], width=12)
    assert text.splitlines() == ["  · one two", "    three"]
