"""Code of a generated forward -> the same in words that torch.jit.script reads."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
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


def for_script(
    source: str, kind: type[nn.Module], calls: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """Returns the source of one method, and the types that it names.

    Args:
        source: of the method.
        kind: the class whose forward was rewritten; its arguments have the types of these.
        calls: name in the code -> name of our own function that it calls.

    Raises:
        Unscriptable: it takes its arguments in a form that TorchScript does not know.
    """
    tree = ast.fix_missing_locations(_Rewritten(calls).visit(ast.parse(source)))
    hints = typing.get_type_hints(inspect.unwrap(kind.forward))
    types: dict[str, Any] = {}
    for argument in tree.body[0].args.args:
        argument.annotation = None
        if argument.arg in hints:
            name = f"_type_of_{argument.arg}"
            types[name] = hints[argument.arg]
            argument.annotation = ast.Name(name, ast.Load())
    tree.body[0].returns = None
    return ast.unparse(ast.fix_missing_locations(tree)), types


class _Rewritten(ast.NodeTransformer):
    def __init__(self, calls: Mapping[str, str]) -> None:
        self._calls = calls

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Leaves out `x = None`, by which a name lets go of its tensor: a name has one type."""
        if isinstance(node.value, ast.Constant) and node.value.value is None:
            return None
        if isinstance(node.value, ast.Call):
            called = self._calls.get(ast.unparse(node.value.func), "")
            if called in _TESTS:
                return _tested(called, node.value)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Writes out what TorchScript has no words for."""
        self.generic_visit(node)
        called = ast.unparse(node.func)
        if called == "flat_call":
            raise Unscriptable("its forward takes other arguments than tensors")
        if called == "type(self)._surgeon_base.forward":
            return ast.Call(ast.parse(f"self.{INNER}", mode="eval").body, node.args[1:], [])
        if called == "through":
            return _through(node)
        if isinstance(node.func, ast.IfExp):  # a method is no value
            ways = (node.func.body, node.func.orelse)
            made = [ast.Call(way, node.args, node.keywords) for way in ways]
            return ast.IfExp(node.func.test, *made)
        if self._calls.get(called) == "convolve_each":
            return _in_order(node)
        return node


_TESTS = ("decided", "required", "counted", "is_tensor")
_WAY = "at this input size the forward takes another way than at the one it was operated at"


def _tested(name: str, call: ast.Call) -> ast.AST | None:
    """Writes a test of a decision (`decisions.py`) as an assertion."""
    if name == "is_tensor":  # by its type
        return None
    first, second = (ast.unparse(argument) for argument in call.args[:2])
    asked = f"len({first})" if name == "counted" else f"bool({first})"
    return ast.parse(f"assert {asked} == {second}, {_WAY!r}").body[0]


def _in_order(call: ast.Call) -> ast.AST:
    """Gives a convolution all of its arguments, in the order of torch.nn.functional.conv2d."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, map(ast.unparse, call.args), strict=False))
    given |= {str(k.arg): ast.unparse(k.value) for k in call.keywords}
    if set(names) - set(given):
        raise Unscriptable("its convolution is called without some of its arguments")
    return ast.Call(call.func, [ast.parse(given[n], mode="eval").body for n in names], [])


def _through(node: ast.Call) -> ast.AST:
    """Writes `through(attention, way, *values)` out."""
    attention, way, *values = node.args
    made = called_through(
        ast.unparse(attention), ast.literal_eval(way), [ast.unparse(value) for value in values]
    )
    return ast.parse(made, mode="eval").body


def called_through(attention: str, way: Any, values: Sequence[str]) -> str:
    """Returns the call of an attention on values of any layout, as an expression."""
    if not isinstance(way, str):
        sides, before, after = way
        maps = ", ".join(f"map_of({v}, {list(sides)}, {before}, {after})" for v in values)
        return f"tokens_of({attention}({maps}), {values[0]}, {before}, {after})"
    ahead, back = _STEPS.get(way, ("", ""))
    given = ", ".join(f"{value}.{ahead}" if ahead else value for value in values)
    return f"{attention}({given}).{back}" if back else f"{attention}({given})"


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
