"""Operated network -> the same with some of its attention off, while a `with` block runs.

Neither classes nor keys change: a switched module hands on what the network would go on with if
nothing stood there. Which ones are off is known to the context of the caller alone, so that other
threads, which run the same objects, run them as they are.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.attention.linked.chain import Link
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.selecting import Chosen, chosen, cuts_of, operated_in

Pass = Callable[..., Tensor]

_OFF: ContextVar[frozenset[str]] = ContextVar("attnsurgeon_off", default=frozenset())
_HANGING = threading.Lock()


@takes_networks()
@contextlib.contextmanager
def disabled(model: nn.Module, sites: Chosen = None) -> Iterator[tuple[str, ...]]:
    """Switches inserted attention off while the block runs: for ablations.

    The outputs are bit-equal to those of the network without this attention. Modules, classes,
    keys, weights and modes stay as they are. Only the context that entered the block is meant, as
    for `torch.no_grad`: other threads run the network whole. Blocks may be nested; what is off in
    the outer one is off in the inner one. A copy that is made in the block is off in it, too. What
    was exported or traced before is a program of its own, which nothing here reaches; what
    `torch.compile` made is compiled anew for the block.

    Args:
        model: an operated network, or what stands around it.
        sites: as for `remove`: the path of a site or of an inserted module, a pattern such as
            `"layer4.*"`, Sites, or several of these; None for all attention.

    Yields:
        The paths of the modules that are off, in the operated network.

    Raises:
        UsageError: nothing is called that; or something of it cannot be switched off, because the
            network no longer computes what it replaced.
    """
    _refuse_replicas(model)
    _, network = operated_in(model)
    paths = chosen(network, sites)
    parts = {path: _part(network, path) for path in paths}
    cuts = cuts_of(network)
    _refuse_torn_chains(network, parts)
    passing = {path: _passing(cuts[path], parts[path]) for path in paths}
    with contextlib.ExitStack() as hung:
        keys = [hung.enter_context(_switch(parts[path], passing[path])) for path in paths]
        token = _OFF.set(_OFF.get() | frozenset(keys))
        try:
            yield paths
        finally:
            _OFF.reset(token)


class _Switch:
    """The forward of a module while any thread has it off: it asks whether this one has.

    Attributes:
        key: what `_OFF` holds; a copy has it as well.
        part: the module.
        passing: what is returned in place of its output.
        hung: how many blocks have hung it; none a copy's, which came with its module.
        before: the switch of a copy, which this one stands in front of.
    """

    def __init__(self, part: nn.Module, passing: Pass, before: _Switch | None) -> None:
        self.key = uuid.uuid4().hex
        self.part = part
        self.passing = passing
        self.hung = 0
        self.before = before

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "hung": 0}

    def __call__(self, *args: Tensor) -> Tensor:
        if _is_off(self.key):
            return self.passing(*args)
        if self.before is not None:
            return self.before(*args)
        if _in_backward():
            raise RuntimeError(
                "activation checkpointing runs a forward again where it cannot be known what"
                " attnsurgeon.disabled has switched off; leave checkpointing off in the block"
            )
        return type(self.part).forward(self.part, *args)


def is_off(part: nn.Module) -> bool:
    """Whether an inserted module is switched off for whoever asks."""
    switch = part.__dict__.get("forward")
    while isinstance(switch, _Switch):
        if _is_off(switch.key):
            return True
        switch = switch.before
    return False


# Compiled code would keep the answer of the thread that compiled it.
@torch.compiler.disable()
def _is_off(key: str) -> bool:
    return key in _OFF.get()


def _in_backward() -> bool:
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextlib.contextmanager
def _switch(part: nn.Module, passing: Pass) -> Iterator[str]:
    """Hangs a switch on a module, or finds the one that hangs there; takes it away with the last
    block that needs it. Written into the module's dict, where no state dict looks.
    """
    with _HANGING:
        switch = part.__dict__.get("forward")
        if switch is not None and not isinstance(switch, _Switch):
            raise UsageError(
                f"the forward of {type(part).__name__} has been replaced on the object itself",
                "take that back first: del module.forward",
            )
        if switch is None or not switch.hung:
            switch = part.__dict__["forward"] = _Switch(part, passing, switch)
        switch.hung += 1
    try:
        yield switch.key
    finally:
        with _HANGING:
            switch.hung -= 1
            if not switch.hung:
                del part.__dict__["forward"]
                if switch.before is not None:
                    part.__dict__["forward"] = switch.before


def _part(network: nn.Module, path: str) -> nn.Module:
    try:
        part = network.get_submodule(path)
    except AttributeError:
        part = None
    if part is None or MARK not in part.__dict__:
        found = "nothing" if part is None else f"a {type(part).__name__}"
        raise UsageError(
            f"where the attention {path} was, there is {found}",
            "`attnsurgeon.audit` says what has become of the inserted modules",
        )
    return part


def _passing(cut: Mapping[str, Any], part: nn.Module) -> Pass:
    """Returns what stands for a module's output where the module is off.

    Raises:
        UsageError: the network no longer computes what the module took the place of.
    """
    card = lookup(cut["attn"])
    if cut["replaced"]:
        raise _for_good(cut, f"{cut['replaced'][0]} was replaced under init='paper'")
    if isinstance(part, Tapped):
        return _Emptied(part)
    if card.kind == "weight":
        if card.per_sample:
            why = "it makes a weight for every image, and its convolution was rewritten for these"
            raise _for_good(cut, why)
        return _first
    if cut["action"] == "fuse":
        return _sum
    if cut["action"] != "replace":
        return _first
    if cut["init"] == "identity" and (card.kind == "conv" or card.within is not None):
        return _last  # what was there goes on being computed, and is handed over
    raise _for_good(cut, "what it replaced is no longer computed")


def _for_good(cut: Mapping[str, Any], why: str) -> UsageError:
    return UsageError(
        f"{cut['attn']} at {cut['path']} cannot be switched off: {why}",
        "name the sites that can be: attnsurgeon.disabled(model, sites=[...]); or compare with"
        " the network as it was before",
    )


def _first(value: Tensor, *others: Tensor) -> Tensor:
    return value


def _last(*values: Tensor) -> Tensor:
    return values[-1]


def _sum(one: Tensor, other: Tensor) -> Tensor:
    return one + other


class _Emptied:
    """Hands the network's own scores on, and lets go of the maps that were tapped."""

    def __init__(self, head: Tapped) -> None:
        self.head = head

    def __call__(self, scores: Tensor) -> Tensor:
        self.head.mailbox.take(len(self.head.orders))
        return scores


def _refuse_torn_chains(network: nn.Module, off: Mapping[str, nn.Module]) -> None:
    """Refuses a part of a chain: what its other places are handed would be another network's."""
    chains = {id(part.chain): path for path, part in off.items() if isinstance(part, Link)}
    for path, part in inserted(network):
        if isinstance(part, Link) and id(part.chain) in chains and path not in off:
            mark = part.__dict__[MARK]
            raise UsageError(
                f"{mark.attn} at {mark.site} is of the same chain as {chains[id(part.chain)]}, and"
                " would be handed another state",
                "switch off the whole chain",
            )


def _refuse_replicas(model: nn.Module) -> None:
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise UsageError(
            "DataParallel runs copies of the network in threads of its own, which are not switched",
            "run the network on one device, or in DistributedDataParallel",
        )
