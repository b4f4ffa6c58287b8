"""Operated network + plan -> Verification: is it still the network it was, and does it learn?

Everything runs on a copy whose norms and layer scales are randomised first: a zero-initialised
last norm (timm's ResNets) makes anything in the branch look like the identity.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.checks.finite import outputs_not_finite, weights_not_finite
from attnsurgeon.checks.learning import faults_of_copies, still_modules, stuck_parameters
from attnsurgeon.errors import CheckFailed
from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.inputs import InputForm, Inputs
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.twin import full_twin, twin_around
from attnsurgeon.shown import Shown
from attnsurgeon.sizes import InputSize, together
from attnsurgeon.splicing.removing import Removed, undo


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """What was checked, and what came out.

    Attributes:
        init: "identity" promises equality, "paper" only reports how far the outputs moved.
        identity: every output was bit-equal, at every size; NaN is equal to nothing.
        max_abs_diff: largest difference of any output.
        relative_diff: the same, over the largest output.
        top1_agreement: share of samples whose largest logit stayed the same.
        values_checked, values_equal: intermediate values compared between the two networks.
        sizes: input shapes that were run; of several inputs, the shape of each.
        missing_keys: original state-dict keys that are gone, but for those replaced.
        replaced_keys: keys of what attention under init="paper" took the place of.
        unexpected_keys: new keys that belong to no inserted module.
        reordered: the original keys or parameters stand in another order.
        dead: inserted modules that one forward does not call.
        repeated: inserted modules that one forward calls more often than planned.
        still: inserted modules that change nothing even with random parameters.
        stuck: new parameters that two optimiser steps did not move; None if not tried.
        excused: stuck parameters whose mechanism's card says why.
        round_trip: copies by deepcopy and pickle compute the same; None if not tried, or if those
            of the network without attention do not either, which `notes` say.
        not_finite: where there is NaN or Inf, so that nothing can be compared.
        notes: what could not be checked, and why.
    """

    init: str
    identity: bool
    max_abs_diff: float
    relative_diff: float
    top1_agreement: float
    values_checked: int
    values_equal: int
    sizes: tuple[InputSize, ...]
    missing_keys: tuple[str, ...] = ()
    replaced_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    reordered: bool = False
    dead: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    stuck: tuple[str, ...] | None = None
    excused: tuple[str, ...] = ()
    round_trip: bool | None = None
    not_finite: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; empty when the operation keeps its promises."""
        found = []
        if self.not_finite:
            more = len(self.not_finite) - 3
            where = ", ".join(self.not_finite[:3]) + (f" and {more} more" if more > 0 else "")
            found.append(f"nothing can be verified: there is NaN or Inf in {where}")
        elif self.init == "identity" and not self.identity:
            found.append(f"outputs moved by up to {self.max_abs_diff:.3g}")
        if self.init == "identity" and self.values_equal != self.values_checked:
            different = self.values_checked - self.values_equal
            found.append(f"{different} of {self.values_checked} intermediate values moved")
        for what, names in [
            ("original keys are missing", self.missing_keys),
            ("new keys belong to no inserted module", self.unexpected_keys),
            ("inserted modules are never called", self.dead),
            ("inserted modules are called too often", self.repeated),
            ("inserted modules change nothing", self.still),
            ("new parameters do not learn", self.stuck or ()),
        ]:
            if names:
                found.append(f"{len(names)} {what}: {', '.join(names[:3])}")
        if self.reordered:
            found.append("original keys or parameters stand in another order")
        if self.round_trip is False:
            found.append("a copy (deepcopy, pickle) fails or computes something else")
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@known_state()
def verify(
    model: nn.Module, plan: Plan, *, full: bool = True, removed: Removed | None = None
) -> Verification:
    """Checks an operated network against the one it was made from.

    Args:
        model: the operated network; only copies of it are run.
        plan: the plan that was carried out on it.
        full: also train two steps on a copy, randomise the attention to see that it acts, and
            check that copies compute the same.
        removed: the parameters that the plan took away, as `splice` returned them.
    """
    missing, unexpected, reordered = _keys(model, plan)
    gone = tuple(f"{path}." for cut in plan.cuts for path in cut.removes)
    replaced = tuple(name for name in missing if name.startswith(gone or ("\0",)))
    operated = _copied(model, plan)
    operated.eval()  # a statement: who overrides train() may forget to return self
    randomise_norms(operated, plan)
    notes: list[str] = []
    if replaced and removed is None:
        notes.append("what was replaced is not kept: compared with random weights in its place")
    runs, failures = _run_sizes(operated, plan)
    extra: dict[str, Any] = {}
    copies: dict[str, str] = {}
    if full and runs:
        x = runs[-1].inputs
        still = still_modules(operated, plan, x)
        stuck, excused = stuck_parameters(operated, plan, x, notes)
        extra = {"still": still, "stuck": stuck, "excused": excused}
        copies = faults_of_copies(operated, x)
    base = undo(operated, plan, removed)  # the same copy: what it computed is kept in `runs`
    _explain_failures(base, failures, notes)
    if full and runs:
        extra["round_trip"] = _copies_agree(copies, base, runs[-1].inputs, notes)
    comparisons = [_compare(run, _run(base, run.inputs, ())) for run in runs]
    if len(runs) == 1:
        only = ", the only one that the network takes" if failures else ""
        notes.append(f"checked at one input size{only}")
    found = (where for run in runs for where in outputs_not_finite(run.outputs, run.taps))
    not_finite = tuple(dict.fromkeys((*weights_not_finite(model), *found)))
    agreement = [c.agreement for c in comparisons if c.agreement is not None]
    return Verification(
        init=plan.init,
        identity=not not_finite and all(c.difference == 0 for c in comparisons),
        max_abs_diff=max(c.difference for c in comparisons),
        relative_diff=max(c.difference / (c.scale or 1.0) for c in comparisons),
        top1_agreement=sum(agreement) / len(agreement) if agreement else 1.0,
        values_checked=sum(c.checked for c in comparisons),
        values_equal=sum(c.equal for c in comparisons),
        sizes=tuple(together(tuple(x.shape) for x in tensors_in(run.inputs)) for run in runs),
        missing_keys=tuple(name for name in missing if name not in replaced),
        replaced_keys=replaced,
        unexpected_keys=unexpected,
        reordered=reordered,
        dead=tuple(c.module_path for c in plan.cuts if not runs[-1].called[c.module_path]),
        repeated=tuple(
            c.module_path for c in plan.cuts if runs[-1].called[c.module_path] > 1 + len(c.shared)
        ),
        notes=tuple(notes),
        not_finite=not_finite,
        **extra,
    )


