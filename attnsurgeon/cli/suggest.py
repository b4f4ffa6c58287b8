"""`attnsurgeon suggest`: which mechanism at which sites, within limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.checkpoints import Taking, taking, weights
from attnsurgeon.cli.measuring import Measuring, measuring
from attnsurgeon.cli.networks import (
    described,
    device_named,
    given_input,
    load,
    note_what_was_taken,
    read_input,
    require_device,
    sketch,
)
from attnsurgeon.cli.options import Network, init_option, json_flag, narrowing, network
from attnsurgeon.cli.values import Listed, PathName, complete_attn, complete_where
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.progress import telling
from attnsurgeon.report.streams import out, step, write_json

if TYPE_CHECKING:
    from torch import nn

    from attnsurgeon.searching.candidates import Candidate
    from attnsurgeon.searching.latencies import Clock
    from attnsurgeon.searching.suggesting import Tell, Wish
    from attnsurgeon.searching.suggestion import Suggestion
    from attnsurgeon.searching.trial import Trial
    from attnsurgeon.sites.survey import Survey

_TRIED = ("steps", "seeds", "rate", "journal", "images")


class StageWeights(click.ParamType):
    """`3=2,4=4`: stages and how much they count."""

    name = "stage=weight"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, float], ...]:
        """Returns pairs of a stage and its weight."""
        if isinstance(value, tuple):
            return value
        pairs = []
        for part in value.split(","):
            stage, equals, weight = (word.strip() for word in part.partition("="))
            try:
                if not equals:
                    raise ValueError
                pairs.append((int(stage), float(weight)))
            except ValueError:
                self.fail(f"{part!r} is not stage=weight, such as 4=2", param, ctx)
        return tuple(pairs)


@dataclasses.dataclass(frozen=True)
class Loading:
    """Which weights the network gets, as `insert` has it."""

    pretrained: bool
    checkpoint: str | None
    unsafe_pickle: bool
    new_head: bool
    taking: Taking

    @property
    def said(self) -> str | None:
        """The option that was given, or None."""
        options = {
            "--pretrained": self.pretrained,
            "--checkpoint": self.checkpoint,
            "--unsafe-pickle": self.unsafe_pickle,
            "--new-head": self.new_head,
        }
        return next((option for option, given in options.items() if given), None)


@dataclasses.dataclass(frozen=True)
class Training:
    """How candidates are trained; None for the usual."""

    data: str | None
    steps: int | None
    seeds: int | None
    rate: float | None
    journal: str | None
    images: int | None

    @property
    def arguments(self) -> dict[str, Any]:
        """For `run_trial`, those that were given."""
        named = {"steps": self.steps, "seeds": self.seeds, "rate": self.rate}
        return {name: value for name, value in named.items() if value is not None}


@click.command()
@network
@click.option(
    "--attn",
    "names",
    type=Listed(),
    multiple=True,
    shell_complete=complete_attn,
    help="Mechanisms with commas between them, those first that you would rather have, with "
    "arguments or wildcards: 'se(reduction=8)',eca; your own as FILE.py:CLASS. Repeatable.  "
    "[default: cbam,se,eca]",
)
@click.option(
    "--where",
    type=Listed(),
    multiple=True,
    shell_complete=complete_where,
    help="Placements or rule files with commas between them. Repeatable.  "
    "[default: each paper's own]",
)
@narrowing
@click.option("--max-params", metavar="LIMIT", help="At most so many: +1%, +0.5M, 30M.")
@click.option("--max-macs", metavar="LIMIT", help="At most so many: +1%, +10M, 4.2G.")
@click.option("--max-activations", metavar="LIMIT", help="At most so many: +5%, +1M, 12M.")
@click.option("--max-latency", metavar="LIMIT", help="At most so long: +5%, +0.5ms, 20ms.")
@click.option(
    "--weights",
    "stages",
    type=StageWeights(),
    multiple=True,
    help="How much stages count, 1 where nothing is said: 3=2,4=4. Repeatable.",
)
@init_option
@weights
@taking
@click.option(
    "--data",
    metavar="FOLDER",
    type=PathName(),
    help="Images in a folder for each class: train each candidate on them for a few steps, and "
    "choose by what it gains on those held out.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Of that training.  [default: 20]")
@click.option("--seeds", type=click.IntRange(min=1), help="Of that training.  [default: 3]")
@click.option("--rate", type=float, help="Learning rate of that training.  [default: 0.001]")
@click.option("--images", type=click.IntRange(min=2), help="To read at most.  [default: 512]")
@click.option(
    "--journal",
    metavar="FILE",
    type=PathName(),
    help="File that keeps what has been trained; the same call goes on from it.",
)
@measuring
@click.option("-o", "--output", metavar="FILE", type=PathName(), help="Rule file to write.")
@click.option("--plot", metavar="FILE", type=PathName(), help="Picture of the front: .svg, .png.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@json_flag
def command(
    asked: Network,
    names: tuple[tuple[str, ...], ...],
    where: tuple[tuple[str, ...], ...],
    narrow: dict[str, Any],
    max_params: str | None,
    max_macs: str | None,
    max_activations: str | None,
    max_latency: str | None,
    stages: tuple[tuple[tuple[int, float], ...], ...],
    init: str,
    pretrained: bool,
    checkpoint: str | None,
    unsafe_pickle: bool,
    new_head: bool,
    taking: Taking,
    data: str | None,
    steps: int | None,
    seeds: int | None,
    rate: float | None,
    images: int | None,
    journal: str | None,
    timing: Measuring,
    output: str | None,
    plot: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find which mechanism to put where in MODEL, within limits.

    Among all that keeps the limits it is what gates most of the network's features; with --data
    what gains most. Nothing is inserted: `insert --rules` takes the file that is written.

    \b
    attnsurgeon suggest resnet50 --max-params +1% --max-latency +5% -o rules.yaml
    attnsurgeon insert resnet50 --rules rules.yaml -o r50-suggested
    """
    loading = Loading(pretrained, checkpoint, unsafe_pickle, new_head, taking)
    training = Training(data, steps, seeds, rate, journal, images)
    limits = {
        "max_params": max_params,
        "max_macs": max_macs,
        "max_activations": max_activations,
        "max_latency": max_latency,
    }
    _refuse_contradictions(loading, training, asked)
    weigh = _stage_weights(stages)
    require_device(timing)
    with step("starting"):
        from attnsurgeon.rules.narrowing import Narrowing
        from attnsurgeon.saved.file import check_file
        from attnsurgeon.searching.drawing import check_picture
        from attnsurgeon.searching.suggesting import DEFAULT, wish_of

        if output is not None:
            check_file(output, overwrite)
        if plot is not None:
            check_picture(plot, overwrite)
        attn = list(dict.fromkeys(name for some in names for name in some)) or DEFAULT
        places = list(dict.fromkeys(place for some in where for place in some)) or None
        wish = wish_of(
            attn,
            places,
            limits=limits,
            init=init,
            narrow=Narrowing.of(**narrow),
            weights=weigh,
            trust=asked.trust,
        )
    model, made = _searched(asked, wish, loading, training, timing)
    if output is not None:
        made.save(output, overwrite=overwrite)
    if plot is not None:
        made.plot(plot, overwrite=overwrite)
    _show(made, described(asked, model), output, plot, as_json)


