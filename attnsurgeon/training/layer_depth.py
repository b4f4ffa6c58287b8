"""Network -> the layer every parameter is in, counted from the input: for layer-wise decay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from attnsurgeon.forwards.retype import original_class
from attnsurgeon.models.layering import timm_layers
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.saved.origin import attention_prefixes
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey
from attnsurgeon.splicing.history import history
from attnsurgeon.training.places import places

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return parameter name -> number of its layer, from 0 at the input.

    A network of timm says itself what its layers are. Of any other one forward is recorded: a
    layer is a residual block, else a module whose kind is repeated, else a convolution or linear
    layer with the norm behind it; layers are counted in the order in which they run. Inserted
    attention is no layer of its own: it has the layer of its place, the last where it has several.
    What stands around the operated network has that network's last.

    Raises:
        ModelError: the network cannot be run, so that the order is unknown.
    """
    path = _operated(model)
    core, prefix = model.get_submodule(path), f"{path}." if path else ""
    without = attention_prefixes(core)
    known = timm_layers(core, without)
    layers = dict(known if known is not None else recorded_layers(core))
    last = max(layers.values(), default=0)
    for name, place in places(core).items():
        layers[name] = max((layers[near] for near in place), default=last)
    layers = {prefix + name: layer for name, layer in layers.items()}
    return {name: layers.get(name, last) for name, _ in model.named_parameters()}


def _operated(model: nn.Module) -> str:
    """The path of the network that was operated, where that is one inside of this; else ""."""
    paths = [path for path, module in model.named_modules() if history(module)]
    return paths[0] if len(paths) == 1 else ""


def recorded_layers(model: nn.Module) -> dict[str, int]:
    """Return the layers of a network that does not say itself what they are, but for attention."""
    records = history(model)
    survey = analyse(model, example=recorded_form(records[-1]) if records else None)
    units = _Units(survey)
    without = attention_prefixes(model)
    names: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        if not name.startswith(without):
            names.setdefault(units.of(name.rpartition(".")[0]), []).append(name)
    order = _order_of_use(survey)
    last = max(order.values(), default=0) + 1
    first_use = {unit: min(order.get(n, last) for n in found) for unit, found in names.items()}
    layers: dict[str, int] = {}
    number = -1
    for unit in sorted(names, key=lambda unit: first_use[unit]):
        # A norm, or a parameter of the network itself (a class token), is no layer of its own.
        if number < 0 or (unit and _has_matrix(model, unit, without)):
            number += 1
        layers |= dict.fromkeys(names[unit], number)
    return layers


class _Units:
    """Which module a parameter's layer is."""

    def __init__(self, survey: Survey) -> None:
        self.twin = survey.traced.twin
        owners = {residual.add.meta["call"].path for residual in survey.residuals.values()}
        kinds = {self.kind(path) for path in owners if path}
        paths = [path for path, _ in self.twin.named_modules() if path]
        self.blocks = {path for path in paths if self.kind(path) in kinds}
        around = {outer for path in self.blocks for outer in _owners(path) if outer != path}
        counts = Counter(self.kind(path) for path in paths)
        self.repeated = {
            path
            for path in paths
            if counts[self.kind(path)] > 1
            and not issubclass(self.kind(path), _CONTAINERS)
            and path not in around
        }

    def kind(self, path: str) -> type[nn.Module]:
        return original_class(self.twin.get_submodule(path))

    def of(self, path: str) -> str:
        """The unit of the parameters of the module at `path`; "" for the network's own."""
        owners = list(_owners(path))  # innermost first
        block = next((owner for owner in owners if owner in self.blocks), None)
        repeated = next((owner for owner in reversed(owners) if owner in self.repeated), None)
        return block or repeated or path


def _owners(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _order_of_use(survey: Survey) -> dict[str, int]:
    """Parameter name -> when it is first used; a shared one under each of its names."""
    twin, graph = survey.traced.twin, survey.traced.graph
    by_name = dict(twin.named_parameters(remove_duplicate=False))
    used: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in by_name:
            used.setdefault(id(by_name[node.target]), node.meta["order"])
    return {name: used[id(p)] for name, p in by_name.items() if id(p) in used}


def _has_matrix(model: nn.Module, path: str, without: tuple[str, ...]) -> bool:
    inside = model.get_submodule(path).named_parameters(prefix=path)
    return any(p.dim() > 1 for name, p in inside if not name.startswith(without))
