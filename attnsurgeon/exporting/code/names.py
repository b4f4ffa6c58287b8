"""The syntax tree of a statement -> the names in it that mean something outside of it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def free_names(node: ast.AST, bound: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """Yields the uses of names that nothing inside binds: not of locals, not of parameters.

    Args:
        node: a statement or an expression.
        bound: names that the scopes around it bind.
    """
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in bound:
            yield node
    elif isinstance(node, _FUNCTIONS):
        yield from _of_a_function(node, bound)
    elif isinstance(node, ast.ClassDef):
        yield from _of_all([*node.decorator_list, *node.bases, *node.keywords], bound)
        own = bound | set(_bindings(node.body))  # which its methods do not see
        for statement in node.body:
            inside = bound if isinstance(statement, _FUNCTIONS) else own
            yield from free_names(statement, inside)
    elif isinstance(node, _COMPREHENSIONS):
        inside = bound | {n for g in node.generators for n in _stored(g.target)}
        yield from _of_all(ast.iter_child_nodes(node), inside)
    else:
        yield from _of_all(ast.iter_child_nodes(node), bound)


def _of_all(nodes: Iterable[ast.AST], bound: frozenset[str]) -> Iterator[ast.Name]:
    for node in nodes:
        yield from free_names(node, bound)


def _of_a_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, bound: frozenset[str]
) -> Iterator[ast.Name]:
    arguments = node.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    parameters += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    outside = [a.annotation for a in parameters if a.annotation is not None]
    outside += [d for d in (*arguments.defaults, *arguments.kw_defaults) if d is not None]
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    if not isinstance(node, ast.Lambda):
        outside += [*node.decorator_list, *([node.returns] if node.returns else [])]
    yield from _of_all(outside, bound)
    inside = bound | {a.arg for a in parameters} | set(_bindings(body))
    yield from _of_all(body, inside)


def _bindings(body: Iterable[ast.AST]) -> Iterator[str]:
    """The names that statements of one scope bind; not those of the scopes inside."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id
        elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            if isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name
            yield from _bindings(ast.iter_child_nodes(node))


def _stored(target: ast.AST) -> Iterator[str]:
    return (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
