"""The small languages inside a rule: `">=128"`, `"2n+1"`, `"layer[34].*"`, `"1x1 spatial 1x1"`.

Each is parsed once into a frozen value that answers `holds(...)` and prints as it was written.
A `ValueError` raised here is a sentence in which `{key}` stands for the key it was written under.
"""

from __future__ import annotations

import difflib
import functools
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from typing import Any

import re2

from attnsurgeon.errors import nearest

MAX_PATTERN = 1000  # characters of a glob, a regular expression or a branch
_MAX_NUMBER = 64  # of a number, a comparison or a range
MAX_PROGRAM = 1 << 20  # bytes that a regular expression may be compiled to

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "": operator.eq,
}
_COMPARISON = re.compile(r"\s*(>=|<=|!=|>|<|)\s*(-?[0-9]{1,12})\s*")
_RANGE = re.compile(r"\s*([0-9]{1,12})\s*\.\.\s*([0-9]{1,12})\s*")
_SIDES = re.compile(r"[0-9]{1,6}(x[0-9]{1,6})+")
_NTH = re.compile(r"([-+]?[0-9]{0,9})n\s*([-+]\s*[0-9]{1,9})?|([-+]?[0-9]{1,9})")
_KIND = re.compile(r"(dw)?([0-9*?]+(?:x[0-9*?]+)*)")


