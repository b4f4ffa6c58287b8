"""Operated network -> does the new attention act, does it learn, do copies of it agree?"""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.planning.plan import Cut, Plan
from attnsurgeon.recording.inputs import Inputs
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.splicing.history import inserted

_ATTEMPTS = 8


def still_modules(operated: nn.Module, plan: Plan, inputs: Inputs) -> tuple[str, ...]:
    """Inserted modules that change nothing even after their parameters are randomised.

    A gate whose one hidden ReLU is off for these images would look so: several draws are made.
    Attention that weighs the samples of a batch acts in training only: what is still in evaluation
    is then put into training mode, alone.
    """
    active = full_twin(operated)
    generator = torch.Generator().manual_seed(2)
    cuts = {cut.module_path: cut for cut in plan.cuts}
    still = dict.fromkeys(cuts)
    moved: set[str] = set()
    handles = []

    def watch(path: str) -> Any:
        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            if _changes(_before(cuts[path], args), output):
                moved.add(path)

        return look

    for path in cuts:
        handles.append(active.get_submodule(path).register_forward_hook(watch(path)))
    start = {path: _values(active.get_submodule(path)) for path in cuts}
    for attempt in range(2 * _ATTEMPTS):
        for path in still:
            if attempt >= _ATTEMPTS:
                active.get_submodule(path).train()
            _shake(start[path], generator, 0.3)
        with torch.no_grad():
            settled(lambda: inputs.feed(active))
        still = dict.fromkeys(path for path in still if path not in moved)
        if not still:
            break
    for handle in handles:
        handle.remove()
    return tuple(still)


def _before(cut: Cut, args: tuple[Any, ...]) -> Tensor:
    """What the network goes on with where the attention changes nothing."""
    if cut.action == "fuse":
        return args[0] + args[1]
    return args[-1] if cut.keeps_old else args[0]


