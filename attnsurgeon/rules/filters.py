"""One matcher, one site -> the reasons why it does not match, a filter for every key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from attnsurgeon.errors import RuleError
from attnsurgeon.rules.describe import describe, listed
from attnsurgeon.rules.document import shortened
from attnsurgeon.rules.schema import Matcher, ModuleMatcher
from attnsurgeon.sites.site import ModuleRef, Site

MAX_SECONDS = 2.0  # to match a rule file against one network; usual files take milliseconds


class Clock:
    """Ends what takes too long. A small file can ask for more than a life is long."""

    def __init__(self) -> None:
        self._until = time.monotonic() + MAX_SECONDS

    def check(self) -> None:
        """Raises RuleError when the time is up."""
        if time.monotonic() > self._until:
            raise RuleError(
                f"matching the rules against this network takes longer than {MAX_SECONDS:g} s",
                "write fewer matchers, and name what several share in `define`",
            )


@dataclass(frozen=True)
class Scene:
    """What a filter may look at beside the site itself.

    Attributes:
        sites: every site of the network by path.
        define: the rule file's named matchers.
        last_stage: the number of the last stage, or None where no stage is known.
        clock: ends the matching.
        known: (matcher, site) -> why it does not match. Matchers that refer to one another are
            asked about the same site again and again: twice as often with every name.
    """

    sites: Mapping[str, Site]
    define: Mapping[str, Matcher]
    last_stage: int | None
    clock: Clock = field(default_factory=Clock, compare=False, repr=False)
    known: dict[tuple[int, str], str | None] = field(
        default_factory=dict, compare=False, repr=False
    )


def misses(matcher: Matcher, site: Site, scene: Scene) -> Iterator[str]:
    """Yields a reason for every key of `matcher` that `site` does not pass, in schema order."""
    for name, filter_ in _FILTERS.items():
        wanted = getattr(matcher, name)
        if wanted is not None:
            scene.clock.check()
            reason = filter_(wanted, site, scene)
            if reason is not None:
                yield shortened(reason)


def first_miss(matcher: Matcher, site: Site, scene: Scene) -> str | None:
    """Returns why `site` does not match, or None where it does."""
    key = id(matcher), site.path
    if key not in scene.known:
        scene.known[key] = next(misses(matcher, site, scene), None)
    return scene.known[key]


def _site(wanted: tuple[str, ...], site: Site, _: Scene) -> str | None:
    if site.roles.isdisjoint(wanted):
        return f"its roles are {', '.join(sorted(site.roles)) or 'none'}, not {listed(wanted)}"
    return None


def _text(noun: str) -> Callable[..., str | None]:
    def check(wanted: tuple[Any, ...], thing: Site | ModuleRef, _: object = None) -> str | None:
        text = thing.path if noun == "name" else thing.type
        if any(pattern.holds(text) for pattern in wanted):
            return None
        return f"{noun} {text!r} is not {listed(wanted)}"

    return check


def _stage(wanted: tuple[Any, ...], site: Site, scene: Scene) -> str | None:
    if site.stage is None or scene.last_stage is None:
        return "stage is unknown"
    from_last = site.stage - scene.last_stage - 1
    for test in wanted:
        # A negative number counts from the last stage; so does a comparison with one.
        if test.holds(from_last if test.low < 0 else site.stage):
            return None
    return f"stage {site.stage} of {scene.last_stage} is not {listed(wanted)}"


def _number(noun: str, unknown: str) -> Callable[[tuple[Any, ...], Site, Scene], str | None]:
    def check(wanted: tuple[Any, ...], site: Site, _: Scene) -> str | None:
        number = getattr(site, noun)
        if number is None:
            return unknown
        if any(test.holds(round(number)) for test in wanted):
            return None
        return f"{noun} {number:g} is not {listed(wanted)}"

    return check


def _sides(noun: str, unknown: str) -> Callable[[tuple[Any, ...], Site, Scene], str | None]:
    def check(wanted: tuple[Any, ...], site: Site, _: Scene) -> str | None:
        sides = getattr(site, noun)
        if not sides:
            return unknown
        if any(test.holds(tuple(sides)) for test in wanted):
            return None
        return f"{noun} {'x'.join(str(side) for side in sides)} is not {listed(wanted)}"

    return check


def _depthwise(wanted: bool, site: Site, _: Scene) -> str | None:
    if site.depthwise is None:
        return "is not a convolution"
    if site.depthwise == wanted:
        return None
    return "is not depthwise" if wanted else "is depthwise"


def _branch(wanted: tuple[Any, ...], site: Site, _: Scene) -> str | None:
    if site.branch is None:
        return "is not the end of a residual branch"
    if any(pattern.holds(site.branch) for pattern in wanted):
        return None
    return f"its branch runs {' '.join(site.branch) or 'no convolution'!r}, not {listed(wanted)}"


def _layout(wanted: tuple[str, ...], site: Site, _: Scene) -> str | None:
    if site.layout in wanted:
        return None
    return f"layout {site.layout or 'unknown'} is not {listed(wanted)}"


def _matches(wanted: tuple[str, ...], site: Site, scene: Scene) -> str | None:
    reasons = [(name, first_miss(scene.define[name], site, scene)) for name in wanted]
    if any(reason is None for _, reason in reasons):
        return None
    return "; ".join(f"is not {name}: {reason}" for name, reason in reasons)


def _any(wanted: tuple[Any, ...], reasons: list[str | None]) -> str | None:
    if None in reasons:
        return None
    return f"none of {len(wanted)}: {'; '.join(str(reason) for reason in reasons)}"


def _all(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _not(wanted: Matcher | ModuleMatcher, reason: str | None) -> str | None:
    return f"is excluded by not ({describe(wanted)})" if reason is None else None


def _modules(noun: str, words: str) -> Callable[[ModuleMatcher, Site, Scene], str | None]:
    def check(wanted: ModuleMatcher, site: Site, scene: Scene) -> str | None:
        if any(_module_miss(wanted, one, scene.clock) is None for one in getattr(site, noun)):
            return None
        return f"{words} ({describe(wanted)})"

    return check


def _module_miss(wanted: ModuleMatcher, module: ModuleRef, clock: Clock) -> str | None:
    """Returns why a module does not match, or None where it does."""
    clock.check()
    reasons = []
    if wanted.name is not None:
        reasons.append(_text("name")(wanted.name, module))
    if wanted.type is not None:
        reasons.append(_text("type")(wanted.type, module))
    if wanted.any_of is not None:
        inner = [_module_miss(one, module, clock) for one in wanted.any_of]
        reasons.append(_any(wanted.any_of, inner))
    if wanted.all_of is not None:
        reasons.append(_all(_module_miss(one, module, clock) for one in wanted.all_of))
    if wanted.not_ is not None:
        reasons.append(_not(wanted.not_, _module_miss(wanted.not_, module, clock)))
    first = _all(reasons)
    return None if first is None else shortened(first)


def _neighbours(noun: str) -> Callable[[Matcher, Site, Scene], str | None]:
    def check(wanted: Matcher, site: Site, scene: Scene) -> str | None:
        # A neighbour need not be a site: the input of the network is none.
        sites = [scene.sites[path] for path in getattr(site, noun) if path in scene.sites]
        if any(first_miss(wanted, near, scene) is None for near in sites):
            return None
        return f"{noun} no site with ({describe(wanted)})"

    return check


# By field of `Matcher`, in the order in which reasons are given: what the site is, then where.
_FILTERS: Mapping[str, Callable[[Any, Site, Scene], str | None]] = {
    "site": _site,
    "name": _text("name"),
    "type": _text("type"),
    "stage": _stage,
    "channels": _number("channels", "channels are unknown"),
    "resolution": _sides("resolution", "has no known spatial sides"),
    "stride": _number("stride", "stride is unknown"),
    "kernel": _sides("kernel", "is not a convolution"),
    "conv_stride": _sides("conv_stride", "is not a convolution"),
    "groups": _number("groups", "is not a convolution"),
    "depthwise": _depthwise,
    "branch": _branch,
    "layout": _layout,
    "matches": _matches,
    "any_of": lambda wanted, site, scene: _any(
        wanted, [first_miss(one, site, scene) for one in wanted]
    ),
    "all_of": lambda wanted, site, scene: _all(first_miss(one, site, scene) for one in wanted),
    "not_": lambda wanted, site, scene: _not(wanted, first_miss(wanted, site, scene)),
    "inside": _modules("inside", "is inside no module with"),
    "has": _modules("has", "has no module with"),
    "follows": _neighbours("follows"),
    "precedes": _neighbours("precedes"),
}
