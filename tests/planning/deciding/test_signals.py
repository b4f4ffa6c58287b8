"""Attention in networks of signals (N, C, L): what goes in, starts as nothing, and what may not."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.errors import SurgeonError
from attnsurgeon.planning.plan import Plan
from attnsurgeon.splicing.history import inserted
from tests.nets.families import signals
from tests.surgery import active, operated, outputs, plan_of, ready, same, surveyed

LENGTH = 96
# kind -> the role that it is for
ROLES = {"conv": "conv", "weight": "conv", "activation": "act", "fusion": "residual-add"}
OF_TWO_AXES = ("fca", "triplet", "coord", "crisscross", "ela", "ema")
KEEP_CHANNELS = ("cot", "involution")  # which a convolution to more channels is not for
ARGS = {"psa": {"kernels": (3, 5), "groups": (1, 2), "reduction": 2}, "sk": {"groups": 8}}


WHILE_WORKING = ("cbam", "sk", "we", "aff", "csra")  # of each way of cutting one
EACH = [
    pytest.param(name, marks=() if name in WHILE_WORKING else pytest.mark.slow)
    for name in mechanisms()
    if name not in (*OF_TWO_AXES, "attention-gate")  # whose networks have skips
]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return ready(signals.ResNet(width=32))


def planned(net: nn.Module, attn: str, init: str = "identity", size=(3, LENGTH)) -> Plan:
    kind = mechanisms()[attn].kind
    role = "classifier" if kind == "head" else ROLES.get(kind, "residual-branch")
    inner = [f"layer{i}.{j}.one.0" for i in (1, 2, 3) for j in (0, 1)]
    if attn in KEEP_CHANNELS:
        inner = [path for path in inner if path not in ("layer2.0.one.0", "layer3.0.one.0")]
    only = tuple(inner) if kind in ("conv", "weight") else ()
    args = {"attn": attn, "action": "", "init": init, "only": only, **ARGS.get(attn, {})}
    return plan_of(surveyed(net, size), role, **args)


@pytest.mark.parametrize("attn", EACH)
def test_every_mechanism_goes_in_starts_as_nothing_and_acts(resnet, attn):
    """At every length: the network is planned at one, and run at another."""
    plan = planned(resnet, attn)
    assert plan.cuts
    assert not plan.refused
    assert {cut.rank for cut in plan.cuts} == {1}
    net, x = operated(resnet, plan), torch.randn(2, 3, 61)
    assert same(outputs(net, x), outputs(resnet, x))
    train = attn in ("ba2m",)  # which does nothing in evaluation
    assert not same(outputs(active(net), x, train=train), outputs(resnet, x, train=train))
    kernels = [m.kernel_size for _, made in inserted(net) for m in made.modules() if is_conv(m)]
    assert all(len(kernel) == 1 for kernel in kernels) or attn == "cmpe-se"


def is_conv(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


@pytest.mark.parametrize("attn", OF_TWO_AXES)
def test_what_is_tied_to_two_axes_is_refused_with_the_reason(resnet, attn):
    reason = re.escape(f"{attn} is not for signals (N, C, L) {mechanisms()[attn].rank_reason}")
    with pytest.raises(SurgeonError, match=reason):
        planned(resnet, attn)


def test_a_gate_of_maps_works_on_tokens_of_a_signal_and_leaves_the_class_token_alone():
    net, x = ready(signals.Transformer(width=32)), torch.randn(2, 3, 400)
    found = surveyed(net, (3, 400))
    plan = plan_of(found, attn="cbam", only=("layers.0.fc2",))
    assert [(cut.rank, cut.way) for cut in plan.cuts] == [(1, ((39,), 1, 0))]
    cut = operated(net, plan)
    assert same(outputs(cut, x), outputs(net, x))
    assert not same(outputs(active(cut), x), outputs(net, x))
    longer = torch.randn(2, 3, 517)  # any number of positions is a signal's
    assert same(outputs(cut, longer), outputs(net, longer))
    with pytest.raises(
        SurgeonError, match=r"coord is not for maps of rank 1 \(the gate of an axis"
    ):
        plan_of(found, attn="coord", only=("layers.0.fc2",))


@pytest.mark.parametrize(
    "attn", ["cbam", *(pytest.param(n, marks=pytest.mark.slow) for n in ("se", "we"))]
)
@pytest.mark.parametrize(
    ("net", "size"),
    [
        (signals.Ecapa, (10, 97)),
        (signals.WaveNet, (3, 97)),
        (signals.Tcn, (3, 50)),
        (signals.Conformer, (10, 60)),
    ],
)
def test_networks_of_speech_and_sound_are_cut(net, size, attn):
    net = ready(net(*([32] if net in (signals.Ecapa, signals.WaveNet, signals.Conformer) else [])))
    role = "conv" if attn == "we" else "residual-branch"
    args = {"reduction": 2}
    plan = plan_of(surveyed(net, size), role, attn=attn, action="", **args)
    assert plan.cuts
    assert not plan.refused
    x = torch.randn(2, *size)
    assert same(outputs(operated(net, plan), x), outputs(net, x))


def test_the_macs_are_those_of_the_formula(resnet):
    cost = attnsurgeon.insert(
        resnet, "se", "residual-branch", input_size=(3, LENGTH), attn_args={"reduction": 4}
    ).cost
    lengths = {32: LENGTH // 4, 64: LENGTH // 8, 96: LENGTH // 16}  # two sites each
    # sum and product an element; a channel the mean's scale, a sigmoid and its double; two layers
    each = {c: 2 * c * n + 3 * c + 2 * c * (c // 4) + c // 4 for c, n in lengths.items()}
    assert cost.after.macs - cost.before.macs == 2 * sum(each.values())


def test_it_is_verified_at_other_lengths(resnet):
    operation = attnsurgeon.insert(resnet, "eca", "residual-branch", input_size=(3, LENGTH))
    assert operation.verify(full=False).sizes == ((2, 3, 72), (2, 3, 48))
