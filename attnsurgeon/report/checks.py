"""The record of a verification -> one sentence a check, and how it went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from attnsurgeon.report import words

Went = Literal["good", "bad", "note"]


def sentences(checked: Mapping[str, Any], times: str) -> Iterator[tuple[Went, str]]:
    """Yields (how it went, what was checked) in the order in which people ask.

    Args:
        checked: what `verification_record` returns.
        times: the sign between the sides of a size.
    """
    if checked.get("not_finite"):
        yield "bad", f"nothing can be verified: NaN or Inf in {_some(checked['not_finite'])}"
        yield from kept_keys(checked)
        return
    yield _outputs(checked, times)
    if checked["init"] == "identity":
        equal, of = checked["values_equal"], checked["values_checked"]
        yield (
            "good" if equal == of else "bad",
            f"{equal:,} of {of:,} intermediate values bit-equal",
        )
    yield from kept_keys(checked)
    yield _none_of(checked["dead"], "every inserted module runs", "inserted modules never run")
    yield from _learning(checked)
    if checked["round_trip"] is not None:
        copies = "copies by deepcopy and pickle compute"
        yield (
            ("good", f"{copies} the same")
            if checked["round_trip"]
            else ("bad", f"{copies} something else")
        )
    for text in checked["notes"]:
        yield "note", text


def _outputs(checked: Mapping[str, Any], times: str) -> tuple[Went, str]:
    at = " and ".join(words.size(shape, times) for shape in checked["sizes"])
    moved = (
        f"outputs move by {checked['relative_diff']:.2g} of the largest at {at}; "
        f"top-1 agreement {checked['top1_agreement']:.0%}"
    )
    if checked["init"] == "paper":
        return "note", f"{moved}; init=paper starts as published"
    if checked["identity"]:
        return "good", f"outputs bit-equal at {at}, with every norm randomised"
    return "bad", f"{moved}; they should be bit-equal"


def kept_keys(checked: Mapping[str, Any]) -> Iterator[tuple[Went, str]]:
    """Yields what became of the original state-dict keys."""
    if checked["missing_keys"]:
        yield "bad", f"original keys are gone: {_some(checked['missing_keys'])}"
    if checked["unexpected_keys"]:
        yield "bad", f"new keys that belong to no module: {_some(checked['unexpected_keys'])}"
    if checked["reordered"]:
        yield "bad", "original keys or parameters stand in another order"
    gone = len(checked.get("replaced_keys", ()))
    if gone:
        keys = words.several(gone, "key")
        yield "note", f"{keys} went with what was replaced, as init=paper asks"
    if not (checked["missing_keys"] or checked["unexpected_keys"] or checked["reordered"]):
        which = "every other" if gone else "every"
        yield "good", f"{which} original key kept, in its order; no stray key"


def _learning(checked: Mapping[str, Any]) -> Iterator[tuple[Went, str]]:
    """What a full verification adds; `stuck` is None where training was not tried."""
    if checked["round_trip"] is None and checked["stuck"] is None and not checked["still"]:
        return
    yield _none_of(
        checked["still"],
        "every inserted module acts once its parameters are random",
        "inserted modules change nothing, even with random parameters",
    )
    if checked["stuck"] is not None:
        yield _none_of(
            checked["stuck"],
            "every new parameter moves within two optimiser steps",
            "new parameters do not move within two optimiser steps",
        )
    if checked["excused"]:
        yield "note", f"cannot learn in training mode, see the card: {_some(checked['excused'])}"


def _none_of(names: list[str], good: str, bad: str) -> tuple[Went, str]:
    return ("bad", f"{bad}: {_some(names)}") if names else ("good", good)


def _some(names: list[str]) -> str:
    return words.listed(names, at_most=3)
