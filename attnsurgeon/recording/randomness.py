"""A run that draws random numbers -> the same run on dice of its own, whatever others draw.

torch's default generators, Python's `random` and numpy's are the process's: another thread draws
from them while we run. So they are neither compared to learn whether a forward throws dice, nor
set back after it. torch's functions are given a generator of ours as they are called, in this
thread alone. Python's and numpy's cannot be: where their states have moved, a watched repetition
says whether it was this run that moved them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
_SEEDED = torch.Tag.nondeterministic_seeded
_SEED = 2_654_435_761  # none that a program sets: a network built here is not that of its seed


class OwnDice(TorchDispatchMode):
    """Lets torch's functions draw from generators of this mode, in this thread.

    Which function draws is what torch itself says of it (`torch.Tag.nondeterministic_seeded`). On
    meta nothing is drawn, and who brings a generator draws from that.

    Args:
        seed: of the generators; the same numbers come every time.

    Attributes:
        thrown: whether anything has been drawn.
    """

    supports_higher_order_operators = True

    def __init__(self, seed: int = _SEED) -> None:
        super().__init__()
        self.thrown = False
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.throw(func, args, kwargs or {})

    def throw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls one operator: what another mode, which has it at hand, does for speed."""
        if _SEEDED not in getattr(func, "tags", ()) or not _draws(func, args, kwargs):
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        if device.type == "meta":
            return args[0] if _fills(func, *args[1:], **kwargs) else func(*args, **kwargs)
        self.thrown = True
        generator = self._generators.get(device)
        if generator is None:
            generator = torch.Generator(device).manual_seed(self._seed)
            self._generators[device] = generator
        seeded = _with_generator(func)
        if seeded is not None:
            return seeded(*args, **{**kwargs, "generator": generator})
        return _lent(generator, device, lambda: func(*args, **kwargs))


def _fills(func: Any, first: float = 0, second: float = 1, **others: Any) -> bool:
    """Whether a call on meta changes nothing: it would take a millisecond to find that out.

    A spread that is none goes to the function itself, for its message.
    """
    if func is torch.ops.aten.normal_.default:
        return not others and second >= 0
    return func is torch.ops.aten.uniform_.default and not others and first <= second


def _lent(generator: torch.Generator, device: torch.device, call: Callable[[], T]) -> T:
    """Lets the default generator stand in for one of ours: some kernels take no other.

    Of the CPU's there is none in the torch of today, and no analysis runs elsewhere.
    """
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            made = call()
            generator.set_state(torch.get_rng_state())
            return made
    module = torch.get_device_module(device)
    with torch.random.fork_rng([device], device_type=device.type):
        module.set_rng_state(generator.get_state(), device)
        made = call()
        generator.set_state(module.get_rng_state(device))
        return made


@functools.cache
def _with_generator(func: Any) -> Any:
    """The function itself where it takes a generator, or its overload that does; None of others."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    packet = func.overloadpacket
    for overload in packet.overloads():
        other = getattr(packet, overload)
        given = [argument.name for argument in other._schema.arguments]
        if "generator" in given and [n for n in given if n != "generator"] == names:
            return other
    return None


def _draws(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call draws from a default generator: not from a given one, nor with p=0."""
    arguments = func._schema.arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()} | dict(kwargs)
    given |= {a.name: v for a, v in zip(arguments, args, strict=False)}
    return given.get("generator") is None and given.get("dropout_p") != 0


def _device_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    tensors = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    device = next((t.device for t in tensors), kwargs.get("device"))
    return torch.device("cpu") if device is None else torch.device(device)


def settled(run: Callable[[], T], seed: int = _SEED) -> T:
    """Returns `run()`, which draws the same numbers every time and moves nobody's generator."""
    return thrown_by(run, seed)[0]


