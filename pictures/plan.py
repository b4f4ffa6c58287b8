"""Draws docs/plan.svg: the rule file of the README, planned on a ResNet-50.

    python -m pictures.plan

Every block, module and figure in it is read from the plan and its cost.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from attnsurgeon.models import build_on_meta
from attnsurgeon.operate import plan_rules, rules_for, weigh_plan
from attnsurgeon.planning.plan import Plan
from attnsurgeon.rules.parse import parse_rules
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.site import Site
from pictures.svg import WIDTH, box, dot, line, picture, text, write

ROOT = Path(__file__).parents[1]
NETWORK = "resnet50"
TONES: tuple[str, ...] = (
    "orange",
    "purple",
)  # of the mechanisms, in the order in which they first appear
TRUNK, LEFT, BLOCK, GAP = 150, 34, 41.4, 22  # y of the trunk; x of the first block; widths
TIMES = "\u00d7"
SIDES = {56: 76, 28: 56, 14: 38, 7: 24}  # side of a map -> height of its block


def readme_rules() -> str:
    """Returns the rule file that the README shows."""
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert found, "README.md has no rule file"
    return found[1]


def planned(rules: str) -> Plan:
    """Returns what these rules do to the network, without weights."""
    file = rules_for(None, None, parse_rules(rules), None, "identity")
    survey = analyse(build_on_meta(NETWORK), None)
    return plan_rules(survey, file, init="identity", where=file.name or "rules")


def draw(plan: Plan) -> str:
    """Returns the picture of a plan: the network as a strip, with what goes into it."""
    branches = [site for site in plan.survey.sites if "residual-branch" in site.roles]
    put = {cut.site.path: cut.attn for cut in plan.cuts}
    tones = dict(zip(dict.fromkeys(put.values()), TONES, strict=True))
    heading = [
        text(24, 34, NETWORK, "fill-ink mono bold big"),
        text(24, 54, f"{len(branches)} residual blocks, {plan.where}.yaml", "fill-soft"),
    ]
    title = f"{NETWORK} with {' and '.join(tones)}"
    counts = Counter(put.get(site.path) for site in branches)
    strip = _strip(branches, {path: tones[attn] for path, attn in put.items()})
    return picture(300, title, [*heading, *_legend(tones, counts), *strip, *_price(plan)])


def _strip(branches: list[Site], tones: dict[str, str]) -> list[str]:
    """The blocks on their trunk, a gap between the stages."""
    parts: list[str] = []
    x = LEFT
    for _, stage in groupby(branches, key=lambda site: site.stage):
        sites = list(stage)
        parts += _stage(sites[0], x + BLOCK * len(sites) / 2 - 3)
        for site in sites:
            parts += _block(site, x, tones.get(site.path))
            x += BLOCK
        x += GAP
    end = x - GAP + 15
    trunk = f"M{LEFT - 12:g} {TRUNK}H{end:g}m-6 -5l7 5l-7 5"
    return [line(trunk, "line-soft", 2), *parts]


def _block(site: Site, x: float, tone: str | None) -> Iterator[str]:
    """A residual block: body and addition on the trunk, shortcut over it, attention between."""
    height = SIDES[site.shape[-1]]
    top = TRUNK - height / 2
    plus = x + BLOCK - 7
    shortcut = f"M{x:g} {TRUNK}V{top - 8:g}q0 -6 6 -6H{plus - 6:g}q6 0 6 6V{TRUNK}"
    yield line(shortcut, "line-faint", 1.3)
    yield box(x + 4, top, 14, height, "fill-body")
    if tone:
        yield box(x + 20, top - 3, 8, height + 6, f"fill-{tone}", 3.5)
    yield dot(plus, TRUNK, 5.5, "fill-soft")
    yield line(f"M{plus - 3:g} {TRUNK}h6m-3 -3v6", "line-ground", 1.4)


def _stage(site: Site, middle: float) -> Iterator[str]:
    size = TIMES.join(f"{side:,}" for side in site.shape[1:])
    yield text(middle, TRUNK + 68, f"stage {site.stage}", "fill-ink middle")
    yield text(middle, TRUNK + 84, size, "fill-soft small middle")


def _legend(tones: dict[str, str], counts: Counter[str | None]) -> Iterator[str]:
    rows = [(f"{counts[attn]} {TIMES} {attn}", tone) for attn, tone in tones.items()]
    rows.append((f"{counts[None]} left as they are", "body"))
    for at, (words, tone) in enumerate(reversed(rows)):
        x = WIDTH - 148 - 92 * at
        yield box(x, 23, 8, 16, f"fill-{tone}")
        yield text(x + 14, 35, words)


def _price(plan: Plan) -> Iterator[str]:
    cost = weigh_plan(plan)
    before, after, change = cost.before, cost.after, cost.delta
    yield line(f"M24 252H{WIDTH - 24}", "line-edge")
    for x, indent, what, figures in [
        (24, 82, "parameters", (before.params, after.params, change.params_percent)),
        (424, 46, "MACs", (before.macs, after.macs, change.macs_percent)),
    ]:
        yield text(x, 279, what, "fill-soft")
        yield text(x + indent, 279, "{:,} \u2192 {:,}  ({:+.2f} %)".format(*figures))


def readme_picture() -> str:
    """Returns the picture as it has to be today."""
    return draw(planned(readme_rules()))


if __name__ == "__main__":
    write(ROOT / "docs", "plan.svg", readme_picture())
