"""Network + images -> the same network, whose norms hold the statistics of these images."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.recording.record import map_tensors, tensors_in

Norms = dict[str, Any]  # paths and modules; of a module pyright knows no momentum
Kept = list[tuple[Tensor, Tensor]]  # buffers, each with what it held


@takes_networks()
def recalibrate_norms(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> tuple[str, ...]:
    """Compute the running statistics of a network's norms anew from a loader's batches, in place.

    Running statistics follow the weights late: after a few steps with a momentum of 0.01 they are
    nearly those of the network before, and an evaluation measures them rather than what was
    learnt. Here they become the mean over the batches, each weighed by its number of samples, as
    the network is now. Only the norms run in training mode, those of a frozen backbone as well;
    dropout and drop-path are off, and no gradient is kept. Modes, momentum and every parameter are
    afterwards as they were. A norm that no batch reaches keeps its statistics; so does one that
    never gathers any (`track_running_stats=False`, torchvision's `FrozenBatchNorm2d`). Where a
    batch fails, all statistics are put back.

    Some dozen batches are enough (`itertools.islice(loader, 50)`) if they are like those of the
    training, in content and in size; a few images unlike them give worse statistics than the
    network came with.

    Args:
        model: any network; a compiled one runs uncompiled here. Under DDP give its `.module`.
        loader: of batches, run through once. Of a tuple or list, as `(images, labels)`, the
            first item is the input; a dict is keyword arguments, of which those are left out that
            the forward does not take. Tensors are moved to the device of the network.
        forward: calls the network for a batch of another form:
            `lambda model, batch: model(batch["image"])`.

    Returns:
        The paths of the norms that were calibrated.

    Raises:
        UsageError: the network has no norm that gathers statistics, or none that runs; the
            loader is empty or no loader; a batch has no tensor, no argument of the forward, or a
            single value a channel; or the statistics would be NaN or infinite.
    """
    norms = _gathering(model)
    if not norms:
        raise UsageError(
            "the network has no norm that gathers running statistics",
            "there is nothing to recalibrate: a LayerNorm, for one, has no such statistics",
        )
    before = {path: _kept(norm) for path, norm in norms.items()}
    call = _call if forward is None else forward
    try:
        with torch.no_grad(), _only_in_training(model, norms) as seen:
            batches = 0
            for batch in _batches(loader):
                call(model, batch)
                batches += 1
        if not batches:
            raise UsageError(
                "the loader gave no batch", "an iterator that ran before is empty: make it anew"
            )
        if not seen:
            raise UsageError(
                f"none of the {len(norms)} norms with statistics ran",
                "forward= has to call the network that was given",
            )
        _refuse_not_finite(norms)
    except BaseException:
        _put_back(before.values())
        raise
    # What its network computes without calling it would have moved by its own momentum.
    _put_back(kept for path, kept in before.items() if path not in seen)
    return tuple(path for path in norms if path in seen)


def _gathering(model: nn.Module) -> Norms:
    """The modules that gather statistics while they train: they hold some, and a momentum."""
    return {
        path: module
        for path, module in model.named_modules()
        if _statistics(module) and hasattr(module, "momentum")
    }


def _statistics(norm: nn.Module) -> dict[str, Tensor]:
    """What a norm gathers: its mean, its variance, and how many batches it saw."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    found = {name: norm._buffers.get(name) for name in names}
    if found["running_mean"] is None and found["running_var"] is None:
        return {}
    return {name: buffer for name, buffer in found.items() if buffer is not None}


def _kept(norm: nn.Module) -> Kept:
    return [(buffer, buffer.clone()) for buffer in _statistics(norm).values()]


def _put_back(statistics: Iterable[Kept]) -> None:
    with torch.no_grad():
        for kept in statistics:
            for buffer, value in kept:
                buffer.copy_(value)


@contextlib.contextmanager
def _only_in_training(model: nn.Module, norms: Norms) -> Iterator[dict[str, int]]:
    """Puts the norms into training mode and all else out of it; yields path -> samples seen."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms.values()]
    seen: dict[str, int] = {}
    with contextlib.ExitStack() as hung:
        if "torch._dynamo" in sys.modules:  # compiled code would not see the hooks
            hung.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            # The attribute itself: the `train` of a frozen norm would hold it in evaluation mode.
            for module, _ in modes:
                module.training = False
            for path, norm in norms.items():
                norm.training = True
                hook = norm.register_forward_pre_hook(_averaging(path, seen), with_kwargs=True)
                hung.callback(hook.remove)
            yield seen
        finally:
            for module, mode in modes:
                module.training = mode
            for norm, momentum in momenta:
                norm.momentum = momentum


def _averaging(path: str, seen: dict[str, int]) -> Callable[[Any, Any, Any], None]:
    """A hook that sets the momentum with which a norm's statistics become a mean of batches.

    With momentum n / (n + samples so far) `old + momentum * (new - old)` is that mean, whatever
    the norm does besides, and however often one forward calls it.
    """

    def before(norm: Any, args: Any, kwargs: Any) -> None:
        x = next(tensors_in((args, kwargs)))
        if x.numel() == x.shape[1]:
            raise UsageError(
                f"{path or 'the norm'} gets a single value a channel, which has no variance",
                "larger batches; of a DataLoader: drop_last=True",
            )
        if path not in seen:  # NaN would outlast a momentum of 1
            for name, buffer in _statistics(norm).items():
                buffer.fill_(1 if name == "running_var" else 0)
        seen[path] = seen.get(path, 0) + len(x)
        norm.momentum = len(x) / seen[path]

    return before


def _batches(loader: Iterable[Any]) -> Iterator[Any]:
    # A tensor or a dict can be run through as well, and would give its rows or its keys.
    if isinstance(loader, (Tensor, Mapping, str)) or not isinstance(loader, Iterable):
        raise UsageError(
            f"a {type(loader).__name__} is no loader",
            "give a DataLoader or a list of batches: [images]",
        )
    return iter(loader)


def _call(model: nn.Module, batch: Any) -> None:
    """Calls the network with what of a batch is its input."""
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if isinstance(batch, Mapping):
        batch = dict(batch)
    if not isinstance(batch, (Tensor, dict)) or not any(True for _ in tensors_in(batch)):
        raise UsageError(
            f"a batch is a {type(batch).__name__}, which is not known to be an input",
            "a tensor, (images, labels), or a dict of arguments; else say how it is called: "
            'forward=lambda model, batch: model(batch["image"])',
        )
    batch = _moved(batch, model)
    if isinstance(batch, Tensor):
        model(batch)
    else:
        model(**_arguments(model, batch))


def _arguments(model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """Returns of a dict what the forward takes, which has to be all that it requires."""
    known = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return batch
    named = [p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in batch]
    if missing or not any(p.name in batch for p in named):
        raise UsageError(
            f"the forward takes {', '.join(p.name for p in named)}; a batch has "
            f"{', '.join(map(str, batch))}",
            "say how it is called: "
            f"forward=lambda model, batch: model(batch[{next(iter(batch))!r}])",
        )
    return {p.name: batch[p.name] for p in named if p.name in batch}


def _moved(batch: Any, model: nn.Module) -> Any:
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:  # spread over several: its first layer knows where it stands
        return batch
    (device,) = devices
    if isinstance(batch, Tensor):
        return batch.to(device)
    return {name: map_tensors(value, lambda t: t.to(device)) for name, value in batch.items()}


def _refuse_not_finite(norms: Norms) -> None:
    for path, norm in norms.items():
        for name, buffer in _statistics(norm).items():
            if not buffer.isfinite().all():
                raise UsageError(
                    f"{name} of {path or 'the norm'} would be NaN or infinite",
                    "a batch holds such values, or the network makes them",
                )
