"""`attnsurgeon insert`: the whole operation, from a network's name to a saved folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.checks.threads import few_threads
from attnsurgeon.cli.checkpoints import Taking, taking, weights
from attnsurgeon.cli.measuring import Measuring, budgets, measuring
from attnsurgeon.cli.networks import (
    described,
    given_input,
    note_what_was_taken,
    plan_on,
    read_budget,
    read_selection,
    require_device,
    timed,
    too_dear,
)
from attnsurgeon.cli.options import (
    FOLDER,
    Network,
    Selection,
    json_flag,
    network,
    print_rules_flag,
    selection,
)
from attnsurgeon.cli.plan import show_plan, show_rules
from attnsurgeon.errors import CheckFailed, SurgeonError, UsageError
from attnsurgeon.report.streams import note, out, step, write_json

if TYPE_CHECKING:
    from torch import nn

    from attnsurgeon.checks.verify import Verification
    from attnsurgeon.cost.budgets import Budget
    from attnsurgeon.operate import Operation


@dataclass(frozen=True)
class Wishes:
    """What is to be done besides the surgery.

    Attributes:
        pretrained, checkpoint, unsafe_pickle, new_head, taking: the weights to load, and how.
        output, overwrite, mode: the folder to write, and how.
        verify: "quick", "full" or "none".
        timing: whether and how to measure latency and memory.
        as_json: print JSON.
    """

    pretrained: bool
    checkpoint: str | None
    unsafe_pickle: bool
    new_head: bool
    taking: Taking
    output: str | None
    overwrite: bool
    mode: str
    verify: str
    timing: Measuring
    as_json: bool


@click.command()
@network
@selection()
@weights
@taking
@click.option("-o", "--output", type=FOLDER, help="Folder to save the operated network in.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that attnsurgeon wrote.")
@click.option(
    "--save",
    "mode",
    type=click.Choice(["full", "adapter"]),
    default="full",
    show_default=True,
    help="Save all weights, or those of the attention only.",
)
@click.option(
    "--verify",
    type=click.Choice(["quick", "full", "none"]),
    default="quick",
    show_default=True,
    help="How much to check; full also trains two steps and copies.",
)
@budgets
@measuring
@click.option("--dry-run", is_flag=True, help="Only say what would be done, like `plan`.")
@print_rules_flag
@json_flag
def command(
    asked: Network,
    chosen: Selection,
    pretrained: bool,
    checkpoint: str | None,
    unsafe_pickle: bool,
    new_head: bool,
    taking: Taking,
    output: str | None,
    overwrite: bool,
    mode: str,
    verify: str,
    timing: Measuring,
    dry_run: bool,
    print_rules: bool,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Put attention into MODEL, verify it, weigh it and save it.

    MODEL is a timm name (resnet50), torchvision:NAME, hf-hub:ORG/NAME, path/file.py:factory,
    package.module:factory, or a folder that was saved here, to be operated again.

    \b
    attnsurgeon insert resnet50 --attn eca --where bottleneck -o r50-eca
    attnsurgeon insert resnet50 --rules mine.yaml --checkpoint r50.pth -o r50-mine
    """
    given = pretrained, checkpoint, unsafe_pickle, new_head, taking
    wishes = Wishes(*given, output, overwrite, mode, verify, timing, as_json)
    _refuse_contradictions(wishes)
    if print_rules:
        if as_json or output is not None or timing.asked:
            raise click.UsageError(
                "--print-rules prints YAML and does nothing else: leave --json, -o, --latency out"
            )
        return show_rules(asked, chosen)
    if output is not None:
        from attnsurgeon.saved.folder import check_output

        check_output(output, overwrite)
    budget = read_budget(**limits)
    if dry_run:
        if checkpoint is not None:
            _load(asked, wishes)  # a file that does not fit is what people want to know
        show_plan(asked, chosen, budget, timing, as_json)
    else:
        _insert(asked, chosen, budget, wishes)


def _refuse_contradictions(wishes: Wishes) -> None:
    if wishes.pretrained and wishes.checkpoint is not None:
        raise click.UsageError("--pretrained and --checkpoint both name the weights; give one")
    if wishes.unsafe_pickle and wishes.checkpoint is None:
        raise click.UsageError("--unsafe-pickle is about a --checkpoint, and there is none")
    if wishes.new_head and not (wishes.pretrained or wishes.checkpoint):
        raise click.UsageError("--new-head is about weights: give --pretrained or --checkpoint")
    wishes.taking.refuse_without(wishes.checkpoint)
    if wishes.overwrite and wishes.output is None:
        raise click.UsageError("--overwrite needs the folder to write: -o DIR")


