"""The pages point to what is there: links, the files they name, and the names in these files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# Where a path in backticks may start from.
ROOTS = (ROOT, ROOT / "attnsurgeon")
GUIDES = ["CONTRIBUTING.md", "docs/architecture.md"]
_FILE = r"[\w./-]+(?:/|\.(?:py|md|yaml|svg|toml))"


def prose(text: str) -> str:
    """The text without code blocks, in which nothing is a link."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def broken_links(text: str, page: Path) -> list[str]:
    """The links to files of the project that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        inside = file == ROOT or ROOT in file.parents
        if not inside or not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


def missing_files(text: str) -> list[str]:
    """The files and folders in backticks that do not exist; NAME and LIBRARY stand for any."""
    named = re.findall(rf"`({_FILE})`", text)
    patterns = [(name, re.sub("NAME|LIBRARY", "*", name).rstrip("/")) for name in named]
    return [name for name, p in patterns if not any(any(root.glob(p)) for root in ROOTS)]


def missing_names(text: str) -> list[str]:
    """What stands in brackets behind a file, and is not defined in it."""
    missing = []
    for name, _, inner in re.findall(rf"`({_FILE})`( )\(((?:`\w+`|, | and )+)\)", text):
        file = next((root / name for root in ROOTS if (root / name).is_file()), None)
        code = file.read_text(encoding="utf-8") if file else ""
        for word in re.findall(r"`(\w+)`", inner):
            if not re.search(rf"^(?:def {word}\(|class {word}\b|{word}\b.*=)", code, re.MULTILINE):
                missing.append(f"{name} ({word})")
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def test_the_check_of_links_can_fail():
    page = ROOT / "README.md"
    assert broken_links("[a](docs/zoo.md) [b](#tests) [c](docs/networks.md#limits)", page) == []
    text = "[a](docs/zoos.md) [b](#testes) [c](docs/networks.md#limit) [d](../elsewhere.md)"
    assert len(broken_links(text, page)) == 4
    assert broken_links("```\n[a](nowhere.md)\n```", page) == []


def test_every_page_of_the_docs_is_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose(page.read_text(encoding="utf-8")))
        todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert {page.name for page in PAGES if page not in reached} == set()


@pytest.mark.parametrize("name", GUIDES)
def test_every_file_that_a_guide_names_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(re.findall(rf"`{_FILE}`", text)) > 20
    assert missing_files(text) == []


@pytest.mark.parametrize("name", GUIDES)
def test_what_a_guide_names_in_a_file_is_defined_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.search(rf"`{_FILE}` \(`\w+`", text)
    assert missing_names(text) == []


def test_the_checks_of_files_and_names_can_fail():
    assert missing_files("`sites/survey.py`, `rules/NAME.yaml`, `report/`, `tests/sites/`") == []
    assert missing_files("`sites/surveys.py` `rules/NAME.yml.md` `reports/`") != []
    assert len(missing_files("`sites/surveys.py` `rules/NAME.toml` `reports/`")) == 3
    assert missing_names("`sites/site.py` (`ROLES`), `models/build.py` (`_FAMILIES`)") == []
    assert missing_names("`sites/site.py` (`ROLLS` and `Site`)") == ["sites/site.py (ROLLS)"]
    assert missing_names("`sites/sight.py` (`ROLES`)") == ["sites/sight.py (ROLES)"]


@pytest.mark.parametrize("title", ["a mechanism", "a placement", "a role", "another library"])
def test_each_way_to_add_something_is_at_most_ten_lines(title):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"^## (?:Add|Support) {title}\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert found
    assert 4 <= len(found[1].splitlines()) <= 10


def test_the_way_of_a_network_is_twelve_steps_and_names_every_wing_on_it():
    from pictures.architecture import JOURNEY

    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", text, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 13))
    order = [wing for _, words in steps for wing in re.findall(r"`(\w+)/", words)]
    firsts = [wing for wing in dict.fromkeys(order) if wing in JOURNEY]
    assert firsts == list(JOURNEY)
