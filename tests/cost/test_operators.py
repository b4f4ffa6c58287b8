"""Prices of single operators, worked by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from attnsurgeon.cost.operators import Price, price


def prices(compute, *, inserted=False):
    """Returns the prices of the operators that `compute` runs, in order."""
    found = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            found.append(price(func, args, kwargs or {}, out, inserted=inserted))
            return out

    with torch.inference_mode(), Mode():
        compute()
    return found


def empty(*shape):
    return torch.empty(*shape, device="meta")


X = empty(1, 6, 11, 7)


@pytest.mark.parametrize(
    ("compute", "macs", "activations"),
    [
        # every result of a convolution takes in_channels / groups x kernel products
        (lambda: F.conv2d(X, empty(10, 3, 3, 5), groups=2), 10 * 9 * 3 * (3 * 3 * 5), 10 * 9 * 3),
        (lambda: F.conv2d(X[0], empty(10, 6, 3, 5)), 10 * 9 * 3 * (6 * 3 * 5), 10 * 9 * 3),
        (lambda: F.conv1d(X[:, :, 0], empty(5, 6, 3)), 5 * 5 * 6 * 3, 5 * 5),
        (lambda: F.conv3d(X[None], empty(2, 1, 3, 3, 3)), 2 * 4 * 9 * 5 * 27, 2 * 4 * 9 * 5),
        # every input of a transposed one is multiplied by out_channels x kernel
        (
            lambda: F.conv_transpose2d(X, empty(6, 4, 2, 3), stride=2),
            6 * 11 * 7 * (4 * 2 * 3),
            4 * 22 * 15,
        ),
        (
            lambda: torch.convolution(X, empty(5, 6, 1, 1), None, [1], [0], [1], False, [0], 1),
            5 * 11 * 7 * 6,
            5 * 11 * 7,
        ),
        (lambda: F.linear(X, empty(13, 7)), 6 * 11 * 7 * 13, 6 * 11 * 13),
        (lambda: X @ empty(7, 13), 6 * 11 * 7 * 13, 6 * 11 * 13),
        (lambda: empty(5, 7) @ empty(7), 5 * 7, 5),
        (lambda: torch.addmm(empty(3), empty(2, 5), empty(5, 3)), 2 * 5 * 3, 2 * 3),
        (lambda: torch.bmm(empty(4, 2, 5), empty(4, 5, 3)), 4 * 2 * 5 * 3, 4 * 2 * 3),
        (lambda: torch.einsum("nct,ncd->ntd", X[0], X[0]), 6 * 11 * 7 * 7, 6 * 7 * 7),
        # and these are fvcore's estimates a value, as its documentation of handlers gives them
        (lambda: F.group_norm(X, 3, empty(6), empty(6)), 5 * 6 * 11 * 7, 0),
        (lambda: F.interpolate(X, size=(5, 3), mode="bilinear"), 4 * 6 * 5 * 3, 0),
        (lambda: F.adaptive_avg_pool2d(X, 1), 6 * 11 * 7, 0),
    ],
)
def test_fvcore_prices_are_those_of_the_arithmetic(compute, macs, activations):
    (found,) = [p for p in prices(compute) if p is not None]
    assert (found.macs, found.activations, found.beyond) == (macs, activations, False)


@pytest.mark.parametrize(
    ("compute", "macs", "activations"),
    [
        # queries (5) meet keys (11) over 7 features, then weigh values of 3 features
        (
            lambda: F.scaled_dot_product_attention(
                empty(2, 4, 5, 7), empty(2, 4, 11, 7), empty(2, 4, 11, 3)
            ),
            2 * 4 * 5 * 11 * (7 + 3),
            2 * 4 * 5 * 3,
        ),
        (
            lambda: torch.baddbmm(empty(4, 2, 3), empty(4, 2, 5), empty(4, 5, 3)),
            4 * 2 * 5 * 3,
            4 * 2 * 3,
        ),
        (
            lambda: F.conv2d(X, empty(10, 6, 3, 5), padding="same"),
            10 * 11 * 7 * (6 * 3 * 5),
            10 * 11 * 7,
        ),
    ],
)
def test_matrix_products_that_fvcore_leaves_out_are_priced_and_marked(compute, macs, activations):
    (found,) = [p for p in prices(compute) if p is not None]
    assert (found.macs, found.activations, found.beyond) == (macs, activations, True)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: X.reshape(6, -1),
        lambda: X.permute(0, 2, 3, 1).contiguous(),
        lambda: X.chunk(2, 1),
        lambda: X.flatten(1).unsqueeze(0).expand(3, 1, 462),
        lambda: torch.cat([X, X]),
        lambda: F.pad(X, (1, 2)),
        lambda: F.dropout(X, training=False),
        lambda: torch.arange(9, device="meta"),
        lambda: X.clone().zero_(),
    ],
)
@pytest.mark.parametrize("inserted", [False, True])
def test_moving_data_costs_nothing_and_is_not_named(compute, inserted):
    assert set(prices(compute, inserted=inserted)) == {None}


@pytest.mark.parametrize(
    ("name", "compute", "elements"),
    [
        ("mean", lambda: X.mean((2, 3)), 6 * 11 * 7),
        ("amax", lambda: X.amax((2, 3)), 6 * 11 * 7),
        ("var", lambda: X.var((2, 3)), 6 * 11 * 7),
        ("sigmoid", lambda: X.sigmoid(), 6 * 11 * 7),
        ("mul", lambda: X * empty(1, 6, 1, 1), 6 * 11 * 7),
        ("mul", lambda: empty(6, 1) * empty(1, 5), 6 * 5),
        ("add", lambda: empty(6, 3).add_(1), 6 * 3),
        ("softmax", lambda: X.softmax(1), 6 * 11 * 7),
        ("avg_pool2d", lambda: F.avg_pool2d(X, 3, 2), 6 * 5 * 3 * 9),
        ("max_pool2d", lambda: F.max_pool2d(X, (3, 2)), 6 * 3 * 3 * 6),
    ],
)
def test_elements_have_a_price_inside_inserted_modules_only(name, compute, elements):
    assert prices(compute, inserted=True)[-1] == Price(name, elements, beyond=True)
    assert prices(compute, inserted=False)[-1] == Price(name, None)


def test_what_nothing_prices_is_named_inside_inserted_modules_too():
    assert prices(lambda: torch.fft.rfft2(X), inserted=True) == [Price("fft_rfft2", None)]


def test_a_shape_that_fvcores_handler_refuses_is_named_and_not_guessed():
    six = empty(2, 2, 2, 2, 2, 3)
    assert prices(lambda: F.layer_norm(six, (3,))) == [Price("layer_norm", None)]
    assert prices(lambda: F.layer_norm(six[0], (3,)))[-1] == Price("layer_norm", 4 * 48)
