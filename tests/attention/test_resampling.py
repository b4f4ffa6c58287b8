"""The pooling matrices against torch's own pooling and plain loops, and their products."""

import pytest
import torch
from torch.nn import functional as F

from attnsurgeon.attention.resampling import (
    adaptive,
    along,
    centred,
    channels_last,
    interpolate_to,
    linear,
    nearest,
    repeats,
    resized_to,
    tiles,
    times,
    windows,
)
from tests.attention.cases import FORMATS

double = {"rtol": 0, "atol": 1e-12}
LIKE = torch.empty(0, dtype=torch.float64)


def signal(length):
    return torch.randn(2, 3, length, dtype=torch.float64)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 13])
def test_adaptive_windows_are_torchs(length, parts):
    x = signal(length)
    expected = F.adaptive_avg_pool1d(x, parts)
    torch.testing.assert_close(x @ adaptive(length, parts, LIKE).T, expected, **double)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 60])
def test_tiles_are_torchs_pooling_with_a_last_window_that_may_be_smaller(length, size):
    x = signal(length)
    matrix = tiles(length, size, LIKE)
    means = [x[..., i : i + size].mean(-1) for i in range(0, length, size)]
    torch.testing.assert_close(x @ matrix.T, torch.stack(means, -1), **double)
    torch.testing.assert_close(
        means[-1], F.avg_pool1d(x, size, size, ceil_mode=True)[..., -1], **double
    )


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_windows_overlap_by_half_and_stay_inside(length, stride):
    x = signal(length)
    kernel, padding = 2 * stride - 1, stride - 1
    expected = F.avg_pool1d(x, kernel, stride, padding, count_include_pad=False)
    torch.testing.assert_close(x @ windows(length, stride, LIKE).T, expected, **double)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 28, 60])
def test_places_between_the_middles_of_parts_are_torchs_interpolation_without_aligned_corners(
    length, parts
):
    x = signal(parts)
    expected = F.interpolate(x, size=length, mode="linear", align_corners=False)
    torch.testing.assert_close(x @ centred(length, parts, LIKE).T, expected, **double)


def test_maps_are_resized_along_every_axis():
    x, like = torch.randn(2, 3, 4, 5, 2).double(), torch.empty(2, 3, 7, 5, 4).double()
    expected = F.interpolate(x, size=(7, 5, 4), mode="trilinear", align_corners=False)
    torch.testing.assert_close(resized_to(x, like), expected, **double)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 28, 60])
def test_places_between_two_parts_are_torchs_interpolation_with_aligned_corners(length, parts):
    z = signal(parts)
    expected = F.interpolate(z, length, mode="linear", align_corners=True)
    torch.testing.assert_close(z @ linear(length, parts, LIKE).T, expected, **double)


@pytest.mark.parametrize(("small", "large"), [((4, 3), (7, 6)), ((2, 4, 3), (3, 7, 3))])
@pytest.mark.parametrize("last", [False, True])
def test_a_map_is_interpolated_along_every_axis_in_the_layout_of_the_larger(small, large, last):
    layout = FORMATS[len(small)] if last else torch.contiguous_format
    z = torch.randn(2, 5, *small, dtype=torch.float64).to(memory_format=layout)
    like = torch.randn(2, 5, *large, dtype=torch.float64).to(memory_format=layout)
    mode = "bilinear" if len(small) == 2 else "trilinear"
    found = interpolate_to(z, like)
    expected = F.interpolate(z, large, mode=mode, align_corners=True)
    torch.testing.assert_close(found, expected, **double)
    assert found.is_contiguous(memory_format=layout) or not last
    assert interpolate_to(like, like) is like


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("parts", [1, 2, 4, 7])
def test_each_place_takes_the_value_of_the_part_it_lies_in(length, parts):
    z = signal(parts)
    expected = torch.stack([z[..., place * parts // length] for place in range(length)], -1)
    assert torch.equal(z @ nearest(length, parts, LIKE).T, expected)


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 56])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 60])
def test_each_place_takes_the_value_of_its_tile(length, size):
    z = signal((length + size - 1) // size)
    expected = z.repeat_interleave(size, -1)[..., :length]
    assert torch.equal(z @ repeats(length, size, LIKE).T, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_matrices_have_the_dtype_of_what_they_multiply_and_count_beyond_256(dtype):
    like = torch.empty(0, dtype=dtype)
    rows = tiles(1000, 300, like)
    assert rows.dtype == nearest(5, 3, like).dtype == dtype
    torch.testing.assert_close(rows[0, :300], torch.full((300,), 1 / 300).to(dtype))


@pytest.mark.parametrize("size", [(5, 3), (2, 5, 3), (1, 1), (4, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_one_axis_is_multiplied_and_the_layout_stays(size, last):
    rank = len(size)
    x = torch.randn(2, 7, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=FORMATS[rank]) if last else x
    for axis in range(2, 2 + rank):
        for out in (1, 2, 11):
            matrix = torch.randn(out, x.shape[axis], dtype=torch.float64)
            expected = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
            y = along(x, axis, matrix, like=x)
            torch.testing.assert_close(y, expected, **double)
            if channels_last(x):
                assert y.is_contiguous(memory_format=FORMATS[rank])


def test_the_layout_is_told_from_the_strides():
    x = torch.empty(2, 7, 5, 3)
    assert not channels_last(x)
    assert channels_last(x.contiguous(memory_format=torch.channels_last))
    assert not channels_last(torch.empty(2, 1, 5, 3))


@pytest.mark.parametrize("shape", [((4, 5), (3, 5)), ((4, 5), (7, 5)), ((2, 6, 4, 1), (6, 9, 1))])
def test_products_and_their_gradients(shape):
    x, matrix = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shape)
    torch.testing.assert_close(times(x, matrix), x @ matrix.mT, **double)
    assert torch.autograd.gradcheck(times, (x, matrix))
    assert torch.autograd.gradgradcheck(times, (x, matrix))


def test_a_fixed_matrix_is_all_that_a_product_keeps_for_the_backward():
    kept = []

    def pack(t):
        kept.append(tuple(t.shape))
        return t

    x = torch.randn(4, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        times(x, torch.randn(3, 5))
    assert kept == [(3, 5)]


def test_under_vmap():
    x, matrix = torch.randn(3, 4, 5), torch.randn(7, 5)
    y = torch.func.vmap(times, in_dims=(0, None))(x, matrix)
    torch.testing.assert_close(y, x @ matrix.T)
