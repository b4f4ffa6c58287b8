"""Candidates + a network with weights -> seconds: of each module alone, and of a set as a whole.

What a module takes depends on the machine and on what runs beside it, so the seconds of a site are
an estimate. Every mechanism goes into a copy of the network, one forward there shows what each of
its modules is given, and each that is new (another mechanism or other shapes) is then run alone on
that, in pairs with what it replaces. The sum over a set is checked by measuring the whole network.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.cost.budgets import Budget, is_decided
from attnsurgeon.cost.measured import Latency
from attnsurgeon.cost.stepping import forwards
from attnsurgeon.cost.timing import cpu_threads, paired, watch_of
from attnsurgeon.errors import UsageError
from attnsurgeon.planning.cut import Cut
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.randomness import OwnDice, dice_put_back
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.twin import full_twin, shared_twin
from attnsurgeon.searching.candidates import Candidate
from attnsurgeon.sites.survey import Survey
from attnsurgeon.splicing.splice import splice

SECONDS = 60.0  # that a set as a whole is measured
_ALONE_SECONDS = 2.0  # that one module is measured at most

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Timed:
    """Two networks measured side by side.

    Attributes:
        before, after: median seconds of a forward.
        ratio: median of after / before.
        low, high: 95 % confidence interval of that median.
        pairs: that were measured.
        threads, device, batch: how.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    pairs: int
    threads: int
    device: str
    batch: int

    def verdict(self, budget: Budget) -> str:
        """Whether a limit on latency is "kept", "broken" or "undecided"; "" without one."""
        if budget.max_latency is None:
            return ""
        ceiling = float(budget.max_latency.ceiling(self.before))
        if self.before * self.high <= ceiling:
            return "kept"
        return "broken" if self.before * self.low > ceiling else "undecided"