def _changes(before: Tensor, output: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether an output is another one; of several, the first is what there was, to be added to."""
    if isinstance(output, Tensor):
        return not torch.equal(before, output)
    return not torch.equal(before, output[0]) or any(bool(t.any()) for t in output[1:])


def stuck_parameters(
    operated: nn.Module, plan: Plan, inputs: Inputs, notes: list[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """New parameters that two optimiser steps do not move, on a copy in training mode.

    Returns (those without an excuse, those whose card says why); None where it cannot be tried.
    A gate whose ReLU is off for these two images would look stuck, so what did not move is tried
    again from shaken starts. What a chain of one site never gets handed, it cannot learn from.
    """
    learner = full_twin(operated).requires_grad_(True)
    learner.train()
    links = Counter(cut.chain for cut in plan.cuts)
    alone = tuple(c.module_path for c in plan.cuts if c.chain and links[c.chain] == 1)
    cards = {cut.module_path: cut.card for cut in plan.cuts}
    excuses = {path: (*card.unmoved, *card.inert) for path, card in cards.items()}
    new = {
        f"{path}.{name}": parameter
        for path in excuses
        for name, parameter in learner.get_submodule(path).named_parameters()
    }
    generator = torch.Generator().manual_seed(3)
    still = set(new)
    begun = {p: p.detach().clone() for p in new.values()}
    for attempt in range(_ATTEMPTS):
        if attempt:
            _shake(begun, generator)
        start = {name: new[name].detach().clone() for name in still}
        parameters = list(dict.fromkeys(new.values()))  # some are tied
        if not _learned(learner, parameters, inputs, generator, notes):
            return None, ()
        still = {name for name in still if torch.equal(new[name].detach(), start[name])}
        if not still:
            break
    theirs = tuple(f"{path}." for path, card in cards.items() if card.own)
    if unmoved := [name for name in new if name in still and name.startswith(theirs or ("\0",))]:
        more = f" and {len(unmoved) - 1} more" if len(unmoved) > 1 else ""
        notes.append(
            f"of your own mechanism {unmoved[0]}{more} did not move in two steps: what no forward"
            " uses cannot"
        )
        still -= set(unmoved)
    excused = [
        name
        for name in new
        if name in still
        and (
            ".idle." in name  # what a module keeps for its authors' count and never runs
            or name.startswith(tuple(f"{path}." for path in alone) or ("\0",))
            or any(
                name.startswith(f"{p}.") and name.endswith(e or ("\0",)) for p, e in excuses.items()
            )
        )
    ]
    return tuple(name for name in new if name in still and name not in excused), tuple(excused)


def _learned(
    learner: nn.Module,
    parameters: list[nn.Parameter],
    inputs: Inputs,
    generator: torch.Generator,
    notes: list[str],
) -> bool:
    """Whether two steps could be made: in training mode, or where that asks for more than the
    inputs (a detector for its targets) in eval mode.
    """
    why = ""
    while True:
        try:
            settled(lambda: _two_steps(learner, parameters, inputs, generator))
        except (Exception, SystemExit) as error:  # a stranger's training may need targets
            why = why or f"{type(error).__name__} in training mode"
            if not learner.training:
                notes.append(f"learning not tried: {why}")
                return False
            learner.eval()
            continue
        if why:
            notes.append(f"learning tried in eval mode, on intermediate values: {why}")
        return True


def _two_steps(
    learner: nn.Module,
    parameters: list[nn.Parameter],
    inputs: Inputs,
    generator: torch.Generator,
) -> None:
    if not parameters:
        return
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        with contextlib.nullcontext([]) if learner.training else _kept(learner) as inside:
            made = (inputs.feed(learner), inside)
        outputs = [t for t in tensors_in(made) if t.requires_grad]
        weights = [torch.randn(t.shape, generator=generator).to(t) for t in outputs]
        loss = torch.stack([(t * w).sum() for t, w in zip(outputs, weights, strict=True)]).sum()
        loss.backward()
        optimiser.step()


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[list[Any]]:
    """Keeps what the modules with weights make: a detector that finds nothing returns nothing.

    Not what attention makes itself: it learns from what is made of it.
    """
    made: list[Any] = []
    new = list(inserted(model))
    hosts = [model.get_submodule(path.rpartition(".")[0]) for path, _ in new]
    own = {id(m) for m in (*hosts, *(inner for _, part in new for inner in part.modules()))}
    own |= {id(m) for m in model.modules() if isinstance(m, torch.jit.ScriptModule)}  # no hooks
    others = [m for m in model.modules() if m._parameters and id(m) not in own]
    handles = [m.register_forward_hook(lambda m, args, out: made.append(out)) for m in others]
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


def _values(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """The parameters of a module, with a copy of their values."""
    return {p: p.detach().clone() for p in module.parameters()}


def _shake(
    start: dict[nn.Parameter, Tensor], generator: torch.Generator, scale: float = 1.0
) -> None:
    """Sets parameters to their start plus noise."""
    for parameter, value in start.items():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        with torch.no_grad():
            parameter.copy_(value + scale * noise)


def faults_of_copies(model: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Returns what is wrong with a deep copy and an unpickled copy of a network, by the way it was
    made; nothing where they give bit-equal outputs.
    """
    faults: dict[str, str] = {}
    with torch.no_grad():
        reference = _outputs(model, inputs)
        for way, copied in [("deepcopy", copy.deepcopy), ("pickle", _pickled)]:
            try:
                made = _outputs(copied(model), inputs)
            except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
                faults[way] = f"refuses the network: {error}".split("\n")[0]
                continue
            if len(made) != len(reference) or not all(map(torch.equal, made, reference)):
                faults[way] = "makes a copy that computes something else"
    return faults


def _pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def _outputs(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    made = tensors_in(settled(lambda: inputs.feed(module)))
    # Nested tensors of two forwards have different shapes to torch, even of the same numbers.
    return [tensor.values() if tensor.is_nested else tensor for tensor in made]
