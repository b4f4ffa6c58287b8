"""Survey -> Sites: an immutable selection of places that can be refined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from attnsurgeon.rules.where import select
from attnsurgeon.shown import Shown
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import Survey

_COUNTED = ("nth", "first", "last")


@dataclass(frozen=True, eq=False, repr=False)
class Sites(Shown, Sequence[Site]):
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
        # Neighbours and stages are those of the whole network; counting is among what is left.
        chosen = self.chosen
        counted = {key: keys.pop(key) for key in _COUNTED if key in keys}
        if keys or not counted:
            taken = {site.path for site in select(self.survey.sites, keys)}
            chosen = tuple(site for site in chosen if site.path in taken)
        return Sites(select(chosen, counted) if counted else chosen, self.survey)

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
