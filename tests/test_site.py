"""The site has every page, every card in full, every equation whole, and no link to nowhere."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
import yaml

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cli.app import app
from docs_site import cards, markdown, nav, reference
from docs_site.equations import GREEK, rendered

ROOT = Path(__file__).parents[1]
MADE = {"api.md", "commands.md", "changelog.md", "contributing.md"}  # beside those of docs/


class _Loader(yaml.SafeLoader):
    """Reads the configuration of mkdocs without making what it names in Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def configuration() -> dict:
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def pages_of(part: object) -> list[str]:
    """Every file that a nav names."""
    if isinstance(part, dict):
        return [page for inner in part.values() for page in pages_of(inner)]
    if isinstance(part, list):
        return [page for inner in part for page in pages_of(inner)]
    return [str(part)]


def forgotten(docs: Path, menu: object) -> set[str]:
    """The pages in English that no entry of the nav leads to."""
    written = {file.name for file in docs.glob("*.md") if markdown.CHINESE not in file.name}
    return written - set(pages_of(nav.filled(menu, docs)))


def test_the_nav_leads_to_every_page_once():
    menu = configuration()["nav"]
    assert forgotten(ROOT / "docs", menu) == set()
    named = pages_of(nav.filled(menu, ROOT / "docs"))
    assert len(named) == len(set(named))
    top = {page for page in named if "/" not in page and not (ROOT / "docs" / page).exists()}
    assert top == MADE


def test_a_page_that_the_nav_forgets_is_found(tmp_path):
    for name in ("index.md", "new.md", "new.zh-CN.md", "training.md"):
        (tmp_path / name).write_text("# Page\n")
    assert forgotten(tmp_path, [{"Home": "index.md"}, "training*.md"]) == {"new.md"}
    assert forgotten(tmp_path, [{"Home": "index.md"}, {"All": ["*.md"]}]) == set()


def test_a_star_in_the_nav_is_as_many_pages_as_there_are(tmp_path):
    (tmp_path / "one").mkdir()
    for name in ("two_words.md", "index.md", "se.md", "se.zh-CN.md"):
        (tmp_path / "one" / name).write_text("# Page\n")
    named = [{"se": "one/se.md"}, {"Two words": "one/two_words.md"}]
    assert nav.filled([{"Each": "one/*.md"}], tmp_path) == [{"Each": named}]
    assert nav.filled(["none*.md", "one/s*.md"], tmp_path) == ["one/se.md"]


def test_every_title_of_the_nav_is_in_chinese_too():
    config = configuration()
    (languages,) = [plugin["i18n"]["languages"] for plugin in config["plugins"] if "i18n" in plugin]

    def titles(part: object) -> set[str]:
        if isinstance(part, dict):
            return set(part) | {t for inner in part.values() for t in titles(inner)}
        return {t for inner in part for t in titles(inner)} if isinstance(part, list) else set()

    assert titles(config["nav"]) <= set(languages[1]["nav_translations"])


def test_nothing_is_asked_of_another_server():
    config = configuration()
    assert config["theme"]["font"] is False
    assert config["strict"] is True
    assert "extra_javascript" not in config
    style = (ROOT / "docs_site" / "site.css").read_text()
    assert config["extra_css"] == ["site.css"]
    assert "url(" not in style
    assert "@import" not in style


# ------------------------------------------------------------------ pages of the project


def test_a_page_loses_what_is_for_github_and_its_links_stay_right():
    text = """\
# Title

[简体中文](one.zh-CN.md) · [README](../README.md)

See [rules](rules.md#places), [README](../README.md), [the loop](../examples/the_whole_loop.py),
[all](../examples), [how](../CONTRIBUTING.md) and [there](https://example.org/a.md):
- one

<!-- table -->
| a |
|---|

```
[kept](../nowhere.md)
- kept
```
"""
    made = """\
# Title

See [rules](rules.md#places), [README](index.md), [the loop](examples/the_whole_loop.md),
[all](examples/index.md), [how](contributing.md) and [there](https://example.org/a.md):

- one


| a |
|---|

```
[kept](../nowhere.md)
- kept
```
"""
    assert markdown.page(text) == made


