"""Sites: what each says of itself, in execution order, under one path each."""

import pytest
import torch
from torch import nn

from attnsurgeon.sites.site import ROLES, ModuleRef, Site
from tests.nets.blocks import C, ChannelsLast, Net, Plain, SharedRelu
from tests.nets.cases import CASES
from tests.nets.whole import Alone, Detector, Twice
from tests.surgery import paths, surveyed


def site(net: nn.Module, path: str) -> Site:
    return next(s for s in surveyed(net).sites if s.path == path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_paths_are_unique_and_in_order(case):
    found = surveyed(case.build(), case.size)
    assert len({s.path for s in found.sites}) == len(found.sites) == len(found.nodes)
    assert [s.index for s in found.sites] == sorted(s.index for s in found.sites)
    assert {role for s in found.sites for role in s.roles} <= set(ROLES)
    assert all(s.shape == found.nodes[s.path].meta["shape"] for s in found.sites)


def test_a_convolution_says_what_it_is():
    conv = site(Net(SharedRelu()), "blocks.0.conv2")
    assert conv.roles == {"conv", "block-conv"}
    assert (conv.type, conv.owner, conv.block) == ("Conv2d", "blocks.0", "blocks.0")
    assert (conv.kernel, conv.conv_stride, conv.groups, conv.depthwise) == (
        (3, 3),
        (1, 1),
        1,
        False,
    )
    assert (conv.channels, conv.layout, conv.shape) == (3, "NCHW", (2, 3, 13, 11))
    assert conv.resolution == (13, 11)
    assert conv.inside == (
        ModuleRef("blocks.0", "SharedRelu"),
        ModuleRef("blocks", "Sequential"),
        ModuleRef("", "Net"),
    )
    assert conv.follows == ("blocks.0.relu",)
    assert conv.precedes == ("blocks.0.bn2",)


def test_a_depthwise_convolution_is_told_from_a_grouped_one():
    assert site(Net(ChannelsLast()), "blocks.0.conv").depthwise
    grouped = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=3))
    assert (site(grouped, "1").groups, site(grouped, "1").depthwise) == (3, False)
    assert site(grouped, "0").depthwise is False  # three channels, one group


def test_only_convolutions_have_kernels():
    norm = site(Net(Plain()), "blocks.0.bn1")
    assert (norm.kernel, norm.conv_stride, norm.groups, norm.depthwise) == (None,) * 4


def test_a_functional_operation_is_named_by_its_owner_and_counted():
    found = surveyed(Net(Plain()))
    assert paths(found, "act") == ["blocks.0:relu", "blocks.0:relu#2"]
    (add,) = [s for s in found.sites if "residual-add" in s.roles]
    assert (add.path, add.owner, add.type) == ("blocks.0:add", "blocks.0", "add")
    assert paths(surveyed(Alone()), "act") == [":relu", ":relu#2"]


def test_further_runs_of_a_module_are_numbered_and_counted():
    found = surveyed(Net(SharedRelu()))
    acts = [s for s in found.sites if "act" in s.roles]
    assert [s.path for s in acts] == ["blocks.0.relu", "blocks.0.relu#2", "blocks.0.relu#3"]
    assert {s.calls for s in acts} == {3}
    assert paths(surveyed(Twice()), "conv") == [
        *("stem", "block.conv1", "block.conv2", "block.conv1#2", "block.conv2#2"),
    ]


def test_a_value_may_play_several_roles():
    end = site(Net(Plain(), Plain()), "blocks.1:relu#2")
    assert end.roles == {"act", "residual-block", "block", "stage", "head"}


def test_a_module_that_exists_for_one_operation_stands_for_it():
    class Norm2d(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    found = surveyed(nn.Sequential(nn.Conv2d(3, C, 1), Norm2d(C), nn.ReLU()))
    assert paths(found, "norm") == ["1"]
    (norm,) = [s for s in found.sites if s.path == "1"]
    assert (norm.layout, norm.channels, norm.type) == ("NCHW", C, "Norm2d")


def test_modules_inside_the_producer_are_listed():
    found = surveyed(Net(Plain(), Plain()))
    (block,) = [s for s in found.sites if s.path == "blocks.0:relu#2"]
    names = {ref.path for ref in block.has}
    assert {"blocks.0.conv1", "blocks.0.bn2", "blocks.0.down"} <= names
    assert "blocks.1.conv1" not in names


def test_pools_and_concatenations_are_sites_module_or_function():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, C, 1), nn.MaxPool2d(2)

        def forward(self, x):
            x = self.pool(self.conv(x))
            x = torch.cat([x, x.relu()], 1)
            return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    found = surveyed(Both())
    assert paths(found, "pool") == ["pool", ":adaptive_avg_pool2d"]
    assert paths(found, "concat") == [":cat"]
    (both,) = [s for s in found.sites if "concat" in s.roles]
    assert both.channels == 2 * C


def test_a_layer_on_constants_is_no_site():
    class Prompted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, C, 1), nn.Linear(2, C)
            self.prompt = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.conv(x) * self.fc(self.prompt)[:, None, None]

    assert paths(surveyed(Prompted()), "linear") == []


def test_a_module_that_stands_at_several_places_is_named_by_the_place_that_calls_it():
    net = Detector()
    assert net.down1.act is net.again.act
    found = surveyed(net, (3, 64, 48))
    units = ("down1", "down2", "down3", "mixed", "again")
    assert paths(found, "act") == [f"{unit}.act" for unit in units]
