"""Traced -> Survey: every site of the network, and the graph value behind each of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from attnsurgeon.recording.garbage import uncollected
from attnsurgeon.recording.handed_on import handed_on
from attnsurgeon.recording.memory import shared_memory
from attnsurgeon.recording.record import Call, Event, Traced, key_of, keyed_events
from attnsurgeon.shown import brief
from attnsurgeon.sites.ascent import Skip, find_ascent
from attnsurgeon.sites.blocks import Block, find_blocks, owner_of, spatial_convolution
from attnsurgeon.sites.flow import (
    ACTIVATIONS,
    CONVOLUTIONS,
    NORMS,
    POOLS,
    Flow,
    calls_making,
    convolution_of,
    name_of,
)
from attnsurgeon.sites.layouts import find_axes, layout_of
from attnsurgeon.sites.levels import Levels, stride_of
from attnsurgeon.sites.residuals import (
    Residual,
    branch_kinds,
    find_residuals,
    own_matter,
)
from attnsurgeon.sites.site import ModuleRef, Site, size_in
from attnsurgeon.sites.tokens import find_tokens, tokens_at
from attnsurgeon.sites.trunk import Trunk, find_trunk

# The roles that are operations, by the names the operation goes by.
_OPERATIONS = [
    ("conv", CONVOLUTIONS),
    ("norm", NORMS),
    ("act", ACTIVATIONS),
    ("pool", POOLS),
    ("concat", frozenset({"cat"})),
    ("linear", frozenset({"linear"})),
]


@dataclass(eq=False, repr=False)
class Survey:
    """The sites of one recorded network.

    Attributes:
        traced: the record.
        flow: who depends on whom.
        sites: in execution order.
        nodes: site path -> the graph value.
        residuals: path of a residual addition -> what it adds.
        refused: path of every other addition of two values -> why it is not residual.
        inside: those of them that are the own matter of a residual branch.
        blocks: of each block that adds nothing back, the end of its computed path and its output
            -> the call of the block.
        merges: path of a skip -> the operation that the value goes into.
        meets: path of a skip -> the values of the decoder that go into it, too.
        shallow: module path -> what tracing its forward gave; filled by the plans made of it.
        alike: the same by what is compared of modules that are alike.
        kinds: numbers for what is compared, see `forwards.fingerprint`.
    """

    traced: Traced
    flow: Flow
    sites: tuple[Site, ...]
    nodes: Mapping[str, fx.Node]
    residuals: Mapping[str, Residual]
    refused: Mapping[str, str]
    blocks: Mapping[fx.Node, Call] = field(default_factory=dict)
    merges: Mapping[str, fx.Node] = field(default_factory=dict)
    meets: Mapping[str, tuple[fx.Node, ...]] = field(default_factory=dict)
    inside: frozenset[str] = frozenset()
    shallow: dict[str, Any] = field(default_factory=dict)
    alike: dict[Hashable, Any] = field(default_factory=dict)
    kinds: dict[Hashable, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        additions = f"{len(self.residuals):,} residual additions"
        name = type(self.traced.twin).__name__
        return brief(self, f"{name}: {len(self.sites):,} sites, {additions}")

    @cached_property
    def memory(self) -> dict[int, list[fx.Node]]:
        """The values that lie in one memory; see `shared_memory`."""
        return shared_memory(self.traced.graph.nodes)

    @cached_property
    def handed_on(self) -> frozenset[str]:
        """The modules that are a value's only way on; it takes a second forward to know."""
        return handed_on(self.traced)


