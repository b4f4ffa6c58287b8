"""Group counts and kernels: what is taken, and the refusals that name what would be."""

import pytest

from attnsurgeon.attention.kernels import kernel_along
from attnsurgeon.attention.partition import groups_of, most_groups
from attnsurgeon.errors import MechanismError


@pytest.mark.parametrize(
    ("channels", "limit", "parts", "most"),
    [(64, 64, 2, 32), (256, 64, 2, 64), (30, 8, 1, 6), (30, 8, 3, 5), (7, 4, 1, 1), (3, 9, 1, 3)],
)
def test_the_most_groups_up_to_a_limit(channels, limit, parts, most):
    assert most_groups(channels, limit, parts) == most
    assert groups_of(channels, most, parts=parts) == most


def test_groups_that_do_not_divide_are_refused_with_a_number_that_does():
    with pytest.raises(MechanismError) as error:
        groups_of(30, 4)
    assert error.value.what == "groups=4 do not divide 30 channels evenly"
    assert error.value.hint == "the largest number below that does is groups=3"


def test_channels_that_do_not_divide_at_all_are_refused():
    with pytest.raises(MechanismError, match="7 channels do not divide into 2 parts"):
        most_groups(7, 64, parts=2)


@pytest.mark.parametrize(
    ("k", "rank", "kernel"), [(7, 2, (7, 7)), (7, 3, (3, 7, 7)), (1, 3, (1, 1, 1))]
)
def test_a_kernel_spans_few_frames(k, rank, kernel):
    assert kernel_along(k, rank) == kernel
