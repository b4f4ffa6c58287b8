"""Operated network + plan -> Verification: is it still the network it was, and does it learn?

Everything runs on a copy whose norms and layer scales are randomised first: a zero-initialised
last norm (timm's ResNets) makes anything in the branch look like the identity.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.planning import Plan
from attnsurgeon.record import tensors_in
from attnsurgeon.splice import inserted, undo


@dataclass(frozen=True)
class Verification:
    """What was checked, and what came out.

    Attributes:
        init: "identity" promises equality, "paper" only reports how far the outputs moved.
        identity: every output was bit-equal, at every size.
        max_abs_diff: largest difference of any output.
        relative_diff: the same, over the largest output.
        top1_agreement: share of samples whose largest logit stayed the same.
        values_checked, values_equal: intermediate values compared between the two networks.
        sizes: input shapes that were run.
        missing_keys: original state-dict keys that are gone.
        unexpected_keys: new keys that belong to no inserted module.
        reordered: the original keys or parameters stand in another order.
        dead: inserted modules that one forward does not call.
        still: inserted modules that change nothing even with random parameters.
        stuck: new parameters that two optimiser steps did not move; None if not tried.
        excused: stuck parameters whose mechanism's card says why.
        round_trip: copies by deepcopy and pickle compute the same; None if not tried.
        notes: what could not be checked, and why.
    """

    init: str
    identity: bool
    max_abs_diff: float
    relative_diff: float
    top1_agreement: float
    values_checked: int
    values_equal: int
    sizes: tuple[tuple[int, ...], ...]
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    reordered: bool = False
    dead: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    stuck: tuple[str, ...] | None = None
    excused: tuple[str, ...] = ()
    round_trip: bool | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; empty when the operation keeps its promises."""
        found = []
        if self.init == "identity" and not self.identity:
            found.append(f"outputs moved by up to {self.max_abs_diff:.3g}")
        if self.init == "identity" and self.values_equal != self.values_checked:
            different = self.values_checked - self.values_equal
            found.append(f"{different} of {self.values_checked} intermediate values moved")
        for what, names in [
            ("original keys are missing", self.missing_keys),
            ("new keys belong to no inserted module", self.unexpected_keys),
            ("inserted modules are never called", self.dead),
            ("inserted modules change nothing", self.still),
            ("new parameters do not learn", self.stuck or ()),
        ]:
            if names:
                found.append(f"{len(names)} {what}: {', '.join(names[:3])}")
        if self.reordered:
            found.append("original keys or parameters stand in another order")
        if self.round_trip is False:
            found.append("a copy (deepcopy, pickle) computes something else")
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(model: nn.Module, plan: Plan, *, full: bool = True) -> Verification:
    """Checks an operated network against the one it was made from.

    Args:
        model: the operated network; only copies of it are run.
        plan: the plan that was carried out on it.
        full: also train two steps on a copy, randomise the attention to see that it acts, and
            check that copies compute the same.
    """
    missing, unexpected, reordered = _keys(model, plan)
    operated = copy.deepcopy(model).cpu().eval()
    randomise_norms(operated, plan)
    base = undo(copy.deepcopy(operated), plan)
    notes: list[str] = []
    inputs = _inputs(base, plan, notes)
    comparisons = [_compare(operated, base, x) for x in inputs]
    agreement = [c.agreement for c in comparisons if c.agreement is not None]
    extra: dict[str, Any] = {}
    if full:
        still = _still(operated, plan, inputs[-1])
        stuck, excused = _stuck(operated, plan, inputs[-1], notes)
        extra = {"still": still, "stuck": stuck, "excused": excused}
        extra["round_trip"] = _copies_agree(operated, inputs[-1], notes)
    return Verification(
        init=plan.init,
        identity=all(c.difference == 0 for c in comparisons),
        max_abs_diff=max(c.difference for c in comparisons),
        relative_diff=max(c.difference / (c.scale or 1.0) for c in comparisons),
        top1_agreement=sum(agreement) / len(agreement) if agreement else 1.0,
        values_checked=sum(c.checked for c in comparisons),
        values_equal=sum(c.equal for c in comparisons),
        sizes=tuple(tuple(x.shape) for x in inputs),
        missing_keys=missing,
        unexpected_keys=unexpected,
        reordered=reordered,
        dead=_dead(operated, plan, inputs[-1]),
        notes=tuple(notes),
        **extra,
    )