@uncollected()
def survey(traced: Traced, *, lines: bool = True) -> Survey:
    """Finds all sites of a recorded network.

    Args:
        traced: the record.
        lines: what convolutions of signals make and read are maps of rank 1; without, they are
            rows of tokens, as they were to the versions that did not write ranks down.
    """
    find_axes(traced, lines=lines)
    find_tokens(traced, lines=lines)
    flow = Flow(traced)
    roles = _roles(traced, flow)
    paths = {node: value_path(node) for node in roles.of}
    blocks = {_block_of(r) for r in roles.residuals} | {block.call.path for block in roles.blocks}
    describe = _Describer(traced, roles, paths, frozenset(blocks))
    skips = {_skip_path(skip): skip for skip in roles.skips}
    sites = [describe.site(node) for node in roles.of]
    sites += [describe.skip(path, skip) for path, skip in skips.items()]
    return Survey(
        traced,
        flow,
        tuple(sorted(sites, key=lambda site: site.index)),
        {path: node for node, path in paths.items()}
        | {path: skip.value for path, skip in skips.items()},
        {paths[r.add]: r for r in roles.residuals},
        {value_path(node): why for node, why in roles.refused.items()},
        {node: block.call for block in roles.blocks for node in (block.end, block.output)},
        {path: skip.into for path, skip in skips.items()},
        {path: skip.meets for path, skip in skips.items()},
        frozenset(map(value_path, own_matter(roles.residuals, roles.refused, flow))),
    )


def _skip_path(skip: Skip) -> str:
    """Names a value by the operation that it goes into: `up1:cat(1)` is its second operand."""
    return f"{value_path(skip.into)}({operand_of(skip.into, skip.value)})"


def operand_of(node: fx.Node, value: fx.Node) -> int:
    """Which of the values that an operation works on is this one."""
    return list(node.all_input_nodes).index(value)


def value_path(node: fx.Node) -> str:
    """Names a value: `layer1.0.bn3` for a module's, `layer1.0:add` for a functional operation's.

    The n-th call of a module, the n-th operation of a name in one forward, carries `#n`. A module
    that stands at several places is named by the place that it is called from.
    """
    call: Call = node.meta["call"]
    event: Event = node.meta["event"]
    if makes_alone(call, node):
        return call.name
    path = f"{call.name}:{event.name}" + (f"#{event.ordinal + 1}" if event.ordinal else "")
    return path if len(event.nodes) == 1 else f"{path}[{event.nodes.index(node)}]"


def makes_alone(call: Call, node: fx.Node) -> bool:
    """Whether the call is the value's one producer: its output, with no child that computes."""
    return (
        call.returns(node)
        and call.parent is not None
        and not any(isinstance(e, Call) and _computes(e) for e in call.events)
    )


def _computes(call: Call) -> bool:
    return any(_computes(e) if isinstance(e, Call) else not e.alias for e in call.events)


def _representative(node: fx.Node) -> fx.Node:
    """The output of the module that exists for this operation (a LayerNorm2d between permutes)."""
    call: Call = node.meta["call"]
    if len(call.outputs) != 1 or not makes_alone(call, call.outputs[0]):
        return node
    own = [
        e for e in call.events if isinstance(e, Event) and any(e.name in n for _, n in _OPERATIONS)
    ]
    return call.outputs[0] if len(own) == 1 and call.outputs[0].meta["data"] else node


@dataclass(frozen=True)
class _Roles:
    """Who plays what: roles, branch kinds and convolutions by value; additions, blocks, trunk."""

    of: dict[fx.Node, set[str]]
    branches: dict[fx.Node, tuple[str, ...]]
    convolutions: dict[fx.Node, fx.Node]
    residuals: list[Residual]
    refused: dict[fx.Node, str]
    blocks: list[Block]
    trunk: Trunk
    levels: Levels
    skips: tuple[Skip, ...]


