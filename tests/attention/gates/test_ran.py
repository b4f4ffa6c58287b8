"""RAN against the authors' graph written out with torch's own layers, and their counts."""

import pytest
import torch
from torch.nn import functional as F

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir

POOL = {2: F.max_pool2d, 3: F.max_pool3d}
CONV = {2: F.conv2d, 3: F.conv3d}
MODE = {2: "bilinear", 3: "trilinear"}


def lit(norm, z):
    return F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()


def unit(u, z, stride=1):
    """Returns what a pre-activation bottleneck makes of z."""
    conv = CONV[z.dim() - 2]
    first = lit(u.norm1, z)
    y = conv(first, u.conv1.weight)
    y = conv(lit(u.norm2, y), u.conv2.weight, stride=stride, padding=1)
    y = conv(lit(u.norm3, y), u.conv3.weight)
    return y + (z if u.project is None else conv(first, u.project.weight, stride=stride))


def pool(z):
    return POOL[z.dim() - 2](z, 3, 2, 1)


def back(z, like):
    return F.interpolate(z, like.shape[2:], mode=MODE[z.dim() - 2], align_corners=True)


def masked(ran, x, z):
    """Returns x * (1 + mask), the mask from z that has come back up."""
    conv, z = CONV[x.dim() - 2], back(z, x)
    z = conv(lit(ran.mask[0], z), ran.mask[2].weight)
    z = conv(lit(ran.mask[3], z), ran.mask[5].weight)
    return x * (1 + torch.sigmoid(z))


def build(depth, **args):
    return stir(make("ran", 8, depth=depth, **args).double().eval())


def pair(source=(2, 8, 13, 10), x=(2, 8, 13, 10)):
    return torch.randn(*x, dtype=torch.float64), torch.randn(*source, dtype=torch.float64)


def close(y, expected):
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_three_poolings_come_back_over_two_skips():
    ran, (x, s) = build(3), pair()
    one = unit(ran.down[0], pool(s))
    two = unit(ran.down[1], pool(one))
    three = unit(ran.bottom[0], unit(ran.down[2], pool(two)))
    z = unit(ran.up[0], back(three, two) + unit(ran.skip[0], two))
    z = unit(ran.up[1], back(z, one) + unit(ran.skip[1], one))
    close(ran(x, s), masked(ran, x, z))


def test_two_poolings_come_back_over_one_skip():
    ran, (x, s) = build(2), pair()
    one = unit(ran.down[0], pool(s))
    two = unit(ran.bottom[0], unit(ran.down[1], pool(one)))
    z = unit(ran.up[0], back(two, one) + unit(ran.skip[0], one))
    close(ran(x, s), masked(ran, x, z))


def test_one_pooling_comes_back_at_once():
    ran, (x, s) = build(1), pair()
    close(ran(x, s), masked(ran, x, unit(ran.bottom[0], unit(ran.down[0], pool(s)))))


def test_without_pooling_only_the_two_last_layers_are_left():
    ran, (x, s) = build(0), pair()
    close(ran(x, s), masked(ran, x, s))
    assert params(ran) == 2 * (2 * 8 + 8 * 8)


def test_clips_are_pooled_and_interpolated_along_every_axis():
    ran, (x, s) = build(1, rank=3), pair((2, 8, 5, 7, 6), (2, 8, 5, 7, 6))
    close(ran(x, s), masked(ran, x, unit(ran.bottom[0], unit(ran.down[0], pool(s)))))


@pytest.mark.parametrize("size", [(13, 10), (12, 9), (1, 1)])
def test_an_input_of_another_shape_goes_through_a_unit_first(size):
    ran = build(1, source_channels=5, stride=2)
    halved = tuple(-(-n // 2) for n in size)
    x, s = pair((2, 5, *size), (2, 8, *halved))
    z = unit(ran.enter, s, stride=2)
    assert z.shape == x.shape
    close(ran(x, s), masked(ran, x, unit(ran.bottom[0], unit(ran.down[0], pool(z)))))


def test_the_gradients_are_those_of_the_graph():
    ran, (x, s) = build(2), pair((2, 8, 7, 6), (2, 8, 7, 6))
    x, s = x.requires_grad_(), s.requires_grad_()
    one = unit(ran.down[0], pool(s))
    two = unit(ran.bottom[0], unit(ran.down[1], pool(one)))
    z = unit(ran.up[0], back(two, one) + unit(ran.skip[0], one))
    wanted = [x, s, *ran.parameters()]
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), wanted) for y in (ran(x, s), masked(ran, x, z))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_output_is_the_value_once_to_twice():
    x, s = torch.rand(2, 8, 7, 5) + 0.1, torch.randn(2, 8, 7, 5)
    share = make("ran", 8)(x, s) / x
    assert share.min() > 1
    assert share.max() < 2


# Parameters of the mask branches of Attention-56, counted in the authors' network definition.
@pytest.mark.parametrize(
    ("channels", "depth", "expected"),
    [(256, 3, 695_296), (512, 2, 1_926_656), (1024, 1, 4_335_616)],
)
def test_the_masks_of_the_authors_network_have_as_many_parameters(channels, depth, expected):
    assert lookup("ran").params(channels, depth=depth) == expected
    with torch.device("meta"):
        assert params(make("ran", channels, depth=depth)) == expected


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("args", [{"source_channels": 12}, {"stride": 2}, {"reduction": 2}])
def test_the_declared_number_of_parameters_holds_for_all_arguments(rank, args):
    for depth in (0, 1, 3):
        ran = make("ran", 16, rank=rank, depth=depth, **args)
        assert lookup("ran").params(16, rank=rank, depth=depth, **args) == params(ran)


def test_a_resnet50_with_one_a_stage_stays_below_twice_its_size():
    stages = ((256, 3), (512, 2), (1024, 1), (2048, 0))
    assert sum(lookup("ran").params(c, depth=d) for c, d in stages) == 15_354_368


@pytest.mark.parametrize(
    ("size", "depth"),
    [((56, 56), 3), ((55, 80), 2), ((28, 28), 2), ((14, 20), 1), ((7, 7), 0), ((2, 56, 56), 3)],
)
def test_a_plan_pools_as_often_as_the_authors_do_at_that_size(size, depth):
    args = lookup("ran").args_at(size, {}, source_channels=24, source_size=size)
    assert args == {"depth": depth, "source_channels": 24, "stride": 1}
    given = lookup("ran").args_at(size, {"depth": 1}, source_channels=24, source_size=size)
    assert given["depth"] == 1


@pytest.mark.parametrize(
    ("source", "size", "stride"),
    [((56, 56), (28, 28), (2, 2)), ((15, 9), (8, 5), (2, 2)), ((4, 14, 14), (4, 7, 7), (1, 2, 2))],
)
def test_a_plan_takes_the_stride_from_the_two_sizes(source, size, stride):
    args = lookup("ran").args_at(size, {}, source_channels=8, source_size=source)
    assert args["stride"] == stride
    ran = make("ran", 8, rank=len(size), **args)
    assert ran.enter(torch.randn(1, 8, *source)).shape[2:] == size


def test_tokens_are_refused():
    with pytest.raises(MechanismError, match="ran: here are tokens"):
        lookup("ran").args_at((196,), {}, source_channels=8, source_size=(196,))


def test_a_depth_that_the_authors_do_not_have_is_refused():
    with pytest.raises(MechanismError, match="depth=4 is not one of 0, 1, 2, 3"):
        make("ran", 8, depth=4)
