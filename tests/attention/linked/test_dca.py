"""DCA against the equations of its three forms by plain loops, and the totals of its authors."""

import math

import pytest
import torch
from torch import nn

from attnsurgeon.attention.linked.dca import Blended
from attnsurgeon.attention.registry import create_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES
from tests.attention.loops import linear, means, relu

STEM = 64  # channels that the first block of a ResNet-50 starts from
INNER = ("se", "cbam", "ge")
TOTALS = [("se", 30_898_696), ("cbam", 30_900_376), ("ge", 28_367_704)]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def layer_normed(norm, values):
    """Returns the layer norm of values."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    scaled = [(v - mean) / math.sqrt(variance + norm.eps) for v in values]
    weight, bias = norm.weight.tolist(), norm.bias.tolist()
    return [w * v + b for w, v, b in zip(weight, scaled, bias, strict=True)]


def mixed(mix, own, before):
    """Returns the mixture of two vectors."""
    a, b = mix.weigh.weight[0].tolist()
    d = 0.0 if mix.weigh.bias is None else mix.weigh.bias.item()
    both = [a * o + b * t + d for o, t in zip(own, before, strict=True)]
    return relu(layer_normed(mix.norm, both))


def by_vectors(dca, image, state):
    """Returns output and state of an SE or GE for an image (C, ...), by loops."""
    attend, own = dca.attend, means(image)
    z = own
    if state is not None:
        before = state
        if isinstance(attend.link.translate, nn.Sequential):
            layer, norm, _ = attend.link.translate
            before = relu(layer_normed(norm, linear(layer, state)))
        z = mixed(attend.link.mix, own, before)
    if dca.inner == "se":
        z = linear(attend.fc2, relu(linear(attend.fc1, z)))
    gates = [attend.gate.gain * sigmoid(v) for v in z]
    output = torch.stack([plane * gate for plane, gate in zip(image, gates, strict=True)])
    return output, [m * gate for m, gate in zip(own, gates, strict=True)]


def scaled(norm, c, value):
    """Returns the batch norm, in eval mode, of one value of channel c."""
    scale = norm.weight[c].item() / math.sqrt(norm.running_var[c].item() + norm.eps)
    return (value - norm.running_mean[c].item()) * scale + norm.bias[c].item()


def translated(layers, image):
    """Returns relu(norm(1x1 convolution)) of an image (C, H, W), position by position."""
    layer, norm, _ = layers
    _, height, width = image.shape
    made = torch.empty(len(layer.weight), height, width, dtype=image.dtype)
    for h in range(height):
        for w in range(width):
            values = linear(layer, image[:, h, w].tolist())
            made[:, h, w] = image.new_tensor([scaled(norm, c, v) for c, v in enumerate(values)])
    return made.clamp(min=0)


def pooled(image):
    return [means(image), [max(plane) for plane in image.flatten(1).tolist()]]


def planes(image):
    return [image.max(0).values.tolist(), (image.sum(0) / len(image)).tolist()]


def gated_by_position(attend, image, found):
    """Returns an image times the gates that a 7x7 convolution makes of two planes."""
    _, height, width = image.shape
    kernel, output = attend.conv.weight[0].tolist(), torch.empty_like(image)
    for h in range(height):
        for w in range(width):
            total = 0.0
            for plane, taps in zip(found, kernel, strict=True):
                for i in range(7):
                    for j in range(7):
                        a, b = h + i - 3, w + j - 3
                        if 0 <= a < height and 0 <= b < width:
                            total += taps[i][j] * plane[a][b]
            gate = attend.gate.gain * sigmoid(scaled(attend.norm, 0, total))
            output[:, h, w] = image[:, h, w] * gate
    return output


def by_maps(dca, image, state):
    """Returns output and state of a CBAM for an image (C, H, W), by loops."""
    attend, vectors, link = dca.attend, pooled(image), dca.attend.link
    if state is not None:
        before = state[0]
        if isinstance(link.translate, nn.Sequential):
            before = translated(link.translate, before)
        vectors = [
            mixed(link.mix, own, old) for own, old in zip(vectors, pooled(before), strict=True)
        ]
    channels = [linear(attend.fc2, relu(linear(attend.fc1, vector))) for vector in vectors]
    gates = [attend.gate.gain * sigmoid(sum(pair)) for pair in zip(*channels, strict=True)]
    u = torch.stack([plane * gate for plane, gate in zip(image, gates, strict=True)])
    found = planes(u)
    if state is not None:
        old = planes(nn.functional.adaptive_avg_pool2d(state[1], u.shape[1:]))
        p, q = link.own.item(), link.before.item()
        found = [
            [[max(scaled(link.norm, c, p * a + q * b), 0.0) for a, b in zip(*rows, strict=True)]
             for rows in zip(found[c], old[c], strict=True)]
            for c in range(2)
        ]  # fmt: skip
    y = gated_by_position(attend, u, found)
    return y, (u, y)


ORACLE = {"se": by_vectors, "ge": by_vectors, "cbam": by_maps}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    "sizes",
    [[(6, 4), (6, 4), (3, 2)], [(5, 3), (3, 2), (3, 2)], [(1, 1), (2, 3), (1, 1)]],
    ids=["halved", "odd", "larger"],
)
@pytest.mark.parametrize("widths", [(6, 6, 9), (9, 6, 6)])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_each_place_is_given_what_the_one_before_it_found(inner, sizes, widths, init):
    state, old, before = None, [None] * 2, None
    for width, size in zip(widths, sizes, strict=True):
        dca = stir(
            make("dca", width, inner=inner, reduction=3, previous_channels=before, init=init)
        )
        dca = dca.double().eval()
        x = torch.randn(2, width, *size, dtype=torch.float64)
        y, state = dca.step(x, state)
        inner_part, g = (dca.inner, dca.g.item()) if isinstance(dca, Blended) else (dca, 1.0)
        for n in range(2):
            expected, old[n] = ORACLE[inner](inner_part, x[n], old[n])
            torch.testing.assert_close(y[n], x[n] + g * (expected - x[n]), rtol=0, atol=1e-12)
        before = width


@pytest.mark.parametrize(("inner", "total"), TOTALS)
def test_totals_of_a_resnet50_are_those_of_the_authors_code(inner, total):
    card, added, before = lookup("dca"), 0, None
    for channels in RESNET50_BRANCHES:
        facts = {"previous_channels": before, "source_channels": before or STEM}
        added += card.params(channels, **card.args_at((14, 14), {"inner": inner}, **facts))
        before = channels
    assert RESNET50 + added == total


@pytest.mark.parametrize(("inner", "idle"), [("se", 17_667), ("cbam", 17_672), ("ge", 17_667)])
def test_the_first_place_has_layers_that_nothing_reaches_for_the_authors_count_only(inner, idle):
    card = lookup("dca")
    facts = {"previous_channels": None, "source_channels": STEM}
    args = card.args_at((14, 14), {"inner": inner}, **facts)
    assert args["idle_channels"] == STEM
    with_idle, without = (make("dca", 256, **{**args, "idle_channels": c}) for c in (STEM, None))
    assert params(with_idle) - params(without) == idle
    y, _ = with_idle.step(torch.randn(2, 256, 5, 3, requires_grad=True), None)
    y.sum().backward()
    assert {n.split(".")[0] for n, p in with_idle.named_parameters() if p.grad is None} == {"idle"}
    start = create_part("dca", 256, init="identity", **args)
    assert not any("idle" in name for name, _ in start.named_parameters())


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("previous", [None, 32, 48])
def test_the_declared_number_of_parameters_is_the_true_one(inner, rank, previous):
    args = {"inner": inner, "rank": rank, "previous_channels": previous}
    assert lookup("dca").params(48, **args) == params(make("dca", 48, **args))


def test_a_plan_gives_the_channels_of_the_place_before():
    card = lookup("dca")
    assert card.args_at((14, 14), {}, previous_channels=None) == {}
    facts = {"previous_channels": 32, "source_channels": 16}
    assert card.args_at((14, 14), {}, **facts) == {"previous_channels": 32}
    given = {"previous_channels": None, "idle_channels": None}
    assert card.args_at((14, 14), given, source_channels=16) == given
    assert not card.tied
    assert card.scope == "network"


def test_tokens_have_no_map_for_a_cbam():
    card = lookup("dca")
    assert card.args_at((196,), {"inner": "ge"}, previous_channels=8) == {
        "inner": "ge", "previous_channels": 8
    }  # fmt: skip
    with pytest.raises(MechanismError, match="dca: here are tokens"):
        card.args_at((196,), {"inner": "cbam"}, previous_channels=None)


@pytest.mark.parametrize("inner", INNER)
def test_the_first_place_is_the_inner_attention_itself(inner):
    dca, x = stir(make("dca", 32, inner=inner).eval()), torch.randn(2, 32, 7, 5)
    alone = make(inner, 32).eval()
    theirs = dict(alone.named_parameters())
    assert params(dca) == params(alone)
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(dca.attend.get_parameter(name))
        for name, buffer in alone.named_buffers():
            buffer.copy_(dca.attend.get_buffer(name))
    torch.testing.assert_close(dca.step(x, None)[0], alone(x))


@pytest.mark.parametrize("inner", INNER)
def test_without_link_layers_nothing_is_taken_over(inner):
    dca, x = make("dca", 32, inner=inner).eval(), torch.randn(2, 32, 7, 5)
    y, state = dca.step(x, None)
    torch.testing.assert_close(dca.step(x, state)[0], y, rtol=0, atol=0)


@pytest.mark.parametrize("previous", [32, 48])
def test_what_the_card_calls_unmoved_and_inert_is_so(previous):
    card, x = lookup("dca"), torch.randn(4, 48, 7, 5, dtype=torch.float64)
    found = {}
    for inner in ("se", "cbam"):
        dca = stir(make("dca", 48, inner=inner, previous_channels=previous).double())
        first = stir(make("dca", previous, inner=inner).double())
        _, state = first.step(torch.randn(4, previous, 7, 5, dtype=torch.float64), None)
        dca.step(x, state)[0].square().sum().backward()
        size = {name: p.grad.abs().max().item() for name, p in dca.named_parameters()}
        found[inner] = {name for name, grad in size.items() if grad < 1e-10}
    assert found["se"] == set(card.inert)
    assert found["cbam"] == (set(card.unmoved) if previous != 48 else set())


def test_the_spatial_gate_of_a_linked_place_can_learn():
    """The authors' start, a norm of weight zero before a ReLU, is a dead end."""
    for start, learns in ((1.0, True), (0.0, False)):
        dca = make("dca", 32, inner="cbam", previous_channels=32)
        nn.init.constant_(dca.attend.link.norm.weight, start)
        nn.init.ones_(dca.attend.norm.weight)
        x = torch.randn(2, 32, 7, 5)
        dca.step(x, dca.step(x, None)[1])[0].square().sum().backward()
        assert bool(dca.attend.link.norm.weight.grad.any()) == learns
        assert bool(dca.attend.conv.weight.grad.any()) == learns


def test_a_clip_has_a_kernel_of_three_frames():
    dca = make("dca", 32, rank=3, inner="cbam", previous_channels=16).eval()
    before = torch.randn(2, 16, 4, 10, 6)
    x = torch.randn(2, 32, 2, 5, 3)
    y, _ = dca.step(x, (before, before))
    assert y.shape == x.shape
    assert dca.attend.conv.kernel_size == (3, 7, 7)


def test_the_defaults_are_those_of_the_authors_resnets():
    assert dict(lookup("dca").args) == {
        "inner": "se", "reduction": 16, "previous_channels": None, "idle_channels": None
    }  # fmt: skip


@pytest.mark.parametrize("inner", ["se", "cbam"])
def test_a_squeeze_to_nothing_is_refused_where_there_is_one(inner):
    with pytest.raises(MechanismError, match="leaves no hidden channel out of 8"):
        make("dca", 8, inner=inner)
    make("dca", 8, inner="ge")


def test_another_attention_inside_is_refused():
    with pytest.raises(MechanismError, match="inner='eca' is not one of 'se', 'cbam', 'ge'"):
        make("dca", 32, inner="eca")
