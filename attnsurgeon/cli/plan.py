"""`attnsurgeon plan`: what `insert` would do and what it would cost, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attnsurgeon.cli.measuring import Measuring, budgets, measuring
from attnsurgeon.cli.networks import (
    described,
    plan_on,
    read_budget,
    read_selection,
    require_device,
    sketch,
    timed_plan,
    too_dear,
)
from attnsurgeon.cli.options import (
    Network,
    Selection,
    json_flag,
    network,
    print_rules_flag,
    selection,
)
from attnsurgeon.report.streams import out, step, write_json

if TYPE_CHECKING:
    from attnsurgeon.cost.budgets import Budget
    from attnsurgeon.rules.schema import RuleFile
    from attnsurgeon.sites.survey import Survey


@click.command()
@network
@selection()
@budgets
@measuring
@print_rules_flag
@click.option("--explain", metavar="SITE", help="Say why each rule takes or leaves this site.")
@json_flag
def command(
    asked: Network,
    chosen: Selection,
    timing: Measuring,
    print_rules: bool,
    explain: str | None,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Say what `insert` would do, and its price. No weights are loaded, nothing is written.

    What is measured (--latency, --max-latency, --max-memory) is measured with random weights.
    """
    if timing.asked and (print_rules or explain is not None):
        raise click.UsageError("--print-rules and --explain measure nothing: leave --latency out")
    if print_rules:
        if as_json or explain is not None:
            raise click.UsageError("--print-rules prints YAML alone: leave --json, --explain out")
        show_rules(asked, chosen)
    elif explain is None:
        show_plan(asked, chosen, read_budget(**limits), timing, as_json)
    else:
        file = read_selection(chosen)
        _explain(sketch(asked)[1], file, explain, as_json)


def show_plan(
    network: Network, chosen: Selection, budget: Budget, timing: Measuring, as_json: bool
) -> None:
    """Plans and weighs on the meta device, measures what is asked for, and prints it."""
    require_device(timing)
    file = read_selection(chosen)
    model, found = sketch(network)
    made = plan_on(found, file, chosen)
    with step("weighing"):
        from attnsurgeon.operate import weigh_plan
        from attnsurgeon.report.record import model_record, operation_record

        cost = weigh_plan(made)
    measured = None
    refusal = too_dear(cost, budget.counted)
    if refusal is None and timing.asked:
        measured = timed_plan(network, file, chosen, found.traced.form, timing, budget)
        refusal = too_dear(cost, budget, measured)
    about = model_record(described(network, model))
    record = operation_record(made, cost, model=about, latency=measured)
    if as_json:
        write_json(record)
    else:
        from attnsurgeon.report.operation import show_operation

        show_operation(out(), record)
    if refusal is not None:
        raise refusal


def show_rules(network: Network, chosen: Selection) -> None:
    """Prints the rules that the options stand for, where they take something in the network."""
    from attnsurgeon.report.streams import write_text
    from attnsurgeon.rules.parse import write_rules

    file = read_selection(chosen)
    plan_on(sketch(network)[1], file, chosen)
    write_text(write_rules(file))


def _explain(found: Survey, file: RuleFile, path: str, as_json: bool) -> None:
    from attnsurgeon.operate import explain

    reasons = explain(found, file, path)
    record = {
        "path": path,
        "rules": [
            {"rule": rule, "takes": reason is None, "reason": reason} for rule, reason in reasons
        ],
    }
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.rulebook import show_reasons

    show_reasons(out(), record)
