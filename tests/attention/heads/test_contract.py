"""What every mechanism has to do that makes the scores of the classes."""

import pytest
import torch

from attnsurgeon.attention.registry import create_attention
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, SIZES, gradients, stir
from tests.attention.heads.cases import CASES, CLASSES
from tests.attention.whole import contract

TESTS = contract(CASES)
# These are here in words for scores, which have neither positions nor a layout.
for name in (
    "test_channels_last_gives_the_same_numbers_and_stays_channels_last",
    "test_one_instance_serves_two_resolutions_where_the_card_says_so",
    "test_only_a_mechanism_that_looks_at_positions_notices_their_order",
):
    del TESTS[name]
globals().update(TESTS)

each_head = pytest.mark.parametrize("case", CASES, ids=str)


@each_head
def test_channels_last_gives_the_same_numbers(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    expected, wanted = gradients(module, x)
    y, grads = gradients(module, x.to(memory_format=FORMATS[case.rank]))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grads, wanted, rtol=1e-12, atol=1e-12)


@each_head
def test_one_instance_serves_two_resolutions(case):
    module, size = stir(case.build().double().eval()), tuple(3 * n for n in SIZES[case.rank])
    x = case.input(dtype=torch.float64)
    larger = x
    for axis in range(2, x.dim()):  # each position three times: the same map, larger
        larger = larger.repeat_interleave(3, dim=axis)
    assert larger.shape[2:] == size
    assert case.card.resolution_free
    torch.testing.assert_close(module(larger), module(x), rtol=0, atol=1e-12)


@each_head
def test_the_order_of_positions_does_not_matter(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    order = torch.randperm(x[0, 0].numel())
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    shuffled[:, :CLASSES] = x[:, :CLASSES]  # the network's own scores
    torch.testing.assert_close(module(shuffled), module(x), rtol=0, atol=1e-12)
    assert not case.card.spatial


@each_head
def test_the_scores_depend_on_the_maps(case):
    module, x = stir(case.build().eval()), case.input()
    other = x.clone()
    other[:, CLASSES:] += 1
    assert not torch.allclose(module(other), module(x), atol=1e-3)


@each_head
def test_alone_the_number_of_classes_has_to_be_given(case):
    with pytest.raises(MechanismError, match=f"{case.card.name}: classes is missing"):
        create_attention(case.card.name, 32)
