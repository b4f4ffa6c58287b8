"""What is a map of rank 1, what is a row of tokens, and which convolutions are of neither."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnsurgeon.recording.trace import trace
from attnsurgeon.rules.match import match_rules
from attnsurgeon.rules.placements import shipped
from attnsurgeon.sites.site import Site
from attnsurgeon.sites.survey import survey
from attnsurgeon.sites.tokens import is_line
from tests.nets.families import signals
from tests.surgery import paths, surveyed


def lines(net: nn.Module, size: tuple[int, ...]) -> dict[str, bool]:
    """Site path -> whether its value is a map of rank 1; of values with positions."""
    found = surveyed(net, size)
    with_layout = [s for s in found.sites if s.layout not in (None, "NC")]
    return {s.path: is_line(found.nodes[s.path], s.layout) for s in with_layout}


@pytest.mark.parametrize(
    ("net", "size"),
    [
        (signals.ResNet, (3, 256)),
        (signals.M5, (3, 2048)),
        (signals.Ecapa, (10, 97)),
        (signals.WaveNet, (3, 97)),
        (signals.Tcn, (3, 50)),
        (signals.UNet, (3, 96)),
    ],
)
def test_every_value_of_a_network_of_signals_is_a_map_of_rank_1(net, size):
    found = lines(net(), size)
    assert len(found) > 10
    assert all(found.values())


@pytest.mark.parametrize("net", [signals.ResNet, signals.M5, signals.UNet])
def test_a_network_has_the_sites_of_its_twin_of_images(net):
    length = 2048 if net is signals.M5 else 256
    line = surveyed(net(1), (3, length))
    image = surveyed(net(2), (3, length, length + 64))
    assert [(s.path, s.roles, s.stage) for s in line.sites] == [
        (s.path, s.roles, s.stage) for s in image.sites
    ]


def test_what_a_convolution_reads_is_a_map_too():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Conv1d(3, 5, 3))
    assert lines(net, (3, 20)) == {"0": True, "1": True, "2": True}
    assert lines(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), (3, 20)) == {"0": False, "1": False}


def test_tokens_made_by_convolutions_stay_tokens_and_stand_in_a_row():
    sites = {s.path: s for s in surveyed(signals.Transformer(), (3, 400)).sites}
    assert (sites["extract.3"].layout, sites["position"].layout) == ("NCL", "NCL")
    block = [site for path, site in sites.items() if path.startswith("layers")]
    assert {site.layout for site in block} == {"NLC"}
    assert {(site.grid, site.beside) for site in block} == {((39,), (1, 0))}
    found = lines(signals.Transformer(), (3, 400))
    assert found["extract.3"]
    assert found["position"]
    assert not any(line for path, line in found.items() if path.startswith("layers"))


def test_a_conformer_is_a_map_between_its_transposes_alone():
    found = lines(signals.Conformer(), (10, 60))
    assert [path for path, line in found.items() if line] == [
        *("point1", "depth", "bn", "act", "point2")
    ]
    residual = surveyed(signals.Conformer(), (10, 60))
    assert paths(residual, "residual-branch") == [":transpose#3"]


def test_electrodes_and_time_are_an_image():
    assert {s.layout for s in surveyed(signals.EEGNet(), (1, 14, 256)).sites} == {"NCHW", "NC"}


def taken(placement: str, net: nn.Module, size: tuple[int, ...]) -> list[str]:
    (found,) = match_rules(shipped(placement), surveyed(net, size).sites)
    return [site.path for site in found.sites]


def test_a_convolution_along_channels_or_across_rows_makes_no_map():
    found = {s.path: s for s in surveyed(signals.Efficient(), (3, 32, 32)).sites}
    assert (found["along"].layout, found["along"].shape) == ("NLC", (2, 1, 8))
    mixer = {s.path: s for s in surveyed(signals.Mixer(), (3, 12, 16)).sites}
    assert (mixer["across1"].layout, mixer["across2"].layout) == ("NLC", "NLC")
    assert mixer["across2"].grid == (3, 4)  # of the map they are added to


def test_a_pointwise_convolution_on_flattened_maps_leaves_tokens():
    class Flat(nn.Module):
        def __init__(self, kernel: int) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.mix = nn.Conv1d(8, 8, kernel, padding=kernel // 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(self.embed(x).flatten(2)).transpose(1, 2).relu()

    tokens = {s.path: s for s in surveyed(Flat(1), (3, 12, 16)).sites}
    assert tokens[":relu"].grid == (3, 4)
    assert not lines(Flat(1), (3, 12, 16))["mix"]
    assert lines(Flat(3), (3, 12, 16))["mix"]


def test_conv_takes_every_kernel_and_conv3x3_those_of_three():
    size = (3, 2048)
    assert taken("conv", signals.M5(), size) == ["conv1", "conv2", "conv3"]
    assert taken("conv3x3", signals.M5(), size) == ["conv2", "conv3"]
    assert taken("conv", signals.Efficient(), (3, 32, 32)) == ["conv"]
    assert taken("conv3x3", signals.Tcn(), (3, 50)) == [
        f"blocks.{i}.conv{j}" for i in range(3) for j in (1, 2)
    ]


def test_records_without_ranks_are_repeated_on_what_was_read_then():
    def old(net: nn.Module, *size: int) -> dict[str, Site]:
        found = survey(trace(net, (torch.empty(2, *size, device="meta"),)), lines=False)
        assert not any(is_line(found.nodes[site.path], site.layout) for site in found.sites)
        return {site.path: site for site in found.sites}

    block = old(signals.Transformer(), 3, 400)["layers.0.fc2"]
    assert (block.layout, block.grid, block.beside) == ("NLC", None, (0, 0))
    assert old(signals.Efficient(), 3, 32, 32)["along"].layout == "NCL"
    assert old(signals.ResNet(), 3, 256)["stem.0"].layout == "NCL"