def _insert(network: Network, chosen: Selection, budget: Budget, wishes: Wishes) -> None:
    require_device(wishes.timing)
    file = read_selection(chosen)
    example = given_input(network)
    model = _load(network, wishes)
    with step("finding sites"):
        from attnsurgeon.sites.analysis import analyse

        found = analyse(model, network.input_size, example)
    made = plan_on(found, file, chosen)
    with step("operating"):
        from attnsurgeon.operate import carry_out
        from attnsurgeon.recording.twin import shared_twin

        before = shared_twin(model) if wishes.timing.asked else None
        operation = carry_out(model, made)
    with step("weighing"):
        cost = operation.cost
    measured = checked = None
    refusal = too_dear(cost, budget.counted)
    if refusal is None and before is not None:
        form = made.survey.traced.form
        measured = timed(before, operation.model, form, wishes.timing, budget)
        refusal = too_dear(cost, budget, measured)
    if refusal is None:
        checked = _verify(operation, wishes.verify)
        refusal = _wrong(checked)
    saved = None
    if refusal is None and wishes.output is not None:
        with step(f"saving to {wishes.output}"):
            saved = operation.save(
                wishes.output,
                overwrite=wishes.overwrite,
                mode=wishes.mode,
                verification=checked,
                measurement=measured,
            )
    from attnsurgeon.report.record import model_record, operation_record

    record = operation_record(
        made,
        cost,
        model=model_record(described(network, operation.model)),
        latency=measured,
        verification=checked,
        output=None if saved is None else wishes.output,
    )
    if saved is not None:
        from attnsurgeon.saved.restore import loading_of, read_folder

        record["load"] = loading_of(read_folder(saved), checkpoint=wishes.checkpoint).code
    if wishes.as_json:
        write_json(record)
    else:
        _show(record, saved)
    if refusal is not None:
        raise refusal
    if wishes.output is None:
        note("note: nothing was saved; -o DIR saves the operated network")


def _load(network: Network, wishes: Wishes) -> nn.Module:
    """Builds the network with its weights, and says every liberty that was taken with them."""
    if network.is_folder:
        return _load_folder(network, wishes)
    with step(f"loading {network.spec}"):
        from attnsurgeon.models import load_model

        if wishes.pretrained and "pretrained" in network.args:
            raise click.UsageError("--pretrained and --model-arg pretrained=... contradict")
        model = load_model(
            network.spec,
            checkpoint=wishes.checkpoint,
            unsafe_pickle=wishes.unsafe_pickle,
            new_head=wishes.new_head,
            **wishes.taking.arguments,
            **({"pretrained": True} if wishes.pretrained else {}),
            **network.args,
        )
    note_what_was_taken(model)
    return model


def _load_folder(network: Network, wishes: Wishes) -> nn.Module:
    """Loads a network that was operated before, to be operated again."""
    said = {
        "--pretrained": wishes.pretrained,
        "--unsafe-pickle": wishes.unsafe_pickle,
        "--new-head": wishes.new_head,
    }
    if option := next((name for name, given in said.items() if given), None):
        raise UsageError(
            f"{network.spec} is a saved folder, with its weights", f"leave {option} out"
        )
    given = wishes.checkpoint
    how = {} if given is None else {"checkpoint": given, **wishes.taking.arguments}
    with step(f"loading {network.spec}"):
        from attnsurgeon.saved.restore import load

        model = load(network.spec, trust=network.trust, **how)
    note_what_was_taken(model)
    return model


def _verify(operation: Operation, how: str) -> Verification | None:
    if how == "none":
        return None
    with step("verifying"), few_threads(operation.cost.after.macs):
        return operation.verify(full=how == "full")


def _wrong(checked: Verification | None) -> SurgeonError | None:
    """Returns what verification found, or None."""
    if checked is None or checked.ok:
        return None
    return CheckFailed(
        f"the operated network fails its verification: {'; '.join(checked.problems)}",
        "nothing was written; a network that is cut and does not verify is a bug to report",
    )


def _show(record: dict[str, Any], saved: Path | None) -> None:
    from attnsurgeon.report.operation import show_operation, show_saved

    console = out()
    show_operation(console, record)
    if saved is not None:
        from attnsurgeon.saved.trust import size_of

        show_saved(console, record, size_of(saved))
