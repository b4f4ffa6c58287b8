"""int8 after surgery: the error against the float network is as that of the bare one."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torchvision.models import resnet18

import attnsurgeon
from attnsurgeon.attention.registry import create_attention
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from benchmarks.plain import channels, positions
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


BY_HAND = {
    "se": channels.SE,
    "eca": channels.ECA,
    "cbam": positions.CBAM,
    "coord": positions.Coord,
    "triplet": positions.Triplet,
}
# Decibels by which an int8 network with open gates is nearer to noise than the bare one: a branch
# that is not damped by its gates hands the rounding of its products on, one more for each gate.
OPEN = {"se": 4.0, "eca": 2.5, "cbam": 8.2, "coord": 5.3, "triplet": 2.2}


def bare_and_images():
    torch.manual_seed(0)
    net = resnet18(num_classes=10).eval()
    randomise_norms(net)
    return net, [torch.randn(4, 3, 64, 64) for _ in range(8)]


def learnt(net, attn, init):
    """The network with gates that are off their start."""
    torch.manual_seed(1)
    made = attnsurgeon.insert(net, attn, "residual-branch", init=init, input_size=(3, 64, 64))
    for _, part in inserted(made.model):
        for parameter in part.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.model.eval()


def spliced(net, attn, made):
    """The same by hand: the authors' own module behind each branch's last norm."""
    net = copy.deepcopy(net)
    for path, part in inserted(made):
        block = net.get_submodule(path.rpartition(".")[0])
        theirs = BY_HAND[attn](block.bn2.num_features, (16, 16)).eval()
        given = theirs.in_our_order() if attn == "triplet" else theirs.parameters()
        for there, ours in zip(given, part.parameters(), strict=True):
            there.copy_(ours.reshape(there.shape))
        block.bn2 = nn.Sequential(block.bn2, theirs)
    return net


def kept(net, quantise, images):
    """How far the outputs of a network are above the error of its int8 form."""
    made = quantise(net, images[:4])
    outputs, rounded = (torch.cat([n(x) for x in images[4:]]) for n in (net, made))
    return decibels(outputs, rounded)


@pytest.mark.nightly
@pytest.mark.parametrize("quantise", [by_pt2e, by_fx])
@pytest.mark.parametrize("attn", AMONG_US)
@torch.no_grad()
def test_of_a_resnet_it_loses_no_more_than_the_bare_network(attn, quantise):
    net, images = bare_and_images()
    bare = kept(net, quantise, images)
    assert bare > 20
    made = learnt(net, attn, "paper")
    ours = kept(made, quantise, images)
    assert ours > bare - 1
    assert kept(learnt(net, attn, "identity"), quantise, images) > bare - OPEN[attn]
    by_hand = spliced(net, attn, made)
    torch.testing.assert_close(by_hand(images[0]), made(images[0]), rtol=1e-4, atol=1e-5)
    assert ours > kept(by_hand, quantise, images) - 1.5
