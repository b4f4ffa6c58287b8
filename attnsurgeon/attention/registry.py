"""A mechanism's name -> its card and, with arguments, the module itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import dedent
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from attnsurgeon.attention.arguments import complete, defaults, meanings, takes
from attnsurgeon.attention.identity import Identity, Start, Within, pair
from attnsurgeon.attention.pictures import AS_SEEN, Picture
from attnsurgeon.attention.shapes import CONVOLUTIONS
from attnsurgeon.attention.weights.each import Excited
from attnsurgeon.errors import MechanismError, nearest
from attnsurgeon.shown import Shown

# kind -> what is done to a network by default, and the values that `forward` is handed there:
# "value" at the site (of a convolution, an activation and a head: its input), the "weight" of a
# convolution, the "branch" and the "shortcut" of an addition, the "source" that the site's
# residual block starts from, the "map" before global pooling; of a skip also what it meets in the
# decoder, as it was "raised" to its resolution, or the "coarser" value from which that was raised.
ACTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "gate": ("insert-after", ("value",)),
        "conv": ("replace", ("value",)),
        "weight": ("replace", ("weight",)),
        "activation": ("replace", ("value",)),
        "fusion": ("fuse", ("branch", "shortcut")),
        "linked": ("insert-after", ("value",)),
        "head": ("replace", ("map",)),
    }
)
KINDS = tuple(ACTIONS)
REPLACES_A_CONV = ("conv", "weight")  # these kinds are built from the convolution they replace
INITS = ("identity", "paper")


@dataclass(frozen=True, repr=False)
class Mechanism(Shown):
    """The card of one mechanism: how to build it and the facts it is checked against.

    Attributes:
        name: what users type.
        title: the name in words.
        kind: one of `KINDS`; it decides what the mechanism does to a network.
        build: the class; takes `channels` (or `conv`) and keywords.
        ranks: the spatial ranks it can be built for: 1 for (L,), 2 for (H, W), 3 for (D, H, W).
        paper: address of the publication.
        venue: where and when it was published.
        equation: the function, as text.
        placement: name of the shipped rule file that is the authors' own placement.
        formula: the number of parameters, as text.
        count: the same as a function of any of `channels`, `conv`, `rank` and the arguments.
        identity: "native" or "blend", the exact form in which it starts as the identity.
        identity_how: the sentence that says how.
        start: turns a module built by `build` into one that starts as the identity, alone.
        within: the same inside a network that hands over what it computed there before; None
            where `start` serves.
        constraints: what the input or the arguments have to satisfy.
        deviations: where published versions disagree and which one is followed here.
        limits: where it cannot be carried, each as "COLUMN, COLUMN: reason", after the columns of
            docs/portability.md.
        unmoved: parameters that cannot learn while the module is in training mode, with the
            reason among the deviations (biases straight before a batch norm).
        inert: parameters that cannot learn in any mode and are kept for the authors' count, with
            the reason among the deviations (a bias that all scores of a softmax share).
        bottleneck: the layers straight before a ReLU, whose units can be dead for every input where
            they are few; of a start as identity they come in pairs of opposite sign.
        lighter: where the default would more than double a network: which arguments or placement
            cost less, in one sentence.
        rank_reason: why it is not defined for all three ranks, where it is not.
        resolution_free: the same instance may see inputs of several resolutions.
        spatial: it matters where a position lies, so it needs H and W; False where shuffling
            the positions only shuffles the output, so that it may also be used on tokens.
        site_args: the arguments that follow from where the mechanism is put, as a function of
            `size`, the site's spatial sizes, and of any of the arguments and further facts of the
            site: `rank`; `conv`; `source_channels` and `source_size` where it takes the source;
            `classes` of a head; a fact that may be unknown has a default. None where none do.
        takes: which values `forward` is handed, in order, where it is not what its kind says:
            names as in `ACTIONS`, or a function of the arguments.
        swallows_norm: the norm behind the replaced convolution is part of the mechanism and goes
            under init="paper".
        per_sample: of a "weight": it makes a weight for each image, (N, out, in, ...).
        scope: of a "linked": which sites form one chain, those of a "stage" or all ("network").
        tied: of a "linked": the sites of a chain run one and the same module.
        picture: what it did to an input, as named tensors, for those who look.
        adopt: (mechanism, the replaced module): takes over its weights, under either start.
    """

    name: str
    title: str
    kind: str
    build: Callable[..., nn.Module]
    ranks: tuple[int, ...]
    paper: str
    venue: str
    equation: str
    placement: str
    formula: str
    count: Callable[..., int]
    identity: str
    identity_how: str
    start: Start
    within: Within | None = None
    constraints: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()
    bottleneck: tuple[str, ...] = ()
    lighter: str = ""
    rank_reason: str = ""
    resolution_free: bool = True
    spatial: bool = True
    site_args: Callable[..., Mapping[str, Any]] | None = None
    takes: tuple[str, ...] | Callable[..., tuple[str, ...]] | None = None
    swallows_norm: bool = False
    per_sample: bool = False
    scope: str = ""
    tied: bool = False
    picture: Picture = AS_SEEN
    adopt: Callable[[nn.Module, nn.Module], None] | None = None

    @property
    def action(self) -> str:
        """What is done to a network by default: "insert-after", "replace" or "fuse"."""
        return ACTIONS[self.kind][0]

    def inputs(self, args: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the names of the values that `forward` is handed, in order (see `ACTIONS`)."""
        if self.takes is None:
            return ACTIONS[self.kind][1]
        if isinstance(self.takes, tuple):
            return self.takes
        known = {**self.args, **args}
        return self.takes(**{n: known[n] for n in inspect.signature(self.takes).parameters})

    @property
    def args(self) -> Mapping[str, Any]:
        """Argument name -> default, read from the constructor."""
        return defaults(self.build)

    @property
    def meanings(self) -> Mapping[str, str]:
        """Argument name -> a sentence about it, read from the constructor's docstring."""
        return meanings(self.build)

    def params(self, channels: int | nn.Module, *, rank: int = 2, **args: Any) -> int:
        """Returns the exact number of parameters under init="paper".

        Args:
            channels: C, or the convolution for a mechanism that replaces one.
            rank: 1, 2 or 3.
            **args: arguments that differ from the defaults.
        """
        known = complete(self.build, args) | {"channels": channels, "conv": channels, "rank": rank}
        wanted = inspect.signature(self.count).parameters
        return self.count(**{name: known[name] for name in wanted})

    def args_at(
        self, size: tuple[int, ...], given: Mapping[str, Any], **facts: Any
    ) -> dict[str, Any]:
        """Returns the given arguments, and those that follow from the site where they are missing.

        Args:
            size: the site's (L,), (H, W) or (D, H, W), or (L,) for tokens.
            given: what the user gave; it is never replaced, and checked only when it is used.
            **facts: what else is known of the site; see `site_args`. A row of tokens has rank 2,
                which is the default for (L,), as it is operated on as a map of one column.

        Raises:
            MechanismError: with these arguments it is not for a site of that size.
        """
        if self.site_args is None:
            return dict(given)
        known = {"rank": max(len(size), 2), **self.args, **facts, **given, "size": size}
        wanted = inspect.signature(self.site_args).parameters.values()
        try:
            follow = self.site_args(
                **{p.name: known[p.name] for p in wanted if p.name in known or p.default is p.empty}
            )
        except MechanismError as error:
            raise MechanismError(f"{self.name}: {error.what}", error.hint) from error
        return {**follow, **given}

    @property
    def own(self) -> bool:
        """Whether it is code of the user's, none of the catalogue."""
        return False

    def make(self, source: int | nn.Module, rank: int, args: Mapping[str, Any]) -> nn.Module:
        """Builds the module as its authors start it.

        Args:
            source: channels, or the convolution.
            rank: 1, 2 or 3.
            args: arguments that differ from the defaults.
        """
        full = complete(self.build, args)
        if takes(self.build, "rank"):
            full["rank"] = rank
        return self.build(source, **full)

    def try_on(self, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        """Runs a fresh module on a map of a site's shape; of the catalogue this is known to work.

        Args:
            build: makes the module.
            shape: of the map without the batch, (C, ...).

        Raises:
            MechanismError: it cannot work there.
        """


_TABLE: dict[str, Mechanism] = {}
_OWN: dict[str, Mechanism] = {}  # of the user, by what they call it: no part of the catalogue
_Built = TypeVar("_Built", bound=type[nn.Module])


def mechanism(
    name: str,
    *,
    kind: str,
    ranks: tuple[int, ...],
    placement: str,
    formula: str,
    count: Callable[..., int],
    identity: Identity,
    picture: Picture,
    **facts: Any,
) -> Callable[[_Built], _Built]:
    """Registers the decorated class; title, equation, venue and paper are read from its module.

    Raises:
        ValueError: the name is taken, the kind is unknown, or the module's docstring is not
            of the form of the other mechanisms' (our own mistakes, not a user's).
    """

    def add(build: _Built) -> _Built:
        if name in _TABLE:
            raise ValueError(f"mechanism {name!r} is already {_TABLE[name].build}")
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind; {nearest(kind, KINDS)}")
        _TABLE[name] = Mechanism(
            name=name,
            kind=kind,
            build=build,
            ranks=ranks,
            placement=placement,
            formula=formula,
            count=count,
            identity=identity.form,
            identity_how=identity.how,
            start=identity.start,
            within=identity.within,
            picture=picture,
            **read_docstring(sys.modules[build.__module__].__doc__),
            **facts,
        )
        return build

    return add


def read_docstring(text: str | None) -> dict[str, str]:
    """Returns title, equation, venue and paper from a mechanism file's docstring.

    Its form: `Title: what it does.`, the equation indented, then the citation
    `Authors, "Title", Venue, https://...`.
    """
    if text is None:  # python -OO drops docstrings, and with them the texts of the cards
        return dict.fromkeys(("title", "equation", "venue", "paper"), "")
    title = re.match(r"([^:\n]+): ", text)
    equation = re.search(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    cited = re.search(r'"[^"]+",\s+([^"]+?),\s+(https?://\S+)', text)
    if not (title and equation and cited):
        raise ValueError(f"no title, equation or citation in the docstring {text!r}")
    return {
        "title": title[1],
        "equation": dedent(equation[0]).strip(),
        "venue": " ".join(cited[1].split()),
        "paper": cited[2],
    }


class Mechanisms(Shown, Mapping[str, Mechanism]):
    """Every mechanism by name, read-only, in the order of the catalogue."""

    def __getitem__(self, name: str) -> Mechanism:
        return _TABLE[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_TABLE)

    def __len__(self) -> int:
        return len(_TABLE)


def mechanisms() -> Mapping[str, Mechanism]:
    """Returns every mechanism by name, read-only, in the order of the catalogue."""
    return Mechanisms()


def admit(card: Mechanism) -> Mechanism:
    """Lets `lookup` find a mechanism of the user's own by its name, in place of an earlier one."""
    _OWN[card.name] = card
    return card


def lookup(name: str) -> Mechanism:
    """Returns the card of `name`, or raises MechanismError with the nearest names."""
    from attnsurgeon.attention.own.plugins import plugin, plugins  # which need this module

    if (card := _TABLE.get(name) or _OWN.get(name) or plugin(name)) is not None:
        return card
    if ":" in str(name):
        raise MechanismError(
            f"{name} is code that nobody has named in this process, so it is not known here",
            "name it first: attn='FILE.py:NAME' of insert or load",
        )
    known = [*_TABLE, *plugins()]
    raise MechanismError(f"no attention mechanism is called {name!r}", nearest(str(name), known))


def create_attention(
    name: str,
    channels: int | None = None,
    *,
    conv: nn.Module | None = None,
    rank: int = 2,
    init: str = "paper",
    **args: Any,
) -> nn.Module:
    """Builds one attention mechanism.

    Args:
        name: one of `mechanisms()`.
        channels: C, for everything that does not replace a convolution.
        conv: the convolution that a "conv" or "weight" mechanism replaces; it gives the rank too.
        rank: 1 for (N, C, L), 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        init: "paper" for the authors' own start and function, "identity" for the same mechanism
            changed so that it starts as the identity, exactly.
        **args: the mechanism's own arguments; the card lists them with their defaults.

    Raises:
        MechanismError: no such mechanism or argument, or no module can be built from these values.
    """
    card, module = _build(lookup(name), channels, conv, rank, init, args)
    if card.adopt is not None and conv is not None:
        card.adopt(module, conv)
    if init == "identity":
        pair(module, card.bottleneck)
    if card.kind == "weight":
        assert conv is not None
        part = card.start(module, None) if init == "identity" else module
        return Excited(conv, part, per_sample=card.per_sample)
    return card.start(module, conv) if init == "identity" else module


def create_part(
    name: str,
    source: int | nn.Module,
    *,
    rank: int = 2,
    init: str = "paper",
    **args: Any,
) -> nn.Module:
    """Builds one mechanism as a part of a network, which keeps what the mechanism works on.

    Args:
        source: channels, or the convolution; the part holds none of it.
        name, rank, init, args: as for `create_attention`.

    Returns:
        A module of the inputs that the card's `inputs` names, and of the old result where the
        card has `within` and `init` is "identity".
    """
    return build_part(lookup(name), source, rank, init, args)


def build_part(
    card: Mechanism, source: int | nn.Module, rank: int, init: str, args: Mapping[str, Any]
) -> nn.Module:
    """Builds the part of a card; its arguments may have any name. See `create_part`."""
    conv = source if isinstance(source, nn.Module) else None
    channels = None if isinstance(source, nn.Module) else source
    card, module = _build(card, channels, conv, rank, init, args)
    if init == "paper":
        return module
    pair(module, card.bottleneck)
    return card.within(module) if card.within is not None else card.start(module, None)


def _build(
    card: Mechanism,
    channels: int | None,
    conv: nn.Module | None,
    rank: int,
    init: str,
    args: Mapping[str, Any],
) -> tuple[Mechanism, nn.Module]:
    name = card.name
    if init not in INITS:
        raise MechanismError(f"init={init!r} is not a way to start", nearest(str(init), INITS))
    try:
        source, rank = _source(card, channels, conv, rank)
        return card, card.make(source, rank, args)
    except MechanismError as error:
        if card.own:
            raise
        raise MechanismError(f"{name}: {error.what}", error.hint) from error
    except (RuntimeError, OverflowError, MemoryError) as error:  # more than torch counts or holds
        given = ", ".join(f"{key}={value!r}"[:60] for key, value in args.items())
        raise MechanismError(
            f"{name} cannot be built with {given or 'its defaults'}: {str(error).splitlines()[0]}",
            f"`attnsurgeon attn show {name}` shows its arguments",
        ) from error


def _source(
    card: Mechanism, channels: int | None, conv: nn.Module | None, rank: int
) -> tuple[int | nn.Module, int]:
    """Returns what the mechanism is built from, checked, and the rank that goes with it."""
    source: int | nn.Module
    if card.kind in REPLACES_A_CONV:
        if not isinstance(conv, CONVOLUTIONS):
            raise MechanismError(
                f"it replaces a convolution, not {type(conv).__name__}", "give conv=nn.Conv2d(...)"
            )
        source, rank = conv, conv.weight.dim() - 2
    elif conv is not None:
        raise MechanismError("it does not replace a convolution", "give channels instead of conv")
    elif not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise MechanismError(
            f"channels={channels!r} is not a number of channels",
            "give the size of the input's axis 1",
        )
    else:
        source = channels
    if rank not in card.ranks:
        raise MechanismError(
            f"it is not defined for rank {rank!r}",
            f"it is for rank {', '.join(map(str, card.ranks))} {card.rank_reason}".rstrip(),
        )
    return source, rank
