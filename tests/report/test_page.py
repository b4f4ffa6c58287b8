# ruff: noqa: RUF001 -- the sign between sizes is the reports' own
"""The page of an operation: whole, self-contained, and safe with any name."""

import base64
import hashlib
import re
from html import unescape

import pytest

from attnsurgeon.report.comparison import comparison_page
from attnsurgeon.report.page import Picture, page
from attnsurgeon.report.streams import printable
from tests.report.grids import Grid, row
from tests.report.reading import Reader
from tests.report.records import ECA, MEASURED, VERIFIED, operation, site, troubled

PNG = b"\x89PNG\r\n\x1a\nof a heat map"
RULES = """version: 1
name: mine
rules:
- id: late  # from here on
  match:
    site: residual-branch
    stage: 4
tests:
- model: resnet50
  expect: {}
"""


def course():
    """Five parts of 10, 20, 30, 0 and 40 MACs; layer1.0.bn3 in the middle of the second."""
    part = {"part": "encoder", "roles": ["stage"], "resolution": [56, 56]}
    return {
        "parts": [
            {**part, "roles": ["stem"], "stage": 1, "path": "maxpool", "channels": 64, "macs": 10},
            {**part, "stage": 1, "path": "layer1.2.act3", "channels": 256, "macs": 20},
            {**part, "roles": ["stage", "head"], "stage": 2, "path": "layer2.3.act3",
             "channels": 512, "macs": 30},
            {**part, "part": "decoder", "roles": ["decoder"], "stage": 1, "path": "up",
             "channels": 64, "macs": 0},
            {"part": "output", "roles": [], "stage": None, "path": "", "channels": None,
             "resolution": [], "macs": 40},
        ],
        "at": {"layer1.0.bn3": 20, "layer2.0.bn3": 60},
        "elsewhere": 7,
    }  # fmt: skip


def test_the_page_has_every_figure_of_the_operation():
    text = Reader(
        page(operation(output="out/r50", load="model = attnsurgeon.load('out/r50')"))
    ).text
    for part in ("25,557,118", "+86", "+0.00034 %", "4,122,684,416", "layer3.0.bn3 … layer3.5.bn3",
                 "×6", "outputs bit-equal", "relu ×49", "attnsurgeon.load('out/r50')"):  # fmt: skip
        assert part in text


def test_the_page_has_its_sections_in_order_each_reached_from_the_top():
    made = page({
        **operation(output="out", load="model = attnsurgeon.load('out')"),
        "network": course(), "latency": MEASURED, "rules": [("mine", RULES)],
    }, pictures=[Picture(PNG, "a cat, the head red")])  # fmt: skip
    read = Reader(made)
    ids = [id for id in read.ids if f"{id}-title" in read.ids]
    assert ids == ["what", "network", "cost", "sites", "verification", "pictures", "mechanisms",
                   "rules", "go-on"]  # fmt: skip
    assert [ref for tag, ref in read.outside if ref.startswith("#")] == [
        "#content", *(f"#{id}" for id in ids)
    ]  # fmt: skip
    assert len(set(read.ids)) == len(read.ids)


def test_the_page_needs_no_other_file_and_runs_no_script():
    for made in (
        page(troubled()),
        page({**troubled(), "rules": [("mine", RULES)], "network": course()}),
    ):
        found = Reader(made)
        assert {tag for tag, _ in found.outside} == {"a"}
        assert found.tags.count("script") == found.tags.count("link") == 0
        assert "@import" not in made
        assert "url(" not in made
        assert re.search(r"default-src 'none'; img-src data:; .*script-src 'none'", unescape(made))


def test_a_picture_lies_in_the_page_itself_and_says_what_it_shows():
    made = page(operation(), pictures=[Picture(PNG, 'a "cat"', "layer4: the head")])
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in made
    assert 'alt="a &#34;cat&#34;"' in made
    assert "layer4: the head" in Reader(made).text
    assert "What the attention does" not in page(operation())


def test_what_is_wrong_is_on_the_page():
    text = Reader(page(troubled())).text
    for part in ("Refused: 3 of 6 matched sites", "it rebuilds itself", "original keys are gone",
                 "the parameters more than double", "stripped model_ema, module.",
                 "training step", "x1.060", "102.5 MB"):  # fmt: skip
        assert part in text


