"""An operated network -> the text of a file of Python that builds it again."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from attnsurgeon.attention.heads.tapped import InputTap, Mailbox, OutputTap, Tap, Tapped
from attnsurgeon.attention.identity import Blend, BlendOld, BlendPair
from attnsurgeon.attention.linked.chain import Chain, Link
from attnsurgeon.attention.own.applied import Applied, blended
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import ModelError
from attnsurgeon.exporting.code.base import Base, built, literal, own_file
from attnsurgeon.exporting.code.bundle import Bundle
from attnsurgeon.exporting.code.forwards import attended, method, references_used
from attnsurgeon.exporting.code.modules import Built, core
from attnsurgeon.forwards.retype import is_generated, original_class
from attnsurgeon.models import Source
from attnsurgeon.models.imports import import_file
from attnsurgeon.splicing.channels_first import InputHook, OutputHook
from attnsurgeon.splicing.history import STRIPPED, history, inserted

OURS = "attnsurgeon"
_RESERVED = ("WEIGHTS", "build", "emptied", "module_at", "attend_ahead", "attend_behind")
_PARTS = ("attention", "head", "inner")  # where what stands around a mechanism keeps it


@dataclass(frozen=True)
class Page:
    """A file of Python.

    Attributes:
        text: of it.
        base: how it builds the base network.
    """

    text: str
    base: Base


def page_of(
    model: nn.Module, source: Source, outline: nn.Module, *, stem: str, inline: bool = False
) -> Page:
    """Writes the file that builds an operated network.

    Args:
        model: the network.
        source: where its base came from.
        outline: its base on the meta device.
        stem: of the file's name, and of that of its weights.
        inline: write out the code of a base that a file of the user's builds, too.

    Raises:
        ModelError: some of it cannot be written so that it computes the same; the message says
            what, and why.
    """
    return _Writer(model, source, outline, stem, inline).page()


@dataclass(eq=False)
class _Writer:
    model: nn.Module
    source: Source
    outline: nn.Module
    stem: str
    inline: bool
    bundle: Bundle = field(init=False)
    classes: dict[type, str] = field(default_factory=dict)  # generated class -> its name
    blocks: list[str] = field(default_factory=list)  # the text of those classes
    hooks: dict[str, str] = field(default_factory=dict)  # the text of a hook -> its name
    shared: dict[int, str] = field(default_factory=dict)  # what several places share -> variable
    setup: dict[str, str] = field(default_factory=dict)  # variable -> how it is made
    uses_emptied: bool = False

    def page(self) -> Page:
        written = [OURS, *self._own_code()]
        file = own_file(self.source)
        called = {} if file is None else {_imported_as(file): file.stem}
        self.bundle = Bundle(written, _RESERVED, called)
        self.bundle.imported("torch", "nn")
        self.bundle.imported("pathlib", "Path")
        self.bundle.imported("typing", "Any")
        self.bundle.imported("safetensors.torch", "load_file")
        base = built(self.source, self.bundle)
        hosts = [host for host in self._hosts() if host.statements]
        body = [f"model = {base.expression}", *self._loops(hosts)]
        return Page(self._text(base, body), base)

    def _own_code(self) -> Iterator[str]:
        """Modules of the user's to write out: their attention, and with `inline` the base."""
        for path, _ in inserted(self.model):
            card_build = lookup(self.record(path)["attn"]).build
            home = getattr(card_build, "__module__", OURS)
            if not home.startswith(f"{OURS}."):
                yield home
        file = own_file(self.source)
        if self.inline and file is not None:
            yield _imported_as(file)

    # What is done at one module ------------------------------------------------------------------

    def record(self, path: str) -> Mapping[str, Any]:
        for operation in history(self.model):
            for site in operation["sites"]:
                if site["module_path"] == path:
                    return site
        raise ModelError(f"nothing is recorded of the attention at {path}")

    def _hosts(self) -> Iterator[_Host]:
        ours = {id(module): path for path, module in inserted(self.model)}
        inside: tuple[str, ...] = ()
        for path, module in self.model.named_modules():
            if id(module) in ours and path == ours[id(module)]:
                inside = (*inside, f"{path}.")
                continue
            if not path.startswith(inside) if inside else True:
                yield self._host(path, module, ours)

    def _host(self, path: str, module: nn.Module, ours: Mapping[int, str]) -> _Host:
        host = _Host(path)
        for name, child in module._modules.items():
            if child is not None and id(child) in ours:
                self._insertion(host, name, child)
        if is_generated(type(module)):
            host.statements.append(f"block.__class__ = {self._class(module, ours)}")
        for hooks, register in (
            (module._forward_pre_hooks, "register_forward_pre_hook"),
            (module._forward_hooks, "register_forward_hook"),
        ):
            for hook in hooks.values():
                if (made := self._hook(module, hook)) is not None:
                    host.statements.append(f"block.{register}({made})")
        if STRIPPED in module.__dict__:
            host.statements.append("emptied(block)")
            self.uses_emptied = True
        return host

    def _insertion(self, host: _Host, name: str, child: nn.Module) -> None:
        path = f"{host.path}.{name}" if host.path else name
        record = self.record(path)
        around, inner = self._peeled(child, host, _Around())
        if id(inner) in self.shared:
            expression, changed = self.shared[id(inner)], ()
        else:
            made = core(inner, record, self._conv(record, host), self.bundle)
            if isinstance(child, Link) and self._is_tied(inner):
                variable = self._variable(inner, made.kind.lower(), made.call())
                self._share_changes(variable, made)
                expression, changed = variable, ()
            else:
                hole = host.hole("channels", made.source) if made.source.isdigit() else made.source
                expression, changed = made.call(hole), made.changes
        inner_path = ".".join([name, *around.attributes])
        expression = around.template.replace("@", expression)
        host.statements.append(f"block.{name} = {expression}")
        for inside, value in changed:
            host.statements.append(_assignment("block", f"{inner_path}.{inside}", value))

    def _share_changes(self, variable: str, made: Built) -> None:
        lines = [_assignment(variable, inside, value) for inside, value in made.changes]
        self.setup[variable] = "\n".join([self.setup[variable], *lines])

    def _is_tied(self, inner: nn.Module) -> bool:
        found = [m for _, m in self.model.named_modules() if isinstance(m, Link)]
        return sum(link.attention is inner for link in found) > 1

    def _conv(self, record: Mapping[str, Any], host: _Host) -> tuple[str, nn.Module]:
        """The convolution that a site is, as an expression, and on meta."""
        path = record["path"].partition(":")[0]
        try:
            conv = self.outline.get_submodule(path)
        except AttributeError:
            conv = self.outline.get_submodule(host.path)
        if path == host.path:
            return "block", conv
        inside = path.removeprefix(f"{host.path}.") if host.path else path
        if all(part.isidentifier() for part in inside.split(".")) and path != inside:
            return f"block.{inside}", conv
        return f"block.get_submodule({inside!r})", conv

    def _peeled(self, inner: Any, host: _Host, around: _Around) -> tuple[_Around, nn.Module]:
        """What was put around a mechanism, and the mechanism."""
        kind: Any = original_class(inner)
        name = self.bundle.name_of
        if kind is Link:
            chain = self._variable(inner.chain, "chain", f"{name(Chain)}()")
            place = host.hole("place", str(inner.place))
            tied = ", tied=True" if getattr(inner, "tied", False) else ""
            around.add(f"{name(Link)}(@, {chain}, {place}{tied})", "attention")
            return self._peeled(inner.attention, host, around)
        if kind is Tapped:
            what = (
                f"@, {self._mailbox(inner.mailbox)}, {literal(inner.orders)}, "
                f"logits_first={inner.logits_first}, old_last={inner.old_last}"
            )
            around.add(f"{name(Tapped)}({what})", "head")
            return self._peeled(inner.head, host, around)
        if kind in (Blend, BlendOld, BlendPair):
            base = f", {name(inner.base)}" if kind is BlendPair else ""
            around.add(f"{name(kind)}(@{base})", "inner")
            return self._peeled(inner.inner, host, around)
        if isinstance(inner, Applied):
            made = f"{name(kind)}(@, {inner.name.rpartition(':')[2]!r})"
            around.add(made if inner.g is None else f"{name(blended)}({made}, None)", "inner")
            return self._peeled(inner.inner, host, around)
        return around, inner

    def _mailbox(self, mailbox: Mailbox) -> str:
        return self._variable(mailbox, "mailbox", f"{self.bundle.name_of(Mailbox)}()")

    def _variable(self, thing: Any, stem: str, made: str) -> str:
        """A variable for what several places share."""
        if id(thing) not in self.shared:
            number = next(n for n in itertools.count(1) if f"{stem}{n}" not in self.setup)
            self.shared[id(thing)] = f"{stem}{number}"
            self.setup[f"{stem}{number}"] = f"{stem}{number} = {made}"
        return self.shared[id(thing)]

    def _hook(self, module: nn.Module, hook: Any) -> str | None:
        if isinstance(hook, Tap):
            box = self._mailbox(hook.mailbox)
            kind = self.bundle.name_of(OutputTap if isinstance(hook, OutputTap) else InputTap)
            return f"{kind}({box}, {hook.index}{', copies=True' if hook.copies else ''})"
        if not isinstance(hook, (OutputHook, InputHook)):
            return None  # of the base network
        inner = f"module.{hook.name}"
        if isinstance(hook, OutputHook):
            made = attended(inner, hook.way, ["output"], self.bundle.name_of)
            name, head, what = "behind", "output", made
            doc = "Forward hook: hands the output of a module on through its attention."
        else:
            made = attended(inner, hook.way, ["args[0]"], self.bundle.name_of)
            name, head, what = "ahead", "", f"({made}, *args[1:])"
            doc = "Forward pre-hook: hands the input of a module through its attention first."
        text = f'(module, args{", output" if head else ""}):\n    """{doc}"""\n    return {what}\n'
        if text not in self.hooks:
            number = sum(known.startswith(f"attend_{name}") for known in self.hooks.values())
            self.hooks[text] = f"attend_{name}{number + 1 if number else ''}"
        return self.hooks[text]

    # Classes with a forward of their own ---------------------------------------------------------

    def _class(self, module: nn.Module, ours: Mapping[int, str]) -> str:
        kind: Any = type(module)
        if kind not in self.classes:
            base, parent = original_class(module), kind.__bases__[0]
            children = {n: c for n, c in module._modules.items() if id(c) in ours}
            what = {self._kind_of(child): None for child in children.values()}
            parts = "And".join(what)
            name = f"{base.__name__}With{parts}" if what else f"Passing{base.__name__}"
            if what and parent is not base:
                name = f"{parts}For{base.__name__}"
            self.classes[kind] = name = self._unused(name)
            self.blocks.append(self._class_text(name, parent, kind._surgeon_code[:2], children))
        return self.classes[kind]

    def _kind_of(self, child: Any) -> str:
        if isinstance(child, (Link, Tapped, Blend, BlendOld, BlendPair, Applied)):
            parts = child._modules
            return self._kind_of(next(parts[name] for name in _PARTS if name in parts))
        return original_class(child).__name__.lstrip("_")

    def _unused(self, name: str) -> str:
        taken = {*self.classes.values(), *_RESERVED}
        numbered = (f"{name}{n}" for n in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    def _class_text(
        self, name: str, base: type[nn.Module], code: Any, children: Mapping[str, Any]
    ) -> str:
        sources, references = code[:2]
        sources = [source for source in sources if source.startswith("def ")]  # what runs
        names = {}
        for given, home, attribute in references_used(references):
            if not any(re.search(rf"\b{re.escape(given)}\b", source) for source in sources):
                continue
            now = self._referred(given, home, attribute)
            if now != given:
                names[given] = now
        methods = [method(source, names, self.bundle.name_of) for source in sources]
        parent = self.bundle.name_of(base)
        names_of = " and ".join(f"`{n}`" for n in children)
        told = f"{parent} with attention, {names_of}" if children else f"{parent}, left out"
        fields = [f"{n}: {self.bundle.name_of(original_class(c))}" for n, c in children.items()]
        parts = [f'"""{told}."""', *(["\n".join(fields)] if fields else []), *methods]
        return f"class {name}({parent}):\n" + textwrap.indent("\n\n".join(parts), "    ") + "\n"

    def _referred(self, given: str, home: str, attribute: str) -> str:
        """What a name of generated code is called in the file."""
        if home == "math" or home == "types":
            return f'float("{attribute}")' if home == "math" else "type(None)"
        if not attribute:
            return self.bundle.imported(home, "", wanted=given) if "." not in home else (
                self.bundle.imported(home.rpartition(".")[0], home.rpartition(".")[2], wanted=given)
            )  # fmt: skip
        top, _, rest = attribute.partition(".")
        name = self.bundle.need(home, top)
        return f"{name}.{rest}" if rest else name

    # The file ------------------------------------------------------------------------------------

    def _loops(self, hosts: list[_Host]) -> list[str]:
        """The statements of all modules, those that are alike in one loop."""
        lines = [self.setup[variable] for variable in self.setup]
        groups: dict[tuple[str, ...], list[_Host]] = {}
        for host in hosts:
            groups.setdefault(host.form, []).append(host)
        for alike in groups.values():
            lines.append(_loop(alike))
        return lines

    def _text(self, base: Base, body: list[str]) -> str:
        definitions = self.bundle.definitions()
        helpers = [_MODULE_AT, *([_EMPTIED] if self.uses_emptied else [])]
        hooks = [f"def {name}{text}" for text, name in self.hooks.items()]
        kinds = dict.fromkeys(self.record(path)["attn"] for path, _ in inserted(self.model))
        needs = ", ".join(filter(None, ("torch", base.package, "safetensors")))
        if base.file is not None and not self.inline:
            needs += f", and {base.file.name} beside this file"
        head = (
            f'"""{base.words} with {", ".join(kinds)}.\n\n'
            f"    model = build()\n\nNeeds {needs}.\n"
            f'"""\n\n{_CHECKED}\nfrom __future__ import annotations\n'
        )
        build = (
            "def build(weights: str | Path | None = WEIGHTS) -> nn.Module:\n"
            f'    """Returns {base.words} with its attention, in training mode.\n\n'
            "    Args:\n"
            "        weights: a file of safetensors; None for a random start.\n"
            '    """\n' + textwrap.indent("\n".join(body), "    ") + "\n"
            "    if weights is not None:\n"
            "        model.load_state_dict(load_file(weights))\n"
            "    return model\n"
        )
        weights = f'WEIGHTS = Path(__file__).with_name("{self.stem}.safetensors")\n'
        imports = "\n".join(self.bundle.import_lines()) + "\n"
        parts = [*definitions, *helpers, *hooks, *self.blocks, build]
        text = (
            "\n".join([head, imports, weights])
            + "\n\n"
            + "\n\n\n".join(p.strip("\n") for p in parts)
        )
        return text + "\n"


@dataclass(eq=False)
class _Around:
    """What stands around a mechanism: the expression with @ for it, and the way in."""

    template: str = "@"
    attributes: list[str] = field(default_factory=list)

    def add(self, template: str, attribute: str) -> None:
        self.template = self.template.replace("@", template)
        self.attributes.append(attribute)


@dataclass(eq=False)
class _Host:
    """What is done at one module: statements about `block`, with holes for numbers."""

    path: str
    statements: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def hole(self, name: str, value: str) -> str:
        given = next(
            n
            for n in itertools.chain([name], (f"{name}{i}" for i in itertools.count(2)))
            if n not in self.values
        )
        self.values[given] = value
        return f"<{given}>"

    @property
    def form(self) -> tuple[str, ...]:
        """Equal for modules at which the same is done."""
        return (*self.statements, *([] if self.path else ["the network itself"]))


def _loop(alike: list[_Host]) -> str:
    """The statements of modules at which the same is done."""
    first = alike[0]
    names = [n for n in first.values if len({host.values[n] for host in alike}) > 1]
    text = "\n".join(first.statements)
    for name, value in first.values.items():
        text = text.replace(f"<{name}>", name if name in names else value)
    if not first.path:
        return re.sub(r"\bblock\b", "model", text)
    if len(alike) == 1:
        return f'block = module_at(model, "{first.path}")\n{text}'
    paths = [
        f'("{host.path}", {", ".join(host.values[n] for n in names)})'
        if names
        else f'"{host.path}"'
        for host in alike
    ]
    rows = "".join(f"    {row},\n" for row in paths)
    targets = ", ".join(["path", *names])
    inner = textwrap.indent(f"block = module_at(model, path)\n{text}", "    ")
    return f"for {targets} in (\n{rows}):\n{inner}"


def _assignment(target: str, inside: str, value: str) -> str:
    """The statement that sets what is at a path inside of a module."""
    owner, _, name = inside.rstrip(".").rpartition(".")
    place = f'module_at({target}, "{owner}").{name}' if owner else f"{target}.{name}"
    if not name:
        place = target
    return f"{place} = {value.replace('@', place)}"


def _imported_as(file: Path) -> str:
    """The name that a file of the user's was imported under in this process."""
    return import_file(file).__name__


# Libraries declare layers that a constructor may leave out; a forward that was traced calls none.
_CHECKED = "# pyright: basic, reportOptionalCall=false\n"
_MODULE_AT = '''def module_at(model: nn.Module, path: str) -> Any:
    """Returns the module at a path, of no declared type: attributes of all kinds are set on it."""
    return model.get_submodule(path)'''
_EMPTIED = '''def emptied(module: nn.Module) -> None:
    """Takes the parameters and buffers away of what attention has taken the place of."""
    for tensors in (module._parameters, module._buffers):
        tensors.update(dict.fromkeys(tensors))'''
