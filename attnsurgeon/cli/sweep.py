"""`attnsurgeon sweep`: train every variant of a comparison, on Ray Tune."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from attnsurgeon.cli.options import FOLDER, json_flag
from attnsurgeon.cli.values import Pair, PathName
from attnsurgeon.errors import CheckFailed
from attnsurgeon.report.streams import note, out, step, write_json

if TYPE_CHECKING:
    from attnsurgeon.grid.table import Grid

_HTML = "--html FILE"


@click.command()
@click.argument("grid", metavar="FOLDER", type=FOLDER)
@click.option(
    "--train",
    metavar="FILE.py:NAME",
    required=True,
    help="The function that trains one variant: NAME(folder, report, **config).",
)
@click.option(
    "--storage",
    metavar="DIR",
    required=True,
    help="Where trials and checkpoints are kept: a folder, or s3://... and the like; of a cluster "
    "one that all its machines see.",
)
@click.option("--metric", required=True, metavar="NAME", help="The reported number that counts.")
@click.option(
    "--mode", required=True, type=click.Choice(["max", "min"]), help="Which end of it is best."
)
@click.option(
    "--config",
    "settings",
    type=Pair(),
    multiple=True,
    help="A setting of the function; of a list each is tried: lr=[0.1,0.01]. Repeatable.",
)
@click.option(
    "--scheduler",
    metavar="NAME",
    help="Stop what is behind: 'asha(max_t=20,grace_period=2)', hyperband, median.  "
    "[default: each trial runs to its end]",
)
@click.option(
    "--stop",
    "stops",
    type=Pair(),
    multiple=True,
    help="End a trial at a value: accuracy=0.9, training_iteration=10. Repeatable.",
)
@click.option(
    "--cpus", type=click.FloatRange(min=0), default=1, help="CPUs of a trial.  [default: 1]"
)
@click.option("--gpus", type=click.FloatRange(min=0), default=0, help="GPUs of a trial, 0.5 too.")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Trials at a time.  [default: what has room]"
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="How often a trial that died is taken up again.",
)
@click.option(
    "--address", metavar="HOST:PORT", help="A Ray cluster, or `auto`.  [default: this machine]"
)
@click.option(
    "--edited", is_flag=True, help="Go on though the function was edited since trials ended."
)
@click.option("--html", type=PathName(), help="Also write one self-contained HTML page.")
@click.option("--overwrite", is_flag=True, help="Replace an existing HTML page.")
@json_flag
def command(
    grid: str,
    train: str,
    storage: str,
    metric: str,
    mode: str,
    settings: tuple[tuple[str, Any], ...],
    scheduler: str | None,
    stops: tuple[tuple[str, Any], ...],
    cpus: float,
    gpus: float,
    workers: int | None,
    max_failures: int,
    address: str | None,
    edited: bool,
    html: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train every variant in FOLDER, which `compare --save-all FOLDER` wrote, on Ray Tune.

    The function is called with the folder of a variant, which `attnsurgeon.load` takes, and with
    `report`: report({"accuracy": 0.9}, checkpoint=None) after each epoch. What was interrupted or
    failed goes on from its last checkpoint when the same command is given again. What came out
    stands in FOLDER as well: index.json, README.md, and a later `compare` there.

    \b
    attnsurgeon sweep variants --train my_train.py:run --storage runs --metric accuracy --mode max
    attnsurgeon sweep variants --train my_train.py:run --storage runs --metric loss --mode min \\
        --config lr=[0.1,0.01] --scheduler 'asha(max_t=20)' --gpus 1 --html sweep.html
    attnsurgeon sweep variants --train my_train.py:run --storage /shared/runs --metric accuracy \\
        --mode max --address auto
    """
    if overwrite and html is None:
        raise click.UsageError(f"--overwrite needs the page to write: {_HTML}")
    if html is not None:
        from attnsurgeon.saved.file import check_file

        check_file(html, overwrite, option=_HTML)
    config = {name: _each(value) for name, value in _once(settings, "--config").items()}
    stop = _once(stops, "--stop")
    with step("starting"):
        from attnsurgeon.report.grid import show_grid
        from attnsurgeon.report.progress import telling
        from attnsurgeon.sweeping.sweeps import sweep
    try:
        # What Ray says of a dead process it prints, and stdout is for the table.
        with contextlib.redirect_stdout(sys.stderr), telling("training variants") as tell:
            made = sweep(
                grid,
                train,
                storage,
                metric=metric,
                mode=mode,
                config=config,
                scheduler=scheduler,
                stop=stop,
                cpus=cpus,
                gpus=gpus,
                workers=workers,
                max_failures=max_failures,
                address=address,
                edited=edited,
                progress=tell,
            )
    except KeyboardInterrupt:
        note("interrupted; what has ended is kept: the same command goes on from there")
        raise
    if as_json:
        write_json(made.to_json())
    else:
        show_grid(out(), made)
    if html is not None:
        from attnsurgeon.report.comparison import comparison_page
        from attnsurgeon.saved.file import write_file

        write_file(html, comparison_page(made), overwrite=overwrite, option=_HTML)
        note(f"{html} written")
    note(f"{grid}: README.md and index.json have what came out; trials are in {storage}")
    _refuse_failures(made)


def _once(pairs: tuple[tuple[str, Any], ...], option: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"{option} {twice[0]} is given twice; a list is [a,b]")
    return dict(pairs)


def _each(value: Any) -> Any:
    """A list as Ray Tune has one of which each is tried."""
    return {"grid_search": value} if isinstance(value, list) else value


def _refuse_failures(made: Grid) -> None:
    found = [row.trained for row in made.rows if row.trained is not None]
    failed = sum(one["failed"] for one in found)
    if failed:
        raise CheckFailed(
            f"{failed} of {sum(one['trials'] for one in found)} trials failed",
            "when that is mended, the same command tries them again",
        )
