"""Random networks as somebody would write them: the text of a file.py with a factory.

A network is drawn as source code, so one that fails can be read, kept and run again. Widths are 1
to 24, maps uneven, and every value that is computed reaches an output. Statements never leave a map
at another resolution than `level` halvings of the input (each rounds up), so that any two values of
one width and level can be added.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from attnsurgeon.checks.verify import randomise_norms

T = TypeVar("T")
WIDTHS = (4, 8, 6, 12, 16, 24, 7, 5, 3, 2, 1)
NAMES = ("conv", "block", "attn", "layer", "m", "attn_1", "proj", "norm", "act", "down")
HEADER = """\
from __future__ import annotations

import functools
import math
import operator
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Record:
    first: Tensor
    second: Tensor


def doubled(module, args, output):
    return output * 2


def shifted(module, args):
    return (args[0] + 0.25,)


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(0.7) / 0.7


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.movedim(1, -1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)
"""


class Draw:
    """Draws of one example; what comes first among the options is what examples shrink to."""

    def __init__(self, sample: Callable[[int], int]) -> None:
        self._sample = sample

    def one(self, options: Sequence[T]) -> T:
        return options[self._sample(len(options))]

    def chance(self, out_of: int) -> bool:
        """Whether something happens that happens once in so many times."""
        return self._sample(out_of) == out_of - 1


class Value(NamedTuple):
    """A map in the code of a forward: its variable, its channels, how often it was halved."""

    name: str
    channels: int
    level: int


@dataclass
class Program:
    """A drawn network.

    Attributes:
        source: the text of its file; `factory()` in it builds the network.
        sizes: of its inputs, without the batch.
        features: the oddities in it, by name.
        fixed: it takes no other input size.
    """

    source: str
    sizes: tuple[tuple[int, ...], ...]
    features: frozenset[str]
    fixed: bool

    def build(self) -> nn.Module:
        """The network with random weights and norms, in eval mode; `forget` it afterwards."""
        name = f"written_{abs(hash(self.source)):x}"
        if name not in sys.modules:
            module = ModuleType(name)
            sys.modules[name] = module
            file = f"<{name}>"
            linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)
            exec(compile(self.source, file, "exec"), module.__dict__)
        torch.manual_seed(0)
        net = sys.modules[name].factory()
        randomise_norms(net)
        net.eval()
        return net

    def forget(self) -> None:
        name = f"written_{abs(hash(self.source)):x}"
        sys.modules.pop(name, None)
        linecache.cache.pop(f"<{name}>", None)

    @property
    def input_size(self) -> Any:
        """As `input_size` is told: one size, or one for each input."""
        return self.sizes[0] if len(self.sizes) == 1 else self.sizes

    def various_inputs(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """Inputs as recorded, of other batches, and of another size where that is taken."""
        found = {"as recorded": self.inputs(), "three images": self.inputs(3)}
        return found if self.fixed else found | {"another size": self.inputs(1, grow=3)}

    def inputs(self, batch: int = 2, grow: int = 0) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(batch + 10 * grow)
        shapes = ((batch, s[0], *(n + grow for n in s[1:])) for s in self.sizes)
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@dataclass
class Book:
    """The file that is being written."""

    draw: Draw
    dims: int
    height: int
    classes: list[str] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    fixed: bool = False
    size: tuple[int, ...] = ()
    _numbers: Any = field(default_factory=itertools.count)

    def note(self, feature: str) -> None:
        self.features.add(feature)

    def class_name(self) -> str:
        return f"Block{next(self._numbers)}"


class Body:
    """One class that is being written: the lines of its __init__ and of its forward."""

    def __init__(self, book: Book, depth: int) -> None:
        self.book, self.draw, self.d, self.depth = book, book.draw, book.dims, depth
        self.init: list[str] = []
        self.lines: list[str] = []
        self.kept: set[str] = {"x"}  # variables that are used again later
        self.modules: dict[str, list[str]] = {}
        self.taken: set[str] = set()
        self.count = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def name(self, options: Sequence[str] = NAMES) -> str:
        """A free name for a child or a tensor."""
        wanted = self.draw.one(options)
        free = (f"{wanted}{i or ''}" for i in itertools.count())
        name = next(n for n in free if n not in self.taken)
        self.taken.add(name)
        return name

    def module(self, expression: str, shareable: bool = True) -> str:
        """A child made by this expression, one that is there already now and then."""
        known = self.modules.setdefault(expression, [])
        if known and shareable and self.draw.chance(3):
            self.book.note("shared module")
            return self.draw.one(known)
        path = f"self.{self.name()}"
        self.init.append(f"{path} = {expression}")
        known.append(path)
        return path

    def tensor(self, expression: str, buffer: bool = False) -> str:
        name = self.name(("gamma", "scale", "weight", "table"))
        if buffer:
            self.init.append(f"self.register_buffer({name!r}, {expression})")
        else:
            self.init.append(f"self.{name} = nn.Parameter({expression})")
        return f"self.{name}"

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def over(self, x: Value) -> str:
        """A variable for what is made of x: the same one where x is not needed any more."""
        return self.fresh() if x.name in self.kept or self.draw.chance(2) else x.name

    def make(self, x: Value, expression: str, channels: int = 0, level: int = -1) -> Value:
        """Assigns an expression to a variable."""
        name = self.over(x)
        self.say(f"{name} = {expression}")
        return Value(name, channels or x.channels, x.level if level < 0 else level)

    @contextlib.contextmanager
    def keeping(self, x: Value) -> Iterator[None]:
        """Lets no statement inside assign to the variable of x."""
        known = x.name in self.kept
        self.kept.add(x.name)
        yield
        if not known:
            self.kept.discard(x.name)

    def ones(self, c: int) -> str:
        """The shape of one number for each channel."""
        return f"{c}, {', '.join('1' * self.d)}"

    def spatial(self, x: Value) -> str:
        return f"{x.name}.shape[2:]"


# Steps that keep the resolution and mostly the channels.


def conv(b: Body, x: Value, out: int = 0, stride: int = 1) -> Value:
    """A convolution: a module, a function with its own weight, normed, tied, transposed."""
    out = out or b.draw.one((x.channels, *WIDTHS))
    kernel = b.draw.one((3, 1))
    shared = [g for g in (1, x.channels, 2, 4) if x.channels % g == 0 == out % g]
    groups = b.draw.one(shared) if kernel == 3 else 1
    given = f"{x.channels}, {out}, {kernel}, stride={stride}, padding={kernel // 2}"
    if groups > 1:
        given += f", groups={groups}"
    if b.draw.chance(2):
        given += ", bias=False"
    how = b.draw.one(("module",) * 8 + ("function", "weight norm", "tied", "hooked", "kwarg"))
    path = ""
    if how == "function":
        b.book.note("functional conv")
        size = ", ".join([str(out), str(x.channels // groups), *[str(kernel)] * b.d])
        weight = b.tensor(f"0.3 * torch.randn({size})")
        made = f"F.conv{b.d}d({x.name}, {weight}, None, {stride}, {kernel // 2}, groups={groups})"
        return b.make(x, made, out, x.level + stride - 1)
    if how == "weight norm":
        b.book.note("weight norm")
        kind = b.draw.one(("weight_norm", "spectral_norm", "orthogonal"))
        path = b.module(f"parametrizations.{kind}(nn.Conv{b.d}d({given}))")
    elif how == "tied":
        b.book.note("tied weights")
        path, other = (b.module(f"nn.Conv{b.d}d({given})", False) for _ in range(2))
        b.init.append(f"{other}.weight = {path}.weight")
        with b.keeping(x):
            first, second = (
                b.make(x, f"{m}({x.name})", out, x.level + stride - 1) for m in (path, other)
            )
        return b.make(first, f"{first.name} + {second.name}.sigmoid()")
    else:
        path = b.module(f"nn.Conv{b.d}d({given})", how != "hooked")
    if how == "hooked":
        b.book.note("user hook")
        kind, hook = b.draw.one((("forward_hook", "doubled"), ("forward_pre_hook", "shifted")))
        b.init.append(f"{path}.register_{kind}({hook})")
    argument = f"input={x.name}" if how == "kwarg" else x.name
    return b.make(x, f"{path}({argument})", out, x.level + stride - 1)


def norm(b: Body, x: Value) -> Value:
    c = x.channels
    kinds = [f"nn.BatchNorm{b.d}d({c})"] * 4
    kinds += [f"nn.GroupNorm(1, {c})", f"nn.InstanceNorm{b.d}d({c}, affine=True)"]
    kinds += ["function", *([f"LayerNorm2d({c})"] if c > 2 else [])]
    kind = b.draw.one(kinds)
    if kind == "function":
        b.book.note("functional norm")
        return b.make(x, f"F.group_norm({x.name}, 1, {b.tensor(f'torch.ones({c})')})")
    return b.make(x, f"{b.module(kind)}({x.name})")


def act(b: Body, x: Value) -> Value:
    kind = b.draw.one(("module", "module", "function", "method", "in place", "product"))
    n = x.name
    if kind == "module":
        inside = "" if x.name in b.kept else b.draw.one(("", "inplace=True"))
        name = b.draw.one(("ReLU", "SiLU", "Hardswish", "LeakyReLU"))
        if name == "LeakyReLU" and inside:
            inside = "0.1, True"
        return b.make(x, f"{b.module(f'nn.{name}({inside})')}({n})")
    if kind == "function":
        return b.make(x, b.draw.one((f"F.relu({n})", f"F.gelu({n})", f"torch.relu(input={n})")))
    if kind == "method":
        return b.make(x, b.draw.one((f"{n}.relu()", f"{n}.mul(1.5).relu().clamp(max=60)")))
    if kind == "product":
        return b.make(x, b.draw.one((f"{n} * torch.sigmoid({n})", f"{n}.sigmoid().mul({n})")))
    if x.name in b.kept:
        return b.make(x, f"F.relu({n})")
    b.book.note("activation in place")
    b.say(b.draw.one((f"{n}.relu_()", f"F.relu({n}, inplace=True)", f"{n} = {n}.relu_()")))
    return x


def pool(b: Body, x: Value) -> Value:
    kind = b.draw.one(("MaxPool", "AvgPool", "function"))
    if kind == "function":
        return b.make(x, f"F.avg_pool{b.d}d({x.name}, 3, 1, 1)")
    return b.make(x, f"{b.module(f'nn.{kind}{b.d}d(3, 1, 1)')}({x.name})")


def gate(b: Body, x: Value) -> Value:
    """A squeeze-and-excite of its own, with a child that may be called attn."""
    dims = tuple(range(2, 2 + b.d))
    path = b.module(f"nn.Conv{b.d}d({x.channels}, {x.channels}, 1)")
    with b.keeping(x):
        squeezed = b.make(x, f"{x.name}.mean({dims}, keepdim=True)")
    return b.make(x, f"{x.name} * {path}({squeezed.name}).sigmoid()")


def chain(b: Body, x: Value) -> Value:
    """conv-norm-act in one Sequential, from a plain list or an OrderedDict."""
    out = b.draw.one((x.channels, *WIDTHS))
    layers = [f"nn.Conv{b.d}d({x.channels}, {out}, 3, padding=1)", f"nn.BatchNorm{b.d}d({out})"]
    layers.append("nn.ReLU(inplace=True)")
    named = ", ".join(f"({n!r}, {m})" for n, m in zip(("attn", "b", "c"), layers, strict=True))
    made = b.draw.one(
        (f"nn.Sequential({', '.join(layers)})", f"nn.Sequential(OrderedDict([{named}]))")
    )
    return b.make(x, f"{b.module(made)}({x.name})", out)


def concat(b: Body, x: Value) -> Value:
    """Two ways from one value, side by side."""
    b.book.note("concat")
    with b.keeping(x):
        y = conv(b, x)
        if b.draw.chance(2):
            y = act(b, y)
    how = b.draw.one((
        "torch.cat([{}, {}], 1)", "torch.cat(({}, {}), dim=1)",
        "torch.concat(tensors=[{}, {}], dim=1)", "torch.cat([{}, {}], dim=-{}).contiguous()",
    ))  # fmt: skip
    return b.make(x, how.format(x.name, y.name, b.d + 1), x.channels + y.channels)


def split(b: Body, x: Value) -> Value:
    """Parts of the channels, each on its own way."""
    if x.channels < 2 or x.channels % 2:
        return act(b, x)
    b.book.note("split")
    half = x.channels // 2
    left, right = b.fresh(), b.fresh()
    if b.draw.chance(3):
        parts = b.fresh()
        b.say(f"{parts} = list({x.name}.chunk(2, 1))")
        b.say(f"{parts}.append(F.relu({parts}[-1]))")
        return b.make(x, f"torch.cat([{parts}[0], {parts}[2]], 1)")
    b.say(f"{left}, {right} = " + b.draw.one((
        f"{x.name}.chunk(2, 1)", f"torch.split({x.name}, {half}, dim=1)",
        f"({x.name}[:, :{half}], {x.name}[:, {half}:])", f"{x.name}.tensor_split(2, dim=1)",
    )))  # fmt: skip
    with b.keeping(Value(left, half, x.level)):
        part = conv(b, Value(right, half, x.level), half)
    if b.draw.chance(3):
        return b.make(x, f"torch.stack([{left}, {part.name}], 2).flatten(1, 2)")
    return b.make(x, f"torch.cat([{left}, {part.name}], 1)")


def assign(b: Body, x: Value) -> Value:
    """Item assignment, to a slice or by a mask, on a copy."""
    b.book.note("item assignment")
    if x.channels < 2:
        return act(b, x)
    y = b.make(x, f"{x.name}.clone()" if x.name in b.kept else f"{x.name} + 0")
    b.say(b.draw.one((
        f"{y.name}[:, 0] = 0.5", f"{y.name}[:, :1] = {y.name}[:, -1:]",
        f"{y.name}[..., 0] = {y.name}[..., -1]", f"{y.name}[:, :1] *= 0.5",
        f"{y.name}[..., 1:] += {y.name}[..., :-1].detach()",
    )))  # fmt: skip
    return y


def view(b: Body, x: Value) -> Value:
    """Changes in place of a view, after which the whole is used."""
    b.book.note("view in place")
    y = b.make(x, f"({x.name} * 1.5).contiguous()")
    v = b.fresh()
    b.say(f"{v} = " + b.draw.one((
        f"{y.name}[:, :1]", f"{y.name}.flatten(1)", f"{y.name}.narrow(1, 0, 1)",
        f"{y.name}.transpose(1, 2)", f"{y.name}.view({y.name}.shape[0], -1)",
    )))  # fmt: skip
    b.say(b.draw.one((f"{v}.mul_(0.5)", f"{v} += 1", f"{v}.relu_()", f"F.relu({v}, inplace=True)",
                      f"torch.nn.functional.silu({v}, inplace=True)")))  # fmt: skip
    return y


def constant(b: Body, x: Value) -> Value:
    """A buffer, a parameter, a plain tensor or a number, added or multiplied."""
    b.book.note("constant")
    shape = f"torch.linspace(0.5, 1.5, {x.channels}).view({b.ones(x.channels)})"
    kind = b.draw.one(("buffer", "parameter", "plain", "number"))
    if kind == "number":
        return b.make(x, b.draw.one((f"2 * {x.name} - 0.5", f"{x.name}.div(3).add(1)")))
    if kind == "plain":
        name = f"self.{b.name(('table', 'offset'))}"
        b.init.append(f"{name} = {shape}")
    else:
        name = b.tensor(shape, buffer=kind == "buffer")
    return b.make(x, b.draw.one((f"{x.name} * {name}", f"{x.name} + {name}", f"{name} + {x.name}")))


def dropout(b: Body, x: Value) -> Value:
    b.book.note("dropout")
    kind = b.draw.one(("module", "path", "function", "noise"))
    if kind == "module":
        return b.make(x, f"{b.module(f'nn.Dropout{b.d}d(0.3)')}({x.name})")
    if kind == "path":
        return b.make(x, f"{b.module('DropPath()')}({x.name})")
    if kind == "function":
        return b.make(x, f"F.dropout({x.name}, 0.2, training=self.training)")
    y = x if x.name not in b.kept else b.make(x, x.name)
    b.say("if self.training:")
    b.say(f"    {y.name} = {y.name} + 0.1 * torch.randn_like({y.name})")
    return y


def decide(b: Body, x: Value) -> Value:
    """Decisions: by a flag, by shape, by value, by the mode."""
    kind = b.draw.one(("flag", "shape", "rank", "value", "item"))
    b.book.note(f"decision by {kind}")
    y = x if x.name not in b.kept else b.make(x, x.name)
    n = y.name
    if kind == "flag":
        b.init.append(f"self.flag = {b.draw.one((True, False))}")
        b.say("if self.flag:")
    elif kind == "shape":
        b.say(b.draw.one((f"if {n}.shape[-1] > 8:", f"if {n}.size(2) % 2:",
                          f"if {n}.shape[0] == 2 and {n}.shape[-1] > 3:")))  # fmt: skip
    elif kind == "rank":
        b.say(b.draw.one((f"if {n}.dim() > 2:", f"if len({n}.shape) != 3:",
                          f"if isinstance({n}, Tensor):")))  # fmt: skip
    elif kind == "value":
        b.say(b.draw.one((f"if {n}.mean() > 0:", f"if bool(({n} > 0).any()):")))
    else:
        b.say(f"{n} = {n} / (1 + abs({n}.mean().item()))")
        return y
    b.say(f"    {n} = F.relu({n}) + {n}")
    return y


def channels_last(b: Body, x: Value) -> Value:
    """A stretch with the channels on the last axis."""
    if x.channels < 3:  # a LayerNorm leaves nothing of them
        return act(b, x)
    b.book.note("channels last")
    c, wide = x.channels, 2 * x.channels
    there = (0, *range(2, 2 + b.d), 1)
    back = (0, 1 + b.d, *range(1, 1 + b.d))
    order = b.draw.one((f"permute{there}", f"permute({list(there)})", "movedim(1, -1)"))
    with b.keeping(x):
        y = b.make(x, f"{x.name}.{order}")
    b.say(f"{y.name} = {b.module(f'nn.LayerNorm({c})')}({y.name})")
    b.say(f"{y.name} = F.gelu({b.module(f'nn.Linear({c}, {wide})')}({y.name}))")
    b.say(f"{y.name} = {b.module(f'nn.Linear({wide}, {c})')}({y.name})")
    if b.draw.chance(2):
        b.say(f"{y.name} = {y.name} * {b.tensor(f'torch.full(({c},), 0.3)')}")
    return b.make(y, f"{y.name}.permute{back}")


def tokens(b: Body, x: Value) -> Value:
    """A stretch of tokens (N, L, C), with residual additions of their own."""
    if x.channels < 3:  # a LayerNorm leaves nothing of them
        return act(b, x)
    b.book.note("tokens")
    c = x.channels
    t = b.fresh()
    b.say(f"{t} = {x.name}.flatten(2).transpose(1, 2)")
    for kind in b.draw.one((("mlp",), ("attention", "mlp"), ("attention",))):
        normed = f"{b.module(f'nn.LayerNorm({c})')}({t})"
        if kind == "mlp":
            mlp = b.module(f"nn.Sequential(nn.Linear({c}, 9), nn.GELU(), nn.Linear(9, {c}))")
            b.say(f"{t} = {t} + {mlp}({normed})")
        else:
            path = b.module(f"nn.MultiheadAttention({c}, 1, batch_first=True)")
            n, made = b.fresh(), b.fresh()
            b.say(f"{n} = {normed}")
            call = f"{path}({n}, {n}, {n}"
            b.say(b.draw.one((f"{made}, _ = {call})", f"{made} = {call}, need_weights=False)[0]")))
            b.say(f"{t} = {t} + {made}")
    return b.make(x, f"{t}.transpose(1, 2).reshape({x.name}.shape)")


def spectrum(b: Body, x: Value) -> Value:
    b.book.note("spectrum")
    y = b.make(x, f"torch.fft.fft({x.name}, dim=-1)")
    return b.make(y, f"torch.fft.ifft({y.name} * 0.5, dim=-1).real")


def position(b: Body, x: Value) -> Value:
    """A learned map of positions, which ties the network to its size."""
    if b.depth:  # the class may run at several resolutions
        return constant(b, x)
    b.book.note("position")
    b.book.fixed = True
    size = (-(-n // 2**x.level) for n in b.book.size)
    path = b.tensor(f"torch.randn(1, {', '.join(map(str, (x.channels, *size)))})")
    return b.make(x, f"{x.name} + {path}")


STEPS: tuple[Callable[[Body, Value], Value], ...] = (
    conv, norm, act, conv, norm, act, chain, pool, gate, concat, split, constant, dropout,
    channels_last, tokens, assign, decide, view, spectrum, position,
)  # fmt: skip


def halve(b: Body, x: Value) -> Value:
    """The next resolution, by a convolution, a pooling or a slice."""
    kind = b.draw.one(("conv", "pool", "slice", "conv"))
    if kind == "conv":
        return conv(b, x, b.draw.one((x.channels, *WIDTHS)), 2)
    if kind == "pool":
        return b.make(x, f"{b.module(f'nn.MaxPool{b.d}d(3, 2, 1)')}({x.name})", level=x.level + 1)
    slices = ", ".join(["::2"] * b.d)
    return b.make(x, f"{x.name}[:, :, {slices}]", level=x.level + 1)


def steps(b: Body, x: Value, most: int = 3) -> Value:
    for _ in range(1 + b.draw.one(range(most))):
        x = b.draw.one(STEPS)(b, x)
        if x.channels > 32:
            x = conv(b, x, 8)
    return x


# Steps made of steps.


def residual(b: Body, x: Value) -> Value:
    """Something, and around it a shortcut, joined in one of many ways."""
    s = b.fresh()
    down = x.level < 2 and b.draw.chance(4)
    out = b.draw.one((x.channels, x.channels, *WIDTHS))
    before = set(b.kept)
    b.kept.add(x.name)
    if down or out != x.channels:
        stride = 2 if down else 1
        path = b.module(f"nn.Conv{b.d}d({x.channels}, {out}, 1, {stride})", False)
        b.say(f"{s} = {path}({x.name})")
    else:
        b.say(f"{s} = {x.name}")
    b.kept.add(s)
    y = steps(b, x, 2)
    if b.depth < 2 and b.draw.chance(4):
        b.book.note("nested residual")
        y = residual(b, y)
    while y.level < x.level + down:
        y = conv(b, y, out, 2)
    if y.channels != out or b.draw.chance(2) or y.name == s:
        y = conv(b, y, out)
    if b.draw.chance(2):
        y = norm(b, y)
    if y.level > x.level + down:
        y = b.make(y, f"F.interpolate({y.name}, size={s}.shape[2:])", level=x.level + down)
    joined = b.make(y, f"{y.name}") if y.name in b.kept else y
    n = joined.name
    how = b.draw.one(("plain", "in place", "method", "scaled", "layer scale", "drop", "sum",
                      "three", "alpha", "stack", "callable"))  # fmt: skip
    b.book.note(f"join: {how}")
    made = Value(b.fresh(), out, y.level)
    if how == "in place":
        b.say(b.draw.one((f"{n} += {s}", f"{n}.add_({s})", f"{n} = {n}.add_({s})",
                          f"{n} = operator.iadd({n}, {s})")))  # fmt: skip
        made = joined
    elif how == "three":
        with b.keeping(joined):
            z = act(b, conv(b, Value(s, out, y.level), out))
        b.say(f"{made.name} = " + b.draw.one((f"{n} + {s} + {z.name}", f"{s} + ({z.name} + {n})",
                                             f"sum([{s}, {n}, {z.name}])")))  # fmt: skip
    else:
        ways = {
            "plain": (f"{n} + {s}", f"{s} + {n}", f"torch.add({n}, other={s})"),
            "method": (f"{n}.add({s})", f"{s}.add({n}).mul(1.0)"),
            "scaled": (f"{s} + 0.2 * {n}", f"{n} * 0.2 + {s}", f"{s} + {n} / 4"),
            "layer scale": (f"{s} + {b.tensor(f'torch.full(({b.ones(out)}), 0.4)')} * {n}",)
            if how == "layer scale" else (),
            "drop": (f"{s} + {b.module('DropPath()')}({n})",
                     f"{s} + F.dropout({n}, 0.2, self.training)") if how == "drop" else (),
            "sum": (f"sum([{s}, {n}])", f"functools.reduce(operator.add, [{n}, {s}])"),
            "alpha": (f"torch.add({s}, {n}, alpha=0.5)", f"{s}.add({n}, alpha=0.5)"),
            "stack": (f"torch.stack([{s}, {n}]).sum(0)", f"torch.stack([{s}, {n}], 1).mean(1)"),
            "callable": (f"operator.add({s}, {n})",),
        }  # fmt: skip
        b.say(f"{made.name} = {b.draw.one(ways[how])}")
    b.kept = before
    return act(b, made) if b.draw.chance(2) else made


def blocks(b: Body, x: Value) -> Value:
    """Children of a class of their own, called in one of many ways."""
    how = b.draw.one((
        "child", "child", "child", "loop", "values", "listed", "getattr", "sequential", "twice",
        "two levels", "checkpoint", "residual loop", "children",
    ))  # fmt: skip
    b.book.note(f"blocks: {how}")
    same = how not in ("child", "checkpoint", "children")
    made = write_block(b.book, x, b.depth + 1, keeps=same, plain=how != "child")
    several = f"[{made.name}() for _ in range(2)]"
    if how == "child":
        path = b.module(f"{made.name}()", False)
        y = b.make(x, made.call.format(path, x.name), made.channels, made.level)
        for line in made.after:
            b.say(line.format(y.name))
        return y
    if how == "checkpoint":
        path = b.module(f"{made.name}()", False)
        call = f"checkpoint({path}, {x.name}, use_reentrant=False)"
        return b.make(x, call, made.channels, made.level)
    if how == "twice":
        path = b.module(f"{made.name}()")
        return b.make(x, f"{path}({path}({x.name}))")
    if how == "two levels":
        path = b.module(f"{made.name}()")
        with b.keeping(x):
            low = b.make(x, f"{path}(F.avg_pool{b.d}d({x.name}, 2, ceil_mode=True))")
        return b.make(x, f"{path}({x.name}) + F.interpolate({low.name}, size={x.name}.shape[2:])")
    if how == "sequential":
        return b.make(x, f"{b.module(f'nn.Sequential(*{several})', False)}({x.name})")
    y = b.make(x, x.name)
    if how == "children":
        path = b.module(f"Walking(nn.Sequential({made.name}()), nn.ReLU())", False)
        return b.make(x, f"{path}({x.name})", made.channels, made.level)
    if how == "values":
        name = b.name(("layers", "stages"))
        b.init.append(f"self.{name} = nn.ModuleDict({{'attn': {made.name}(), 'b': {made.name}()}})")
        b.say(f"for m in self.{name}.values():")
    elif how == "listed":
        name = b.name(("layers", "stages"))
        b.init.append(f"self.{name} = {several}")
        b.init.append(f"for i, m in enumerate(self.{name}):")
        b.init.append(f"    self.add_module(f'{name}_{{i}}', m)")
        b.say(f"for m in self.{name}:")
    elif how == "getattr":
        name = b.name(("layer", "stage"))
        b.taken |= {f"{name}_0", f"{name}_1"}
        b.init.append("for i in range(2):")
        b.init.append(f"    setattr(self, f'{name}_{{i}}', {made.name}())")
        b.say(f"for m in [getattr(self, f'{name}_{{i}}') for i in range(2)]:")
    else:
        name = b.name(("layers", "stages"))
        b.init.append(f"self.{name} = nn.ModuleList({several})")
        b.say(f"for m in self.{name}:")
    call = f"{y.name} + m({y.name})" if how == "residual loop" else f"m({y.name})"
    b.say(f"    {y.name} = {call}")
    return y


class Written(NamedTuple):
    """A class that has been written: how it is called, what it makes of a map."""

    name: str
    call: str
    channels: int
    level: int
    after: tuple[str, ...] = ()


def write_block(book: Book, x: Value, depth: int, keeps: bool, plain: bool) -> Written:
    """Writes a block for maps like x."""
    b = Body(book, depth)
    start = y = Value("x", x.channels, x.level)
    if not book.draw.chance(3):
        y = residual(b, y)
    if y is start or book.draw.chance(2):
        y = steps(b, y)
    if depth < 3 and book.draw.chance(4):
        y = blocks(b, y)
    if keeps:
        if y.level != start.level:
            y = b.make(y, f"F.interpolate({y.name}, size=x.shape[2:])", level=start.level)
        if y.channels != start.channels:
            y = conv(b, y, start.channels)
    name = book.class_name()
    kinds = ["plain"] * 6 + ["variadic", "methods", "fuse", "optional", "remembers", "counts"]
    kinds += [] if plain else ["tuple", "dict", "pair", "auxiliary", "scaled", "ordered"] * 2
    kind = book.draw.one(kinds)
    book.note(f"block: {kind}")
    head, call, after, result = "def forward(self, x):", "{}({})", (), y.name
    lines = list(b.lines)
    methods: list[str] = []
    if kind == "variadic":
        head = "def forward(self, *args, **kwargs):"
        lines.insert(0, "x = args[0]")
    elif kind == "optional":
        head = "def forward(self, x, other=None, scale: float = 1.0):"
        lines.insert(0, "x = x * scale if other is None else x + other")
    elif kind == "scaled":
        head = "def forward(self, x, *, scale=2.0, names=('a', 'b')):"
        lines.insert(0, "x = x * scale")
        call = "{}({}, scale=0.5)"
    elif kind == "remembers":
        lines.append(f"self.last = {y.name}.shape")
    elif kind == "counts":
        b.init.append("self.register_buffer('calls', torch.zeros(1))")
        lines.append("self.calls += 1")
    elif kind == "methods":
        public = book.draw.one(("_run", "forward_features"))
        methods = [f"def {public}(self, x):", *_indent([*lines, f"return {result}"]), ""]
        lines, result = [], f"self.{public}(x)"
    elif kind == "fuse":
        methods = ["def fuse(self):", "    self.fused = True", ""]
    elif kind == "tuple":
        result, call = f"{y.name}, {y.name}.mean()", "{}({})[0]"
    elif kind == "dict":
        result, call = f"{{'out': {y.name}}}", "{}({})['out']"
    elif kind == "ordered":
        result, call = f"OrderedDict(out={y.name})", "next(iter({}({}).values()))"
    elif kind == "pair":
        made = book.draw.one(("Pair", "Record"))
        result, call = f"{made}({y.name}, 2 * {y.name})", "{}({}).first"
    elif kind == "auxiliary":
        result = f"({y.name}, {y.name}.mean()) if self.training else {y.name}"
        after = ("if isinstance({0}, tuple):", "    {0} = {0}[0] + 0 * {0}[1]")
    _write_class(book, name, b.init, [*methods, head, *_indent([*lines, f"return {result}"])])
    return Written(name, call, y.channels, y.level, after)


def _write_class(book: Book, name: str, init: list[str], methods: list[str]) -> None:
    text = [f"class {name}(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    text += ["        " + line for line in init]
    text += ["", *("    " + line if line else "" for line in methods)]
    book.classes.append("\n".join(text) + "\n")


def _indent(lines: Sequence[str]) -> list[str]:
    return ["    " + line for line in lines]


WALKING = """\
class Walking(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(f"layer{i}", layer)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x
"""


def write_network(draw: Draw, several_inputs: bool = True) -> Program:
    """Draws one network."""
    dims = draw.one((2,) * 8 + (1, 3))
    sides = {1: (23,), 2: (13, 10), 3: (9, 10, 11)}[dims]
    book = Book(draw, dims, sides[0], size=sides)
    b = Body(book, 0)
    channels = draw.one((3, 1, 4, 2))
    sizes = [(channels, *sides)]
    x = conv(b, Value("x", channels, 0), draw.one(WIDTHS))
    if several_inputs and draw.chance(6):
        book.note("two inputs")
        sizes.append((draw.one((1, 2)), *sides))
        extra = b.module(f"nn.Conv{dims}d({sizes[1][0]}, {x.channels}, 1)")
        x = b.make(x, f"{x.name} + {extra}(extra)")
    if draw.chance(2):
        x = act(b, norm(b, x))
    for _ in range(draw.one((1, 1, 2))):
        x = draw.one((blocks, residual, steps))(b, x)
        if x.level < 2 and draw.chance(2):
            x = halve(b, x)
    kind = draw.one(("one", "one", "tuple", "dict", "pair", "list", "map", "ordered"))
    logits = ""
    if kind != "map":
        axes = tuple(range(2, 2 + dims))
        n = x.name
        with b.keeping(x):
            pooled = b.make(
                x, draw.one((f"{n}.mean({axes})", f"F.adaptive_avg_pool{dims}d({n}, 1).flatten(1)"))
            )
        logits = f"{b.module(f'nn.Linear({x.channels}, 5)')}({pooled.name})"
    book.note(f"output: {kind}")
    result = {
        "one": logits,
        "tuple": f"{logits}, {x.name}",
        "dict": f"{{'logits': {logits}, 'maps': [{x.name}]}}",
        "pair": draw.one(("Pair", "Record")) + f"({logits}, {x.name})",
        "list": f"[{x.name}, {logits}]",
        "map": x.name,
        "ordered": f"OrderedDict(logits={logits}, map={x.name})",
    }[kind]
    head = "def forward(self, x, extra):" if len(sizes) > 1 else "def forward(self, x):"
    _write_class(book, "Network", b.init, [head, *_indent([*b.lines, f"return {result}"])])
    source = "\n\n".join([HEADER, WALKING, *book.classes, "def factory():\n    return Network()\n"])
    return Program(source, tuple(sizes), frozenset(book.features), book.fixed)
