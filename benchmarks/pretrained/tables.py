"""Results -> the tables of the page, in English and Chinese."""
# ruff: noqa: RUF001 -- Chinese has its own commas

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.pretrained.figures import (
    Results,
    difference,
    number,
    over_seeds,
    paired,
    percent,
    seeds_of,
    share,
)
from benchmarks.pretrained.training import (
    FROZEN_FIRST,
    LONG,
    MAIN,
    NEW_HEAD,
    RECIPE,
)

ATTENTION = ("se", "eca", "cbam", "triplet", "coord")
RATES = ("1e-4", "3e-4", "1e-3")
FACTORS = ("", "*3", "*10")
Header = dict[str, str]  # by language: the cells, with | between

_STARTS: Header = {
    "en": "mechanism | sites | identity: bit-equal | verified | paper: same top-1 | seeds",
    "zh": "机制 | 位置数 | identity：逐位相等 | 已验证 | paper：top-1 相同 | 种子数",
}
_TRANSFER: Header = {
    "en": "attention | start | step 0 | step 0, recalibrated | trained | trained, recalibrated | "
    "against none | seeds",
    "zh": "注意力 | 起点 | 第 0 步 | 第 0 步，重算统计量 | 训练后 | 训练后，重算统计量 | "
    "与无注意力之差 | 种子数",
}
_RATES: Header = {
    "en": "attention | rate of the network | of the attention | saturated after 8 steps | "
    "after 16 | same top-1 as before | accuracy | recalibrated | seeds",
    "zh": "注意力 | 网络学习率 | 注意力学习率 | 8 步后饱和 | 16 步后 | 与之前 top-1 相同 | "
    "准确率 | 重算统计量后 | 种子数",
}
_ORDER: Header = {
    "en": "start | attention | schedule | trained | trained, recalibrated | against all at once | "
    "seeds",
    "zh": "起点 | 注意力 | 日程 | 训练后 | 训练后，重算统计量 | 与同时训练之差 | 种子数",
}
_LONG: Header = {
    "en": "attention | trained | trained, recalibrated | against none | seeds",
    "zh": "注意力 | 训练后 | 训练后，重算统计量 | 与无注意力之差 | 种子数",
}
_NOTHING: Header = {"en": "(not measured yet)", "zh": "（尚未测量）"}


def parts(results: Results, language: str) -> dict[str, str]:
    """All tables by name."""
    made = {
        "starts": (_STARTS, starts(results)),
        "transfer": (_TRANSFER, transfer(results)),
        "rates": (_RATES, rates(results)),
        "order": (_ORDER, order(results)),
        "long": (_LONG, long(results)),
    }
    return {
        name: _table(header[language], rows) if rows else _NOTHING[language]
        for name, (header, rows) in made.items()
    }


def starts(results: Results) -> list[list[str]]:
    """Every mechanism that the network has a place for, by what is left of it under paper."""
    names = [name.split("|") for name in results if name.startswith("start|")]
    rows = []
    for attn in dict.fromkeys(attn for _, attn, init, _ in names if init == "identity"):
        exact = seeds_of(results, f"start|{attn}|identity")[0]
        if "refused" in exact:
            continue
        same = over_seeds(results, f"start|{attn}|paper", lambda entry: entry.get("agreement"))
        seeds = len(seeds_of(results, f"start|{attn}|paper"))
        verified = "✓" if not exact["problems"] else "✗"
        cells = [
            attn.replace("@", ", "),
            str(exact["sites"]),
            "✓" if exact["equal"] else "✗",
            verified,
        ]
        rows.append((-same.value if same else 1.0, [*cells, percent(same), str(seeds)]))
    return [row for _, row in sorted(rows)]


def transfer(results: Results) -> list[list[str]]:
    """Both starts on a network that knows digits, before training and after."""
    rows = []
    for attn, init in [("none", "identity"), *((a, i) for a in ATTENTION for i in INITS)]:
        case = f"train|transferred|{attn}|{init}|{MAIN}"
        if not seeds_of(results, case):
            continue
        moments = ("before", "before recalibrated", "after", "after recalibrated")
        cells = [number(over_seeds(results, case, _accuracy(moment))) for moment in moments]
        gain = _gain(results, case, f"train|transferred|none|identity|{MAIN}")
        start = "-" if attn == "none" else init
        rows.append([attn, start, *cells, gain, _seeds(results, case)])
    return rows


def rates(results: Results) -> list[list[str]]:
    """How fast the network and how fast the attention."""
    rows = []
    for attn in ("none", "cbam", "se"):
        for lr in RATES:
            for factor in FACTORS if attn != "none" else ("",):
                case = f"train|transferred|{attn}|identity|2@{lr}{factor}"
                if not seeds_of(results, case):
                    continue
                times = int(factor[1:] or 1)
                fast = "-" if attn == "none" else f"{float(lr) * times:.0e}".replace("e-0", "e-")
                shut = [share(over_seeds(results, case, _saturation(at))) for at in MOMENTS]
                same = percent(over_seeds(results, case, _agreement))
                cells = [number(over_seeds(results, case, _accuracy(at))) for at in RAW_AND_NOT]
                rows.append([attn, lr, fast, *shut, same, *cells, _seeds(results, case)])
    return rows


def order(results: Results) -> list[list[str]]:
    """What is new first, or everything at once."""
    pairs = [
        ("transferred", attn, way, once)
        for attn in ("se", "cbam")
        for way, once in ((FROZEN_FIRST, MAIN), (RECIPE, "2@1e-4*10"))
    ]
    slow, fast, frozen, recipe = NEW_HEAD
    pairs += [
        ("imagenet", attn, way, slow) for attn in ("none", "cbam") for way in (fast, frozen, recipe)
    ]
    rows = []
    for start, attn, way, once in pairs:
        cases = {s: f"train|{start}|{attn}|identity|{s}" for s in (once, way)}
        if not seeds_of(results, cases[way]):
            continue
        for schedule, case in cases.items():
            cells = [number(over_seeds(results, case, _accuracy(at))) for at in RAW_AND_NOT]
            gain = _gain(results, case, cases[once])
            row = [start, attn, f"`{schedule}`", *cells, gain, _seeds(results, case)]
            if row not in rows:
                rows.append(row)
    return rows


def long(results: Results) -> list[list[str]]:
    """Four times as many epochs."""
    rows = []
    for attn in ("none", "se", "eca", "cbam"):
        case, other = (f"train|transferred|{a}|identity|{LONG}" for a in (attn, "none"))
        if seeds_of(results, case):
            cells = [number(over_seeds(results, case, _accuracy(at))) for at in RAW_AND_NOT]
            rows.append([attn, *cells, _gain(results, case, other), _seeds(results, case)])
    return rows


INITS = ("identity", "paper")
MOMENTS = ("early", "after")
RAW_AND_NOT = ("after", "after recalibrated")


def _accuracy(moment: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.get(moment, {}).get("accuracy")


def _saturation(moment: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry.get(moment, {}).get("saturation")


def _agreement(entry: dict[str, Any]) -> float:
    return entry["after"]["agreement"]


def _gain(results: Results, case: str, other: str) -> str:
    if case == other:
        return ""
    return difference(paired(results, case, other, _accuracy("after recalibrated")))


def _seeds(results: Results, case: str) -> str:
    return str(len(seeds_of(results, case)))


def _table(header: str, rows: list[list[str]]) -> str:
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