def _roles(traced: Traced, flow: Flow) -> _Roles:
    roles: dict[fx.Node, set[str]] = {}
    convolutions: dict[fx.Node, fx.Node] = {}
    for node in flow.nodes:
        if node.meta.get("event") is None or node.meta["shape"] is None:
            continue
        for role, names in _OPERATIONS:
            if name_of(node) in names:
                whole = _representative(node)
                roles.setdefault(whole, set()).add(role)
                if role == "conv":
                    convolutions[whole] = node
    levels = Levels(traced, flow)
    residuals, refused = find_residuals(flow, levels)
    branches: dict[fx.Node, tuple[str, ...]] = {}
    for residual in residuals:
        roles.setdefault(residual.add, set()).add("residual-add")
        roles.setdefault(_after_activation(residual.add), set()).update(("residual-block", "block"))
        for branch in residual.branches:
            if branch.meta.get("event") is not None:
                roles.setdefault(branch, set()).update(("residual-branch", "block-branch"))
                branches[branch] = branch_kinds(residual, branch, flow)
    trunk = find_trunk(traced, flow, levels, residuals)
    blocks = find_blocks(traced, flow, residuals, trunk)
    ascent = find_ascent(traced, flow, levels, trunk.ending)
    skips = tuple(s for s in ascent.skips if s.into.meta.get("event") is not None)
    last = _classifier(traced, flow)
    if last is not None:
        roles.setdefault(_representative(last), set()).add("classifier")
    for role, nodes in [
        ("downsample", trunk.entering),
        ("stage", trunk.ends),
        ("stem", [trunk.stem] if trunk.stem else []),
        ("head", trunk.values[-1:]),
        ("decoder", ascent.decoder),
        ("neck", ascent.neck),
        ("block-branch", [block.end for block in blocks]),
        ("block", [block.output for block in blocks]),
        ("block-conv", _spatial_convolutions(residuals, blocks, flow)),
    ]:
        for node in nodes:
            if node.meta.get("event") is not None:
                roles.setdefault(node, set()).add(role)
    return _Roles(roles, branches, convolutions, residuals, refused, blocks, trunk, levels, skips)


def _spatial_convolutions(
    residuals: list[Residual], blocks: list[Block], flow: Flow
) -> list[fx.Node]:
    """Of each block the last convolution beyond 1x1, as the site that stands for it."""
    paths = [(r.source.meta.get("order", -1) + 1, end) for r in residuals for end in r.branches]
    paths += [(block.call.start, block.end) for block in blocks]
    found = [spatial_convolution(start, end, flow) for start, end in paths]
    return [_representative(node) for node in found if node is not None]


def _classifier(traced: Traced, flow: Flow) -> fx.Node | None:
    """The layer whose result is the network's one output, a score for each class."""
    outputs = [n for n in traced.root.outputs if n in flow.rank]
    if len(outputs) != 1 or len(outputs[0].meta["shape"]) != 2:
        return None
    return outputs[0] if name_of(outputs[0]) == "linear" else None


def _after_activation(add: fx.Node) -> fx.Node:
    """The block's output: the activation that follows inside the same owner, else the sum."""
    users = list(add.users)
    if len(users) == 1 and name_of(users[0]) in ACTIVATIONS:
        call: Call = users[0].meta["call"]
        if add.meta["call"] in call.chain():
            return users[0]
    return add


def _block_of(residual: Residual) -> str:
    owner = owner_of(residual)
    return residual.add.meta["call"].path if owner is None else owner.path


def _owner_of(node: fx.Node) -> Call:
    """The call whose forward the value passes through: the producer's caller, or its own."""
    call: Call = node.meta["call"]
    return call.parent if call.parent is not None and makes_alone(call, node) else call


