"""The cost of a surgery from two weights: differences, percentages and each site's share."""

import pytest
import torch
from torch import nn

from attnsurgeon.cost.comparing import SiteCost, Surgery, compare
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.errors import UsageError
from attnsurgeon.recording.record import MARK


class Gate(nn.Module):
    """C + 1 parameters and, on C x H x W values, C MACs and one sum an element."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Linear(channels, 1)
        setattr(self, MARK, "inserted")

    def forward(self, x):
        return x + self.mix(x[:, :, 0, 0]).reshape(-1, 1, 1, 1)


class Network(nn.Module):
    """Two convolutions; a gate may follow each, one gate may follow both."""

    def __init__(self, *gates):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1, bias=False)
        self.second = nn.Conv2d(5, 5, 2, stride=2, bias=False)
        self.gates = nn.ModuleList(gates)

    def forward(self, x):
        x = self.first(x)
        x = self.gates[0](x) if len(self.gates) > 0 else x
        x = self.second(x)
        return self.gates[1](x) if len(self.gates) > 1 else x


def on(site: str, path: str) -> Surgery:
    return Surgery(site, path, (path,))


X = (torch.rand(1, 3, 22, 14),)
FIRST, SECOND = 22 * 14, 11 * 7
PARAMS = 15 + 100


def test_the_difference_and_its_percentages():
    cost = compare(weigh(Network(), X), weigh(Network(Gate(5)), X), [on("first", "gates.0")])
    assert (cost.before.params, cost.after.params) == (PARAMS, PARAMS + 6)
    before = FIRST * 15 + SECOND * 100
    assert cost.delta.macs == 5 + 5 * FIRST
    assert cost.delta.activations == 1
    assert cost.delta.params_percent == pytest.approx(100 * 6 / PARAMS)
    assert cost.delta.macs_percent == pytest.approx(100 * (5 + 5 * FIRST) / before)


def test_a_network_without_parameters_has_no_percentage_of_them():
    nothing = weigh(nn.ReLU(), X)
    assert compare(nothing, nothing, []).delta.params_percent is None
    assert compare(nothing, nothing, []).delta.params == 0


def test_every_site_bears_its_own_gate():
    after = weigh(Network(Gate(5), Gate(5)), X)
    cost = compare(weigh(Network(), X), after, [on("first", "gates.0"), on("second", "gates.1")])
    assert cost.per_site == (
        SiteCost("first", "gates.0", 6, 5 + 5 * FIRST, 1),
        SiteCost("second", "gates.1", 6, 5 + 5 * SECOND, 1),
    )
    assert sum(site.macs for site in cost.per_site) == cost.delta.macs


def test_a_gate_that_two_sites_share_is_borne_by_call_and_its_parameters_once():
    shared = Gate(5)
    after = weigh(Network(shared, shared), X)
    cost = compare(weigh(Network(), X), after, [on("first", "gates.0"), on("second", "gates.1")])
    assert cost.per_site == (
        SiteCost("first", "gates.0", 6, 5 + 5 * FIRST, 1),
        SiteCost("second", "gates.1", 0, 5 + 5 * SECOND, 1),
    )
    assert sum(site.params for site in cost.per_site) == cost.delta.params


def test_a_replacement_bears_the_difference_to_what_it_replaced():
    after = Network()
    after.second = nn.Conv2d(5, 5, 2, stride=2, bias=False, groups=5)
    cost = compare(weigh(Network(), X), weigh(after, X), [on("second", "second")])
    assert cost.per_site == (SiteCost("second", "second", 20 - 100, SECOND * (20 - 100), 0),)
    assert (cost.delta.params, cost.delta.macs) == (-80, -80 * SECOND)


def test_a_gate_that_never_runs_costs_its_parameters():
    after = Network(Gate(5), Gate(5), Gate(7))
    cost = compare(weigh(Network(), X), weigh(after, X), [on("first", "gates.2")])
    assert cost.per_site == (SiteCost("first", "gates.2", 8, 0, 0),)


def test_notes_name_what_is_counted_beyond_fvcore_and_uncounted_what_is_not():
    before, after = weigh(Network(), X), weigh(Network(Gate(5)), X)
    cost = compare(before, after, [on("first", "gates.0")])
    assert cost.notes == ("counted inside the inserted modules, one operation an element: add",)
    assert cost.uncounted == {}
    assert compare(before, before, []).notes == ()

    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    weight = weigh(attention, (torch.rand(1, 5, 8),))
    cost = compare(weight, weight, [])
    assert cost.notes == ("counted, though fvcore leaves it out: scaled_dot_product_attention",)
    assert "relu" in cost.uncounted


class Blurred(Gate):
    """The gate behind a convolution that keeps the size by `padding="same"`."""

    def __init__(self, channels):
        super().__init__(channels)
        self.blur = nn.Conv2d(channels, channels, 3, padding="same", groups=channels, bias=False)

    def forward(self, x):
        return super().forward(self.blur(x))


def test_an_inserted_convolution_is_not_told_as_element_wise_work():
    cost = compare(weigh(Network(), X), weigh(Network(Blurred(5)), X), [on("first", "gates.0")])
    assert cost.delta.macs == 9 * 5 * FIRST + 5 + 5 * FIRST
    assert cost.notes == (
        'counted, though fvcore leaves it out: conv with padding="same"',
        "counted inside the inserted modules, one operation an element: add",
    )


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"no module of the network is at 'gates\.3'"):
        compare(weigh(Network(), X), weigh(Network(Gate(5)), X), [on("first", "gates.3")])
