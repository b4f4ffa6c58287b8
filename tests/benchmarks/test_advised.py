"""What a card advises to whom Torch-Pruning fails on it: so it works."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.registry import lookup, mechanisms
from attnsurgeon.splicing.history import history, inserted
from benchmarks.portability.probes.pruned import _patience
from benchmarks.portability.subject import Subject

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:(?s).*Unwrapped parameters")]
MODULE, BEFORE = "let it ignore this module", "let it ignore the layer"
WITHIN = "prune within attnsurgeon.disabled(model)"


def limit(name: str) -> str:
    return next((one for one in lookup(name).limits if one.startswith("pruning:")), "")


ADVISED = [name for name in mechanisms() if MODULE in limit(name) or BEFORE in limit(name)]


def layers_before(network: nn.Module) -> list[nn.Module]:
    """Of each site the last layer with weights that stands before the attention."""
    parts = {id(inner) for _, part in inserted(network) for inner in part.modules()}
    layers = [
        (path, module)
        for path, module in network.named_modules()
        if module._parameters and id(module) not in parts
    ]
    order = {path: at for at, (path, _) in enumerate(network.named_modules())}
    found = []
    for record in history(network):
        for site in record["sites"]:
            place = site["path"].partition(":")[0]
            found += [m for path, m in layers if order[path] <= order[place]][-1:]
    return found


@pytest.mark.parametrize("init", ["identity", "paper"])
@pytest.mark.parametrize("name", ADVISED)
def test_what_the_card_advises_works(name, init):
    torch_pruning = pytest.importorskip("torch_pruning")
    subject = Subject(name, init)
    network, x, said = subject.network(), subject.input(), limit(name)
    ignored = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
    ignored += [part for _, part in inserted(network)]
    if BEFORE in said:
        ignored += layers_before(network)
    off = attnsurgeon.disabled(network) if WITHIN in said else contextlib.nullcontext()
    before = sum(p.numel() for p in network.parameters())
    with _patience(), off:
        pruner = torch_pruning.pruner.MetaPruner(
            network, x, importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5, ignored_layers=ignored, in_channel_groups={}, out_channel_groups={},
        )  # fmt: skip
        pruner.step()
    y = network(x)
    y.sum().backward()
    assert y.shape == (2, 10)
    assert torch.isfinite(y).all()
    assert not attnsurgeon.audit(network, example=x).dead
    left = sum(p.numel() for p in network.parameters()) / before
    assert left < (0.9 if name != "gct" else 1.01)  # before gct stands every convolution there is


def test_there_is_advice_of_each_kind():
    assert {MODULE in limit("gsop"), BEFORE in limit("sge"), WITHIN in limit("mlca")} == {True}
