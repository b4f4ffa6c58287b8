"""Two processes (gloo): data parallel and fully sharded, compared with one process."""

from __future__ import annotations

from benchmarks.portability.subject import Subject


def data_parallel(subject: Subject) -> str:
    """DistributedDataParallel, no unused parameters: gradients as of one process."""
    raise NotImplementedError(f"not measured for {subject.mechanism} yet")


def fully_sharded(subject: Subject) -> str:
    """fully_shard of every block and of the network: outputs and gradients as of one process."""
    raise NotImplementedError(f"not measured for {subject.mechanism} yet")
