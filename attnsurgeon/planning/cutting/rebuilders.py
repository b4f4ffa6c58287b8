"""Modules that rebuild themselves: a value inside one -> where outside of it attention is kept.

`fuse`, `reparameterize`, ... make new convolutions of old ones, or throw branches away: what is
inside of such a module, or on it, would be lost.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from attnsurgeon.planning.place import Refusal, class_name, where
from attnsurgeon.recording.record import Call, Traced
from attnsurgeon.recording.trace import run_again
from attnsurgeon.sites.flow import is_weighted
from attnsurgeon.sites.residuals import is_pooled
from attnsurgeon.sites.survey import Survey

_REBUILDERS = ("fuse", "fuse_convs", "forward_fuse", "reparameterize", "switch_to_deploy")


def outside_rebuilders(node: fx.Node) -> tuple[Call, Call | None]:
    """The innermost call in whose forward the value may be touched.

    Returns (that call, itself), or (the rebuilding call the value cannot leave, None).
    """
    call: Call = node.meta["call"]
    blockers = [c for c in call.chain() if c.parent is not None and rebuilder(c.module)]
    if not blockers:
        return call, call
    outer = blockers[-1]
    assert outer.parent is not None
    return (outer.parent, outer.parent) if outer.returns(node) else (outer, None)


def behind_rebuilder(survey: Survey, node: fx.Node) -> tuple[fx.Node, str]:
    """The value itself; or, inside a module that rebuilds itself, the result of that module,
    where it makes the value its result by norms, sums of parallel branches and an activation
    alone: its convolutions are one to the user. With a note that says so.
    """
    inner, shown = outside_rebuilders(node)
    if shown is not None or len(inner.outputs) != 1 or inner.parent is None:
        return node, ""
    out, flow = inner.outputs[0], survey.flow
    if out is node or out not in flow.rank or not flow.reaches(node, out):
        return node, ""
    residual = {r.add for r in survey.residuals.values()}
    path = flow.between(node, out)
    if any(n in residual or (is_weighted(n) and not is_pooled(n)) for n in path):
        return node, ""
    if out.meta.get("event") is None or len(survey.traced.calls[inner.path]) > 1:
        return node, ""
    note = f"behind {where(inner)}, which may fold what is inside ({rebuilder(inner.module)})"
    return out, note


def outlives_fuse(survey: Survey, call: Call) -> bool:
    """Whether a module inside of one that rebuilds itself is still there, and runs as often, after
    the network's own `fuse()`; tried on a copy, once a network.
    """
    if survey not in _FUSED:
        _FUSED[survey] = _runs_when_fused(survey.traced)
    runs = _FUSED[survey].get(call.path)
    return runs == len(survey.traced.calls[call.path])


_FUSED: WeakKeyDictionary[Survey, Mapping[str, int]] = WeakKeyDictionary()


def _runs_when_fused(traced: Traced) -> Mapping[str, int]:
    """The modules that are the same after `fuse()`, with the weights that they had, and how often
    they run; none without one.
    """
    copied: Any = copy.deepcopy(traced.twin)
    if not callable(getattr(copied, "fuse", None)):
        return {}
    before = {path: (module, _held(module)) for path, module in copied.named_modules()}
    disabled = logging.root.manager.disable
    logging.disable()  # what it says of itself is of no copy's
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            copied.fuse()
            calls = run_again(copied, traced).calls
    except Exception:  # a stranger's code, on meta: then nothing is known to outlive it
        return {}
    finally:
        logging.disable(disabled)
    after = {path: (module, _held(module)) for path, module in copied.named_modules()}
    return {path: len(made) for path, made in calls.items() if after.get(path) == before.get(path)}


def _held(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Which tensors a module holds itself, and how often they were changed in place: a convolution
    may stay and be given other weights.
    """
    own = (*module._parameters.items(), *module._buffers.items())
    return {name: (id(t), t._version) for name, t in own if t is not None}


def inside_rebuilder(call: Call) -> Refusal:
    """The reason why nothing can be done in a call."""
    rebuilders = [c for c in call.chain() if c.parent is not None and rebuilder(c.module)]
    outer = rebuilders[-1] if rebuilders else call
    return Refusal(
        f"it is inside {outer.path} ({class_name(outer.module)}), which rebuilds itself "
        f"({rebuilder(outer.module)}) and would lose it"
    )


def rebuilder(module: nn.Module) -> str:
    """The method by which a module rebuilds itself, for reasons; "" where there is none."""
    # Not getattr(module, ...): a wrapper may hand any name on to what is inside.
    own = [m for m in _REBUILDERS if m in module.__dict__ or hasattr(type(module), m)]
    return f"{own[0]}()" if own else ""
