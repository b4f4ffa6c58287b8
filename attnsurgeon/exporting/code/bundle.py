"""Names of modules -> their source, with all that it uses: one file in place of a package.

What is taken is the text as it stands, comments included. A name that two modules give to different
things is changed for the second; decorators that only register are left out.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnsurgeon.errors import ModelError, SurgeonError
from attnsurgeon.exporting.code.names import free_names

Key = tuple[str, str]  # a module, and a name in it
_REGISTERS = frozenset({("attnsurgeon.attention.registry", "mechanism")})


@dataclass(eq=False)
class _Module:
    """The source of a module, by the names at its top."""

    name: str
    lines: list[str]
    statements: dict[str, ast.stmt]
    doc: str

    @classmethod
    @functools.cache
    def of(cls, name: str) -> _Module:
        module = sys.modules.get(name) or importlib.import_module(name)
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError) as error:
            raise ModelError(
                f"the source of {name} cannot be read, so it cannot be written out"
            ) from error
        tree = ast.parse(source)
        found = {bound: node for node in tree.body for bound in _bound(node)}
        return cls(name, source.splitlines(), found, ast.get_docstring(tree, clean=False) or "")


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (a.asname or a.name for a in node.names)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))


@dataclass(frozen=True)
class _Use:
    """One place where a definition uses something from outside of it.

    Attributes:
        node: the place.
        text: as it stands there.
        key: what it means; the name in it is "" for a whole module.
    """

    node: ast.Name | ast.Attribute
    text: str
    key: Key


@dataclass(eq=False)
class Bundle:
    """Collects definitions for one file.

    Attributes:
        inline: packages and modules whose code is written out; all else is imported.
        reserved: names that the file gives to things of its own.
        called: module -> the name that the file imports it under, where that is another.
    """

    inline: Collection[str]
    reserved: Collection[str] = ()
    called: Mapping[str, str] = field(default_factory=dict)
    _names: dict[Key, str] = field(default_factory=dict)
    _imports: dict[str, Key] = field(default_factory=dict)  # name in the file -> what it is
    _order: list[Key] = field(default_factory=list)
    _documented: set[Key] = field(default_factory=set)

    def name_of(self, thing: Any, *, documented: bool = False) -> str:
        """Returns the name of a class or function in the file, and sees to it that it is there.

        Args:
            thing: found by name in its module.
            documented: put the docstring of its module, with the equation, at its head.
        """
        home, qualname = thing.__module__, thing.__qualname__
        short = _in_torch(thing)
        if short:
            package, _, rest = short.partition(".")
            self.imported(*{"nn": ("torch", "nn"), "torch": ("torch", "")}[package])
            return short if rest else package
        if "<" in qualname:
            raise ModelError(
                f"{qualname} of {home} is defined inside of a function, so no file can name it",
                "define it at the top of a module",
            )
        top, _, rest = qualname.partition(".")
        name = self.need(home, top)
        if documented:
            self._documented.add((home, top))
        return f"{name}.{rest}" if rest else name

    def need(self, home: str, name: str) -> str:
        """Returns the name in the file of what a module calls `name`, and collects it."""
        if not self._written(home):
            return self.imported(home, name)
        key = self._followed(home, name)
        if key not in self._names and self._written(key[0]):
            self._collect(key)
        return self._names[key] if self._written(key[0]) else self.imported(*key)

    def imported(self, home: str, name: str = "", wanted: str = "") -> str:
        """Returns the name in the file of something that is imported; "" for the module itself."""
        if wanted == "" and not name and "." in home:
            raise ModelError(f"{home} is imported under no name of its own")
        home = self.called.get(home, home)
        parent, _, last = home.rpartition(".")
        if parent and not name and wanted == last:  # import torch.fx as fx
            home, name = parent, last
        given = wanted or name or home
        taken = {*self.reserved, *self._names.values()}
        while self._imports.get(given, (home, name)) != (home, name) or given in taken:
            given += "_"
        self._imports[given] = (home, name)
        return given

    def import_lines(self) -> list[str]:
        """Returns the import statements, sorted: those of Python's own modules, a gap, the rest."""
        whole: dict[str, list[str]] = {}  # top of the module -> statements
        parts: dict[str, list[str]] = {}
        for given, (home, name) in self._imports.items():
            if name:
                parts.setdefault(home, []).append(name if name == given else f"{name} as {given}")
            else:
                line = f"import {home}" if home == given else f"import {home} as {given}"
                whole.setdefault(home, []).append(line)
        sections: list[list[str]] = []
        for of_python in (True, False):
            plain = [h for h in sorted(whole) if _of_python(h) is of_python]
            named = [h for h in sorted(parts) if _of_python(h) is of_python]
            lines = [line for h in plain for line in sorted(whole[h])]
            lines += [
                f"from {h} import {', '.join(sorted(parts[h], key=_as_isort))}" for h in named
            ]
            sections.append(lines)
        return [*sections[0], *([""] if all(sections) else []), *sections[1]]

    def definitions(self) -> list[str]:
        """Returns the source of everything that was collected, what is used before its users."""
        return [self._text(key) for key in self._order]

    def _written(self, home: str) -> bool:
        return any(home == one or home.startswith(f"{one}.") for one in self.inline)

    def _followed(self, home: str, name: str) -> Key:
        """Where a name of a module is defined, through imports from one module to the next."""
        node = _Module.of(home).statements.get(name)
        while isinstance(node, ast.ImportFrom):
            alias = next(a for a in node.names if (a.asname or a.name) == name)
            home, name = _absolute(node, home), alias.name
            if not self._written(home):
                return home, name
            node = _Module.of(home).statements.get(name)
        if node is None:
            raise ModelError(f"{home} has no {name} at its top, so it cannot be written out")
        return home, name

    def _collect(self, key: Key) -> None:
        home, name = key
        if (error := _error_class(key)) is not None:
            self._names[key] = error
            return
        self._names[key] = self._fresh(home, name)
        module = _Module.of(home)
        node = module.statements[name]
        _refuse_inner_imports(node, home, self._written)
        for use in self._uses(node, module):
            if not self._written(use.key[0]):
                self.imported(*use.key, wanted=use.text)
            elif use.key not in self._names:
                self._collect(use.key)
        self._order.append(key)

    def _uses(self, node: ast.stmt, module: _Module) -> Iterator[_Use]:
        """Where a definition uses what is defined or imported at the top of its module."""
        registering = {id(n) for d in _registering(node, module.name) for n in ast.walk(d)}
        attributes = {id(n.value): n for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        for name in free_names(node):
            source = module.statements.get(name.id)
            if source is None or id(name) in registering:
                continue  # of Python itself
            whole = _whole_module(source, name.id, module.name)
            if whole is None:
                yield _Use(name, name.id, self._followed(module.name, name.id))
            elif not self._written(whole):
                yield _Use(name, name.id, (whole, ""))
            elif id(name) in attributes:  # se.Excitation, of a module that is written out
                at = attributes[id(name)]
                yield _Use(at, f"{name.id}.{at.attr}", self._followed(whole, at.attr))
            else:
                raise ModelError(f"{module.name} uses {whole} as a whole; it cannot be written out")

    def _fresh(self, home: str, name: str) -> str:
        taken = {*self._names.values(), *self._imports, *self.reserved}
        if name not in taken:
            return name
        stem = home.rpartition(".")[2]
        bare = name.lstrip("_")
        if bare[:1].isupper():
            given = f"_{stem.title().replace('_', '')}{bare}"
        else:
            given = f"_{stem}_{bare}"
        given = given.upper() if bare.isupper() else given
        while given in taken:
            given += "_"
        return given

    def _text(self, key: Key) -> str:
        """The source of a definition, under the names of the file."""
        home, _ = key
        module = _Module.of(home)
        node = module.statements[key[1]]
        first, lines = _span(node, module.lines)
        changes: list[tuple[int, int, int, str]] = []  # line, from, to, what instead
        for use in self._uses(node, module):
            now = self._names.get(use.key)
            if now is not None and now != use.text:
                at = use.node
                changes.append((at.lineno - first, at.col_offset, at.end_col_offset or 0, now))
        for at, start, end, now in sorted(changes, reverse=True):
            raw = lines[at].encode()  # columns count bytes
            lines[at] = (raw[:start] + now.encode() + raw[end:]).decode()
        if self._names[key] != key[1]:
            lines = _renamed(lines, key[1], self._names[key])
        text = "\n".join(_without_registering(lines, node, first, home))
        for error in SurgeonError.__subclasses__():
            text = re.sub(rf"\b{error.__name__}\b", "ValueError", text)
        return _with_docstring(text, module.doc) if key in self._documented else text


def _of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _as_isort(name: str) -> tuple[int, str]:
    """Constants first, then classes, then the rest, as import sorters have it."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2), name


def _in_torch(thing: Any) -> str:
    """How torch's users call a thing of torch: nn.Conv2d, torch.Tensor; "" of anything else."""
    import torch
    from torch import nn

    name = thing.__qualname__
    if getattr(nn, name, None) is thing:
        return f"nn.{name}"
    return f"torch.{name}" if getattr(torch, name, None) is thing else ""


def _absolute(node: ast.ImportFrom, home: str) -> str:
    if not node.level:
        return node.module or ""
    module = sys.modules[home]
    package = home if hasattr(module, "__path__") else home.rpartition(".")[0]
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def _error_class(key: Key) -> str | None:
    """What a file of plain Python raises in place of an error of ours."""
    if key[0] != "attnsurgeon.errors":
        return None
    found = getattr(importlib.import_module(key[0]), key[1], None)
    return "ValueError" if inspect.isclass(found) and issubclass(found, SurgeonError) else None


def _whole_module(source: ast.stmt, name: str, home: str) -> str | None:
    """The module that an import binds a name to; None where it is something in a module."""
    if isinstance(source, ast.Import):
        return next(a.name for a in source.names if (a.asname or a.name) == name)
    if isinstance(source, ast.ImportFrom):
        alias = next(a for a in source.names if (a.asname or a.name) == name)
        found = f"{_absolute(source, home)}.{alias.name}"
        if found in sys.modules:
            value = getattr(sys.modules[_absolute(source, home)], alias.name, None)
            return found if inspect.ismodule(value) else None
    return None


def _registering(node: ast.stmt, home: str) -> list[ast.expr]:
    statements = _Module.of(home).statements
    found = []
    for decorator in getattr(node, "decorator_list", ()):
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name):
            source = statements.get(decorator.func.id)
            if isinstance(source, ast.ImportFrom):
                alias = next(a for a in source.names if (a.asname or a.name) == decorator.func.id)
                if (source.module, alias.name) in _REGISTERS:
                    found.append(decorator)
    return found


