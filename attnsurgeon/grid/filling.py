"""Networks x cells -> networks and rows, one by one: each network is built and analysed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.budgets import Limit
from attnsurgeon.cost.comparing import Cost
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.errors import SurgeonError
from attnsurgeon.grid.cells import Cell
from attnsurgeon.grid.limits import breaks
from attnsurgeon.grid.measuring import Timing, measured
from attnsurgeon.grid.saving import Saving
from attnsurgeon.grid.subjects import Subject
from attnsurgeon.grid.table import FIGURES, Network, Row
from attnsurgeon.operate import carry_out, plan_rules, weigh_plan
from attnsurgeon.planning.plan import Plan
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.twin import handed_over
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import to_lists

Key = tuple[str, str, str]
_SEED = 0  # so that a second run makes the variants that the first one would have made


@dataclass(frozen=True)
class Request:
    """What a comparison is to have.

    Attributes:
        subjects: the networks.
        cells: the mechanisms at their placements.
        init: "identity" or "paper".
        limits: figure -> limit; a row outside of them is not measured further, and not saved.
        timing: how to measure; None to count only.
        saving: where every variant is saved; None for nowhere.
        hint: the next step after an error, as the reader can take it.
    """

    subjects: tuple[Subject, ...]
    cells: tuple[Cell, ...]
    init: str = "identity"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    timing: Timing | None = None
    saving: Saving | None = None
    hint: Callable[[SurgeonError], str | None] = lambda error: error.hint

    def __len__(self) -> int:
        return len(self.subjects) * len(self.cells)

    def record(self) -> dict[str, Any]:
        """Return what decides the rows, for a journal; limits and order only choose among them."""
        return {
            "networks": [subject.record() for subject in self.subjects],
            "cells": [cell.record() for cell in self.cells],
            "init": self.init,
            "timing": None if self.timing is None else vars(self.timing),
            "saving": None if self.saving is None else self.saving.record(),
        }


def filled(
    request: Request,
    networks: Mapping[str, Network] | None = None,
    rows: Mapping[Key, Row] | None = None,
) -> Iterator[tuple[Network | Row, bool]]:
    """Yield each network and then its rows, and whether it is new.

    Whoever stops here keeps what was yielded, and can go on from it.

    Args:
        request: what is wanted.
        networks, rows: what is finished already.

    Raises:
        ModelError: the only network cannot be built or run; of several that is a row's error.
        UsageError, CheckFailed: a variant cannot be measured or saved.
    """
    networks, rows = networks or {}, rows or {}
    for subject in request.subjects:
        yield from _Filling(request, subject, networks.get(subject.name), rows).run()


class _Filling:
    """One network on its way through all cells; it is built when the first of them needs it."""

    def __init__(
        self,
        request: Request,
        subject: Subject,
        network: Network | None,
        rows: Mapping[Key, Row],
    ) -> None:
        # Of one that could not be built nothing is known: it is tried again.
        seen = network is not None and bool(network.figures)
        self.request = request
        self.subject = subject
        self.network = network if seen else None
        self.rows = rows if seen else {}
        self.model: nn.Module | None = None
        self.survey: Survey | None = None

    def run(self) -> Iterator[tuple[Network | Row, bool]]:
        request, name = self.request, self.subject.name
        known = self.network is not None
        try:
            if self.network is None:
                self.network = self._look()
        except SurgeonError as error:
            if len(request.subjects) == 1:
                raise
            self.network = _unseen(self.subject)
            yield self.network, True
            for cell in request.cells:
                yield _refused(self._empty(cell), error, request.hint), True
            return
        yield self.network, not known
        for cell in request.cells:
            row = self.rows.get((name, cell.attn, cell.place))
            if row is not None and self._is_whole(row):
                yield row, False
            else:
                yield self._row(cell), True

    @known_state()  # the same random weights every time, for the same reason
    def _look(self) -> Network:
        request, subject = self.request, self.subject
        if request.saving is None and request.timing is None:
            self.model, self.survey = subject.look()
        else:
            self.model = subject.load()
            self.survey = subject.survey_of(self.model)
        return _described(subject, self.model, self.survey)

    def _is_whole(self, row: Row) -> bool:
        """Whether nothing is left to do for a row of a journal."""
        assert self.network is not None
        request, saving = self.request, self.request.saving
        if row.error is not None or row.verified is False or self._too_heavy(row):
            return True
        if request.timing is not None and row.measured is None:
            return False
        if saving is None or breaks(row, self.network, request.limits) is not None:
            return True
        return row.folder is not None and saving.is_whole(row)

    def _too_heavy(self, row: Row) -> bool:
        """Whether its counts alone are outside of the limits, so that it need not be built."""
        assert self.network is not None
        limits = self.request.limits
        counted = {name: limit for name, limit in limits.items() if name in FIGURES}
        return breaks(row, self.network, counted) is not None

    def _empty(self, cell: Cell) -> Row:
        return Row(
            self.subject.name, cell.attn, cell.place, self.request.init, args=dict(cell.args)
        )

    def _row(self, cell: Cell) -> Row:
        if self.survey is None:
            self._look()
        assert self.survey is not None
        assert self.model is not None
        assert self.network is not None
        request, row = self.request, self._empty(cell)
        try:
            with known_state():
                plan = plan_rules(self.survey, cell.file, init=request.init, where=cell.where)
                cost = weigh_plan(plan)
        except SurgeonError as error:
            return _refused(row, error, request.hint)
        row = _priced(row, plan, cost, self.network)
        if (request.timing is None and request.saving is None) or self._too_heavy(row):
            return row
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)  # which new weights are drawn from
            operation = carry_out(handed_over(self.model), plan)
        if request.timing is not None:
            limit = request.limits.get("latency")
            pair = self.model, operation.model
            form = self.survey.traced.form
            row = replace(row, measured=measured(*pair, form, request.timing, limit))
        if request.saving is None or breaks(row, self.network, request.limits) is not None:
            return row
        with known_state():
            return request.saving.save(row, operation, cost)


def _described(subject: Subject, model: nn.Module, survey: Survey) -> Network:
    traced = survey.traced
    weight = weigh(traced.twin, traced.form.at_batch(1))
    source = subject.source(model)
    notes = list(weight.notes)
    if traced.why_real and not isinstance(subject.given, nn.Module):
        notes.insert(0, "it looks at values, so it was built with random weights")
    return Network(
        subject.name,
        source.spec,
        dict(source.model_args),
        source.weights,
        tuple(source.stripped),
        to_lists(traced.input_size),
        {name: getattr(weight, name) for name in FIGURES},
        dict(weight.uncounted),
        tuple(notes),
    )


def _unseen(subject: Subject) -> Network:
    """A network of which nothing is known but its name."""
    model = subject.given if isinstance(subject.given, str) else subject.name
    return Network(subject.name, model, dict(subject.args), "none", (), None, {})


def _priced(row: Row, plan: Plan, cost: Cost, network: Network) -> Row:
    delta = cost.delta
    cards = {cut.attn: cut.card for cut in plan}
    figures = {name: getattr(delta, name) for name in FIGURES}
    percents = {f"{name}_percent": getattr(delta, f"{name}_percent") for name in FIGURES}
    notes = [note for note in cost.after.notes if note not in network.notes]
    return replace(
        row,
        mechanisms=tuple(cards),
        identity="+".join(dict.fromkeys(card.identity for card in cards.values())),
        sites=tuple(cut.site.path for cut in plan),
        refused=tuple(plan.record()["refused"]),
        after={name: getattr(cost.after, name) for name in FIGURES},
        delta={**figures, **percents},
        notes=tuple(dict.fromkeys([*plan.notes, *notes])),
    )


def _refused(row: Row, error: SurgeonError, hint: Callable[[SurgeonError], str | None]) -> Row:
    return replace(row, error=error.what, hint=hint(error), exit_code=error.exit_code)
