"""What is traceable before surgery is traceable after it, and computes the same to the bit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import create_feature_extractor as timm_extractor
from timm.layers import get_graph_node_names as timm_names
from torch import Tensor, fx, nn
from torchvision.models import VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import SurgeonError
from tests.surgery import active

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
Call = Callable[[Tensor], Tensor]


def extracted(names: Any, extractor: Any) -> Callable[[nn.Module, Tensor], Call]:
    """The last value of a network, by a library's own way to features."""

    def traced(net: nn.Module, x: Tensor) -> Call:
        last = names(net)[1][-1]
        features = extractor(net, [last]).eval()
        return lambda x: features(x)[last]

    return traced


TRACERS: dict[str, Callable[[nn.Module, Tensor], Call]] = {
    "fx": lambda net, x: fx.symbolic_trace(net),
    "timm": extracted(timm_names, timm_extractor),
    "torchvision": extracted(get_graph_node_names, create_feature_extractor),
    "jit": lambda net, x: torch.jit.trace(net, x, check_trace=False),  # type: ignore[return-value]
}

WIDE = {"img_size": 64, "embed_dims": (16, 16, 24, 32), "num_classes": 7}
SMALL: dict[str, Callable[[], nn.Module]] = {
    "deit": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=32,
        patch_size=8,
        depth=1,
        embed_dim=24,
        num_heads=2,
    ),
    "vit_b_16": lambda: VisionTransformer(32, 8, 1, 2, 24, 48, num_classes=7),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        depths=(1, 2),
        num_heads=(1, 2),
        embed_dim=16,
    ),
    "levit": lambda: timm.create_model(
        "levit_128s", embed_dim=(16, 24), num_heads=(2, 2), depth=(1, 1), key_dim=8, img_size=32
    ),
    "pit": lambda: timm.create_model(
        "pit_ti_224", img_size=64, depth=(1, 1), base_dims=(8, 8), heads=(2, 2)
    ),
    "pvt": lambda: timm.create_model(
        "pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4)
    ),
    "coat": lambda: timm.create_model(
        "coat_lite_tiny", serial_depths=(1, 1, 1, 1), num_heads=8, **WIDE
    ),
    "twins_pcpvt": lambda: timm.create_model(
        "twins_pcpvt_small", depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), **WIDE
    ),
    "twins_svt": lambda: timm.create_model(
        "twins_svt_small", depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), wss=(4, 4, 4, 2), **WIDE
    ),
}
SIDES = {"deit": 32, "vit_b_16": 32, "swin": 32, "levit": 32}
# Their windows are cut by a branch on sizes, which timm lets its own tracer leave out.
NOT_BEFORE = {"twins_svt": {"fx", "torchvision"}}


@functools.cache
def small(name: str) -> nn.Module:
    torch.default_generator.manual_seed(0)
    net = SMALL[name]().eval()
    randomise_norms(net)
    return net


def traced_by(tracer: str, net: nn.Module, x: Tensor) -> Call | None:
    """A copy of a network as a tracer hands it out; None where it cannot trace it."""
    net = copy.deepcopy(net)
    try:
        return TRACERS[tracer](net, x)
    except (fx.proxy.TraceError, RuntimeError, TypeError, NotImplementedError, ValueError):
        return None


def lost(before: nn.Module, after: nn.Module, x: Tensor, other: Tensor) -> tuple[set[str], ...]:
    """The tracers that cannot trace a network before, and those of the others that fail after."""
    untraced, failed = set(), set()
    with torch.no_grad():
        for tracer in TRACERS:
            if traced_by(tracer, before, x) is None:
                untraced.add(tracer)
                continue
            made = traced_by(tracer, after, x)
            if made is None or not all(torch.equal(made(v), after(v)) for v in (x, other)):
                failed.add(tracer)
    return untraced, failed


CASES = [
    (n, attn, init) for n in SMALL for attn in ("cbam", "eca") for init in ("identity", "paper")
]
FAST = {
    ("deit", "cbam", "identity"),
    ("vit_b_16", "cbam", "paper"),
    ("vit_b_16", "eca", "identity"),
}


@pytest.mark.parametrize(
    ("name", "attn", "init"),
    [pytest.param(*c, marks=() if c in FAST else pytest.mark.slow) for c in CASES],
)
def test_what_traces_before_attention_on_tokens_traces_after_it(name, attn, init):
    net, side = small(name), SIDES.get(name, 64)
    made = attnsurgeon.insert(net, attn, "residual-branch", input_size=(3, side, side), init=init)
    assert made.plan.cuts
    after = active(made.model.eval())
    x, other = torch.randn(2, 3, side, side), torch.randn(3, 3, side, side)
    assert not torch.equal(after(x), net(x))  # or it would not matter what became of the gates
    assert lost(net, after, x, other) == (NOT_BEFORE.get(name, set()), set())
