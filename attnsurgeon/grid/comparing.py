"""`attnsurgeon.compare`: what is named -> Grid, at once or in steps that can be gone on from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import no_network
from attnsurgeon.grid.cells import cells_of
from attnsurgeon.grid.filling import Key, Request, filled
from attnsurgeon.grid.journal import Journal, fingerprint, opened
from attnsurgeon.grid.limits import (
    apart,
    check_key,
    in_order,
    read_limits,
    refuse_nothing_left,
)
from attnsurgeon.grid.measuring import Timing
from attnsurgeon.grid.saving import saving_to
from attnsurgeon.grid.subjects import MOST, Subject, named_networks, refuse_unknown
from attnsurgeon.grid.table import Grid, Network, Row
from attnsurgeon.models.own_attention import Attention
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.rules.where import Where
from attnsurgeon.sizes import InputSize

Model = str | os.PathLike[str] | nn.Module
Progress = Callable[[Network | Row, int, int], object]


def compare(
    models: Model | Sequence[Model],
    attn: Attention | Sequence[Attention] = "all",
    where: Where | Sequence[Where | None] | None = None,
    *,
    init: str = "identity",
    input_size: InputSize | None = None,
    example: Any = None,
    at: str | Sequence[str] | None = None,
    stage: Any = None,
    channels: Any = None,
    every: int | None = None,
    latency: bool | Mapping[str, Any] = False,
    max_params: str | None = None,
    max_macs: str | None = None,
    max_activations: str | None = None,
    max_latency: str | None = None,
    max_memory: str | None = None,
    sort: str = "",
    max_networks: int = MOST,
    save_all: str | os.PathLike[str] | None = None,
    mode: str = "full",
    verify: str = "quick",
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    trust: bool = False,
    **model_args: Any,
) -> Grid:
    """Weighs mechanisms at placements of networks, side by side; each network is analysed once.

    Args:
        models: specs as for `load_model`, wildcards of names of timm and torchvision, saved
            folders, or networks; one or several.
        attn: mechanisms: names, `"se(reduction=8)"`, wildcards, `"all"`, several with commas
            between them, your own as for `insert`; one or several.
        where: placements as for `insert`; a list is several of them, None is each paper's own.
        init, input_size, example, at, stage, channels, every, trust: as for `plan`.
        latency: also measure the latency and a training step of every row, or how: a mapping of
            the arguments of `Timing`.
        max_params, max_macs, max_activations, max_latency, max_memory: limits as `+2%`, `30M`,
            `+5%`; rows outside of them are in `left_out`.
        sort: by `"macs"`, or `"-macs"` for the heaviest first; default: as asked.
        max_networks: how many networks wildcards may stand for.
        save_all: a folder where every variant is saved, ready to be trained, with an index.
        mode, verify: of these, "full" or "adapter"; "quick", "full" or "none".
        journal: a file of finished rows, to go on from; with `save_all` it lies in that folder.
        progress: is called with each network and row, how many rows there are so far, and of how
            many.
        **model_args: arguments of the networks' factories, `pretrained=True` among them.

    Returns:
        The rows; what cannot go in is a row with an `error`.

    Raises:
        ModelError, MechanismError, RuleError: something named does not exist; of the networks
            that wildcards stand for, one that cannot be built is a row.
        UsageError: the arguments contradict.
        CheckFailed: no row is within the limits; the message says the cheapest.
    """
    listed: list[Any] = list(models) if isinstance(models, (list, tuple)) else [models]
    weights = {"pretrained": True} if model_args.pop("pretrained", False) is True else {}
    subjects = subjects_of(
        listed, max_networks, model_args, weights, input_size=input_size, example=example,
        trust=trust,
    )  # fmt: skip
    limits = {
        "params": max_params,
        "macs": max_macs,
        "activations": max_activations,
        "latency": max_latency,
        "memory": max_memory,
    }
    request = request_of(
        subjects,
        attn,
        where,
        init=init,
        narrow=Narrowing.of(at, stage, channels, every),
        limits=limits,
        timing=_timing(latency, max_latency, max_memory),
        save_all=save_all,
        mode=mode,
        verify=verify,
        trust=trust,
    )
    check_key(sort)
    with journal_of(request, journal) as kept:
        return gathered(request, kept, sort=sort, progress=progress)


def subjects_of(
    models: Iterable[Model],
    most: int,
    args: Mapping[str, Any],
    weights: Mapping[str, Any],
    **how: Any,
) -> tuple[Subject, ...]:
    """Return the networks that are named; each once.

    Raises:
        ModelError, UsageError: as `named_networks`, and a name that nothing is called.
    """
    listed = list(models)
    if not listed:
        raise UsageError("no network is named", "give one: 'resnet50'")
    for one in listed:
        if not isinstance(one, (str, os.PathLike, nn.Module)):
            raise no_network("compare", "models", one)
    words = [os.fspath(m) for m in listed if not isinstance(m, nn.Module)]
    names = named_networks(words, most)
    refuse_unknown(names)
    if weights.get("checkpoint") and len(listed) + len(names) - len(words) > 1:
        raise UsageError("a checkpoint is of one network, and there are several", "name one")
    found = {name: Subject(name, name, args, weights, **how) for name in names}
    modules = [m for m in listed if isinstance(m, nn.Module)]
    if modules and args:
        raise UsageError(f"{', '.join(args)}: arguments of a network need a spec, not a network")
    for module in modules:
        name = kind = type(module).__name__
        number = 2
        while name in found:
            name, number = f"{kind}-{number}", number + 1
        found[name] = Subject(name, module, **how)
    return tuple(found.values())


def request_of(
    subjects: tuple[Subject, ...],
    attn: Attention | Iterable[Attention],
    where: Where | Sequence[Where | None] | None,
    *,
    init: str = "identity",
    narrow: Narrowing | None = None,
    limits: Mapping[str, str | None] | None = None,
    timing: Timing | None = None,
    save_all: str | os.PathLike[str] | None = None,
    mode: str = "full",
    verify: str = "quick",
    trust: bool = False,
    **more: Any,
) -> Request:
    """Return what a comparison is to have; everything that can be refused before work is.

    Raises:
        MechanismError, RuleError, UsageError: as `cells_of`, `read_limits` and `saving_to`.
    """
    read = read_limits(**(limits or {}))
    cells = cells_of(attn, where, init=init, narrow=narrow, trust=trust)
    saving = None
    if save_all is not None:
        keys = [(one.name, cell.attn, cell.place) for one in subjects for cell in cells]
        saving = saving_to(save_all, keys, mode=mode, verify=verify)
    return Request(subjects, cells, init, read, timing, saving, **more)


@contextlib.contextmanager
def journal_of(
    request: Request, path: str | os.PathLike[str] | None = None
) -> Iterator[Journal | None]:
    """Open the journal of a request: in the folder of its variants, or at a path; else none.

    Raises:
        UsageError: as `opened`; or a request has two journals.
    """
    if request.saving is not None:
        if path is not None:
            raise UsageError("the journal lies in the folder of the variants", "leave journal= out")
        path = request.saving.journal
    if path is None:
        yield None
        return
    with opened(Path(path), fingerprint(request.record())) as journal:
        yield journal


def gathered(
    request: Request,
    journal: Journal | None = None,
    *,
    sort: str = "",
    progress: Progress | None = None,
) -> Grid:
    """Make what is not in the journal yet, and return all of it.

    Raises:
        CheckFailed: no row is within the limits.
        ModelError, UsageError: as `filled`.
    """
    grid = gather(request, journal, sort=sort, progress=progress)
    networks = {network.name: network for network in grid.networks}
    refuse_nothing_left(grid.rows, grid.left_out, networks, request.limits)
    return grid


def gather(
    request: Request,
    journal: Journal | None = None,
    *,
    sort: str = "",
    progress: Progress | None = None,
) -> Grid:
    """The same, also where no row is within the limits."""
    networks: dict[str, Network] = {}
    rows: dict[Key, Row] = {}
    before = ({}, {}) if journal is None else (journal.networks, journal.rows)
    for made, is_new in filled(request, *before):
        if is_new and journal is not None:
            journal.add(made)
        if isinstance(made, Network):
            networks[made.name] = made
        else:
            rows[made.model, made.attn, made.where] = made
        if progress is not None:
            progress(made, len(rows), len(request))
    kept, out = apart(in_order(rows.values(), networks, sort), networks, request.limits)
    grid = Grid(
        tuple(networks.values()),
        tuple(kept),
        request.init,
        sort,
        {f"max_{name}": limit.text for name, limit in request.limits.items()},
        tuple(out),
    )
    if request.saving is not None:
        request.saving.finish(grid)
    return grid


def _timing(
    latency: bool | Mapping[str, Any], max_latency: str | None, max_memory: str | None
) -> Timing | None:
    if isinstance(latency, Mapping):
        unknown = latency.keys() - set(Timing.__dataclass_fields__)
        if unknown:
            known = ", ".join(Timing.__dataclass_fields__)
            raise UsageError(f"latency has no {sorted(unknown)[0]!r}", f"known: {known}")
        return Timing(**latency)
    times = latency or max_latency is not None
    return Timing(times=times) if times or max_memory is not None else None
