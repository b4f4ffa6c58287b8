"""Residual additions: found on every shape of block, and told from what only looks alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsurgeon.sites.residuals import branch_kinds
from tests.nets.blocks import (
    Assigning,
    C,
    ChannelsLast,
    Excited,
    Net,
    Plain,
    PreActivated,
    Scaled,
    SharedRelu,
)
from tests.nets.cases import CASES
from tests.nets.rebuilding import Branched
from tests.nets.tokens import Mixer, Parallel, Rotated, Token, Tokens
from tests.nets.whole import AdditiveUNet, TopDown
from tests.surgery import paths, surveyed

TOKENS = (3, 12, 10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_branches_and_blocks_are_those_that_a_reader_finds(case):
    found = surveyed(case.build(), case.size)
    assert paths(found, "residual-branch") == list(case.branches)
    assert paths(found, "residual-block") == list(case.blocks)
    branches = [site for site in found.sites if "residual-branch" in site.roles]
    assert all(site.layout == case.layout for site in branches)
    if case.channels:
        assert all(site.channels == case.channels for site in branches)


@pytest.mark.parametrize(
    ("net", "size", "refused"),
    [
        (lambda: Net(Branched()), (3, 13, 11), {"blocks.0:add#2": "it has no shortcut"}),
        (
            AdditiveUNet,
            (3, 13, 11),
            {":add": "a term is upsampled", ":add#2": "a term is upsampled"},
        ),
        (TopDown, (3, 13, 11), {":add": "a term is upsampled"}),
        (
            lambda: Tokens(Rotated()),
            TOKENS,
            {"blocks.0.att:add": "it has no shortcut", "blocks.0.att:add#2": "it has no shortcut"},
        ),
        (lambda: Tokens(Token()), TOKENS, {}),
        (lambda: Net(Plain()), (3, 13, 11), {}),
    ],
)
def test_other_sums_are_refused_with_the_reason(net, size, refused):
    found = surveyed(net(), size).refused
    assert list(found) == list(refused)
    assert all(found[path].startswith(reason) for path, reason in refused.items())


class Sum(nn.Module):
    """A stem of three channels, and then one expression with two convolutions at hand."""

    def __init__(self, expression):
        super().__init__()
        self.stem, self.conv, self.other = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.bn, self.expression = nn.BatchNorm2d(3), expression
        self.position = nn.Parameter(torch.ones(3, 13, 11))

    def forward(self, x):
        return self.expression(self, self.stem(x))


@pytest.mark.parametrize(
    ("expression", "branches"),
    [
        (lambda m, x: x + m.conv(x).relu(), [":relu"]),
        (lambda m, x: torch.add(m.bn(m.conv(x.relu())), x), ["bn"]),
        (lambda m, x: sum([x, m.conv(x).relu()]), [":relu"]),
        (lambda m, x: x + 0.2 * m.conv(x).relu(), [":relu"]),
        (lambda m, x: m.other(x) + m.conv(m.bn(x)).relu() * 1, []),  # as many weights either way
        (lambda m, x: m.other(x) + m.bn(m.conv(m.conv(x).relu())), ["bn"]),
        (lambda m, x: x + m.conv(x).relu() + m.other(x).sigmoid(), [":relu", ":sigmoid"]),
        (lambda m, x: x + m.conv(x), []),  # linear: a re-parameterisation branch
        (lambda m, x: x + m.position, []),
        (lambda m, x: x + x.relu(), []),  # no weights
        (lambda m, x: x + 1, []),
        (lambda m, x: x - m.conv(x).relu(), []),
        (lambda m, x: m.conv(x).relu() + m.other(x).relu(), []),
        (lambda m, x: (x + m.conv(x).relu()).mean((2, 3)) + x.mean((2, 3)), [":relu"]),
    ],
)
def test_a_sum_is_residual_by_what_its_terms_are(expression, branches):
    assert paths(surveyed(Sum(expression)), "residual-branch") == branches


def test_parts_of_one_value_are_no_shortcut_and_branch():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 10, 1), nn.Conv2d(5, 5, 3, padding=1)

        def forward(self, x):
            left, right = self.stem(x).chunk(2, 1)
            return left + self.conv(right).relu()

    found = surveyed(Halves())
    assert found.refused == {":add": "its terms are different parts of one value"}


def test_values_of_different_inputs_are_not_judged_as_blocks():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, given):
            return given["a"] + self.conv(given["b"]).relu()

    from attnsurgeon.recording.trace import trace
    from attnsurgeon.sites.survey import survey

    x = torch.empty(2, 3, 5, 7, device="meta")
    found = survey(trace(Two(), ({"a": x, "b": x.clone()},)))
    assert found.refused == {":add": "its terms come from different inputs"}


@pytest.mark.parametrize(
    ("block", "kinds"),
    [
        (Plain, [("3x3", "3x3")]),
        (PreActivated, [("3x3", "3x3")]),
        (SharedRelu, [("1x1", "3x3", "1x1")]),
        (Scaled, [("3x3", "3x3")]),
        (Assigning, [("3x3", "3x3")]),
        (Excited, [("3x3", "3x3")]),  # the gate's convolutions see one position: beside the branch
        (ChannelsLast, [("dw3x3", "linear", "linear")]),
    ],
)
def test_the_convolutions_along_a_branch_are_named_in_order(block, kinds):
    found = surveyed(Net(block()))
    assert [s.branch for s in found.sites if "residual-branch" in s.roles] == kinds


@pytest.mark.parametrize(
    ("block", "kinds"),
    [
        (Token, [("linear", "linear"), ("linear", "linear")]),
        (Parallel, [("linear", "linear"), ("linear", "linear")]),
        (lambda: Mixer(30), [("linear",), ("linear", "linear")]),
    ],
)
def test_the_layers_along_a_branch_of_tokens_are_named_in_order(block, kinds):
    found = surveyed(Tokens(block()), TOKENS)
    assert [s.branch for s in found.sites if "residual-branch" in s.roles] == kinds


def test_source_and_shortcut_are_those_of_the_block():
    found = surveyed(Net(Plain(5, 11, 2), width=11))
    (residual,) = found.residuals.values()
    stem, down = found.nodes["stem"], found.nodes["blocks.0.down.1"]
    assert (residual.source, residual.shortcut) == (stem, down)
    assert residual.branches == (found.nodes["blocks.0.bn2"],)
    assert branch_kinds(residual, down, found.flow) == ("1x1",)


def test_a_branch_may_hold_an_operation_of_several_results():
    """nn.MultiheadAttention makes a tuple: its values and its weights."""

    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.fc = nn.MultiheadAttention(C, 1, batch_first=True), nn.Linear(C, C)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            made = F.gelu(self.fc(self.attend(tokens, tokens, tokens)[0]))
            return x + made.transpose(1, 2).reshape(x.shape)

    found = surveyed(Net(Attended()))
    assert [site.branch for site in found.sites if site.branch] == [("linear", "linear")]
