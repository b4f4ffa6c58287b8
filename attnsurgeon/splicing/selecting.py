"""Operated network + what a caller says of it -> the attention that is meant."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Union

from torch import nn

from attnsurgeon.errors import UsageError, nearest
from attnsurgeon.rules.values import Pattern
from attnsurgeon.sites.site import Site
from attnsurgeon.splicing.history import history

# None for all; a path or a pattern; sites of `find_sites`; or several of these.
Chosen = Union[str, Site, Iterable["str | Site"], None]  # noqa: UP007 -- evaluated by Python 3.10


def operated_in(model: nn.Module) -> tuple[str, nn.Module]:
    """Returns the network that was operated and its path: `model`, or what `model` stands around.

    Raises:
        UsageError: nothing in it was operated.
    """
    found = next(((path, m) for path, m in model.named_modules() if history(m)), None)
    if found is None:
        raise UsageError(
            f"this {type(model).__name__} has no attention in it that was inserted",
            "operate it first: attnsurgeon.insert(...)",
            command="operate it first: `attnsurgeon insert`",
        )
    return found


def cuts_of(model: nn.Module) -> dict[str, Mapping[str, Any]]:
    """Returns the recorded cuts of a network that was operated, by the paths of their modules."""
    return {site["module_path"]: site for record in history(model) for site in record["sites"]}


def chosen(model: nn.Module, sites: Chosen) -> tuple[str, ...]:
    """Returns the paths of the inserted modules that are meant, in the order of their cuts.

    Args:
        model: a network that was operated.
        sites: the path of a site (`layer4.1.bn2`) or of an inserted module (`layer4.1.attn`), a
            pattern of either (`layer[34].*`, `re:...`), a module around them (`layer4`), a Site; or
            several; None for all. A module that serves several sites is meant by any of them.

    Raises:
        UsageError: nothing in the network is called that.
    """
    cuts = cuts_of(model)
    if sites is None:
        return tuple(cuts)
    one = isinstance(sites, (str, Site))
    asked: list[str | Site] = [sites] if one else list(sites)  # pyright: ignore[reportAssignmentType]
    names = {
        path: (path, *(made_of(site, cuts) for site in (cut["path"], *cut["shared"])))
        for path, cut in cuts.items()
    }
    taken: set[str] = set()
    for wanted in asked:
        found = {path for path, own in names.items() if _is_called(own, wanted)}
        if not found and isinstance(wanted, str):
            raise _unknown(wanted, names)
        taken |= found
    if not taken:
        raise UsageError("no inserted attention stands at any of the given sites", _where(names))
    return tuple(path for path in cuts if path in taken)


def made_of(
    site: str, cuts: Mapping[str, Mapping[str, Any]], gone: Container[str] | None = None
) -> str:
    """Returns the name that a site has without attention before it: what attention made is again
    the value that it was made of.

    Args:
        site: the path of a site, which may be an inserted module.
        cuts: as for `cuts_of`.
        gone: the paths of the modules without which it is named; None for all.
    """
    gone = cuts if gone is None else gone
    while site in cuts and site in gone and cuts[site]["action"].startswith("insert"):
        site = cuts[site]["path"]
    return site


def _is_called(names: tuple[str, ...], wanted: str | Site) -> bool:
    if isinstance(wanted, Site):
        return wanted.path in names
    if any(name == wanted or name.startswith((f"{wanted}.", f"{wanted}:")) for name in names):
        return True
    try:
        pattern = Pattern.parse(wanted)
    except ValueError as error:
        raise UsageError(str(error).replace("{key}", "sites")) from error
    return any(map(pattern.holds, names))


def _unknown(wanted: str, names: Mapping[str, tuple[str, ...]]) -> UsageError:
    close = nearest(wanted, {name for own in names.values() for name in own})
    hint = close if close.startswith("did you mean") else _where(names)
    return UsageError(f"no inserted attention is called {wanted!r}", hint)


def _where(names: Mapping[str, tuple[str, ...]]) -> str:
    sites = [site for _, site, *_ in names.values()]
    more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
    return f"it stands at {', '.join(sites[:3])}{more}"
