"""Model + inputs -> Weight: parameters, MACs and activations of one forward, on the meta device.

The forward runs on a twin in eval mode: no weights, no gradients, no memory. Attention of which
parts do not run in evaluation (BA2M weighs the samples of a batch while training, and does nothing
afterwards) is counted as it runs in training: its price is what training pays.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from attnsurgeon.cost.scale import Scale, by_path, is_inserted
from attnsurgeon.cost.tree import Tree
from attnsurgeon.cost.weight import Weight
from attnsurgeon.errors import ModelError
from attnsurgeon.recording.caches import caches_as_they_were
from attnsurgeon.recording.inputs import Given, InputForm, Inputs
from attnsurgeon.recording.record import map_tensors, tensors_in
from attnsurgeon.recording.trace import as_taken
from attnsurgeon.recording.twin import meta_twin, shared_twin


def weigh(model: nn.Module, inputs: Given) -> Weight:
    """Counts what one forward of `model` in eval mode costs, without running it on numbers.

    A network that looks at values (a detector keeps the boxes that score) is run on random
    values instead, on its own device and around its own weights; `notes` says so.

    Args:
        model: the network, on any device; only twins of it are run.
        inputs: the positional inputs, on any device, or the form of any input; usually of batch
            size 1.

    Raises:
        ModelError: the network cannot be run on these inputs.
    """
    twin = meta_twin(model).eval()
    try:
        return weigh_twin(twin, InputForm.of_inputs(inputs).on_meta())
    except (Exception, SystemExit) as error:  # a stranger's forward; the real run decides
        why = _in_short(error)
    parameters = list(model.parameters())
    if any(p.is_meta for p in parameters):
        raise ModelError(
            f"the network cannot be weighed on the meta device: {why}",
            "give an input of the size it takes; if its work depends on values, real weights",
        )
    device = parameters[0].device if parameters else torch.device("cpu")
    drawn = InputForm.of_inputs(inputs).drawn(torch.Generator().manual_seed(0))
    values = map_tensors(drawn, lambda t: t.to(device))
    note = f"counted on random values, the work depends on them ({why})"
    try:
        return weigh_twin(shared_twin(model).eval(), values, notes=(note,))
    except (Exception, SystemExit) as error:  # a stranger's forward may raise anything
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(values))
        raise ModelError(
            f"the network cannot be run on an input of {shapes}: {_in_short(error)}",
            "give an input of the size it takes, channels first",
        ) from error


def weigh_twin(
    twin: nn.Module, inputs: Inputs | tuple[Any, ...], *, notes: tuple[str, ...] = ()
) -> Weight:
    """Counts one forward of a network the caller can spare, as it stands.

    Args:
        twin: a copy, best on meta and in eval mode; its forward may leave caches behind.
        inputs: on the same device; converted to the type of its weights.
        notes: to be carried by the result.
    """
    inputs = Inputs.of(inputs)
    evaluation = _run(twin, inputs)
    inserted = [(path, m) for path, m in twin.named_modules() if is_inserted(m)]
    idle = [path for path, module in inserted if evaluation.is_idle(path, module)]
    if idle:
        return _in_training(twin, evaluation, idle, inputs, notes)
    return _weight(twin, evaluation, notes)


def _in_training(
    twin: nn.Module, evaluation: Scale, idle: Sequence[str], inputs: Inputs, notes: tuple[str, ...]
) -> Weight:
    """Counts again with the idle modules in training, where that makes them do more."""
    copied = copy.deepcopy(twin)  # a norm writes its statistics, and a twin may share them
    for path in idle:
        copied.get_submodule(path).train()
    try:
        training = _run(copied, inputs)
    except (Exception, SystemExit) as error:  # a stranger's forward; what it costs stays open
        said = f"{_named(idle)} cannot be counted as in training: {_in_short(error)}"
        return _weight(twin, evaluation, (*notes, said))
    working = [path for path in idle if _macs(training, path) > _macs(evaluation, path)]
    if not working:
        return _weight(twin, evaluation, notes)
    batch = next((len(t) for t in tensors_in(inputs) if t.ndim), 1)
    said = f"{_named(working)}: more runs in training, so counted as it trains, at batch {batch}"
    return _weight(copied, training, (*notes, said))


def _macs(scale: Scale, path: str) -> int:
    return sum(call.macs for call in scale.calls_of(path))


def _weight(twin: nn.Module, scale: Scale, notes: tuple[str, ...]) -> Weight:
    paths = (path for path, module in twin.named_modules() if is_inserted(module))
    inserted = {path: scale.calls_of(path) for path in paths}
    return Tree.of(twin).weight(scale.by_path(), inserted, notes)


def _named(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _run(twin: nn.Module, inputs: Inputs) -> Scale:
    scale = Scale()
    with by_path(scale, twin):
        run_on(scale, twin, inputs)
    return scale


def run_on(
    scale: Scale, twin: nn.Module, inputs: Inputs, modules: Iterable[nn.Module] | None = None
) -> None:
    """Runs a network on a scale.

    Args:
        scale: what the operators are put on.
        twin: as for `weigh_twin`.
        inputs: on the same device; converted to the type of its weights.
        modules: those whose code will run, where not all of them do.
    """
    inputs = map_tensors(inputs, lambda t: as_taken(t, twin))
    device = next((t.device for t in tensors_in(inputs)), torch.device("cpu"))
    # Tensors that the forward makes without naming a device belong beside its inputs. The mode
    # behind this context also closes the fast path of nn.MultiheadAttention, one opaque operator.
    with caches_as_they_were(twin, modules), torch.inference_mode(), device, scale:
        inputs.feed(twin)


def _in_short(error: BaseException) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