def randomise_norms(model: nn.Module, plan: Plan | None = None) -> None:
    """Gives every vector of the base network (norms, scales, biases) random values, in place.

    Vectors of inserted modules keep the values they start with.
    """
    generator = torch.Generator().manual_seed(0)
    new = tuple(f"{cut.module_path}." for cut in plan.cuts) if plan else ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.startswith(new or ("\0",)) or not tensor.is_floating_point():
            continue
        if sum(size > 1 for size in tensor.shape) > 1 or tensor.is_meta:
            continue
        noise = torch.rand(tensor.shape, generator=generator).to(tensor)
        if name.endswith("running_mean"):
            value = noise - 0.5
        elif name.endswith("running_var") or name.endswith("weight"):
            value = noise + 0.5
        else:
            value = (noise + 0.1) / 2
        with torch.no_grad():
            tensor.copy_(value)


@dataclass(frozen=True)
class _Comparison:
    difference: float
    scale: float
    agreement: float | None
    checked: int
    equal: int


def _keys(model: nn.Module, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    new = tuple(f"{cut.module_path}." for cut in plan.cuts)
    before = plan.survey.traced.twin
    missing: list[str] = []
    unexpected: list[str] = []
    reordered = False
    for was, now in [
        (list(before.state_dict()), list(model.state_dict())),
        ([n for n, _ in before.named_parameters()], [n for n, _ in model.named_parameters()]),
    ]:
        kept = [name for name in now if not name.startswith(new)] if new else now
        missing += sorted(set(was) - set(kept))
        unexpected += sorted(set(kept) - set(was))
        reordered |= set(was) == set(kept) and was != kept
    return tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(unexpected)), reordered


def _inputs(base: nn.Module, plan: Plan, notes: list[str]) -> list[Tensor]:
    """Random inputs of two sizes: smaller than the network's own where it takes them."""
    own = plan.survey.traced.root.inputs[0].meta["shape"][1:]
    generator = torch.Generator().manual_seed(1)
    like = next((p for p in base.parameters() if p.is_floating_point()), torch.empty(0))
    found: list[Tensor] = []
    for size in _sizes(own):
        x = torch.randn(2, *size, generator=generator).to(like.dtype)
        try:
            with torch.no_grad():
                base(x)
        except Exception as error:  # a stranger's forward refuses a size in its own way
            if size == own:
                raise
            notes.append(f"not checked at {'x'.join(map(str, size))}: {type(error).__name__}")
            continue
        found.append(x)
        if len(found) == 2:
            break
    if len(found) < 2:
        notes.append("checked at one input size, the only one that the network takes")
    return found


