"""Generated forward code -> a subclass of a module's class, so that the object stays itself.

The block keeps its identity, attributes, methods, hooks and keys; only its class becomes a
subclass with another `forward`. The class is rebuilt from its base and its source when the object
is copied or unpickled, so neither needs the class to be importable. Called by hand, it makes an
object of the original class: no constructor knows what surgery put in.
"""

from __future__ import annotations

import functools
import importlib
import linecache
import math
import re
import threading
import types
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import _symbolic_trace as _fx
from torch.fx.graph import PythonCode
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils import _pytree as pytree

from attnsurgeon.errors import SurgeonError

Reference = tuple[str, str, str]  # (name in the code, module to import, attribute or "")
RESOLVING = threading.RLock()  # while torch.fx traces, names of other modules are its own wrappers


def source_of(graph: fx.Graph, name: str) -> tuple[str, tuple[Reference, ...]]:
    """Returns the code of a graph as a method called `name`, and what it refers to."""
    return method_of(graph.python_code("self"), name)


def method_of(code: PythonCode, name: str) -> tuple[str, tuple[Reference, ...]]:
    """The same of code that torch.fx has generated."""
    source = re.sub(r"^def forward\(", f"def {name}(", code.src.strip(), flags=re.MULTILINE)
    used = {n: v for n, v in code.globals.items() if re.search(rf"\b{n}\b", source)}
    with RESOLVING:
        return source, tuple(sorted(_reference(n, v) for n, v in used.items()))


def _reference(name: str, value: Any) -> Reference:
    if isinstance(value, ModuleType):
        return name, value.__name__, ""
    if isinstance(value, float):
        return name, "math", "inf" if math.isinf(value) else "nan"
    if value is type(None):
        return name, "types", "NoneType"
    home, attribute = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    reference = (name, str(home), attribute)
    try:
        found = _resolve(reference)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not value:
        raise SurgeonError(
            f"the code calls {value!r}, which cannot be imported by name",
            "define that function at the top of a module",
        )
    return reference


def _resolve(reference: Reference) -> Any:
    _, home, attribute = reference
    value: Any = importlib.import_module(home)
    for part in filter(None, attribute.split(".")):
        value = getattr(value, part)
    return value


class Replaced(nn.Module):
    """What is left of a module in whose place something else computes.

    It is none of its former kind, so that who looks for convolutions or norms finds none here that
    has no weight.
    """

    def extra_repr(self) -> str:
        """Return what it was."""
        return f"instead of {original_class(self).__name__}"


def retyped(
    module: nn.Module,
    sources: tuple[str, ...],
    references: tuple[Reference, ...],
    *,
    replaced: bool = False,
) -> None:
    """Gives `module` the generated forward, in the place of one that it may have.

    Args:
        module: what gets it, in place.
        sources: the methods.
        references: what they refer to.
        replaced: the module is no longer what it was, and its class none of that kind.
    """
    _give(module, _one_subclass(original_class(module), sources, references, replaced))


def restored(module: nn.Module) -> None:
    """Gives `module` the class that it had before surgery, in place."""
    _give(module, original_class(module))


def extended(
    module: nn.Module, sources: tuple[str, ...], references: tuple[Reference, ...]
) -> None:
    """Gives `module` further members, beside the generated forward that it may have."""
    made, known, replaced = getattr(type(module), "_surgeon_code", ((), (), False))
    if not set(sources) <= set(made):
        sources, references = (*made, *sources), tuple(sorted({*known, *references}))
        _give(module, _one_subclass(original_class(module), sources, references, replaced))


def retyped_by(
    base: type[nn.Module],
    sources: tuple[str, ...],
    references: tuple[Reference, ...],
    names: dict[str, Any],
) -> type[nn.Module]:
    """Returns a subclass with these methods, for an object that is never copied.

    Args:
        base: the class.
        sources: of the methods.
        references: what they refer to.
        names: the same by value; functions among them become methods too.
    """
    scope: dict[str, Any] = {ref[0]: _resolve(ref) for ref in references} | names
    body: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    body |= {name: value for name, value in names.items() if isinstance(value, FunctionType)}
    for source in sources:
        body.update(_compiled(source, scope, base.__qualname__))
    return type(base.__name__, (base,), body)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module before surgery, and before its parametrizations."""
    kind = type_before_parametrizations(module)
    return getattr(kind, "_surgeon_base", kind)


def _give(module: nn.Module, made: type[nn.Module]) -> None:
    """Gives a module another class in the place of the generated or the original one.

    What others have derived from that stays around it, as they take it off again themselves: the
    class of a parametrized module, and that which `fully_shard` makes.
    """
    kind = type(module)
    generated = (one for one in kind.__mro__ if "_surgeon_base" in vars(one))
    old = next(generated, original_class(module))
    if old is not made:
        module.__class__ = _exchanged(kind, old, made)


def _exchanged(kind: type, old: type, new: type) -> Any:
    if kind is old or not issubclass(kind, old):
        return new if kind is old else kind
    bases = tuple(_exchanged(base, old, new) for base in kind.__bases__)
    body = {name: v for name, v in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return types.new_class(kind.__name__, bases, exec_body=lambda scope: scope.update(body))


def is_generated(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class is generated code."""
    return any("_surgeon_base" in vars(one) and "forward" in vars(one) for one in kind.__mro__)


