"""Where authors put their mechanisms, as data -> the tables of docs/placements.md.

`python -m tests.published` writes the tables into both pages again; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.sites.analysis import sketch
from attnsurgeon.sites.survey import Survey
from tests.sites.test_families import EXPECTED, SIZE, build
from tests.surgery import surveyed

ROOT = Path(__file__).parents[1]
PUBLISHED: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests" / "published.yaml").read_text(encoding="utf-8")
)
DILATED = {"output_stride": 8}
STANDARD: tuple[dict[str, Any], ...] = (
    {"net": "resnet18"},
    {"net": "resnet50"},
    {"net": "resnet50", "args": DILATED},
    {"net": "mobilenetv2_100"},
)
PAGES = {"en": "docs/placements.md", "zh": "docs/placements.zh-CN.md"}
WORDS: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "tests" / "published_words.yaml").read_text(encoding="utf-8")
)


def survey_of(entry: Mapping[str, Any]) -> Survey:
    """The sites of a network of the data; each is looked at once."""
    return _surveyed(entry["net"], json.dumps(entry.get("args", {})), entry.get("build"))


@lru_cache
def _surveyed(net: str, args: str, built: str | None) -> Survey:
    if built is not None:
        return surveyed(build(EXPECTED[built]), SIZE)
    return sketch(net, **json.loads(args))[1]


def found(entry: Mapping[str, Any]) -> int:
    """How many sites the placement takes, by the data."""
    return entry.get("found", entry["sites"])


def cells(name: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Of each standard network: what is taken there, and what of it is cut."""
    entry = PUBLISHED[name]
    for network, taken in zip(STANDARD, entry["standard"], strict=True):
        cut = entry.get("cut", {}).get(network["net"], taken)
        yield network, taken, cut


def tables(language: str) -> tuple[str, str]:
    """The two tables of a page."""
    first, second = WORDS["heads"][language]
    standard = [[f"`{name}`", f"`{mechanisms()[name].placement}`", *_counts(name, language)]
                for name in PUBLISHED]  # fmt: skip
    networks = [row for name in PUBLISHED for row in _rows(name, language)]
    return _table(first, standard), _table(second, networks)


def _counts(name: str, language: str) -> Iterator[str]:
    theirs = [(e["net"], e.get("args", {})) for e in PUBLISHED[name]["networks"]]
    for network, taken, cut in cells(name):
        text = str(taken) if taken else WORDS["none"][language]
        if cut != taken:
            text = WORDS["cut"][language].format(taken=taken, cut=cut)
        bold = (network["net"], network.get("args", {})) in theirs
        yield f"**{text}**" if bold else text


def _rows(name: str, language: str) -> Iterator[list[str]]:
    entry, words = PUBLISHED[name], WORDS["why"][language]
    for network in entry["networks"]:
        taken, cut = found(network), network.get("cut", found(network))
        yield [
            f"`{name}`",
            _network(network, language),
            "?" if network["sites"] is None else str(network["sites"]),
            str(taken) if cut == taken else WORDS["cut"][language].format(taken=taken, cut=cut),
            f"`{network['first']}`",
            WORDS["from"][language][network["from"]],
            words[network["why"]] if "why" in network else "",
        ]
    if "why" in entry:
        place = " ".join(f"`{net}`" for net in entry.get("cut", {}))
        yield [f"`{name}`", place, "", "", "", "", words[entry["why"]]]


def _network(entry: Mapping[str, Any], language: str) -> str:
    if "build" in entry:
        return WORDS["built"][language][entry["build"]]
    stride = entry.get("args", {}).get("output_stride")
    return f"`{entry['net']}`" + (f", `output_stride={stride}`" if stride else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(text: str, language: str) -> str:
    """The page with the tables of the data between its marks."""
    for mark, table in zip(("standard", "networks"), tables(language), strict=True):
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- {mark} end -->)"
        text, times = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S)
        assert times == 1, f"no place for the table {mark!r}"
    return text


if __name__ == "__main__":
    for language, name in PAGES.items():
        page = ROOT / name
        page.write_text(written(page.read_text(encoding="utf-8"), language), encoding="utf-8")
