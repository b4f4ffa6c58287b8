"""Residual additions: found on every shape of block, and told from what only looks alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
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
from tests.nets.families.residuals import Reversible, U2NetP
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


@pytest.mark.parametrize(
    ("expression", "found", "refused"),
    [
        # A gate from half the resolution, and the same half added as it is.
        (lambda m, x: x + m.conv(x) * twice(m.other(half(x))).sigmoid(), [":add"], []),
        (lambda m, x: x + twice(m.bn(m.other(half(x)).relu())), [], [":add"]),
        # What comes back joins what stayed up, or what has no positions.
        (
            lambda m, x: x + m.conv(twice(m.other(half(x)).relu()) + m.bn(x)),
            *([":add#2"], [":add"]),
        ),
        (lambda m, x: x + twice(m.conv(half(x)).relu() * x.mean((2, 3), True)), [], [":add"]),
    ],
)
def test_a_branch_may_come_back_from_below_where_some_of_it_stays_up(expression, found, refused):
    survey = surveyed(Sum(expression), (3, 12, 16))
    assert paths(survey, "residual-add") == found
    assert survey.refused == dict.fromkeys(refused, "a term is upsampled: it merges resolutions")


def half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


class Hourglass(nn.Module):
    """Down and up again inside, with nothing but the shortcut that stays up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return x + twice(self.bn(self.conv(half(x)).relu()))


def test_a_block_may_work_below_where_the_network_goes_as_deep_behind_it():
    down = nn.Sequential(nn.Conv2d(C, C, 2, 2), nn.ReLU())
    behind = surveyed(Net(Hourglass(), down), (3, 12, 16))
    assert paths(behind, "residual-branch") == ["blocks.0:interpolate"]
    last = surveyed(Net(down, Hourglass()), (3, 12, 16))
    assert last.refused == {"blocks.1:add": "a term is upsampled: it merges resolutions"}