class Clock:
    """Measures on one network; nothing of it is changed.

    Args:
        model: the network, with real weights.
        survey: of it.
        device: where to measure; default: where the weights are.
        batch: images of a forward.
        threads: CPU threads to measure with; None for torch's own number.
        repeats, warm_up: pairs to measure at least, and before them; None for the usual.
        seconds: after which no more pairs of a whole set are measured.

    Raises:
        UsageError: the weights are on meta.
    """

    def __init__(
        self,
        model: nn.Module,
        survey: Survey,
        *,
        device: torch.device | None = None,
        batch: int = 1,
        threads: int | None = None,
        repeats: int | None = None,
        warm_up: int | None = None,
        seconds: float = SECONDS,
    ) -> None:
        if any(weight.is_meta for weight in model.parameters()):
            raise UsageError(
                "latency cannot be measured on the meta device", "load the network with weights"
            )
        self._model = model if device is None else full_twin(model).to(device)
        self._pairing = {"repeats": repeats, "warm_up": warm_up}
        self._threads, self._seconds, self._batch = threads, seconds, batch
        weights = next(self._model.parameters(), torch.empty(0))
        self._device = weights.device
        drawn = survey.traced.form.at_batch(batch).drawn(torch.Generator().manual_seed(0))
        self._inputs: Inputs = map_tensors(drawn, lambda t: _like(t, weights))

    def alone(self) -> Timed:
        """Measures the network as it is, in pairs with itself."""
        return self._pairs(self._model, self._model)

    def whole(self, plan: Plan, budget: Budget) -> Timed:
        """Measures the network before and after a plan, until the limit is decided."""
        after = shared_twin(self._model)
        with OwnDice():
            splice(after, plan)
        limit = budget.max_latency

        def enough(measured: Latency) -> bool:
            return limit is None or (measured.has_interval and is_decided(budget, measured))

        return self._pairs(self._model, after, enough=enough)

    @known_state(own_dice=False)
    def each(self, candidates: Sequence[Candidate], tell: Tell | None = None) -> tuple[float, ...]:
        """Returns the seconds that each candidate is estimated to add to a forward."""
        calls = [call for group in _by_rule(candidates) for call in self._calls(group)]
        kinds = list(dict.fromkeys(call.key for call in calls))
        seconds: dict[tuple[object, ...], float] = {}
        for call in calls:
            if call.key not in seconds:
                if tell is not None:
                    tell(f"measuring {call.cut.attn} alone", len(seconds), len(kinds))
                seconds[call.key] = self._alone(call)
        of_cut: dict[int, float] = {}
        for call in calls:
            of_cut[id(call.cut)] = of_cut.get(id(call.cut), 0.0) + seconds[call.key]
        return tuple(sum(of_cut.get(id(cut), 0.0) for cut in one.cuts) for one in candidates)

    def _calls(self, candidates: Sequence[Candidate]) -> list[_Call]:
        """Every call of the modules of one rule, in one forward."""
        cuts = sorted((cut for one in candidates for cut in one.cuts), key=lambda c: c.site.index)
        twin = shared_twin(self._model).eval()
        plan = dataclasses.replace(candidates[0].plan, cuts=tuple(cuts))
        with OwnDice():
            splice(twin, plan)
        served: dict[str, list[Cut]] = {}
        for cut in cuts:
            served.setdefault(_first_path(twin, cut.module_path), []).append(cut)
        calls: list[_Call] = []
        handles = []
        for path, here in served.items():

            def note(module: nn.Module, args: Any, kwargs: Any, here: list[Cut] = here) -> None:
                given = map_tensors(Inputs(args, kwargs), lambda t: t.detach().clone())
                # A module of several links is run by each in turn.
                cut = here[sum(call.module is module for call in calls) % len(here)]
                calls.append(_Call(cut, plan, module, given, self._replaced(cut)))

            module = twin.get_submodule(path)
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
        try:
            with torch.inference_mode():
                self._inputs.feed(twin)
        finally:
            for handle in handles:
                handle.remove()
        return calls

    def _replaced(self, cut: Cut) -> nn.Module:
        """What no longer runs where the cut is made, as a module of what the attention is given."""
        if cut.card.kind not in ("conv", "activation") or not cut.removes:
            return _Nothing(self._device)
        return nn.Sequential(*(self._model.get_submodule(path) for path in cut.removes))

    def _alone(self, call: _Call) -> float:
        """Seconds that a call adds."""
        if call.cut.taps:  # it reads values of the same forward, and runs in its network only
            after = shared_twin(self._model)
            with OwnDice():
                splice(after, dataclasses.replace(call.plan, cuts=(call.cut,)))
            measured = self._pairs(self._model, after, seconds=_ALONE_SECONDS)
            return measured.after - measured.before
        measured = self._pairs(
            call.replaced, call.module, inputs=call.inputs, seconds=_ALONE_SECONDS
        )
        return measured.after - measured.before

    def _pairs(
        self,
        before: nn.Module,
        after: nn.Module,
        *,
        inputs: Inputs | None = None,
        enough: Callable[[Latency], bool] = lambda _: True,
        seconds: float | None = None,
    ) -> Timed:
        given = self._inputs if inputs is None else inputs
        until = time.monotonic() + (self._seconds if seconds is None else seconds)
        with (
            cpu_threads(self._threads),
            dice_put_back(self._device),
            forwards((before, after), given) as runs,
        ):
            found = paired(runs, watch_of(self._device), enough, until=until, **self._pairing)
            threads = torch.get_num_threads()
        ratio = found.ratio
        return Timed(
            found.before.median, found.after.median, ratio.median, ratio.low, ratio.high,
            found.pairs, threads, str(self._device), self._batch,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of an inserted module in a forward."""

    cut: Cut
    plan: Plan
    module: nn.Module
    inputs: Inputs
    replaced: nn.Module

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for modules that are alike."""
        shapes = tuple((tuple(t.shape), t.dtype) for t in tensors_in(self.inputs))
        replaced = tuple(repr(one) for one in self.replaced.children())
        args = repr(sorted(self.cut.attn_args.items()))
        return self.cut.attn, self.cut.init, args, shapes, replaced


class _Nothing(nn.Module):
    """Hands its input on; with a weight, so that it has a device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, value: Tensor, *_others: Any, **_more: Any) -> Tensor:
        return value


def _by_rule(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates that came of one rule: they were planned together, and go in together."""
    groups: dict[int, list[Candidate]] = {}
    for one in candidates:
        groups.setdefault(id(one.rule), []).append(one)
    return list(groups.values())


def _first_path(model: nn.Module, path: str) -> str:
    """The first of the paths that a module has."""
    wanted = model.get_submodule(path)
    return next(name for name, module in model.named_modules() if module is wanted)


def _like(tensor: Tensor, weights: Tensor) -> Tensor:
    """A tensor on the device of the weights, a fraction also of their type."""
    if tensor.is_floating_point() and weights.is_floating_point():
        return tensor.to(weights.device, weights.dtype)
    return tensor.to(weights.device)