def randomise_norms(model: nn.Module, plan: Plan | None = None) -> None:
    """Gives every vector of the base network (norms, scales, biases) random values, in place.

    And every matrix that starts at zero (Hiera's classifier), behind which nothing would show or
    learn. Vectors of inserted modules keep the values they start with.
    """
    generator = torch.Generator().manual_seed(0)
    new = tuple(f"{cut.module_path}." for cut in plan.cuts) if plan else ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.startswith(new or ("\0",)) or not tensor.is_floating_point() or tensor.is_meta:
            continue
        if _is_matrix(tensor) and not _is_zero(tensor):
            continue
        noise = torch.rand(tensor.shape, generator=generator).to(tensor)
        if _is_matrix(tensor):
            value = (noise - 0.5) / 10
        elif name.endswith("running_mean"):
            value = noise - 0.5
        elif name.endswith("running_var") or name.endswith("weight"):
            value = noise + 0.5
        else:
            value = (noise + 0.1) / 2
        with torch.no_grad():
            tensor.copy_(value)


@dataclass(frozen=True)
class _Run:
    """One forward: the inputs, the outputs, what the modules made, which new modules ran."""

    inputs: Inputs
    outputs: list[Tensor]
    taps: dict[str, list[Tensor]]
    called: Counter[str]


@dataclass(frozen=True)
class _Failure:
    """A forward that raised."""

    inputs: Inputs
    error: BaseException


@dataclass(frozen=True)
class _Comparison:
    difference: float
    scale: float
    agreement: float | None
    checked: int
    equal: int


