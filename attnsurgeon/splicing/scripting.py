"""Operated network -> a copy that torch.jit.script reads, made when it asks for one.

torch.jit.script asks every module for what stands in for it (`__prepare_scriptable__`), and puts
that into the network. So it is the whole network that answers, with a copy around the same
tensors; else the network itself would hold TorchScript afterwards.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnsurgeon.attention.heads.tapped import InputTap, Mailbox, OutputTap, Tap, Tapped
from attnsurgeon.attention.linked.chain import Link
from attnsurgeon.attention.scripted import First, Handed, Kept, Next, headed, linked, traced
from attnsurgeon.errors import ModelError
from attnsurgeon.forwards.retype import is_generated, original_class, retyped_by
from attnsurgeon.forwards.script_source import (
    HOOKED,
    INNER,
    called_through,
    for_script,
    forward_around,
    named_forward,
)
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.splicing.channels_first import InputHook, OutputHook
from attnsurgeon.splicing.history import history, inserted
from attnsurgeon.splicing.scripted_ways import scripted_ways

_ASKED = "__prepare_scriptable__"
_OURS = (InputHook, OutputHook, InputTap, OutputTap)


class Scriptable:
    """What an operated network answers torch.jit.script with.

    It refers to the network without keeping it alive: else nothing but Python's collector would
    free it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self) -> nn.Module:
        """Returns the copy."""
        model = self._model()
        assert model is not None
        return scriptable(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Scriptable | None:
        return Scriptable(memo[id(self._model())])

    def __reduce__(self) -> tuple[Any, ...]:
        return Scriptable, (self._model(),)


def answer_script(model: nn.Module) -> None:
    """Lets a network answer torch.jit.script while it has a history, and no longer."""
    model.__dict__.pop(_ASKED, None)
    if history(model):
        model.__dict__[_ASKED] = Scriptable(model)


@known_state(own_dice=False)  # a mode of torch would hide operations from its tracer
def scriptable(model: nn.Module) -> nn.Module:
    """Returns a copy of an operated network, around its tensors, that torch.jit.script reads.

    Every attention is traced there, with what it is handed in one forward; generated forwards
    and hooks become source.
    """
    tensors: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    answer = model.__dict__.pop(_ASKED, None)
    try:
        twin = copy.deepcopy(model, tensors)
    finally:
        if answer is not None:
            model.__dict__[_ASKED] = answer
    return _Scripting(twin).run()


class _Scripting:
    def __init__(self, twin: nn.Module) -> None:
        self.twin = twin
        self.parts = dict(inserted(twin))
        self.hosts = {
            path: m for path, m in twin.named_modules() if is_generated(type(m)) or _hooked(m)
        }
        self.args: dict[nn.Module, tuple[Any, ...]] = {}
        self.steps: dict[nn.Module, list[tuple[Tensor, Any]]] = {}
        self.handed: dict[int, Any] = {}  # id of a chain or mailbox -> what stands in for it
        self.linked: dict[nn.Module, Any] = {}  # mechanism of a chain -> its script module

    def run(self) -> nn.Module:
        self._watch()
        for path, part in self.parts.items():
            self._put(path, self._scripted(path, part))
        for path in sorted(self.hosts, key=lambda p: -p.count(".")):
            if path:
                self._put(path, self._host(path, self.hosts[path]))
        if "" in self.hosts:
            self._as_source(self.twin)
        return self.twin

    def _put(self, path: str, module: Any) -> None:
        parent, _, name = path.rpartition(".")
        self.twin.get_submodule(parent)._modules[name] = module

    def _watch(self) -> None:
        """Runs one forward and keeps what every attention and every host is handed."""
        modes = {m: m.training for m in self.twin.modules()}
        handles = [m.register_forward_pre_hook(self._note, prepend=True) for m in self._watched()]
        for part in self.parts.values():
            if isinstance(part, Link):
                self._note_steps(part)
        form = recorded_form(history(self.twin)[-1]).at_batch(2)
        like = next(self.twin.parameters(), torch.empty(0))
        inputs = form.drawn(torch.Generator().manual_seed(0), torch.randn)
        moved = pytree.tree_map_only(
            Tensor,
            lambda t: t.to(like.device, like.dtype if t.is_floating_point() else None),
            inputs,
        )
        try:
            with torch.no_grad():
                moved.feed(self.twin.eval())
        finally:
            for handle in handles:
                handle.remove()
            for part in self.parts.values():
                if isinstance(part, Link):
                    part.attention.__dict__.pop("step", None)
            for module, mode in modes.items():
                module.training = mode

    def _watched(self) -> set[nn.Module]:
        heads = {part.head for part in self.parts.values() if isinstance(part, Tapped)}
        return heads | {*self.parts.values(), *self.hosts.values()}

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.args.setdefault(module, args)

    def _note_steps(self, link: Link) -> None:
        attention, steps = link.attention, self.steps.setdefault(link.attention, [])
        step = type(attention).step

        def noted(x: Tensor, state: Any) -> Any:
            steps.append((x, state))
            return step(attention, x, state)

        attention.__dict__["step"] = noted

    def _scripted(self, path: str, part: nn.Module) -> Any:
        """What stands for an inserted module."""
        if isinstance(part, Link):
            return self._place(part)
        if isinstance(part, Tapped):
            return headed(part, self._args(path, part.head), self._kept(part.mailbox))
        return traced(part, self._args(path, part))

    def _args(self, path: str, module: nn.Module) -> tuple[Any, ...]:
        if module not in self.args:
            raise ModelError(f"{path} did not run in a forward", "torch.jit.trace may do")
        return self.args[module]

    def _kept(self, mailbox: Mailbox) -> Any:
        if id(mailbox) not in self.handed:
            self.handed[id(mailbox)] = torch.jit.script(Kept())
        return self.handed[id(mailbox)]

    def _place(self, link: Link) -> Any:
        if link.attention not in self.linked:
            self.linked[link.attention] = linked(link.attention, self.steps[link.attention])
        if id(link.chain) not in self.handed:
            self.handed[id(link.chain)] = torch.jit.script(Handed())
        kind = Next if link.place else First
        last = link.place == link.chain.places - 1
        made = kind(self.linked[link.attention], self.handed[id(link.chain)], last=last)
        return made.train(link.training)

    def _host(self, path: str, host: nn.Module) -> Any:
        before, hooked = type(host), _hooked(host)
        self._as_source(host)
        try:
            return torch.jit.script(host)
        except Exception:  # in whichever way torch.jit says that it does not read a line
            if hooked or not is_generated(before):
                raise
        host.__class__ = before
        # What torch.fx traced torch.jit may trace: there is no branch left that it would lose.
        return traced(host, self._args(path, host))

    def _as_source(self, host: nn.Module) -> None:
        """Gives a host a forward that calls its attentions, in words of TorchScript."""
        kind: Any = original_class(host)
        values: dict[str, Any] = dict(scripted_ways())
        if is_generated(type(host)):
            code: Any = type(host)
            sources, references, _ = code._surgeon_code
            calls = {name: called for name, _, called in references}
            values |= {name: values[called] for name, called in calls.items() if called in values}
            written = []
            for source in sources:
                # Neither what a pickle needs nor what adapters are told runs in a forward.
                if source.startswith("def ") and not source.startswith("def _load"):
                    made, types = for_script(source, kind, calls)
                    written.append(made)
                    values |= types
            values[INNER] = named_forward(kind, INNER)
            kind = retyped_by(kind, tuple(written), references, values)
        if _hooked(host):
            before, after = self._unhooked(host)
            source, own = forward_around(kind, HOOKED, before, after)
            own[HOOKED] = named_forward(kind, HOOKED)
            kind = retyped_by(kind, (source,), (), {**scripted_ways(), **own})
        host.__class__ = kind

    def _unhooked(self, host: nn.Module) -> tuple[list[str], list[str]]:
        """Takes our hooks off a host; returns what they do, as expressions of `value`."""
        found: tuple[list[str], list[str]] = ([], [])
        for hooks, said in zip((host._forward_pre_hooks, host._forward_hooks), found, strict=True):
            for key, hook in [(k, h) for k, h in hooks.items() if isinstance(h, _OURS)]:
                del hooks[key]
                if isinstance(hook, Tap):
                    name = f"_attnsurgeon_kept{len(host._modules)}"
                    host._modules[name] = self._kept(hook.mailbox)
                    said.append(f"self.{name}({hook.index}, value, {hook.copies})")
                else:
                    said.append(called_through(f"self.{hook.name}", hook.way, ["value"]))
        return found


def _hooked(host: nn.Module) -> bool:
    """Whether hooks of ours hang on a module."""
    hooks: list[Any] = [*host._forward_hooks.values(), *host._forward_pre_hooks.values()]
    return any(isinstance(hook, _OURS) for hook in hooks)
