"""The commands of the how-to pages do what they say: each page's in order, in a folder of its own.

A network of the same form and a quarter of the width stands for ResNet-50, and measuring takes a
moment in place of minutes; else they are run as they are printed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm.models
import timm.models.resnet
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images

from attnsurgeon.attention.own.plugins import GROUP
from attnsurgeon.cli.app import app
from tests.test_readme import PAGES as BILINGUAL
from tests.test_readme import ROOT, SESSIONS, blocks, read
from tests.test_tutorial import commands, missing

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").glob("*.md")
    if ".zh-CN" not in path.name and path.relative_to(ROOT).as_posix() not in SESSIONS
)
# What is a command of the shell in blocks without a language.
STARTS = ("attnsurgeon ", "python -m ", "pip install ", "torchrun ")
LANGUAGES = {"", "python", "yaml", "toml", "text", "console"}
WRITES = ("-o", "--html", "--save-all", "--journal")  # what a command writes stands behind these
# Blocks of no command: what they show is tested where its page is made.
TABLES = {"docs/suggest.md": "  site                             attn"}
MINE = '''
import timm
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return timm.create_model("test_resnet")


class MyAttention(nn.Module):
    """Scales each channel by a number that it learns."""

    def __init__(self, channels, groups=1):
        super().__init__()
        self.scale = nn.Conv2d(channels, channels, 1, groups=groups)

    def forward(self, x):
        return x * self.scale(x.mean((2, 3), keepdim=True)).sigmoid()
'''
RULES = """\
version: 1
name: mine
rules:
  - id: mine
    match: {site: residual-branch}
    attn: {type: "my.py:MyAttention", args: {groups: 1}}
tests:
  - model: test_resnet
    expect: {mine: {count: 4}}