def test_what_was_not_done_is_not_on_the_page():
    text = Reader(page(operation(verification=None))).text
    for part in ("Verification", "Refused", "Load and train", "Measured", "The network", "rules"):
        assert part not in text


def test_verification_says_its_numbers():
    text = Reader(page(operation())).text
    for part in ("intermediate values compared 214", "2×3×96×64 and 2×3×64×128",
                 "top-1 agreement 100%"):  # fmt: skip
        assert part in text
    text = Reader(page(operation(verification={"init": "paper", "identity": False,
                                               "top1_agreement": float("nan"),
                                               "relative_diff": 0.417}))).text  # fmt: skip
    assert "the same, of the largest output 0.417" in text
    assert "top-1 agreement -" in text


def test_the_strip_is_as_wide_as_the_work_and_pins_stand_where_the_sites_are():
    made = page({**operation(), "network": course()})
    widths = re.findall(r'<div class="block (\w+)" style="flex-grow: ([\d.]+)"', made)
    assert widths == [("stem", "10.000"), ("stage", "20.000"), ("stage", "30.000"),
                      ("decoder", "0.000"), ("head", "40.000")]  # fmt: skip
    # layer1.0 ends at 20 of 10..30, layer2.0 at the end of 30..60.
    assert re.findall(r'class="pin hue0" style="left: ([\d.]+)%" title="([^"]*)"', made) == [
        ("50.00", "layer1.0.bn3: eca"), ("100.00", "layer2.0.bn3: eca")
    ]  # fmt: skip
    text = Reader(made).text
    assert "14 sites of which the place is not known" in text
    assert "7 MACs more are computed by modules that hold several of these parts" in text
    assert "stage 2 30.0 % 30 1 layer2.3.act3 512 × 56×56" in text


def test_without_a_course_there_is_no_strip():
    assert 'class="strip"' not in page({**operation(), "network": None})
    assert 'class="strip"' not in page({**operation(), "network": {**course(), "parts": []}})


def test_bars_of_sites_are_as_long_as_their_share_of_the_largest():
    sites = [site("layer1.0.bn3", 64, 56, 50), site("layer2.0.bn3", 128, 28, 200),
             site("layer3.0.bn3", 256, 14, 0)]  # fmt: skip
    for one, macs in zip(sites, (400, 100, 0), strict=True):
        one["macs"] = macs
    made = page(operation(sites=sites))
    bars = re.findall(r'class="bar" style="--share: ([\d.]+)"><span>([^<]*)<', made)
    assert bars == [("0.2500", "+50"), ("1.0000", "+400"), ("1.0000", "+200"), ("0.2500", "+100"),
                    ("0.0000", "0"), ("0.0000", "0")]  # fmt: skip


def test_where_macs_of_a_site_are_not_known_none_are_shown():
    sites = [{**one, "macs": None} for one in operation()["sites"]]
    assert "MACs each" not in page(operation(sites=sites))
    assert "MACs each" in page(operation())


def test_a_card_has_the_equation_and_each_argument_with_what_was_given():
    given = [site("layer1.0.bn3", 256, 56, 7, args={"kernel_size": 7})]
    text = Reader(page(operation(sites=given))).text
    assert "gate = sigmoid(conv1d_k(mean(x)))" in text
    assert "kernel_size None 7 k, odd; None for the paper's function of C." in text
    text = Reader(page(operation())).text
    assert "kernel_size None None k, odd" in text


def test_attention_of_your_own_has_what_is_known_of_it():
    own = {"name": "mine.py:Mine", "file": "mine.py", "sha256": "0" * 64, "title": "own code",
           "venue": "", "paper": "", "kind": "gate", "placement": "residual-branch",
           "identity": "blend", "identity_how": "y = x + g", "lighter": ""}  # fmt: skip
    made = Reader(page(operation(mechanisms=[own], sites=[site("a", 3, 5, 1, attn=own["name"])])))
    assert "mine.py:Mine: own code" in made.text
    assert "published" not in made.text


def test_rules_are_coloured_and_their_tests_are_left_out_and_that_is_said():
    made = page({**operation(), "rules": [("mine", RULES)]})
    assert '<span class="t-nt">site</span>' in made
    text = Reader(made).text
    assert "stage: 4" in text
    assert "expect" not in text
    assert "The tests that the file holds are left out." in text
    short = page({**operation(), "rules": [("mine", RULES.partition("tests:")[0])]})
    assert "left out" not in Reader(short).text


