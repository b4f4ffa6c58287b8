"""Variants x settings -> trials on Ray Tune, which schedules, stops, keeps and goes on.

Everything here is Ray's own: this file says it what there is to do, and reads what came out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from attnsurgeon.errors import UsageError
from attnsurgeon.sweeping.functions import Train, by_value
from attnsurgeon.sweeping.healing import heal
from attnsurgeon.sweeping.schedulers import scheduler_of
from attnsurgeon.sweeping.trials import VARIANT, is_number, pack, run_variant

Progress = Callable[[str, int, int], object]  # the variant that ended, how many have, of how many
_MEMORY = 100_000_000  # bytes that trials share here; they hand on numbers alone
# No reports about the user to anyone; relative paths mean what they mean to the user; no tables.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Trial:
    """One variant under one set of settings, as it stands.

    Attributes:
        variant: name of its folder.
        config: the settings.
        done: it came to its end, or was stopped early.
        reports: how many there were.
        seconds: of training.
        value: the best value of the metric, None where none was reported.
        checkpoint: where the best of those that were reported is kept; a report that is better,
            and had none, has none.
        error: why it failed.
    """

    variant: str
    config: Mapping[str, Any]
    done: bool
    reports: int = 0
    seconds: float = 0.0
    value: float | None = None
    checkpoint: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """What a sweep has to do, and how.

    Attributes:
        folder: that holds the variants.
        variants: their names.
        train: the user's function.
        config: name -> setting, or one of Ray Tune's search spaces.
        metric, mode: which reported value counts, and whether "max" or "min" is best.
        storage: where Ray keeps trials and checkpoints: a folder, or an address it can write to.
        name: of the folder in it.
        samples: how many times each variant is tried where settings are drawn.
        scheduler: name with arguments, or one of Ray Tune's.
        stop: metric -> value at which a trial ends.
        cpus, gpus: of each trial.
        workers: how many run at a time; None for what there is room for.
        address: of a cluster; None for this machine.
        max_failures: how often a trial whose process died is taken up again.
    """

    folder: Path
    variants: tuple[str, ...]
    train: Train
    config: Mapping[str, Any]
    metric: str
    mode: str
    storage: str
    name: str
    samples: int = 1
    scheduler: Any = None
    stop: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1
    gpus: float = 0
    workers: int | None = None
    address: str | None = None
    max_failures: int = 1


def run_job(job: Job, progress: Progress | None = None) -> tuple[list[Trial], bool]:
    """Do a job, or what is left of it.

    Returns:
        The trials, and whether it was interrupted.

    Raises:
        UsageError: Ray is missing, cannot be reached or cannot write to the storage.
    """
    require_ray()
    with _environment(job), _connected(job), _travelling(job.train):
        from ray import tune  # pyright: ignore[reportMissingImports]

        from attnsurgeon.sweeping.watching import told

        packed = None if job.address is None else _packed(job)
        trainable = partial(
            run_variant, train=job.train, folder=str(job.folder), metric=job.metric, packed=packed
        )
        with told(job.name, progress):
            results = _tuner(tune, job, trainable).fit()
        analysis = results._experiment_analysis  # of unfinished ones Ray has no other list
        tables = analysis.trial_dataframes
        made = [_read(trial, job, tables[trial.trial_id]) for trial in analysis.trials]
    interrupted = any(not one.done and one.error is None for one in made)
    return made, interrupted


def require_ray() -> None:
    """Import Ray Tune.

    Raises:
        UsageError: it is not installed.
    """
    for name, value in _QUIET.items():  # some are read when Ray is imported
        os.environ.setdefault(name, value)
    try:
        import ray.tune  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "a sweep needs Ray Tune, which runs it", 'pip install "attnsurgeon[sweep]"'
        ) from error
    for name in ("ray.tune", "ray.train", "ray.air"):  # a failed trial is told in our words
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _tuner(tune: Any, job: Job, trainable: Any) -> Any:
    """The tuner of a job: what was begun in the storage goes on."""
    from attnsurgeon.sweeping.watching import Watch

    able = _named(tune.with_resources(trainable, _resources(job)))
    path = f"{job.storage.rstrip('/')}/{job.name}"
    if tune.Tuner.can_restore(path):
        heal(path)
        return tune.Tuner.restore(path, able, resume_unfinished=True, resume_errored=True)
    scheduler = job.scheduler
    return tune.Tuner(
        able,
        param_space={VARIANT: tune.grid_search(list(job.variants)), **job.config},
        tune_config=tune.TuneConfig(
            metric=job.metric,
            mode=job.mode,
            num_samples=job.samples,
            scheduler=scheduler_of(scheduler) if isinstance(scheduler, str) else scheduler,
            max_concurrent_trials=job.workers,
        ),
        run_config=tune.RunConfig(
            name=job.name,
            storage_path=job.storage,
            stop=dict(job.stop) or None,
            verbose=0,
            callbacks=[Watch(job.name, VARIANT, len(job.variants) * job.samples)],
            failure_config=tune.FailureConfig(max_failures=job.max_failures),
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute=job.metric,
                checkpoint_score_order=job.mode,
            ),
        ),
    )


def _resources(job: Job) -> dict[str, float]:
    return {"cpu": job.cpus, **({"gpu": job.gpus} if job.gpus else {})}


def _named(trainable: Any) -> Any:
    """The trainable under a name that is the same when it is taken up again."""
    trainable.__name__ = "variant"
    return trainable


def _read(trial: Any, job: Job, table: Any) -> Trial:
    settings = dict(trial.config)
    last = trial.last_result or {}
    kept = trial.run_metadata.checkpoint_manager.best_checkpoint_result
    reported = table[job.metric].tolist() if job.metric in table else []
    return Trial(
        settings.pop(VARIANT),
        {name: value for name, value in settings.items() if name in job.config},
        trial.status == "TERMINATED",
        int(last.get("training_iteration", 0)),
        float(last.get("time_total_s", 0.0)),
        _best(reported, job.mode),
        None if kept is None else str(kept.checkpoint.path),
        _why(trial) if trial.status == "ERROR" else None,
    )


def _best(reported: Sequence[Any], mode: str) -> Any:
    """The best of what was reported; of numbers that do not compare (NaN) the last.

    Ray's own best is that of what came after the last NaN.
    """
    known = [value for value in reported if is_number(value)]
    if known:
        return max(known) if mode == "max" else min(known)
    return reported[-1] if reported else None


def _why(trial: Any) -> str:
    """Why a trial failed, in one sentence; its whole traceback is in Ray's storage."""
    error = trial.get_pickled_error()
    cause = getattr(error, "cause", None) or error
    if what := getattr(cause, "what", None):
        return str(what)
    if type(error).__name__ in ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError"):
        return "its process died: it was killed, or crashed"
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1]}" if cause else "unknown"


