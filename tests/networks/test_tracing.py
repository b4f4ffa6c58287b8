"""What is traceable before surgery is traceable after it, and computes the same to the bit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers._fx import create_feature_extractor as timm_extractor
from timm.layers._fx import get_graph_node_names as timm_names
from torch import Tensor, fx, nn
from torchvision.models import VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from tests.surgery import active

pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    "ignore:NOTE. The nodes obtained by tracing:UserWarning",  # drop path is there in training only
    "ignore:.torch.jit:FutureWarning",
    "ignore:.torch.jit:DeprecationWarning",
)
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

# Two blocks at least: behind the last one only tokens of no position are used.
WIDE = {"img_size": 64, "embed_dims": (16, 16, 24, 32), "num_classes": 7}
SMALL: dict[str, Callable[[], nn.Module]] = {
    "deit": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=32,
        patch_size=8,
        depth=2,
        embed_dim=24,
        num_heads=2,
    ),
    "vit_b_16": lambda: VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=7),
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


FORMS = [(attn, init) for attn in ("cbam", "eca") for init in ("identity", "paper")]
FAST = {("deit", "cbam", "identity"), ("vit_b_16", "cbam", "paper")}


def marks(form):
    if form in FAST:
        return ()
    return pytest.mark.slow if form[2] == "identity" else (pytest.mark.slow, pytest.mark.nightly)


@pytest.mark.parametrize(
    ("name", "attn", "init"),
    [pytest.param(name, *form, marks=marks((name, *form))) for name in SMALL for form in FORMS],
)
def test_what_traces_before_attention_on_tokens_traces_after_it(name, attn, init):
    net, side = small(name), SIDES.get(name, 64)
    assert_traces(net, side, attn, init, NOT_BEFORE.get(name, set()))


def assert_traces(
    net: nn.Module,
    side: int,
    attn: str,
    init: str,
    not_before: set[str],
    where: str = "residual-branch",
) -> None:
    """Operates a network and traces it in every way but those that cannot trace it as it is."""
    size = (3, side, side)
    made = attnsurgeon.insert(net, attn, where, input_size=size, init=init)  # type: ignore[arg-type]
    assert made.plan.cuts
    # Of its authors' start nothing is the identity; made larger, its gates may all be 1.
    after = made.model.eval() if init == "paper" else active(made.model.eval())
    x, other = torch.randn(2, *size), torch.randn(3, *size)
    with torch.no_grad():  # levit keeps what it made of its biases, and with a gradient no copy
        moved = not torch.equal(after(x), net(x))
    assert moved  # or it would not matter what became of the gates
    assert lost(net, after, x, other) == (not_before, set())


@pytest.mark.parametrize("size", [16, 48])
def test_a_trace_of_torchscript_takes_tokens_of_a_map_of_another_size(size):
    """deit's own positions are of one size; a row of tokens alone is of any."""
    side = 32

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 24, 8, 8), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).flatten(2).transpose(1, 2)
            return y + self.mix(y).relu()

    net = Tokens().eval()
    made = attnsurgeon.insert(net, "cbam", "residual-branch", input_size=(3, side, side))
    after, x = active(made.model.eval()), torch.randn(2, 3, size, size)
    traced = TRACERS["jit"](after, torch.randn(2, 3, side, side))
    torch.testing.assert_close(traced(x), after(x))


ALL_WAYS = """
beit_base_patch16_224 cait_xxs24_224 convnext_atto cspresnet50 deit_tiny_patch16_224 densenet121
dla34 edgenext_xx_small efficientformer_l1 efficientnet_b0 fastvit_t8 ghostnet_050 gmlp_ti16_224
hrnet_w18_small inception_v3 maxvit_tiny_rw_224 mixer_s32_224 mobilenetv3_small_050 mobileone_s0
nf_regnet_b0 poolformer_s12 regnety_002 repvgg_a0 repvit_m0_9 resmlp_12_224 resnet18 resnetv2_50
visformer_tiny volo_d1_224 xcit_nano_12_p16_224
"""
WITHOUT_BRANCHES = "densenet121 inception_v3 mobileone_s0 repvgg_a0 vgg11_bn"
# Their forwards decide by sizes, in modules that timm's tracer takes as they are.
BY_TIMM_AND_JIT = "convit_tiny crossvit_tiny_240 mobilevit_xxs nest_tiny vgg11_bn"


# Of a row of equal blocks two tell what all of them would.
SHORT: dict[str, dict[str, int]] = {
    "beit_base_patch16_224": {"depth": 2},
    "cait_xxs24_224": {"depth": 2},
    "convit_tiny": {"depth": 2, "local_up_to_layer": 1},
    "deit_tiny_patch16_224": {"depth": 2},
    "xcit_nano_12_p16_224": {"depth": 2},
}
NAMES = [*ALL_WAYS.split(), *BY_TIMM_AND_JIT.split()]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "attn", "init"),
    # Each family in one form, in turn: all forms are tried on each of the small networks.
    [(name, *FORMS[i % len(FORMS)]) for i, name in enumerate(NAMES)],
)
def test_what_traces_in_a_family_before_surgery_traces_after_it(name, attn, init):
    net = timm.create_model(name, **SHORT.get(name, {})).eval()
    randomise_norms(net)
    fixed = net.default_cfg.get("fixed_input_size")
    side = net.default_cfg["input_size"][-1] if fixed else 128
    not_before = {"fx", "torchvision"} if name in BY_TIMM_AND_JIT.split() else set()
    where = "stage" if name in WITHOUT_BRANCHES.split() else "residual-branch"
    assert_traces(net, side, attn, init, not_before, where)
