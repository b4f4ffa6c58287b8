"""The library's one sentence: trace, find, plan, splice, weigh, verify -> Operation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.asked import rules_for, spelled
from attnsurgeon.attention.own.applied import OnValues
from attnsurgeon.attention.registry import lookup
from attnsurgeon.checks.verify import Verification, verify
from attnsurgeon.cost.comparing import Cost, Surgery, compare
from attnsurgeon.cost.measured import Measurement
from attnsurgeon.cost.planned import weigh_alike
from attnsurgeon.cost.weighing import weigh, weigh_twin
from attnsurgeon.cost.weight import Weight
from attnsurgeon.errors import SurgeonError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.models.own_attention import (
    Attention,
)
from attnsurgeon.planning.additions import judged_otherwise
from attnsurgeon.planning.elsewhere import nothing_here, with_another
from attnsurgeon.planning.plan import Plan, Request, plan_requests
from attnsurgeon.planning.selection import Sites
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.recording.twin import handed_over
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.match import Match, RuleMatches, match_rules, require_counts
from attnsurgeon.rules.match import Refusal as Unmatched
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.rules.parse import write_rules
from attnsurgeon.rules.placements import PAPER
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.rules.where import Where, require_listed
from attnsurgeon.saved.save import Origin, check_output, save_operation
from attnsurgeon.shown import Shown
from attnsurgeon.sites.analysis import analyse, sketch
from attnsurgeon.sites.parts import small_maps
from attnsurgeon.sites.survey import Survey
from attnsurgeon.sizes import InputSize
from attnsurgeon.splicing.removing import Removed
from attnsurgeon.splicing.splice import splice


@dataclass(eq=False, repr=False)
class Operation(Shown):
    """A network with its attention in, the plan that was carried out, and what it costs.

    Attributes:
        model: the operated network.
        plan: the cuts.
        origin: hash of the base weights when they were operated; for adapters.
        removed: the parameters that were taken away, by the path of their module.
    """

    model: nn.Module
    plan: Plan
    origin: Origin
    removed: Removed = field(default_factory=dict)

    @cached_property
    def cost(self) -> Cost:
        """Parameters, MACs and activations before and after, for a batch of one."""
        return weigh_plan(self.plan)

    def verify(self, *, full: bool = True) -> Verification:
        """Checks the operated network against the one it was made from, on copies.

        Args:
            full: also train two steps, randomise the attention to see it act, and copy.
        """
        return verify(self.model, self.plan, full=full, removed=self.removed)

    @known_state()
    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        mode: str = "full",
        verification: Verification | None = None,
        measurement: Measurement | None = None,
    ) -> Path:
        """Writes the folder that `attnsurgeon.load` reads, as `attnsurgeon.save` does.

        Args:
            path: the folder.
            overwrite: replace a folder that this tool wrote.
            mode: "full" for all weights, "adapter" for those of the attention only.
            verification: what `verify` found, for the reports of the folder.
            measurement: what was measured, likewise.
        """
        check_output(path, overwrite)  # before the cost is weighed for the folder's card
        return save_operation(
            path, self.model, self.plan, self.cost, self.origin,
            overwrite=overwrite, mode=mode, verification=verification, measurement=measurement,
        )  # fmt: skip


@takes_networks()
@known_state()
def find_sites(
    model: nn.Module, *, input_size: InputSize | None = None, example: Any = None
) -> Sites:
    """Finds every place of a network where surgery can happen; the network is not changed.

    Args:
        model: any network, on any device, the meta device included.
        input_size: (C, L), (C, H, W) or (C, D, H, W); of a network with several inputs a tuple of
            these; default: the network's own, or a guess.
        example: in place of a size, what the forward is called with: a tensor, a tuple of
            positional arguments, a list or dict that is one argument, or a dict with the names of
            the forward's arguments, alone or at the end of a tuple. Numbers, strings and None may
            stand beside the tensors. Of the tensors only the shapes, types and ranges are used.

    Raises:
        ModelError: the network cannot be run.
        UsageError: both a size and an example are given.
    """
    survey = analyse(model, input_size, example)
    return Sites(survey.sites, survey)


@takes_networks()
@known_state()
def plan(
    model: nn.Module,
    attn: Attention | None = None,
    where: Where | None = None,
    *,
    rules: str | Path | RuleFile | None = None,
    attn_args: Mapping[str, Any] | None = None,
    init: str = "identity",
    input_size: InputSize | None = None,
    example: Any = None,
    at: str | Sequence[str] | None = None,
    stage: Any = None,
    channels: Any = None,
    every: int | None = None,
    trust: bool = False,
) -> Plan:
    """Decides what would be cut where; the dry run of `insert`.

    Args:
        model: any network; it is not changed, and may be on the meta device.
        attn: name of a mechanism; may be left out where the rules name it. Or your own: a class of
            modules, a function of the channels that returns a module, a function of tensors, or
            the name of one, `path/file.py:NAME` or `package.module:NAME`, which is imported.
        where: name of a shipped placement, path of a rule file, a matcher as a dict, Sites or a
            list of paths, or a function that tells of a Site whether to take it; default: the
            paper's own placement.
        rules: a rule file, in place of `where`.
        attn_args: arguments of the mechanism; of your own also "$C", "$H", "$W" and "$stage", for
            what they are at the site. What its signature names so is found without.
        init: "identity" for bit-equal outputs at the start, "paper" for the authors' start.
        input_size, example: as for `find_sites`.
        at: of these sites only those at this path or inside this module (`"layer3"`), or whose
            paths match this pattern (`"layer[34].*"`, `"re:..."`); also several. With neither
            `where` nor `rules`, the path of any site is that site.
        stage: only those of these stages: `4`, `[-2, -1]`.
        channels: only those of so many channels: `64`, `">=128"`.
        every: 2 takes every second of them.
        trust: let the rule file name code, which is run.

    Raises:
        MechanismError, RuleError, ModelError, CheckFailed: each says what to do.
    """
    narrow = Narrowing.of(at, stage, channels, every)
    file = rules_for(attn, where, rules, attn_args, init, narrow, trust=trust)
    survey = analyse(model, input_size, example)
    require_listed(where, survey.sites)
    return plan_rules(survey, file, init=init, where=spelled(where, rules, narrow))


@takes_networks()
@known_state()
def insert(
    model: nn.Module,
    attn: Attention | None = None,
    where: Where | None = None,
    *,
    rules: str | Path | RuleFile | None = None,
    attn_args: Mapping[str, Any] | None = None,
    init: str = "identity",
    input_size: InputSize | None = None,
    example: Any = None,
    at: str | Sequence[str] | None = None,
    stage: Any = None,
    channels: Any = None,
    every: int | None = None,
    inplace: bool = False,
    trust: bool = False,
) -> Operation:
    """Puts attention into a network.

    Args:
        model: any network; a copy is operated unless `inplace`.
        attn, where, rules, attn_args, init, input_size, example, at, stage, channels, every,
            trust: as for `plan`.
        inplace: operate `model` itself.

    Returns:
        The operation; its `model` keeps the class, the methods and every key of the original.

    Raises:
        MechanismError, RuleError, ModelError, CheckFailed: each says what to do; nothing has
        been changed then.
    """
    made = plan(
        model,
        attn,
        where,
        rules=rules,
        attn_args=attn_args,
        init=init,
        input_size=input_size,
        example=example,
        at=at,
        stage=stage,
        channels=channels,
        every=every,
        trust=trust,
    )
    return carry_out(model if inplace else handed_over(model), made)


@known_state()
def carry_out(model: nn.Module, made: Plan) -> Operation:
    """Carries out a plan on `model`, in place."""
    origin = Origin.of(model)
    return Operation(model, made, origin, splice(model, made))


@takes_networks("spec_or_model", or_else=(str,))
@known_state()
def estimate(
    spec_or_model: str | nn.Module,
    attn: Attention | None = None,
    where: Where | None = None,
    *,
    rules: str | Path | RuleFile | None = None,
    attn_args: Mapping[str, Any] | None = None,
    init: str = "identity",
    input_size: InputSize | None = None,
    example: Any = None,
    at: str | Sequence[str] | None = None,
    stage: Any = None,
    channels: Any = None,
    every: int | None = None,
    trust: bool = False,
    **model_args: Any,
) -> Cost:
    """Tells what attention would cost, on the meta device: no weights, no download, no memory.

    A network that looks at values (a detector) is run on random ones instead, with random weights
    where it is named by a spec; `notes` of the cost says so.

    Args:
        spec_or_model: what `load_model` takes, or a network.
        attn, where, rules, attn_args, init, input_size, example, at, stage, channels, every,
            trust: as for `plan`.
        **model_args: arguments of the network, with a spec.
    """
    narrow = Narrowing.of(at, stage, channels, every)
    file = rules_for(attn, where, rules, attn_args, init, narrow, trust=trust)
    if isinstance(spec_or_model, str):
        _, survey = sketch(spec_or_model, input_size, example, **model_args)
    elif model_args:
        raise UsageError(
            f"{', '.join(model_args)}: arguments of a network need a spec, not a network"
        )
    else:
        survey = analyse(spec_or_model, input_size, example)
    require_listed(where, survey.sites)
    said = spelled(where, rules, narrow)
    return weigh_plan(plan_rules(survey, file, init=init, where=said))


@known_state()
@uncollected()
def weigh_plan(made: Plan) -> Cost:
    """Weighs the network before and after the plan, on meta, for a batch of one."""
    before, after = weigh_both(made)
    sites = [
        Surgery(site.path, cut.module_path, cut.weighed, cut.card.tied and cut.link > 0)
        for cut in made.cuts
        for site in (cut.site, *cut.shared)
    ]
    return compare(before, after, sites)


def weigh_both(made: Plan) -> tuple[Weight, Weight]:
    """Weighs the planned network as it is, and with the plan carried out on a copy."""
    traced = made.survey.traced
    form = traced.form.at_batch(1)
    notes = () if form.batch == 1 else (f"counted at the batch of {form.batch} that was given",)
    if traced.device != "meta":  # it looks at values, and on meta there are none
        copied = copy.deepcopy(traced.twin)
        before = weigh(traced.twin, form)
        splice(copied, made)
        return before, weigh(copied, form)
    if (weights := weigh_alike(made, notes)) is not None:
        return weights
    copied = copy.deepcopy(traced.twin)
    before = weigh_twin(copied, form.on_meta(), notes=notes)
    splice(copied, made)
    own = [cut for cut in made.cuts if cut.card.own]
    try:
        return before, weigh_twin(copied, form.on_meta(), notes=notes)
    except (Exception, SystemExit):  # a stranger's attention may look at values
        if not own:
            raise
    for cut in own:
        part = copied.get_submodule(cut.module_path)
        build = functools.partial(cut.card.make, cut.channels, cut.rank, cut.attn_args)
        part.add_module("inner", OnValues(lambda build=build: build().get_submodule("inner"),
                                          part.get_submodule("inner")))  # fmt: skip
    said = f"{'+'.join({c.attn: 0 for c in own})} looks at values: counted on random ones"
    return before, weigh_twin(copied, form.on_meta(), notes=(*notes, said))


def matches_of(survey: Survey, file: RuleFile) -> list[RuleMatches]:
    """Matches rules against an analysed network; see `explain`."""
    return match_rules(file, survey.sites)


def explain(survey: Survey, file: RuleFile, path: str) -> list[tuple[str, str | None]]:
    """Says of one site, for every rule, why the rule leaves it; None where it takes it."""
    if path in survey.refused:
        return [(rule.id, f"no residual addition: {survey.refused[path]}") for rule in file.rules]
    answers: list[tuple[str, str | None]] = []
    for found in matches_of(survey, file):
        answer: Match | Unmatched = found.explain(path)
        answers.append((found.rule.id, None if isinstance(answer, Match) else answer.reason))
    return answers


def plan_rules(survey: Survey, file: RuleFile, *, init: str, where: str) -> Plan:
    """Matches the rules of `rules_for` against an analysed network; decides about each site."""
    matches = match_rules(file, survey.sites)
    own = _own(file) if where == PAPER else None
    if own is not None and not any(found.sites for found in matches):
        raise nothing_here(survey, own.type, own.args, init)
    said = [judged_otherwise(survey, found.rule.match.site or ()) for found in matches]
    notes = tuple(dict.fromkeys(filter(None, [*said, small_maps(survey)])))
    require_counts(matches, notes)
    requests = [
        Request(
            found.rule.id,
            site,
            found.rule.attn.type,
            found.rule.attn.args,
            found.rule.action or "",
            found.rule.init or init,
            found.rule.scope or "",
        )
        for found in matches
        for site in found.sites
        if found.rule.attn is not None
    ]
    names = list(dict.fromkeys(r.attn.type for r in file.rules if r.attn is not None))
    inits = {request.init for request in requests}
    try:
        return plan_requests(
            survey,
            requests,
            attn="+".join(names),
            where=where,
            init=inits.pop() if len(inits) == 1 else "paper",
            rules=_text(file),
            notes=notes,
        )
    except SurgeonError as error:
        if own is None:
            raise
        raise with_another(error, survey, own.type, own.args, init) from error


def _own(file: RuleFile) -> Attn | None:
    """The mechanism of a file that is that mechanism's own placement."""
    rule = file.rules[0]
    if rule.attn is None or [r.id for r in file.rules] != [lookup(rule.attn.type).placement]:
        return None
    return rule.attn


def _text(file: RuleFile) -> str:
    """The rules as YAML, or "" where a Python function chose the sites."""
    return "" if any(rule.match.predicate for rule in file.rules) else write_rules(file)