def closest(word: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'x'?` for a single slip of the pen, else what `nearest` answers."""
    known = list(known)
    slip = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"did you mean {slip[0]!r}?" if slip else nearest(word, known)


def kind_of(value: Any) -> str:
    """Returns a value as a reader of YAML names it: `'big'`, `the number 3`, `a list`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return repr(value if len(value) <= 40 else f"{value[:40]}...")
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
    return f"a {type(value).__name__}"


def as_pattern(value: Any) -> str:
    """Returns the value if it is text, and no longer than a pattern may be."""
    text = as_text(value)
    if len(text) > MAX_PATTERN:
        raise ValueError(
            f"{{key}}: {kind_of(text)} is longer than {MAX_PATTERN:,} characters; a list means any"
        )
    return text


def as_text(value: Any) -> str:
    """Returns the value if it is text with something in it."""
    if not isinstance(value, str):
        quote = "; put it in quotes" if isinstance(value, (bool, int, float)) else ""
        raise ValueError(f"{{key}} must be text, not {kind_of(value)}{quote}")
    if not value.strip():
        raise ValueError("{key} is empty")
    return value


@dataclass(frozen=True)
class NumberTest:
    """A whole number (`3`), a comparison (`">=128"`, `"!=3"`) or a closed range (`"64..256"`)."""

    spelled: int | str
    low: int
    high: int
    compare: str = ""

    @classmethod
    def parse(cls, value: Any) -> NumberTest:
        """Returns the test that `value` spells; nothing that is counted is below 0."""
        test = cls.parse_signed(value)
        if test.low < 0:
            raise ValueError(f"{{key}} counts from 0; {value!r} is below")
        return test

    @classmethod
    def parse_signed(cls, value: Any) -> NumberTest:
        """Returns the test that `value` spells, where numbers below 0 have a meaning."""
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and len(text) <= _MAX_NUMBER:
            if found := _COMPARISON.fullmatch(text):
                return cls(value, int(found[2]), int(found[2]), found[1])
            if found := _RANGE.fullmatch(text):
                low, high = int(found[1]), int(found[2])
                if low > high:
                    raise ValueError(f'{{key}}: {value!r} holds nothing; write "{high}..{low}"')
                return cls(value, low, high, "..")
        raise ValueError(
            f'{{key}} must be a whole number, a comparison such as ">=128" or a range such as '
            f'"64..256", not {kind_of(value)}'
        )

    def holds(self, number: float) -> bool:
        """Tells whether `number` passes."""
        if self.compare == "..":
            return self.low <= number <= self.high
        return _COMPARE[self.compare](number, self.low)

    def __str__(self) -> str:
        return str(self.spelled).replace(" ", "")


@dataclass(frozen=True)
class SidesTest:
    """A number test that every side passes (`3`, `"<=28"`), or the sides themselves (`"1x7"`)."""

    spelled: int | str
    number: NumberTest | None
    sides: tuple[int, ...] | None

    @classmethod
    def parse(cls, value: Any) -> SidesTest:
        """Returns the test that `value` spells."""
        if isinstance(value, str) and len(value) <= _MAX_NUMBER and _SIDES.fullmatch(value):
            return cls(value, None, tuple(int(side) for side in value.split("x")))
        try:
            return cls(value, NumberTest.parse(value), None)
        except ValueError as error:
            raise ValueError(str(error).replace(", not", ' or sides such as "1x7", not')) from None

    def holds(self, sides: tuple[int, ...]) -> bool:
        """Tells whether the sides pass; no sides at all never do."""
        if self.number is None:
            return sides == self.sides
        return bool(sides) and all(self.number.holds(side) for side in sides)

    def __str__(self) -> str:
        return str(self.spelled).replace(" ", "")


@dataclass(frozen=True)
class Pattern:
    """A glob on the whole text (`"layer[34].*"`), or `"re:..."`, searched anywhere in it.

    Regular expressions are RE2's: the time they take grows with the text and no faster, whatever
    the file says. So they cannot look ahead or behind, nor refer back.
    """

    spelled: str

    @classmethod
    def parse(cls, value: Any) -> Pattern:
        """Returns the pattern that `value` spells."""
        text = as_pattern(value)
        try:
            _search(text)
        except (re2.error, UnicodeError) as error:
            what = f"{{key}}: {text!r} is not a regular expression: {_why(error)}"
            raise ValueError(what) from None
        return cls(text)

    def holds(self, text: str) -> bool:
        """Tells whether `text` passes."""
        return _search(self.spelled)(text) is not None

    def __str__(self) -> str:
        return self.spelled


@functools.lru_cache(maxsize=16384)
def _search(spelled: str) -> Callable[[str], Any]:
    """How to search for a pattern; kept apart from it, so that rules can be compared and copied."""
    if not spelled.startswith("re:"):
        return re.compile(r"\A" + translate(spelled)).search  # each `*` takes what it can, once
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PROGRAM
    search = re2.compile(spelled[3:], options).search
    return lambda text: search(text.encode("utf-8", "replace").decode("utf-8"))


def _why(error: Exception) -> str:
    """What RE2 says, and for what only other engines know the way to say it in a rule."""
    said = error.args[0].decode("utf-8", "replace") if isinstance(error, re2.error) else str(error)
    known = ("(?=", "(?!", "(?<=", "(?<!", "(?P=", "(?>", "(?(", "(?#")
    if any(said.endswith((start, start[:3])) for start in known):
        said += "; it is read by RE2, which cannot look around: say `not: {name: ...}`"
    return said


@dataclass(frozen=True)
class Nth:
    """Positions A*n+B for n = 0, 1, 2..., counted from 1: `"2n"`, `"odd"`, `"-n+3"`, `5`."""

    spelled: int | str
    step: int
    offset: int

    @classmethod
    def parse(cls, value: Any) -> Nth:
        """Returns the positions that `value` spells."""
        words = {"odd": "2n+1", "even": "2n"}
        text = value if isinstance(value, str) else str(value)
        found = _NTH.fullmatch(words.get(text, text).strip()[:_MAX_NUMBER])
        if isinstance(value, bool) or not isinstance(value, (int, str)) or not found:
            raise ValueError(
                f'{{key}} must be like "2n", "2n+1", "odd", "even", "-n+3" or 3, '
                f"not {kind_of(value)}"
            )
        if found[3]:
            nth = cls(value, 0, int(found[3]))
        else:
            step = found[1] if found[1].strip("+-") else f"{found[1]}1"
            nth = cls(value, int(step), int((found[2] or "0").replace(" ", "")))
        if nth.step <= 0 and nth.offset < 1:
            raise ValueError(f"{{key}}: {value!r} selects nothing; positions count from 1")
        return nth

    def holds(self, position: int) -> bool:
        """Tells whether the 1-based `position` is one of them."""
        beyond = position - self.offset
        if self.step == 0:
            return beyond == 0
        return beyond % self.step == 0 and beyond // self.step >= 0

    def __str__(self) -> str:
        return str(self.spelled)


@dataclass(frozen=True)
class BranchPattern:
    """The convolutions along a residual branch, a word for each: `"1x1 spatial 1x1"`.

    `spatial` is one or more convolutions in a row that look beyond one position, grouped or
    depthwise or not; `pointwise` a convolution of 1x1 (in any rank); `linear` a linear layer;
    another word is a glob on the kind itself: `3x3`, `dw*`, `*`.
    """

    spelled: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, value: Any) -> BranchPattern:
        """Returns the pattern that `value` spells."""
        words = tuple(as_pattern(value).split())
        known = ("spatial", "pointwise", "linear", "1x1", "3x3", "dw3x3", "dw*", "*")
        for word in words:
            if word not in known and not _KIND.fullmatch(word):
                hint = closest(word, known)
                raise ValueError(f"{{key}}: {word!r} is not a kind of convolution; {hint}")
        return cls(value, words)

    def holds(self, kinds: Iterable[str]) -> bool:
        """Tells whether the words spell the whole branch."""
        kinds = tuple(kinds)
        ends = {0}  # how many kinds the words so far may have used up
        for word in self.words:
            longer = set()
            for end in ends:
                while end < len(kinds) and _is_kind(word, kinds[end]):
                    end += 1
                    longer.add(end)
                    if word != "spatial":
                        break
            ends = longer
        return len(kinds) in ends

    def __str__(self) -> str:
        return self.spelled


def _is_kind(word: str, kind: str) -> bool:
    found = _KIND.fullmatch(kind)
    wide = bool(found) and any(side != "1" for side in found[2].split("x"))
    if word == "spatial":
        return wide
    if word == "pointwise":
        return bool(found) and not wide and not found[1]
    return fnmatchcase(kind, word)
