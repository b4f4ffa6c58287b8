"""Two processes (gloo): data parallel and fully sharded, compared with one process.

The two are started once, at the first probe, and are given one subject after the other.
"""

from __future__ import annotations

import atexit
import functools
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.forwards.retype import original_class
from benchmarks.portability.comparing import apart
from benchmarks.portability.network import Block
from benchmarks.portability.subject import Subject

WORLD = 2
_PATIENCE = timedelta(seconds=600)
_RATE = 1e-2  # moves the outputs by a tenth or more, hundreds of times what is tolerated


def data_parallel(subject: Subject) -> str:
    """DistributedDataParallel, `find_unused_parameters=False`: learns what one process does."""
    return _asked("data-parallel", subject)


def fully_sharded(subject: Subject) -> str:
    """`attnsurgeon.shard`, which is `fully_shard`, block by block: learns what one process does."""
    return _asked("fully-sharded", subject)


def _asked(how: str, subject: Subject) -> str:
    ends = _processes()
    for end in ends:
        end.send((how, subject))
    return next(filter(None, [end.recv() for end in ends]), "")


@functools.cache
def _processes() -> tuple[Connection, ...]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    ends = []
    for rank in range(WORLD):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(rank, port, there), daemon=True)
        process.start()
        ends.append(here)
    atexit.register(lambda: [end.send(None) for end in ends])
    return tuple(ends)


def _serve(rank: int, port: int, asked: Connection) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, timeout=_PATIENCE)
    while (job := asked.recv()) is not None:
        how, subject = job
        try:
            asked.send(_WAYS[how](subject, rank))
        except Exception as error:
            asked.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}")
    dist.destroy_process_group()


def _steps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Two steps of plain descent in eval mode, where a batch has no statistics of its own."""
    losses = []
    for _ in range(2):
        y = network(x)
        if y.dim() > 2:  # of every position
            y = y.flatten(2).mean(2)
        loss = nn.functional.cross_entropy(y, x.mean((1, 2, 3)).gt(0).long())
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(_RATE * parameter.grad)
                    parameter.grad = None
        losses.append(loss.detach())
    return losses


def _alone(subject: Subject, x: Tensor) -> Tensor:
    """What one process computes of the whole batch after two steps."""
    network = subject.network()
    _steps(network, x)
    with torch.no_grad():
        return network(x)


def _of_both(network: Callable[..., Any], part: Tensor) -> Tensor:
    with torch.no_grad():
        y = network(part).contiguous()
    parts = [torch.empty_like(y) for _ in range(WORLD)]
    dist.all_gather(parts, y)
    return torch.cat(parts)


def _in_parallel(subject: Subject, rank: int) -> str:
    x = subject.input(2 * WORLD)
    part = x[2 * rank : 2 * rank + 2]
    network = nn.parallel.DistributedDataParallel(subject.network())
    _steps(network, part)
    return apart(_of_both(network, part), _alone(subject, x), 1e-3)


def _in_shards(subject: Subject, rank: int) -> str:
    from torch.distributed.device_mesh import init_device_mesh

    x = subject.input(2 * WORLD)
    part = x[2 * rank : 2 * rank + 2]
    network: Any = subject.network()
    mesh = init_device_mesh("cpu", (WORLD,))
    parts = [module for module in network.modules() if original_class(module) is Block]
    attnsurgeon.shard(network, parts, mesh=mesh)
    _steps(network, part)
    return apart(_of_both(network, part), _alone(subject, x), 1e-3)


_WAYS = {"data-parallel": _in_parallel, "fully-sharded": _in_shards}
