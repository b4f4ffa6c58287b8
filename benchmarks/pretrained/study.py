"""All jobs of the study, and what one of them finds."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.pretrained import starts, training

SEEDS = range(5)


def jobs() -> list[str]:
    """The whole study: what shows most first, seed by seed."""
    parts = [training.first_jobs(0), starts.jobs(0), *map(training.first_jobs, SEEDS[1:])]
    for some in (training.second_jobs, training.last_jobs):
        parts += map(some, SEEDS)
    parts += map(starts.jobs, SEEDS[1:])
    return [name for part in parts for name in part]


def job(name: str) -> dict[str, Any]:
    """Does one of them; its name holds all its settings."""
    import torch

    torch.set_num_threads(1)
    start = time.process_time()
    kind, *settings, seed = name.split("|")
    measured = starts.measured if kind == "start" else training.measured
    found = measured(*settings, seed=int(seed))
    return {"job": name, "cpu": round(time.process_time() - start, 2), **found}
