"""Generated methods, hooks and layouts -> lines of Python as a person writes them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from torch.nn import functional

from attnsurgeon.forwards.retype import Reference
from attnsurgeon.planning.cut import Way
from attnsurgeon.splicing import channels_first
from attnsurgeon.splicing.channels_first import map_of, tokens_of

_EVAL, _TRAIN = "_attnsurgeon_eval", "_attnsurgeon_train"
_PRIVATE = {_EVAL: "_forward_evaluating", _TRAIN: "_forward_training"}
_DOC = "Returns what it computes with its attention in place."
Name = Callable[[Any], str]  # a function -> what it is called in the file


def attended(module: str, way: Way, values: Sequence[str], name: Name) -> str:
    """Returns the expression of an attention on values of any layout.

    Args:
        module: the expression of the attention.
        way: how a value gets to it and back.
        values: the expressions of what it is given.
        name: of a function in the file.
    """
    if not isinstance(way, str):
        maps = ", ".join(f"{name(map_of)}({v}, {way[0]}, {way[1]}, {way[2]})" for v in values)
        return f"{name(tokens_of)}({module}({maps}), {values[0]}, {way[1]}, {way[2]})"
    ahead, back = channels_first._steps(way)
    given = ", ".join(v + _methods(ahead) for v in values)
    return f"{module}({given}){_methods(back)}"


def _methods(steps: channels_first.Steps) -> str:
    return "".join(f".{method}({', '.join(map(str, args))})" for method, args in steps)


def method(source: str, names: dict[str, str], name: Name) -> str:
    """Returns a generated method, tidied: without what only frees memory, at no indent.

    Args:
        source: of one method.
        names: name in the code -> in the file.
        name: of a function in the file.
    """
    tree = ast.parse(source)
    clashing = {n.id for n in ast.walk(tree) if _is_stored(n)} & {*names.values()}
    for node in ast.walk(tree):  # a value of the name that a function has in the file
        if isinstance(node, ast.Name) and node.id in clashing:
            node.id = f"{node.id}_made"
    tidied = ast.fix_missing_locations(_Tidied(names, name).visit(tree))
    return ast.unparse(_without_unused(tidied))


def _without_unused(tree: ast.Module) -> ast.Module:
    """Leaves out values that nobody reads; of a call, which may do more, the call stays."""
    size = -1
    while size != (size := len(list(ast.walk(tree)))):
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _is_stored(n)}
        tree = ast.fix_missing_locations(_Unused(read).visit(tree))
    return tree


class _Unused(ast.NodeTransformer):
    def __init__(self, read: set[str]) -> None:
        self.read = read

    def visit_Assign(self, node: ast.Assign) -> Any:
        (target,) = node.targets[:1]
        if len(node.targets) > 1 or not isinstance(target, ast.Name) or target.id in self.read:
            return node
        called = any(isinstance(inner, ast.Call) for inner in ast.walk(node.value))
        return ast.Expr(node.value) if called else None


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


class _Tidied(ast.NodeTransformer):
    def __init__(self, names: dict[str, str], name: Name) -> None:
        self.names = names
        self.name = name

    def visit_Assign(self, node: ast.Assign) -> Any:
        value = node.value
        if isinstance(value, ast.Constant) and value.value is None:
            return None  # torch.fx lets go of a value that is not needed any more
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return ast.copy_location(ast.parse(self.names[node.id], mode="eval").body, node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.name = _PRIVATE.get(node.name, node.name)
        self.generic_visit(node)
        if node.name == "forward":
            node.body.insert(0, ast.Expr(ast.Constant(_DOC)))
        return node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        if ast.unparse(node.value) == "torch._C._nn" and hasattr(functional, node.attr):
            return _expression(f"nn.functional.{node.attr}")  # its public name
        node.attr = _PRIVATE.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        called = ast.unparse(node.func)
        if called == "type(self)._surgeon_base.forward":
            arguments = ", ".join(map(ast.unparse, node.args[1:]))
            return self.visit(_expression(f"super().forward({arguments})"))
        if called == "through":
            module, way, *values = node.args
            assert isinstance(way, (ast.Constant, ast.Tuple))
            given = [ast.unparse(self.visit(value)) for value in values]
            text = attended(ast.unparse(module), ast.literal_eval(way), given, self.name)
            return _expression(text)
        return self.generic_visit(node)


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def references_used(references: Sequence[Reference]) -> list[Reference]:
    """Returns what a generated method refers to, but for what is written in its place."""
    gone = ("through", channels_first.through.__module__, "through")
    return [reference for reference in references if reference != gone]
