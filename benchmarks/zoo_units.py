"""What a constructor says of a network, by its children's names, beside what was found in it.

The networks of pytorchcv are all built to one scheme: `stage1`, `stage2`, ... hold `unit1`,
`unit2`, ... A unit whose own forward adds two maps of one shape is a residual block; so is one that
hands the addition to a child of its own. Nothing of it is known to the site finder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Counts = dict[str, int]


def names_of_pytorchcv(wanted: str = "*") -> list[str]:
    """Returns specs of pytorchcv: the first network of each family, or all that a pattern names."""
    from fnmatch import fnmatch

    from pytorchcv.model_provider import _models  # pyright: ignore[reportMissingImports]

    named = {name: f"{make.__module__}:{name}" for name, make in _models.items()}
    if wanted != "*":
        return [spec for name, spec in named.items() if fnmatch(name, wanted)]
    first = {spec.partition(":")[0]: spec for spec in reversed(named.values())}
    return sorted(first.values())


def input_of(model: Any) -> tuple[int, ...] | None:
    """Returns the size that a network of pytorchcv is made for: it keeps it as `in_size`."""
    from attnsurgeon.models import guess_input_sizes

    sides, first = getattr(model, "in_size", None), guess_input_sizes(model)[0][0]
    channels = first if first % 3 else 3  # what an image of 3 is folded to, at times
    return (channels, *sides) if isinstance(sides, tuple) else None


def constructed(survey: Any) -> dict[str, dict[str, Counts]]:
    """Returns the entry of a result: `stages` and `additions`, each as `said` and as `found`.

    Of a network that is not built to the scheme there is none.
    """
    units = _units(survey.traced.calls)
    if not units:
        return {}
    stages = {unit.rpartition(".")[0] for unit in units}
    residual = {unit for unit in units if _adds_maps(survey.traced, unit)}
    owners = [r.add.meta["call"].path for r in survey.residuals.values()]
    found = {unit for unit in residual if any(f"{path}.".startswith(f"{unit}.") for path in owners)}
    sites = [site for site in survey.sites if "stage" in site.roles]
    counts = {
        "stages": {"said": len(stages), "found": len(sites)},
        "additions": {"said": len(residual), "found": len(found)},
    }
    return {"constructed": counts}


def _units(paths: Iterable[str]) -> list[str]:
    """The outermost modules called `unitN` in a `stageN`, of those that ran."""
    found = (re.match(r"(?:.*?\.)?stage\d+\.unit\d+(?=\.|$)", path) for path in paths)
    return list(dict.fromkeys(match[0] for match in found if match))


def _adds_maps(traced: Any, unit: str) -> bool:
    """Whether a unit, or a part of it, adds two maps of one shape that depend on the input."""
    inside = (calls for path, calls in traced.calls.items() if f"{path}.".startswith(f"{unit}."))
    events = (event for calls in inside for call in calls for event in call.events)
    return any(_is_sum(event) for event in events if getattr(event, "nodes", ()))


def _is_sum(event: Any) -> bool:
    node = event.nodes[0]
    terms = [n for n in node.all_input_nodes if n.meta["data"]]
    shapes = {n.meta["shape"] for n in (*terms, node)}
    return event.name == "add" and not event.alias and len(terms) == 2 and len(shapes) == 1


def differences(results: Iterable[Mapping[str, Any]]) -> str:
    """Returns the networks in which other numbers were found than said, as Markdown."""
    known = [entry for entry in results if "constructed" in entry]
    lines = [
        "| network | stages said | found | residual units said | found |",
        "|---|---|---|---|---|",
    ]
    for entry in known:
        stages, additions = entry["constructed"]["stages"], entry["constructed"]["additions"]
        if any(one["said"] != one["found"] for one in (stages, additions)):
            numbers = (stages["said"], stages["found"], additions["said"], additions["found"])
            name = entry["name"].rpartition(":")[2]
            lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    same = len(known) - len(lines) + 2
    return "\n".join([f"As the constructor says: {same} of {len(known)}. The others:", "", *lines])