def _sizes(own: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Two small uneven sizes, then the network's own."""
    if len(own) >= 3:
        *front, h, w = own
        for height, width in [(96, 64), (64, 128)]:
            if height <= h and width <= w:
                yield (*front, height, width)
    yield own


def _compare(operated: nn.Module, base: nn.Module, x: Tensor) -> _Comparison:
    """Runs both networks and compares outputs and every weighted module's output."""
    after, taps = _run(operated, x)
    before, base_taps = _run(base, x)
    pairs = [(a, b) for a, b in zip(after, before, strict=True) if a.is_floating_point()]
    difference = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    scale = max((float(b.abs().max()) for _, b in pairs if b.numel()), default=0.0)
    logits = [(a, b) for a, b in pairs if a.dim() == 2]
    agreement = None
    if logits:
        a, b = logits[0]
        agreement = float((a.argmax(1) == b.argmax(1)).double().mean())
    equal = sum(
        len(taps[name]) == len(values) and all(map(torch.equal, taps[name], values))
        for name, values in base_taps.items()
    )
    return _Comparison(difference, scale, agreement, len(base_taps), equal)


def _run(model: nn.Module, x: Tensor) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Returns the outputs, and what each module with weights of its own made."""
    new = {id(m) for _, top in inserted(model) for m in top.modules()}
    taps: dict[str, list[Tensor]] = {}
    handles = []

    def tap(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            taps.setdefault(name, []).extend(t.clone() for t in tensors_in(output))

        return keep

    for name, module in model.named_modules():
        if id(module) not in new and module._parameters:
            handles.append(module.register_forward_hook(tap(name)))
    try:
        with torch.no_grad():
            return list(tensors_in(model(x))), taps
    finally:
        for handle in handles:
            handle.remove()


def _dead(operated: nn.Module, plan: Plan, x: Tensor) -> tuple[str, ...]:
    """Inserted modules that a forward does not call."""
    called: set[str] = set()
    handles = [
        operated.get_submodule(cut.module_path).register_forward_hook(
            lambda module, args, output, path=cut.module_path: called.add(path)
        )
        for cut in plan.cuts
    ]
    with torch.no_grad():
        operated(x)
    for handle in handles:
        handle.remove()
    return tuple(cut.module_path for cut in plan.cuts if cut.module_path not in called)


def _still(operated: nn.Module, plan: Plan, x: Tensor) -> tuple[str, ...]:
    """Inserted modules whose output is their input even after their parameters are randomised."""
    active = copy.deepcopy(operated)
    generator = torch.Generator().manual_seed(2)
    unmoved: list[str] = []
    handles = []

    def watch(path: str) -> Any:
        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            if torch.equal(args[0], output):
                unmoved.append(path)

        return look

    for cut in plan.cuts:
        module = active.get_submodule(cut.module_path)
        for parameter in module.parameters():
            with torch.no_grad():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(0.3 * noise)
        handles.append(module.register_forward_hook(watch(cut.module_path)))
    with torch.no_grad():
        active(x)
    for handle in handles:
        handle.remove()
    return tuple(dict.fromkeys(unmoved))


def _stuck(
    operated: nn.Module, plan: Plan, x: Tensor, notes: list[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """New parameters that stay the same over two steps of SGD on a copy in training mode."""
    from attnsurgeon.attention.registry import lookup

    learner = copy.deepcopy(operated).train()
    for parameter in learner.parameters():
        parameter.requires_grad_(True)
    new = {
        f"{cut.module_path}.{name}": (parameter, lookup(cut.attn).unmoved)
        for cut in plan.cuts
        for name, parameter in learner.get_submodule(cut.module_path).named_parameters()
    }
    start = {name: parameter.detach().clone() for name, (parameter, _) in new.items()}
    generator = torch.Generator().manual_seed(3)
    optimiser = torch.optim.Adam([p for p, _ in new.values()], lr=1e-2) if new else None
    try:
        for _ in range(2 if optimiser else 0):
            assert optimiser is not None
            optimiser.zero_grad()
            outputs = [t for t in tensors_in(learner(x)) if t.requires_grad]
            loss = sum((t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in outputs)
            assert isinstance(loss, Tensor)
            loss.backward()
            optimiser.step()
    except Exception as error:  # a stranger's training forward may need targets
        notes.append(f"learning not tried: {type(error).__name__} in training mode")
        return None, ()
    still = [name for name, (p, _) in new.items() if torch.equal(p.detach(), start[name])]
    excused = [name for name in still if name.endswith(new[name][1] or ("\0",))]
    return tuple(n for n in still if n not in excused), tuple(excused)


def _copies_agree(operated: nn.Module, x: Tensor, notes: list[str]) -> bool | None:
    """Whether a deep copy and an unpickled copy give bit-equal outputs."""
    import pickle

    with torch.no_grad():
        reference = list(tensors_in(operated(x)))
        copies: Sequence[nn.Module] = [copy.deepcopy(operated)]
        try:
            copies = [*copies, pickle.loads(pickle.dumps(operated))]
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            notes.append(f"the network itself cannot be pickled: {error}")
        return all(all(map(torch.equal, tensors_in(twin(x)), reference)) for twin in copies)