def _packed(job: Job) -> dict[str, Any]:
    """Each variant's folder in Ray's store, for machines that cannot see it."""
    import ray  # pyright: ignore[reportMissingImports]

    return {name: ray.put(pack(job.folder / name)) for name in job.variants}


@contextlib.contextmanager
def _environment(job: Job) -> Iterator[None]:
    """What processes that start here inherit: where the user's modules are."""
    module = sys.modules.get(getattr(job.train, "__module__", None) or "")
    homes = [os.path.dirname(os.path.abspath(f)) for f in [getattr(module, "__file__", None)] if f]
    before = os.environ.get("PYTHONPATH")
    paths = [os.getcwd(), *homes, *(before.split(os.pathsep) if before else [])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _connected(job: Job) -> Iterator[None]:
    """Ray, started here or reached by its address; one that runs already is taken as it is."""
    import ray  # pyright: ignore[reportMissingImports]

    if ray.is_initialized():
        _refuse_too_much(job, ray.cluster_resources())
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    here = {"include_dashboard": False, "object_store_memory": _MEMORY}
    try:
        ray.init(address=job.address or "local", **quiet, **({} if job.address else here))
    except Exception as error:  # a node that does not come up raises no kind of its own
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if job.address is None:
            raise UsageError(
                f"Ray does not start here: {said}",
                "is there memory left on this machine, and time? its logs are in /tmp/ray",
            ) from error
        raise UsageError(
            f"Ray cannot be reached at {job.address}: {said}",
            "is the cluster up? address= is HOST:PORT, ray://HOST:PORT or auto",
        ) from error
    try:
        if job.address is None:  # a cluster may grow
            _refuse_too_much(job, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _refuse_too_much(job: Job, there: Mapping[str, float]) -> None:
    """Refuse trials that would wait for ever.

    Raises:
        UsageError: one wants more than there is.
    """
    for name, wanted in (("CPU", job.cpus), ("GPU", job.gpus)):
        if wanted > there.get(name, 0):
            raise UsageError(
                f"a trial wants {wanted:g} {name}s, and there are {there.get(name, 0):g} here",
                f"{name.lower()}s= says how many each trial gets",
            )


@contextlib.contextmanager
def _travelling(train: Train) -> Iterator[None]:
    """Lets the functions of a file travel to processes that cannot import it."""
    from ray import cloudpickle  # pyright: ignore[reportMissingImports]

    module = by_value(train)
    if module is None:
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
