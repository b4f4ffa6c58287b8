"""`attnsurgeon.sweep`: variants and the user's function -> Grid with what they learnt."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnsurgeon.errors import CheckFailed, UsageError, nearest
from attnsurgeon.grid.journal import Journal, fingerprint, opened
from attnsurgeon.grid.saving import JOURNAL, Saving, read_index
from attnsurgeon.grid.table import Grid, Row
from attnsurgeon.sweeping.engine import Job, Progress, Trial, require_ray, run_job
from attnsurgeon.sweeping.functions import Train, find_train, name_of
from attnsurgeon.sweeping.merging import merged
from attnsurgeon.sweeping.versions import ADDRESS, digest_of, note_version, refuse_edited

MODES = ("max", "min")


def sweep(
    variants: str | os.PathLike[str],
    train: str | Train,
    storage: str | os.PathLike[str],
    *,
    metric: str,
    mode: str,
    config: Mapping[str, Any] | None = None,
    samples: int = 1,
    scheduler: Any = None,
    stop: Mapping[str, Any] | None = None,
    cpus: float = 1,
    gpus: float = 0,
    workers: int | None = None,
    max_failures: int = 1,
    address: str | None = None,
    edited: bool = False,
    progress: Progress | None = None,
) -> Grid:
    """Train every variant of a comparison by a function of the user's, on Ray Tune.

    Called again with the same arguments it goes on: what has ended stays, what failed or was
    interrupted is taken up at its last checkpoint. Where the function was edited since trials
    ended, it refuses: they would be of another function than the rest. What came out is written
    into the folder of the variants, so that a later comparison there shows it as well.

    Args:
        variants: the folder that `compare(..., save_all=FOLDER)` wrote.
        train: `run(folder, report, **config)`, or its name: `my_train.py:run`. `folder` is what
            `load` takes; `report(metrics, checkpoint=None)` is called after each epoch, as
            `ray.tune.report` would be; `report.checkpoint` is the folder that was reported last
            before an interruption, or None.
        storage: where Ray keeps trials and checkpoints: a folder, or an address such as
            `s3://bucket/sweeps`; of a cluster, what all its machines can write to.
        metric, mode: which reported number counts, and whether "max" or "min" of it is best.
        config: name -> setting, or one of Ray Tune's search spaces: `tune.loguniform(1e-4, 1e-2)`.
        samples: how many times each variant is tried, where settings are drawn.
        scheduler: "asha(max_t=20)", "hyperband", "median" or one of Ray Tune's; default: every
            trial runs to its end.
        stop: name of a metric -> value at which a trial ends, `{"training_iteration": 10}`.
        cpus, gpus: of each trial.
        workers: how many trials run at a time; default: as many as there is room for.
        max_failures: how often a trial is taken up again after its process died or it raised,
            before it counts as failed.
        address: of a Ray cluster; default: this machine, or the Ray that runs in this process.
        edited: go on with a function that is not what it was when trials ended; these stay as
            they are. Looked at are the function and what it uses of its own file.
        progress: is called with the folder of each trial that ended, how many have, of how many.

    Returns:
        The grid of the folder, the best rows first; `row.trained` has what each came to.

    Raises:
        UsageError: the arguments contradict, the function was edited, Ray is missing or cannot
            be reached.
        CheckFailed: every trial failed; the message has the reason of the first.
        KeyboardInterrupt: the sweep was interrupted; what has ended is in the folder.
    """
    if samples < 1 or max_failures < 0 or cpus < 0 or gpus < 0 or (workers or 1) < 1:
        raise UsageError("samples and workers count from 1, max_failures, cpus and gpus from 0")
    if mode not in MODES:
        raise UsageError(f"mode={mode!r} is no end of a metric", nearest(str(mode), MODES))
    if not metric:
        raise UsageError("the metric has no name", "metric= names a number that `report` is given")
    config = dict(config or {})
    folder = Path(variants)
    grid = read_index(folder)
    rows = _saved(grid, folder)
    function = find_train(train, config)
    require_ray()
    place = os.fspath(storage)
    if ADDRESS not in place:
        place = str(Path(place).expanduser().resolve())
    job = Job(
        folder.resolve(), tuple(str(row.folder) for row in rows), function, config, metric, mode,
        place, "", samples, scheduler, dict(stop or {}), cpus, gpus, workers, address, max_failures,
    )  # fmt: skip
    job = named(job, name_of(train), [row.seal for row in rows])
    digest = digest_of(function)
    refuse_edited(job, digest, edited)
    note_version(job, digest)
    with _journal(folder) as journal:
        trials, interrupted = run_job(job, progress)
        note_version(job, digest, trials)
        grid = merged(grid, trials, metric, mode)
        for row in grid.rows:
            if journal is not None and row.trained is not None:
                journal.add(row)
        Saving(folder).finish(grid)
    if interrupted:
        raise KeyboardInterrupt
    _refuse_nothing_trained(trials)
    return grid


def named(job: Job, train: str, seals: list[str | None]) -> Job:
    """Return the job under the name by which the same one is known again.

    What decides the trials is in it, not how they are run: a sweep that is given again with more
    workers goes on.
    """
    settings = {name: _described(value) for name, value in sorted(job.config.items())}
    request = [
        list(job.variants), seals, train, settings, job.metric, job.mode, job.samples,
        _described(job.scheduler), dict(job.stop),
    ]  # fmt: skip
    return replace(job, name=f"{job.folder.name}-{fingerprint(request)[:8]}")


def _described(value: Any) -> Any:
    """A setting, a search space or a scheduler as text that is the same in another process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    kind = type(value).__qualname__
    if hasattr(value, "domain_str"):  # a search space of Ray's
        return [kind, str(value.domain_str), _described(getattr(value, "sampler", None))]
    inside = {n: v for n, v in getattr(value, "__dict__", {}).items() if not n.startswith("_")}
    return [kind, {n: v for n, v in inside.items() if isinstance(v, (bool, int, float, str))}]


def _saved(grid: Grid, folder: Path) -> list[Row]:
    """The rows that can be trained.

    Raises:
        UsageError: there are none, or a folder is gone or was changed.
    """
    rows = [row for row in grid.rows if row.folder is not None]
    if not rows:
        raise UsageError(f"no variant is saved in {folder}", "index.json there says why")
    changed = [row.folder for row in rows if not Saving(folder).is_whole(row)]
    if changed:
        raise UsageError(
            f"{folder / str(changed[0])} is gone, or is not what was saved",
            "give the same `attnsurgeon compare` again: it makes that variant anew",
        )
    # In one order, however the table is sorted: it is by what an earlier sweep found.
    return sorted(rows, key=lambda row: str(row.folder))


@contextlib.contextmanager
def _journal(folder: Path) -> Iterator[Journal | None]:
    """The journal of the comparison, to which what was learnt is added; None where it is gone."""
    path = folder / JOURNAL
    if not path.is_file():
        yield None
        return
    with opened(path, None) as journal:
        yield journal


def _refuse_nothing_trained(trials: list[Trial]) -> None:
    errors = [trial.error for trial in trials]
    if errors and all(error is not None for error in errors):
        of = "the only trial" if len(errors) == 1 else f"all {len(errors)} trials"
        raise CheckFailed(
            f"{of} failed, the first because {errors[0]}",
            "when that is mended, the same call tries them again",
            command="when that is mended, the same command tries them again",
        )