class _CalledByHand(type):
    """The class of generated classes, and of those that others derive from them."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes an object of the original class."""
        return cls._surgeon_base(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


@functools.cache
def _metaclass(kind: type) -> type:
    """`_CalledByHand` for classes whose own class is `kind`."""
    if kind is type:
        return _CalledByHand
    return type(kind.__name__, (_CalledByHand, kind), {})


def _one_subclass(
    base: type[nn.Module],
    sources: tuple[str, ...],
    references: tuple[Reference, ...],
    replaced: bool,
) -> type[nn.Module]:
    """The one class of this code, in all threads: a cache alone would let two make one each."""
    with RESOLVING:
        return _subclass(base, sources, references, replaced)


@functools.cache
def _subclass(
    base: type[nn.Module],
    sources: tuple[str, ...],
    references: tuple[Reference, ...],
    replaced: bool,
) -> type[nn.Module]:
    scope: dict[str, Any] = {ref[0]: _resolve(ref) for ref in references}
    _keep_wrapped(scope)
    above = Replaced if replaced else base
    body: dict[str, Any] = {
        "__doc__": above.__doc__,
        "__module__": above.__module__,
        "__qualname__": above.__qualname__,
        "_surgeon_base": base,
        "_surgeon_code": (sources, references, replaced),
        "__reduce_ex__": _reduce,
    }
    for source in sources:
        body.update(_compiled(source, scope, base.__qualname__))
    return _metaclass(type(base))(above.__name__, (above,), body)


def _keep_wrapped(scope: dict[str, Any]) -> None:
    """Lets torch.fx record calls of what it was asked to (`torch.fx.wrap`), here as at home.

    It knows a function by the name in one module, and generated code has it under another one.
    """
    for name, value in list(scope.items()):
        if isinstance(value, FunctionType):
            at_home = (id(value.__globals__), value.__name__)
            if at_home in _fx._wrapped_fns_to_patch:
                _fx._wrapped_fns_to_patch[id(scope), name] = scope


def _compiled(source: str, scope: dict[str, Any], owner: str) -> dict[str, Any]:
    """Compiles one method; its source is kept for tracebacks, inspect and torch.compile."""
    file = f"<attnsurgeon {owner} {abs(hash(source)):x}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    made: dict[str, Any] = {}
    exec(compile(source, file, "exec"), scope, made)
    return made


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    kind: Any = type(self)
    get_state = getattr(self, "__getstate__", None)  # every object has one from Python 3.11 on
    state = get_state() if get_state else self.__dict__
    return _rebuild, (kind._surgeon_base, *kind._surgeon_code), state


def _rebuild(
    base: type[nn.Module],
    sources: tuple[str, ...],
    references: tuple[Reference, ...],
    replaced: bool = False,  # a pickle of before knows nothing of it
) -> nn.Module:
    kind = _one_subclass(base, sources, references, replaced)
    return kind.__new__(kind)


def flat_call(method: Any, expected: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a method traced on flattened arguments, after checking that they have that form."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    form = form_of(leaves, spec)
    if form != expected:
        raise RuntimeError(
            f"this module was operated for calls of the form {expected}, not {form}; "
            "insert the attention again for this form"
        )
    return method(*[leaf for leaf in leaves if is_placeholder(leaf)])


def form_of(leaves: list[Any], spec: Any) -> str:
    """A text that is equal for calls with the same structure and the same constants."""
    shown = ["_" if is_placeholder(leaf) else repr(leaf) for leaf in leaves]
    return f"{spec} {shown}"


def is_placeholder(leaf: Any) -> bool:
    """Whether an argument may be another one at every call: a tensor, a size, or their proxy."""
    return isinstance(leaf, (Tensor, fx.Proxy)) or type(leaf) is int
