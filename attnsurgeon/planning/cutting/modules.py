"""Module -> what a cut has to know of its kind: containers, walkers over children, norms."""

from __future__ import annotations

from torch import jit, nn

from attnsurgeon.forwards.modes import names_in
from attnsurgeon.forwards.retype import original_class

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CHILDREN = frozenset(["children", "named_children", "_modules"])


def is_container(module: nn.Module) -> bool:
    """Whether other code may walk over the module's children."""
    return isinstance(module, _CONTAINERS)


def only_contains(module: nn.Module) -> bool:
    """Whether it is a container without a forward of its own (a DenseNet block has one)."""
    plain = {nn.Sequential.forward, nn.Module.forward}
    return is_container(module) and original_class(module).forward in plain


def walks(module: nn.Module) -> bool:
    """Whether code walks over the children of a module, and would meet the attention."""
    forward = getattr(original_class(module), "forward", None)  # a script's is no function
    code = getattr(forward, "__code__", None)
    named = _CHILDREN.intersection(names_in(code)) if code is not None else ()
    return is_container(module) or bool(named)


def is_script(module: nn.Module) -> bool:
    """Whether a module is compiled: it takes no child that is not."""
    return isinstance(module, jit.ScriptModule)


def forgets(module: nn.Module) -> bool:
    """Whether copies of a module are made anew from less than it is, so that they lose a child."""
    state = getattr(original_class(module), "__getstate__", None)
    if state is None or state is getattr(object, "__getstate__", None):
        return False
    try:
        kept = state(module)
    except Exception:  # whatever stands in it
        return True
    return not (isinstance(kept, dict) and "_modules" in kept)


def is_norm(module: nn.Module) -> bool:
    """Whether converters replace such modules: they carry running statistics or say norm."""
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm))


def norm_note(path: str) -> str:
    """What the user should know of a cut on a norm."""
    return f"converting {path} (SyncBatchNorm, freezing) would drop it"
