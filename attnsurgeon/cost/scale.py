"""One forward -> Weight: a dispatch mode that prices every operator under the module that runs it.

In inference mode such a mode sees whole operators (`linear`, `layer_norm`, `adaptive_avg_pool2d`),
the level fvcore's tracer records at; outside, autograd has taken them apart before. An operator
belongs to the module whose forward runs, and to the modules that module lies in.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from attnsurgeon.cost.operators import Price, is_opened, price
from attnsurgeon.cost.weight import Count, Weight
from attnsurgeon.recording.record import MARK


class Scale(TorchDispatchMode):
    """Keeps the books of one forward of `twin`: enter it together with `watching()`."""

    def __init__(self, twin: nn.Module) -> None:
        super().__init__()
        self.twin = twin
        self.read: set[int] = set()  # ids of the parameters that any operator read
        self.own: dict[str, Count] = {}  # by canonical path, children excluded
        self.operators: Counter[str] = Counter()
        self.beyond: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.running: list[str] = [""]
        self.open: list[list[Count]] = []  # one list of prices a running inserted module
        self.inserted: dict[str, list[list[Count]]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.read.update(id(a) for a in (*args, *kwargs.values()) if isinstance(a, nn.Parameter))
        if is_opened(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = _shape_only(func, args)
        if out is None:
            out = func(*args, **kwargs)
        priced = price(func, args, kwargs, out, inserted=bool(self.open))
        if priced is not None:
            self.add(priced)
        return out

    def add(self, priced: Price) -> None:
        """Enters one price in the books."""
        if priced.macs is None:
            self.uncounted[priced.operator] += 1
            return
        self.operators[priced.operator] += priced.macs
        if priced.beyond:
            self.beyond[priced.operator] += priced.macs
        count = Count(0, priced.macs, priced.activations)
        path = self.running[-1]
        self.own[path] = self.own.get(path, Count()) + count
        for prices in self.open:
            prices.append(count)

    def idle(self) -> tuple[str, ...]:
        """After a forward: inserted modules with parameters that nothing read, or without work."""
        return tuple(
            path
            for path, calls in self.inserted.items()
            if calls
            and (
                not any(calls)
                or any(id(p) not in self.read for p in self.twin.get_submodule(path).parameters())
            )
        )

    def macs_of(self, path: str) -> int:
        """After a forward: what the calls of an inserted module cost."""
        return sum(count.macs for call in self.inserted[path] for count in call)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps `running` and `open` true while the twin runs."""
        handles = []
        for path, module in self.twin.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # which takes no hooks: its operations count as those of who calls it
            handles += self.watch(path, module, inserted=vars(module).get(MARK) is not None)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch(self, path: str, module: nn.Module, *, inserted: bool) -> Iterator[RemovableHandle]:
        """Hooks one module; its own hooks run inside, so what they compute is its own."""
        if inserted:
            self.inserted[path] = []

        def enter(*_call: Any) -> None:
            self.running.append(path)
            if inserted:
                prices: list[Count] = []
                self.open.append(prices)
                self.inserted[path].append(prices)

        def leave(*_call: Any) -> None:
            self.running.pop()
            if inserted:
                self.open.pop()

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave, always_call=True)

    def weight(self, notes: tuple[str, ...]) -> Weight:
        """Sums up after the forward."""
        aliases = _aliases(self.twin)
        by_module = _inclusive(self.twin, self.own, aliases)
        root = by_module[""]
        return Weight(
            root.params,
            root.macs,
            root.activations,
            by_operator=dict(self.operators.most_common()),
            by_module=by_module,
            uncounted=dict(self.uncounted.most_common()),
            beyond_fvcore=dict(self.beyond.most_common()),
            aliases=aliases,
            inserted={
                path: tuple(sum(call, Count()) for call in calls)
                for path, calls in self.inserted.items()
            },
            notes=notes,
        )


def _shape_only(func: OpOverload, args: tuple[Any, ...]) -> Tensor | None:
    """Returns the result of the three operators that are slow on meta, None for all others.

    Their meta kernels are decompositions in Python, 1 ms a call: of resnet50's forward on meta,
    batch norms took 55 ms of 61. Arguments that do not fit go to the kernel, for its message.
    """
    name = func._schema.name
    if name not in _SLOW_ON_META or not args[0].is_meta or args[0].ndim < 2:
        return None
    x, second = args[:2]
    if name == "aten::layer_norm" and tuple(second) == x.shape[-len(second) :]:
        return x.new_empty(x.shape)
    if name == "aten::linear" and second.shape[1:] == x.shape[-1:]:
        return x.new_empty((*x.shape[:-1], second.shape[0]))
    if name == "aten::batch_norm" and second is not None and second.shape == x.shape[1:2]:
        return torch.empty_like(x)
    return None


_SLOW_ON_META = ("aten::batch_norm", "aten::layer_norm", "aten::linear")


def _aliases(model: nn.Module) -> dict[str, str]:
    first = {id(module): path for path, module in model.named_modules()}
    paths = ((path, first[id(m)]) for path, m in model.named_modules(remove_duplicate=False))
    return {path: canonical for path, canonical in paths if path != canonical}


def _inclusive(
    model: nn.Module, own: Mapping[str, Count], aliases: Mapping[str, str]
) -> dict[str, Count]:
    """Returns module path -> Count with everything inside, under each of a module's paths."""
    ran: dict[str, Count] = {}
    for path, count in own.items():
        for owner in _owners(path):
            ran[owner] = ran.get(owner, Count()) + count
    params: dict[str, dict[int, int]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        for owner in _owners(name.rpartition(".")[0]):
            params.setdefault(owner, {})[id(parameter)] = parameter.numel()
    return {
        path: ran.get(aliases.get(path, path), Count()) + Count(sum(params.get(path, {}).values()))
        for path, _ in model.named_modules(remove_duplicate=False)
    }


def _owners(path: str) -> Iterator[str]:
    """Yields a module path and the paths of the modules it lies in, the root ("") last."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
