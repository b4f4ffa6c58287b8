"""Who depends on whom, and what single operations are."""

import torch
import torch.nn.functional as F
from torch import nn

from attnsurgeon.recording.record import Traced
from attnsurgeon.recording.trace import trace
from attnsurgeon.sites.flow import Flow, bends, calls_making, convolution_of, is_weighted, name_of
from tests.nets.blocks import Net, Plain


def flow_of(net: nn.Module, *size: int) -> tuple[Traced, Flow]:
    traced = trace(net, (torch.empty(2, *(size or (3, 13, 11)), device="meta"),))
    return traced, Flow(traced)


class Diamond(nn.Module):
    """x -> a -> (b, c) -> b + c, and one constant beside it."""

    def forward(self, x):
        a = x.relu()
        return a.sigmoid() + a.tanh() + torch.ones(3, 1, 1)


def test_values_without_the_input_in_them_are_left_out():
    _, flow = flow_of(Diamond())
    assert [name_of(n) for n in flow.nodes] == [
        *("placeholder", "relu", "sigmoid", "tanh", "add", "add"),
    ]


def test_reaching_and_between_follow_the_paths():
    _, flow = flow_of(Diamond())
    x, a, b, c, both, _ = flow.nodes
    assert flow.reaches(x, both)
    assert flow.reaches(b, b)
    assert not flow.reaches(b, c)
    assert not flow.reaches(both, a)
    assert flow.between(a, both) == [b, c, both]
    assert flow.between(b, both) == [both]


def test_every_path_passes_the_dominators():
    _, flow = flow_of(Diamond())
    x, a, b, c, both, last = flow.nodes
    assert flow.dominators(last) == [x, a, both, last]
    assert flow.common_dominator([b, c]) is a
    assert flow.common_dominator([b, last]) is a


def test_two_inputs_have_no_dominator_in_common():
    class Two(nn.Module):
        def forward(self, given):
            return given[0] + given[1]

    traced = trace(Two(), ([torch.empty(2, 3, device="meta"), torch.empty(2, 3, device="meta")],))
    flow = Flow(traced)
    assert flow.common_dominator(flow.nodes[:2]) is None
    assert flow.dominators(flow.nodes[2]) == [flow.nodes[2]]


def test_convolutions_tell_kernel_stride_groups_and_depthwise():
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(6, 3, 3, 5))

        def forward(self, x):
            x = F.conv2d(x, self.w, stride=2, padding=(1, 2))
            x = F.conv2d(x, torch.ones(6, 1, 1, 3), None, (1, 2), 1, 1, 6)
            return F.conv_transpose2d(x, torch.ones(6, 2, 2, 3), None, 2, 0, 0, 3)

    _, flow = flow_of(Convolutions())
    found = [convolution_of(n) for n in flow.nodes]
    assert found[0] is None
    assert [(c.kernel, c.stride, c.groups, c.depthwise) for c in found if c] == [
        ((3, 5), (2, 2), 1, False),
        ((1, 3), (1, 2), 6, True),
        ((2, 3), (2, 2), 3, False),
    ]


def test_a_convolution_of_weights_alone_is_none_of_the_data():
    class Composed(nn.Module):
        def forward(self, x):
            kernel = F.conv2d(torch.ones(5, 3, 3, 3), torch.ones(3, 3, 1, 1))
            return F.conv2d(x, kernel)

    _, flow = flow_of(Composed())
    assert [name_of(n) for n in flow.nodes if is_weighted(n)] == ["conv2d"]


def test_products_of_two_values_bend_and_products_with_weights_do_not():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(11, 5))

        def forward(self, x):
            return (x @ self.w) * 2 @ x.sum((2, 3), keepdim=True).expand(-1, -1, 5, 2) + 1

    _, flow = flow_of(Products())
    assert [(name_of(n), bends(n), is_weighted(n)) for n in flow.nodes[1:]] == [
        ("matmul", False, True),
        ("mul", False, False),
        ("sum", False, False),
        ("expand", False, False),
        ("matmul", True, False),
        ("add", False, False),
    ]


def test_the_calls_that_make_a_value_are_those_with_no_other_output():
    traced, _ = flow_of(Net(Plain()))
    (last,) = traced.calls["blocks.0"][0].outputs
    assert [call.path for call in calls_making(last)] == ["blocks.0", "blocks"]
    (norm,) = traced.calls["blocks.0.bn2"][0].outputs
    assert [call.path for call in calls_making(norm)] == ["blocks.0.bn2"]
