"""The size of an input as a user gives it: a size, several of these, or one clear refusal."""

import pytest

from attnsurgeon.errors import ModelError
from attnsurgeon.sizes import MAX_ELEMENTS, MAX_SIDE, checked


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((3, 224, 192), (3, 224, 192)),
        ([3, 224, 192], (3, 224, 192)),
        ((1, 160_000), (1, 160_000)),  # ten seconds of sound
        ((1, 640, 640, 640), (1, 640, 640, 640)),  # a volume
        ([[3, 20, 28], [7]], ((3, 20, 28), (7,))),
        ([[3, 20, 28]], (3, 20, 28)),
        ((1, MAX_SIDE), (1, MAX_SIDE)),
    ],
)
def test_a_size_is_taken_as_it_is(given, size):
    assert checked(given) == size


@pytest.mark.parametrize(
    "given",
    [(), [], None, 7, "3,4", (7,), (3, 0, 5), (3, -1, 5), (3, 2.5, 5), (True, 3), ((3, 4), 5),
     (5, (3, 4)), ((),), ("ab", "cd"), {3: 4}, ("x", 3, 4), [3, "x"]],
)  # fmt: skip
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ModelError, match="is not a size") as caught:
        checked(given)
    assert "input_size=(3, 224, 224)" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "given",
    [(99_999_999_999, 1, 1), (1, MAX_SIDE + 1), (3, 20_000, 20_000), ((3, 4), (2, MAX_SIDE * 2)),
     (2, MAX_ELEMENTS // 2, 3), (10**30, 2)],
)  # fmt: skip
def test_a_size_beyond_any_image_is_refused_with_the_bound(given):
    with pytest.raises(ModelError, match="too large") as caught:
        checked(given)
    assert f"{MAX_ELEMENTS:,}" in (caught.value.hint or "")
