"""What runs in a worker: one variant, the user's function, and what it reports.

Imported on other machines as well, so little is imported here, and Ray only where it runs.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnsurgeon.errors import SurgeonError, UsageError, nearest

VARIANT = "variant"  # the key of a trial's settings that names its folder


class TrainFailed(SurgeonError):
    """The user's function raised; the message says what and where, the cause is the error."""


class Report:
    """What the user's function calls after each epoch, as it would call `ray.tune.report`.

    Attributes:
        checkpoint: the folder that was reported last before the trial was interrupted, by a
            killed process or a machine that is gone; None where it starts anew.
    """

    def __init__(self, metric: str, checkpoint: Path | None, send: Callable[..., None]) -> None:
        self.checkpoint = checkpoint
        self._metric = metric
        self._send = send
        self.count = 0

    def __call__(
        self, metrics: Mapping[str, Any], checkpoint: str | os.PathLike[str] | None = None
    ) -> None:
        """Hand on what was measured.

        Args:
            metrics: name -> number, that of the sweep among them; tensors of one value will do.
            checkpoint: a folder to go on from, which is copied to the storage.

        Raises:
            UsageError: the metric of the sweep is not among them, or is no number.
        """
        if not isinstance(metrics, Mapping):
            raise UsageError(
                f"report was given a {type(metrics).__name__}, not metrics by their names",
                f"report({{{self._metric!r}: value}})",
            )
        if self._metric not in metrics:
            said = ", ".join(map(str, metrics)) or "nothing"
            raise UsageError(
                f"no {self._metric!r} was reported, which the sweep goes by; reported: {said}",
                nearest(self._metric, map(str, metrics)) if metrics else None,
            )
        values = {str(name): _plain(value) for name, value in metrics.items()}
        if not isinstance(values[self._metric], (int, float)):
            raise UsageError(f"{self._metric!r} is {values[self._metric]!r}, which is no number")
        self.count += 1
        self._send(values, None if checkpoint is None else Path(checkpoint))


def run_variant(
    config: Mapping[str, Any],
    *,
    train: Callable[..., Any],
    folder: str,
    metric: str,
    packed: Mapping[str, Any] | None = None,
) -> None:
    """Train one variant; this is the function that Ray Tune runs.

    Args:
        config: the settings, and the name of the variant.
        train: the user's function.
        folder: that holds the variants.
        metric: that has to be reported.
        packed: name of a variant -> its folder packed, for a machine that cannot see the folder.

    Raises:
        TrainFailed: the function raised, or reported nothing.
    """
    settings = dict(config)
    name = settings.pop(VARIANT)
    with _folder(Path(folder) / name, name, packed) as path, _last_checkpoint() as last:
        report = Report(metric, last, _send)
        try:
            returned = train(str(path), report, **settings)
            if isinstance(returned, Mapping):
                report(returned)
            if not report.count:
                raise UsageError(f"it returned without a report of {metric!r}")
        except Exception as error:
            raise TrainFailed(f"{_said(error)}{_place(error)}") from error


def pack(folder: Path) -> bytes:
    """Pack a variant's folder, for machines that cannot see it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, arcname=".")
    return stream.getvalue()


@contextlib.contextmanager
def _folder(path: Path, name: str, packed: Mapping[str, Any] | None) -> Iterator[Path]:
    if path.is_dir() or packed is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as made:
        with tarfile.open(fileobj=io.BytesIO(_fetched(packed[name]))) as archive:
            archive.extractall(made, filter="data")
        yield Path(made)


def _fetched(reference: Any) -> bytes:
    import ray  # pyright: ignore[reportMissingImports]

    return ray.get(reference)


@contextlib.contextmanager
def _last_checkpoint() -> Iterator[Path | None]:
    from ray import tune  # pyright: ignore[reportMissingImports]

    found = tune.get_checkpoint()
    if found is None:
        yield None
        return
    with found.as_directory() as folder:
        yield Path(folder)


def _send(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    from ray import tune  # pyright: ignore[reportMissingImports]

    kept = None if checkpoint is None else tune.Checkpoint.from_directory(str(checkpoint))
    tune.report(metrics, checkpoint=kept)


def _plain(value: Any) -> Any:
    """A number out of a tensor or an array of one value; anything else as it is."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", 1) != 0:
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return item()
    return value


def is_number(value: Any) -> bool:
    """Whether a reported value can be compared."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _said(error: BaseException) -> str:
    what = error.what if isinstance(error, SurgeonError) else str(error)
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    hint = f" ({error.hint})" if isinstance(error, SurgeonError) and error.hint else ""
    return f"{kind}{what}{hint}"


def _place(error: BaseException) -> str:
    """Where the user's function was when it failed."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    theirs = [place for place in places if place[0] != __file__]
    return f", {theirs[0][0]} line {theirs[0][1]}" if theirs else ""
