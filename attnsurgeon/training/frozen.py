"""Which parameters were frozen, noted on the modules that they stand in; copies carry it.

Noted twice, by the module that holds a parameter and by the one around it: what wraps a layer takes
the first note along under another name (adapters), and what converts one (`convert_sync_batchnorm`)
leaves the second. So whoever was frozen can be unfrozen from inside and from around.
"""

from __future__ import annotations

from torch import nn

_NOTE = "_attnsurgeon_frozen"  # of a module: names of its parameters, seen from it


def noted(model: nn.Module) -> set[int]:
    """The ids of the parameters that were frozen in a network, in parts of it, or around it."""
    return {
        id(parameter)
        for module in model.modules()
        for name in module.__dict__.get(_NOTE, ())
        for parameter in _parameters(module, name)
    }


def is_noted(model: nn.Module) -> bool:
    """Whether anything of a network was ever frozen."""
    return any(_NOTE in module.__dict__ for module in model.modules())


def note(model: nn.Module, frozen: set[int]) -> None:
    """Write down that these parameters are frozen, by their ids, and no others are."""
    forget(model)
    model.__dict__[_NOTE] = ()
    for module in model.modules():
        inside = [("", module), *((f"{name}.", child) for name, child in module.named_children())]
        names = [
            prefix + name
            for prefix, owner in inside
            for name, parameter in owner._parameters.items()
            if id(parameter) in frozen
        ]
        if names:
            module.__dict__[_NOTE] = tuple(names)


def forget(model: nn.Module) -> None:
    """Take the notes away."""
    for module in model.modules():
        module.__dict__.pop(_NOTE, None)


def _parameters(module: nn.Module, name: str) -> list[nn.Parameter]:
    """What is called that by now: nothing, the parameter, or those that it is computed from."""
    owner, _, leaf = name.rpartition(".")
    try:
        holder = module.get_submodule(owner)
    except AttributeError:
        return []
    parameter = holder._parameters.get(leaf)
    if parameter is not None:
        return [parameter]
    computed = getattr(holder, "parametrizations", {})
    return list(computed[leaf].parameters(recurse=False)) if leaf in computed else []