def thrown_by(run: Callable[[], T], seed: int = _SEED) -> tuple[T, bool]:
    """Returns `run()` as `settled` does, and whether it has thrown dice.

    Args:
        run: called once; again where Python's or numpy's generators moved meanwhile.
        seed: of what it draws.
    """
    before = _Global()
    result = _Result(run, seed)
    if not before.moved():
        return result.value(), result.thrown
    with _Watch() as watch:
        _Result(run, seed)
    if not watch.drawn:  # it was another thread, which goes on undisturbed
        return result.value(), result.thrown
    before.seed(seed)
    try:
        result = _Result(run, seed)
    finally:
        before.restore()
    return result.value(), True


@contextlib.contextmanager
def dice_put_back(device: torch.device) -> Iterator[None]:
    """Sets the generators of the CPU, of a device, of Python and of numpy back afterwards.

    For what must not run under a mode, since that takes time. The generators are the process's:
    what another thread has drawn meanwhile it draws again.
    """
    others = _Global()
    modules = [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]
    states = [
        (module, at, module.get_rng_state(*at))
        for module, at in ((module, _at(module, device)) for module in modules)
    ]
    try:
        yield
    finally:
        for module, at, state in states:
            module.set_rng_state(state, *at)
        others.restore()


def _at(module: Any, device: torch.device) -> tuple[torch.device, ...]:
    """The device, where a module of torch's has one state for each."""
    return (device,) if inspect.signature(module.get_rng_state).parameters else ()


class _Result:
    """What a run gave, or raised."""

    def __init__(self, run: Callable[[], Any], seed: int) -> None:
        self._error: BaseException | None = None
        with OwnDice(seed) as dice:
            try:
                self._value = run()
            except (Exception, SystemExit) as error:  # a stranger's code: it is raised below
                self._error = error
        self.thrown = dice.thrown

    def value(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class _Global:
    """The states of Python's and numpy's generators, as they stand."""

    def __init__(self) -> None:
        # numpy is no dependency: where nobody imported it, nobody has drawn from it.
        self._numpy = getattr(sys.modules.get("numpy"), "random", None)
        self._states = self._read()

    def moved(self) -> bool:
        """Whether a number has been drawn since, by whomever."""
        (python, theirs), (python_now, theirs_now) = self._states, self._read()
        if python != python_now:
            return True
        return theirs is not None and (
            theirs[2:] != theirs_now[2:] or bool((theirs[1] != theirs_now[1]).any())
        )

    def seed(self, seed: int) -> None:
        """Lets them draw what they draw for this seed."""
        random.seed(seed)
        if self._numpy is not None:
            self._numpy.seed(seed)

    def restore(self) -> None:
        """Sets them back."""
        python, theirs = self._states
        random.setstate(python)
        if self._numpy is not None:
            self._numpy.set_state(theirs)

    def _read(self) -> tuple[Any, Any]:
        return random.getstate(), None if self._numpy is None else self._numpy.get_state()


class _Watch:
    """Sees whether this thread draws from Python's or numpy's generators.

    Python's is a C object, whose calls a profiler is told of. numpy's calls are told to nobody:
    there it counts that code has run which names numpy's functions of random numbers.
    """

    def __enter__(self) -> _Watch:
        self._python = False
        self._ran: dict[CodeType, Mapping[str, Any]] = {}
        self._other = sys.getprofile()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(self._other)

    @property
    def drawn(self) -> bool:
        """Whether anything was drawn."""
        return self._python or any(_names_numpys(c, scope) for c, scope in self._ran.items())

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self._ran[frame.f_code] = frame.f_globals
        elif event == "c_call" and getattr(arg, "__self__", None) is _PYTHONS:
            self._python |= not arg.__name__.endswith("state")


_PYTHONS = getattr(random.random, "__self__", None)


def _names_numpys(code: CodeType, scope: Mapping[str, Any]) -> bool:
    numpy = sys.modules.get("numpy")
    if numpy is None or str(scope.get("__name__")).partition(".")[0] in ("numpy", "attnsurgeon"):
        return False
    named = [scope.get(name) for name in code.co_names]
    if "random" in code.co_names and ("numpy" in code.co_names or any(v is numpy for v in named)):
        return True
    owner = getattr(numpy.random.random_sample, "__self__", None)
    return any(v is numpy.random or getattr(v, "__self__", numpy) is owner for v in named)
