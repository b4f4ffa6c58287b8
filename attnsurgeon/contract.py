"""A mechanism -> Contract: what it keeps of what attention has to keep, so what it can be used for.

Each check builds the mechanism afresh, shakes its parameters and runs it alone, on small maps.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.own.card import Own
from attnsurgeon.attention.own.trial import quoted
from attnsurgeon.attention.registry import Mechanism, build_part
from attnsurgeon.errors import ModelError, SurgeonError, UsageError
from attnsurgeon.exporting.exports import export
from attnsurgeon.recording.ambient import known_state

SIZES: Mapping[int, tuple[int, ...]] = {1: (26,), 2: (14, 10), 3: (4, 14, 10)}
ODD: Mapping[int, tuple[int, ...]] = {1: (7,), 2: (7, 5), 3: (3, 7, 5)}
_LARGER: Mapping[int, tuple[int, ...]] = {1: (34,), 2: (22, 18), 3: (6, 22, 18)}
_WIDTHS = (16, 24, 40, 48, 64, 96, 112, 256, 384)  # of common networks
_RANKS = {
    1: "signals (N, C, L)",
    2: "images (N, C, H, W) and (N, H, W, C), tokens brought into their map",
    3: "clips and volumes (N, C, D, H, W)",
}
_KINDS = {"gate": "behind a value", "fusion": "in the place of an addition"}
_RATE = 1.0  # of the two steps of descent


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        name: what.
        ok: how it went; None where it was not tried.
        needed: without it the mechanism cannot be inserted, or does harm.
        detail: a figure, or why not.
    """

    name: str
    ok: bool | None
    needed: bool
    detail: str = ""


@dataclass(frozen=True)
class Contract:
    """What a mechanism was found to keep.

    Attributes:
        name, kind: of the mechanism.
        rank: the rank that all was tried at, None where it runs at none.
        channels: the width that all was tried at.
        params: its number of parameters there.
        findings: in the order in which they were tried.
    """

    name: str
    kind: str
    rank: int | None
    channels: int
    params: int | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether it keeps all that is needed."""
        return all(one.ok is not False for one in self.findings if one.needed)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is needed and not kept, in words."""
        return tuple(f"{f.name}: {f.detail}" for f in self.findings if f.needed and f.ok is False)


class _Broken(Exception):
    """What was tried is not so; the text says how."""


class _Untried(Exception):
    """It was not tried; the text says why."""


@dataclass
class _Subject:
    """A mechanism, and how to build it and its inputs."""

    card: Mechanism
    args: Mapping[str, Any]
    channels: int
    rank: int = 2
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def build(
        self,
        init: str = "paper",
        *,
        size: tuple[int, ...] = (),
        channels: int = 0,
        shaken: bool = True,
    ) -> nn.Module:
        args = self.card.args_at(size or SIZES[self.rank], self.args, stage=1)
        module = build_part(self.card, channels or self.channels, self.rank, init, args).eval()
        with torch.no_grad():
            for parameter in module.parameters() if shaken else ():
                noise = torch.randn(parameter.shape, generator=self.generator)
                parameter.add_(0.1 * noise.to(parameter))
        return module

    def maps(
        self, batch: int = 2, size: tuple[int, ...] = (), channels: int = 0
    ) -> tuple[Tensor, ...]:
        shape = (batch, channels or self.channels, *(size or SIZES[self.rank]))
        count = 2 if self.card.kind == "fusion" else 1
        return tuple(torch.randn(shape, generator=self.generator) for _ in range(count))

    def before(self, maps: tuple[Tensor, ...]) -> Tensor:
        """What the network goes on with where the mechanism changes nothing."""
        return maps[0] + maps[1] if len(maps) == 2 else maps[0]