def test_a_shortcut_from_the_image_to_a_u_ends_no_block():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.above, self.below = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.last = nn.Conv2d(6, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            above = self.above(x).relu()
            below = twice(self.below(half(above)).relu())
            return x + self.last(torch.cat((above, below), 1))

    reason = "its shortcut is the image: it ends no block"
    assert surveyed(Whole(), (3, 12, 16)).refused == {":add": reason}


class Pair(nn.Module):
    """Two paths from one value, added."""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        self.one, self.two = paths

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


def step(kernel: int, *behind: nn.Module, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(C, C, kernel, 1, kernel // 2, groups=groups), *behind)


def norm() -> nn.Module:
    return nn.GroupNorm(1, C)


def act() -> nn.Module:
    return nn.ReLU()


@pytest.mark.parametrize(
    ("short", "found"),
    [
        (lambda: step(1, norm()), True),
        (lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), *step(1, norm())), True),
        (lambda: nn.Sequential(norm(), act(), *step(1)), True),
        (lambda: step(1, norm(), act()), True),
        (lambda: nn.Sequential(*step(3, norm(), act(), groups=C), *step(1, norm())), True),
        # Twins: as much work, no projection, a cell's pooling, a gate, twice normalised for others.
        (lambda: nn.Sequential(*step(3, norm(), act()), *step(1), *step(3)), False),
        (lambda: step(3, norm(), act()), False),
        (lambda: nn.Sequential(*step(1, act()), *step(1, act())), False),
        (lambda: step(1, act(), nn.MaxPool2d(3, 1, 1)), False),
        (lambda: step(1, nn.Sigmoid()), False),
        (lambda: nn.Sequential(norm(), *step(1, norm())), False),
    ],
)
def test_a_projection_is_a_shortcut_whatever_its_norm_and_activation(short, found):
    branch = nn.Sequential(*step(1, norm(), act()), *step(3, norm(), act()), *step(1, norm()))
    survey = surveyed(Net(Pair(short(), branch)))
    assert paths(survey, "residual-branch") == (["blocks.0.two.7"] if found else [])
    assert (survey.refused == {}) is found


class Attended(nn.Module):
    """BAM's sum: what channels say and what positions say, squashed to a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), *step(1, act()), *step(1))
        self.spatial = nn.Sequential(*step(1, act()), *step(3, act()), *step(3, act()), *step(1))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.channel(x).expand_as(x) + self.spatial(x)
        return x * gate.sigmoid()


def test_the_sum_of_two_gates_is_no_block():
    assert list(surveyed(Net(Attended())).refused) == ["blocks.0:add"]


def test_of_two_streams_each_branch_starts_at_the_other():
    found = surveyed(Net(reversible_block()), (3, 12, 16))
    assert [s.branch for s in found.sites if s.branch] == [("3x3",), ("3x3",)]
    first, second = found.residuals.values()
    assert second.source is first.add
    assert first.source is second.shortcut is not first.shortcut


def reversible_block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(C, 4, 1), Reversible(4), nn.Conv2d(4, C, 1))


class Hierarchy(nn.Module):
    """Res2Net's parts: what is made of one is added to the next, and neither goes on as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (step(3, norm(), act()) for _ in range(2))
        self.enter, self.leave = nn.Conv2d(C, 3 * C, 1), nn.Conv2d(3 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.enter(x).chunk(3, 1)
        one = self.first(one)
        two = self.second(two + one)
        return x + self.leave(torch.cat((one, two, three), 1))


def test_parts_that_are_added_to_the_next_are_no_streams():
    found = surveyed(Net(Hierarchy()))
    assert found.refused["blocks.0:add"] == "its terms are different parts of one value"


class Conditioned(nn.Module):
    """A condition joins the branch, and goes no further."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.one, self.two = nn.Conv2d(C, 2 * C, 1), step(3, act()), step(3, act())

    def forward(self, x: Tensor) -> Tensor:
        condition, own = self.split(x).chunk(2, 1)
        return own + self.two(condition + self.one(own))


def test_what_joins_a_branch_and_goes_no_further_is_no_stream():
    found = surveyed(Net(Conditioned()))
    assert paths(found, "residual-add") == ["blocks.0:add#2"]
    assert found.refused == {"blocks.0:add": "its terms are different parts of one value"}


def test_sums_inside_of_a_branch_are_its_own_matter_and_blocks_inside_a_long_shortcut_are_not():
    assert surveyed(Net(Hierarchy())).inside == {"blocks.0:add"}
    assert surveyed(Net(Excused())).inside == set()


class Excused(nn.Module):
    """A long shortcut around sums of two equal branches, each as wide as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Pair(step(3, act()), step(3, act())) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


def test_each_block_of_a_u_of_us_ends_a_branch():
    found = surveyed(U2NetP(), (3, 320, 320))
    down = [f"encoder.{i}.up.0.2" for i in range(6)]
    assert paths(found, "residual-branch") == [*down, *(f"decoder.{i}.up.0.2" for i in range(5))]
    assert found.refused == {}


class Told(nn.Module):
    """A block whose branch is told the time and a text, with a shortcut that is projected."""

    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(c_in, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.time, self.text = nn.Linear(4, c), nn.Linear(6, c)
        self.norm, self.shortcut = nn.BatchNorm2d(c), nn.Conv2d(c_in, c, 1)

    def forward(self, x, time, text):
        h = self.before(x).relu() + self.time(time)[:, :, None, None]
        told = torch.softmax(h.flatten(2).mT @ self.text(text).mT, -1) @ self.text(text)
        h = h + told.mT.unflatten(2, x.shape[2:])
        return self.shortcut(x) + self.after(self.norm(h).relu())


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Told(8, 12), Told(12, 16)])
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x, time, text):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, time, text)
        return self.out(h)


def test_what_a_branch_is_told_beside_the_image_takes_no_shortcut_away():
    example = (torch.randn(2, 3, 12, 10), torch.randn(2, 4), torch.randn(2, 5, 6))
    sites = attnsurgeon.find_sites(Diffusion(), example=example)
    found = [s.path for s in sites if "residual-branch" in s.roles]
    assert found == ["blocks.0.after", "blocks.1.after"]


class TwoImages(nn.Module):
    """Two images meet: neither is a shortcut of the other's."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x, other):
        return self.left(x) + self.right(other).relu()


def test_two_images_that_meet_are_no_block():
    example = (torch.randn(2, 3, 12, 10), torch.randn(2, 3, 12, 10))
    sites = attnsurgeon.find_sites(TwoImages(), example=example)
    assert not [s.path for s in sites if "residual-branch" in s.roles]
