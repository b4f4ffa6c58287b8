"""A user's module and the shape of a site -> nothing where it runs there, else what is wrong."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnsurgeon.errors import MechanismError

BATCHES = (2, 1)


def try_out(
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    values: int,
    *,
    also_larger: bool,
) -> None:
    """Runs a module in eval mode at batch 2 and 1, on meta; on numbers where it looks at these.

    Args:
        name: of the mechanism.
        build: makes a fresh module, on the default device.
        shape: of a map without the batch, (C, ...).
        values: how many maps it takes.
        also_larger: where it returns a gate, see at twice the sides that it is one: half a map of
            2 x 2 looks like one, too.

    Raises:
        MechanismError: it raises, changes its input, or returns what fits nowhere.
    """
    ran, pooled = 0, False
    for batch in BATCHES:
        size = (batch, *shape)
        try:
            try:
                pooled = _run(name, build, size, values, "meta")
            except MechanismError:
                raise
            except (Exception, SystemExit):  # a stranger's forward; the run on numbers decides
                pooled = _run(name, build, size, values, "cpu")
        except (Exception, SystemExit) as error:
            raise _refusal(name, error, size, ran) from error
        ran = batch
    if pooled and also_larger:
        larger = (BATCHES[0], shape[0], *(2 * side for side in shape[1:]))
        try:
            _run(name, build, larger, values, "meta")
        except MechanismError:
            raise
        except (Exception, SystemExit):  # a stranger's forward may be made for one size alone
            pass


def _run(
    name: str, build: Callable[[], nn.Module], size: tuple[int, ...], values: int, device: str
) -> bool:
    """Runs a fresh module; tells whether what it returns has lost a side of the map."""
    generator = torch.Generator().manual_seed(0)
    with torch.device(device), torch.no_grad():
        module = build().eval()
        if device == "meta":
            maps = tuple(torch.empty(size) for _ in range(values))
        else:
            maps = tuple(torch.rand(size, generator=generator) for _ in range(values))
        before = [_version(x) for x in maps]
        seen: list[tuple[int, ...]] = []
        inner = module.get_submodule("inner")
        handle = inner.register_forward_hook(lambda m, args, made: seen.append(_sides(made)))
        module(*maps)
        handle.remove()
        if before != [_version(x) for x in maps]:
            raise MechanismError(
                f"{name} changes its input in place",
                "the network still needs it: write x * gate, not x *= gate",
            )
    return seen[-1] != size[2:]


def _sides(made: object) -> tuple[int, ...]:
    return tuple(made.shape[2:]) if isinstance(made, Tensor) else ()


def _version(x: Tensor) -> int:
    return x._version


def _refusal(name: str, error: BaseException, size: tuple[int, ...], ran: int) -> MechanismError:
    only = f", though at batch {ran} it runs" if ran else ""
    hint = None
    if ran:
        hint = "squeeze() takes the axis of a single image away, too: name the axes"
    if isinstance(error, MechanismError):
        return MechanismError(f"{error.what}{only}", hint or error.hint, command=error.command)
    shown = " x ".join(map(str, size))
    return MechanismError(f"{name} cannot run on {shown}: {quoted(error)}{only}", hint)


def quoted(error: BaseException) -> str:
    """Returns `TypeError: its first line (line 12 of mine.py)`, of the user's code where it is."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    said = f"{type(error).__name__}{': ' + lines[0].strip() if lines else ''}"
    files = [
        (f.lineno, f.filename.replace("\\", "/")) for f in traceback.extract_tb(error.__traceback__)
    ]
    theirs = [
        (line, file) for line, file in files if "/torch/" not in file and not file.endswith(_OURS)
    ]
    return (
        f"{said} (line {theirs[-1][0]} of {theirs[-1][1].rpartition('/')[2]})" if theirs else said
    )


_OURS = tuple(
    f"/attnsurgeon/{name}.py"
    for name in ("attention/own/card", "attention/own/trial", "attention/own/applied", "contract",
                 "exporting/exports", "models/foreign")
)  # fmt: skip