def _refuse_inner_imports(node: ast.stmt, home: str, written: Callable[[str], bool]) -> None:
    for inner in ast.walk(node):
        names = [inner.module or ""] if isinstance(inner, ast.ImportFrom) else []
        if isinstance(inner, ast.Import):
            names = [alias.name for alias in inner.names]
        if node is not inner and any(map(written, names)):
            raise ModelError(
                f"{home} imports {names[0]} inside of a function; it cannot be written"
            )


def _span(node: ast.stmt, lines: list[str]) -> tuple[int, list[str]]:
    """Number of the first line of a statement, with comments straight above it, and its lines."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return first, lines[first - 1 : node.end_lineno]


def _renamed(lines: list[str], old: str, new: str) -> list[str]:
    """Gives a definition its name in the file; its own uses of it are changed already."""
    head = re.compile(rf"^((?:def|class) )?{re.escape(old)}\b")
    at = next(i for i, line in enumerate(lines) if head.match(line))
    return [*lines[:at], head.sub(rf"\g<1>{new}", lines[at]), *lines[at + 1 :]]


def _without_registering(lines: list[str], node: ast.stmt, first: int, home: str) -> list[str]:
    gone: set[int] = set()
    for decorator in _registering(node, home):
        gone |= set(range(decorator.lineno - first, (decorator.end_lineno or 0) - first + 1))
    return [line for at, line in enumerate(lines) if at not in gone]


def _with_docstring(text: str, doc: str) -> str:
    """Puts a module's docstring, indented, ahead of the docstring of the class at its top."""
    tree = ast.parse(text).body[0]
    body = getattr(tree, "body", None)
    if not doc or not body or ast.get_docstring(tree) is None:  # pyright: ignore[reportArgumentType]
        return text
    lines = text.splitlines()
    at = body[0].lineno - 1
    rest = lines[at].lstrip().removeprefix('"""')
    ahead = [f"    {line}".rstrip() for line in doc.strip().splitlines()]
    ahead[0] = f'    """{doc.strip().splitlines()[0]}'
    return "\n".join([*lines[:at], *ahead, "", f"    {rest}", *lines[at + 1 :]])


def file_of(module: str) -> Path | None:
    """Returns the file that a module was read from."""
    found = getattr(sys.modules.get(module), "__file__", None)
    return Path(found) if found else None