def test_a_measurement_is_there_with_its_spread():
    made = page({**operation(), "latency": MEASURED})
    text = Reader(made).text
    for part in (
        "forward, measured +4.0 % 53.10 ms to 55.20 ms",
        "x1.025 to x1.051",
        "53.10 ms (50.00 to 60.00)",
        "step memory +19.02 % 86.1 MB to 102.5 MB",
        "batch 1, cpu, float32, 2 threads",
        "training step, measured (undecided) +6.0 %",
    ):
        assert part in text  # fmt: skip
    assert made.count('<svg class="spread"') == 2
    only = {**MEASURED, "training_step": None, "training_memory": None,
            "no_training_step": "it asks for targets"}  # fmt: skip
    made = page({**operation(), "latency": only})
    assert made.count('<svg class="spread"') == 1
    text = Reader(made).text
    assert "no training step: it asks for targets" in text
    assert "undecided" not in text
    assert "step memory" not in text
    memory = {**MEASURED, "forward": None, "training_step": None}
    made = page({**operation(), "latency": memory})
    assert "step memory +19.02 %" in Reader(made).text
    assert "<svg" not in made


def test_the_python_to_go_on_with_says_what_its_names_are():
    record = operation(output="out", load="model = attnsurgeon.load('out', model=base)")
    made = page(
        {**record, "load_note": "`base` is the resnet that was operated.", "mode": "adapter"}
    )
    text = Reader(made).text
    assert "base is the resnet that was operated." in text
    assert "those of the attention only (adapter)" in text
    assert "attnsurgeon.param_groups(model" in text


@pytest.mark.parametrize("hostile", [
    "<script>alert(1)</script>\"'&", "</style><script>alert(1)</script>", "{{ 7 * 7 }}{% raw %}",
    '" onmouseover="alert(1)', "</title><img src=x onerror=alert(1)>", "javascript:alert(1)",
])  # fmt: skip
def test_a_name_cannot_become_markup(hostile):
    record = operation(model=hostile, where=hostile, sites=[site(f"{hostile}.bn", 3, 5, 1)],
                       output=hostile, load=hostile)  # fmt: skip
    record["model_args"] = {"name": hostile}
    record["refused"] = [{"path": hostile, "rule": hostile, "reason": hostile}]
    record["notes"] = [hostile]
    record["rules"] = [(hostile, f"a: {hostile}\n")]
    record["network"] = course()
    record["network"]["parts"][0]["path"] = hostile
    record["network"]["at"] = {f"{hostile}.bn": 5}
    record["mechanisms"] = [{**ECA, "title": hostile, "equation": hostile}]
    record["verification"] = {**VERIFIED, "notes": (hostile,)}
    record["load_note"] = hostile
    made = page(record, pictures=[Picture(PNG, hostile, hostile)])
    found = Reader(made)
    assert "script" not in found.tags
    assert found.tags.count("img") == 1
    assert found.tags.count("style") == 1
    assert hostile in found.text


def test_what_a_name_holds_is_spelled_out_on_the_page():
    hostile = "<script>\x1b[31m\u202e\x9b\udc80</script>"
    made = operation(model=hostile, where=hostile, output=hostile, load=hostile)
    made["sites"] = [{**one, "note": hostile, "path": hostile} for one in made["sites"]]
    made["rules"] = [(hostile, hostile)]
    text = page(made)
    text.encode("utf-8")
    assert printable(text) == text
    assert "script" not in Reader(text).tags
    assert "<script>\\x1b[31m\\u202e\\x9b\\udc80</script>" in Reader(text).text


def test_a_link_leads_only_to_the_web():
    card = {**ECA, "paper": "javascript:alert(1)"}
    assert 'href="javascript' not in page(operation(mechanisms=[card]))
    assert f'href="{ECA["paper"]}"' in page(operation())


def test_the_same_operation_gives_the_same_page():
    assert page(troubled()) == page(troubled())


def test_a_script_is_let_run_by_its_hash_alone():
    made = comparison_page(Grid(rows=[row("eca", 86, 1000), row("se", 900, 900)]))
    scripts = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    allowed = re.findall(r"script-src ([^\"]*)", unescape(made))[0].split()
    digests = [hashlib.sha256(text.encode()).digest() for text in scripts]
    assert allowed == [f"'sha256-{base64.b64encode(one).decode()}'" for one in digests]
    assert len(scripts) == 2
