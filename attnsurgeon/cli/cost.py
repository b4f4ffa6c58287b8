"""`attnsurgeon cost`: what a network weighs, alone or with attention."""

from __future__ import annotations

import click

from attnsurgeon.cli.measuring import Measuring, measuring
from attnsurgeon.cli.networks import (
    described,
    load,
    plan_on,
    read_selection,
    require_device,
    sketch,
    timed,
    timed_plan,
)
from attnsurgeon.cli.options import Network, Selection, json_flag, network, selection
from attnsurgeon.report.streams import out, step, write_json


@click.command()
@network
@selection(required=False)
@measuring
@json_flag
def command(
    asked: Network,
    chosen: Selection | None,
    timing: Measuring,
    as_json: bool,
) -> None:
    """Weigh MODEL, alone or with attention. No weights are loaded, but for --latency."""
    require_device(timing)
    if chosen is None:
        _show_weight(asked, timing, as_json)
    else:
        _show_difference(asked, chosen, timing, as_json)


def _show_weight(network: Network, timing: Measuring, as_json: bool) -> None:
    model, found = sketch(network)
    with step("weighing"):
        from attnsurgeon.cost.weighing import weigh
        from attnsurgeon.report.record import model_record, network_weight_record

        size = found.traced.input_size
        weight = weigh(found.traced.twin, found.traced.form.at_batch(1))
        parts = [name for name, _ in found.traced.twin.named_children()]
    measured = None
    if timing.asked:
        model = load(network)
        measured = timed(model, model, found.traced.form, timing)
    record = network_weight_record(
        model_record(described(network, model)), size, weight, parts, measured
    )
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.pricing import show_weight

    show_weight(out(), record)


def _show_difference(network: Network, chosen: Selection, timing: Measuring, as_json: bool) -> None:
    file = read_selection(chosen)
    model, found = sketch(network)
    made = plan_on(found, file, chosen)
    with step("weighing"):
        from attnsurgeon.operate import weigh_plan
        from attnsurgeon.report.record import model_record, operation_record

        cost = weigh_plan(made)
    measured = None
    if timing.asked:
        measured = timed_plan(network, file, chosen, found.traced.form, timing)
    record = operation_record(
        made, cost, model=model_record(described(network, model)), latency=measured
    )
    if as_json:
        write_json(record)
        return
    from attnsurgeon.report.pricing import show_difference

    show_difference(out(), record)
