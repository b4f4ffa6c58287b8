"""The small networks, each with its sites as a reader of its forward finds them.

Channels are primes and inputs uneven, so that no axis can be taken for another. Nothing in these
expectations was computed by the code under test.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.nets.blocks import (
    Assigning,
    Buffered,
    C,
    ChannelsLast,
    DictItems,
    Dropped,
    Excited,
    FunctionalDropout,
    HasAttn,
    Hooked,
    InPlace,
    ListOfChunks,
    MaybeShortcut,
    Net,
    NoiseInTraining,
    Plain,
    PreActivated,
    Scaled,
    ScaledAndDropped,
    SharedRelu,
    Shuffled,
    Variadic,
)
from tests.nets.rebuilding import Branched, OfFusing
from tests.nets.tokens import Mixer, Parallel, Rotated, Token, Tokens, TupleToken
from tests.nets.wayward import (
    AnswersAll,
    Collects,
    Counting,
    DecidesByData,
    DecidesBySize,
    DefaultTuple,
    DeviceOfParameters,
    FullPrecision,
    OwnCopy,
    OwnFunction,
    Remembers,
    Replaced,
    SilentSwitch,
    SkipsAtRandom,
    TellsTypes,
    Tries,
    Ungraded,
)
from tests.nets.whole import (
    AdditiveUNet,
    Alone,
    Borrowed,
    Checkpointed,
    Containers,
    FeaturesAndHead,
    Line,
    Listed,
    Resized,
    Signed,
    TopDown,
    Twice,
    TwoNames,
    TwoResolutions,
    Volume,
    Wrapped,
)


def parametrized(kind: str) -> nn.Module:
    """A plain block whose second convolution computes its weight."""
    block = Plain()
    if kind == "old weight_norm":
        with warnings.catch_warnings():  # deprecated, and in many a checkpoint
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(block.conv2)
    elif kind == "weight_norm":
        parametrizations.weight_norm(block.conv2)
    else:
        parametrizations.spectral_norm(block.conv2)
    return Net(block)


def frozen() -> nn.Module:
    return Net(Plain()).requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """One network and what a reader of its code finds.

    Attributes:
        name: of the case.
        build: makes the network.
        branches: path of each residual branch, in order -> "retype", "output-hook",
            "input-hook" or "refused": how attention can go in.
        blocks: path of each residual block's output, in order.
        channels: of every branch.
        size: of the input, without the batch.
        layout: of every branch.
    """

    name: str
    build: Callable[[], nn.Module]
    branches: dict[str, str]
    blocks: tuple[str, ...]
    channels: int = C
    size: tuple[int, ...] = (3, 13, 11)
    layout: str = "NCHW"


def block_case(block: Callable[[], nn.Module], how: str = "retype", *, branch: str = "bn2",
               block_output: str = ":relu#2") -> Case:  # fmt: skip
    """The case of one block between a stem and a classifier."""
    place = "blocks.0" + (branch if branch.startswith(":") else f".{branch}")
    return Case(block.__name__, lambda: Net(block()), {place: how}, (f"blocks.0{block_output}",))


TOKENS: dict = {"size": (3, 12, 10), "layout": "NLC"}

CASES = [
    block_case(Plain),
    block_case(InPlace, block_output=".relu#2"),
    block_case(Dropped, block_output=":relu"),
    block_case(PreActivated, branch="conv2", block_output=":add"),
    block_case(SharedRelu, branch="bn3", block_output=".relu#3"),
    block_case(MaybeShortcut),
    block_case(Variadic),
    block_case(FunctionalDropout),
    block_case(NoiseInTraining),
    block_case(ScaledAndDropped, block_output=":add"),
    block_case(Excited, branch="se:mul"),
    block_case(HasAttn),
    block_case(Buffered),
    block_case(Scaled, block_output=":add"),
    block_case(Assigning, branch=":setitem"),
    block_case(DefaultTuple),
    block_case(Counting),
    block_case(Hooked),
    block_case(SilentSwitch),
    block_case(OwnCopy),
    block_case(AnswersAll),
    block_case(OfFusing, branch="cv2.act", block_output=":add"),
    block_case(ChannelsLast, branch=":permute#2", block_output=":add"),
    # What cannot be rewritten is cut at a boundary that shows the value, the norm's output.
    block_case(OwnFunction, "output-hook"),
    block_case(DecidesByData, "output-hook"),
    block_case(DecidesBySize, branch=":relu#2", block_output=":relu#3"),
    block_case(Remembers, "output-hook"),
    block_case(Collects, "output-hook"),
    block_case(SkipsAtRandom, "output-hook"),
    block_case(Ungraded, "output-hook"),
    block_case(FullPrecision, "output-hook"),
    block_case(DeviceOfParameters, "output-hook", block_output=":relu#2"),
    block_case(Replaced, "output-hook"),
    block_case(TellsTypes),
    Case(
        "Chain",
        lambda: Net(Plain(), Plain(C, 11, 2), Plain(11, 11), width=11),
        {f"blocks.{i}.bn2": "retype" for i in range(3)},
        tuple(f"blocks.{i}:relu#2" for i in range(3)),
        channels=0,
    ),
    Case(
        "Twice",
        Twice,
        {"block.bn2": "retype", "block.bn2#2": "retype"},
        ("block:relu#2", "block#2:relu#2"),
    ),
    Case(
        "TwoNames",
        TwoNames,
        {"first.bn2": "retype", "first.bn2#2": "retype"},
        ("first:relu#2", "first#2:relu#2"),
    ),
    Case(
        "TwoResolutions",
        TwoResolutions,
        {"head.bn2": "retype", "head.bn2#2": "retype"},
        ("head:relu#2", "head#2:relu#2"),
    ),
    Case("Signed", Signed, {"block.bn2": "retype"}, ("block:relu#2",)),
    Case("Resized", Resized, {"block.bn2": "retype"}, ("block:relu#2",)),
    Case("Borrowed", Borrowed, {"block.bn2": "retype"}, (":add",)),
    Case("Containers", Containers, {"block.bn2": "retype"}, ("block:relu#2",)),
    Case(
        "ListOfChunks",
        lambda: Net(ListOfChunks()),
        {"blocks.0.m.0.bn2": "retype", "blocks.0.m.1.bn2": "retype"},
        ("blocks.0.m.0:relu#2", "blocks.0.m.1:relu#2"),
        channels=7,
    ),
    Case("DictItems", lambda: Net(DictItems(), width=11), {}, ()),
    Case("Branched", lambda: Net(Branched()), {}, ()),
    Case("Shuffled", lambda: Net(Shuffled()), {}, ()),
    Case(
        "Checkpointed",
        lambda: Net(Checkpointed()),
        {"blocks.0.block.bn2": "retype"},
        ("blocks.0.block:relu#2",),
    ),
    Case(
        "Token",
        lambda: Tokens(Token()),
        {"blocks.0.att.proj": "retype", "blocks.0.mlp.fc2": "retype"},
        ("blocks.0:add", "blocks.0:add#2"),
        **TOKENS,
    ),
    Case(
        "TupleToken",
        lambda: Tokens(TupleToken()),
        {"blocks.0.att.proj": "retype", "blocks.0.mlp.fc2": "retype"},
        ("blocks.0:add", "blocks.0:add#2"),
        **TOKENS,
    ),
    Case(
        "Parallel",
        lambda: Tokens(Parallel()),
        {"blocks.0.att.proj": "retype", "blocks.0.mlp.fc2": "retype"},
        ("blocks.0:add#2",),
        **TOKENS,
    ),
    Case(
        "Mixer",
        lambda: Tokens(Mixer(30)),
        {"blocks.0:transpose#2": "retype", "blocks.0.mlp.fc2": "retype"},
        ("blocks.0:add", "blocks.0:add#2"),
        **TOKENS,
    ),
    Case(
        "Rotated",
        lambda: Tokens(Rotated()),
        {"blocks.0.att.proj": "retype", "blocks.0.mlp.fc2": "retype"},
        ("blocks.0:add", "blocks.0:add#2"),
        **TOKENS,
    ),
    Case("Volume", Volume, {":relu": "retype"}, (":add",), size=(3, 5, 7, 11), layout="NCDHW"),
    Case("Line", Line, {":relu": "retype"}, (":add",), size=(3, 23), layout="NCL"),
    Case("AdditiveUNet", AdditiveUNet, {"middle.bn2": "retype"}, ("middle:relu#2",)),
    Case(
        "TopDown",
        TopDown,
        {"one.bn2": "retype", "two.bn2": "retype"},
        ("one:relu#2", "two:relu#2"),
        channels=0,
    ),
    Case("Alone", Alone, {"norm": "retype"}, (":relu#2",)),
    Case("FeaturesAndHead", FeaturesAndHead, {"norm": "output-hook"}, (":relu#2",)),
    Case("Listed", Listed, {":batch_norm#2": "refused"}, (":relu#2",)),
    Case("Tries", lambda: Net(Tries()), {"blocks.0.bn2": "retype"}, ("blocks.0:relu#2",)),
    Case(
        "Wrapped",
        lambda: Wrapped(Net(Plain())),
        {"module.blocks.0.bn2": "retype"},
        ("module.blocks.0:relu#2",),
    ),
    Case(
        "DataParallel",
        lambda: nn.DataParallel(Net(Plain())),
        {"module.blocks.0.bn2": "retype"},
        ("module.blocks.0:relu#2",),
    ),
    Case(
        "GraphModule",
        lambda: torch.fx.symbolic_trace(Net(Plain())),
        {"blocks.0.bn2": "output-hook"},
        (":relu#2",),
    ),
    Case("Frozen", frozen, {"blocks.0.bn2": "retype"}, ("blocks.0:relu#2",)),
    *(
        Case(
            kind,
            functools.partial(parametrized, kind),
            {"blocks.0.bn2": "retype"},
            ("blocks.0:relu#2",),
        )
        for kind in ("weight_norm", "spectral_norm", "old weight_norm")
    ),
]
