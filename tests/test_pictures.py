"""The pictures of the documentation are those that their scripts draw today."""

from xml.etree import ElementTree

import pytest

from attnsurgeon.attention.registry import mechanisms
from pictures import architecture, plan
from pictures.svg import COLOURS, WIDTH
from tests.test_layering import PACKAGE, WINGS

DOCS = PACKAGE.parent / "docs"


def committed(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.text]


def test_the_wings_are_drawn_as_they_are():
    stale = "docs/architecture.svg is stale: run `python -m pictures.architecture`"
    assert committed("architecture.svg") == architecture.architecture(), stale


def test_one_import_more_or_less_is_another_picture():
    used = architecture.imports()
    more = {**used, "recording": used["recording"] | {"attention"}}
    less = {**used, "splicing": used["splicing"] - {"planning"}}
    drawn = {architecture.architecture(one) for one in (used, more, less)}
    assert len(drawn) == 3


def test_every_wing_and_every_file_beside_them_is_in_the_picture():
    shown = " ".join(words(committed("architecture.svg"))).split()
    names = [
        w if (PACKAGE / w).is_dir() else f"{w}.py" for w in WINGS if w not in architecture.DOORS
    ]
    assert [name for name in names if name not in shown and f"{name}/" not in shown] == []


@pytest.fixture(scope="module")
def rules() -> str:
    return plan.readme_rules()


def test_the_rules_of_the_readme_are_drawn_as_they_are_planned(rules):
    stale = "docs/plan.svg is stale: run `python -m pictures.plan`"
    assert committed("plan.svg") == plan.draw(plan.planned(rules)), stale


def test_another_plan_is_another_picture(rules):
    others = rules.replace("reduction: 8", "reduction: 16")
    assert others != rules
    assert committed("plan.svg") != plan.draw(plan.planned(others))


@pytest.mark.parametrize("name", ["architecture.svg", "plan.svg"])
def test_a_picture_knows_both_grounds_and_fits_its_width(name):
    svg = committed(name)
    assert f'width="{WIDTH}"' in svg
    assert "prefers-color-scheme: dark" in svg
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for side in ("x", "cx"):
            assert 0 <= float(element.get(side, 0)) <= WIDTH
        used = [c.partition("-")[2] for c in element.get("class", "").split() if "-" in c]
        assert set(used) <= set(COLOURS)


def test_the_picture_of_the_plan_names_mechanisms(rules):
    (title, *_) = (w for w in words(committed("plan.svg")) if " with " in w)
    assert set(title.partition(" with ")[2].split(" and ")) <= set(mechanisms())


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2: from 1, no contrast, to 21."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "band"])
@pytest.mark.parametrize("ink", ["ink", "soft"])
def test_words_can_be_read_on_what_they_stand_on(theme, ground, ink):
    assert contrast(COLOURS[ink][theme], COLOURS[ground][theme]) >= 4.5


def test_the_check_for_contrast_can_fail():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast(COLOURS["faint"][0], COLOURS["ground"][0]) < 4.5
