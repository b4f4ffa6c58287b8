"""int8 after surgery: the error against the float network is as that of the bare one."""

import copy

import pytest
import torch
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchvision.models import resnet18

import attnsurgeon
from attnsurgeon.attention.registry import create_attention
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from tests.attention.cases import stir

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
AMONG_US = ["se", "eca", "cbam", "coord", "triplet"]


def decibels(signal, noisy):
    """How far a signal is above the difference of another one from it."""
    return float(10 * torch.log10(signal.square().mean() / (signal - noisy).square().mean()))


def by_fx(net, images):
    prepared = prepare_fx(copy.deepcopy(net), get_default_qconfig_mapping("x86"), (images[0],))
    for batch in images:
        prepared(batch)
    return convert_fx(prepared)


def by_pt2e(net, images):
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    kinds = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    config = kinds.get_symmetric_quantization_config(is_per_channel=True)
    program = torch.export.export(net, (images[0],)).module()
    prepared = pt2e.prepare_pt2e(program, kinds.XNNPACKQuantizer().set_global(config))
    for batch in images:
        prepared(batch)
    return pt2e.convert_pt2e(prepared)


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("attn", ["cbam", "triplet"])
def test_a_sigmoid_behind_an_operation_of_ours_keeps_its_range_under_fx(attn, init):
    """Its quantiser takes the argument of a sigmoid to lie between 0 and 1, like its result."""
    module = stir(create_attention(attn, 64, init=init)).eval()
    images = [torch.randn(4, 64, 16, 16) for _ in range(3)]
    with torch.no_grad():
        made = by_fx(module, images)
        assert decibels(module(images[0]), made(images[0])) > 20  # 14 and 11 otherwise


@pytest.mark.nightly
@pytest.mark.parametrize("quantise", [by_pt2e, by_fx])
@pytest.mark.parametrize("attn", AMONG_US)
def test_of_a_resnet_it_loses_no_more_than_the_bare_network(attn, quantise):
    net = resnet18(num_classes=10).eval()
    randomise_norms(net)
    size, images = (3, 64, 64), [torch.randn(4, 3, 64, 64) for _ in range(4)]
    made = attnsurgeon.insert(net, attn, "residual-branch", input_size=size).model.eval()
    with torch.no_grad():
        for _, part in inserted(made):
            for parameter in part.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        x = torch.randn(4, 3, 64, 64)
        bare, ours = (decibels(n(x), quantise(n, images)(x)) for n in (net, made))
    assert ours > bare - 6  # twice the error; measured are 3 at most, and some gain
    assert ours > 20
