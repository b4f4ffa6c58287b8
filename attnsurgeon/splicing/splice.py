"""Plan -> network: modules go in, blocks get their new forwards, hooks are hung."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.retype import Reference, retyped
from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.adapters import refuse_adapters
from attnsurgeon.splicing.channels_first import InputHook, OutputHook, through
from attnsurgeon.splicing.history import Mark, history, remember
from attnsurgeon.splicing.makeup import Makeup
from attnsurgeon.splicing.norms_into import refuse_norms
from attnsurgeon.splicing.parts import Parts
from attnsurgeon.splicing.removing import Removed, strip
from attnsurgeon.splicing.rewriting import Rewriting
from attnsurgeon.splicing.scripting import answer_script

_PASS_ON = ("def forward(self, input):\n    return input\n",)


def splice(model: nn.Module, plan: Plan) -> Removed:
    """Carries out a plan on `model`, in place.

    Returns:
        The parameters and buffers that the plan takes away; `undo` puts them back.

    Raises:
        ModelError: the network is not the one that was planned for.
    """
    hosts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        hosts.setdefault(cut.place.host, []).append(cut)
    paths = {*hosts, *(path for cut in plan.cuts for path in cut.removes)}
    modules = {path: _host(model, path, plan) for path in paths}
    for path, cuts in hosts.items():
        _check_names(modules[path], path, cuts)
    parts = Parts()
    dice = OwnDice(_seed(model))
    for cut in plan.cuts:
        host = modules[cut.place.host]
        replaced = host if cut.place.technique == "takeover" else None
        with dice:
            part = parts.build(cut, _where(host, model), replaced).train(host.training)
        beside = (cut.tokens.before, cut.tokens.after) if cut.tokens is not None else (0, 0)
        mark = Mark(cut.site.path, cut.attn, cut.place.technique, Makeup.of(part), beside)
        setattr(part, MARK, mark)
        # Not add_module(): it refuses a name that the class has any answer for.
        host._modules[cut.name] = part
        if cut.place.technique == "takeover":
            _take_over(host, cut)
    rewriting = Rewriting()
    for path, cuts in hosts.items():
        host = modules[path]
        rewritten = [c for c in cuts if c.place.technique == "retype"]
        if rewritten:
            call = plan.survey.traced.calls[path][0]
            rewriting.apply(host, call, plan.graph(path), rewritten)
        for cut in cuts:
            if cut.place.technique == "output-hook":
                host.register_forward_hook(OutputHook(cut.name, cut.way))
                if not plan.changed_by_hooks(path):
                    _let_pass(host._forward_hooks)
            elif cut.place.technique == "input-hook":
                host.register_forward_pre_hook(InputHook(cut.name, cut.way))
                _let_pass(host._forward_pre_hooks)
    for cut in plan.cuts:  # last, so that a tap sees what attention made of the value
        parts.tap(model, cut)
    removed = {p: strip(modules[p]) for cut in plan.cuts for p in cut.removes}
    for cut in plan.cuts:
        for path in cut.removes:
            if path != cut.place.host:
                retyped(modules[path], _PASS_ON, (), replaced=True)
    refuse_adapters(modules[path] for path in hosts)
    refuse_norms(modules[path] for path in hosts)
    remember(model, (*history(model), plan.record()))
    answer_script(model)
    return removed


def _seed(model: nn.Module) -> int:
    """What new weights are drawn from: the seed that the program has set, never the state that its
    draws have reached, and another one for each operation on a network.
    """
    return (torch.initial_seed() + 0x9E3779B97F4A7C15 * (1 + len(history(model)))) % (1 << 63)


def _let_pass(hooks: dict[int, Any]) -> None:
    """Puts the hooks of others behind ours: who collects a value there is to see the attention."""
    others = {key: h for key, h in hooks.items() if not isinstance(h, (OutputHook, InputHook))}
    for key in others:
        del hooks[key]
    hooks.update(others)


def _take_over(host: nn.Module, cut: Cut) -> None:
    """Gives the host a forward that hands its input, or its old result, to the attention."""
    old = f"type(self)._surgeon_base.forward(self, input{'.clone()' if cut.clones else ''})"
    if cut.taps:
        made = f"self.{cut.name}({old if cut.keeps_old else 'input'})"
        references: tuple[Reference, ...] = ()
    else:
        values = f"input, {old}" if cut.keeps_old else "input"
        made = f"through(self.{cut.name}, {cut.way!r}, {values})"
        references = (("through", through.__module__, "through"),)
    source = f"def forward(self, input):\n    return {made}\n"
    retyped(host, (source,), references, replaced=not cut.keeps_old)


def _host(model: nn.Module, path: str, plan: Plan) -> nn.Module:
    try:
        host = model.get_submodule(path)
    except AttributeError:
        host = None
    planned = plan.survey.traced.twin.get_submodule(path)
    if host is None or type(host) is not type(planned):
        found = "nothing" if host is None else f"a {type(host).__name__}"
        raise ModelError(
            f"the plan cuts {path} ({type(planned).__name__}), but this network has {found} there",
            "make the plan on the network that is operated",
        )
    return host


def _check_names(host: nn.Module, path: str, cuts: Sequence[Cut]) -> None:
    for cut in cuts:
        if cut.name in host._modules:
            raise ModelError(
                f"the plan adds {cut.name!r} to {path or 'the network'}, which has one already",
                "a plan is carried out once; plan again on the operated network to add more",
            )


def _where(host: nn.Module, model: nn.Module) -> Tensor:
    """A floating-point tensor that shows the device and dtype the attention belongs on."""
    for module in (host, model):
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            if tensor.is_floating_point():
                return tensor
    return torch.empty(0)