def test_a_link_that_has_no_page_is_an_error():
    with pytest.raises(ValueError, match=r"no page for tests/test_site\.py"):
        markdown.page("# A\n\nSee [it](../tests/test_site.py) there.\n")
    assert "[a](rules.md)" in markdown.page("# A\n\nSee [a](docs/rules.md) there.\n", "")


def test_lines_of_a_paragraph_and_of_a_table_are_no_list():
    for text in ("one\ntwo - three\n", "| a |\n|---|\n| - b |\n", "- one\n- two\n", "1. a\n2. b\n"):
        assert markdown.page(f"# T\n\n{text}") == f"# T\n\n{text}"


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.md")), ids=lambda file: file.name)
def test_every_page_can_be_one_of_the_site(file):
    made = markdown.page(file.read_text(encoding="utf-8"))
    assert made.startswith("# ")
    assert "../" not in re.sub(r"```.*?```|`[^`]*`", "", made, flags=re.DOTALL)


# ------------------------------------------------------------------ equations


TIMES, MINUS, PRIME = "\u00d7", "\u2212", "\u2032"


def math(*parts: str) -> str:
    inner = "".join(parts)
    return f'<p style="--depth: 0"><math displaystyle="true">{inner}</math></p>'


def mi(name: str) -> str:
    return f"<mi>{name}</mi>"


def mo(sign: str) -> str:
    return f"<mo>{sign}</mo>"


def called(name: str, inner: str) -> str:
    brackets = (f'<mo stretchy="false">{sign}</mo>' for sign in "()")
    left, right = brackets
    return f"<mrow>{name}<mrow>{left}{inner}{right}</mrow></mrow>"


THIN = '<mspace width="0.17em"></mspace>'
EQUATIONS = {
    "y = x * gate": [mi("y"), mo("="), mi("x"), mo(TIMES), mi("gate")],
    "c' = W2": [f"<msup>{mi('c')}{mo(PRIME)}</msup>", mo("="), f"<msub>{mi('W')}{mi('2')}</msub>"],
    "z_c = 1e-5": [
        *(f"<msub>{mi('z')}{mi('c')}</msub>", mo("=")),
        f"<msup><mn>10</mn><mn>{MINUS}5</mn></msup>",
    ],
    "a = (x - 1) / 3": [
        *(mi("a"), mo("="), "<mfrac><mrow>", mi("x"), mo(MINUS)),
        "<mn>1</mn></mrow><mrow><mn>3</mn></mrow></mfrac>",
    ],
    "C/4": [mi("C"), mo("/"), "<mn>4</mn>"],
    "d = sqrt(x^2)": [
        *(mi("d"), mo("=")),
        f"<msqrt><msup>{mi('x')}<mn>2</mn></msup></msqrt>",
    ],
    "y = relu(x)": [mi("y"), mo("="), called(mi("relu"), mi("x"))],
    "lambda p x p": [mi("λ"), THIN, mi("p"), mo(TIMES), mi("p")],
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_an_equation_is_mathml(text):
    made = math(*EQUATIONS[text])
    assert rendered(text) == f'<div class="equation" markdown="0">{made}</div>'


def test_words_stand_in_the_page_so_that_a_line_breaks_between_them():
    made = rendered("  s = sum over a group of x, once")
    prose = re.sub(r"<math.*?</math>", "M", made)
    assert re.findall("<p.*</p>", prose) == [
        '<p style="--depth: 1">M sum over a group of M once</p>'
    ]


def letters(text: str) -> str:
    """What of a text has to be in the page: letters and digits, Greek ones in one letter."""
    for name in sorted(GREEK, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z]){name}(?![a-z])", GREEK[name], text)
    return re.sub(r"[\W_]", "", text)


