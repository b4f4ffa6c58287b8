"""Lambda layers against their equation by loops, against timm's module, and the paper's total."""

import pytest
import torch
from timm.layers.lambda_layer import LambdaLayer
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.attention.shapes import CONV
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, params, stir
from tests.attention.convs.distances import at, places, pointwise, tile_means
from tests.attention.convs.oracle import normalised
from tests.attention.convs.sites import RESNET50, RESNET50_WIDTHS, conv3x3

NAMES = {
    "norm_q": "query_norm",
    "norm_v": "value_norm",
    "conv_lambda": "place",
    "pos_emb": "distances",
}


def made(rank, *, stride=1, **args):
    """Returns the mechanism in double precision, its parameters moved."""
    conv = CONV[rank](6, 8, 3, stride, 1, bias=False)
    return stir(create_attention("lambda", conv=conv, heads=2, depth=3, **args).double())


@torch.no_grad()
def by_loops(module, image, row):
    """Returns the map of one image in eval mode; `row` gives e of two positions, or None."""
    q, k, v = pointwise(module.qkv, image).split([2 * 3, 3, 4])
    q, v = normalised(module.query_norm, q), normalised(module.value_norm, v)
    everywhere = places(image.shape[1:])
    shares = k.flatten(1).exp() / k.flatten(1).exp().sum(1, keepdim=True)  # (3, P)
    y = torch.zeros(8, *image.shape[1:], dtype=image.dtype)
    for i in everywhere:
        function = torch.zeros(3, 4, dtype=image.dtype)
        for share, j in zip(shares.T, everywhere, strict=True):
            function += torch.outer(share, at(v, j))
            if row(i, j) is not None:
                function += torch.outer(row(i, j), at(v, j))
        if module.place is not None:
            function += module.place.bias[:, None]
        y[(slice(None), *i)] = torch.cat([head @ function for head in at(q, i).chunk(2)])
    return tile_means(y, module.stride)


@pytest.mark.parametrize(("size", "stride"), [((7,), 1), ((4, 5), 1), ((4, 5), 2), ((2, 3, 4), 1)])
def test_with_a_scope_only_near_positions_have_a_row(size, stride):
    module = made(len(size), stride=stride, scope=3).eval()

    def row(i, j):
        apart = tuple(b - a + 1 for a, b in zip(i, j, strict=True))
        near = all(0 <= d <= 2 for d in apart)
        return module.place.weight[(slice(None), 0, *apart)] if near else None

    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.stack([by_loops(module, image, row) for image in x])
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(5,), (4, 3), (2, 3, 2)])
def test_without_a_scope_every_distance_has_a_row(size):
    module = made(len(size), scope=None, size=size).eval()

    def row(i, j):
        return module.distances[tuple(b - a + n - 1 for a, b, n in zip(i, j, size, strict=True))]

    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.stack([by_loops(module, image, row) for image in x])
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_at_twice_the_size_every_second_distance_keeps_its_row():
    """On a map of 5 x 3, the middle of whose rows and columns lies on one of 3 x 2."""
    module = made(2, scope=None, size=(3, 2)).eval()

    def row(i, j):  # bilinear, the farthest staying the farthest
        down, right = (j[0] - i[0] + 4) / 2, (j[1] - i[1] + 2) / 2
        total = torch.zeros(3, dtype=torch.float64)
        for a in range(5):
            for b in range(3):
                share = max(0.0, 1 - abs(a - down)) * max(0.0, 1 - abs(b - right))
                total = total + share * module.distances[a, b]
        return total

    x = torch.randn(1, 6, 5, 3, dtype=torch.float64)
    expected = by_loops(module, x[0], row)[None]
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def timms(module, scope, size, stride):
    """Returns timm's module with the same parameters."""
    theirs = LambdaLayer(64, r=scope, feat_size=size, stride=stride).double()
    state = {}
    for name, value in theirs.state_dict().items():
        first, _, rest = name.partition(".")
        ours = ".".join(filter(None, (NAMES.get(first, first), rest)))
        state[name] = module.state_dict()[ours].reshape(value.shape)
    theirs.load_state_dict(state)
    return theirs