@known_state(own_dice=False)
def check_mechanism(
    card: Mechanism, args: Mapping[str, Any] | None = None, *, channels: int = 64
) -> Contract:
    """Tries everything that a mechanism has to keep, and what it may be used for besides.

    Args:
        card: of a gate or a fusion, the user's own or one of the catalogue.
        args: its arguments.
        channels: the width to try it at.

    Raises:
        UsageError: its kind works on something else than maps.
        MechanismError: it cannot be built at all.
    """
    if card.kind not in _KINDS or card.inputs(args or {}) not in (
        ("value",),
        ("branch", "shortcut"),
    ):
        raise UsageError(
            f"{card.name} is a {card.kind}, which is tried inside of a network only",
            "put it into one, and verify the operation: operation.verify()",
            command="`attnsurgeon insert MODEL --attn NAME --verify full` tries it there",
        )
    if isinstance(card, Own):
        card.check_args(args or {})
    subject = _Subject(card, args or {}, channels)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        ranks = [_found(subject, f"rank {rank}", False, _runs_at(rank)) for rank in SIZES]
        found = [rank for rank, one in zip(SIZES, ranks, strict=True) if one.ok]
        if not found:
            why = next(one.detail for rank, one in zip(SIZES, ranks, strict=True) if rank == 2)
            return Contract(
                card.name, card.kind, None, channels, None, (Finding("runs", False, True, why),)
            )
        subject.rank = 2 if 2 in found else found[0]
        params = sum(p.numel() for p in subject.build().parameters())
        findings = [_found(subject, name, needed, test) for name, needed, test in _TESTS]
    return Contract(
        card.name, card.kind, subject.rank, channels, params, (*ranks, *findings)
    )  # fmt: skip


def _found(
    subject: _Subject, name: str, needed: bool, test: Callable[[_Subject], str | None]
) -> Finding:
    try:
        return Finding(name, True, needed, test(subject) or "")
    except _Untried as why:
        return Finding(name, None, needed, str(why))
    except _Broken as why:
        return Finding(name, False, needed, str(why))
    except SurgeonError as error:
        return Finding(name, False, needed, error.what)
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        return Finding(name, False, needed, quoted(error))


def _run(subject: _Subject, module: nn.Module, maps: tuple[Tensor, ...]) -> Tensor:
    made = module(*maps)
    if made.shape != maps[0].shape:
        raise _Broken(f"makes {tuple(made.shape)} of {tuple(maps[0].shape)}")
    return made


def _runs_at(rank: int) -> Callable[[_Subject], str]:
    def test(subject: _Subject) -> str:
        if rank not in subject.card.ranks:
            raise _Broken(f"not defined for it {subject.card.rank_reason}".rstrip())
        at = _Subject(subject.card, subject.args, subject.channels, rank)
        _run(at, at.build(), at.maps())
        return _RANKS[rank]

    return test


def _takes_and_returns(subject: _Subject) -> str:
    module = subject.build(shaken=False)
    maps = subject.maps()
    inner = module.get_submodule("inner") if subject.card.own else module
    made = inner(*maps)
    if made.shape == maps[0].shape:
        return f"map to map, {_KINDS[subject.card.kind]}"
    return f"a gate {tuple(made.shape)}, multiplied with the map"


def _single_image(subject: _Subject) -> None:
    _run(subject, subject.build(), subject.maps(1))


