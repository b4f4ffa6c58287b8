# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""The HTML page: whole, self-contained, and safe with any name."""

from html.parser import HTMLParser

from attnsurgeon.report.page import page
from attnsurgeon.report.streams import printable
from tests.report.records import operation, site, troubled

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects what refers to something outside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.outside, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [(tag, value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_has_every_figure_of_the_operation():
    text = Reader(
        page(operation(output="out/r50", load="model = attnsurgeon.load('out/r50')"))
    ).text
    for part in ("25,557,118", "+86", "+0.00034 %", "4,122,684,416", "layer3.0.bn3 … layer3.5.bn3",
                 "×6", "outputs bit-equal", "relu ×49", "attnsurgeon.load('out/r50')"):  # fmt: skip
        assert part in text


def test_the_page_needs_no_other_file_and_runs_no_script():
    found = Reader(page(troubled()))
    assert {tag for tag, _ in found.outside} == {"a"}
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert "@import" not in page(troubled())
    assert "url(" not in page(troubled())


def test_what_is_wrong_is_on_the_page():
    text = Reader(page(troubled())).text
    for part in ("Refused: 3 of 6 matched sites", "it rebuilds itself", "original keys are gone",
                 "the parameters more than double", "stripped model_ema, module.",
                 "training step", "x1.060", "102.5 MB"):  # fmt: skip
        assert part in text


def test_what_was_not_done_is_not_on_the_page():
    text = Reader(page(operation(verification=None))).text
    for part in ("Verification", "Refused", "Go on", "forward", "training step"):
        assert part not in text


def test_a_name_cannot_become_markup():
    hostile = "<script>alert(1)</script>\"'&"
    record = operation(model=hostile, where=hostile, sites=[site(f"{hostile}.bn", 3, 5, 1)])
    record["model_args"] = {"name": hostile}
    found = Reader(page(record))
    assert "script" not in found.tags
    assert hostile in found.text


def test_what_a_name_holds_is_spelled_out_on_the_page():
    hostile = "<script>\x1b[31m\u202e\x9b\udc80</script>"
    made = operation(model=hostile, where=hostile, output=hostile, load=hostile)
    made["sites"] = [{**one, "note": hostile, "path": hostile} for one in made["sites"]]
    text = page(made)
    text.encode("utf-8")
    assert printable(text) == text
    assert "script" not in Reader(text).tags
    assert "<script>\\x1b[31m\\u202e\\x9b\\udc80</script>" in Reader(text).text