def by_name(module, grads):
    """Name, as ours, -> gradient."""
    found = {}
    for (name, _), grad in zip(module.named_parameters(), grads, strict=True):
        first, _, rest = name.partition(".")
        found[".".join(filter(None, (NAMES.get(first, first), rest)))] = grad.flatten()
    return found


@pytest.mark.parametrize("size", [(8, 6), (7, 7), (1, 5)])
@pytest.mark.parametrize("scope", [9, None])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_it_is_timms_with_all_gradients(size, scope, train):
    for stride in (1, 2) if size == (8, 6) else (1,):
        conv = nn.Conv2d(64, 64, 3, stride, 1)
        module = create_attention("lambda", conv=conv, scope=scope, size=size)
        module = stir(module.double()).train(train)
        theirs = timms(module, scope, size, stride).train(train)
        x = torch.randn(3, 64, *size, dtype=torch.float64)
        (y, (by_x, *ours)), (z, (by_z, *others)) = gradients(module, x), gradients(theirs, x)
        torch.testing.assert_close((y, by_x), (z, by_z), rtol=0, atol=1e-9)
        ours, others = by_name(module, ours), by_name(theirs, others)
        assert ours.keys() == others.keys()
        for name, grad in others.items():
            torch.testing.assert_close(ours[name], grad, rtol=0, atol=1e-9)
        # Of one image, timm's gradient is wrong on a CPU: torch's batch norm mistakes its strides.
        torch.testing.assert_close(module(x[:1]), theirs(x[:1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scope", [3, None])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_of_one_image_the_gradient_is_that_of_finite_differences(scope, train):
    conv = nn.Conv2d(8, 8, 3, 1, 1)
    module = create_attention("lambda", conv=conv, scope=scope, size=(3, 4), depth=5)
    module = stir(module.double()).train(train)
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    direction, step = torch.randn_like(x), 1e-6
    weights = torch.randn_like(module(x))

    def value(z):
        return (module(z) * weights).sum()

    (grad,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        apart = value(x + step * direction) - value(x - step * direction)
    expected = (apart / (2 * step)).item()
    assert (grad * direction).sum().item() == pytest.approx(expected, rel=1e-6)


def test_a_resnet50_of_lambda_layers_has_the_papers_number_of_parameters():
    convs = [conv3x3(width) for width in RESNET50_WIDTHS]
    added = sum(lookup("lambda").params(conv) for conv in convs)
    total = RESNET50 - sum(map(params, convs)) + added
    assert round(total / 1e6, 1) == 15.0  # k = 16, h = 4, u = 1, m = 23 x 23
    wider = [lookup("lambda").params(conv, depth=32) for conv in convs]
    assert round((total - added + sum(wider)) / 1e6, 1) == 15.4  # k = 32
    fewer = [lookup("lambda").params(conv, depth=8, heads=8) for conv in convs]
    assert round((total - added + sum(fewer)) / 1e6, 1) == 14.7  # k = 8, h = 8


def test_parameters_of_one_site():
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    layers = 64 * (64 + 16 + 16) + 2 * 64 + 2 * 16
    assert lookup("lambda").params(conv) == layers + 16 * 23 * 23 + 16
    assert lookup("lambda").params(conv, scope=None, size=(7, 5)) == layers + 16 * 13 * 9


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        ({"heads": 3}, "heads=3 do not divide 64 channels evenly", "heads=2"),
        ({"scope": 8}, "has no centre", "9"),
        ({"scope": None}, "size is missing", r"size=\(H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(args, what, hint):
    with pytest.raises(MechanismError, match=rf"{what}[\s\S]*hint: .*{hint}"):
        create_attention("lambda", conv=nn.Conv2d(64, 64, 3, padding=1), **args)
