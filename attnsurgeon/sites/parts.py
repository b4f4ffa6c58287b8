"""Survey -> the values at which the parts of a network end: encoder, neck, decoder."""

from __future__ import annotations

from collections.abc import Iterator

from attnsurgeon.sites.flow import Flow, convolution_of
from attnsurgeon.sites.levels import is_vector
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


def small_maps(found: Survey) -> str:
    """Returns a sentence where convolutions with windows work on single positions behind the last
    map: at a larger input those are maps, and may be stages. Elsewhere "".
    """
    image = next((node.meta["shape"] for node in found.traced.root.inputs), ())
    for site in found.sites:
        if "head" not in site.roles:
            continue
        last = found.nodes[site.path]
        for node in found.flow.nodes:
            if not all(map(is_vector, [node, *Flow.inputs(node)])):
                continue  # a classifier may be a convolution over the whole map
            kernel = made.kernel if (made := convolution_of(node)) is not None else ()
            windowed = len(kernel) == len(image) - 2 and max(kernel, default=1) > 1
            if windowed and found.flow.reaches(last, node):
                return (
                    f"behind {site.path} every map is a single position, which counts as no map; a"
                    " larger input size shows which stages there are"
                )
    return ""