def _keys(model: nn.Module, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    parts = {id(model.get_submodule(cut.module_path)) for cut in plan.cuts}
    everywhere = model.named_modules(remove_duplicate=False)  # a host may stand at several places
    new = tuple(f"{path}." for path, module in everywhere if id(module) in parts)
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
        left = [name for name in was if name in set(kept)]
        reordered |= set(left) == set(kept) and left != kept
    return tuple(dict.fromkeys(missing)), tuple(dict.fromkeys(unexpected)), reordered


def _copied(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy on the CPU whose vectors and attention are its own; the rest is only read."""
    if any(t.device.type != "cpu" for t in (*model.parameters(), *model.buffers())):
        return full_twin(model).cpu()
    new = tuple(f"{cut.module_path}." for cut in plan.cuts)
    matrices = (
        p
        for name, p in model.named_parameters()
        if not name.startswith(new or ("\0",)) and _is_matrix(p) and not _is_zero(p)
    )
    return twin_around(model, matrices)


def _is_matrix(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) > 1


def _is_zero(tensor: Tensor) -> bool:
    """Whether a parameter is nothing but zeros; buffers are tables, whose zeros mean something."""
    return isinstance(tensor, nn.Parameter) and not bool(tensor.any())


def _run_sizes(operated: nn.Module, plan: Plan) -> tuple[list[_Run], list[_Failure]]:
    """Runs the operated network at two sizes, smaller than its own where it takes them."""
    generator = torch.Generator().manual_seed(1)
    like = next((p for p in operated.parameters() if p.is_floating_point()), torch.empty(0))
    new = tuple(cut.module_path for cut in plan.cuts)
    runs: list[_Run] = []
    failures: list[_Failure] = []
    for form in _forms(plan):
        x = map_tensors(
            form.drawn(generator, torch.randn),
            lambda t: t.to(like.dtype) if t.is_floating_point() else t,
        )
        try:
            runs.append(_run(operated, x, new))
        except (Exception, SystemExit) as error:  # a stranger's forward refuses a size so
            failures.append(_Failure(x, error))
        if len(runs) == 2:
            break
    if not runs:
        raise failures[-1].error
    return runs, failures


def _explain_failures(base: nn.Module, failures: list[_Failure], notes: list[str]) -> None:
    """Notes the sizes that the network itself does not take.

    Raises:
        CheckFailed: it takes one that the operated network does not.
    """
    for failure in failures:
        size = " and ".join("x".join(map(str, x.shape)) for x in tensors_in(failure.inputs))
        try:
            with torch.no_grad():
                settled(partial(failure.inputs.feed, base))
        except (Exception, SystemExit) as error:  # the network itself refuses it: nothing was lost
            notes.append(f"not checked at {size}: {type(error).__name__}")
            continue
        raise CheckFailed(
            f"after surgery the network no longer takes {size}: {failure.error}",
            "choose a mechanism that is not tied to one size, or another place",
        ) from failure.error


def _copies_agree(
    faults: dict[str, str], base: nn.Module, inputs: Inputs, notes: list[str]
) -> bool | None:
    """Whether attention spoils no copy; None where the network spoils its copies itself."""
    if not faults:
        return True
    theirs = faults_of_copies(base, inputs)
    for way, what in faults.items():
        whose = "also without attention" if way in theirs else "without attention it does not"
        notes.append(f"{way} {what}; {whose}")
    return None if faults.keys() <= theirs.keys() else False


def _forms(plan: Plan) -> Iterator[InputForm]:
    """Two small sizes of all images, or of signals, where these have one size; then the network's
    own input.

    They are uneven, but for attention that works on tokens as on a map of known proportions.
    """
    own = plan.survey.traced.form
    images = {form.shape[-2:] for form in own.tensors if len(form.shape) >= 4}
    for h, w in images if len(images) == 1 else ():
        as_map = any(cut.as_map for cut in plan.cuts)
        for height, width in [(h // 2, w // 2)] if as_map else [(96, 64), (64, 128)]:
            if height <= h and width <= w:
                yield own.at_sides(height, width, (h, w))
    lengths = {form.shape[2] for form in own.tensors if len(form.shape) == 3}
    if not images and len(lengths) == 1 and any(map(_is_on_signal, plan.cuts)):
        (length,) = lengths
        for shorter in (3 * length // 4, length // 2):
            yield own.at_length(shorter, length)
    yield own


def _is_on_signal(cut: Cut) -> bool:
    """Whether a cut is on a map of rank 1, or on tokens that stand in one."""
    return cut.rank == 1 or (cut.tokens is not None and len(cut.tokens.sides) == 1)


def _compare(after: _Run, before: _Run) -> _Comparison:
    """Compares outputs, and the output of every module of the base that has weights."""
    pairs = list(zip(after.outputs, before.outputs, strict=False))
    difference = max((_difference(a, b) for a, b in pairs), default=0.0)
    if len(after.outputs) != len(before.outputs):
        difference = math.inf
    floating = [b for _, b in pairs if b.is_floating_point() and b.numel()]
    scale = max((float(b.abs().max()) for b in floating), default=0.0)
    logits = next(((a, b) for a, b in pairs if a.dim() == 2 and a.is_floating_point()), None)
    agreement = None
    if logits is not None:
        agreement = float((logits[0].argmax(1) == logits[1].argmax(1)).double().mean())
    common = {name: values for name, values in before.taps.items() if name in after.taps}
    equal = sum(
        len(after.taps[name]) == len(values) and not any(map(_difference, after.taps[name], values))
        for name, values in common.items()
    )
    return _Comparison(difference, scale, agreement, len(common), equal)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference; 0 only for equal values, of which NaN in the same place is one."""
    if a.shape != b.shape:
        return math.inf
    moved = (a != b) & ~((a != a) & (b != b))
    if not moved.any():
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    return float((a.to(wide) - b.to(wide)).abs()[moved].nan_to_num(nan=math.inf).max())


def _run(model: nn.Module, inputs: Inputs, new: tuple[str, ...]) -> _Run:
    """Runs a network, on the same dice every time: some throw them in eval mode too."""
    return settled(lambda: _watched(model, inputs, new))


def _watched(model: nn.Module, inputs: Inputs, new: tuple[str, ...]) -> _Run:
    """Runs a network and keeps what each module with weights of its own made."""
    run = _Run(inputs, [], {}, Counter())
    inside = {id(m) for path in new for m in model.get_submodule(path).modules()}
    handles = []

    def tap(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            run.taps.setdefault(name, []).extend(t.clone() for t in tensors_in(output))

        return keep

    def note(name: str) -> Any:
        return lambda module, args, output: run.called.update([name])

    for name, module in model.named_modules():
        if name in new:
            handles.append(module.register_forward_hook(note(name)))
        elif isinstance(module, torch.jit.ScriptModule):
            continue  # which takes no hooks; what it made is seen in what follows it
        elif id(module) not in inside and module._parameters:
            handles.append(module.register_forward_hook(tap(name)))
    try:
        with torch.no_grad():
            run.outputs.extend(tensors_in(inputs.feed(model)))
    finally:
        for handle in handles:
            handle.remove()
    return run