@pytest.mark.parametrize("card", mechanisms().values(), ids=lambda card: card.name)
def test_nothing_of_an_equation_is_lost(card):
    made = rendered(card.equation)
    assert made.count("<math") == made.count("</math>") > 0
    shown = letters(unescape(re.sub(r"<[^>]+>", " ", made)).replace(TIMES, "x"))
    text = re.sub(r"\bsqrt\b", "", card.equation).replace("1e-5", "10-5").replace("*", "x")
    assert shown == letters(text)


# ------------------------------------------------------------------ pages made from the code


def test_the_page_of_a_mechanism_has_what_its_card_has():
    card = mechanisms()["se"]
    made = cards.page(card, ROOT / "docs", "`layer2.0.bn2` of a ResNet-18")
    assert made.startswith("# Squeeze-and-excitation\n")
    assert rendered(card.equation) in made
    assert "| parameters | 580 | 8,464 | 132,160 |" in made  # 2C(C/16) + C/16 + C
    assert "| resnet50, 16 sites | before | change |" in made
    assert "| parameters | 25,557,032 | +2,530,992 | +9.90% |" in made  # 28.09 M in all
    assert "| `se` | `block-branch` | 8 | **16** | 16 | 17 |" in made
    assert "| `reduction` | `16` |" in made
    assert "| `hidden` | `null` |" in made
    assert all(f"- {deviation}" in made for deviation in card.deviations)
    assert "class SE(" in made


def test_a_card_takes_its_row_of_the_table_of_portability(tmp_path):
    table = "| mechanism | onnx |\n|---|---|\n| `eca` | yes |\n| `se` | no: why |\n"
    (tmp_path / "portability.md").write_text(f"# Portability\n\n{table}")
    made = cards.page(mechanisms()["se"], tmp_path, "`layer2.0.bn2` of a ResNet-18")
    assert "## Portability\n\n| mechanism | onnx |\n|---|---|\n| `se` | no: why |\n\n" in made
    assert "`eca`" not in made


def test_where_its_placement_takes_nothing_a_page_says_what_does():
    made = cards.page(mechanisms()["coord"], ROOT / "docs", "`layer1.0.bn2` of a ResNet-18")
    assert "In resnet50 its own placement takes nothing: try where='residual-branch'" in made


def test_a_table_of_mechanisms_leads_to_their_pages():
    text = "| `se` | gate |\n| `see` | `se` |\nsome `se` | x\n"
    made = "| [`se`](mechanisms/se.md) | gate |\n| `see` | `se` |\nsome `se` | x\n"
    assert cards.linked(text) == made


def test_the_page_of_the_interface_has_every_public_name_once():
    named = re.findall(r"^::: attnsurgeon\.(\w+)$", reference.api_page(), re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(attnsurgeon.__all__)
    assert {name for names in reference.GROUPS.values() for name in names} <= set(named)


def test_the_page_of_the_commands_has_every_command_and_its_options():
    made = reference.commands_page()
    titles = set(re.findall(r"^## attnsurgeon ([\w-]+)", made, re.MULTILINE))
    assert titles == set(app.list_commands(None))  # pyright: ignore[reportArgumentType]
    insert = made[made.index("## attnsurgeon insert") : made.index("## attnsurgeon plan")]
    assert (
        "| <code>--init &#91;identity&#124;paper&#93;</code> | Start with bit-equal outputs"
        in insert
    )
    assert "\b" not in made


def test_the_page_of_an_example_is_its_words_and_its_code(tmp_path):
    file = tmp_path / "one_way.py"
    file.write_text('"""The first line.\n\nMore words.\n"""\n\nimport torch\n')
    made = reference.example_page(file)
    assert made.startswith("# One way\n\nThe first line.\n\nMore words.\n")
    assert made.endswith("```python\nimport torch\n```\n")
    assert "- [One way](one_way.md): The first line.\n" in reference.examples_page([file])