"""


def marked(page: str) -> list[tuple[str, str, str]]:
    """Every block: the test that its mark names, "" of most; its language; and what it holds."""
    fence = r"^(?:<!-- tested in (\S+) -->\n)?```(\w*)\n(.*?)^```$"
    return re.findall(fence, read(page), re.MULTILINE | re.DOTALL)


def here_to_run(page: str, language: str) -> list[str]:
    """The blocks of a language that no other test runs."""
    return [block for test, said, block in marked(page) if said == language and not test]


def lines(page: str) -> Iterator[str]:
    """The commands of a page, one a line."""
    for block in here_to_run(page, ""):
        if not block.startswith(TABLES.get(page, "\0")):
            yield from re.sub(r"\\\n\s*", "", block).splitlines()


COMMANDS = {page: [shlex.split(line, comments=True) for line in lines(page)] for page in PAGES}
RUN = [page for page in PAGES if any(words[:1] == ["attnsurgeon"] for words in COMMANDS[page])]


def slim(pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
    """ResNet-50 with as many blocks, and a quarter of the channels."""
    return timm.models.build_model_with_cfg(
        *(timm.models.resnet.ResNet, "resnet50", False),
        block=timm.models.resnet.Bottleneck,
        layers=(3, 4, 6, 3),
        channels=(16, 32, 64, 128),
        **arguments,
    )


def quick(words: list[str]) -> list[str]:
    """A command that measures for a moment, and asks for no weights that would be fetched."""
    words = [word for word in words if word != "--pretrained"]
    if "--seconds" in words:
        words[words.index("--seconds") + 1] = "0.2"
    elif {"--latency", "--max-latency", "--max-memory"} & set(words):
        words += ["--seconds", "0.2"]
    if "--data" in words:
        words += ["--attn", "se,eca", "--steps", "1", "--seeds", "1", "--images", "10"]
    return words


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with everything that the pages take as given."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "my.py").write_text(MINE)
    (folder / "mine.yaml").write_text(RULES)
    (folder / "photos").mkdir()
    for at, photo in enumerate(load_sample_images().images):
        Image.fromarray(photo).resize((160, 120)).save(folder / "photos" / f"{at}.jpg")
    shutil.copy(folder / "photos" / "0.jpg", folder / "cat.jpg")
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return folder


def test_every_block_is_of_a_language_that_is_tested():
    said = {
        language
        for page in PAGES
        for language in re.findall(r"^```(\w*)\n.*?^```$", read(page), re.MULTILINE | re.DOTALL)
    }
    assert said <= LANGUAGES


def test_every_line_of_a_block_without_a_language_is_a_command():
    wrong = [
        line
        for page in PAGES
        for line in lines(page)
        if line.strip() and not line.startswith(STARTS)
    ]
    assert wrong == []
    assert sum(map(len, COMMANDS.values())) > 25


@pytest.mark.parametrize("page", PAGES)
def test_what_is_no_command_of_ours_names_what_there_is(page):
    extras = read_extras()
    for words in COMMANDS[page]:
        if words[:2] == ["pip", "install"]:
            asked = re.findall(r"attnsurgeon\[([\w,-]+)\]", " ".join(words))
            assert {name for names in asked for name in names.split(",")} <= extras
        if "-m" in words:
            module = words[words.index("-m") + 1]
            assert importlib.util.find_spec(module) is not None, module


def read_extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    part = text[text.index("[project.optional-dependencies]") : text.index("[project.scripts]")]
    return set(re.findall(r"^([\w-]+) = \[", part, re.MULTILINE))


def test_such_names_can_be_wrong():
    assert "evidence" in read_extras()
    assert "evidences" not in read_extras()
    assert importlib.util.find_spec("benchmarks.nothing") is None


LONG = ("docs/comparing.md", "docs/measuring.md", "docs/pictures.md", "docs/suggest.md")
# What a page takes as given beside the photographs: folder -> network and mechanism in it.
GIVEN = {
    "docs/exporting.md": {"r50-eca": ("resnet50", "eca")},
    "docs/pictures.md": {"r50-cbam": ("resnet50", "cbam"), "r50-trained": ("resnet50", "cbam")},
    "docs/trust.md": {"out": ("test_resnet", "my.py:MyAttention")},
}


def test_a_block_that_another_test_runs_names_it():
    named = {test for page in PAGES for test, _, _ in marked(page) if test}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_the_mark_of_a_block_is_read(monkeypatch):
    text = "```python\na\n```\n\n<!-- tested in tests/x.py -->\n```python\nb\n```\n"
    monkeypatch.setattr("tests.test_how_to.read", lambda _: text)
    assert marked("") == [("", "python", "a\n"), ("tests/x.py", "python", "b\n")]
    assert here_to_run("", "python") == ["a\n"]


OTHERS = [page for page in PAGES if page not in BILINGUAL and here_to_run(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", OTHERS)
def test_the_python_of_a_page_in_one_language_runs_and_asserts_something(page, here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    for folder, (model, attn) in GIVEN.get(page, {}).items():
        given(folder, model, attn)
    for block in here_to_run(page, "python"):
        assert "assert " in block
        exec(compile(block, page, "exec"), {"__name__": "page"})


def test_the_entry_points_shown_are_those_that_are_read():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    (block,) = blocks("docs/mechanisms.md", "toml")
    assert list(tomllib.loads(block)["project"]["entry-points"]) == [GROUP]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.nightly if page in LONG else pytest.mark.slow)
        for page in RUN
    ],
)
def test_the_commands_of_a_page_do_what_they_say(page, here, monkeypatch):
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "resnet50", slim)
    for folder, (model, attn) in GIVEN.get(page, {}).items():
        given(folder, model, attn)
    if page == "docs/suggest.md":
        torch.save(slim(num_classes=10).state_dict(), "r50.pth")
        sort_into_classes(here / "photos")
    before = set(os.listdir())
    for words in COMMANDS[page]:
        if words[:1] != ["attnsurgeon"]:
            continue
        done = CliRunner().invoke(app, quick(words[1:]), env={"COLUMNS": "100"})
        limited = any(word.startswith("--max-") for word in words) and words[1] == "insert"
        # A limit may be exceeded; of random weights a trial may say that nothing is worth anything.
        answers = (0, 1) if limited or "--data" in words else (0,)
        assert done.exit_code in answers, (words, done.output, done.exception)
        assert done.output, words
        for option in WRITES:
            if option in words and not done.exit_code:
                assert Path(words[words.index(option) + 1]).exists(), words
    named = {w[w.index(o) + 1] for w in COMMANDS[page] for o in WRITES if o in w}
    assert set(os.listdir()) - before <= named  # and nothing else is written


def given(folder: str, model: str, attn: str) -> None:
    words = ["insert", model, "--attn", attn, "--where", "residual-branch", "-o", folder]
    done = CliRunner().invoke(app, [*words, "--input-size", "3,64,64", "--verify", "none"])
    assert done.exit_code == 0, done.output


def sort_into_classes(photos: Path) -> None:
    """One folder for each of ten classes, as a trial on images wants it."""
    files = sorted(photos.glob("*.jpg"))
    for at in range(10):
        (photos / f"class{at}").mkdir()
        for copy in range(4):
            shutil.copy(files[at % len(files)], photos / f"class{at}" / f"{copy}.jpg")
    for file in files:
        file.unlink()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "text")])
def test_what_is_shown_of_a_command_is_what_it_prints(page):
    for block in blocks(page, "text"):
        shown = list(commands(block))
        assert shown
        for words, wanted in shown:
            done = CliRunner().invoke(app, words[1:], env={"COLUMNS": "200"})
            assert wanted
            assert missing(wanted, done.output) == [], done.output
