"""The network of before and the operated one -> what its parameters are called there.

Either may be wrapped (`torch.compile`, `DataParallel`, a task around it), which puts something
before every name.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.splicing.history import history
from attnsurgeon.training.new_parts import every_parameter


def renamed(before: nn.Module, model: nn.Module) -> dict[int, list[str]]:
    """Return id of a parameter of `before` -> its names, as the operated network has them.

    Raises:
        UsageError: the operated network has none of them.
    """
    now = {name for name, _ in every_parameter(model)}
    was = [name for name, _ in every_parameter(before)]
    inner, outer = ("", "") if now.intersection(was) else _prefixes(was, now, model)
    names: dict[int, list[str]] = {}
    for name, parameter in every_parameter(before):
        seen = outer + name.removeprefix(inner) if name.startswith(inner) else name
        names.setdefault(id(parameter), []).append(seen)
    if not any(name in now for found in names.values() for name in found):
        raise UsageError(
            "the network of before has no parameter of a name that this one has",
            "before=NETWORK, the one that was operated",
        )
    return names


def _prefixes(was: list[str], now: set[str], model: nn.Module) -> tuple[str, str]:
    """What stands before the names of the network of before, and before those of the other."""
    operated = (path for path, module in model.named_modules() if path and history(module))
    outer = f"{path}." if (path := next(operated, "")) else ""
    core = {name.removeprefix(outer) for name in now if name.startswith(outer)}
    found = Counter(
        name.removesuffix(tail)
        for name in was
        for tail in accumulate(reversed(name.split(".")), "{1}.{0}".format)
        if tail in core
    )
    inner = found.most_common(1)[0][0] if found else ""
    while inner and outer and inner.split(".")[-2] == outer.split(".")[-2]:  # in the same task
        inner, outer = _shorter(inner), _shorter(outer)
    return inner, outer


def _shorter(prefix: str) -> str:
    return prefix[: prefix.rstrip(".").rfind(".") + 1]
