"""Rules and a few words more (a path, stages, channels, every second) -> rules that take less."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attnsurgeon.errors import UsageError
from attnsurgeon.rules.checking import check
from attnsurgeon.rules.schema import RuleFile

_COUNTS = ("nth", "first", "last")
_PATTERN = re.compile(r"[*?\[]|^re:")


@dataclass(frozen=True)
class Narrowing:
    """What a call says about where beside its placement; keys of a matcher, all of which must hold.

    Attributes:
        at: paths or patterns of paths; a path that is no pattern means what is inside as well.
        stage, channels: as a matcher has them: `[-2, -1]`, `">=128"`.
        every: 2 for every second site of what is left, from the second on.
    """

    at: tuple[str, ...] = ()
    stage: Any = None
    channels: Any = None
    every: int | None = None

    @classmethod
    def of(
        cls, at: str | Iterable[str] | None, stage: Any, channels: Any, every: int | None
    ) -> Narrowing:
        """Returns what keywords say.

        Raises:
            UsageError: `every` is no number of sites.
        """
        if every is not None and (type(every) is not int or every < 1):
            raise UsageError(f"every {every!r} is no number of sites", "2 takes every second")
        paths = (at,) if isinstance(at, str) else tuple(at or ())
        return cls(paths, stage, channels, every)

    def __bool__(self) -> bool:
        return any(value not in (None, ()) for value in vars(self).values())

    def __str__(self) -> str:
        said = {name: value for name, value in vars(self).items() if value not in (None, ())}
        return ", ".join(f"{name}: {_plain(value)}" for name, value in said.items())

    @property
    def _keys(self) -> dict[str, Any]:
        """What is no path, as keys of a matcher."""
        named = {"stage": self.stage, "channels": self.channels}
        return {name: value for name, value in named.items() if value is not None}

    def applied(self, file: RuleFile, *, own: bool) -> RuleFile:
        """Returns rules that take what these take and what is said here.

        Args:
            file: the rules.
            own: whether they are a mechanism's own placement, that nobody asked for: then a path
                that is a site's is that site, whether or not the placement has it.

        Raises:
            UsageError: a rule is a Python function, or counts already.
            RuleError: a value is none that the key takes.
        """
        if not self:
            return file
        data = file.model_dump(by_alias=True, exclude_unset=True)
        for rule, model in zip(data["rules"], file.rules, strict=True):
            if model.match.predicate is not None:
                raise UsageError(
                    f"where is a function, and cannot be combined with {self}",
                    "let the function look at site.path, site.stage, site.channels",
                )
            rule["match"] = self._matcher(rule["id"], rule["match"], own)
            rule.pop("expect", None)  # how many it takes is another question now
        data.pop("tests", None)
        checked = check(data)
        if isinstance(checked, RuleFile):
            return checked
        key = next((str(step) for step in checked[0].at if step in vars(self)), "at")
        raise UsageError(f"{key} {getattr(self, key)!r}: {checked[0].message}")

    def _matcher(self, rule: str, match: Mapping[str, Any], own: bool) -> dict[str, Any]:
        counts = {key: match[key] for key in _COUNTS if key in match}
        wide = {key: value for key, value in match.items() if key not in _COUNTS}
        if self.every is not None:
            if counts:
                raise UsageError(
                    f"every {self.every} counts, and rule {rule!r} does by {next(iter(counts))!r}",
                    "leave it out, or write a rule of your own",
                )
            counts = {"nth": f"{self.every}n"}
        matcher = both(wide, self._keys)
        if self.at:
            patterns = [path for path in self.at if _PATTERN.search(path)]
            exact = [path for path in self.at if not _PATTERN.search(path)]
            inside = [f"{path}{more}" for path in exact for more in (".*", ":*")]
            if own and exact:
                chosen = [
                    both({"name": exact}, self._keys),
                    both(matcher, {"name": [*patterns, *inside]}),
                ]
                matcher = {"any": chosen}
            else:
                matcher = both(matcher, {"name": [*patterns, *exact, *inside]})
        return {**matcher, **counts}


def both(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return a matcher that takes what both take."""
    if first.keys() & second.keys():
        return {"all": [dict(first), dict(second)]}
    return {**first, **second}


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)
