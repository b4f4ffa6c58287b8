"""Survey -> the values at which the parts of a network end: encoder, neck, decoder."""

from __future__ import annotations

from collections.abc import Iterator

from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import Survey

# What a network is made of, in the order in which data passes, and the roles of its values.
PARTS = (("encoder", ("stem", "stage", "head")), ("neck", ("neck",)), ("decoder", ("decoder",)))


def ends(found: Survey) -> Iterator[tuple[str, list[str], Site]]:
    """Yields (the part, the roles that the value plays in it, the value), part by part."""
    for part, roles in PARTS:
        for site in found.sites:
            if played := [role for role in roles if role in site.roles]:
                yield part, played, site
