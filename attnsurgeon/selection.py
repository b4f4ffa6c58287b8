"""Survey -> Sites: an immutable selection of places that can be refined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from attnsurgeon.finder import Survey
from attnsurgeon.rules.where import select
from attnsurgeon.sites import Site


@dataclass(frozen=True, eq=False)
class Sites(Sequence[Site]):
    """Sites of one network in execution order; `where` narrows, nothing changes in place.

    Attributes:
        chosen: the sites of this selection.
        survey: the analysed network.
    """

    chosen: tuple[Site, ...]
    survey: Survey

    def where(self, **matcher: Any) -> Sites:
        """Returns the sites that also match; the keys are those of a rule's `match`.

        `find_sites(net).where(site="residual-branch", stage=[3, 4], channels=">=128")`. Keys
        that are Python words have an underscore in front of them in Python: `not_`, `any_`.

        Raises:
            RuleError: an unknown key or a value of the wrong kind.
        """
        keys = {key.removesuffix("_"): value for key, value in matcher.items()}
        taken = {site.path for site in select(self.survey.sites, keys)}
        if {"nth", "first", "last"} & keys.keys():  # these count among the present selection
            taken = {site.path for site in select(self.chosen, keys)}
        return Sites(tuple(site for site in self.chosen if site.path in taken), self.survey)

    @property
    def refused(self) -> Mapping[str, str]:
        """Additions that are no residual additions -> why."""
        return self.survey.refused

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | Sequence[Site]:
        return self.chosen[index]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.chosen)
