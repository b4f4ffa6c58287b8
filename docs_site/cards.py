"""The card of a mechanism -> its page: nothing on it is written by hand."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.pictures import PICTURES
from attnsurgeon.attention.registry import REPLACES_A_CONV, Mechanism, mechanisms
from attnsurgeon.errors import SurgeonError
from attnsurgeon.models import build_on_meta
from attnsurgeon.report.record import card_record
from attnsurgeon.rules.placements import placements
from docs_site.equations import rendered

PRICED = "resnet50"
WIDTHS = (64, 256, 1024)
_AXES = {1: "signals (L)", 2: "maps (H, W)", 3: "clips (D, H, W)"}
_DOES = {
    "insert-after": "goes in behind a value",
    "replace": "takes the place of an operation",
    "fuse": "takes the place of an addition",
}


def linked(text: str) -> str:
    """Returns a page on which the first cell of a row that names a mechanism leads to its page."""
    names = "|".join(mechanisms())
    return re.sub(rf"^\| `({names})` \|", r"| [`\1`](mechanisms/\1.md) |", text, flags=re.M)


def page(card: Mechanism, docs: Path, drawn: str) -> str:
    """Returns the page of a mechanism.

    Args:
        card: of the mechanism.
        docs: the folder of the project's pages, for the tables that have a row for each mechanism.
        drawn: what its picture, `NAME.png` beside the page, is of, in words.
    """
    parts = [
        f"# {card.title}",
        f"`{card.name}` · {card.kind} · [{card.venue}]({card.paper})",
        rendered(card.equation),
        f"```\nattnsurgeon insert {PRICED} --attn {card.name}\n```",
        _section("Picture", _picture(card, drawn)),
        _section("Numbers", _numbers(card)),
        _section("Where", _where(card, docs)),
        _section("Arguments", _arguments(card)),
        _section("Start", _start(card)),
        _section("Ranks and sizes", _ranks(card)),
        _section("Deviations", _bullets(card.deviations)),
        _section("Portability", _row(docs / "portability.md", card.name)),
        _section("Code", _code(card)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _picture(card: Mechanism, drawn: str) -> str:
    names = [[f"`{name}`", PICTURES[name][0], PICTURES[name][1]] for name in card.picture.names]
    return "\n\n".join(
        [
            f"![What {card.name} does to a photograph]({card.name}.png){{ .gate }}",
            f"At {drawn} of random weights, with random weights of its own: the"
            f" form of its gate, and nothing that it has learned. It shows {card.picture.how}.",
            _table(
                ["picture", "shape", "what it is"],
                [[_escaped(cell) for cell in row] for row in names],
            ),
            "[`attnsurgeon.gates` and `heatmap`](../gates.md) show those of your network.",
        ]
    )


def _numbers(card: Mechanism) -> str:
    return "\n\n".join(
        part
        for part in (
            f"Parameters: `{card.formula}`.",
            _table(
                ["", *(f"C = {width:,}" for width in WIDTHS)],
                [["parameters", *(_params(card, width) for width in WIDTHS)]],
            ),
            _price(card),
            card.lighter and f"Lighter: {card.lighter}.",
        )
        if part
    )


def _params(card: Mechanism, width: int) -> str:
    """The number of parameters at a width; of what replaces a convolution, of one of 3 x 3."""
    source: int | nn.Module = width
    with torch.device("meta"):
        if card.kind in REPLACES_A_CONV:
            source = nn.Conv2d(width, width, 3, padding=1, bias=False)
    try:
        return f"{card.params(source):,}"
    except (SurgeonError, KeyError):
        return "depends on the site"


def _price(card: Mechanism) -> str:
    network = build_on_meta(PRICED)
    try:
        plan = attnsurgeon.plan(network, card.name)
        cost = attnsurgeon.estimate(network, card.name)
    except SurgeonError as error:
        return f"In {PRICED} its own placement takes nothing: {error.hint}."
    rows = []
    for name in ("params", "macs", "activations"):
        before, more = getattr(cost.before, name), getattr(cost.delta, name)
        rows.append([name, f"{before:,}", f"{more:+,}", f"{more / before:+.2%}"])
    rows[0][0], rows[1][0] = "parameters", "MACs"
    head = [f"{PRICED}, {len(plan)} sites", "before", "change", ""]
    return _table(head, rows)


def _where(card: Mechanism, docs: Path) -> str:
    message = {place.name: place.message for place in placements()}[card.placement]
    text = f"`{card.kind}`: it {_DOES[card.action]}. Its own placement, without `--where`, is"
    text += f" [`{card.placement}`](../rules.md): {message[0].lower()}{message[1:]}"
    if card.scope:
        chain = {"stage": "stage", "network": "network"}[card.scope]
        text += f" The sites of a {chain} form one chain"
        text += ", and share one module." if card.tied else "."
    if card.swallows_norm:
        text += " The norm behind the convolution is part of it."
    table = _row(docs / "placements.md", card.name)
    if table:
        text += f"\n\nSites that it takes; bold where its authors have them:\n\n{table}"
    return text


def _row(file: Path, name: str) -> str:
    """The tables of a page with the row of one mechanism alone; of several, the first."""
    if not file.exists():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(f"| `{name}` |")), None)
    if start is None:
        return ""
    head = start
    while not re.fullmatch(r"[|:\- ]+", lines[head]):
        head -= 1
    return "\n".join([*lines[head - 1 : head + 1], lines[start]])


def _arguments(card: Mechanism) -> str:
    rows, record = [], card_record(card)
    for name, meaning in record["meanings"].items():
        if name in ("channels", "conv", "rank"):
            continue
        required = name not in record["args"]
        default = "from the site" if required else f"`{_default(record['args'][name])}`"
        rows.append([f"`{name}`", default, _escaped(meaning)])
    if not rows:
        return ""
    table = _table(["argument", "default", "meaning"], rows)
    if not card.args:
        return table
    first = next(iter(card.args))
    return f"{table}\n\nOn the command line `--arg {first}=...`, in Python `attn_args={{...}}`."


def _default(value: Any) -> str:
    """A default as `--arg` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _start(card: Mechanism) -> str:
    lines = [
        f"`--init identity`, the default, is *{card.identity}*: {card.identity_how}.",
        "`--init paper` starts as its authors start it.",
        *(f"`{name}` does not learn in training mode: see below." for name in card.unmoved),
        *(f"`{name}` cannot learn, and is kept for the authors' count." for name in card.inert),
    ]
    return _bullets(lines)


def _ranks(card: Mechanism) -> str:
    lines = [
        f"For {', '.join(_AXES[rank] for rank in card.ranks)}."
        + (f" {card.rank_reason[0].upper()}{card.rank_reason[1:]}." if card.rank_reason else ""),
        "One instance may see several resolutions."
        if card.resolution_free
        else "An instance is for the resolution that it was made for.",
        "It needs a map of positions: rows of tokens that stand for one are turned into it."
        if card.spatial
        else "Where a position lies does not matter to it, so it also takes rows of tokens.",
        *(f"Needs `{need}`." for need in card.constraints),
    ]
    return _bullets(lines)


def _code(card: Mechanism) -> str:
    source = textwrap.dedent(inspect.getsource(card.build))
    source = source[source.index("class ") :]
    module = card.build.__module__.replace(".", "/")
    block = textwrap.indent(f"```python\n{source.rstrip()}\n```", "    ")
    return f'??? note "`{module}.py`"\n\n{block}'
