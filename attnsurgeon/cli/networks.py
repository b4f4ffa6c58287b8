"""MODEL and its options -> a network, its sites, and the plan of a selection on it."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from attnsurgeon.cli.measuring import Measuring
from attnsurgeon.cli.options import Network, Selection
from attnsurgeon.errors import CheckFailed, ModelError, SurgeonError
from attnsurgeon.report.streams import note, step
from attnsurgeon.report.surfaces import in_options

if TYPE_CHECKING:
    import torch
    from torch import nn

    from attnsurgeon.cost.budgets import Budget
    from attnsurgeon.cost.comparing import Cost
    from attnsurgeon.cost.measured import Measurement
    from attnsurgeon.models import Source
    from attnsurgeon.planning.plan import Plan
    from attnsurgeon.recording.inputs import InputForm
    from attnsurgeon.rules.schema import RuleFile
    from attnsurgeon.sites.survey import Survey


def sketch(network: Network) -> tuple[nn.Module, Survey]:
    """Builds a network without weights, or where it looks at values with random ones, and finds
    its sites.
    """
    if network.is_folder:
        return _sketch_of_folder(network)
    with step(f"looking at {network.spec}"):
        from attnsurgeon.sites.analysis import sketch

        asked = network.input_size, read_input(network)
        model, found = sketch(network.spec, *asked, **network.args)
    if found.traced.why_real:
        note(f"note: {network.spec} looks at values, so it was built with random weights")
    return model, found


def read_input(network: Network) -> Any:
    """Returns what stands in the file of the input, or None; nothing in it is run."""
    if network.input is None:
        return None
    from attnsurgeon.models.examples import read_example

    return read_example(network.input)


def _sketch_of_folder(network: Network) -> tuple[nn.Module, Survey]:
    """The same of a saved folder: attention of another operation is part of its network."""
    with step(f"looking at {network.spec}"):
        from attnsurgeon.saved.restore import outline, read_folder, without_weights
        from attnsurgeon.sites.analysis import analyse

        saved = read_folder(network.spec)
        asked = network.input_size, given_input(network)
        try:
            model = outline(saved, trust=network.trust)
            return model, analyse(model, *asked)
        except ModelError:
            model = without_weights(saved, trust=network.trust)
            found = analyse(model, *asked)
    if found.traced.why_real:
        note(f"note: {network.spec} looks at values, so it was built with random weights")
    return model, found


def given_input(network: Network) -> Any:
    """Returns the input to look at a network with: of a folder that of its last operation, unless
    the user names another.
    """
    if network.is_folder and network.input_size is None and network.input is None:
        from attnsurgeon.saved.restore import read_folder

        return read_folder(network.spec).form
    return read_input(network)


def described(network: Network, model: nn.Module) -> Source:
    """Returns where a network comes from that was built for a command: as it was asked for."""
    from attnsurgeon.models import source_of

    source = source_of(model)
    assert source is not None, "whatever builds or loads a network notes where it comes from"
    if not network.is_folder:
        return source
    empty = any(parameter.is_meta for parameter in model.parameters())
    weights = "none" if empty else source.weights
    return dataclasses.replace(source, spec=network.spec, model_args={}, weights=weights)


def note_what_was_taken(model: nn.Module) -> None:
    """Says every liberty that was taken with the checkpoint of a network."""
    from attnsurgeon.models import source_of

    source = source_of(model)
    for said in source.notes if source is not None else ():
        note(f"note: {in_options(said)}")


def load(network: Network) -> nn.Module:
    """Builds a network with random weights, for what needs a network that runs."""
    with step(f"building {network.spec}"):
        from attnsurgeon.models import load_model

        if network.is_folder:
            from attnsurgeon.saved.restore import read_folder, without_weights

            return without_weights(read_folder(network.spec), trust=network.trust)
        return load_model(network.spec, **network.args)


def timed(
    before: nn.Module,
    after: nn.Module,
    form: InputForm,
    timing: Measuring,
    budget: Budget | None = None,
) -> Measurement:
    """Measures two networks side by side on random inputs, until a budget is decided."""
    with step("measuring"):
        from attnsurgeon.cost.budgets import is_decided
        from attnsurgeon.cost.measuring import measure
        from attnsurgeon.recording.twin import full_twin

        if timing.device is not None:
            to = device_named(timing.device)
            before, after = (full_twin(model).to(to) for model in (before, after))
        enough = None
        if budget is not None and budget.max_latency is not None:
            enough = functools.partial(is_decided, budget)
        at = form.at_batch(timing.batch or 1)
        return measure(before, after, at, enough=enough, **timing.arguments)


def timed_plan(
    network: Network,
    file: RuleFile,
    chosen: Selection,
    form: InputForm,
    timing: Measuring,
    budget: Budget | None = None,
) -> Measurement:
    """Builds a network that was only looked at, with random weights, operates it and measures."""
    model = load(network)
    with step("operating"):
        from attnsurgeon.operate import insert

        after = insert(model, rules=file, init=chosen.init, example=form).model
    return timed(model, after, form, timing, budget)


def require_device(timing: Measuring) -> None:
    """Refuses a device that is not there, before the network is built for it."""
    if timing.device is not None:
        with step("starting"):
            device_named(timing.device)


def device_named(name: str) -> torch.device:
    """Returns a device of this machine."""
    import torch

    from attnsurgeon.errors import UsageError

    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        there += [str(kind), *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
    if name not in there:
        raise UsageError(f"there is no device {name!r} here", f"there is {', '.join(there)}")
    return torch.device(name)


def read_selection(chosen: Selection) -> RuleFile:
    """Returns the rules that the options stand for; needs no network."""
    with step("starting"):
        from attnsurgeon.asked import rules_for
        from attnsurgeon.rules.narrowing import Narrowing

        narrow = Narrowing.of(**chosen.narrow)
        given = chosen.attn, chosen.where, chosen.rules, chosen.args, chosen.init, narrow
        return rules_for(*given, trust=chosen.trust)


def plan_on(found: Survey, file: RuleFile, chosen: Selection) -> Plan:
    """Decides what would be cut where."""
    with step("planning"):
        from attnsurgeon.asked import spelled
        from attnsurgeon.operate import plan_rules
        from attnsurgeon.rules.narrowing import Narrowing

        where = spelled(chosen.where, chosen.rules, Narrowing.of(**chosen.narrow))
        return plan_rules(found, file, init=chosen.init, where=where)


def read_budget(**limits: str | None) -> Budget:
    """Returns the limits that the options state."""
    with step("starting"):
        from attnsurgeon.cost.budgets import Budget

        return Budget.parse(**limits)


def too_dear(
    cost: Cost, budget: Budget, measured: Measurement | None = None
) -> SurgeonError | None:
    """Returns which limit is exceeded or cannot be shown to hold, or None."""
    from attnsurgeon.cost.budgets import check_budgets

    try:
        check_budgets(cost, budget, measured=measured)
    except CheckFailed as error:
        return error
    return None