def _show(
    made: Suggestion, source: Any, output: str | None, plot: str | None, as_json: bool
) -> None:
    from attnsurgeon.report.record import model_record
    from attnsurgeon.report.suggesting import show_suggestion, suggestion_record, undecided

    record = suggestion_record(made, model=model_record(source), output=output, plot=plot)
    if as_json:
        write_json(record)
    else:
        show_suggestion(out(), record)
    if made.verdict not in ("", "kept"):
        raise CheckFailed(undecided(record), "measure where less else runs, or a higher limit")


def _refuse_contradictions(loading: Loading, training: Training, network: Network) -> None:
    said = next((name for name in _TRIED if getattr(training, name) is not None), None)
    if said is not None and training.data is None:
        raise click.UsageError(f"--{said} is about --data, which is not given")
    if loading.said is not None and training.data is None:
        raise click.UsageError(f"{loading.said} is about weights, which only --data needs")
    if loading.pretrained and loading.checkpoint is not None:
        raise click.UsageError("--pretrained and --checkpoint both name the weights; give one")
    if loading.unsafe_pickle and loading.checkpoint is None:
        raise click.UsageError("--unsafe-pickle is about a --checkpoint, and there is none")
    loading.taking.refuse_without(loading.checkpoint)
    if training.data is not None and loading.said is None and not network.is_folder:
        raise click.UsageError(
            "--data trains attention for weights that are there: add --pretrained or "
            "--checkpoint FILE"
        )


def _stage_weights(stages: tuple[tuple[tuple[int, float], ...], ...]) -> dict[int, float] | None:
    pairs = [pair for some in stages for pair in some]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise click.UsageError("--weights names a stage twice")
    return found or None


def _searched(
    network: Network, wish: Wish, loading: Loading, training: Training, timing: Measuring
) -> tuple[nn.Module, Suggestion]:
    """Looks at the network, with weights where it has to run, and searches."""
    if timing.asked or training.data is not None:
        model = _loaded(network, loading) if training.data is not None else load(network)
        with step("finding sites"):
            from attnsurgeon.sites.analysis import analyse

            found = analyse(model, network.input_size, given_input(network))
    else:
        model, found = sketch(network)
    from attnsurgeon.searching.suggesting import search

    with telling(f"searching {network.spec}") as tell:
        made = search(
            found,
            wish,
            clock=_clock(model, found, timing) if timing.asked else None,
            trying=_trying(model, found, training, tell) if training.data is not None else None,
            tell=tell,
        )
    return model, made


def _clock(model: nn.Module, found: Survey, timing: Measuring) -> Clock:
    from attnsurgeon.searching.latencies import Clock

    device = None if timing.device is None else device_named(timing.device)
    options = {name: value for name, value in timing.arguments.items() if name != "times"}
    return Clock(model, found, device=device, batch=timing.batch or 1, **options)


def _trying(
    model: nn.Module, found: Survey, training: Training, tell: Tell
) -> Callable[[Sequence[Candidate]], Trial]:
    from attnsurgeon.searching.images import lessons_of
    from attnsurgeon.searching.trial import run_trial

    assert training.data is not None
    images = {} if training.images is None else {"most": training.images}
    lessons = lessons_of(training.data, model, found, **images)

    def trying(candidates: Sequence[Candidate]) -> Trial:
        return run_trial(
            model, candidates, lessons, journal=training.journal, tell=tell, **training.arguments
        )

    return trying


def _loaded(network: Network, loading: Loading) -> nn.Module:
    """Builds the network with its weights, and says every liberty that was taken with them."""
    with step(f"loading {network.spec}"):
        from attnsurgeon.grid.subjects import Subject

        weights = {
            "checkpoint": loading.checkpoint,
            "unsafe_pickle": loading.unsafe_pickle,
            "new_head": loading.new_head,
            **loading.taking.arguments,
            **({"pretrained": True} if loading.pretrained else {}),
        }
        model = Subject(
            network.spec,
            network.spec,
            network.args,
            weights,
            network.input_size,
            read_input(network),
            network.trust,
        ).load()
    note_what_was_taken(model)
    return model