def _images_apart(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps(3)
    together = _run(subject, module, maps)
    alone = [_run(subject, module, tuple(m[i : i + 1] for m in maps)) for i in range(3)]
    if not torch.allclose(torch.cat(alone), together, atol=1e-5):
        moved = float((torch.cat(alone) - together).abs().max())
        raise _Broken(f"an image alone comes out otherwise than in a batch, by up to {moved:.2g}")


def _trains_alone(subject: _Subject) -> None:
    _run(subject, subject.build().train(), subject.maps(1))


def _odd_sizes(subject: _Subject) -> str:
    for size in (ODD[subject.rank], (1,) * subject.rank):
        _run(subject, subject.build(size=size), subject.maps(2, size))
    return " and ".join(
        "x".join(map(str, size)) for size in (ODD[subject.rank], (1,) * subject.rank)
    )


def _several_sizes(subject: _Subject) -> None:
    module = subject.build()
    for size in (SIZES[subject.rank], _LARGER[subject.rank]):
        _run(subject, module, subject.maps(2, size))


def _widths(subject: _Subject) -> str:
    failed = []
    for width in _WIDTHS:
        try:
            _run(subject, subject.build(channels=width), subject.maps(2, channels=width))
        except (Exception, SystemExit):  # a stranger's constructor refuses a width in any way
            failed.append(width)
    if failed:
        raise _Broken(f"not for C = {', '.join(map(str, failed))}, with these arguments")
    return f"C = {', '.join(map(str, _WIDTHS))}"


def _finite(subject: _Subject) -> None:
    for train in (False, True):
        module = subject.build().train(train)
        for fill in (None, 0.0, 1e4):
            maps = subject.maps()
            if fill is not None:
                maps = tuple(torch.full_like(m, fill) for m in maps)
            if not _run(subject, module, maps).isfinite().all():
                of = "random maps" if fill is None else f"maps of {fill:g}"
                raise _Broken(f"NaN or Inf of {of}{', in training' if train else ''}")


def _gradients(subject: _Subject) -> str:
    module = subject.build()
    maps = tuple(m.requires_grad_() for m in subject.maps())
    made = _run(subject, module, maps)
    if not made.requires_grad:
        raise _Broken("the output has no gradient")
    weights = torch.randn(made.shape, generator=subject.generator)
    learned = dict(module.named_parameters())
    found = torch.autograd.grad(
        (made * weights).sum(), (*maps, *learned.values()), allow_unused=True
    )
    if any(g is not None and not g.isfinite().all() for g in found):
        raise _Broken("NaN or Inf in a gradient")
    if found[0] is None or not found[0].any():
        raise _Broken("none reaches the input, so nothing before it would learn")
    still = [
        n for n, g in zip(learned, found[len(maps) :], strict=True) if g is None or not g.any()
    ]
    return f"but none for {_some(still)}" if still else ""


def _identity(subject: _Subject) -> None:
    for train in (False, True):
        module, maps = subject.build("identity", shaken=False).train(train), subject.maps()
        if not torch.equal(module(*maps), subject.before(maps)):
            raise _Broken(f"not bit-equal{' in training' if train else ''}")


def _learns(subject: _Subject) -> str:
    module, maps = subject.build("identity", shaken=False).train(), subject.maps(4)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    if not start:
        return "it has no parameters"
    target = torch.randn(maps[0].shape, generator=subject.generator)
    descent = torch.optim.SGD(module.parameters(), lr=_RATE)
    for _ in range(2):
        descent.zero_grad()
        (module(*maps) - target).square().mean().backward()
        descent.step()
    still = [n for n, p in module.named_parameters() if torch.equal(p.detach(), start[n])]
    if len(still) == len(start):
        raise _Broken("no parameter moves in two steps from the start as identity")
    return f"but {_some(still)} did not move in two steps" if still else ""


def _input_kept(subject: _Subject) -> None:
    for train in (False, True):
        module, maps = subject.build().train(train), subject.maps()
        kept = [m.clone() for m in maps]
        module(*maps)
        if not all(map(torch.equal, maps, kept)):
            raise _Broken("the input is changed in place")


def _buffers_kept(subject: _Subject) -> None:
    module = subject.build()
    before = copy.deepcopy(module.state_dict())
    module(*subject.maps())
    changed = [n for n, value in module.state_dict().items() if not torch.equal(value, before[n])]
    if changed:
        raise _Broken(f"eval changes {_some(changed)}")


def _same_twice(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    if not torch.equal(module(*maps), module(*maps)):
        raise _Broken("two runs on the same input differ, in eval mode")


def _copies(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    expected = module(*maps)
    if not torch.equal(copy.deepcopy(module)(*maps), expected):
        raise _Broken("a deep copy computes something else")
    if not torch.equal(pickle.loads(pickle.dumps(module))(*maps), expected):
        raise _Broken("an unpickled copy computes something else")


def _state_dict(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    fresh, file = subject.build(), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    if not torch.equal(fresh(*maps), module(*maps)):
        raise _Broken("it does not hold all that the output depends on")


def _dtype(dtype: torch.dtype) -> Callable[[_Subject], None]:
    def test(subject: _Subject) -> None:
        module, maps = subject.build(), subject.maps()
        expected = module(*maps)
        made = module.to(dtype)(*(m.to(dtype) for m in maps))
        if made.dtype != dtype:
            raise _Broken(f"the output is {str(made.dtype).removeprefix('torch.')}")
        if not torch.allclose(made.float(), expected, rtol=0.1, atol=0.1):
            raise _Broken(f"off by up to {float((made.float() - expected).abs().max()):.2g}")

    return test


def _autocast(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    with torch.autocast("cpu", torch.bfloat16):
        made = module(*maps)
    if made.dtype != torch.float32 or not made.isfinite().all():
        raise _Broken("the output is not finite, or of another dtype")


def _meta(subject: _Subject) -> None:
    with torch.device("meta"):
        module = subject.build(shaken=False)
        _run(subject, module, tuple(torch.empty(m.shape) for m in subject.maps()))


def _traced(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    _refuse_other(traced(*maps), module(*maps))


def _compiled(subject: _Subject) -> None:
    module, maps = subject.build(), subject.maps()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")
    _refuse_other(compiled(*maps), module(*maps))


def _exported(form: str, suffix: str) -> Callable[[_Subject], str]:
    def test(subject: _Subject) -> str:
        size = (subject.channels, *SIZES[subject.rank])
        sizes = (size, size) if subject.card.kind == "fusion" else size
        with tempfile.TemporaryDirectory() as folder, _silenced():
            file = Path(folder) / f"attention{suffix}"
            try:
                made = export(subject.build(), file, to=form, input_size=sizes, dynamic_batch=True)
            except UsageError as error:  # what it needs is not installed
                raise _Untried(error.what) from error
            except ModelError as error:
                raise _Broken(quoted(error.__cause__ or error)) from error
        return f"at batch {' and '.join(map(str, made.batches))}"

    return test


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _refuse_other(made: Tensor, expected: Tensor) -> None:
    if not torch.allclose(made, expected, rtol=1e-4, atol=1e-5):
        raise _Broken(f"off by up to {float((made - expected).abs().max()):.2g}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# What is tried at the rank that was found, whether it is needed, and how.
_TESTS: tuple[tuple[str, bool, Callable[[_Subject], str | None]], ...] = (
    ("takes and returns", False, _takes_and_returns),
    ("a single image", True, _single_image),
    ("a single image in training", False, _trains_alone),
    ("images apart", False, _images_apart),
    ("odd sides", True, _odd_sizes),
    ("several sizes", False, _several_sizes),
    ("common widths", False, _widths),
    ("finite", True, _finite),
    ("gradients", True, _gradients),
    ("input kept", True, _input_kept),
    ("buffers kept in eval", True, _buffers_kept),
    ("deterministic", True, _same_twice),
    ("start as identity", True, _identity),
    ("learns from there", True, _learns),
    ("state dict", True, _state_dict),
    ("copies", False, _copies),
    ("float64", False, _dtype(torch.float64)),
    ("bfloat16", False, _dtype(torch.bfloat16)),
    ("float16", False, _dtype(torch.float16)),
    ("autocast", False, _autocast),
    ("priced without weights", False, _meta),
    ("torch.fx", False, _traced),
    ("torch.compile", False, _compiled),
    ("torch.export", False, _exported("torch-export", ".pt2")),
    ("ONNX", False, _exported("onnx", ".onnx")),
)
