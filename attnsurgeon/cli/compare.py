"""`attnsurgeon compare`: mechanisms at placements of networks, side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.checkpoints import Taking, taking, weights
from attnsurgeon.cli.measuring import Measuring, measuring
from attnsurgeon.cli.networks import read_input, require_device
from attnsurgeon.cli.options import FOLDER, Network, init_option, json_flag, narrowing, networks
from attnsurgeon.cli.values import Listed, PathName, complete_attn, complete_where
from attnsurgeon.errors import CheckFailed, SurgeonError, UsageError
from attnsurgeon.report.streams import note, out, step, write_json, write_text
from attnsurgeon.report.surfaces import hint_of

if TYPE_CHECKING:
    from attnsurgeon.grid.filling import Request
    from attnsurgeon.grid.journal import Journal
    from attnsurgeon.grid.table import Grid, Row
    from attnsurgeon.grid.table import Network as Weighed

_HTML = "--html FILE"
_LIMITS = ("params", "macs", "activations", "latency", "memory")


@dataclass(frozen=True)
class Wishes:
    """What is to be done with the rows.

    Attributes:
        limits: figure -> its text, None for no limit.
        sort: the key.
        save_all, mode, verify: where and how every variant is saved.
        weights: how its network is loaded.
        html, overwrite: the page to write.
        form: "json", "csv", "markdown", or "" for the table.
    """

    limits: dict[str, str | None]
    sort: str
    save_all: str | None
    mode: str | None
    verify: str | None
    weights: dict[str, Any]
    html: str | None
    overwrite: bool
    form: str


def _limits(function: Any) -> Any:
    """Limits that choose among the rows: the command gets each as `max_...`."""
    examples = {
        "params": "+2%, +0.5M, 30M",
        "macs": "+1%, +10M, 4.2G",
        "activations": "+5%, 20M",
        "latency": "+5%, +0.5ms, 20ms; measures",
        "memory": "+10%, 2GB of a training step; measures",
    }
    for name, example in reversed(examples.items()):
        option = click.option(f"--max-{name}", metavar="LIMIT", help=f"Only rows within {example}.")
        function = option(function)
    return function


@click.command()
@networks
@click.option(
    "--attn",
    "attns",
    type=Listed(),
    required=True,
    multiple=True,
    shell_complete=complete_attn,
    help="Mechanisms with commas between them, with arguments or wildcards: "
    "eca,'se(reduction=8)','*ca', or `all`; your own as FILE.py:CLASS. Repeatable.",
)
@click.option(
    "--where",
    type=Listed(),
    multiple=True,
    shell_complete=complete_where,
    help="Placements with commas between them, or rule files. Repeatable.  "
    "[default: each paper's own]",
)
@narrowing
@init_option
@click.option(
    "--max-networks",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many networks wildcards may stand for.",
)
@click.option(
    "--sort",
    metavar="KEY",
    default="",
    help="Order rows by params, macs, activations, latency, memory, sites, attn, where or model; "
    "-macs for the heaviest first.",
)
@_limits
@measuring
@click.option("--save-all", metavar="DIR", type=FOLDER, help="Save every variant there.")
@click.option(
    "--save",
    "mode",
    type=click.Choice(["full", "adapter"]),
    help="Of each all weights, or those of the attention only.  [default: full]",
)
@click.option(
    "--verify",
    type=click.Choice(["quick", "full", "none"]),
    help="How much to check of each that is saved.  [default: quick]",
)
@weights
@taking
@click.option("--html", type=PathName(), help="Also write one self-contained HTML page.")
@click.option("--overwrite", is_flag=True, help="Replace an existing HTML page.")
@json_flag
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table in Markdown.")
def command(
    asked: tuple[Network, ...],
    attns: tuple[tuple[str, ...], ...],
    where: tuple[tuple[str, ...], ...],
    narrow: dict[str, Any],
    init: str,
    max_networks: int,
    sort: str,
    timing: Measuring,
    save_all: str | None,
    mode: str | None,
    verify: str | None,
    pretrained: bool,
    checkpoint: str | None,
    unsafe_pickle: bool,
    new_head: bool,
    taking: Taking,
    html: str | None,
    overwrite: bool,
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
    **limits: str | None,
) -> None:
    """Weigh mechanisms at placements of MODELs, side by side; --save-all writes each variant.

    A MODEL is one as for `insert`, or a pattern of names of timm or torchvision: 'resnet*d'.
    Weights are loaded only for what is saved. What was interrupted goes on where it stopped,
    when the same command is given again.

    \b
    attnsurgeon compare resnet50 --attn eca,'se(reduction=8)',cbam --where bottleneck,stage
    attnsurgeon compare resnet18 resnet34 --attn all --max-params +1% --sort macs
    attnsurgeon compare resnet50 --attn '*ca' --pretrained --save-all variants
    """
    forms = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
    given = {
        "pretrained": pretrained,
        "checkpoint": checkpoint,
        "unsafe_pickle": unsafe_pickle,
        "new_head": new_head,
    }
    _refuse_contradictions(forms, given, taking, save_all, mode, verify, html, overwrite)
    loading = {name: value for name, value in given.items() if value}
    loading |= taking.arguments if checkpoint is not None else {}
    wishes = Wishes(
        {name: limits[f"max_{name}"] for name in _LIMITS},
        sort,
        save_all,
        mode,
        verify,
        loading,
        html,
        overwrite,
        next((form for form, wanted in forms.items() if wanted), ""),
    )
    named = [name for some in attns for name in some]
    places = [place for some in where for place in some]
    _compare(asked, named, places, narrow, init, max_networks, timing, wishes)


def _refuse_contradictions(
    forms: dict[str, bool],
    given: dict[str, Any],
    taking: Taking,
    save_all: str | None,
    mode: str | None,
    verify: str | None,
    html: str | None,
    overwrite: bool,
) -> None:
    wanted = [f"--{name}" for name, asked in forms.items() if asked]
    if len(wanted) > 1:
        raise click.UsageError(f"{' and '.join(wanted)} each say what is printed; give one")
    if overwrite and html is None:
        raise click.UsageError(f"--overwrite needs the page to write: {_HTML}")
    if given["pretrained"] and given["checkpoint"] is not None:
        raise click.UsageError("--pretrained and --checkpoint both name the weights; give one")
    if given["unsafe_pickle"] and given["checkpoint"] is None:
        raise click.UsageError("--unsafe-pickle is about a --checkpoint, and there is none")
    taking.refuse_without(given["checkpoint"])
    if given["new_head"] and not (given["pretrained"] or given["checkpoint"]):
        raise click.UsageError("--new-head is about weights: give --pretrained or --checkpoint")
    if save_all is None:
        about = {**given, "save": mode, "verify": verify}
        if said := next((name for name, value in about.items() if value), None):
            raise click.UsageError(f"--{said} is about what is saved: give --save-all DIR")


def _compare(
    asked: tuple[Network, ...],
    attns: list[str],
    where: list[str],
    narrow: dict[str, Any],
    init: str,
    max_networks: int,
    timing: Measuring,
    wishes: Wishes,
) -> None:
    if wishes.html is not None:
        from attnsurgeon.saved.file import check_file

        check_file(wishes.html, wishes.overwrite, option=_HTML)
    require_device(timing)
    with step("starting"):
        from attnsurgeon.grid.comparing import gather, request_of, subjects_of
        from attnsurgeon.grid.limits import check_key, refuse_nothing_left
        from attnsurgeon.rules.narrowing import Narrowing

        check_key(wishes.sort)
        first = asked[0]
        subjects = subjects_of(
            [network.spec for network in asked],
            max_networks,
            first.args,
            wishes.weights,
            input_size=first.input_size,
            example=read_input(first),
            trust=first.trust,
        )
        request = request_of(
            subjects,
            attns,
            where or None,
            init=init,
            narrow=Narrowing.of(**narrow),
            limits=wishes.limits,
            timing=_timing(timing),
            save_all=wishes.save_all,
            mode=wishes.mode or "full",
            verify=wishes.verify or "quick",
            trust=first.trust,
            hint=hint_of,
        )
    with _journal(request) as journal, _kept(request, journal) as show:
        grid = gather(request, journal, sort=wishes.sort, progress=show)
    if wishes.form != "":
        _print(grid, wishes.form)
    _refuse_where_nothing_goes_in(grid)
    if wishes.form == "" and grid.rows:
        from attnsurgeon.report.grid import show_grid

        show_grid(out(), grid)
    if wishes.html is not None:
        _write_page(grid, wishes)
    if wishes.save_all is not None:
        saved = sum(row.folder is not None for row in grid.rows)
        note(f"{wishes.save_all}: {saved} saved; README.md and index.json list them")
    refuse_nothing_left(
        grid.rows, grid.left_out, {one.name: one for one in grid.networks}, request.limits
    )
    if failed := [row.name for row in grid.rows if row.verified is False]:
        raise CheckFailed(
            f"not saved, because its verification fails: {', '.join(failed)}",
            "a network that is cut and does not verify is a bug to report",
        )


def _timing(timing: Measuring) -> Any:
    """Returns how rows are measured; None where nothing asks for it."""
    if not timing.asked:
        return None
    from attnsurgeon.grid.measuring import Timing

    given = {"batch": timing.batch, "device": timing.device, **timing.arguments}
    return Timing(**{name: value for name, value in given.items() if value is not None})


@contextlib.contextmanager
def _journal(request: Request) -> Iterator[Journal | None]:
    """Opens the journal of a request; one that saves nothing else is gone when it is finished."""
    from attnsurgeon.grid.comparing import journal_of
    from attnsurgeon.grid.journal import fingerprint, usual_place

    if request.saving is not None:
        with journal_of(request) as journal:
            yield journal
        return
    place = usual_place(fingerprint(request.record()))
    with contextlib.ExitStack() as stack:
        try:
            journal = stack.enter_context(journal_of(request, place))
        except UsageError:  # no such place here, or another process has the same request
            journal = None
        yield journal
        if journal is not None:
            with contextlib.suppress(OSError):
                os.remove(journal.path)


@contextlib.contextmanager
def _kept(request: Request, journal: Journal | None) -> Iterator[Any]:
    """Shows how far the work has come; says what was finished before, and what is kept."""
    from attnsurgeon.report.progress import bar

    if journal is not None and journal.damaged:
        lines = "1 line" if journal.damaged == 1 else f"{journal.damaged} lines"
        note(f"note: {lines} of {journal.path} cannot be read: those rows are made again")
    if journal is not None and journal.rows:
        note(f"note: going on from {len(journal.rows)} of {len(request)} rows")
    done = 0
    try:
        with bar(len(request)) as advance:

            def show(made: Weighed | Row, finished: int, of: int) -> None:
                nonlocal done
                done = finished
                advance(made.name, finished)

            yield show
    except KeyboardInterrupt:
        kept = "they are kept: the same command goes on from there"
        if journal is None:
            kept = "nothing is kept: no journal can be written here"
        note(f"interrupted after {done} of {len(request)} rows; {kept}")
        raise


def _print(grid: Grid, form: str) -> None:
    if form == "json":
        write_json(grid.to_json())
        return
    from attnsurgeon.grid.text import as_csv, as_markdown

    write_text(as_csv(grid) if form == "csv" else as_markdown(grid))


def _refuse_where_nothing_goes_in(grid: Grid) -> None:
    """Raises the reason of the first row where no row has a price."""
    if grid.done or grid.left_out or not grid.refusals:
        return
    first = grid.refusals[0]
    error = SurgeonError(str(first.error), first.hint, command=first.hint)
    error.exit_code = first.exit_code or error.exit_code
    raise error


def _write_page(grid: Grid, wishes: Wishes) -> None:
    from attnsurgeon.report.comparison import comparison_page
    from attnsurgeon.saved.file import write_file

    assert wishes.html is not None
    page = comparison_page(grid)
    write_file(wishes.html, page, overwrite=wishes.overwrite, option=_HTML)
    note(f"{wishes.html} written")
