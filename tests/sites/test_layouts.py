"""The channel axis of a value, carried through what happens to it; never guessed from sizes.

Each case is a convolution to five channels, so that axis 1 is known, and then one expression. The
spatial sizes are 5 and 7 again where a guess from sizes would go wrong.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnsurgeon.recording.trace import trace
from attnsurgeon.sites.flow import Flow
from attnsurgeon.sites.layouts import find_axes, layout_of


class After(nn.Module):
    """Five channels by a convolution, then an expression."""

    def __init__(self, expression):
        super().__init__()
        self.conv, self.expression = nn.Conv2d(3, 5, 1), expression
        self.mix, self.tokens = nn.Linear(5, 11), nn.Linear(35, 35)
        self.matrix = nn.Parameter(torch.ones(5, 11))
        self.norm_all, self.norm = nn.LayerNorm([5, 5, 7]), nn.LayerNorm(5)
        self.conv11 = nn.Conv2d(5, 12, 1)

    def forward(self, x):
        return self.expression(self, self.conv(x))


def layout_after(expression, size=(5, 7)) -> tuple:
    """(layout, channels) of what the expression makes of (2, 5, 5, 7)."""
    traced = trace(After(expression), (torch.empty(2, 3, *size, device="meta"),))
    find_axes(traced)
    (value,) = traced.root.outputs
    layout, _ = layout_of(value, traced.batch)
    return layout, layout and value.meta["shape"][layout.index("C")]


@pytest.mark.parametrize(
    ("expression", "layout", "channels"),
    [
        # element-wise, pooling, slicing of positions
        (lambda m, x: x.relu() * 2 + x, "NCHW", 5),
        (lambda m, x: F.avg_pool2d(x, 2), "NCHW", 5),
        (lambda m, x: x[:, :, ::2, 1:], "NCHW", 5),
        (lambda m, x: x * x.mean((2, 3), keepdim=True), "NCHW", 5),
        (lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 7), "NCHW", 5),
        (lambda m, x: x.mean((2, 3)), "NC", 5),
        (lambda m, x: x.norm(2, 3), "NCL", 5),
        (lambda m, x: x.norm(p=2, dim=(2, 3)), "NC", 5),
        (lambda m, x: x.max(3)[0], "NCL", 5),
        # moves
        (lambda m, x: x.permute(0, 2, 3, 1), "NHWC", 5),
        (lambda m, x: torch.permute(x, dims=(0, 2, 3, 1)), "NHWC", 5),
        (lambda m, x: x.transpose(1, 3).transpose(1, 2), "NHWC", 5),
        (lambda m, x: torch.transpose(x, dim0=1, dim1=3), "NHWC", 5),
        (lambda m, x: x.movedim(1, -1), "NHWC", 5),
        (lambda m, x: torch.movedim(x, source=(1, 2), destination=(3, 1)), "NHWC", 5),
        (lambda m, x: x.swapaxes(1, 3), "NHWC", 5),
        (lambda m, x: x.mT, "NCHW", 5),
        # reshapes
        (lambda m, x: x.flatten(2), "NCL", 5),
        (lambda m, x: x.flatten(2).transpose(1, 2), "NLC", 5),
        (lambda m, x: x.flatten(2).transpose(1, 2).reshape(2, 5, 7, 5), "NHWC", 5),
        (lambda m, x: x.unsqueeze(2), "NCDHW", 5),
        (lambda m, x: x[:, :, None, 0], "NCHW", 5),
        (lambda m, x: x.mean((2, 3), keepdim=True).squeeze(3), "NCL", 5),
        # indexing
        (lambda m, x: x[..., 0], "NCL", 5),
        (lambda m, x: x.select(-1, 0), "NCL", 5),
        (lambda m, x: x.permute(0, 2, 3, 1)[:, 0, :, None], "NHWC", 5),
        (lambda m, x: x[:, [0, 2]], None, None),
        (lambda m, x: x[:, torch.arange(3)], "NCHW", 3),
        (lambda m, x: x.unbind(2)[0], "NCL", 5),
        # parts and sums
        (lambda m, x: x.chunk(2, 1)[1], "NCHW", 2),
        (lambda m, x: torch.cat([x, x[:, :2]], 1), "NCHW", 7),
        (lambda m, x: torch.stack([x, x], 2), "NCDHW", 5),
        (lambda m, x: torch.stack([x, x], dim=-1), "NCDHW", 5),
        # stacked ahead of the batch, and as many as there are samples
        (lambda m, x: torch.stack([x, x]), None, None),
        (lambda m, x: torch.stack([x, x]).relu(), None, None),
        (lambda m, x: torch.stack([x, x]).sum(1), None, None),
        (lambda m, x: torch.stack([x, x])[:, 0], None, None),
        (lambda m, x: torch.stack([x, x]).flatten(3)[..., 0], None, None),
        (lambda m, x: torch.stack([x, x]).sum(dim=0), "NCHW", 5),
        (lambda m, x: torch.stack([x, x]).relu().mean((0, 3)), "NCL", 5),
        (lambda m, x: torch.stack([x, x])[0], "NCHW", 5),
        (lambda m, x: torch.stack([x, x]).unbind()[1], "NCHW", 5),
        (lambda m, x: torch.stack([x, x]).select(0, 1), "NCHW", 5),
        # a channel shuffle splits and merges the channels
        (lambda m, x: m.conv11(x).view(2, 3, 4, 5, 7), None, None),
        (
            lambda m, x: m.conv11(x).view(2, 3, 4, 5, 7).transpose(1, 2).reshape(2, 12, 5, 7),
            "NCHW",
            12,
        ),
        # what defines channels anew, and what only looks as if it did
        (lambda m, x: m.mix(x.permute(0, 2, 3, 1)), "NHWC", 11),
        (lambda m, x: m.tokens(x.flatten(2)), "NCL", 5),
        (lambda m, x: m.norm_all(x), "NCHW", 5),
        (lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), "NCHW", 5),
        (lambda m, x: F.pixel_shuffle(m.conv11(x), 2), "NCHW", 3),
        (lambda m, x: x.permute(0, 2, 3, 1) @ m.matrix, "NHWC", 11),
        # attention: rows are the queries', columns the values'
        (lambda m, x: x.flatten(2) @ x.flatten(2).transpose(1, 2), None, None),  # (N, C, C)
        (lambda m, x: x.flatten(2).mT @ x.flatten(2), None, None),
        (lambda m, x: (x.flatten(2).mT @ x.flatten(2)) @ x.flatten(2).mT, "NLC", 5),
        # einsum says by its letters what goes where, and 5 = 5 does not matter
        (lambda m, x: torch.einsum("nchw->nhwc", x), "NHWC", 5),
        (lambda m, x: torch.einsum("nchw->nhcw", x), None, None),
        (lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.matrix), "NCHW", 11),
        (lambda m, x: torch.einsum("nchw, nchv -> nhwv", x, x), None, None),
        # cut into windows, or flattened away
        (lambda m, x: x.reshape(14, 5, 5), None, None),
        (
            lambda m, x: x.view(2, 5, 7, 1, 5).permute(0, 2, 1, 3, 4).reshape(14, 5, 1, 5).relu(),
            None,
            None,
        ),
        (lambda m, x: x.flatten(1), None, None),
        (lambda m, x: x.sum(), None, None),
        # more samples, or others: both images of two, those that were chosen
        (lambda m, x: torch.cat([x, x.relu()]), "NCHW", 5),
        (lambda m, x: torch.cat([x, x.relu()]).chunk(4)[1], "NCHW", 5),
        (lambda m, x: m.conv11(x[:1]), "NCHW", 12),
        (lambda m, x: x[0], None, None),
        (lambda m, x: x.mean(0), None, None),
        (lambda m, x: x.repeat(1, 2, 1, 1), None, None),
    ],
)
def test_channels_are_carried_along(expression, layout, channels):
    assert layout_after(expression) == (layout, channels)


# Positions taken for channels: of (2, 35, 5) the rows are mixed, five channels each.
def mixed(x):
    rows = x.flatten(2).transpose(1, 2)
    return torch.cat([rows, rows]).reshape(4, 5, 35)[:2].reshape(2, 35, 5)


@pytest.mark.parametrize(
    ("expression", "layout"),
    [
        (lambda m, x, y: x.flatten(2).transpose(1, 2) + y, "NLC"),
        (lambda m, x, y: y - x.flatten(2).transpose(1, 2), "NLC"),
        (lambda m, x, y: x.flatten(2).transpose(1, 2) + F.dropout(y * 2), "NLC"),
        # a sum of what is lost, a product of matrices, a sum that is spread over the rows
        (lambda m, x, y: y + y.mul(2), None),
        (lambda m, x, y: x.flatten(2).transpose(1, 2) @ y.transpose(1, 2), None),
        (lambda m, x, y: x.flatten(2).transpose(1, 2) + y[:, :1], None),
    ],
)
def test_a_value_of_lost_axes_has_those_of_what_it_is_added_to(expression, layout):
    traced = trace(
        After(lambda m, x: expression(m, x, mixed(x))), (torch.empty(2, 3, 5, 7, device="meta"),)
    )
    find_axes(traced)
    lost = [n for n in Flow(traced).nodes if n.meta.get("name") == "reshape"][-1]
    assert layout_of(lost, traced.batch)[0] == layout


def test_the_input_itself_has_its_channels_on_axis_one():
    traced = trace(nn.Sequential(nn.ReLU()), (torch.empty(2, 3, 5, 7, device="meta"),))
    find_axes(traced)
    assert [layout_of(n, 2)[0] for n in Flow(traced).nodes] == ["NCHW", "NCHW"]


def test_windows_are_refused_with_the_reason():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 11)

        def forward(self, x):  # (2, 3, 6, 10) -> (2 * 3 * 2, 2 * 5, 3) windows of 2 x 5
            x = x.permute(0, 2, 3, 1).view(2, 3, 2, 2, 5, 3).transpose(2, 3)
            return self.fc(x.reshape(12, 10, 3))

    traced = trace(Windows(), (torch.empty(2, 3, 6, 10, device="meta"),))
    find_axes(traced)
    layout, why = layout_of(traced.root.outputs[0], traced.batch)
    assert layout is None
    assert why == "its first axis (12) is not the batch (2): cut into windows?"


def test_a_lost_axis_is_refused_with_the_reason():
    traced = trace(After(lambda m, x: x.flatten(1)), (torch.empty(2, 3, 5, 7, device="meta"),))
    find_axes(traced)
    assert layout_of(traced.root.outputs[0], 2) == (None, "its channel axis could not be shown")
