"""Code of a generated forward -> the same in words that torch.jit.script reads."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

INNER = "_attnsurgeon_inner"  # method of a host: the forward of its own class
HOOKED = "_attnsurgeon_hooked"  # and the one around which its hooks were
_STEPS = {  # layout -> how the channels of a value come to axis 1, and back
    "NHWC": ("permute(0, 3, 1, 2)", "permute(0, 2, 3, 1)"),
    "NDHWC": ("permute(0, 4, 1, 2, 3)", "permute(0, 2, 3, 4, 1)"),
    "NLC": ("transpose(1, 2).unsqueeze(3)", "squeeze(3).transpose(1, 2)"),
    "NCL": ("unsqueeze(3)", "squeeze(3)"),
}


class Unscriptable(Exception):
    """The code has no such words."""


def for_script(source: str) -> str:
    """Returns the source of one method.

    Raises:
        Unscriptable: it takes its arguments in a form that TorchScript does not know.
    """
    return ast.unparse(ast.fix_missing_locations(_Rewritten().visit(ast.parse(source))))


class _Rewritten(ast.NodeTransformer):
    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Leaves out `x = None`, by which a name lets go of its tensor: a name has one type."""
        if isinstance(node.value, ast.Constant) and node.value.value is None:
            return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        called = ast.unparse(node.func)
        if called == "flat_call":
            raise Unscriptable("its forward takes other arguments than tensors")
        if called == "type(self)._surgeon_base.forward":
            return ast.Call(ast.parse(f"self.{INNER}", mode="eval").body, node.args[1:], [])
        if called == "through":
            return _through(node)
        if isinstance(node.func, ast.IfExp):  # a method is no value
            made = (
                ast.Call(f, node.args, node.keywords) for f in (node.func.body, node.func.orelse)
            )
            return ast.IfExp(node.func.test, *made)
        return node


def _through(node: ast.Call) -> ast.AST:
    """Writes `through(attention, way, *values)` out."""
    attention, way, *values = (ast.unparse(arg) for arg in node.args)
    layout = ast.literal_eval(way)
    if not isinstance(layout, str):
        raise Unscriptable("it brings tokens into a map")
    ahead, back = _STEPS.get(layout, ("", ""))
    given = ", ".join(f"{value}.{ahead}" if ahead else value for value in values)
    made = f"{attention}({given})"
    return ast.parse(f"{made}.{back}" if back else made, mode="eval").body


def named_forward(kind: type[nn.Module], name: str) -> Callable[..., Any]:
    """Returns the forward of a class as a function of another name."""
    forward: Any = inspect.unwrap(kind.forward)
    made = types.FunctionType(
        forward.__code__, forward.__globals__, name, forward.__defaults__, forward.__closure__
    )
    made.__kwdefaults__ = forward.__kwdefaults__
    made.__annotations__ = forward.__annotations__
    return made


def forward_around(
    kind: type[nn.Module], name: str, before: Sequence[str], after: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Returns the source of a forward around that of a class, and the values it refers to.

    Args:
        kind: the class.
        name: by which its own forward is called.
        before: what becomes of the first argument, in turn, each an expression of `value`.
        after: the same of the result.
    """
    forward: Any = inspect.unwrap(kind.forward)
    hints = typing.get_type_hints(forward)
    values: dict[str, Any] = {}
    written, given = ["self"], []
    for number, parameter in enumerate(list(inspect.signature(forward).parameters.values())[1:]):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise Unscriptable("its forward takes any number of arguments")
        text = parameter.name
        if parameter.name in hints:
            values[f"_type{number}"] = hints[parameter.name]
            text += f": _type{number}"
        if parameter.default is not parameter.empty:
            values[f"_default{number}"] = parameter.default
            text += f" = _default{number}"
        written.append(text)
        given.append(parameter.name)
    lines = [f"def forward({', '.join(written)}):"]
    lines += [f"    {given[0]} = {one.replace('value', given[0])}" for one in before]
    lines.append(f"    made = self.{name}({', '.join(given)})")
    lines += [f"    made = {one.replace('value', 'made')}" for one in after]
    return "\n".join([*lines, "    return made\n"]), values
