"""A network and the weights that were found -> which fit, which are missing, which are more."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnsurgeon.models.files.stand_ins import StandIn
from attnsurgeon.models.finding import FORGIVEN, Found, shape_of
from attnsurgeon.models.misfit import Kin, Misfit


@dataclass(frozen=True)
class Match:
    """The names of a network and of a file, compared.

    Attributes:
        own: the network's tensors.
        fitting: what the file has for them, in their shapes.
        misshapen: names that it has in another shape, or as no tensor: its shape, the network's.
        missing: names that it has not, and that may not be missing.
        inside, outside: what it has more, in the network's modules and beside them.
    """

    own: Mapping[str, Tensor]
    fitting: Mapping[str, Tensor]
    misshapen: Mapping[str, tuple[Any, Any]]
    missing: list[str]
    inside: Mapping[str, Tensor]
    outside: list[str]

    def without(self, names: Collection[str]) -> Match:
        """Returns the same without tensors of these names, in the network and in the file."""
        kept = {
            field: {n: v for n, v in getattr(self, field).items() if n not in names}
            for field in ("own", "fitting", "misshapen", "inside")
        }
        return replace(self, missing=[n for n in self.missing if n not in names], **kept)

    def misfit(
        self,
        model: nn.Module,
        found: Found,
        renamed: Mapping[str, str] | None = None,
        untaken: Sequence[str] = (),
        kin: Kin | None = None,
    ) -> Misfit:
        """Returns what does not fit.

        Args:
            model, found: of which this is the match.
            renamed: names that the network's own hooks filled, and from which names.
            untaken: names that the network's own `load_state_dict` did not take.
            kin: finds the registered network whose weights these are.
        """
        renamed = renamed or {}
        return Misfit(
            model,
            found,
            [n for n in self.missing if n not in renamed],
            [n for n in self.inside if n not in renamed.values()],
            self.misshapen,
            untaken,
            attributes_of(found).get("names"),
            kin,
        )


def matched(model: nn.Module, found: Found) -> Match:
    """Compare the names and shapes of a network with those of the weights that were found."""
    own = tensors_of(model)
    given = {name: found.state[name] for name in own if name in found.state}
    fitting = {n: v for n, v in given.items() if _fits(v, own[n])}
    extras = {n: v for n, v in found.state.items() if n not in own and isinstance(v, Tensor)}
    inside, outside = _sorted_extras(model, extras)
    missing = [n for n in own if n not in given and not n.endswith(FORGIVEN)]
    held = {_memory(own[name]) for name in fitting}
    return Match(
        own,
        fitting,
        {n: (shape_of(v), shape_of(own[n])) for n, v in given.items() if n not in fitting},
        [n for n in missing if _memory(own[n]) not in held],  # a tensor that has two names
        {n: extras[n] for n in inside},
        outside,
    )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer that a file should have, by each of its names.

    Also what the network's own `state_dict` leaves out: it would never get its weights.
    """
    held = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    known = {_memory(tensor) for tensor in held.values()}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or leaf in module._non_persistent_buffers_set:
                continue
            if prefix + leaf not in held and _memory(tensor) not in known:
                held[prefix + leaf] = tensor
    return held


def _memory(tensor: Tensor) -> Any:
    if is_lazy(tensor) or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride()


def _fits(value: Any, own: Tensor) -> bool:
    return isinstance(value, Tensor) and shape_of(own) in (None, tuple(value.shape))


def _sorted_extras(model: nn.Module, extras: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names that the network has not: those inside of its modules, and those beside them.

    Beside is what the network has nothing of (`criterion`, `n_averaged`), but for one more of a
    kind: `layer5` beside `layer4` is a deeper network.
    """
    silent = {
        f"{path}.{leaf}" if path else leaf
        for path, module in model.named_modules(remove_duplicate=False)
        for leaf in module._non_persistent_buffers_set
    }
    tops = {name for name, child in model.named_children()} | {n for n, _ in _direct(model)}
    kinds = {top.strip("0123456789_") for top in tops}
    inside, outside = [], []
    for name in extras:
        top = name.partition(".")[0]
        foreign = top not in tops and top.strip("0123456789_") not in kinds
        (outside if foreign or name in silent else inside).append(name)
    return inside, outside


def _direct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(recurse=False)
    yield from model.named_buffers(recurse=False)


def attributes_of(found: Found) -> Mapping[str, Any]:
    """Return all that was saved of a whole pickled network; nothing of mere weights."""
    network = found.place.network
    if isinstance(network, StandIn):
        return network.attributes
    return vars(network) if isinstance(network, nn.Module) else {}