@dataclass(frozen=True)
class _Describer:
    """Turns graph values into Site records of one network."""

    traced: Traced
    roles: _Roles
    paths: Mapping[fx.Node, str]
    blocks: frozenset[str]

    def site(self, node: fx.Node) -> Site:
        call: Call = node.meta["call"]
        owner = _owner_of(node)
        layout, _ = layout_of(node, self.traced.batch)
        shape = node.meta["shape"]
        tokens = tokens_at(node, layout)
        channels = None if layout is None else shape[layout.index("C")]
        chain = list(call.chain())
        alone = owner is not call
        source = self.roles.convolutions.get(node)
        conv = convolution_of(source) if source is not None else None
        return Site(
            path=self.paths[node],
            owner=owner.path,
            type=type(call.module).__name__ if alone else name_of(node),
            roles=frozenset(self.roles.of[node]),
            channels=channels,
            shape=shape,
            layout=layout,
            stride=stride_of(node, self.traced),
            stage=self.roles.trunk.stage_of(node, self.roles.levels),
            block=next((c.path for c in chain if c.path in self.blocks), None),
            calls=len(self.traced.calls[call.path]),
            kernel=conv.kernel if conv else None,
            conv_stride=conv.stride if conv else None,
            groups=conv.groups if conv else None,
            depthwise=conv.depthwise if conv else None,
            branch=self.roles.branches.get(node),
            inside=tuple(ModuleRef(c.path, type(c.module).__name__) for c in chain[alone:]),
            has=_contained(node),
            follows=tuple(_nearby(node, self.paths, forward=False)),
            precedes=tuple(_nearby(node, self.paths, forward=True)),
            index=node.meta["order"],
            runs=len(self.traced.calls[owner.path]),
            sizes=self.sizes(owner, node, layout),
            grid=tokens.sides if tokens else None,
            beside=(tokens.before, tokens.after) if tokens else (0, 0),
            no_stage=self.roles.trunk.why_no_stage(node, self.traced, self.roles.levels),
        )

    def skip(self, path: str, skip: Skip) -> Site:
        """A value where it goes into an operation, which has the site's owner and type."""
        value, owner = skip.value, _owner_of(skip.into)
        layout, _ = layout_of(value, self.traced.batch)
        tokens = tokens_at(value, layout)
        call: Call = skip.into.meta["call"]
        alone = owner is not call
        before = [self.paths[value]] if value in self.paths else None
        return Site(
            path=path,
            owner=owner.path,
            type=type(call.module).__name__ if alone else name_of(skip.into),
            roles=frozenset(["skip"]),
            channels=None if layout is None else value.meta["shape"][layout.index("C")],
            shape=value.meta["shape"],
            layout=layout,
            stride=stride_of(value, self.traced),
            stage=self.roles.trunk.stage_of(value, self.roles.levels),
            block=next((c.path for c in call.chain() if c.path in self.blocks), None),
            calls=len(self.traced.calls[call.path]),
            inside=tuple(ModuleRef(c.path, type(c.module).__name__)
                         for c in list(call.chain())[alone:]),
            follows=tuple(before or _nearby(value, self.paths, forward=False)),
            precedes=(self.paths[skip.into],) if skip.into in self.paths else (),
            index=skip.into.meta["order"],
            runs=len(self.traced.calls[owner.path]),
            sizes=() if layout is None else (size_in(layout, value.meta["shape"]),),
            grid=tokens.sides if tokens else None,
            beside=(tokens.before, tokens.after) if tokens else (0, 0),
        )  # fmt: skip

    def sizes(self, owner: Call, node: fx.Node, layout: str | None) -> tuple[tuple[int, ...], ...]:
        """The resolutions that the value has in the runs of its owner, each once."""
        if layout is None:
            return ()
        nodes = [node, *_in_other_runs(owner, node, self.traced.calls[owner.path])]
        same = [n.meta["shape"] for n in nodes if len(n.meta["shape"]) == len(layout)]
        return tuple(dict.fromkeys(size_in(layout, shape) for shape in same))


def _in_other_runs(owner: Call, node: fx.Node, runs: list[Call]) -> Iterator[fx.Node]:
    """What the same operation of a forward makes in its other runs."""
    if len(runs) == 1:
        return
    call: Call = node.meta["call"]
    event: Event | Call = node.meta["event"] if owner is call else call
    key, made = key_of(owner, event), _made(event)
    for run in runs:
        other = dict(keyed_events(run)).get(key) if run is not owner else None
        if other is not None and len(_made(other)) == len(made):
            yield _made(other)[made.index(node)]


def _made(event: Event | Call) -> tuple[fx.Node, ...]:
    return event.outputs if isinstance(event, Call) else event.nodes


def _contained(node: fx.Node) -> tuple[ModuleRef, ...]:
    """The modules inside the outermost module whose output is this value."""
    makers = list(calls_making(node))
    if not makers:
        return ()
    top = makers[-1]
    return tuple(
        ModuleRef(f"{top.path}.{name}" if top.path else name, type(module).__name__)
        for name, module in top.module.named_modules()
        if name
    )


def _nearby(node: fx.Node, paths: Mapping[fx.Node, str], forward: bool) -> list[str]:
    """Paths of the nearest sites before or after a value, through values that are no sites."""
    found: list[str] = []
    seen = {node}
    todo = list(node.users) if forward else Flow.inputs(node)
    while todo:
        other = todo.pop(0)
        if other in seen:
            continue
        seen.add(other)
        if other in paths:
            found.append(paths[other])
        else:
            todo += list(other.users) if forward else Flow.inputs(other)
    return found
