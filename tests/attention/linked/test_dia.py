"""DIA against its equations by plain loops, its start, and published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.linked.chain import Chain, Link
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, means, relu

WIDTHS = (256, 512, 1024, 2048)  # of the residual branches of a ResNet-50, stage by stage


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def matrix(layers, values):
    """Returns what the two layers make of values that stand for one matrix."""
    return linear(layers[2], relu(linear(layers[0], values)))


def walked(dia, images):
    """Returns the outputs of one cell for images (C, ...) of one chain, one after the other."""
    channels = len(images[0])
    hidden, cell, outputs = [0.0] * channels, [0.0] * channels, []
    for image in images:
        of_input, of_hidden = matrix(dia.of_input, means(image)), matrix(dia.of_hidden, hidden)
        gates = [a + b for a, b in zip(of_input, of_hidden, strict=True)]
        output = torch.empty_like(image)
        for c in range(channels):
            i, f, g, o = (gates[k * channels + c] for k in range(4))
            cell[c] = sigmoid(f) * cell[c] + sigmoid(i) * math.tanh(g)
            hidden[c] = sigmoid(o) * sigmoid(cell[c])
            output[c] = image[c] * hidden[c] * dia.gain
        outputs.append(output)
    return outputs


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (2, 3, 2)])
def test_one_cell_walks_through_all_places(init, size):
    dia = stir(make("dia", 7, rank=len(size), reduction=3, init=init).double())
    images = [torch.randn(2, 7, *size, dtype=torch.float64) for _ in range(4)]
    outputs = [dia(image) for image in images]
    for n in range(2):
        expected = walked(dia, [image[n] for image in images])
        torch.testing.assert_close([y[n] for y in outputs], expected, rtol=0, atol=1e-12)


def test_the_map_may_shrink_from_place_to_place():
    dia = stir(make("dia", 7, reduction=3).double())
    images = [torch.randn(1, 7, *size, dtype=torch.float64) for size in ((6, 4), (3, 2), (1, 1))]
    expected = walked(dia, [image[0] for image in images])
    torch.testing.assert_close([dia(x)[0] for x in images], expected, rtol=0, atol=1e-12)


def test_at_the_identity_start_every_place_is_open():
    dia = make("dia", 64, init="identity")
    assert "gain=4" in repr(dia)
    for _ in range(20):
        x = 3 * torch.randn(2, 64, 7, 5)
        assert torch.equal(dia(x), x)


def test_at_the_paper_start_a_gate_is_near_a_quarter():
    dia, x = make("dia", 64), torch.randn(8, 64, 7, 5)
    gates = torch.stack([dia(x) for _ in range(4)]) / x
    assert "gain=1" in repr(dia)
    assert gates.mean().item() == pytest.approx(0.25, abs=0.05)
    assert gates.max() < 0.6


@pytest.mark.parametrize(("channels", "reduction", "count"), [(64, 4, 10_784), (64, 16, 3_080)])
def test_parameters_of_a_cell(channels, reduction, count):
    assert lookup("dia").params(channels, reduction=reduction) == count
    assert params(make("dia", channels, reduction=reduction)) == count


@pytest.mark.parametrize(("reduction", "total"), [(4, 39_516_072), (20, 28_358_052)])
def test_totals_of_a_resnet50_with_a_cell_for_each_stage(reduction, total):
    card = lookup("dia")
    assert card.tied
    assert card.scope == "stage"
    assert RESNET50 + sum(card.params(c, reduction=reduction) for c in WIDTHS) == total


@pytest.mark.parametrize("places", [1, 2])
def test_without_a_second_place_the_matrix_of_the_hidden_state_cannot_learn(places):
    chain, dia = Chain(), make("dia", 64)
    x = torch.randn(2, 64, 7, 5)
    for link in [Link(dia, chain, place) for place in range(places)]:
        x = link(x)
    x.square().sum().backward()
    still = {name for name, p in dia.named_parameters() if not p.grad.any()}
    assert still == ({"of_hidden.0.weight"} if places == 1 else set())


def test_a_width_that_changes_within_a_chain_is_an_error():
    dia = make("dia", 64)
    dia(torch.randn(2, 64, 7, 5))
    with pytest.raises(RuntimeError, match="shapes"):
        dia(torch.randn(2, 32, 7, 5))


def test_a_squeeze_to_nothing_is_refused():
    with pytest.raises(MechanismError, match="reduction=4 leaves no hidden channel out of 3"):
        make("dia", 3)


def test_the_defaults_are_the_authors():
    assert dict(lookup("dia").args) == {"reduction": 4}
