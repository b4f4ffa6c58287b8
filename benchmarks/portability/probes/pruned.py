"""Structured pruning by Torch-Pruning."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from benchmarks.portability.subject import Subject

PATIENCE = 10.0  # seconds of the processor; most take less than one
ROOM = 3 << 30  # bytes beside what there is; most take some megabytes


def channels(subject: Subject) -> str:
    """Half of all channels pruned by Torch-Pruning; what is left runs and has gradients."""
    import torch_pruning  # pyright: ignore[reportMissingImports]

    network, x = subject.network(), subject.input()
    heads: list[nn.Module] = [
        m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 10
    ]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    before = sum(p.numel() for p in network.parameters())
    with _patience():
        pruner = torch_pruning.pruner.MetaPruner(
            network,
            x,
            importance=importance,
            pruning_ratio=0.5,
            ignored_layers=heads,
            # Its defaults are kept from one pruner to the next, and with them every network.
            in_channel_groups={},
            out_channel_groups={},
        )
        pruner.step()
    after = sum(p.numel() for p in network.parameters())
    y = network(x)
    y.sum().backward()
    if y.shape != (2, 10) or not torch.isfinite(y).all():
        return f"the pruned network gives {tuple(y.shape)}"
    return "" if after < 0.7 * before else f"{after / before:.0%} of the parameters are left"


@contextmanager
def _patience() -> Iterator[None]:
    """Ends what goes on for ever: indices that grow at every step through a graph, to gigabytes."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("Torch-Pruning comes to no end")

    before, room = signal.signal(signal.SIGVTALRM, stop), resource.getrlimit(resource.RLIMIT_DATA)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + ROOM, room[1]))
    try:
        yield
    except MemoryError as error:
        raise TimeoutError("Torch-Pruning comes to no end") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, room)


def _data() -> int:
    """Bytes of private memory that the process has asked for, as the limit counts them."""
    pages = Path("/proc/self/statm").read_text().split()[5]
    return int(pages) * resource.getpagesize()
